"""The l_p distance of flattened outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance

# An l2 distance below this may have lost differences whose squares are no normal float64 any more.
_SQUARES_VANISH = 1e-140


class Lp(Distance):
    """||a - b||_p of flattened outputs, a metric for p >= 1.

    Args:
        p: in [1, inf].

    Example:
        >>> import torch
        >>> Lp(2)(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([5.], dtype=torch.float64)
    """

    def __init__(self, p: float = 2.0) -> None:
        if not p >= 1.0:
            raise ValueError(f"p must lie in [1, inf], got {p!r}")
        self.p = float(p)

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        if self.p in (1.0, math.inf):
            return torch.cdist(a, b, p=self.p)
        if self.p == 2.0:
            distances = torch.cdist(a, b, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")
            if not bool((distances < _SQUARES_VANISH).any()):
                return distances
        largest = torch.cdist(a, b, p=math.inf)
        return torch.stack([self._scaled(a - row, scale) for row, scale in zip(b, largest.T, strict=True)], dim=1)

    def _scaled(self, difference: Tensor, largest: Tensor) -> Tensor:
        """(N, D), (N,) -> (N,): the norm, with powers of numbers in [0, 1] only, so that none is lost."""
        scale = torch.where(largest > 0.0, largest, 1.0)
        return scale * (difference / scale[:, None]).abs().pow(self.p).sum(dim=1).pow(1.0 / self.p)
