"""Plan before any sampling: the budgets that flags ask for, how fast a model is here, and what fills a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace

import entrypoint
from callbacks import certification_report as report
from center_smoothing import Distance, SmoothingBudget
from center_smoothing.budget import METHODS
from center_smoothing.planner import Demand, best_budget, least_evaluations
from center_smoothing.sampling import BaseFunction, NoisyOutputs
from center_smoothing.stopping import with_looks
from certification import make_trainer, samples_per_second, value_errors
from lightning_modules import BaseModel, point_of

# How long the speed is measured after the batch size is found.
_SECONDS = 1.0
# A speed differs a little each time: the time that an error message offers has to do the next time too.
_SLACK = 1.2
# Flags of the budget; --m goes its own way.
_FLAGS = ("n", "k", "delta", "alpha1", "alpha2", "method")


@dataclass(frozen=True)
class Request:
    """What of the command line a budget depends on.

    Attributes:
        options: of certify.py.
        levels: the eps_in that are answered at each sigma, in units of x.
        stops: whether there is a rule for when to stop sampling an example early.
    """

    options: Namespace
    levels: Mapping[float, Sequence[float]]
    stops: bool

    @property
    def distance(self) -> Distance:
        """Of --distance."""
        return entrypoint.distance_named(self.options.distance)

    @property
    def ratios(self) -> list[float]:
        """The h that are asked, ascending; of those that nine digits do not tell apart the largest."""
        ratios = sorted(radius / sigma for sigma, radii in self.levels.items() for radius in radii)
        return list({f"{h:.9g}": h for h in ratios}.values())

    @property
    def answers(self) -> int:
        """How many eps_in are answered at a noise level, at most: each level is certified by itself."""
        return max(map(len, self.levels.values()))

    @property
    def fixed(self) -> dict[str, Any]:
        """What of the budget --time-limit does not choose, under the names of :class:`SmoothingBudget`."""
        flags = {name: self.options[name] for name in _FLAGS}
        values = {"method": METHODS[0], **entrypoint.budget_values(self.options.budget, **flags), "n": self.options.n}
        return {name: value for name, value in values.items() if name != "m" and value is not None}

    @property
    def demand(self) -> Demand:
        """What --time-limit chooses a budget for."""
        return Demand(
            h=tuple(self.ratios),
            averages=self.distance.averages,
            coverage=self.options.coverage,
            answers=self.answers,
            stops=self.stops,
            fixed=self.fixed,
        )

    def budget(self, m: int | None) -> SmoothingBudget:
        """The one of --budget and the flags, at this m or the file's.

        Raises:
            ValueError: as :class:`SmoothingBudget` does, and where sampling could never stop early.
        """
        budget = entrypoint.budget(self.options.budget, m=m, **{name: self.options[name] for name in _FLAGS})
        budget = budget if self.distance.averages else budget.without_averages()
        return with_looks(budget, self.ratios[-1]) if self.stops else budget


@dataclass(frozen=True)
class Speed:
    """How fast a model makes noisy outputs.

    Attributes:
        samples_per_second: of one process: noise, evaluations and distances together.
        batch_size: at which that is so.
        processes: that share the examples.
        images: on which it was measured.
    """

    samples_per_second: float
    batch_size: int
    processes: int
    images: str

    def __str__(self) -> str:
        return f"{self.samples_per_second:,.0f} samples/s in batches of {self.batch_size}"


def measure(
    request: Request, model: BaseModel, function: BaseFunction | None, *, where: dict[str, Any]
) -> Speed | None:
    """Measure on noisy copies of an image, in about two seconds or a few batches; None without one.

    The image is a random one, or the first of the data where the model does not say which images it takes.

    Args:
        request: whose noise, distance and batch size are taken.
        model: moved to the device.
        function: what evaluates the model; default: itself.
        where: arguments of :func:`certification.make_trainer`.

    Raises:
        ValueError: if the model or the distance cannot do with the image, or ``where`` does not work on this machine.
    """
    options, shape = request.options, model.example_shape()
    if shape is not None:
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    elif options.data is not None:
        options.data.prepare_data()
        options.data.setup("test")
        image = options.data.test_set[0]["image"]
    else:
        return None
    trainer, size = make_trainer(**where), "x".join(map(str, image.shape))
    given: dict[str, Any] = {"sigma": max(request.levels), "grid": options.grid, "batch_size": options.batch_size}
    outputs = NoisyOutputs(model if function is None else function, **given)
    model.to(trainer.strategy.root_device)
    with value_errors(f"--data must hold examples that the model takes, got {tuple(image.shape)}"):
        with trainer.precision_plugin.forward_context():
            rate = samples_per_second(outputs, point_of(model, image), request.distance, seconds=_SECONDS)
    images = f"the first test image, {size}" if shape is None else f"random images {size}"
    return Speed(rate, int(outputs.batch_size), trainer.world_size, images)


def only_plan(
    request: Request,
    model: BaseModel | None,
    function: BaseFunction | None = None,
    *,
    where: dict[str, Any],
    sigma_known: bool,
) -> list[str]:
    """Return what --plan prints: what the budgets cost and can certify. Nothing is written.

    Args:
        request: whose ``m`` may be several.
        model: whose speed is measured.
        function: what evaluates the model; default: itself.
        where: arguments of :func:`certification.make_trainer`.
        sigma_known: whether the levels are in units of x.

    Raises:
        ValueError: if no budget can be had.
    """
    options, levels, why = request.options, request.levels, []
    examples = None if options.num_examples == "all" else int(options.num_examples)
    ms = sorted(set(options.m or [])) or [None]
    budgets = [request.budget(m) for m in ms] if options.time_limit is None else []
    speed = None if model is None else measure(request, model, function, where=where)
    if not budgets:
        if speed is None or examples is None:
            raise ValueError(
                "--time-limit must have --ckpt or --model, whose speed is measured, and a number as --num-examples, "
                f"got {options.num_examples}; {_measured(model, speed)}"
            )
        budget, why = choose(request.demand, speed, seconds=options.time_limit, examples=examples, levels=len(levels))
        budgets = [budget]
    table = report.planning_table(
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
    """The budget that makes the most of a time, and what it was chosen by, for the eye.

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
        f"time limit {report.duration(seconds)}: {evaluations:,.0f} evaluations for each of {examples * levels} inputs "
        f"at {speed}",
        f"  --n {budget.n} --m {budget.m} --k {budget.k} --delta {budget.delta!r}",
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
    """A time as --time-limit takes it, at least as long."""
    for unit, length in (("s", 1.0), ("m", 60.0)):
        if seconds < 100 * length:
            return f"{math.ceil(seconds / length)}{unit}"
    return f"{math.ceil(seconds / 360) / 10:g}h"
