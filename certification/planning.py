"""The budgets that the flags ask for, and what a time limit leaves, before any sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from center_smoothing import SMOOTHERS, Budget, Smoother, SmoothingBudget
from center_smoothing.planner import Demand, best_budget, least_evaluations
from center_smoothing.sampling import BaseFunction
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from certification.recommended import recommended_lines
from certification.request import Arguments, Request, conversion_at
from certification.speed import Speed, example_image, measure
from lightning_modules import BaseModel, point_of
from results import numbers, terminal

# A speed differs a little each time: the time that an error message offers has to do the next time too.
_SLACK = 1.2


def only_plan(
    request: Request, model: BaseModel | None, function: BaseFunction | None = None, *, sigma_known: bool
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
    speed = None if model is None else measure(request, model, function)
    advice = recommended_lines(options.distance, request.distance, request.ratios)
    if options.smoother != DEFAULT_SMOOTHER:
        lines: list[str] = []
        for m in ms:
            smoother, conversion = _planned_smoother(request, model, request.budget(m)), request.conversion
            lines += terminal.plan_lines(smoother, levels=levels, num_examples=examples, conversion=conversion)
            if speed is not None:
                seconds = smoother.budget.evaluations / (speed.samples_per_second * speed.processes)
                in_all = "" if examples is None else f", {numbers.duration(seconds * examples * len(levels))} in all"
                lines.append(f"  about {seconds:.3g} s per input{in_all}")
        return [*lines, *advice, _measured(model, speed)]
    # only centers from here on, and only of centers a time limit chooses the budget
    budgets = [cast(SmoothingBudget, request.budget(m)) for m in ms] if options.time_limit is None else []
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
        conversion=request.conversion,
        norm=options.norm,
        samples_per_second=None if speed is None else speed.samples_per_second * speed.processes,
    )
    return [*why, *table, *advice, _measured(model, speed)]


def conversion_of(options: Arguments, model: BaseModel | None) -> float | None:
    """Return the conversion of --threat and --sigma-map for the inputs of a model; None where they are not known.

    Raises:
        ValueError: if the map does not fit them, or h is asked for and depends on what is not known.
    """
    if options.threat in (None, "scaled-l2") or (options.threat == "l1" and options.sigma_map is None):
        return 1.0
    image = None if model is None else example_image(options, model)
    if model is not None and image is not None:
        return conversion_at(options, point_of(model, image))
    if options.eps_in is not None:
        raise ValueError(
            f"--eps-in needs --ckpt, --model or --data with --threat {options.threat}: h depends on how many numbers "
            "an input has; ask with --h"
        )
    return None


def _planned_smoother(request: Request, model: BaseModel | None, budget: Budget) -> Smoother:
    """Return a smoother that is good for a plan: its base function is never smoothed.

    Of an unknown norm to clip to it is 1, and outputs of an unknown model are single numbers.
    """
    options = request.options
    bounds: dict[str, Any] = {
        "clip_norm": 1.0 if options.clip_norm == "auto" else options.clip_norm,
        "bound": options.output_bound,
    }
    given = {name: value for name, value in bounds.items() if value is not None}
    given |= {name: value for name, value in options.noise_settings.items() if name not in ("noise", "grid")}
    make: Callable[..., Smoother] = SMOOTHERS[options.smoother]
    function = (lambda x: x) if model is None else model
    smoother = make(function, request.distance, sigma=next(iter(request.levels)), budget=budget, **given)
    image = None if model is None else example_image(options, model)
    if model is not None and image is not None and budget.depends_on_outputs:
        smoother.look_at(point_of(model, image))
    return smoother


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
