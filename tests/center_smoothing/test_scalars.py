"""Numbers of numpy and torch are numbers wherever the library takes one."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from center_smoothing import CenterSmoother, Decided, FunctionDistance, Lp, MeanBudget, MeanSmoother, SmoothingBudget
from center_smoothing import TightEnough as Tight
from center_smoothing.attack import AttackBudget, attack
from center_smoothing.planner import Demand

X = torch.rand(3, generator=torch.Generator().manual_seed(0))


def test_scalars_of_every_kind_are_numbers_of_python() -> None:
    def text(number: Callable[[Any], Any]) -> str:
        sizes = {"n": number(64), "m": number(100), "alpha_1": number(0.25), "alpha_2": number(0.25)}
        budget = SmoothingBudget(**sizes, delta=number(0.375), tuple_sizes=(number(1), number(3)))
        of_means = MeanBudget(**sizes, group=number(2))
        common = {"sigma": number(0.5), "seed": number(3), "grid": number(64), "batch_size": number(64)}
        center = CenterSmoother(torch.tanh, FunctionDistance(Lp(2), relaxation=number(1.0)), budget=budget, **common)
        mean = MeanSmoother(torch.tanh, Lp(number(2)), budget=of_means, clip_norm=number(2.0), **common)
        bounded = MeanSmoother(torch.tanh, Lp(number(2)), budget=of_means, bound=number(9.0), **common)
        certificate, eps_in = center.certify(X, example=number(5)), number(0.25)
        steps = AttackBudget(steps=number(2), starts=number(1), samples=number(2))
        found = attack(center, X, certificate, eps_in=eps_in, budget=steps, example=number(5))
        rules = (Tight([eps_in], number(0.25)), Decided((eps_in,), number(0.5)), Demand(h=(number(0.5),)))
        kept = [budget.as_dict(), of_means.as_dict()]
        kept += [budget.plan(number(0.5)).p, of_means.plan(number(0.5)).tail_at_bound]
        kept += [each.certify(X, example=number(5)).eps_out(eps_in) for each in (mean, bounded)]
        kept += [certificate.eps_out(eps_in), certificate.eps_in(number(2.0)), found.eps, *map(vars, rules)]
        return json.dumps(kept) + repr((budget, of_means, rules, mean.clip_norm, bounded.bound, center.sigma))

    kinds = (lambda value: value, np.asarray, torch.tensor, lambda value: np.asarray(value)[()])
    assert len(set(map(text, kinds))) == 1
    for wrong in (np.bool_(True), torch.tensor(True), np.asarray(0.5), torch.tensor(0.5), np.ones(1)):
        with pytest.raises(ValueError, match="n must be a whole number of at least 1, got"):
            SmoothingBudget(n=wrong)
        with pytest.raises(ValueError, match="grid must be a whole number"):
            CenterSmoother(torch.tanh, Lp(2), sigma=0.5, grid=wrong)
