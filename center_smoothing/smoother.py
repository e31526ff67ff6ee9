"""Center smoothing: the smoothed function and its certificate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from center_smoothing.budget import SmoothingBudget
from center_smoothing.certificate import Certificate, SmoothedOutput
from center_smoothing.certification_sample import CertificationSample, averaged_sizes, tuples_of
from center_smoothing.distances import Distance, as_distance
from center_smoothing.noise import Stage
from center_smoothing.sampling import BaseFunction, BatchSize, NoisyOutputs

# Whether a certificate, at one of the budget's looks, will do.
StoppingRule = Callable[[Certificate], bool]

# Candidates of paper mode that are compared with all n outputs at a time.
_CANDIDATES_AT_ONCE = 64


class CenterSmoother:
    """Smooths a base function f into the center of the smallest ball that holds half of its noisy outputs.

    Args:
        model: the base function: any callable (N, *in) -> (N, *out), or an estimator or exported program, see
            :func:`center_smoothing.base_functions.as_base_function`. Modules are put in eval mode for each call, and
            back. Outputs of one call must not depend on each other.
        distance: between outputs: a :class:`Distance`, or a function of two batches of outputs, (N,).
        sigma: noise level, in units of x.
        budget: sample sizes, margin and failure probabilities; default ``SmoothingBudget()``.
        seed: of the noise. The promise is over the draw of the noise: it does not cover an x' that was chosen
            knowing the seed.
        grid: steps per unit of x. Then x is rounded to the grid and the noise is exact, so that rounding cannot make
            the promise false for any attacked input on the grid (theory T10); default: noise in floating point.
        batch_size: noisy copies per call of the model, or ``"auto"``. It changes the speed and nothing else.
        progress: called with the number of noisy copies after each call of the model.

    Raises:
        ValueError: for a sigma that is not positive and finite, or arguments of another type.
    """

    def __init__(
        self,
        model: BaseFunction,
        distance: Distance | Callable[[Tensor, Tensor], Tensor],
        *,
        sigma: float,
        budget: SmoothingBudget | None = None,
        seed: int = 0,
        grid: int | None = None,
        batch_size: BatchSize = "auto",
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.distance = as_distance(distance)
        budget = SmoothingBudget() if budget is None else budget
        self.budget = budget if self.distance.averages else budget.without_averages()
        model = self.distance.encoded(model)
        self.outputs = NoisyOutputs(model, sigma=sigma, seed=seed, grid=grid, batch_size=batch_size, progress=progress)

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

    def certify(self, x: Tensor, *, example: int = 0, stop: StoppingRule | None = None) -> Certificate:
        """The smoothed function at x and what holds around it: Algorithm 2, theory T3 to T8.

        Arguments, errors and the smoothed output are those of :meth:`smooth`.

        Args:
            x: (*in).
            example: as for :meth:`smooth`.
            stop: asked at each of the budget's looks but the last whether its certificate will do. It may decide by
                whatever it likes: alpha_2 is shared by the looks.
        """
        center, radius = self._select(x, example)
        used = self.budget.with_sizes(averaged_sizes(self.budget, center))
        sample, output, loss = CertificationSample(used, self.distance, center), None, math.inf
        for m in self._looks(sample, x, example):
            if output is None:
                paper = self.budget.method == "paper"  # else one batch serves for both (T8)
                check = self._check_distances(x, example, center) if paper else sample.first(self.budget.n_check)
                output = self._checked(center, radius, check)
                loss = math.inf if output.abstained else self._distance_from_base_output(center, x)
            certificate = Certificate(
                distances=sample.ascending(m),
                probes=sample.probe_distances(m),
                sigma=self.sigma,
                relaxation=self.distance.relaxation,
                budget=self.budget,
                output=output,
                smoothing_loss=loss,
            )
            if output.abstained or (m < self.budget.m and stop is not None and stop(certificate)):
                break
        return certificate

    def _select(self, x: Tensor, example: int) -> tuple[Tensor, float]:
        """T1.1 and T1.2: the candidate with the least ceil(n/2)-th smallest distance, and that distance."""
        paper = self.budget.method == "paper"
        candidates, radii = (self._rank_all_pairs if paper else self._rank_pilot)(x, example)
        if len(candidates) == 0:  # not one output: there is no center, and the check abstains
            return candidates.new_zeros(candidates.shape[1:]), math.inf
        radius, best = radii.min(dim=0)
        return candidates[int(best)], float(radius)

    def _rank_pilot(self, x: Tensor, example: int) -> tuple[Tensor, Tensor]:
        """Candidates (K, *out) from k pilot outputs, and their radii (K,) from n fresh ones."""
        pilot = torch.cat(list(self.outputs.draw(x, example=example, stage=Stage.PILOT, count=self.budget.k)))
        candidates = self._candidates(pilot)
        embedded = self.distance.embed(candidates)
        distances = embedded.new_zeros((len(candidates), self.budget.n))
        drawn = 0
        for outputs in self.outputs.draw(x, example=example, stage=Stage.RANKING, count=self.budget.n):
            compared = self.distance.compare(self.distance.embed(outputs), embedded)
            distances[:, drawn : drawn + len(outputs)] = compared.T
            drawn += len(outputs)
        return candidates, self._half_radii(distances)

    def _candidates(self, pilot: Tensor) -> Tensor:
        """Pilot outputs, averages of tuples (T7), and what the distance makes of all (T2): mean, median."""
        budget, kept = self.budget, self._outputs_among(pilot)
        if len(kept) == 0:
            return kept
        sizes = sorted({1, *averaged_sizes(budget, pilot)})
        tuples = [tuples_of(pilot, size, budget.tuples(size), self.distance) for size in sizes if size <= budget.k]
        return self._outputs_among(torch.cat([*tuples, self.distance.averages_of(kept)]))

    def _outputs_among(self, outputs: Tensor) -> Tensor:
        """The rows of (N, *out) that are outputs (T9)."""
        return outputs[self.distance.are_outputs(outputs).to(outputs.device)]

    def _half_radii(self, distances: Tensor) -> Tensor:
        """(K, n) -> (K,): the ceil(n/2)-th smallest distance of each candidate."""
        radii = [row.kthvalue(self.budget.half).values for row in distances]
        return torch.stack(radii) if radii else distances.new_empty(0)

    def _looks(self, sample: CertificationSample, x: Tensor, example: int) -> Iterator[int]:
        """Draw the certification sample, and say at each look how many outputs it has."""
        looks, count = list(self.budget.look_sizes), self.budget.certification_outputs
        for outputs in self.outputs.draw(x, example=example, stage=Stage.CERTIFICATION, count=count):
            sample.add(outputs)
            while looks and sample.drawn >= (looks[0] if len(looks) > 1 else count):
                yield looks.pop(0)

    def _check_distances(self, x: Tensor, example: int, center: Tensor) -> Tensor:
        """Distances (n_check,) of outputs that are independent of the center and its radius."""
        stage = Stage.CHECK if self.budget.method == "paper" else Stage.CERTIFICATION
        embedded = self.distance.embed(center.unsqueeze(0))
        batches = self.outputs.draw(x, example=example, stage=stage, count=self.budget.n_check)
        return torch.cat([self.distance.compare(self.distance.embed(batch), embedded)[:, 0] for batch in batches])

    def _checked(self, center: Tensor, radius: float, distances: Tensor) -> SmoothedOutput:
        """T1.3: abstain unless B(center, radius) holds enough of n_check fresh outputs."""
        inside = int((distances <= radius).sum()) if radius < math.inf else 0
        mass = self.budget.mass_lower_bound(inside)
        return SmoothedOutput(center, radius, mass, abstained=0.5 - mass > self.budget.delta)

    def _distance_from_base_output(self, center: Tensor, x: Tensor) -> float:
        return float(self.distance(self.outputs.base_output(x).unsqueeze(0), center.unsqueeze(0)))

    def _rank_all_pairs(self, x: Tensor, example: int) -> tuple[Tensor, Tensor]:
        """Paper mode: the n ranked outputs are the candidates too, each at distance 0 from itself."""
        ranking = torch.cat(list(self.outputs.draw(x, example=example, stage=Stage.RANKING, count=self.budget.n)))
        candidates, step = self._outputs_among(ranking), _CANDIDATES_AT_ONCE
        embedded, centers = self.distance.embed(ranking), self.distance.embed(candidates)
        blocks = [centers[start : start + step] for start in range(0, max(1, len(centers)), step)]
        radii = [self._half_radii(self.distance.compare(embedded, block).T) for block in blocks]
        return candidates, torch.cat(radii)
