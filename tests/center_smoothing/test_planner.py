import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from center_smoothing import CenterSmoother, Lp, SmoothingBudget
from center_smoothing.budget import Coverage
from center_smoothing.planner import Demand, best_budget, least_evaluations, predicted_eps_out

USUAL = Demand(h=(1.0, 1.5, 2.0))
DEMANDS = {
    "one h": Demand(h=(1.0,)),
    "several h": USUAL,
    "large h": Demand(h=(3.0,)),
    "sample centers": Demand(h=(1.0,), averages=False),
    "all at once": Demand(h=(0.5, 1.0), coverage="dkw"),
    "bonferroni": Demand(h=(0.5, 1.0), coverage="bonferroni", answers=2),
    "early stop": Demand(h=(1.0,), stops=True),
    "paper": Demand(h=(1.0,), fixed={"method": "paper", "delta": 0.1}),
    "fixed n": Demand(h=(1.0,), fixed={"n": 777}),
    "fixed k": Demand(h=(1.0,), fixed={"k": 40, "alpha_1": 0.05, "alpha_2": 0.01}),
}


def test_the_model_foretells_the_certificates_of_gaussian_outputs() -> None:
    """Of f(x) = x in 16 dimensions, whose outputs are those of the model."""
    budget = SmoothingBudget(n=1000, m=3000)
    smoother = CenterSmoother(lambda z: z, Lp(2), sigma=1.0, budget=budget, batch_size=1024)
    certificates = [smoother.certify(torch.zeros(16), example=run) for run in range(8)]
    for h in (0.5, 1.0, 2.0):
        mean = np.mean([certificate.eps_out(h) for certificate in certificates])
        assert predicted_eps_out(budget, h) == pytest.approx(mean, rel=0.03)


def test_without_probes_the_prediction_is_three_quantiles_of_a_chi_variable() -> None:
    budget = SmoothingBudget(n=1000, m=3000, tuple_sizes=())
    level = budget.ranks(1.0).distances / 3001
    expected = 3.0 * math.sqrt(1 + 1 / budget.k) * stats.chi(16).ppf(level)
    assert predicted_eps_out(budget, 1.0) == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize(("coverage", "answers"), [("pointwise", 1), ("bonferroni", 3), ("dkw", 3)])
def test_the_prediction_is_inf_where_the_budget_certifies_nothing(coverage: Coverage, answers: int) -> None:
    for m in (20, 40, 80, 160, 320, 640, 1280):
        budget = SmoothingBudget(n=500, m=m, delta=0.2)
        certifiable = budget.ranks(1.5, coverage=coverage, answers=answers).distances <= m
        predicted = predicted_eps_out(budget, 1.5, coverage=coverage, answers=answers)
        assert (predicted < math.inf) == certifiable


@pytest.mark.parametrize("name", DEMANDS)
def test_the_chosen_budget_is_within_the_evaluations_and_certifies_all(name: str) -> None:
    demand, evaluations = DEMANDS[name], 20_000 if name == "large h" else 6_000
    budget = best_budget(demand, evaluations)
    assert budget is not None
    assert 0.8 * evaluations < budget.evaluations <= evaluations or "n" in demand.fixed or "delta" in demand.fixed
    assert budget.m >= budget.n == budget.n_check
    assert demand.predicted(budget) < math.inf
    assert demand.averages or budget.without_averages() == budget
    assert dataclasses.replace(budget, **demand.fixed) == budget
    assert (budget.looks > 1) == demand.stops


@pytest.mark.parametrize("name", DEMANDS)
def test_the_least_evaluations_are_enough_and_one_less_is_not(name: str) -> None:
    least = least_evaluations(DEMANDS[name])
    assert best_budget(DEMANDS[name], least - 1) is None
    budget = best_budget(DEMANDS[name], least)
    assert budget is not None
    assert budget.evaluations == least


@given(name=st.sampled_from(sorted(DEMANDS)), evaluations=st.floats(200, 2_500), more=st.floats(1.0, 3.0))
@settings(max_examples=6)
def test_more_evaluations_never_make_the_prediction_worse(name: str, evaluations: float, more: float) -> None:
    demand = DEMANDS[name]
    fewer, budget = best_budget(demand, evaluations), best_budget(demand, evaluations * more)
    if fewer is not None:
        assert budget is not None
        assert demand.predicted(budget) <= demand.predicted(fewer)


def test_no_other_division_of_the_evaluations_is_much_better() -> None:
    budget = best_budget(USUAL, 12_000)
    assert budget is not None
    assert SmoothingBudget(n=budget.n, m=budget.m) == budget  # with the default delta and k
    for n, k in ((1000, 256), (2000, 64), (3000, 512), (5000, 256)):
        other = SmoothingBudget(n=n, k=k, m=12_000 - n - k)
        assert USUAL.predicted(budget) < 1.005 * USUAL.predicted(other)
    assert predicted_eps_out(budget, 1.0, averages=False) > predicted_eps_out(budget, 1.0)


def test_no_number_of_evaluations_certifies_what_float64_cannot_tell_from_everything() -> None:
    assert least_evaluations(Demand(h=(1.0, 9.0))) == math.inf
    assert best_budget(Demand(h=(9.0,)), 5_000) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"h": ()}, r"h must name at least one number of at least 0, got \(\)"),
        ({"h": (1.0, -1.0)}, "h must name .* -1.0"),
        ({"h": (math.nan,)}, r"h must name .*\(nan,\)"),
        ({"h": (1.0,), "fixed": {"m": 100}}, "fixed must leave m open, got m=100"),
        ({"h": (1.0,), "fixed": {"alpha_1": 2.0}}, r"alpha_1 must lie in \(0, 0.5\], got 2.0"),
        ({"h": (1.0,), "fixed": {"delta": 0.6}}, "delta must lie in .* got 0.6"),
        ({"h": (1.0,), "fixed": {"n": 100, "delta": 0.01}}, "delta must lie in .*n=100.* got 0.01"),
    ],
)
def test_errors_name_the_argument_and_the_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Demand(**arguments)
