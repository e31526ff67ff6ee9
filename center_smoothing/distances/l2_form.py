"""Distances that are functions of an l2 distance: what a radius around a mean says in their units (theory T12)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# Covers the rounding of a radius, of the length of a center and of the distance itself (docs/theory.md, T10).
_ROUNDING = 1.0 + 2.0**-28


@dataclass(frozen=True)
class L2Form:
    """How a distance follows from the l2 distance of flattened outputs.

    Attributes:
        name: by which files know it.
        normalises: whether d(a, b) depends on the directions of the outputs alone. Then means are taken of outputs that
            are scaled to norm 1.
        radius: from e >= 0 and ||c|| to what d(c, z) does not exceed for any z with ||c - z|| <= e, rounded up.
        inverse: from d(a, b) to the l2 distance, where it depends on nothing else.
    """

    name: str
    normalises: bool
    radius: Callable[[float, float], float]
    inverse: Callable[[float], float] = math.inf.__mul__


def _sine(e: float, length: float) -> float:
    """Bound the sine of the angle between a center of that length and whatever is within e; from 1 on any is possible.

    A ball of radius e < ||c|| around c lies in the cone of those angles around c.
    """
    return e * _ROUNDING / length if length > 0.0 else math.inf


def _squared(e: float, length: float) -> float:
    return e * e * _ROUNDING


def _angle(e: float, length: float) -> float:
    sine = _sine(e, length)
    return math.asin(sine) / math.pi * _ROUNDING if sine < 1.0 else 1.0


def _cosine(e: float, length: float) -> float:
    sine = _sine(e, length)
    return sine * sine / (1.0 + math.sqrt(1.0 - sine * sine)) * _ROUNDING if sine < 1.0 else 2.0


SQUARED = L2Form("squared", False, _squared, math.sqrt)
ANGLE = L2Form("angle", True, _angle)
COSINE = L2Form("cosine", True, _cosine)
L2_FORMS = {form.name: form for form in (SQUARED, ANGLE, COSINE)}
