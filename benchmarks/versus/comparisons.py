"""All that is compared on one digit: procedures, their steps, smoothed functions and their attacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.versus.paper_procedure import Estimate, eps_out_of, paper_budget, run_paper
from benchmarks.versus.recorded_outputs import RecordedOutputs, RecordedSmoother, Recording, record
from benchmarks.versus.rows import RTOLS, Digit, Row, Settings, exact_budget
from center_smoothing import (
    DISTANCES,
    CenterSmoother,
    Certificate,
    MeanBudget,
    MeanSmoother,
    MedianBudget,
    MedianSmoother,
    SmoothingBudget,
    TightEnough,
    bounds,
)
from center_smoothing.attack import attack
from center_smoothing.noise import Stage
from center_smoothing.sampling import BatchSize, NoisyOutputs
from lightning_modules import NoisyModule

T = TypeVar("T")
_Make = Callable[[Recording, int], Any]  # makes a smoother of the package's, whose outputs are recorded ones


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

    source: NoisyOutputs  # of the model, drawn anew for live runs and the attack
    x: Tensor  # (*in)
    index: int  # of the digit in the data set
    recording: Recording  # outputs around x
    settings: Settings
    name: str  # of the distance
    clip_norm: float | None  # of means by this distance

    def __post_init__(self) -> None:
        """Find the distance."""
        self.distance = DISTANCES[self.name]

    def all(self, with_clock: bool) -> dict[str, Callable[[], list[Row]]]:
        """Return by name what gives the rows of each comparison, to be called in this order."""
        n, small = self.settings.n, [exact_budget(*sizes) for sizes in self.settings.fast]
        large = exact_budget(n, 2 * n)
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
        budget = paper_budget(self.settings.n, self.settings.paper_m)
        self._paper = paper = run_paper(self.recording, self.x, self.distance, budget)
        parts = {"selection": paper.selection, "check": paper.check, "certification": paper.certification}
        return [replace(self._full_run("the paper's", paper.certificate, budget, paper.seconds), parts=parts)]

    def looks(self) -> list[Row]:
        """Take all outputs at once, and stop when they are tight enough at one h."""
        budget = self.settings.looking_budget
        rows = [self._recorded(replace(budget, looks=1))]
        for h, rtol in product((1.0, 2.0), RTOLS):
            smoother = RecordedSmoother(self.recording, self.distance, budget)
            certificate = smoother.certify(self.x, stop=TightEnough([h * self.recording.sigma], rtol))
            name, drawn = f"h = {h:g}, {rtol:.0%}", replace(budget, m=certificate.m, looks=1).evaluations
            rows.append(Row.of(name, certificate, [h], seconds=smoother.outputs.seconds, evaluations=drawn))
        return rows

    def steps(self) -> list[Row]:
        """Return one row a step, from the paper's procedure to this package's; after :meth:`paper`."""
        n, m, paper = self.settings.n, 2 * self.settings.n, self._paper
        exact = exact_budget(n, m, tuple_sizes=())
        same_delta, ball = replace(exact, delta=paper.budget.delta), _ball(paper.certificate)
        full = replace(same_delta, m=paper.budget.m)
        part, _ = self._certified(replace(full, m=paper.certificate.m), ball)
        paired = [exact_budget(n, m, tuple_sizes=(size,)) for size in (1, 3)]
        return [
            self._full_run("the paper's", paper.certificate, paper.budget, paper.seconds),
            self._full_run("exact bound, same center and delta", part, full, paper.seconds - paper.check),
            self._all_pairs("the paper's", replace(paper.budget, m=m)),
            self._all_pairs("exact bound, same center and delta", same_delta),
            self._all_pairs("delta as the exact check admits it", exact),
            self._with_averages("mean and median are candidates too (T2)", exact),
            self._recorded(exact, "candidates of a pilot, not all pairs"),
            *(self._by_pairs(f"pairs moved together, J = {budget.tuple_sizes[0]}", budget) for budget in paired),
            self._recorded(exact_budget(n, m), "probes (T7): this package"),
        ]

    def functions(self) -> list[Row]:
        """Certify each smoothed function, and compare its outputs at x and where an attack at each h ends.

        The attack is that on the mean. Outputs are compared by small samples under the same noise. Sample sizes are in
        proportion to n.
        """
        attacked = {h: self._attacked(h) for h in self.settings.attack_h}
        makes: dict[str, _Make] = {
            "center" if group == 1 else f"center of groups of {group}": partial(self._center, group=group)
            for group in self.settings.groups
        }
        rows = []
        for name, make in {**makes, "mean": self._mean, "median": self._median}.items():
            smoother = make(self.recording, self.settings.n)
            certificate = smoother.certify(self.x)
            name = f"{name}, n = {certificate.budget.n:,}, m = {certificate.budget.m:,}"
            row = Row.of(name, certificate, self.settings.h, seconds=smoother.outputs.seconds)
            rows.append(replace(row, attack={h: self._moved(make, *pair) for h, pair in attacked.items()}))
        return rows

    def _live(self, budget: SmoothingBudget) -> Row:
        """Run this package's procedure with outputs of its own, from beginning to end."""
        sigma, batch_size = self.recording.sigma, self.recording.batch_size
        smoother = CenterSmoother(self.source.model, self.distance, sigma=sigma, budget=budget, batch_size=batch_size)
        began = time.perf_counter()
        certificate = smoother.certify(self.x, example=self.index)
        return Row.of(_sizes(budget), certificate, self.settings.h, seconds=time.perf_counter() - began)

    def _recorded(self, budget: SmoothingBudget, name: str | None = None) -> Row:
        """Run this package's procedure with recorded outputs."""
        certificate, seconds = self._certified(budget)
        return Row.of(name or _sizes(budget), certificate, self.settings.h, seconds=seconds)

    def _certified(
        self, budget: SmoothingBudget, chosen: tuple[Tensor, float] | None = None
    ) -> tuple[Certificate, float]:
        """Certify from recorded outputs, a center and its ball that something else chose if there are; with seconds."""
        smoother = RecordedSmoother(self.recording, self.distance, budget, chosen=chosen)
        return smoother.certify(self.x), smoother.outputs.seconds

    def _full_run(self, name: str, certificate: Certificate, budget: SmoothingBudget, seconds: float) -> Row:
        """Make the row of a budget of which only a part of the certification outputs were drawn."""
        row = Row.of(name, certificate, self.settings.h, seconds=seconds, evaluations=_without_pilot(budget))
        return replace(row, m=budget.m, eps_out={h: eps_out_of(certificate, budget, h) for h in self.settings.h})

    def _all_pairs(self, name: str, budget: SmoothingBudget, chosen: tuple[Tensor, float] | None = None) -> Row:
        """Choose the center among all ranked outputs at least, and certify it with few outputs."""
        certificate, seconds = self._certified(budget, chosen or _ball(self._paper.certificate))
        seconds += self._paper.selection
        return Row.of(name, certificate, self.settings.h, seconds=seconds, evaluations=_without_pilot(budget))

    def _with_averages(self, name: str, budget: SmoothingBudget) -> Row:
        """Take all ranked outputs as candidates, with the mean and median of a pilot."""
        outputs = RecordedOutputs(self.recording)
        pilot = torch.cat(list(outputs.draw(self.x, example=0, stage=Stage.PILOT, count=budget.k)))
        candidates = self.distance.averages_of(pilot)
        ranked = self.recording.outputs[Stage.RANKING][: budget.n]
        radii = self.distance.pairwise(candidates, ranked).kthvalue(budget.half, dim=1).values.tolist()
        balls = [_ball(self._paper.certificate), *zip(candidates, radii, strict=True)]
        seconds = outputs.seconds
        row = self._all_pairs(name, budget, min(balls, key=lambda ball: ball[1]))
        return replace(row, evaluations=row.evaluations + budget.k, seconds=row.seconds + seconds)

    def _by_pairs(self, name: str, budget: SmoothingBudget) -> Row:
        """Get the other ball's radius from averages of J outputs and one more, as one Gaussian moved as a whole."""
        (size,) = budget.tuple_sizes
        choosing = RecordedSmoother(self.recording, self.distance, budget)
        output = choosing.smooth(self.x)
        seconds, _ = choosing.outputs.used(Stage.CERTIFICATION)
        chosen, alone = (output.center, output.radius), replace(budget, tuple_sizes=())
        smoother = RecordedSmoother(self.recording, self.distance, alone, chosen=chosen)
        certificate = smoother.certify(self.x)
        count = budget.m // (size + 1)
        outputs = self.recording.outputs[Stage.CERTIFICATION][: count * (size + 1)]
        tuples = outputs.reshape(count, size + 1, *outputs.shape[1:])
        averages, others = self.distance.averages_of_tuples(tuples[:, :size]), tuples[:, size]
        batches = zip(torch.split(averages, 512), torch.split(others, 512), strict=True)
        between = torch.cat([self.distance(*batch) for batch in batches]).sort().values.numpy()
        row = Row.of(name, certificate, self.settings.h, seconds=seconds + smoother.outputs.seconds)
        radii = {h: eps_out_by_pairs(certificate, budget, between, h) for h in self.settings.h}
        return replace(row, eps_out={h: Estimate.exactly(radius) for h, radius in radii.items()})

    def _center(self, recording: Recording, n: int, *, group: int) -> RecordedSmoother:
        ranked, drawn = (2 * n, 4 * n) if group == 1 else (4 * n, 11 * n)
        ranked, drawn = recording.at_most(Stage.RANKING, ranked), recording.at_most(Stage.CERTIFICATION, drawn)
        return RecordedSmoother(recording, self.distance, exact_budget(ranked // group, drawn // group, group=group))

    def _mean(self, recording: Recording, n: int) -> MeanSmoother:
        averaged, drawn = recording.at_most(Stage.CHECK, 3 * n), recording.at_most(Stage.CERTIFICATION, 9 * n)
        smoother = self._live_mean(MeanBudget(n=averaged, m=drawn))
        smoother.outputs = RecordedOutputs(recording, after=smoother.outputs.after)
        return smoother

    def _median(self, recording: Recording, n: int) -> MedianSmoother:
        ranked = recording.at_most(Stage.RANKING, 2 * n) // 2 * 2 - 1
        budget = MedianBudget(n=ranked, m=recording.at_most(Stage.CERTIFICATION, 10 * n))
        smoother = MedianSmoother(nn.Identity(), self.distance, sigma=recording.sigma, budget=budget)
        smoother.outputs = RecordedOutputs(recording)
        return smoother

    def _live_mean(self, budget: MeanBudget) -> MeanSmoother:
        known = {"sigma": self.source.sigma, "batch_size": self.source.batch_size, "clip_norm": self.clip_norm}
        return MeanSmoother(self.source.model, self.distance, budget=budget, **known)

    def _attacked(self, h: float) -> tuple[Recording, Recording]:
        """Return outputs around x and around the point that the attack finds at h, under the same noise."""
        settings, x, index, eps_in = self.settings, self.x, self.index, h * self.recording.sigma
        smoother = self._live_mean(MeanBudget(n=settings.attack_n, m=settings.attack_n))
        certificate = smoother.certify(x, example=index)
        there = attack(smoother, x, certificate, eps_in=eps_in, budget=settings.attack, example=index).perturbed
        number = 1_000_000 * (1 + settings.attack_h.index(h)) + index  # of an example of its own
        counts = dict.fromkeys((Stage.PILOT, Stage.RANKING, Stage.CHECK, Stage.CERTIFICATION), settings.attack_n)
        here, moved = (record(self.source, point, example=number, counts=counts) for point in (x, there))
        return here, moved

    def _moved(self, make: _Make, here: Recording, there: Recording) -> float:
        """Return the distance between the smoothed outputs at x and at the point of the attack."""
        one, other = (make(recording, self.settings.attack_n).smooth(self.x).center for recording in (here, there))
        return self.distance(one[None], other[None]).item()


def eps_out_by_pairs(
    certificate: Certificate, budget: SmoothingBudget, between: NDArray[np.float64], h: float
) -> float:
    """Compute eps_out = gamma (R + min(2 gamma R, t)) with t from pairs (average of J outputs, one more output).

    If a pair at x' is within t of each other with probability at least theta + (1 - theta) w, at least a share w of the
    averages c have F'_c(t) >= theta. A pair at x' is one at x moved by sqrt(J + 1) h in all: the Gaussian shift of the
    pair as a whole, where this package's T7 moves the average and the other output one after the other.

    The certificate's distances give R; the budget has tuple size J alone, and half of its alpha_2 is for R and half for
    t; ``between`` are (T,) ascending distances of independent pairs at x.
    """
    (size,) = budget.tuple_sizes
    theta, alpha = 0.5 + budget.delta, budget.alpha_2 / 2.0
    hit = budget._alpha_hit()  # what of alpha_1 is left, the same as for probes
    if hit <= 0.0:
        return certificate.eps_out(h * certificate.sigma)
    mass = theta + (1.0 - theta) * bounds.mass_hit(budget.tuples(size), hit)
    rank = bounds.order_statistic_rank(len(between), bounds.gaussian_shift_up(mass, math.sqrt(size + 1) * h), alpha)
    rank_of_radius = bounds.order_statistic_rank(certificate.m, bounds.gaussian_shift_up(theta, h), alpha)
    if certificate.abstained or rank > len(between) or rank_of_radius > certificate.m:
        return certificate.eps_out(h * certificate.sigma)  # all of alpha_2 for R
    gamma, radius = certificate.relaxation, float(certificate.distances[rank_of_radius - 1])
    return gamma * (radius + min(2.0 * gamma * radius, float(between[rank - 1])))


def _ball(certificate: Certificate) -> tuple[Tensor, float]:
    """Return the center (*out), and the radius of the ball around it that holds half of the ranked outputs."""
    return certificate.output.center, certificate.output.radius


def _sizes(budget: SmoothingBudget) -> str:
    return f"n = {budget.n:,}, m = {budget.m:,}"


def _without_pilot(budget: SmoothingBudget) -> int:
    """Count the evaluations of a procedure without a pilot."""
    return budget.evaluations - (0 if budget.method == "paper" else budget.k)


def _telling(name: str, call: Callable[[], T]) -> T:
    """Call a function, and print how long it took."""
    began = time.perf_counter()
    result = call()
    print(f"  {name:<16} {time.perf_counter() - began:7.1f} s", flush=True)
    return result
