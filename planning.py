"""Before any sampling: the budgets that the flags ask for, how fast a model is here, and what a time limit leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Subset

import entrypoint
from callbacks import CertificationFolder
from callbacks import certification_report as report
from center_smoothing import Distance, SmoothingBudget
from center_smoothing.budget import METHODS
from center_smoothing.planner import Demand, best_budget, least_evaluations
from center_smoothing.sampling import BaseFunction, BatchSize, NoisyOutputs, Stage
from center_smoothing.stopping import with_looks
from certification import make_trainer
from lightning_modules import BaseModel

# How long the speed is measured after the batch size is found.
_SECONDS = 1.0
# With so many others an output is compared, on average: when it is ranked with up to 114 candidates, in the
# certification sample, which is larger, with 24 probes and the center.
_COMPARISONS = 56
# More outputs than are drawn in that time.
_MANY = 1 << 30
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
        shape: of the first image that it was measured on.
    """

    samples_per_second: float
    batch_size: int
    processes: int
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.samples_per_second:,.0f} samples/s in batches of {self.batch_size}"


def random_image(model: BaseModel) -> Tensor | None:
    """An image (C, H, W) in [0, 1] of the shape that a model takes; None if it does not say which."""
    shape = model.example_shape()
    return None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(0))


def measure(
    model: BaseModel,
    images: Sequence[Tensor],
    distance: Distance,
    *,
    function: BaseFunction | None = None,
    sigma: float,
    batch_size: BatchSize,
    grid: int | None = None,
    where: dict[str, Any],
) -> Speed:
    """Measure on noisy copies of images; takes about two seconds, or a few batches.

    Args:
        model: moved to the device.
        images: at least one, each (C, H, W); they may differ in size.
        distance: between outputs.
        function: what evaluates the model; default: itself.
        sigma: noise level, in units of the point.
        batch_size: noisy copies per call of the model, or ``"auto"``.
        grid: of discrete noise, steps per unit.
        where: arguments of :func:`certification.make_trainer`.

    Raises:
        ValueError: if the model or the distance cannot do with an image, or ``where`` does not work on this machine.
    """
    trainer = make_trainer(**where)
    outputs = NoisyOutputs(model if function is None else function, sigma=sigma, grid=grid, batch_size=batch_size)
    model.to(trainer.strategy.root_device)
    drawn, seconds = 0, 0.0
    for image in images:
        try:
            with trainer.precision_plugin.forward_context():
                x = model.point(image[None].clone().to(model.device))[0]
                next(outputs.draw(x, example=0, stage=Stage.CALIBRATION, count=1))  # finds the batch size
                outputs.evaluations_per_second(x)  # the first calls of a shape do not count
                count, took = _compared_within(outputs, x, distance, _SECONDS / len(images))
        except RuntimeError as error:  # what PyTorch's layers raise for shapes that don't fit
            raise ValueError(
                f"--data must hold examples that the model takes, got {tuple(image.shape)}: {error}"
            ) from error
        drawn, seconds = drawn + count, seconds + took
    return Speed(drawn / seconds, int(outputs.batch_size), trainer.world_size, tuple(images[0].shape))


def _compared_within(outputs: NoisyOutputs, x: Tensor, distance: Distance, seconds: float) -> tuple[int, float]:
    """How many outputs were drawn and compared before so much time was over, at least a batch, and the time it took."""
    drawn, began, took = 0, time.perf_counter(), 0.0
    for batch in outputs.draw(x, example=0, stage=Stage.CALIBRATION, count=_MANY):
        embedded = distance.embed(batch)
        others = embedded.repeat(-(-_COMPARISONS // len(embedded)), *[1] * (embedded.ndim - 1))[:_COMPARISONS]
        distance.compare(embedded, others).flatten()[0].item()  # reading one number waits for the device
        drawn, took = drawn + len(batch), time.perf_counter() - began
        if took >= seconds:
            break
    return drawn, max(took, 1e-9)


def only_plan(
    request: Request,
    model: BaseModel | None,
    function: BaseFunction | None = None,
    *,
    where: dict[str, Any],
    sigma_known: bool,
) -> list[str]:
    """What --plan prints: what the budgets cost and can certify. Neither data nor disk are touched.

    Args:
        request: whose ``m`` may be several.
        model: whose speed is measured, on a random image.
        function: what evaluates the model; default: itself.
        where: arguments of :func:`certification.make_trainer`.
        sigma_known: whether the levels are in units of x.

    Raises:
        ValueError: if no budget can be had.
    """
    options, levels, speed, why = request.options, request.levels, None, []
    examples = None if options.num_examples == "all" else int(options.num_examples)
    ms = sorted(set(options.m or [])) or [None]
    budgets = [request.budget(m) for m in ms] if options.time_limit is None else []
    image = None if model is None else random_image(model)
    if model is not None and image is not None:
        speed = _speed(request, model, function, [image], where)
    if not budgets:
        if speed is None or examples is None:
            raise ValueError(
                "--time-limit with --plan must have --ckpt or --model, whose speed is measured, and a number as "
                f"--num-examples, got {options.num_examples}; {_measured(model, speed)}"
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


def in_time(
    request: Request,
    model: BaseModel,
    function: BaseFunction,
    examples: Subset[dict[str, Tensor]],
    folder: CertificationFolder,
    where: dict[str, Any],
) -> tuple[SmoothingBudget, list[str]]:
    """The budget that --time-limit leaves, chosen once, by the speed alone, before anything is sampled; and why.

    Args:
        request: with a time limit.
        model: whose speed is measured, on a few of the examples.
        function: what evaluates the model.
        examples: to be certified at each noise level.
        folder: where the results go.
        where: arguments of :func:`certification.make_trainer`.

    Raises:
        ValueError: if the time is too short, or several processes would each choose by itself.
    """
    demand, seconds = request.demand, request.options.time_limit
    budget = chosen_before(folder, demand, seconds=seconds)
    if budget is not None:
        return budget, [f"time limit {report.duration(seconds)}: the budget that {folder.path} was begun with"]
    if rank_zero_only.rank != 0:
        raise ValueError(
            "--time-limit must be left out where several processes start at once, as each would choose by itself: give "
            "the --n, --m, --k and --delta that --plan --time-limit prints"
        )
    images = [examples[position]["image"] for position in sorted({0, len(examples) // 2, len(examples) - 1})]
    speed = _speed(request, model, function, images, where)
    return choose(demand, speed, seconds=seconds, examples=len(examples), levels=len(request.levels))


def _speed(
    request: Request,
    model: BaseModel,
    function: BaseFunction | None,
    images: Sequence[Tensor],
    where: dict[str, Any],
) -> Speed:
    options = request.options
    given = {"sigma": max(request.levels), "batch_size": options.batch_size, "grid": options.grid}
    speed = measure(model, images, request.distance, function=function, **given, where=where)
    if options.split_samples:  # all processes work on each example, as one that is faster
        return replace(speed, samples_per_second=speed.samples_per_second * speed.processes, processes=1)
    return speed


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
        f"  chose n={budget.n}, m={budget.m}, k={budget.k}, delta={budget.delta:g}: of all that fit the least "
        f"predicted eps_out at h={h}",
        "  (predicted for Gaussian outputs in 16 dimensions: that guides the choice, and no certificate rests on it)",
    ]


def chosen_before(folder: CertificationFolder, demand: Demand, *, seconds: float) -> SmoothingBudget | None:
    """The budget of a certification that the same command has begun; None if there is none.

    The speed is never measured twice alike, and one cannot go on with a certification at another budget. So the first
    choice stays.
    """
    config = (folder.read_summary() or {"config": {}})["config"]
    if config.get("time_limit") != seconds:
        return None
    try:
        budget = SmoothingBudget(**config["budget"])
        return budget if replace(budget, **demand.fixed) == budget else None
    except (KeyError, TypeError, ValueError):
        return None  # the folder holds something else, and will be refused


def _measured(model: BaseModel | None, speed: Speed | None) -> str:
    if speed is not None:
        return f"{speed} here, on random images {'x'.join(map(str, speed.shape))}"
    if model is not None:
        return f"no seconds: {type(model).__name__} does not say in example_shape() which images it takes"
    return "no seconds without --ckpt or --model, whose speed is measured"


def _as_argument(seconds: float) -> str:
    """A time as --time-limit takes it, at least as long."""
    for unit, length in (("s", 1.0), ("m", 60.0)):
        if seconds < 100 * length:
            return f"{math.ceil(seconds / length)}{unit}"
    return f"{math.ceil(seconds / 360) / 10:g}h"
