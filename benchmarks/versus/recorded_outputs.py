"""Base outputs that are drawn once and given to many procedures, each of which is timed as if it had drawn its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from center_smoothing import CenterSmoother, Distance, SmoothingBudget
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs

# Mean smoothing averages outputs that are independent of its certification outputs. Those of the check are.
_INSTEAD = {"MEAN": Stage.CHECK}


@dataclass(frozen=True, eq=False)
class Recording:
    """Outputs around one x, and how long they took."""

    outputs: Mapping[Stage, Tensor]  # by stage (count, *out), in the order of the draws
    seconds: Mapping[Stage, float]  # by stage, of an evaluation on average
    base_output: Tensor  # (*out), f(x)
    sigma: float  # noise level, in units of x
    batch_size: int  # outputs that were drawn at a time

    def at_most(self, stage: Stage, count: int) -> int:
        """Return the count, or how many outputs of that stage there are if they are fewer."""
        return min(count, len(self.outputs[stage]))


def record(source: NoisyOutputs, x: Tensor, *, example: int, counts: Mapping[Stage, int]) -> Recording:
    """Draw so many outputs of each stage around x (*in), as any procedure with this source and example would."""
    outputs, seconds = {}, {}
    for stage, count in counts.items():
        began = time.perf_counter()
        batches = list(source.draw(x, example=example, stage=stage, count=count))
        seconds[stage] = (time.perf_counter() - began) / count
        outputs[stage] = torch.cat(batches)
    size = source.batch_size
    assert isinstance(size, int)  # "auto" has been replaced by what was measured
    return Recording(outputs, seconds, source.base_output(x), source.sigma, size)


def _same(outputs: Tensor) -> Tensor:
    return outputs


class RecordedOutputs(NoisyOutputs):
    """Stands in for the noisy outputs of a smoother, ``smoother.outputs``, and keeps its time.

    The clock goes on by itself and, whenever recorded outputs are used, by what it took to draw them. So it shows what
    the smoother would need alone, with draws of its own.
    Seed, example and x are not looked at. ``after`` is applied to each batch of outputs (N, *out), where the smoothed
    function is more than the recorded one.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        after: Callable[[Tensor], Tensor] | None = None,
        group: int = 1,
        aggregate: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        known = {"sigma": recording.sigma, "batch_size": recording.batch_size}
        super().__init__(_same, group=group, aggregate=aggregate, **known)
        self._recording, self._after = recording, after or _same
        self._not_spent = 0.0
        self._started = time.perf_counter()
        self._used: dict[Stage, tuple[float, float]] = {}

    @property
    def seconds(self) -> float:
        """What the clock shows since these outputs were made."""
        return time.perf_counter() - self._started + self._not_spent

    def used(self, stage: Stage) -> tuple[float, float]:
        """Return the clock when outputs of that stage were first asked for, and after the use of the last one."""
        return self._used[stage]

    def draw_values(self, x: Tensor, *, example: int, stage: Stage, count: int) -> Iterator[Tensor]:
        """Yield the first ``count`` recorded outputs of a stage in batches (N, *out).

        Raises:
            ValueError: if fewer were recorded.
        """
        began = self._used[stage][0] if stage in self._used else self.seconds
        recorded = _INSTEAD.get(stage.name, stage)
        outputs = self._recording.outputs[recorded][:count]
        if len(outputs) < count:
            raise ValueError(f"count must be at most the {len(outputs)} recorded of {recorded.name}, got {count}")
        for batch in torch.split(outputs, self._recording.batch_size):
            self._not_spent += len(batch) * self._recording.seconds[recorded]
            yield self._after(batch)
            self._used[stage] = (began, self.seconds)

    def base_output(self, x: Tensor) -> Tensor:
        """Return the base model's output at x without noise, (*out)."""
        return self._after(self._recording.base_output.unsqueeze(0))[0]


class RecordedSmoother(CenterSmoother):
    """A center smoother on recorded outputs around the x that is smoothed.

    ``chosen`` is a center (*out) and the radius of its ball, chosen by something else than the budget's selection, from
    pilot and ranking outputs alone; default: the smoother chooses.
    """

    def __init__(
        self,
        recording: Recording,
        distance: Distance,
        budget: SmoothingBudget,
        *,
        chosen: tuple[Tensor, float] | None = None,
    ) -> None:
        super().__init__(_same, distance, sigma=recording.sigma, budget=budget)
        self.outputs = RecordedOutputs(recording, group=self.budget.group, aggregate=self.distance.aggregate)
        self._chosen = chosen

    def _select(self, x: Tensor, example: int) -> tuple[Tensor, float]:
        return super()._select(x, example) if self._chosen is None else self._chosen
