"""Median smoothing, for distances that are bounded over boxes: the smoothed function and its certificate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from center_smoothing.certificate_base import ROUNDING
from center_smoothing.distances.base import Distance, to_float64
from center_smoothing.distances.named import DistanceLike, as_distance
from center_smoothing.medians.budget import MedianBudget
from center_smoothing.medians.certificate import MedianCertificate, MedianOutput
from center_smoothing.medians.order_statistics import OrderStatistics, sorted_coordinates
from center_smoothing.noise import Point, Stage, as_point
from center_smoothing.sampling import BaseFunction, Sampling
from center_smoothing.smoother_base import Smoother, StoppingRule

# Certification outputs, the first ones, whose numbers are the edges of the box: n of them, but this many at least.
_MIN_EDGES = 4096


class MedianSmoother(Smoother):
    """Smooths a base function f into the coordinate-wise medians of its noisy outputs.

    This is another function than the center that :class:`center_smoothing.CenterSmoother` gives, and its certificates
    are boxes: how far each number of the output can move (theory T14). It needs no bound on the outputs, and single
    outputs that are far off hardly move it.

    Memory: twice n outputs (4 096 at least) and a count of 4 bytes for each of their numbers; m makes no difference
    beyond that, but for 8 bytes an output. A certificate keeps about 65 boxes of two outputs each.

    Args:
        model: the base function, any callable (N, *in) -> (N, *out). Modules are put in eval mode for each call, and
            back. Outputs of one call must not depend on each other.
        distance: between outputs, or its name such as "l2": one that is bounded over boxes
            (:attr:`Distance.bounds_boxes`).
        sigma: noise level, in units of x.
        budget: sample sizes and failure probabilities; default ``MedianBudget()``.
        sampling: how noisy outputs are drawn, see :class:`center_smoothing.Smoother`.

    Raises:
        ValueError: for a distance that is not bounded over boxes, and for arguments out of range.

    Example:
        >>> budget = MedianBudget(n=1_001, m=2_000)
        >>> smoother = MedianSmoother(lambda z: 2.0 * z, "l2", sigma=0.5, budget=budget)
        >>> certificate = smoother.certify(torch.zeros(2))
        >>> low, high = certificate.box(0.5)
        >>> 1.0 < float(high.max()) < 1.4 and certificate.eps_out(0.5) < 2.0
        True
    """

    kind = "median"
    follows_mean = True
    budget_type = MedianBudget
    certificate_type = MedianCertificate
    needs = "that is bounded over boxes of outputs"
    why = "what is certified of medians is a box, and by other distances nothing is known of it"
    budget: MedianBudget

    def __init__(
        self,
        model: BaseFunction,
        distance: DistanceLike,
        *,
        sigma: float,
        budget: MedianBudget | None = None,
        **sampling: Unpack[Sampling],
    ) -> None:
        distance = as_distance(distance)
        self.check_distance(distance)
        self.budget = MedianBudget() if budget is None else budget
        super().__init__(model, distance, sigma=sigma, **sampling)

    @classmethod
    def takes(cls, distance: Distance) -> bool:
        """Return whether a distance is bounded over boxes."""
        return distance.bounds_boxes

    def smooth(self, x: Point, *, example: int = 0) -> MedianOutput:
        """Return the medians of n outputs at x, coordinate by coordinate, see :meth:`Smoother.smooth`.

        It abstains where one of them is not finite.
        """
        x = as_point(x)
        outputs = torch.cat(list(self._draw(x, example, Stage.RANKING, self.budget.n)))
        medians = sorted_coordinates(outputs)[:, self.budget.n // 2].reshape(outputs.shape[1:])
        abstained = not bool(torch.isfinite(medians).all())
        return MedianOutput(torch.zeros_like(medians) if abstained else medians, abstained)

    def certify(self, x: Point, *, example: int = 0, stop: StoppingRule | None = None) -> MedianCertificate:
        """Return the smoothed function at x and what holds around it (theory T14), see :meth:`Smoother.certify`.

        Medians have one look, so that ``stop`` is never asked.
        """
        x = as_point(x)
        output = self.smooth(x, example=example)
        center, budget = output.center, self.budget.for_output(output.center)
        statistics, parts = OrderStatistics(max(budget.n, _MIN_EDGES)), []
        embedded = self.distance.embed(center[None])
        for outputs in self._draw(x, example, Stage.CERTIFICATION, budget.m):
            statistics.add(outputs)
            parts.append(self.distance.compare(self.distance.embed(outputs), embedded)[:, 0].cpu().numpy())
        low, high = (ends.reshape(-1, *center.shape).cpu() for ends in statistics.bounds(budget.kept_ranks()))
        return MedianCertificate(
            distances=np.sort(np.concatenate(parts)),
            sigma=self.sigma,
            budget=budget,
            output=output,
            smoothing_loss=self._smoothing_loss(x, output),
            low=low,
            high=high,
            radii=_radii(self.distance, center.cpu(), low, high),
            **self._measures(x),
        )

    def plan_table(self, h: Sequence[float]) -> list[str]:
        """Return mass and rank of the box at each h, as text under a heading."""
        plans = [self.budget.plan(each) for each in h]
        return [f"{'D':>8} {'p':>9} {'rank of m':>17} {'least m':>9}"] + [
            f"{plan.margin:>8.5f} {plan.p:>9.6f} {f'{plan.rank}/{self.budget.m}':>17} {plan.least_m:>9.0f}"
            for plan in plans
        ]

    def _draw(self, x: Tensor, example: int, stage: Stage, count: int) -> Iterator[Tensor]:
        """Yield outputs (N, *out) in batches, in their own floating-point type; whole numbers in float64."""
        for outputs in self.outputs.draw(x, example=example, stage=stage, count=count):
            yield outputs if outputs.is_floating_point() else to_float64(outputs)


def _radii(distance: Distance, center: Tensor, low: Tensor, high: Tensor) -> NDArray[np.float64]:
    """Return what no distance from the center to anything in each of the boxes exceeds, rounded up: (G,) ascending.

    The center is taken into each box: it may lie just outside of a small one.
    """
    middle, radii = to_float64(center), []
    for box in zip(low, high, strict=True):
        lower, upper = map(to_float64, box)
        finite = bool(torch.isfinite(lower).all() and torch.isfinite(upper).all())
        lower, upper = torch.minimum(lower, middle), torch.maximum(upper, middle)
        radius = distance.box_radius(middle, lower, upper) if finite else math.inf
        radii.append(math.inf if math.isnan(radius) else math.nextafter(radius * ROUNDING, math.inf))
    return np.maximum.accumulate(radii)
