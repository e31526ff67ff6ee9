"""How many samples and which failure probabilities mean smoothing takes: fixed before any sample is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from center_smoothing import bounds
from center_smoothing.budget import Budget, Coverage
from center_smoothing.means.directions import DirectionalMoments
from center_smoothing.scalars import plain

# Each count of the grid exceeds the one before by so many hundredths of it; between 5 and 20 radii hardly change.
_GROWTH_PERCENT = 10
# The part of alpha_2 that goes to the tail beyond the largest sample: what is not known there counts up to B.
_SHARE_OF_LARGEST = 0.8


@dataclass(frozen=True)
class MeanPlan:
    """What a budget of mean smoothing can certify at one h, known before sampling.

    Attributes:
        h: eps_in / sigma.
        levels: at how many order statistics the distribution of the distances is bounded.
        tail: upper confidence bound on the mass of outputs beyond the largest sample.
        tail_at_bound: the same mass after the shift by h. It counts as if at the bound B, so that the certified
            radius lies about tail_at_bound * B above what the samples themselves show.
        evaluations: noisy copies that the base function f is evaluated on per example.
        abstention_probability: 0, for every f that gives nothing but outputs (T9).
        certifiable: True: at every h there is a radius, which never exceeds B.
        least_m: 1, for that reason.
    """

    h: float
    levels: int
    tail: float
    tail_at_bound: float
    evaluations: int
    abstention_probability: float
    certifiable: bool = True
    least_m: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MeanBudget(Budget):
    """Sample sizes and failure probabilities of mean smoothing and of its certificate (theory T11 and T12).

    ``n`` is part of the smoothed function: a certificate speaks of the means of n outputs at x and at x'.

    Args:
        n: outputs that are averaged.
        m: certification outputs.
        group: so many certification outputs are averaged before a distance is taken (theory T13); it must divide n and
            m, which count single outputs. The smoothed function is the same with any. With 2 or 4 certified radii are
            smaller at small h (up to about 1 and 0.5) and larger beyond.
        alpha_1: failure probability of the mean at x', in (0, 1/2].
        alpha_2: failure probability of the certificate at x, in (0, 1/2].
        noise: ``"gaussian"``; others are refused, as what is certified of means rests on the likelihood ratio of
            Gaussians.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> budget = MeanBudget(n=10_000, m=100_000)
        >>> plan = budget.plan(h=2.0)
        >>> plan.evaluations, plan.levels, round(plan.tail_at_bound, 4)
        (110000, 103, 0.031)
    """

    methods: ClassVar[tuple[str, ...]] = ("mean",)
    # What lies beyond the largest of m outputs counts up to the bound, so m is large.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"n": 1_000, "m": 10_000},  # about 4 s per digit on two cores
        # with so many what no sample shows is a small part of the radius up to h = 1
        "standard": {"n": 30_000, "m": 90_000},
    }

    method = "mean"
    delta = 0.0  # a mean needs no margin around one half
    settings = ""  # what else a plan says, the bound on distances, is the smoother's
    abstains = "where an output is not finite"

    n: int = 30_000
    m: int = 90_000
    group: int = 1
    alpha_1: float = 0.005
    alpha_2: float = 0.005
    noise: str = "gaussian"

    def __post_init__(self) -> None:
        """Validate."""
        self._check("n", "m", "group")
        if self.noise != "gaussian":
            raise ValueError(
                "noise must be gaussian for means, whose certificates rest on the likelihood ratio of Gaussians "
                f"(theory T11, T12), got {self.noise!r}; centers and medians take it"
            )
        if self.n % self.group or self.m % self.group:
            raise ValueError(f"group must divide n={self.n} and m={self.m}, got {self.group}")

    @classmethod
    def count_in_groups(cls, outputs: int, group: int) -> int:
        """Return as many outputs, those that whole groups are made of: n and m count outputs."""
        return max(group, outputs - outputs % group)

    @property
    def num_distances(self) -> int:
        """How many distances the certificate rests on: m / group."""
        return self.m // self.group

    @property
    def num_terms(self) -> int:
        """How many means of ``group`` outputs make up the mean of n: n / group."""
        return self.n // self.group

    @property
    def num_fourth_moments(self) -> int:
        """Over how many certification outputs, the first ones, fourth moments are taken (theory T12)."""
        return max(self.m // 5, min(self.m, 2048))

    def shared(self) -> MeanBudget:
        """Return the budget of each of two theorems that answer together: half of both failure probabilities."""
        return replace(self, alpha_1=self.alpha_1 / 2.0, alpha_2=self.alpha_2 / 2.0)

    def tails(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ranks (J,), ascending, and bounds (J,) on the mass beyond the distances of these ranks.

        All bounds hold together except with probability at most alpha_2. The last rank is that of the largest.
        """
        return _tails(self.num_distances, self.alpha_2)

    def certifies(self, h: float, *, m: int, coverage: Coverage, answers: int) -> bool:
        """Return True: at every h there is a radius."""
        return True

    def widest(self, coverage: Coverage) -> Coverage:
        """Return "dkw": all answers hold together, whatever was asked for."""
        return "dkw"

    def scope(self, coverage: Coverage) -> tuple[str, str]:
        """Return "mean", as coverage makes no difference, and what holds together in words."""
        return "mean", "all answers of an example at one sigma together, also to what is asked later"

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know of the smoothed output, sentences."""
        return [f"The smoothed output is the mean of {self.n:,} outputs under noise, not their center."]

    def plan(self, h: float) -> MeanPlan:
        """Return what this budget can certify at h = eps_in / sigma; ValueError if h is negative or NaN."""
        _, tails = self.tails()
        h = plain(h)
        return MeanPlan(
            h=float(h),
            levels=len(tails),
            tail=float(tails[-1]),
            tail_at_bound=float(bounds.gaussian_shifts_up(tails[-1:], self.shift(h))[0]),
            evaluations=self.evaluations,
            abstention_probability=self.abstention_probability(),
        )

    def unseen(self, h: float) -> tuple[float, float, float]:
        """Return what T12 adds at h = eps_in / sigma to what samples show, before any sampling.

        How far the expectation may move, which is what confidence in moments costs, and how far the mean of n outputs
        may be off from it, as parts of b, the largest distance from an output to the center. And the share of outputs
        at x' that count as if at the bound B, if no sample shows one.
        """
        part, counts = self.shared(), {"second_count": self.m, "fourth_count": self.num_fourth_moments, "outside": 0}
        none = DirectionalMoments(count=self.m, **counts, largest=1.0, spread=1.0, offset=0.0, second=0.0, fourth=0.0)
        return none.parts(plain(h), n=part.n, alpha_1=part.alpha_1, alpha_2=part.alpha_2)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, from which ``MeanBudget(**values)`` makes an equal budget; no noise."""
        return {name: value for name, value in asdict(self).items() if name != "noise"}


def tail_counts(m: int) -> NDArray[np.int64]:
    """How many of m samples lie beyond those at which the distribution is bounded: 0, 1, 2, ..., then geometric, (J,).

    Example:
        >>> tail_counts(30)
        array([ 0,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 13, 15, 17, 19, 21,
               24, 27])
    """
    counts = [0]
    while (following := counts[-1] + max(1, -(-_GROWTH_PERCENT * counts[-1] // 100))) < m:
        counts.append(following)
    return np.array(counts)


def split(alpha: float, levels: int) -> NDArray[np.float64]:
    """Return the failure probability of each bound, (levels,), the one beyond the largest sample first.

    Example:
        >>> split(0.1, 3)
        array([0.08, 0.01, 0.01])
    """
    if levels == 1:
        return np.array([alpha])
    rest = (1.0 - _SHARE_OF_LARGEST) / (levels - 1)
    return alpha * np.array([_SHARE_OF_LARGEST, *[rest] * (levels - 1)])


@lru_cache(maxsize=64)
def _tails(m: int, alpha: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    counts = tail_counts(m)
    alphas = split(alpha, len(counts)).tolist()
    tails = [
        bounds.clopper_pearson_upper(count, m, level) for count, level in zip(counts.tolist(), alphas, strict=True)
    ]
    # where all bounds hold, the mass beyond a sample is at most what it is beyond any smaller one
    return m - counts[::-1], np.minimum.accumulate(tails[::-1])
