"""All that is compared on one digit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import TypeVar

from torch import Tensor

import center_smoothing
from benchmarks.versus.paper_procedure import Estimate, eps_out_of, paper_budget, run_paper
from benchmarks.versus.recorded_outputs import RecordedOutputs, RecordedSmoother, Recording, record
from benchmarks.versus.rows import Digit, Row
from benchmarks.versus.settings import CLIP_NORM, RTOLS, Settings
from benchmarks.versus.steps import Steps
from center_smoothing import CenterSmoother, Distance, SmoothingBudget, TightEnough
from center_smoothing.noise import Stage
from center_smoothing.sampling import BatchSize, NoisyOutputs
from command_line import named
from lightning_modules import NoisyModule

T = TypeVar("T")


def measure(
    model: NoisyModule,
    x: Tensor,
    index: int,
    settings: Settings,
    *,
    distances: Sequence[str],
    batch_size: BatchSize = "auto",
    with_clock: bool = False,
) -> Digit:
    """All comparisons on one digit, with a line of progress for each.

    Args:
        model: the base model, in eval mode.
        x: (*in), its point.
        index: the digit's in the data set, which keys the noise.
        settings: what is compared.
        distances: the names of those that this digit is for.
        batch_size: of the model's calls.
        with_clock: whether to check the clock of recorded outputs by a run with outputs of its own.
    """
    source = NoisyOutputs(model, sigma=model.sigma, batch_size=batch_size)
    next(source.draw(x, example=index, stage=Stage.CALIBRATION, count=1))  # measures what "auto" is
    recording = _telling("outputs", lambda: record(source, x, example=index, counts=settings.counts))
    rows = {}
    for name in distances:
        comparisons = Comparisons(model, x, index, recording, settings, name)
        rows[name] = {of: _telling(f"{name}, {of}", call) for of, call in comparisons.all(with_clock).items()}
        with_clock = False
    return Digit(index, rows)


class Comparisons:
    """What is compared on one digit under one distance.

    Args:
        model: the base model.
        x: (*in), its point.
        index: the digit's in the data set.
        recording: outputs around x.
        settings: sample sizes.
        name: of the distance.
    """

    def __init__(
        self, model: NoisyModule, x: Tensor, index: int, recording: Recording, settings: Settings, name: str
    ) -> None:
        self.model = model
        self.x = x
        self.index = index
        self.recording = recording
        self.settings = settings
        self.name = name
        self.distance: Distance = named.DISTANCES[name]

    def all(self, with_clock: bool) -> dict[str, Callable[[], list[Row]]]:
        """By name what gives the rows of each comparison, to be called in this order."""
        of_tv = {"steps": self.steps, "looks": self.looks, "mean": self.mean}
        return {
            "paper": self.paper,
            "fast": self.fast,
            "full": self.full,
            **(of_tv if self.name == "tv" else {}),
            **({"clock": self.clock} if with_clock else {}),
        }

    def paper(self) -> list[Row]:
        """The paper's procedure, part of it run."""
        budget = paper_budget(self.settings.n, self.settings.paper_m)
        self._paper = paper = run_paper(self.recording, self.x, self.distance, budget)
        return [
            Row(
                procedure="the paper's",
                n=budget.n,
                m=budget.m,
                delta=budget.delta,
                evaluations=budget.evaluations,
                seconds=paper.seconds,
                eps_out={h: eps_out_of(paper.certificate, budget, h) for h in self.settings.h},
                smoothing_loss=paper.certificate.smoothing_loss,
                parts={
                    "selection": paper.selection,
                    "check": paper.check,
                    "certification": paper.certification,
                },
            )
        ]

    def fast(self) -> list[Row]:
        """Small budgets of this package."""
        return [self._live(budget) for budget in self.settings.fast_budgets]

    def full(self) -> list[Row]:
        """Larger budgets of this package."""
        return [self._recorded(budget) for budget in self.settings.full_budgets]

    def clock(self) -> list[Row]:
        """One procedure with outputs of its own, and with recorded ones."""
        budget = self.settings.full_budgets[0]
        return [self._live(budget), self._recorded(budget)]

    def steps(self) -> list[Row]:
        """From the paper's procedure to this package's; after :meth:`paper`."""
        return Steps(self.recording, self.x, self.distance, self._paper, 2 * self.settings.n, self.settings.h).rows()

    def looks(self) -> list[Row]:
        """All outputs at once, and sampling that stops when it is tight enough at one h."""
        budget = self.settings.looking_budget
        rows = [self._recorded(replace(budget, looks=1))]
        for h, rtol in product(self.settings.h_of_looks, RTOLS):
            smoother = RecordedSmoother(self.recording, self.distance, budget)
            certificate = smoother.certify(self.x, stop=TightEnough([h * self.recording.sigma], rtol))
            rows.append(Row.of(f"h = {h:g}, {rtol:.0%}", certificate, [h], seconds=smoother.outputs.seconds))
        return rows

    def mean(self) -> list[Row]:
        """The mean instead of the center; nothing in a version without mean smoothing."""
        if not hasattr(center_smoothing, "MeanSmoother"):
            return []
        sigma, n, m = self.recording.sigma, self.settings.n, min(10 * self.settings.n, self.settings.measured_m)
        budget = center_smoothing.MeanBudget(n=n, m=m)
        smoother = center_smoothing.MeanSmoother(
            lambda outputs: outputs, self.distance, sigma=sigma, budget=budget, clip_norm=CLIP_NORM
        )
        # of the function above, which returns what it is given, the smoother has made one that clips
        smoother.outputs = clock = RecordedOutputs(self.recording, after=smoother.outputs.model)
        certificate = smoother.certify(self.x)
        return [
            Row(
                procedure=f"n = {n:,}, m = {m:,}",
                n=n,
                m=m,
                delta=0.0,
                evaluations=budget.evaluations,
                seconds=clock.seconds,
                eps_out={h: Estimate.exactly(certificate.eps_out(h * sigma)) for h in self.settings.h},
                smoothing_loss=certificate.smoothing_loss,
            )
        ]

    def _live(self, budget: SmoothingBudget) -> Row:
        """This package's procedure with outputs of its own, from beginning to end."""
        smoother = CenterSmoother(
            self.model,
            self.distance,
            sigma=self.recording.sigma,
            budget=budget,
            batch_size=self.recording.batch_size,
        )
        began = time.perf_counter()
        certificate = smoother.certify(self.x, example=self.index)
        return self._row(budget, certificate, time.perf_counter() - began)

    def _recorded(self, budget: SmoothingBudget) -> Row:
        """This package's procedure with recorded outputs."""
        smoother = RecordedSmoother(self.recording, self.distance, budget)
        certificate = smoother.certify(self.x)
        return self._row(budget, certificate, smoother.outputs.seconds)

    def _row(self, budget: SmoothingBudget, certificate: center_smoothing.Certificate, seconds: float) -> Row:
        name = f"n = {budget.n:,}, m = {budget.m:,}"
        return Row.of(name, certificate, self.settings.h, seconds=seconds)


def _telling(name: str, call: Callable[[], T]) -> T:
    """What a call returns, after a line that says how long it took."""
    began = time.perf_counter()
    result = call()
    print(f"  {name:<16} {time.perf_counter() - began:7.1f} s", flush=True)
    return result
