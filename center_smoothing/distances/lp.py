"""The l_p distance of flattened outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance, replace_where

# An l2 distance below this may have lost differences whose squares are no normal float64 any more.
_SQUARES_VANISH = 1e-140
# A power of two: multiplied by it, differences that small, 2^-1074 to 2^-465, have squares that are normal float64.
_ZOOM = 2.0**965
# Beyond this, multiplication by _ZOOM overflows; and different numbers beyond this differ by more than 1.
_LARGE = 2.0**58


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
            distances = _euclidean(a, b)
            return replace_where(distances, distances < _SQUARES_VANISH, lambda rows: _euclidean_zoomed(a[rows], b))
        return torch.stack([self._scaled(a - row) for row in b], dim=1)

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        if self.p not in (1.0, 2.0, math.inf):
            return self._scaled(a - b)
        # cdist of one with one, N times: without an intermediate result, and with the digits of all pairs
        a, b = a.unsqueeze(1), b.unsqueeze(1)
        if self.p == 2.0:
            distances = _euclidean(a, b)
            mask = distances < _SQUARES_VANISH
            distances = replace_where(distances, mask, lambda rows: _euclidean_zoomed(a[rows], b[rows]))
        else:
            distances = torch.cdist(a, b, p=self.p)
        return distances[:, 0, 0]

    def _scaled(self, difference: Tensor) -> Tensor:
        """(N, D) -> (N,): the norm, with powers of numbers in [0, 1] only, so that none is lost."""
        largest = difference.abs().amax(dim=1)
        scale = torch.where(largest > 0.0, largest, 1.0)
        scaled = difference / scale[:, None]
        # cdist and not pow(): the last digits of a vectorised pow() depend on where in the tensor a number stands
        return scale * torch.cdist(scaled, scaled.new_zeros(1, scaled.shape[1]), p=self.p)[:, 0]


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")


def _euclidean_zoomed(a: Tensor, b: Tensor) -> Tensor:
    """Distances below ``_SQUARES_VANISH``; others are wrong.

    Multiplication by a power of two is exact. Coordinates too large for it are equal where the distance is small.
    """
    a, b = (z.masked_fill(z.abs() >= _LARGE, 0.0) * _ZOOM for z in (a, b))
    return _euclidean(a, b) / _ZOOM
