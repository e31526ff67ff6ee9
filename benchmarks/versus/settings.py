"""What is compared, fixed before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from center_smoothing import SmoothingBudget
from center_smoothing.sampling import Stage

# Mean smoothing clips outputs to this total variation, which those of digits rarely exceed.
CLIP_NORM = 150.0
# Sampling stops where further outputs could not lower eps_out by more than such a share.
RTOLS = (0.02, 0.05)


@lru_cache
def exact_budget(n: int, m: int, *, tuple_sizes: tuple[int, ...] | None = None, looks: int = 1) -> SmoothingBudget:
    """Make a budget of this package with its default delta, which is computed once and not for each digit."""
    return SmoothingBudget(n=n, m=m, tuple_sizes=tuple_sizes, looks=looks)


@dataclass(frozen=True)
class Settings:
    """Sample sizes and distances; the defaults are those of the documented figures.

    Raises:
        ValueError: for fewer certification outputs than the budgets of this package need.
    """

    # ranked outputs of the paper's procedure. Larger budgets of this package have as many, or twice as many.
    n: int = 10_000
    paper_m: int = 1_000_000  # certification outputs of a full run of the paper's procedure
    measured_m: int = 100_000  # how many of them are drawn, at most
    digits: int = 10  # how many test digits
    other_digits: int = 5  # how many of them for other distances than the first
    distances: tuple[str, ...] = ("tv", "angular", "l2")  # by the names of certify.py
    # (n, m) of small budgets, as many as are to be tried
    fast: tuple[tuple[int, int], ...] = ((500, 1_000), (1_000, 1_000), (1_000, 2_000), (2_000, 2_000))
    h: tuple[float, ...] = (1.0, 1.5, 2.0)  # eps_in / sigma, with 1 and 2 at the ends

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
    def fast_budgets(self) -> list[SmoothingBudget]:
        """For a radius like the paper's, quickly."""
        return [exact_budget(n, m) for n, m in self.fast]

    @property
    def full_budgets(self) -> list[SmoothingBudget]:
        """For a small radius."""
        n = self.n
        return [exact_budget(n, 2 * n), exact_budget(n, 4 * n), exact_budget(2 * n, 4 * n)]

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
        pilot = max(budget.k for budget in self.full_budgets)
        check, certification = {Stage.CHECK: self.n}, {Stage.CERTIFICATION: self.measured_m}
        return {Stage.PILOT: pilot, Stage.RANKING: 2 * self.n, **check, **certification}
