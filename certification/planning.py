"""The budgets that the flags ask for, and what a time limit leaves, before any sampling."""

from __future__ import annotations

import math
from typing import cast

from center_smoothing import SmoothingBudget
from center_smoothing.planner import Demand, best_budget, least_evaluations
from center_smoothing.sampling import BaseFunction
from certification.request import Request
from certification.speed import Speed, measure
from lightning_modules import BaseModel
from results import numbers, terminal

# A speed differs a little each time: the time that an error message offers has to do the next time too.
_SLACK = 1.2


def only_plan(
    request: Request,
    model: BaseModel | None,
    function: BaseFunction | None = None,
    *,
    sigma_known: bool,
) -> list[str]:
    """Return what --plan prints: what the budgets cost and can certify. Nothing is written.

    Args:
        request: whose ``m`` may be several.
        model: whose speed is measured.
        function: what evaluates the model; default: itself.
        sigma_known: whether the levels are in units of x.

    Raises:
        ValueError: if no budget can be had.
    """
    options, levels, why = request.options, request.levels, list[str]()
    examples = None if options.num_examples == "all" else int(options.num_examples)
    ms: list[int | None] = [*sorted(set(options.m or []))] or [None]
    # only centers are planned for, which the arguments were checked for
    budgets = [cast(SmoothingBudget, request.budget(m)) for m in ms] if options.time_limit is None else []
    speed = None if model is None else measure(request, model, function)
    if options.time_limit is not None:
        if speed is None or examples is None:
            raise ValueError(
                "--time-limit must have --ckpt or --model, whose speed is measured, and a number as --num-examples, "
                f"got {options.num_examples}; {_measured(model, speed)}"
            )
        budget, why = choose(request.demand, speed, seconds=options.time_limit, examples=examples, levels=len(levels))
        budgets = [budget]
    table = terminal.planning_table(
        budgets,
        request.distance,
        h=request.ratios,
        sigma=next(iter(levels)) if sigma_known and len(levels) == 1 else None,
        coverage=options.coverage,
        answers=request.answers,
        inputs=None if examples is None else examples * len(levels),
        samples_per_second=None if speed is None else speed.samples_per_second * speed.processes,
    )
    return [*why, *table, _measured(model, speed)]


def choose(
    demand: Demand, speed: Speed, *, seconds: float, examples: int, levels: int
) -> tuple[SmoothingBudget, list[str]]:
    """Return the budget that makes the most of a time, and what it was chosen by, for the eye.

    Args:
        demand: what the budget is for.
        speed: of one process.
        seconds: for everything.
        examples: to be certified at each noise level, shared by the processes.
        levels: number of noise levels.

    Raises:
        ValueError: if the time is too short, with the time that would do.
    """
    certificates, rate = -(-examples // speed.processes) * levels, speed.samples_per_second
    evaluations = seconds * rate / certificates
    budget, h = best_budget(demand, evaluations), ", ".join(f"{each:.4g}" for each in demand.h)
    if budget is None:
        least = least_evaluations(demand)
        if math.isinf(least):
            raise ValueError(
                f"--time-limit can be met by no budget: no number of samples certifies h={demand.h[-1]:.4g}"
            )
        raise ValueError(
            f"--time-limit must be at least {_as_argument(_SLACK * least * certificates / rate)} to certify h={h} "
            f"around {examples * levels} inputs at {rate:,.0f} samples/s, got {seconds:g}s"
        )
    return budget, [
        f"time limit {numbers.duration(seconds)}: {evaluations:,.0f} evaluations for each of {examples * levels} "
        f"inputs at {speed}",
        f"  --n {budget.n} --m {budget.m} --k {budget.k} --delta {budget.delta!r}"
        f"{'' if budget.group == 1 else f' --group {budget.group}'}",
        f"  have of all that fit the least predicted eps_out at h={h}",
        "  (predicted for Gaussian outputs in 16 dimensions: that guides the choice, and no certificate rests on it)",
    ]


def _measured(model: BaseModel | None, speed: Speed | None) -> str:
    if speed is not None:
        return f"{speed} here, on {speed.images}"
    if model is not None:
        return f"no seconds: {type(model).__name__} does not say in example_shape() which images it takes; give --data"
    return "no seconds without --ckpt or --model, whose speed is measured"


def _as_argument(seconds: float) -> str:
    """Return a time as --time-limit takes it, at least as long."""
    for unit, length in (("s", 1.0), ("m", 60.0)):
        if seconds < 100 * length:
            return f"{math.ceil(seconds / length)}{unit}"
    return f"{math.ceil(seconds / 360) / 10:g}h"
