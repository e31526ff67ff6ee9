"""Center smoothing: the smoothed function and its certificate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from center_smoothing.budget import SmoothingBudget
from center_smoothing.certificate import Certificate, SmoothedOutput
from center_smoothing.distances.base import Distance
from center_smoothing.sampling import BaseFunction, BatchSize, NoisyOutputs, Stage

# Candidates of paper mode that are compared with all n outputs at a time.
_CANDIDATES_AT_ONCE = 64


class CenterSmoother:
    """Smooths a base function f into the center of the smallest ball that holds half of its noisy outputs.

    Args:
        model: the base function, any callable (N, *in) -> (N, *out). Modules are put in eval mode for each call, and
            back. Outputs of one call must not depend on each other.
        distance: between outputs.
        sigma: noise level, in units of x.
        budget: sample sizes, margin and failure probabilities; default ``SmoothingBudget()``.
        seed: of the noise. The promise is over the draw of the noise: it does not cover an x' that was chosen
            knowing the seed.
        batch_size: noisy copies per call of the model, or ``"auto"``. It changes the speed and nothing else.
        progress: called with the number of noisy copies after each call of the model.

    Raises:
        ValueError: for a sigma that is not positive and finite, or arguments of another type.
    """

    def __init__(
        self,
        model: BaseFunction,
        distance: Distance,
        *,
        sigma: float,
        budget: SmoothingBudget | None = None,
        seed: int = 0,
        batch_size: BatchSize = "auto",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        if not isinstance(distance, Distance):
            raise ValueError(f"distance must be a Distance such as TotalVariation(), got {distance!r}")
        self.distance = distance
        self.budget = SmoothingBudget() if budget is None else budget
        self.outputs = NoisyOutputs(model, sigma=sigma, seed=seed, batch_size=batch_size, progress=progress)

    @property
    def sigma(self) -> float:
        """Noise level, in units of x."""
        return self.outputs.sigma

    def smooth(self, x: Tensor, *, example: int = 0) -> SmoothedOutput:
        """The smoothed function at x: Algorithm 1, theory T1 and T2.

        Args:
            x: (*in), without a batch dimension.
            example: with the seed it determines the noise; the index in the data set, say.

        Returns:
            The center (*out), its ball, and whether the check made it abstain.

        Raises:
            ValueError: if x is not a finite floating-point tensor, or f returns another shape than (N, *out).
        """
        center, radius = self._select(x, example)
        return self._checked(center, radius, self._check_distances(x, example, center))

    def certify(self, x: Tensor, *, example: int = 0) -> Certificate:
        """The smoothed function at x and what holds around it: Algorithm 2, theory T3 to T6 and T8.

        Arguments, errors and the smoothed output are those of :meth:`smooth`.
        """
        budget = self.budget
        center, radius = self._select(x, example)
        certification = self._distances_to(center, x, example, Stage.CERTIFICATION, max(budget.m, budget.n_check))
        if budget.method == "paper":
            check = self._check_distances(x, example, center)
        else:
            check = certification[: budget.n_check]  # T8: a batch independent of (center, radius) serves for both
        output = self._checked(center, radius, check)
        base = self.outputs.base_output(x).unsqueeze(0)
        loss = math.inf if output.abstained else self.distance(base, center.unsqueeze(0)).item()
        return Certificate(
            distances=certification[: budget.m].sort().values.numpy(),
            sigma=self.sigma,
            relaxation=self.distance.relaxation,
            budget=budget,
            output=output,
            smoothing_loss=loss,
        )

    def _select(self, x: Tensor, example: int) -> tuple[Tensor, float]:
        """T1.1 and T1.2: the candidate with the least ceil(n/2)-th smallest distance, and that distance."""
        paper = self.budget.method == "paper"
        candidates, radii = (self._rank_all_pairs if paper else self._rank_pilot)(x, example)
        if len(candidates) == 0:  # not one finite output: there is no center, and the check abstains
            return candidates.new_zeros(candidates.shape[1:]), math.inf
        radius, best = radii.min(dim=0)
        return candidates[int(best)], float(radius)

    def _rank_pilot(self, x: Tensor, example: int) -> tuple[Tensor, Tensor]:
        """Candidates (K, *out) from k pilot outputs, and their radii (K,) from n fresh ones."""
        pilot = torch.cat(list(self.outputs.draw(x, example=example, stage=Stage.PILOT, count=self.budget.k)))
        candidates = self._candidates(pilot)
        return candidates, self._half_radii(self._distances(candidates, x, example, Stage.RANKING, self.budget.n))

    def _candidates(self, pilot: Tensor) -> Tensor:
        """The finite pilot outputs and what the distance makes of them: their mean and median, say (theory T2)."""
        finite = _finite(pilot)
        if len(finite) == 0:
            return finite
        return _finite(torch.cat([finite, self.distance.averages_of(finite)]))

    def _half_radii(self, distances: Tensor) -> Tensor:
        """(n, K) -> (K,): the ceil(n/2)-th smallest distance of each candidate."""
        return distances.kthvalue(self.budget.half, dim=0).values

    def _check_distances(self, x: Tensor, example: int, center: Tensor) -> Tensor:
        stage = Stage.CHECK if self.budget.method == "paper" else Stage.CERTIFICATION
        return self._distances_to(center, x, example, stage, self.budget.n_check)

    def _checked(self, center: Tensor, radius: float, distances: Tensor) -> SmoothedOutput:
        """T1.3: abstain unless B(center, radius) holds enough of n_check fresh outputs."""
        inside = int((distances <= radius).sum()) if radius < math.inf else 0
        mass = self.budget.mass_lower_bound(inside)
        return SmoothedOutput(center, radius, mass, abstained=0.5 - mass > self.budget.delta)

    def _distances_to(self, center: Tensor, x: Tensor, example: int, stage: Stage, count: int) -> Tensor:
        """Distances (count,) of fresh outputs from the center (*out), in the order in which they were drawn."""
        return self._distances(center.unsqueeze(0), x, example, stage, count)[:, 0].cpu()

    def _distances(self, points: Tensor, x: Tensor, example: int, stage: Stage, count: int) -> Tensor:
        """Distances (count, K) of fresh outputs, in the order in which they were drawn, from points (K, *out)."""
        embedded = self.distance.embed(points)
        batches = self.outputs.draw(x, example=example, stage=stage, count=count)
        return torch.cat([self.distance.compare(self.distance.embed(batch), embedded) for batch in batches])

    def _rank_all_pairs(self, x: Tensor, example: int) -> tuple[Tensor, Tensor]:
        """Paper mode: the n ranked outputs are the candidates too, each at distance 0 from itself."""
        ranking = torch.cat(list(self.outputs.draw(x, example=example, stage=Stage.RANKING, count=self.budget.n)))
        candidates, step = _finite(ranking), _CANDIDATES_AT_ONCE
        embedded, centers = self.distance.embed(ranking), self.distance.embed(candidates)
        blocks = [centers[start : start + step] for start in range(0, max(1, len(centers)), step)]
        return candidates, torch.cat([self._half_radii(self.distance.compare(embedded, block)) for block in blocks])


def _finite(outputs: Tensor) -> Tensor:
    """The rows of (N, *out) without NaN or inf."""
    return outputs[torch.isfinite(outputs).flatten(1).all(dim=1)]
