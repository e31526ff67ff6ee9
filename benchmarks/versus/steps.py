"""What each step from the paper's procedure to this package's contributes, around one x."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.versus.paper_procedure import Estimate, PaperRun, eps_out_of
from benchmarks.versus.recorded_outputs import RecordedOutputs, RecordedSmoother, Recording
from benchmarks.versus.rows import Row
from benchmarks.versus.settings import exact_budget
from center_smoothing import Certificate, Distance, SmoothingBudget, bounds
from center_smoothing.sampling import Stage

# A center (*out) and the radius of the ball around it that holds half of the ranked outputs.
Ball = tuple[Tensor, float]


@dataclass(frozen=True)
class Steps:
    """The steps around one x."""

    recording: Recording  # outputs around x
    x: Tensor  # (*in)
    distance: Distance  # between outputs, which can be averaged
    paper: PaperRun  # the paper's procedure around x
    m: int  # the few certification outputs that the later steps do with
    h: Sequence[float]  # the eps_in / sigma that are of interest

    def rows(self) -> list[Row]:
        """Return one row a step, from the paper's procedure to this package's."""
        return [
            self.full_run("the paper's", self.paper.budget),
            self.full_run("exact bound, same center and delta", self._exact_with_papers_delta(self.paper.budget.m)),
            self.all_pairs("the paper's", replace(self.paper.budget, m=self.m)),
            self.all_pairs("exact bound, same center and delta", self._exact_with_papers_delta(self.m)),
            self.all_pairs("delta as the exact check admits it", self._exact()),
            self.with_averages("mean and median are candidates too (T2)", self._exact()),
            self.of_pilot("candidates of a pilot, not all pairs", self._exact()),
            self.by_pairs("pairs moved together, J = 1", self._exact(tuple_sizes=(1,))),
            self.by_pairs("pairs moved together, J = 3", self._exact(tuple_sizes=(3,))),
            self.of_pilot("probes (T7): this package", self._exact(tuple_sizes=None)),
        ]

    def full_run(self, name: str, budget: SmoothingBudget) -> Row:
        """Certify the paper's center with as many certification outputs as the paper has."""
        part = replace(budget, m=self.paper.certificate.m)
        certificate = RecordedSmoother(self.recording, self.distance, part, chosen=self._papers_ball).certify(self.x)
        seconds = self.paper.seconds - (0.0 if budget.method == "paper" else self.paper.check)
        row = Row.of(name, certificate, self.h, seconds=seconds, evaluations=self._evaluations(budget))
        return replace(row, m=budget.m, eps_out={h: eps_out_of(certificate, budget, h) for h in self.h})

    def all_pairs(self, name: str, budget: SmoothingBudget, chosen: Ball | None = None, seconds: float = 0.0) -> Row:
        """Choose the center among all ranked outputs at least, and certify it with few outputs."""
        chosen = self._papers_ball if chosen is None else chosen
        smoother = RecordedSmoother(self.recording, self.distance, budget, chosen=chosen)
        certificate = smoother.certify(self.x)
        seconds += self.paper.selection + smoother.outputs.seconds
        return Row.of(name, certificate, self.h, seconds=seconds, evaluations=self._evaluations(budget))

    def with_averages(self, name: str, budget: SmoothingBudget) -> Row:
        """Take all ranked outputs as candidates, with the mean and median of a pilot."""
        outputs = RecordedOutputs(self.recording)
        pilot = torch.cat(list(outputs.draw(self.x, example=0, stage=Stage.PILOT, count=budget.k)))
        candidates = self.distance.averages_of(pilot)
        ranked = self.recording.outputs[Stage.RANKING][: budget.n]
        radii = self.distance.pairwise(candidates, ranked).kthvalue(budget.half, dim=1).values.tolist()
        balls = [self._papers_ball, *zip(candidates, radii, strict=True)]
        chosen = min(balls, key=lambda ball: ball[1])
        row = self.all_pairs(name, budget, chosen, seconds=outputs.seconds)
        return replace(row, evaluations=row.evaluations + budget.k)

    def of_pilot(self, name: str, budget: SmoothingBudget) -> Row:
        """Run this package's procedure, or without its T7."""
        smoother = RecordedSmoother(self.recording, self.distance, budget)
        certificate = smoother.certify(self.x)
        return Row.of(name, certificate, self.h, seconds=smoother.outputs.seconds)

    def by_pairs(self, name: str, budget: SmoothingBudget) -> Row:
        """Get the other ball's radius from averages of J outputs and one more, as one Gaussian moved as a whole."""
        (size,) = budget.tuple_sizes
        choosing = RecordedSmoother(self.recording, self.distance, budget)
        output = choosing.smooth(self.x)
        seconds, _ = choosing.outputs.used(Stage.CERTIFICATION)
        alone = replace(budget, tuple_sizes=())
        smoother = RecordedSmoother(self.recording, self.distance, alone, chosen=(output.center, output.radius))
        certificate = smoother.certify(self.x)
        between = self._pair_distances(size, budget.m)
        seconds += smoother.outputs.seconds
        row = Row.of(name, certificate, self.h, seconds=seconds)
        radii = {h: Estimate.exactly(eps_out_by_pairs(certificate, budget, between, h)) for h in self.h}
        return replace(row, eps_out=radii)

    def _pair_distances(self, size: int, m: int) -> NDArray[np.float64]:
        """Return ascending distances (m / (J + 1),) between averages of J certification outputs and one more."""
        count = m // (size + 1)
        outputs = self.recording.outputs[Stage.CERTIFICATION][: count * (size + 1)]
        tuples = outputs.reshape(count, size + 1, *outputs.shape[1:])
        averages, others = self.distance.averages_of_tuples(tuples[:, :size]), tuples[:, size]
        batches = zip(torch.split(averages, 512), torch.split(others, 512), strict=True)
        return torch.cat([self.distance(*batch) for batch in batches]).sort().values.numpy()

    @property
    def _papers_ball(self) -> Ball:
        output = self.paper.certificate.output
        return output.center, output.radius

    def _exact(self, *, tuple_sizes: tuple[int, ...] | None = ()) -> SmoothingBudget:
        return exact_budget(self.paper.budget.n, self.m, tuple_sizes=tuple_sizes)

    def _exact_with_papers_delta(self, m: int) -> SmoothingBudget:
        return replace(self._exact(), m=m, delta=self.paper.budget.delta)

    def _evaluations(self, budget: SmoothingBudget) -> int:
        """Count the evaluations of a procedure without a pilot."""
        return budget.evaluations - (0 if budget.method == "paper" else budget.k)


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
