"""Which budget makes the most of a number of evaluations: chosen before sampling, from a model of the outputs.

The model: outputs are isotropic Gaussian in 16 dimensions, compared by the l2 norm. Then the distances from the center,
and from each probe, have noncentral chi distributions, and the order statistics that make eps_out can be foretold. The
scale does not matter, and on real networks the order of the budgets is much the same. The model guides the choice and
nothing else: what a certificate promises holds for every budget that was fixed before sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scipy import special

from center_smoothing import bounds
from center_smoothing.budget import Budget, Coverage, SmoothingBudget
from center_smoothing.noise_kinds import NoiseKind, noise_kind
from center_smoothing.scalars import make_plain
from center_smoothing.stopping import with_looks

_DIMENSIONS = 16
# Steps to a power of ten, of n and of m. The prediction hardly depends on n, but time that m does not use is lost.
_STEPS_OF_N, _STEPS_OF_M = 6, 48
_MIN_N = 100
# As many pilot outputs as the default ever takes. Where there are few evaluations they can be worth their price.
_MAX_PILOT = 256
# Of one example: more evaluations than these are beyond everybody.
_MAX_M = 10**9
# Where groups pay most: the mass that half of the outputs at x' needs at x, Phi(2); and how many of them make a good
# center (docs/results.md).
_SUITED_MASS, _MIN_GROUPS, _MAX_GROUP = 0.9772498680518208, 400, 64


def predicted_eps_out(
    budget: SmoothingBudget, h: float, *, averages: bool = True, coverage: Coverage = "pointwise", answers: int = 1
) -> float:
    """Predict eps_out of the model at h, in standard deviations of the outputs; inf where nothing is certified.

    R and t of theory T3 and T7 at the expected levels of their order statistics. Groups are aggregated by their mean.
    The smoothed output is taken as the pilot's mean, or, where outputs cannot be averaged, as the candidate that is
    nearest to the middle.

    Arguments beside budget and h >= 0 are as in :class:`Demand`.

    Example:
        >>> round(predicted_eps_out(SmoothingBudget(n=10_000, m=20_000, delta=0.05), 1.0), 2)
        10.56
    """
    if not averages:
        budget = budget.without_averages()
    ranks = budget.ranks(h, coverage=coverage, answers=answers)
    if ranks.distances > budget.m:
        return math.inf
    radius = _distance_quantile(ranks.distances / (budget.m + 1), _squared_offset(budget, averages))
    others = [2.0 * radius]
    for size, among, within in ranks.probes:
        squared_norm = _squared_norm_quantile(among / (budget.probes + 1)) / size
        others.append(_distance_quantile(within / (budget.compared(budget.m) + 1), squared_norm))
    return (radius + min(others)) / math.sqrt(budget.group)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a budget is chosen for.

    Attributes:
        h: the eps_in / sigma that are asked, at least one, each at least 0.
        averages: whether outputs can be averaged, as in :class:`Distance`.
        coverage: of the answers.
        answers: how many are counted for ``"bonferroni"``.
        stops: whether sampling may stop early, see :func:`center_smoothing.stopping.with_looks`.
        fixed: what the budget must have, under the names of :class:`SmoothingBudget`, but for m. Others raise
            ValueError.
    """

    h: tuple[float, ...]
    averages: bool = True
    coverage: Coverage = "pointwise"
    answers: int = 1
    stops: bool = False
    fixed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate: what is fixed has to be admitted by an n."""
        make_plain(self)
        if not self.h or not all(h >= 0.0 for h in self.h):
            raise ValueError(f"h must name at least one number of at least 0, got {self.h!r}")
        if "m" in self.fixed:
            raise ValueError(f"fixed must leave m open, got m={self.fixed['m']!r}")
        n = self.fixed.get("n")
        admitted = self.fixed if n is not None else {"delta": 0.4, **self.fixed, "n": (n := _MAX_M // 10)}
        SmoothingBudget(**{**admitted, "m": n})

    @property
    def group(self) -> int:
        """How many outputs are aggregated into one; 1 where it is not fixed."""
        return int(self.fixed.get("group") or 1)

    @property
    def noise(self) -> NoiseKind:
        """The kind of noise."""
        return noise_kind(self.fixed.get("noise", SmoothingBudget.noise))

    def predicted(self, budget: SmoothingBudget) -> float:
        """Return the geometric mean of the predicted eps_out at all h: each counts by its share. inf if any is."""
        how: dict[str, Any] = {"averages": self.averages, "coverage": self.coverage, "answers": self.answers}
        logarithms = [math.log(predicted_eps_out(budget, h, **how)) for h in self.h]
        return math.exp(sum(logarithms) / len(logarithms))


def suited_group(make: Callable[[int], Budget], h: Sequence[float], noise: str = "gaussian") -> int:
    """Return how many outputs to aggregate into one (theory T13), from what is asked and the budget alone.

    The largest J up to 64 whose copies move by what needs at most the mass Phi(2), sqrt(J) h <= 2 for Gaussians, at
    the smallest positive h, with at least 400 groups for the smoothed output, and a certificate at every h.

    ``make`` gives the budget with groups of J, and may raise ValueError where there is none; 1 where no other J suits.

    Example:
        >>> suited_group(lambda J: SmoothingBudget(n=10_000 // J, m=20_000 // J, group=J), [0.5])
        16
    """
    smallest, kind = min((each for each in h if each > 0.0), default=math.inf), noise_kind(noise)
    farthest = kind.h_between(0.5, _SUITED_MASS) * (1.0 + 1e-9)
    for group in range(_MAX_GROUP, 1, -1):
        if kind.of_copies(smallest, group) > farthest:
            continue
        try:
            budget = make(group)
        except ValueError:
            continue
        if budget.n >= _MIN_GROUPS and all(budget.plan(each).certifiable for each in h):
            return group
    return 1


def best_budget(demand: Demand, evaluations: float) -> SmoothingBudget | None:
    """Return the budget with the least predicted eps_out among all that cost at most so much.

    n and m are of fixed grids, m at least n so that the check costs nothing more (theory T8), k is the default of that
    n or 256, and delta the default of both, as far as they are not fixed. As all cheaper budgets are considered, more
    evaluations, of the base function for one example, never make the prediction worse. None if none certifies all h.
    """
    best, least = None, math.inf
    for n in _sizes(demand):
        if 2 * n * demand.group > evaluations:
            break
        for smallest in _smallest_budgets(n, demand):
            for budget in _with_more(smallest, smallest.m, demand):
                if budget.evaluations > evaluations:
                    break
                predicted = demand.predicted(budget)
                if predicted < least:
                    best, least = budget, predicted
    return best


def least_evaluations(demand: Demand) -> float:
    """Return the least number of evaluations at which :func:`best_budget` finds a budget; inf beyond 10^9."""
    p = demand.noise.mass_needed(0.5, demand.noise.of_copies(max(demand.h), demand.group))
    if bounds.order_statistic_least_m(p, demand.fixed.get("alpha_2", SmoothingBudget.alpha_2)) > _MAX_M:
        return math.inf
    least: float = math.inf
    for n in _sizes(demand):
        if 2 * n * demand.group >= least:
            break
        for smallest in _smallest_budgets(n, demand):
            enough = max(smallest.plan(h).least_m for h in demand.h)
            for budget in _with_more(smallest, max(smallest.m, enough), demand):
                if budget.evaluations >= least or demand.predicted(budget) < math.inf:
                    least = min(least, budget.evaluations)
                    break
    return least


def _sizes(demand: Demand) -> Iterator[int]:
    """Yield the n that are considered, ascending."""
    n = demand.fixed.get("n")
    yield from _grid(_MIN_N, _STEPS_OF_N) if n is None else [n]


def _smallest_budgets(n: int, demand: Demand) -> Iterator[SmoothingBudget]:
    """Yield for each k that is considered the budget of that n with the least m; none where n is too small."""
    for k in dict.fromkeys([demand.fixed["k"]] if "k" in demand.fixed else [None, _MAX_PILOT]):
        try:
            budget = SmoothingBudget(**{**demand.fixed, "k": k, "n": n, "m": n})  # of the least m: the check is free
        except ValueError:  # this n does not admit the delta, or its default
            return
        yield budget if demand.averages else budget.without_averages()


def _with_more(smallest: SmoothingBudget, m: float, demand: Demand) -> Iterator[SmoothingBudget]:
    """Yield the same budget with each m of the grid from that one, and the looks that are of use."""
    for larger in _grid(m, _STEPS_OF_M):
        budget = replace(smallest, m=larger)
        if not demand.stops:
            yield budget
            continue
        try:
            yield with_looks(budget, max(demand.h))
        except ValueError:  # too small to be looked at twice
            continue


def _grid(start: float, steps: int) -> Iterator[int]:
    """Yield whole numbers from ``start`` up to 10^9, so many to a power of ten, of at most three digits."""
    for step in range(2 * steps, 9 * steps + 1):
        value = int(float(f"{10.0 ** (step / steps):.3g}"))
        if value >= start:
            yield value


def _squared_offset(budget: SmoothingBudget, averages: bool) -> float:
    """Return the squared distance of the smoothed output from the middle of the outputs."""
    if budget.method == "exact" and averages:
        return _DIMENSIONS / budget.k
    candidates = budget.n if budget.method == "paper" else budget.tuples(1)
    return _squared_norm_quantile(1.0 / (candidates + 1))


def _squared_norm_quantile(level: float) -> float:
    return float(special.chdtri(_DIMENSIONS, 1.0 - level))


def _distance_quantile(level: float, squared_offset: float) -> float:
    """Return the quantile of the distances of the model's outputs from a point."""
    return math.sqrt(special.chndtrix(level, _DIMENSIONS, squared_offset))
