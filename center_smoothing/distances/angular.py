"""Distances of directions: the angle, of the paper's section 5.3, and the cosine."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance, one_with_one, replace_where, to_float64
from center_smoothing.distances.l2_form import ANGLE, COSINE
from center_smoothing.distances.lp import Lp, SquaredL2, euclidean

# Chords beyond this are of angles well above a right angle, which the chord to the opposite point measures better.
_WIDE = 1.7


def radius_of_cone(self: Distance, center: Tensor, low: Tensor, high: Tensor) -> float:
    """Return the distance of the cone around the center that holds the smallest l2 ball around a box."""
    assert self.l2_form is not None  # it depends on angles alone
    norm = Lp(2)
    length = float(norm(torch.zeros_like(center)[None], center[None]))
    return self.l2_form.radius(norm.box_radius(center, low, high), length)


class Angular(Distance):
    """arccos(cos(a, b)) / pi of flattened outputs, in [0, 1]; a pseudometric.

    A zero output is at 0 from itself and at 1/2 from every other. The angle is 2 arcsin(chord / 2) of the
    normalised outputs: unlike the arccos of an inner product it is exactly 0 for equal outputs, loses no digits
    for close or opposite ones, and is never NaN.

    Example:
        >>> Angular()(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([0.5000], dtype=torch.float64)
    """

    l2_form = ANGLE
    box_radius = radius_of_cone

    def _embed(self, z: Tensor) -> Tensor:
        return unit_vectors(z)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        chord = euclidean(a, b)

        def better(rows: Tensor | slice) -> Tensor:
            return 1.0 - _angle(euclidean(a[rows], -b if b.ndim == 2 else -b[rows]))

        return replace_where(_angle(chord), chord > _WIDE, better)

    _compare_paired = one_with_one(_compare)


class Cosine(SquaredL2):
    """1 - cos(a, b) of flattened outputs, in [0, 2]; gamma = 2.

    It is half of the squared l2 distance between the directions a / |a| and b / |b|, and computed as such: exactly 0
    for equal outputs, with all its digits for nearly equal ones, where 1 - cos has none left. A zero output has a
    direction of its own, at right angles to all others: it is at 0 from itself and at 1 from every other output. So
    every output lies on one unit sphere, and the relaxed inequality is that of :class:`SquaredL2`.

    Example:
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


def unit_vectors(z: Tensor) -> Tensor:
    """Return the directions of outputs on the unit sphere: (N, *out) float64 -> (N, D + 1).

    The further axis, at right angles to all the others, is the direction of a zero output.
    """
    directions = directions_of(z).flatten(1)
    return torch.cat([directions, (directions == 0.0).all(dim=1, keepdim=True).to(directions.dtype)], dim=1)


def directions_of(z: Tensor) -> Tensor:
    """Scale outputs to l2 norm 1, up to rounding: (N, *out) -> (N, *out) float64.

    Zero outputs stay zero, those that are not finite become NaN.
    """
    flat = to_float64(z).flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return torch.div(flat, norm.masked_fill(norm == 0.0, 1.0)).reshape(z.shape)


def _angle(chord: Tensor) -> Tensor:
    """Return the angle / pi between unit vectors so far apart."""
    return (chord / 2.0).clamp(max=1.0).asin() * (2.0 / math.pi)
