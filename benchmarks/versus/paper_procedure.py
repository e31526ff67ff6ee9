"""The paper's procedure at a sample size that takes too long: a part of it is run, and what all of it would give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from scipy import stats
from torch import Tensor

from benchmarks.versus.recorded_outputs import RecordedSmoother, Recording
from center_smoothing import Certificate, Distance, SmoothingBudget
from center_smoothing.budget import Ranks
from center_smoothing.noise import Stage
from center_smoothing.upper_median import upper_median

# The chance that what a full run gives lies outside of the interval that is told, half of it on either side.
_OUTSIDE = 0.05


@dataclass(frozen=True)
class Estimate:
    """What a run gives, and the interval in which it lies with probability 95%; one number where the run was made."""

    low: float  # lower end of the interval
    value: float  # the estimate
    high: float  # upper end of the interval

    @classmethod
    def exactly(cls, value: float) -> Estimate:
        """Make the estimate of a run that was made."""
        return cls(value, value, value)

    @classmethod
    def median(cls, estimates: Iterable[Estimate]) -> Estimate:
        """Return upper medians of the estimates, and of either end of their intervals."""
        columns = zip(*((each.low, each.value, each.high) for each in estimates), strict=True)
        return cls(*(upper_median(column) for column in columns))

    @property
    def measured(self) -> bool:
        """Whether the run was made."""
        return self.low == self.high


@dataclass(frozen=True, eq=False)
class PaperRun:
    """The paper's procedure around one x: its selection and its check in full, and the first certification outputs."""

    certificate: Certificate  # from the certification outputs that there are
    budget: SmoothingBudget  # of the full run
    selection: float  # seconds of the n outputs and of all their pairs
    check: float  # seconds of the n outputs of the check
    certification: float  # seconds of the certification outputs that there are

    @property
    def seconds(self) -> float:
        """Of the full run, whose certification takes as much longer as it has more outputs."""
        return self.selection + self.check + self.budget.m * self.certification / self.certificate.m


@lru_cache
def paper_budget(n: int, m: int) -> SmoothingBudget:
    """Return the paper's settings: delta = .05, more only where n is too small for it, and alpha = .005 + .005."""
    budget = SmoothingBudget(n=n, m=m, method="paper")
    return replace(budget, delta=max(0.05, budget.delta))


def run_paper(recording: Recording, x: Tensor, distance: Distance, budget: SmoothingBudget) -> PaperRun:
    """Run the paper's procedure with all pairs around x (*in), as far as certification outputs were recorded."""
    part = replace(budget, m=recording.at_most(Stage.CERTIFICATION, budget.m))
    smoother = RecordedSmoother(recording, distance, part)
    certificate, clock = smoother.certify(x), smoother.outputs
    total, (selection, _), (began, ended) = clock.seconds, clock.used(Stage.CERTIFICATION), clock.used(Stage.CHECK)
    return PaperRun(certificate, budget, selection, ended - began, total - selection - (ended - began))


def eps_out_of(certificate: Certificate, budget: SmoothingBudget, h: float) -> Estimate:
    """Estimate by T3 the eps_out at h of a run of this budget, from a certificate of fewer certification outputs.

    The certification outputs are independent and alike, so that how the order statistics of a full run lie among
    those that there are has a known distribution. Nothing is extrapolated beyond the outputs that there are.

    The certificate is of the same center; the budget is that of the full run, without looks.
    """
    rank = budget.with_sizes(()).ranks(h).distances
    if certificate.abstained or rank > budget.m:
        return Estimate.exactly(math.inf)
    ranks = rank_among(rank, budget.m, certificate.m)
    return Estimate(*(certificate.radius_at(Ranks(each)) for each in ranks))


@lru_cache(maxsize=256)
def rank_among(rank: int, m: int, drawn: int) -> tuple[int, int, int]:
    """Bracket the place of the rank-th smallest of m further draws among those that were drawn.

    Returns (low, middle, high): the rank-th smallest is, whatever the distribution, at least the low-th smallest drawn
    with probability 97.5%, and at most the high-th. These may be 0 and ``drawn + 1``: beyond all draws. If as many were
    drawn they are the m draws themselves, and their rank is known.

    Example:
        >>> rank_among(984_862, 1_000_000, 100_000)
        (98406, 98487, 98566)
    """
    if drawn == m:
        return rank, rank, rank

    def at_most(place: int) -> float:
        """Return P[the rank-th further draw <= the place-th draw]: at least rank of the first place + rank - 1."""
        return float(stats.hypergeom.sf(rank - 1, m + drawn, m, place + rank - 1))

    low = _last(lambda place: place == 0 or at_most(place) <= _OUTSIDE / 2.0, drawn)
    high = _last(lambda place: place == 0 or at_most(place) < 1.0 - _OUTSIDE / 2.0, drawn) + 1
    return low, math.ceil(rank / m * drawn), high


def _last(holds: Callable[[int], bool], end: int) -> int:
    """Return the last of 0..end at which it holds, if it holds at 0 and nowhere after it fails."""
    low, high = 0, end + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
