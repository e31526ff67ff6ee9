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

    convex = True

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
            vanishing = distances < _SQUARES_VANISH
            for column in vanishing.any(dim=0).nonzero()[:, 0].tolist():
                rows = vanishing[:, column]
                distances[rows, column] = self._scaled(a[rows] - b[column])
            return distances
        return torch.stack([self._scaled(a - row) for row in b], dim=1)

    def _scaled(self, difference: Tensor) -> Tensor:
        """(N, D) -> (N,): the norm, with powers of numbers in [0, 1] only, so that none is lost."""
        largest = difference.abs().amax(dim=1)
        scale = torch.where(largest > 0.0, largest, 1.0)
        scaled = difference / scale[:, None]
        # cdist and not pow(): the last digits of a vectorised pow() depend on where in the tensor a number stands
        return scale * torch.cdist(scaled, torch.zeros_like(scaled[:1]), p=self.p)[:, 0]
