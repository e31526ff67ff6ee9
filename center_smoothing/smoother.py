"""Center smoothing, Algorithms 1 and 2 of the paper: select a center, check it, certify it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Unpack

import torch
from torch import Tensor

from center_smoothing.budget import SmoothingBudget
from center_smoothing.certificate import Certificate, SmoothedOutput
from center_smoothing.certification_sample import CertificationSample, averaged_sizes
from center_smoothing.distances import DistanceLike, as_distance
from center_smoothing.noise import Point, Stage, as_point
from center_smoothing.sampling import BaseFunction, Sampling
from center_smoothing.selection import select
from center_smoothing.smoother_base import Smoother, StoppingRule


class CenterSmoother(Smoother):
    """Smooths a base function f into the center of the smallest ball that holds half of its noisy outputs.

    Args:
        model: the base function: any callable (N, *in) -> (N, *out), or an estimator or exported program, see
            :func:`center_smoothing.base_functions.as_base_function`. Modules are put in eval mode for each call, and
            back. Outputs of one call must not depend on each other.
        distance: between outputs: a :class:`Distance`, the name of one such as "l2" (see ``DISTANCES``), or a function
            of two batches of outputs, (N,).
        sigma: noise level, in units of x.
        budget: sample sizes, margin and failure probabilities; default ``SmoothingBudget()``.
        sampling: how noisy outputs are drawn, see :class:`center_smoothing.Smoother`.

    Raises:
        ValueError: for a sigma that is not positive and finite, or arguments of another type.
    """

    kind = "center"
    budget_type = SmoothingBudget
    certificate_type = Certificate
    budget: SmoothingBudget

    def __init__(
        self,
        model: BaseFunction,
        distance: DistanceLike,
        *,
        sigma: float,
        budget: SmoothingBudget | None = None,
        **sampling: Unpack[Sampling],
    ) -> None:
        budget, distance = SmoothingBudget() if budget is None else budget, as_distance(distance)
        self.budget = budget if distance.averages else budget.without_averages()
        super().__init__(model, distance, group=budget.group, sigma=sigma, **sampling)

    def smooth(self, x: Point, *, example: int = 0) -> SmoothedOutput:
        """Return the smoothed function at x: Algorithm 1, theory T1 and T2. Arguments and errors as in the base class.

        Returns:
            The center (*out), its ball, and whether the check made it abstain.
        """
        x = as_point(x)
        center, radius = select(self.outputs, self.distance, self.budget, x, example)
        return self._check(center, radius, self._check_distances(x, example, center))

    def certify(self, x: Point, *, example: int = 0, stop: StoppingRule | None = None) -> Certificate:
        """Return the smoothed function at x and what holds around it: Algorithm 2, theory T3 to T8.

        The certificate answers eps_out = gamma (R + min(2 gamma R, t)), 3 R at most for a metric: R is an order
        statistic of the distances from the center to fresh outputs, at a rank that grows with eps_in / sigma, and t
        bounds the radius at x' by probes (:func:`center_smoothing.certificate.output_radius`). ``stop`` may decide by
        whatever it likes: alpha_2 is shared by the looks. Arguments and errors as in the base class.
        """
        x = as_point(x)
        center, radius = select(self.outputs, self.distance, self.budget, x, example)
        used = self.budget.with_sizes(averaged_sizes(self.budget, center))
        sample = CertificationSample(used, self.distance, center)
        looks = self._looks(sample, x, example)
        first = next(looks)  # at the first look there are as many outputs as the check takes
        shared = self.budget.method != "paper"  # one batch serves for both (T8)
        check = sample.first(self.budget.n_check) if shared else self._check_distances(x, example, center)
        output = self._check(center, radius, check)
        loss = self._smoothing_loss(x, output)
        certificates = (
            Certificate(
                distances=sample.ascending(m),
                probes=sample.probe_distances(m),
                sigma=self.sigma,
                relaxation=self.distance.relaxation,
                budget=self.budget,
                output=output,
                smoothing_loss=loss,
                **self._measures(x),
            )
            for m in chain([first], looks)
        )
        # the last look is the one at which nothing is to be gained, or all m outputs are drawn
        return next(
            found for found in certificates if found.abstained or found.m == self.budget.m or (stop and stop(found))
        )

    def _check_distances(self, x: Tensor, example: int, center: Tensor) -> Tensor:
        """Return distances (n_check,) of outputs that are independent of the center and its radius."""
        stage = Stage.CHECK if self.budget.method == "paper" else Stage.CERTIFICATION
        embedded = self.distance.embed(center.unsqueeze(0))
        batches = self.outputs.draw(x, example=example, stage=stage, count=self.budget.n_check)
        return torch.cat([self.distance.compare(self.distance.embed(batch), embedded)[:, 0] for batch in batches])

    def _check(self, center: Tensor, radius: float, distances: Tensor) -> SmoothedOutput:
        """Abstain unless B(center, radius) holds enough of n_check fresh outputs (T1.3)."""
        inside = int((distances <= radius).sum()) if radius < float("inf") else 0
        mass = self.budget.mass_lower_bound(inside)
        return SmoothedOutput(center, radius, mass, abstained=0.5 - mass > self.budget.delta)

    def _looks(self, sample: CertificationSample, x: Tensor, example: int) -> Iterator[int]:
        """Draw the certification sample, and yield at each look how many outputs it has."""
        looks, count = list(self.budget.look_sizes), self.budget.certification_outputs
        for outputs in self.outputs.draw(x, example=example, stage=Stage.CERTIFICATION, count=count):
            sample.add(outputs)
            while looks and sample.drawn >= (looks[0] if len(looks) > 1 else count):
                yield looks.pop(0)

    def plan_table(self, h: Sequence[float]) -> list[str]:
        """Return mass, rank and theorem of the certificate at each h, as text under a heading."""
        plans = [self.budget.plan(each) for each in h]
        return [f"{'p':>9} {'rank of m':>17} {'least m':>9}  theorem"] + [
            f"{plan.p:>9.6f} {f'{plan.rank}/{self.budget.m}':>17} {plan.least_m:>9.0f}  {plan.theorem}"
            for plan in plans
        ]
