"""Names of functions and networks that are the same in every process."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

import torch
from torch import nn


def owner_of(function: object) -> nn.Module | None:
    """Return the module that a callable is, or that it is a bound method of; None for other callables."""
    owner = getattr(function, "__self__", function)
    return owner if isinstance(owner, nn.Module) else None


def name_of(function: object) -> str:
    """Name a callable without its address in memory; a module with a digest of its structure and weights.

    Results of two networks must not be taken for those of one.

    Example:
        >>> name_of(len), name_of(nn.Identity()).partition("-")[0]
        ('len', 'Identity')
    """
    if isinstance(function, functools.partial):
        function = function.func
    name = str(getattr(function, "__qualname__", type(function).__name__))
    owner = owner_of(function)
    if owner is None:
        return name
    digest = hashlib.blake2b(str(owner).encode(), digest_size=4)
    for part in weights_of(owner):
        digest.update(part)
    return f"{name}-{digest.hexdigest()}"


def weights_of(module: nn.Module) -> Iterator[bytes]:
    """Yield a module's parameters and buffers, sorted by name, as bytes to hash."""
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            yield name.encode()
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
