"""What is compared, fixed before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from center_smoothing import SmoothingBudget
from center_smoothing.attack import AttackBudget
from center_smoothing.noise import Stage

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
