import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from center_smoothing import MeanBudget
from center_smoothing.means.budget import split, tail_counts

M = st.integers(1, 10**7)


@given(m=M)
def test_counts_rise_from_none_by_one_or_a_tenth(m: int) -> None:
    counts = tail_counts(m)
    assert counts[0] == 0
    assert counts[-1] < m
    np.testing.assert_array_equal(np.diff(counts), np.maximum(1, (counts[:-1] + 9) // 10))
    assert counts[-1] + max(1, (counts[-1] + 9) // 10) >= m


@given(alpha=st.floats(1e-12, 0.5), levels=st.integers(1, 500))
def test_the_parts_of_alpha_add_up_to_it(alpha: float, levels: int) -> None:
    parts = split(alpha, levels)
    assert parts.shape == (levels,)
    assert math.fsum(parts) == pytest.approx(alpha, rel=1e-14)
    assert np.all(parts > 0.0)
    assert levels == 1 or parts[0] == pytest.approx(0.8 * alpha)


@pytest.mark.parametrize("m", [1, 2, 11, 500, 100_000])
def test_tails_are_clopper_pearson_bounds_at_their_part_of_alpha(m: int) -> None:
    ranks, tails = MeanBudget(n=100, m=m, alpha_2=0.05).tails()
    counts = m - ranks
    assert counts.tolist() == tail_counts(m)[::-1].tolist()
    assert ranks[-1] == m
    parts = split(0.05, len(ranks))[::-1]
    expected = np.where(counts == 0, 1 - parts ** (1 / m), stats.beta.isf(parts, counts + 1, m - counts))
    np.testing.assert_allclose(tails, np.minimum.accumulate(expected), rtol=1e-8)
    assert np.all(np.diff(tails) <= 0.0)


def test_groups_are_certified_as_fewer_draws_of_more_noise() -> None:
    grouped, single = MeanBudget(n=120, m=600, group=4), MeanBudget(n=30, m=150)
    for ours, theirs in zip(grouped.tails(), single.tails(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (grouped.num_terms, grouped.num_distances) == (30, 150)
    assert (single.num_terms, single.num_distances) == (30, 150)
    assert grouped.shift(0.7) == pytest.approx(1.4)
    assert single.shift(0.7) == 0.7


@pytest.mark.parametrize("h", [0.0, 1.0, 2.0])
def test_plan(h: float) -> None:
    plan = MeanBudget(n=10_000, m=100_000, alpha_2=0.01).plan(h)
    tail = 1 - (0.8 * 0.01) ** 1e-5
    assert plan.h == h
    assert plan.tail == pytest.approx(tail, rel=1e-9)
    assert plan.tail_at_bound == pytest.approx(stats.norm.cdf(stats.norm.ppf(tail) + h), rel=1e-8)
    assert plan.levels == len(tail_counts(100_000))
    assert plan.evaluations == 110_000
    assert plan.certifiable
    assert plan.abstention_probability == 0.0
    assert MeanBudget(m=100_000, group=4).plan(h).tail_at_bound == MeanBudget(m=25_000).plan(2 * h).tail_at_bound


@pytest.mark.parametrize("h", [-1.0, math.nan])
def test_a_plan_at_an_impossible_h_is_refused(h: float) -> None:
    with pytest.raises(ValueError, match="h must be at least 0, got"):
        MeanBudget().plan(h)


@given(
    n=st.integers(1, 10**6),
    m=st.integers(1, 10**6),
    group=st.integers(1, 9),
    alphas=st.tuples(st.floats(1e-9, 0.5), st.floats(1e-9, 0.5)),
)
def test_plain_values_make_an_equal_budget(n: int, m: int, group: int, alphas: tuple[float, float]) -> None:
    budget = MeanBudget(n=n * group, m=m * group, group=group, alpha_1=alphas[0], alpha_2=alphas[1])
    assert MeanBudget(**json.loads(json.dumps(budget.as_dict()))) == budget


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 0}, "n must be a whole number of at least 1, got 0"),
        ({"m": 2.0}, "m must be a whole number of at least 1, got 2.0"),
        ({"group": True}, "group must be a whole number of at least 1, got True"),
        ({"n": 10, "m": 9, "group": 2}, "group must divide n=10 and m=9, got 2"),
        ({"n": 9, "m": 10, "group": 2}, "group must divide n=9 and m=10, got 2"),
        ({"alpha_1": 0.0}, r"alpha_1 must lie in \(0, 0.5\], got 0.0"),
        ({"alpha_2": 0.6}, r"alpha_2 must lie in \(0, 0.5\], got 0.6"),
    ],
)
def test_impossible_budgets_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeanBudget(**values)


def test_two_theorems_share_both_failure_probabilities() -> None:
    budget = MeanBudget(n=6, m=9, group=3, alpha_1=0.1, alpha_2=0.04)
    assert budget.shared() == MeanBudget(n=6, m=9, group=3, alpha_1=0.05, alpha_2=0.02)
