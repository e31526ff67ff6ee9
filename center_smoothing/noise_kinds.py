"""Kinds of noise: how each is drawn, and what a change of the input does to the mass of a set (theory T0 and T15).

All that the package proves of centers and medians rests on them. A further kind is a class here, a line in ``NOISES``
and a section of docs/theory.md.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Generator, Tensor

from center_smoothing import bounds


class NoiseKind(ABC):
    """A law of noise at level 1; at the level sigma it is sigma times that.

    Changes of the input are measured in the norm of the kind and in units of the level: h = eps_in / sigma.

    Attributes:
        name: one of ``NOISES``.
        norm: which changes of the input it answers to, one of ``center_smoothing.threats.NORMS``.
        words: what it is called, and what sigma is of it.
        ratios: h that are asked where nothing is said.
        curve: the steps of h at which probes bound a whole curve at once, and the last of them (theory T7).
    """

    name: ClassVar[str]
    norm: ClassVar[str]
    words: ClassVar[str]
    ratios: ClassVar[tuple[float, ...]]
    curve: ClassVar[tuple[float, float]]

    @abstractmethod
    def fill(self, noise: Tensor, generator: Generator) -> Tensor:
        """Fill a tensor with independent numbers of the law, and return it."""

    @abstractmethod
    def mass_needed(self, mass: float, h: float) -> float:
        """Return the p for which a set with more than p at x has more than ``mass`` at each x' within h, rounded up.

        The mass lies in (0, 1); h is at least 0 and may be inf.
        """

    @abstractmethod
    def h_between(self, mass: float, p: float) -> float:
        """Return the largest h with ``mass_needed(mass, h) <= p`` < 1, rounded down; 0 where there is none."""

    @abstractmethod
    def of_copies(self, h: float, copies: int) -> float:
        """Return the h of several independent copies that are moved together by h each (theory T7 and T13)."""


class Gaussian(NoiseKind):
    """N(0, I), for changes in l2 norm (theory T0).

    Example:
        >>> gaussian = Gaussian()
        >>> round(gaussian.mass_needed(0.5, 1.0), 4), round(gaussian.h_between(0.5, 0.8413447460685429), 4)
        (0.8413, 1.0)
        >>> gaussian.of_copies(0.5, 4)
        1.0
    """

    name = "gaussian"
    norm = "l2"
    words = "Gaussian noise of standard deviation"
    ratios = (1.0, 1.5, 2.0)
    curve = (0.25, 6.0)

    def fill(self, noise: Tensor, generator: Generator) -> Tensor:
        """Fill a tensor with standard normal numbers, and return it."""
        return noise.normal_(generator=generator)

    def mass_needed(self, mass: float, h: float) -> float:
        """Return Phi(Phi^-1(mass) + h), rounded up."""
        return bounds.gaussian_shift_up(mass, h)

    def h_between(self, mass: float, p: float) -> float:
        """Return Phi^-1(p) - Phi^-1(mass), rounded down and at least 0."""
        return bounds.gaussian_shift_between(mass, p)

    def of_copies(self, h: float, copies: int) -> float:
        """Return sqrt(copies) h: together they are one Gaussian in more dimensions."""
        return math.sqrt(copies) * h


class Uniform(NoiseKind):
    """Uniform numbers in [-1, 1], each by itself, for changes in l1 norm (theory T15).

    Example:
        >>> uniform = Uniform()
        >>> round(uniform.mass_needed(0.5, 0.5), 4), round(uniform.h_between(0.5, 0.75), 4)
        (0.75, 0.5)
        >>> round(uniform.of_copies(0.5, 2), 4)
        0.875
    """

    name = "uniform"
    norm = "l1"
    words = "uniform noise of half-width"
    ratios = (0.2, 0.4, 0.6)
    curve = (0.0625, 1.0)

    def fill(self, noise: Tensor, generator: Generator) -> Tensor:
        """Fill a tensor with uniform numbers in [-1, 1], and return it."""
        return noise.uniform_(-1.0, 1.0, generator=generator)

    def mass_needed(self, mass: float, h: float) -> float:
        """Return mass + h / 2, rounded up; 1 at most, which no sample shows."""
        return bounds.total_variation_shift_up(mass, h / 2.0)

    def h_between(self, mass: float, p: float) -> float:
        """Return 2 (p - mass), rounded down and at least 0."""
        return 2.0 * bounds.total_variation_between(mass, p)

    def of_copies(self, h: float, copies: int) -> float:
        """Return 2 (1 - (1 - h / 2)^copies), rounded up: what of all their cubes is not common to x and x'."""
        if copies == 1:
            return h
        return 2.0 * bounds.total_variation_of_copies(min(1.0, h / 2.0), copies)


NOISES: dict[str, NoiseKind] = {kind.name: kind for kind in (Gaussian(), Uniform())}


def noise_kind(name: object) -> NoiseKind:
    """Return the kind of noise of a name.

    Raises:
        ValueError: for another name.
    """
    if not isinstance(name, str) or name not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {name!r}")
    return NOISES[name]
