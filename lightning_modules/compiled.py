"""A base function compiled by torch.compile."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
# PyTorch has other convolutions for smaller batches on a single thread, and takes the sizes 0 and 1 for constants.
_MIN_BATCH = 16


class CompiledModel(nn.Module):
    """A base model behind ``torch.compile``; it shares the model's parameters, and moves when the model moves.

    It is compiled at the first call, once for all batch sizes: the last batch of a stage is smaller than the others,
    and to fill it up would cost evaluations. Only batches of fewer than 16, for which PyTorch would compile again, are
    filled up.

    Args:
        model: the base model, (N, *in) -> (N, *out).
        mode: of ``torch.compile``; "reduce-overhead" uses CUDA graphs where there is CUDA.
        backend: of ``torch.compile``.
    """

    def __init__(self, model: nn.Module, mode: CompileMode = "default", *, backend: str = "inductor") -> None:
        super().__init__()
        if mode not in get_args(CompileMode):
            raise ValueError(f"mode must be one of {', '.join(get_args(CompileMode))}, got {mode!r}")
        # other backends know no modes
        options: dict[str, Any] = {"mode": mode} if backend == "inductor" else {}
        self.compiled = torch.compile(model, dynamic=True, backend=backend, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the base function: (N, *in) -> (N, *out)."""
        missing = max(0, _MIN_BATCH - len(x))
        # a tensor of its own in any case: for a view of another PyTorch would compile again
        return self.compiled(torch.cat([x, x[:1].expand(missing, *x.shape[1:])]))[: len(x)]
