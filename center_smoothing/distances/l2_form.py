"""Distances that are functions of an l2 distance: what a radius around a mean says in their units (theory T12)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# Covers the rounding of a radius, of the length of a center and of the distance itself (docs/theory.md, T10).
_ROUNDING = 1.0 + 2.0**-28


@dataclass(frozen=True)
class L2Form:
    """How a distance d follows from the l2 distance of flattened outputs.

    Attributes:
        name: by which files know it.
        radius: from e, at least 0, and ||c|| to what d(c, z) does not exceed for any z with ||c - z|| <= e, rounded up.
            It increases with e.
        inverse: from d(a, b) to ||a - b||; None where d depends on the directions of outputs alone. Then means are
            taken of outputs that are scaled to norm 1.
    """

    name: str
    radius: Callable[[float, float], float]
    inverse: Callable[[float], float] | None = None


def _squared(e: float, length: float) -> float:
    return e * e * _ROUNDING


def _angle(e: float, length: float) -> float:
    sine = _sine(e, length)
    return math.asin(sine) / math.pi * _ROUNDING if sine < 1.0 else 1.0


def _cosine(e: float, length: float) -> float:
    sine = _sine(e, length)
    return sine * sine / (1.0 + math.sqrt((1.0 - sine) * (1.0 + sine))) * _ROUNDING if sine < 1.0 else 2.0


def _sine(e: float, length: float) -> float:
    """Bound the sine of the angle between c and whatever is within e < ||c|| of it; from 1 on any angle is possible."""
    return e * _ROUNDING / length if length > 0.0 else math.inf


SQUARED, ANGLE, COSINE = L2Form("squared", _squared, math.sqrt), L2Form("angle", _angle), L2Form("cosine", _cosine)
L2_FORMS = {form.name: form for form in (SQUARED, ANGLE, COSINE)}
