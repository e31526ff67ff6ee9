"""All that is compared on one digit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

from torch import Tensor

from benchmarks.versus.functions import Functions
from benchmarks.versus.paper_procedure import eps_out_of, paper_budget, run_paper
from benchmarks.versus.recorded_outputs import RecordedSmoother, Recording, record
from benchmarks.versus.rows import Digit, Row
from benchmarks.versus.settings import RTOLS, Settings, exact_budget
from benchmarks.versus.steps import Steps
from center_smoothing import (
    DISTANCES,
    CenterSmoother,
    Certificate,
    Distance,
    SmoothingBudget,
    TightEnough,
)
from center_smoothing.noise import Stage
from center_smoothing.sampling import BatchSize, NoisyOutputs
from lightning_modules import NoisyModule

T = TypeVar("T")


def measure(
    model: NoisyModule,
    x: Tensor,
    index: int,
    settings: Settings,
    *,
    clip_norms: Mapping[str, float | None],
    batch_size: BatchSize = "auto",
    with_clock: bool = False,
) -> Digit:
    """Make all comparisons on one digit, with a line of progress for each.

    ``clip_norms`` are those of means, by the name of each distance that is compared.
    """
    source = NoisyOutputs(model, sigma=model.sigma, batch_size=batch_size)
    next(source.draw(x, example=index, stage=Stage.CALIBRATION, count=1))  # measures what "auto" is
    recording = _telling("outputs", lambda: record(source, x, example=index, counts=settings.counts))
    rows = {}
    for name, clip_norm in clip_norms.items():
        comparisons = Comparisons(source, x, index, recording, settings, name, clip_norm)
        rows[name] = {of: _telling(f"{name}, {of}", call) for of, call in comparisons.all(with_clock).items()}
        with_clock = False
    return Digit(index, rows)


@dataclass
class Comparisons:
    """What is compared on one digit under one distance."""

    source: NoisyOutputs  # of the model
    x: Tensor  # (*in)
    index: int  # of the digit in the data set
    recording: Recording  # outputs around x
    settings: Settings
    name: str  # of the distance
    clip_norm: float | None  # of means by this distance

    def __post_init__(self) -> None:
        """Find the distance."""
        self.distance: Distance = DISTANCES[self.name]

    def all(self, with_clock: bool) -> dict[str, Callable[[], list[Row]]]:
        """Return by name what gives the rows of each comparison, to be called in this order."""
        small, large = self.settings.fast_budgets, exact_budget(self.settings.n, 2 * self.settings.n)
        of_tv = {"steps": self.steps, "looks": self.looks}
        clock = {"clock": lambda: [self._live(large), self._recorded(large)]}
        return {
            "paper": self.paper,
            "fast": lambda: list(map(self._live, small)),
            "functions": self.functions,
            **(of_tv if self.name == "tv" else {}),
            **(clock if with_clock else {}),
        }

    def paper(self) -> list[Row]:
        """Run part of the paper's procedure."""
        budget, h = paper_budget(self.settings.n, self.settings.paper_m), self.settings.h
        self._paper = paper = run_paper(self.recording, self.x, self.distance, budget)
        row = Row.of("the paper's", paper.certificate, h, seconds=paper.seconds, evaluations=budget.evaluations)
        parts = {"selection": paper.selection, "check": paper.check, "certification": paper.certification}
        eps_out = {each: eps_out_of(paper.certificate, budget, each) for each in h}
        return [replace(row, m=budget.m, eps_out=eps_out, parts=parts)]

    def steps(self) -> list[Row]:
        """Go from the paper's procedure to this package's; after :meth:`paper`."""
        return Steps(self.recording, self.x, self.distance, self._paper, 2 * self.settings.n, self.settings.h).rows()

    def looks(self) -> list[Row]:
        """Take all outputs at once, and stop when they are tight enough at one h."""
        budget = self.settings.looking_budget
        rows = [self._recorded(replace(budget, looks=1))]
        for h, rtol in product((1.0, 2.0), RTOLS):
            smoother = RecordedSmoother(self.recording, self.distance, budget)
            certificate = smoother.certify(self.x, stop=TightEnough([h * self.recording.sigma], rtol))
            name, drawn = f"h = {h:g}, {rtol:.0%}", replace(budget, m=certificate.m, looks=1).evaluations
            row = Row.of(name, certificate, [h], seconds=smoother.outputs.seconds, evaluations=drawn)
            rows.append(row)
        return rows

    def functions(self) -> list[Row]:
        """Certify and attack each smoothed function."""
        source, known = self.source, (self.recording, self.x, self.index)
        return Functions(source, *known, self.distance, self.clip_norm, self.settings).rows()

    def _live(self, budget: SmoothingBudget) -> Row:
        """Run this package's procedure with outputs of its own, from beginning to end."""
        sigma, batch_size = self.recording.sigma, self.recording.batch_size
        smoother = CenterSmoother(self.source.model, self.distance, sigma=sigma, budget=budget, batch_size=batch_size)
        began = time.perf_counter()
        certificate = smoother.certify(self.x, example=self.index)
        return self._row(budget, certificate, time.perf_counter() - began)

    def _recorded(self, budget: SmoothingBudget) -> Row:
        """Run this package's procedure with recorded outputs."""
        smoother = RecordedSmoother(self.recording, self.distance, budget)
        certificate = smoother.certify(self.x)
        return self._row(budget, certificate, smoother.outputs.seconds)

    def _row(self, budget: SmoothingBudget, certificate: Certificate, seconds: float) -> Row:
        return Row.of(f"n = {budget.n:,}, m = {budget.m:,}", certificate, self.settings.h, seconds=seconds)


def _telling(name: str, call: Callable[[], T]) -> T:
    """Call a function, and print how long it took."""
    began = time.perf_counter()
    result = call()
    print(f"  {name:<16} {time.perf_counter() - began:7.1f} s", flush=True)
    return result
