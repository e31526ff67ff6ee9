"""The Hausdorff distance between finite sets of points."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance, replace_where
from center_smoothing.distances.lp import SQUARES_VANISH, euclidean, root_of_squares

# Distances between points that are held at a time.
_BLOCK_NUMBERS = 1 << 20


class Hausdorff(Distance):
    """How far the point of one set that is furthest from the other set is from it; a metric on sets (gamma = 1).

    Outputs are (N, P, D + 1): up to P points each, of D coordinates, and in the last column whether there is such a
    point (above 0.5) or the row is filling, whose coordinates mean nothing. Order and repetitions of points do not
    matter. Sets have no averages: centers are outputs.

    The greater one of max over a of min over b of |a - b|, and the same with a and b exchanged. Each of these two keeps
    the triangle inequality, and so does their maximum (:class:`Symmetrised`).

    A set without points is an answer like any other: at 0 from itself, and at ``largest`` from all other sets. No
    distance exceeds ``largest``: min(d, L) is a metric where d is one, and by way of an empty set it takes 2 L from
    one set to another. The default, inf, lies outside of every ball around other sets.

    Args:
        largest: at which distances are cut off, above 0. Give it if sets may be empty: a diameter of all sets, say.

    Example:
        >>> a = torch.tensor([[[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]])
        >>> b = torch.tensor([[[0.0, 2.0, 1.0], [9.0, 9.0, 0.0]]])
        >>> Hausdorff()(a, b)
        tensor([2.2361], dtype=torch.float64)
    """

    averages = False

    def __init__(self, largest: float = math.inf) -> None:
        if not largest > 0.0:
            raise ValueError(f"largest must be a positive number or inf, got {largest!r}")
        self.largest = float(largest)

    def _embed(self, z: Tensor) -> Tensor:
        if z.ndim != 3 or z.shape[2] < 2:
            raise ValueError(
                "point sets must be outputs (N, points, coordinates + 1) with a last column of 1 for points and 0 for "
                f"filling, got shape {tuple(z.shape)}"
            )
        present = z[..., -1:] > 0.5
        return torch.cat([z[..., :-1].masked_fill(~present, 0.0), present.to(z.dtype)], dim=2)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        parts = torch.split(a, max(1, _BLOCK_NUMBERS // (a.shape[1] * b.shape[1])))
        return torch.cat([torch.stack([self._of(part, one[None]) for one in b], dim=1) for part in parts])

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        rows = max(1, _BLOCK_NUMBERS // (a.shape[1] * b.shape[1]))
        return torch.cat([self._of(x, y) for x, y in zip(torch.split(a, rows), torch.split(b, rows), strict=True)])

    def _of(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare sets (N, P, D + 1) and (N, Q, D + 1), or one set (1, Q, D + 1) -> (N,)."""
        # equal points are frequent, and where they do not decide they need not be told from very close ones
        distances = _greater(a, b, root_of_squares)

        def better(rows: Tensor | slice) -> Tensor:
            return _greater(a[rows], b if len(b) == 1 else b[rows], euclidean)

        return replace_where(distances, distances < SQUARES_VANISH, better).clamp(max=self.largest)


def _greater(a: Tensor, b: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the greater one of both directions, with points as far apart as is measured."""
    distances = measure(a[..., :-1], b[..., :-1])  # (N, P, Q)
    no_a, no_b = a[..., -1] == 0.0, b[..., -1] == 0.0
    to_b = distances.masked_fill(no_b[:, None, :], torch.inf).amin(dim=2).masked_fill(no_a, 0.0).amax(dim=1)
    to_a = distances.masked_fill(no_a[:, :, None], torch.inf).amin(dim=1).masked_fill(no_b, 0.0).amax(dim=1)
    return torch.maximum(to_a, to_b)
