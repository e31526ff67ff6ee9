"""When to stop sampling: rules for :meth:`center_smoothing.CenterSmoother.certify`, asked at the budget's looks.

A rule may be anything: every look has its own share of alpha_2, so that the certificate of each of them holds,
whichever is the last (docs/theory.md). These two are the useful ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from center_smoothing import bounds
from center_smoothing.budget import Coverage, Ranks, SmoothingBudget
from center_smoothing.certificate import Certificate
from center_smoothing.scalars import make_plain

# How sure the lower side of a two-sided bound is. It decides when to stop and not what holds.
_ALPHA_BELOW = 0.05
# More looks cost more of alpha_2 than they save in samples.
_MAX_LOOKS = 8


def with_looks(budget: SmoothingBudget, h: float) -> SmoothingBudget:
    """Return the budget with as many looks as are of use: each has the check's outputs, and can certify h.

    Args:
        budget: of one look.
        h: eps_in / sigma, the largest that is to be certified.

    Raises:
        ValueError: if not even two looks are, with the m that would do.
    """
    found = budget
    for looks in range(2, _MAX_LOOKS + 1):
        first = -(-budget.m // 2 ** (looks - 1))
        if first < budget.n_check:
            break
        candidate = replace(budget, looks=looks)
        if candidate.plan(h).least_m > first:
            break
        found = candidate
    if found.looks == 1:
        least = 2 * max(budget.n_check, math.ceil(min(1e15, budget.plan(h).least_m)))
        raise ValueError(
            f"m must be at least about {least} to stop early at h={h:g} with n_check={budget.n_check}, got {budget.m}"
        )
    return found


@dataclass(frozen=True)
class TightEnough:
    """Stop where the samples that are left could hardly lower any eps_out by more than a share ``rtol`` of it.

    Args:
        eps_in: input radii that are to be certified, in units of x, at least one.
        rtol: in (0, 1), 0.02 say; others raise ValueError, as no eps_in does.
        coverage: of the answers, see :meth:`center_smoothing.Certificate.eps_out`.
    """

    eps_in: Sequence[float]
    rtol: float
    coverage: Coverage = "pointwise"

    def __post_init__(self) -> None:
        """Validate."""
        make_plain(self)
        _check_eps_in(self.eps_in)
        if not 0.0 < self.rtol < 1.0:
            raise ValueError(f"rtol must lie in (0, 1), got {self.rtol!r}")

    def __call__(self, certificate: Certificate) -> bool:
        """Return whether to stop at this look."""
        return all(self._tight(certificate, each) for each in self.eps_in)

    def _tight(self, certificate: Certificate, eps_in: float) -> bool:
        certified = certificate.radius_at(_ranks(certificate, certificate.m, eps_in, self.coverage, self.eps_in))
        attainable = certificate.radius_at(self._ranks_below(certificate, eps_in), upwards=False)
        return certified < math.inf and certified - attainable <= self.rtol * certified

    def _ranks_below(self, certificate: Certificate, eps_in: float) -> Ranks:
        """Order statistics that those of the last look will hardly fall below.

        The last look takes the samples at certain levels; their quantiles are bounded from below.
        """
        budget, m = certificate.used_budget, certificate.m
        last = _ranks(certificate, budget.m, eps_in, self.coverage, self.eps_in)
        compared = (budget.compared(m), budget.compared(budget.m))
        return Ranks(
            _rank_below(m, last.distances, budget.m),
            tuple((size, among, _rank_below(compared[0], within, compared[1])) for size, among, within in last.probes),
        )


def _rank_below(m: int, rank: int, of: int) -> int:
    """Return the rank among m that is at most the quantile of level rank / of, with confidence."""
    return bounds.order_statistic_rank_below(m, min(1.0, rank / of), _ALPHA_BELOW)


@dataclass(frozen=True)
class Decided:
    """Stop where eps_out is certified to be at most so much, or where no further look can certify that any more.

    Args:
        eps_in: input radius in question, in units of x.
        eps_out: output radius in question; a negative one and NaN raise ValueError.
        coverage: of the answer, see :meth:`center_smoothing.Certificate.eps_out`.
    """

    eps_in: Sequence[float]
    eps_out: float
    coverage: Coverage = "pointwise"

    def __post_init__(self) -> None:
        """Validate."""
        make_plain(self)
        _check_eps_in(self.eps_in)
        if not self.eps_out >= 0.0:
            raise ValueError(f"eps_out must be at least 0, got {self.eps_out!r}")

    def __call__(self, certificate: Certificate) -> bool:
        """Return whether to stop at this look: each eps_in is decided."""
        return all(self._certified(certificate, each) or self._hopeless(certificate, each) for each in self.eps_in)

    def _certified(self, certificate: Certificate, eps_in: float) -> bool:
        ranks = _ranks(certificate, certificate.m, eps_in, self.coverage, self.eps_in)
        return certificate.radius_at(ranks) <= self.eps_out

    def _hopeless(self, certificate: Certificate, eps_in: float) -> bool:
        """Return whether all later looks fail even if every further distance is 0."""
        budget, m = certificate.used_budget, certificate.m
        for later in budget.look_sizes:
            if later <= m:
                continue
            ranks, more = _ranks(certificate, later, eps_in, self.coverage, self.eps_in), later - m
            more_compared = budget.compared(later) - budget.compared(m)
            best = Ranks(
                ranks.distances - more if ranks.distances <= later else certificate.m + 1,
                tuple((size, among, within - more_compared) for size, among, within in ranks.probes),
            )
            if certificate.radius_at(best, upwards=False) <= self.eps_out:
                return False
        return True


def _ranks(certificate: Certificate, m: int, eps_in: float, coverage: Coverage, all_eps_in: Sequence[float]) -> Ranks:
    answers = len(set(all_eps_in))
    return certificate.used_budget.ranks(certificate.h_of(eps_in), m=m, coverage=coverage, answers=answers)


def _check_eps_in(eps_in: Sequence[float]) -> None:
    if len(eps_in) == 0 or not all(0.0 <= radius < math.inf for radius in eps_in):
        raise ValueError(f"eps_in must name at least one finite radius of at least 0, got {list(eps_in)!r}")
