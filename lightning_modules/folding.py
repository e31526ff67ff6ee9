"""Batch norm in eval mode is an affine map: it can be put into the layer before it."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Exact classes only: a subclass, such as that of a parametrised layer, may compute something else.
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = dict(
    zip((nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED), _NORMS * 2, strict=True)
)


def fold_batch_norm(module: ModuleT) -> ModuleT:
    """Copy a module with batch norm made part of the layer before it; the same function, up to rounding.

    In each ``nn.Sequential``, however deep inside the module, this concerns batch norm in eval mode with running
    statistics that directly follows a convolution, a transposed convolution, or a linear layer that directly follows
    ``nn.Flatten()``. An ``nn.Identity`` takes its place. All else is left alone: batch norm in training mode; other
    linear layers, since batch norm of (N, L, C) normalises L and not C; transposed convolutions with groups; layers
    with hooks or parametrisations. The module must call its parts one after the other, and pick none out of an
    ``nn.Sequential``.
    """
    module = copy.deepcopy(module)
    for part in module.modules():
        if type(part).forward is nn.Sequential.forward:
            _fold(part)
    return module


def _fold(sequence: nn.Module) -> None:
    """Fold the direct children of an ``nn.Sequential`` in place."""
    flat = False
    for first, second in pairwise(sequence._modules):
        layer, norm = sequence._modules[first], sequence._modules[second]
        if layer is not None and norm is not None and _can_fold(layer, norm, flat=flat):
            sequence._modules[first], sequence._modules[second] = _fused(layer, norm), nn.Identity()
        flat = type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)


def _can_fold(layer: Any, norm: Any, *, flat: bool) -> bool:  # noqa: ANN401  # layers by their class
    """Return whether both are linear maps of the same channels, and nothing else. ``flat``: the layer gets (N, D)."""
    convolves = type(layer) in _CONVOLUTIONS and type(norm) is _CONVOLUTIONS[type(layer)]
    if not (convolves or (flat and type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d)):
        return False
    if type(layer) in _TRANSPOSED and layer.groups > 1:  # PyTorch's function takes their weights for others
        return False
    fixed = not norm.training and norm.running_mean is not None
    return fixed and not any(each._forward_hooks or each._forward_pre_hooks for each in (layer, norm))


def _fused(layer: Any, norm: Any) -> nn.Module:  # noqa: ANN401  # of the classes of _can_fold
    """Copy the layer with the batch norm in it."""
    layer = copy.copy(layer).eval()  # convolutions and linear layers do the same in both modes, but PyTorch asks
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    return fuse_conv_bn_eval(layer, norm, transpose=type(layer) in _TRANSPOSED)
