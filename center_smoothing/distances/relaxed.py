"""Distances with a relaxed triangle inequality, gamma = 2: squares of metrics."""

from __future__ import annotations

from torch import Tensor

from center_smoothing.distances.angular import radius_of_cone, unit_vectors
from center_smoothing.distances.base import Distance, one_with_one, radius_at_corner
from center_smoothing.distances.l2_form import COSINE, SQUARED
from center_smoothing.distances.lp import root_of_squares


class SquaredL2(Distance):
    """||a - b||_2^2 of flattened outputs; gamma = 2, and no less will do.

    (s + t)^2 <= 2 s^2 + 2 t^2 for the sides s, t of a triangle, with equality where the third point is in the middle.
    Convex in the output. Distances below 2^-1022 lose digits; read them as zero.

    Example:
        >>> import torch
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


class Cosine(SquaredL2):
    """1 - cos(a, b) of flattened outputs, in [0, 2]; gamma = 2.

    It is half of the squared l2 distance between the directions a / |a| and b / |b|, and computed as such: exactly 0
    for equal outputs, with all its digits for nearly equal ones, where 1 - cos has none left. A zero output has a
    direction of its own, at right angles to all others: it is at 0 from itself and at 1 from every other output. So
    every output lies on one unit sphere, and the relaxed inequality is that of :class:`SquaredL2`.

    Example:
        >>> import torch
        >>> a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
        >>> Cosine()(a, torch.tensor([[0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]]))
        tensor([1.0000, 2.0000, 1.0000], dtype=torch.float64)
    """

    convex = False
    degree = 1.0
    l2_form = COSINE
    box_radius = radius_of_cone

    def _embed(self, z: Tensor) -> Tensor:
        return unit_vectors(z)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return super()._compare(a, b) / 2.0

    _compare_paired = one_with_one(_compare)
