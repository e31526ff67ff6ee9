"""Budgets of medians: quantiles, ranks and plans, checked by mpmath and by counting."""

import math
from typing import Any

import mpmath
import pytest
import torch
from scipy import stats

from center_smoothing import MedianBudget

BUDGET = MedianBudget(n=101, m=400, alpha_1=0.01, alpha_2=0.02, numbers=5)


def shortfall(n: int, p: mpmath.mpf, r: int) -> mpmath.mpf:
    """P[Bin(n, p) < r], term by term."""
    return mpmath.fsum(mpmath.binomial(n, k) * p**k * (1 - p) ** (n - k) for k in range(r))


@pytest.mark.parametrize("numbers", [1, 5, 784])
@pytest.mark.parametrize("n", [1, 11, 301])
def test_medians_lie_within_the_margin(n: int, numbers: int) -> None:
    budget = MedianBudget(n=n, m=100, alpha_1=0.01, numbers=numbers)
    with mpmath.workdps(50):
        level, mass = mpmath.mpf(budget.alpha_1) / (2 * numbers), mpmath.mpf("0.5") + mpmath.mpf(budget.delta)
        assert shortfall(n, mass, (n + 1) // 2) <= level
        assert shortfall(n, mass - mpmath.mpf("1e-9"), (n + 1) // 2) > level


@pytest.mark.parametrize("h", [0.0, 0.3, 1.0, 2.0])
def test_the_rank_is_that_of_the_shifted_mass(h: float) -> None:
    p = stats.norm.cdf(stats.norm.ppf(0.5 + BUDGET.delta) + h)
    rank, level = BUDGET.rank(h), 0.02 / 10
    assert stats.binom.sf(rank - 1, 400, p) <= level < stats.binom.sf(rank - 2, 400, p)
    plan = BUDGET.plan(h)
    assert (plan.rank, plan.certifiable, plan.margin) == (rank, rank <= 400, BUDGET.delta)
    assert plan.p == pytest.approx(p, abs=1e-12)
    assert p**plan.least_m <= level < p ** (plan.least_m - 1)


def test_more_answers_and_whole_curves_take_larger_ranks() -> None:
    pointwise, both, curve = (
        BUDGET.rank(0.5, coverage=coverage, answers=2) for coverage in ("pointwise", "bonferroni", "dkw")
    )
    assert pointwise < both < curve
    assert both == MedianBudget(n=101, m=400, alpha_1=0.01, alpha_2=0.01, numbers=5).rank(0.5)


def test_kept_ranks_are_those_of_multiples_of_a_twentieth_and_m() -> None:
    kept = BUDGET.kept_ranks()
    certified = [BUDGET.rank(step * 0.05) for step in range(200) if BUDGET.rank(step * 0.05) <= 400]
    assert kept.tolist() == sorted({*certified, 400})
    assert MedianBudget(n=1, m=3).kept_ranks().tolist() == [3]  # which certifies nothing


def test_a_sample_that_is_too_small_certifies_nothing() -> None:
    plan = BUDGET.plan(6.0)
    assert not plan.certifiable
    assert plan.rank == 401
    assert not BUDGET.certifies(6.0, m=400, coverage="pointwise", answers=1)
    assert BUDGET.certifies(1.0, m=400, coverage="pointwise", answers=1)
    assert not BUDGET.certifies(1.0, m=9, coverage="pointwise", answers=1)
    assert math.isinf(BUDGET.plan(40.0).least_m)


def test_outputs_say_how_many_numbers_share_alpha() -> None:
    assert BUDGET.for_output(torch.zeros(3, 4)).numbers == 12
    assert BUDGET.for_output(torch.tensor(1.0)).numbers == 1
    assert MedianBudget.from_dict(BUDGET.as_dict()).for_output(torch.zeros(5)) == BUDGET


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 100}, "n must be odd, so that there is a middle one, got 100; 101 does"),
        ({"m": 0}, "m must be a whole number of at least 1, got 0"),
        ({"numbers": 0}, "numbers must be"),
        ({"alpha_1": 0.6}, r"alpha_1 must lie in \(0, 0.5\], got 0.6"),
    ],
)
def test_values_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedianBudget(**given)
