"""The l_p distance of flattened outputs, and the square of l2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance, Norm, one_with_one, radius_at_corner, replace_where
from center_smoothing.distances.l2_form import SQUARED

# A root of squares below this may have lost differences whose squares are no normal float64 any more.
SQUARES_VANISH = 1e-140
# A power of two: multiplied by it, differences that small, 2^-1074 to 2^-465, have squares that are normal float64.
ZOOM = 2.0**965
# Beyond this, multiplication by ZOOM overflows; and different numbers beyond this differ by more than 1.
_LARGE = 2.0**58


class Lp(Distance):
    """||a - b||_p of flattened outputs, for p in [1, inf]; a metric.

    Example:
        >>> Lp(2)(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([5.], dtype=torch.float64)
    """

    convex = True
    box_radius = radius_at_corner

    def __init__(self, p: float = 2.0) -> None:
        if not p >= 1.0:
            raise ValueError(f"p must lie in [1, inf], got {p!r}")
        self.p = float(p)

    @property
    def norm(self) -> Norm | None:
        """Which norm of a difference of embedded outputs it is."""
        norms: dict[float, Norm] = {1.0: "l1", 2.0: "l2", math.inf: "linf"}
        return norms.get(self.p)

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        if self.p in (1.0, math.inf):
            return torch.cdist(a, b, p=self.p)
        if self.p == 2.0:
            return euclidean(a, b)
        return torch.stack([self._scaled(a - row) for row in b], dim=1)

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        return one_with_one(Lp._compare)(self, a, b) if self.p in (1.0, 2.0, math.inf) else self._scaled(a - b)

    def _scaled(self, difference: Tensor) -> Tensor:
        """Return the norm (N, D) -> (N,), with powers of numbers in [0, 1] only, so that none is lost."""
        largest = difference.abs().amax(dim=1)
        scale = torch.where(largest > 0.0, largest, 1.0)
        scaled = difference / scale[:, None]
        # cdist and not pow(): the last digits of a vectorised pow() depend on where in the tensor a number stands
        return scale * torch.cdist(scaled, scaled.new_zeros(1, scaled.shape[1]), p=self.p)[:, 0]


class SquaredL2(Distance):
    """||a - b||_2^2 of flattened outputs; gamma = 2, and no less will do.

    (s + t)^2 <= 2 s^2 + 2 t^2 for the sides s, t of a triangle, with equality where the third point is in the middle.
    Convex in the output. Distances below 2^-1022 lose digits; read them as zero.

    Example:
        >>> SquaredL2()(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([25.], dtype=torch.float64)
    """

    relaxation = 2.0
    convex = True
    degree = 2.0
    l2_form = SQUARED
    box_radius = radius_at_corner

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return root_of_squares(a, b).square()

    _compare_paired = one_with_one(_compare)


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances, all with all: (N, D), (K, D) -> (N, K). Nothing cancels, no square underflows.

    Of batches, each with its own: (N, P, D), (N or 1, Q, D) -> (N, P, Q). Distances above 1e154 are inf.
    """
    distances = root_of_squares(a, b)

    def better(rows: Tensor | slice) -> Tensor:
        return root_of_squares(zoomed(a[rows]), zoomed(b if b.ndim == 2 or len(b) == 1 else b[rows])) / ZOOM

    return replace_where(distances, distances < SQUARES_VANISH, better)


def root_of_squares(a: Tensor, b: Tensor) -> Tensor:
    """Compute :func:`euclidean`, but for distances below ``SQUARES_VANISH``, which may be too small."""
    return torch.cdist(a, b, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")


def zoomed(z: Tensor) -> Tensor:
    """Scale coordinates by ``ZOOM``, for distances below ``SQUARES_VANISH``; others are wrong.

    Multiplication by a power of two is exact. Coordinates too large for it are equal where the distance is small.
    """
    return z.masked_fill(z.abs() >= _LARGE, 0.0) * ZOOM
