"""What a budget says that it costs is what the model is given to evaluate."""

from typing import Any

import pytest
import torch
from torch import Tensor

from center_smoothing import CenterSmoother, FunctionDistance, Lp, MeanBudget, MeanSmoother, SmoothingBudget
from center_smoothing.attack import AttackBudget, attack

SMALL: dict[str, Any] = {"alpha_1": 0.1, "alpha_2": 0.1, "delta": 0.2}
BUDGETS = {
    "exact": SmoothingBudget(n=101, m=150, k=16, **SMALL),
    "exact, m < n_check": SmoothingBudget(n=101, m=50, k=16, n_check=120, **SMALL),
    "exact, n_check < m < n": SmoothingBudget(n=101, m=60, k=16, n_check=40, **{**SMALL, "delta": 0.35}),
    "exact, no probes": SmoothingBudget(n=101, m=150, k=16, tuple_sizes=(), **SMALL),
    "exact, looks": SmoothingBudget(n=101, m=810, k=16, looks=4, **SMALL),
    "exact, groups": SmoothingBudget(n=101, m=150, k=16, group=5, **SMALL),
    "paper": SmoothingBudget(n=101, m=150, method="paper", **SMALL),
    "paper, m < n": SmoothingBudget(n=101, m=30, method="paper", **SMALL),
    "mean": MeanBudget(n=60, m=120),
    "mean, m < n": MeanBudget(n=120, m=60),
    "mean, groups": MeanBudget(n=60, m=120, group=4),
}


class Counted:
    """A base function that counts the rows it is called with."""

    def __init__(self, shift: float = 0.0) -> None:
        self.rows, self.shift = 0, shift

    def __call__(self, z: Tensor) -> Tensor:
        self.rows += len(z)
        return z.sin() + self.shift


def smoother(model: Any, budget: Any, **more: Any) -> Any:  # noqa: ANN401
    if isinstance(budget, MeanBudget):
        return MeanSmoother(model, Lp(2), sigma=0.5, budget=budget, clip_norm=3.0, batch_size=16, **more)
    return CenterSmoother(model, Lp(2), sigma=0.5, budget=budget, batch_size=16, **more)


@pytest.mark.parametrize("name", BUDGETS)
def test_the_model_is_evaluated_as_often_as_plan_and_budget_say(name: str) -> None:
    budget, model, counts = BUDGETS[name], Counted(), list[int]()
    certificate = smoother(model, budget, progress=counts.append).certify(torch.zeros(3))
    assert not certificate.abstained
    assert model.rows - 1 == sum(counts) == budget.evaluations == budget.plan(1.0).evaluations
    assert certificate.m == budget.m
    smoothed = Counted()
    smoother(smoothed, budget).smooth(torch.zeros(3))
    assert smoothed.rows == budget.evaluations_to_smooth


@pytest.mark.parametrize("averages", [True, False])
def test_outputs_without_averages_cost_the_same(averages: bool) -> None:
    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().amax(dim=1)

    model, budget = Counted(), BUDGETS["exact"]
    CenterSmoother(
        model, FunctionDistance(distance, averages=averages), sigma=0.5, budget=budget, batch_size=16
    ).certify(torch.zeros(3))
    assert model.rows - 1 == budget.evaluations


def test_a_stop_saves_what_was_not_drawn() -> None:
    budget, model = BUDGETS["exact, looks"], Counted()
    certificate = smoother(model, budget).certify(torch.zeros(3), stop=lambda found: found.m > 150)
    first = -(-budget.look_sizes[1] // 16) * 16  # a batch is drawn as a whole
    assert certificate.m == budget.look_sizes[1]
    assert model.rows - 1 == budget.k + budget.n + first < budget.evaluations


def test_an_abstention_ends_with_the_check() -> None:
    budget, model = BUDGETS["exact, looks"], Counted(torch.nan)
    assert smoother(model, budget).certify(torch.zeros(3)).abstained
    assert model.rows == budget.k + budget.n + -(-budget.look_sizes[0] // 16) * 16


@pytest.mark.parametrize("name", ["exact", "paper", "mean"])
def test_an_attack_costs_what_its_budget_says_and_two_smoothed_outputs(name: str) -> None:
    """A gradient counts as three evaluations; the outputs are those at the attacked input and, with its noise, at x."""
    budget, trial, counts = BUDGETS[name], AttackBudget(steps=5, starts=1, samples=4), list[int]()
    smooth, x = smoother(torch.sin, budget, progress=counts.append), torch.zeros(3)
    certificate = smooth.certify(x)
    counts.clear()
    attack(smooth, x, certificate, eps_in=0.25, budget=trial)
    searched = trial.evaluations + (trial.evaluations_at_x if smooth.follows_mean else 0)
    assert sum(counts) == pytest.approx(searched + 2 * budget.evaluations_to_smooth, rel=0.05)
