"""The smoothed functions of this package on one digit: their certificates, and how far an attack moves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.versus.recorded_outputs import RecordedOutputs, RecordedSmoother, Recording, record
from benchmarks.versus.rows import Row
from benchmarks.versus.settings import Settings, exact_budget
from center_smoothing import Distance, MeanBudget, MeanSmoother, MedianBudget, MedianSmoother
from center_smoothing.attack import attack
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs

_Smoother = Any  # one of the package's, whose ``outputs`` are a RecordedOutputs


@dataclass(frozen=True)
class Functions:
    """The smoothed functions around one x, under one distance."""

    source: NoisyOutputs  # of the model, drawn anew for the attack
    recording: Recording  # outputs around x
    x: Tensor  # (*in)
    index: int  # of the digit in the data set
    distance: Distance
    clip_norm: float | None  # of means, by distances that are not bounded
    settings: Settings

    def rows(self) -> list[Row]:
        """Certify each function, and compare its outputs at x and where an attack at each h of the settings ends.

        The attack is that on the mean. Outputs are compared by small samples under the same noise.
        """
        attacked = {h: self._attacked(h) for h in self.settings.attack_h}
        rows = []
        for name, make in self._smoothers().items():
            smoother = make(self.recording, self.settings.n)
            certificate = smoother.certify(self.x)
            name = f"{name}, n = {certificate.budget.n:,}, m = {certificate.budget.m:,}"
            row = Row.of(name, certificate, self.settings.h, seconds=smoother.outputs.seconds)
            rows.append(replace(row, attack={h: self._moved(make, *pair) for h, pair in attacked.items()}))
        return rows

    def _smoothers(self) -> Mapping[str, Callable[[Recording, int], _Smoother]]:
        """Return by name what smooths recorded outputs, with sample sizes in proportion to n."""
        centers = {
            "center" if group == 1 else f"center of groups of {group}": partial(self._center, group=group)
            for group in self.settings.groups
        }
        return {**centers, "mean": self._mean, "median": self._median}

    def _center(self, recording: Recording, n: int, *, group: int) -> _Smoother:
        ranked, drawn = (2 * n, 4 * n) if group == 1 else (4 * n, 11 * n)
        ranked, drawn = recording.at_most(Stage.RANKING, ranked), recording.at_most(Stage.CERTIFICATION, drawn)
        return RecordedSmoother(recording, self.distance, exact_budget(ranked // group, drawn // group, group=group))

    def _mean(self, recording: Recording, n: int) -> _Smoother:
        averaged, drawn = recording.at_most(Stage.CHECK, 3 * n), recording.at_most(Stage.CERTIFICATION, 9 * n)
        smoother = self._live_mean(MeanBudget(n=averaged, m=drawn))
        smoother.outputs = RecordedOutputs(recording, after=smoother.outputs.after)
        return smoother

    def _median(self, recording: Recording, n: int) -> _Smoother:
        ranked = recording.at_most(Stage.RANKING, 2 * n) // 2 * 2 - 1
        budget = MedianBudget(n=ranked, m=recording.at_most(Stage.CERTIFICATION, 10 * n))
        smoother = MedianSmoother(_same, self.distance, sigma=recording.sigma, budget=budget)
        smoother.outputs = RecordedOutputs(recording)
        return smoother

    def _live_mean(self, budget: MeanBudget) -> MeanSmoother:
        source = self.source
        return MeanSmoother(
            source.model,
            self.distance,
            sigma=source.sigma,
            budget=budget,
            batch_size=source.batch_size,
            clip_norm=self.clip_norm,
        )

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

    def _moved(self, make: Callable[[Recording, int], _Smoother], here: Recording, there: Recording) -> float:
        """Return the distance between the smoothed outputs at x and at the point of the attack."""
        one, other = (make(recording, self.settings.attack_n).smooth(self.x).center for recording in (here, there))
        return self.distance(one[None], other[None]).item()


def _same(outputs: Tensor) -> Tensor:
    return outputs
