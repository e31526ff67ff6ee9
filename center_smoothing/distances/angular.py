"""The angular distance of the paper's section 5.3."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance, replace_where
from center_smoothing.distances.lp import Lp, euclidean

# Chords beyond this are of angles well above a right angle, which the chord to the opposite point measures better.
_WIDE = 1.7
# Covers the rounding of a radius and a length: angles near a right one change much with their sine.
_SINE_ROUNDING = 1.0 + 2.0**-28


class Angular(Distance):
    """arccos(cos(a, b)) / pi of flattened outputs, in [0, 1]; a pseudometric.

    A zero output is at 0 from itself and at 1/2 from every other. The angle is 2 arcsin(chord / 2) of the
    normalised outputs: unlike the arccos of an inner product it is exactly 0 for equal outputs, loses no digits
    for close or opposite ones, and is never NaN.

    Example:
        >>> import torch
        >>> Angular()(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([0.5000], dtype=torch.float64)
    """

    def box_radius(self, center: Tensor, low: Tensor, high: Tensor) -> float:
        """Return the angle of the cone around the center that holds the smallest l2 ball around the box."""
        sine = sine_of_box(center, low, high)
        return math.asin(sine) / math.pi if sine < 1.0 else 1.0

    def _embed(self, z: Tensor) -> Tensor:
        return unit_vectors(z)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        chord = euclidean(a, b)
        return replace_where(_angle(chord), chord > _WIDE, lambda rows: 1.0 - _angle(euclidean(a[rows], -b)))

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.unsqueeze(1), b.unsqueeze(1)  # cdist of one with one, N times
        chord = euclidean(a, b)
        angle = replace_where(_angle(chord), chord > _WIDE, lambda rows: 1.0 - _angle(euclidean(a[rows], -b[rows])))
        return angle[:, 0, 0]


def sine_of_box(center: Tensor, low: Tensor, high: Tensor) -> float:
    """Bound the sine of the angle between the center and whatever lies in a box, see :meth:`Distance.box_radius`.

    Returns:
        The l2 radius of the box over the length of the center, rounded up; at 1 or above any angle is possible.
    """
    norm, radius = Lp(2), Lp(2).box_radius(center, low, high)
    length = float(norm(torch.zeros_like(center)[None], center[None]))
    return math.inf if length == 0.0 else radius / length * _SINE_ROUNDING


def unit_vectors(z: Tensor) -> Tensor:
    """Return the directions of outputs on the unit sphere: (N, *out) float64 -> (N, D + 1).

    The further axis, at right angles to all the others, is the direction of a zero output.
    """
    flat = z.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    is_zero = (norm == 0.0).to(flat.dtype)
    return torch.cat([flat / (norm + is_zero), is_zero], dim=1)


def _angle(chord: Tensor) -> Tensor:
    """Return the angle / pi between unit vectors so far apart."""
    return (chord / 2.0).clamp(max=1.0).asin() * (2.0 / math.pi)
