"""How far a certification is, in examples and samples: one example alone may take minutes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from results.numbers import duration

Example = TypeVar("Example")


class CertificationProgress(ProgressBar):
    """A bar over the examples with samples per second and time left on a terminal, else a line for each percent.

    Args:
        evaluations: of the base function per example, at most.
        finished: examples that an earlier run has finished.
        total: examples of all processes together.
    """

    def __init__(self, *, evaluations: int, finished: int, total: int) -> None:
        super().__init__()
        self.evaluations, self.finished, self.total = evaluations, finished, total
        self.samples = 0
        self.seconds = 0.0
        self._began: float | None = None
        self._before = finished
        self._of_this_example = 0
        self._world_size = 1
        self._shown = True
        self._bar: Progress | None = None
        self._task: Any = None

    @property
    def samples_per_second(self) -> float:
        """Noisy samples per second of this process so far."""
        return self.samples / self.seconds if self.seconds > 0.0 else 0.0

    def enable(self) -> None:
        """Show it."""
        self._shown = True

    def disable(self) -> None:
        """Show nothing, on all processes but the first."""
        self._shown = False

    def advance(self, samples: int) -> None:
        """Count noisy samples; the smoother calls it."""
        if self._began is not None:
            self.samples += samples
            self._of_this_example += samples
            self.seconds = time.perf_counter() - self._began
            self._update()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and, on a terminal, the bar."""
        self._began, self._world_size = time.perf_counter(), trainer.world_size
        if self._shown and sys.stderr.isatty():
            columns = TextColumn("certifying"), BarColumn(), TextColumn("{task.description}")
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=self.total, completed=self.finished)
            self._bar.start()

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ANN401  # Lightning's signature
        """Count a finished example; where there is no bar print a line, once for each percent of the examples."""
        before, self.finished = self.finished, self.finished + trainer.world_size
        self._of_this_example = 0
        self._update()
        if self._shown and self._bar is None and 100 * before // self.total < 100 * self.finished // self.total:
            print(self._line(), flush=True)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the bar."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the bar."""
        self._stop()

    def _done(self) -> float:
        """Return how many examples are done, with the part of those at work."""
        return min(self.finished + self._world_size * min(self._of_this_example / self.evaluations, 1.0), self.total)

    def _line(self) -> str:
        done = self._done()
        left = (self.total - done) * self.seconds / max(done - self._before, 1e-9)
        rate = self.samples_per_second * self._world_size
        return (
            f"{min(self.finished, self.total)} of {self.total} examples, {rate:,.0f} samples/s, {duration(left)} left"
        )

    def _update(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done(), description=self._line())

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def tracked(trainer: Trainer, examples: Iterable[Example], *, total: int) -> Iterator[Example]:
    """Yield examples one by one, and show on the bar of a training, where it has one, how many are certified."""
    bar = getattr(getattr(trainer, "progress_bar_callback", None), "progress", None)
    if not isinstance(bar, Progress):
        yield from examples
        return
    task = bar.add_task("Certifying", total=total)
    try:
        for example in examples:
            yield example
            bar.update(task, advance=1, refresh=True)  # Lightning shows its bar anew for its own batches alone
    finally:
        bar.remove_task(task)
