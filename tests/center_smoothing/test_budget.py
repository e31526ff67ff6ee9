import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from center_smoothing import Angular, CenterSmoother, Distance, Lp, SmoothingBudget
from center_smoothing.margins import Method


def failure_of_selection(budget: SmoothingBudget, delta: float) -> float:
    """Chance that no candidate is good, or too few ranked points lie around it, with scipy's binomial."""
    return (0.5 - delta) ** budget.k + stats.binom.cdf(budget.half - 1, budget.n, 0.5 + delta)


@pytest.mark.parametrize(("n", "delta"), [(1000, 0.1248), (2500, 0.08), (10_000, 0.0401)])
def test_default_delta_allows_for_all_candidates(n: int, delta: float) -> None:
    assert SmoothingBudget(n=n).delta == delta


@pytest.mark.parametrize("n", [25, 100, 101, 999])
@pytest.mark.parametrize("k", [8, 64])
@pytest.mark.parametrize("alpha_1", [0.005, 0.2])
def test_least_delta_makes_the_three_failures_sum_to_alpha_1(n: int, k: int, alpha_1: float) -> None:
    budget = SmoothingBudget(n=n, k=k, alpha_1=alpha_1, delta=0.4999)
    least = budget.least_delta
    assert failure_of_selection(budget, least) + budget.alpha_check <= alpha_1
    assert failure_of_selection(budget, least - 1e-6) + budget.alpha_check > alpha_1


@pytest.mark.parametrize("n", [100, 101, 10_000])
@pytest.mark.parametrize("alpha_1", [0.005, 0.1])
def test_paper_least_delta_is_the_papers_delta_1(n: int, alpha_1: float) -> None:
    budget = SmoothingBudget(n=n, alpha_1=alpha_1, method="paper", delta=0.49)
    expected = math.sqrt(math.log(2 / alpha_1) / (2 * n))
    assert budget.least_delta == pytest.approx(expected, rel=1e-13)
    assert budget.least_delta >= expected


@pytest.mark.parametrize("method", ["exact", "paper"])
@pytest.mark.parametrize("n", [200, 201, 1000, 10_000])
@pytest.mark.parametrize("alpha_1", [0.005, 0.1])
def test_default_delta_is_admissible_and_abstains_rarely(method: Method, n: int, alpha_1: float) -> None:
    budget = SmoothingBudget(n=n, alpha_1=alpha_1, method=method)
    assert budget.least_delta <= budget.delta < 0.5
    assert budget.abstention_probability() <= 0.01
    assert SmoothingBudget(n=n, alpha_1=alpha_1, method=method, delta=budget.delta) == budget


@pytest.mark.parametrize(("method", "n_check"), [("exact", 120), ("exact", 77), ("paper", 120)])
def test_default_delta_is_where_the_least_inside_rarely_misses(method: Method, n_check: int) -> None:
    budget = SmoothingBudget(n=120, n_check=n_check, method=method)
    rarely = [dataclasses.replace(budget, delta=budget.delta + shift).abstention_probability() <= 0.01
              for shift in (-2e-4, 0.0, 2e-4)]  # fmt: skip
    assert rarely[1:] == [True, True]
    least_inside = dataclasses.replace(budget, delta=budget.delta - 2e-4).least_inside()
    assert rarely[0] == (least_inside == budget.least_inside())


@given(
    n=st.integers(1, 2000),
    k=st.integers(1, 80),
    alpha_1=st.floats(1e-6, 0.5),
    n_check=st.integers(1, 2000),
    method=st.sampled_from(["exact", "paper"]),
    delta=st.floats(0.001, 0.4999),
)
def test_least_inside_is_where_the_check_begins_to_pass(
    n: int, k: int, alpha_1: float, n_check: int, method: Method, delta: float
) -> None:
    n_check = n if method == "paper" else n_check
    try:
        budget = SmoothingBudget(n=n, m=10, k=k, alpha_1=alpha_1, n_check=n_check, method=method, delta=delta)
    except ValueError:
        assume(False)
    least = budget.least_inside()
    passing = [inside for inside in range(n_check + 1) if 0.5 - budget.mass_lower_bound(inside) <= delta]
    assert passing == list(range(least, n_check + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "hoeffding"}, "method must be one of exact, paper, got 'hoeffding'"),
        ({"n": 0}, "n must be a whole number of at least 1, got 0"),
        ({"n": True}, "n must be .* got True"),
        ({"m": 10.0}, "m must be a whole number of at least 1, got 10.0"),
        ({"m": "10"}, "m must .* got '10'"),
        ({"k": -1}, "k must .* got -1"),
        ({"n_check": 0}, "n_check must .* got 0"),
        ({"n_check": 1.5}, "n_check must .* got 1.5"),
        ({"alpha_1": 0.0}, r"alpha_1 must lie in \(0, 0.5\], got 0.0"),
        ({"alpha_1": 0.6}, "alpha_1 must .* got 0.6"),
        ({"alpha_2": math.nan}, "alpha_2 must .* got nan"),
        ({"alpha_2": -0.1}, "alpha_2 must .* got -0.1"),
        ({"n": 100, "n_check": 50, "method": "paper"}, "n_check must equal n=100 for method='paper', got 50"),
        ({"k": 32, "delta": 0.5}, r"delta must lie in \[0.014\d*, 0.5\) for n=10000, k=32, .* got 0.5"),
        ({"delta": 0.0}, "delta must .* got 0.0"),
        ({"delta": math.nan}, "delta must .* got nan"),
        ({"delta": "small"}, "delta must .* got 'small'"),
        ({"n": 5, "method": "paper"}, r"n=5 .* admits no delta below 0.5 at alpha_1=0.005; n=12 does"),
        ({"candidates": 0}, "candidates must .* got 0"),
        ({"looks": 0}, "looks must .* got 0"),
        ({"m": 20_000, "looks": 3}, "looks must be .* the first of them, at 5000 outputs, has the n_check=10000"),
        ({"looks": 2, "method": "paper"}, "looks must be 1 for method='paper', got 2"),
        ({"group": 0}, "group must be a whole number of at least 1, got 0"),
        ({"group": 2.0}, "group must .* got 2.0"),
        ({"group": 4, "method": "paper"}, "group must be 1 for method='paper', got 4"),
        ({"tuple_sizes": (2, 1)}, r"tuple_sizes must be ascending .* got \(2, 1\)"),
        ({"tuple_sizes": (0,)}, r"tuple_sizes must be .* got \(0,\)"),
        ({"tuple_sizes": "124"}, "tuple_sizes must be .* got '124'"),
        ({"tuple_sizes": (1,), "method": "paper"}, r"tuple_sizes must be \(\) for method='paper'"),
        ({"n": 10}, "n=10 with n_check=10 is too small for a default delta"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmoothingBudget(**arguments)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_the_least_delta_in_the_message_is_accepted(method: Method) -> None:
    with pytest.raises(ValueError, match="delta must lie") as caught:
        SmoothingBudget(n=2500, k=32, delta=0.01, method=method)
    least = float(str(caught.value).split("[")[1].split(",")[0])
    budget = SmoothingBudget(n=2500, k=32, delta=least, method=method)
    assert budget.least_delta <= least <= budget.least_delta + 1e-4
    with pytest.raises(ValueError, match="delta must lie"):
        SmoothingBudget(n=2500, k=32, delta=budget.least_delta - 1e-9, method=method)


@pytest.mark.parametrize(("n", "k", "alpha_1"), [(20, 1, 1e-9), (23, 2, 1e-9), (30, 1, 1e-4)])
def test_nobody_is_told_of_a_delta_that_was_not_given(n: int, k: int, alpha_1: float) -> None:
    try:
        budget = SmoothingBudget(n=n, m=10, k=k, alpha_1=alpha_1)
    except ValueError as error:
        assert "default delta" in str(error)  # noqa: PT017  # it may also succeed
    else:
        assert budget.delta < 0.5


def test_plan_figures_by_hand() -> None:
    budget = SmoothingBudget(n=10_000, m=10_000, k=64, delta=0.05, tuple_sizes=())
    plan = budget.plan(2.0)
    assert plan.h == 2.0
    assert plan.p == pytest.approx(stats.norm.cdf(stats.norm.ppf(0.55) + 2.0), abs=1e-13)
    assert plan.rank == 9865
    assert plan.least_m == 314
    assert plan.certifiable
    assert plan.abstention_probability == budget.abstention_probability()
    assert plan.evaluations == budget.evaluations == 64 + 10_000 + 10_000


def test_plan_of_the_paper() -> None:
    budget = SmoothingBudget(n=10_000, m=10**6, delta=0.05, method="paper")
    plan = budget.plan(2.0)
    assert plan.rank / 10**6 == pytest.approx(0.98486, abs=5e-6)
    assert plan.least_m == 9425
    assert plan.evaluations == 2 * 10_000 + 10**6


def test_plan_at_an_unreachable_radius() -> None:
    plan = SmoothingBudget().plan(math.inf)
    assert (plan.p, plan.least_m, plan.certifiable) == (1.0, math.inf, False)
    assert plan.rank == SmoothingBudget().m + 1


@pytest.mark.parametrize("h", [-1.0, math.nan])
def test_plan_refuses_a_negative_h(h: float) -> None:
    with pytest.raises(ValueError, match="h must be at least 0, got"):
        SmoothingBudget().plan(h)


def test_ranks_and_alphas_of_each_method() -> None:
    exact, paper = SmoothingBudget(m=10_000, tuple_sizes=()), SmoothingBudget(m=10_000, method="paper")
    p = exact.plan(1.0).p
    assert exact.ranks(1.0).distances == stats.binom.isf(0.005, 10_000, p) + 1
    assert exact.ranks(1.0, coverage="bonferroni", answers=5).distances == stats.binom.isf(0.001, 10_000, p) + 1
    p = paper.plan(1.0).p
    assert paper.ranks(1.0).distances == math.ceil((p + math.sqrt(math.log(200) / 20_000)) * 10_000)
    assert exact.alpha == pytest.approx(0.01)
    assert exact.alpha_check == pytest.approx(0.0025)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_as_dict_survives_json(method: Method) -> None:
    budget = SmoothingBudget(n=500, m=700, k=9, alpha_1=0.1, alpha_2=0.02, method=method)
    assert SmoothingBudget(**json.loads(json.dumps(budget.as_dict()))) == budget


@pytest.mark.parametrize(("n", "delta"), [(50, 0.46), (100, 0.3), (101, 0.3), (1000, 0.1)])
def test_papers_abstention_bound_covers_the_union_bound_over_its_candidates(n: int, delta: float) -> None:
    budget = SmoothingBudget(n=n, m=10, delta=delta, alpha_1=0.2, method="paper")
    # a candidate is one of the n: itself, at distance 0, and half - 1 of the n - 1 others
    levels = (np.arange(100_000) + 0.5) / 100_000 / n
    masses = stats.beta.ppf(levels, budget.half - 1, n + 1 - budget.half)
    union = stats.binom.cdf(budget.least_inside() - 1, n, masses).mean()
    assert union <= budget.abstention_probability() <= 1.1 * union + 0.001


@pytest.mark.parametrize(
    ("method", "distance", "delta"),
    [("exact", Lp(1), 0.11), ("exact", Angular(), 0.13), ("paper", Angular(), 0.16)],
)
def test_abstention_probability_bounds_the_rate_of_abstentions(
    method: Method, distance: Distance, delta: float
) -> None:
    budget = SmoothingBudget(n=150, m=1, k=16, alpha_1=0.3, alpha_2=0.1, delta=delta, method=method)
    smoother = CenterSmoother(
        lambda z: z[:, :1] if isinstance(distance, Lp) else z, distance, sigma=1.0, budget=budget, batch_size=150
    )
    x, runs = torch.zeros(6), 40
    abstained = sum(smoother.smooth(x, example=run).abstained for run in range(runs))
    bound = budget.abstention_probability()
    print(f"{method} {distance}: {abstained} of {runs} abstain, at most {bound:.3f} should")
    assert 0.02 < bound < 0.98
    assert stats.binom.sf(abstained - 1, runs, bound) > 1e-4
