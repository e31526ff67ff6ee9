"""What is compared, fixed before anything is measured, and what the procedures gave, digit by digit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from benchmarks.versus.paper_procedure import Estimate
from center_smoothing import CertificateBase, SmoothingBudget
from center_smoothing.attack import AttackBudget
from center_smoothing.noise import Stage
from center_smoothing.upper_median import upper_median

# Sampling stops where further outputs could not lower eps_out by more than such a share.
RTOLS = (0.02, 0.05)


@lru_cache
def exact_budget(
    n: int, m: int, *, tuple_sizes: tuple[int, ...] | None = None, looks: int = 1, group: int = 1
) -> SmoothingBudget:
    """Make a budget of this package with its default delta, which is computed once and not for each digit."""
    return SmoothingBudget(n=n, m=m, tuple_sizes=tuple_sizes, looks=looks, group=group)


@dataclass(frozen=True)
class Settings:
    """Sample sizes and distances; the defaults are those of the documented figures.

    Raises:
        ValueError: for fewer certification outputs than the budgets of this package need.
    """

    n: int = 10_000  # ranked outputs of the paper's procedure; larger budgets of this package are in proportion
    paper_m: int = 1_000_000  # certification outputs of a full run of the paper's procedure
    measured_m: int = 100_000  # how many of them are drawn, at most
    digits: int = 10  # how many test digits
    other_digits: int = 5  # how many of them for other distances than the first
    distances: tuple[str, ...] = ("tv", "l2", "linf", "angular")  # by the names of certify.py
    # (n, m) of small budgets, as many as are to be tried
    fast: tuple[tuple[int, int], ...] = ((500, 1_000), (1_000, 1_000), (1_000, 2_000), (2_000, 2_000))
    h: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)  # eps_in / sigma, with 1 and 2 among them
    attack_h: tuple[float, ...] = (0.5, 1.0)  # at which of them smoothed outputs are attacked
    attack: AttackBudget = field(default_factory=lambda: AttackBudget(samples=8))
    attack_n: int = 2_000  # outputs of each smoothed output that tells what the attack reached, under common noise
    groups: tuple[int, ...] = (1, 4, 16)  # outputs of a group, of centers

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("measured_m", "paper_m"):
            if getattr(self, name) < 8 * self.n:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} must be at least {8 * self.n}, eight times --n, got {getattr(self, name)}")

    @property
    def drawn_m(self) -> int:
        """How many certification outputs of the paper's procedure are drawn."""
        return min(self.measured_m, self.paper_m)

    @property
    def looking_budget(self) -> SmoothingBudget:
        """For a stopping rule: the first look has just enough outputs for the check."""
        return exact_budget(self.n, 8 * self.n, looks=4)

    def distances_of(self, position: int) -> tuple[str, ...]:
        """Return the distances for the digit at this position, from 0."""
        return self.distances if position < self.other_digits else self.distances[:1]

    @property
    def counts(self) -> Mapping[Stage, int]:
        """How many outputs are recorded for each digit."""
        pilot = 256 * max(self.groups)  # of a group there are 256 at most
        averaged = {Stage.RANKING: 4 * self.n, Stage.CHECK: 3 * self.n}
        return {Stage.PILOT: pilot, **averaged, Stage.CERTIFICATION: self.drawn_m}


@dataclass(frozen=True)
class Row:
    """What one procedure gave for one digit."""

    procedure: str  # what it is called in tables
    n: int  # outputs that it ranked, or averaged
    m: int  # certification outputs, of the full run where only a part was run
    delta: float  # margin of the smoothed function; 0 for a mean
    evaluations: int  # of the base function, with m certification outputs
    seconds: float  # what they and all the rest take
    eps_out: Mapping[float, Estimate]  # certified radius by h
    smoothing_loss: float  # d(f(x), smoothed output); inf where the smoothed function abstained
    # how far an attack moves the smoothed output at least, by h; none where it was not attacked
    attack: Mapping[float, float] = field(default_factory=dict)
    # seconds that parts of the procedure were measured to take; none where it was measured as a whole
    parts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        procedure: str,
        certificate: CertificateBase,
        h: Sequence[float],
        *,
        seconds: float,
        evaluations: int | None = None,
    ) -> Row:
        """Make the row of a certificate; default: all evaluations of its budget."""
        budget = certificate.budget
        evaluations = evaluations or budget.evaluations
        eps_out = {each: Estimate.exactly(certificate.eps_out(each * certificate.sigma)) for each in h}
        loss = certificate.smoothing_loss
        return cls(procedure, budget.n, certificate.m, budget.delta, evaluations, seconds, eps_out, loss)


@dataclass(frozen=True)
class Digit:
    """All rows of one digit."""

    index: int  # in the data set
    # by the distance's name, and within it by the name of the comparison: the same for all digits
    rows: Mapping[str, Mapping[str, Sequence[Row]]]


def over_digits(digits: Sequence[Digit], distance: str, comparison: str) -> list[list[Row]]:
    """Return the rows of each procedure of a comparison, one a digit; nothing for digits without that distance."""
    listed = [digit.rows[distance][comparison] for digit in digits if comparison in digit.rows.get(distance, {})]
    return [list(rows) for rows in zip(*listed, strict=True)]


def median(rows: Sequence[Row], value: Callable[[Row], float]) -> float:
    """Return the upper median over digits."""
    return upper_median([value(row) for row in rows])


def median_eps_out(rows: Sequence[Row], h: float) -> Estimate:
    """Return the upper median over digits of the certified radius, and of either end of its interval."""
    return Estimate.median(row.eps_out[h] for row in rows)
