"""How far a certification is, in samples: one example alone may take minutes."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class CertificationProgress(ProgressBar):
    """A bar with samples per second and time left on a terminal, else one line per finished example.

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
        self._done = 0
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
            self.seconds = time.perf_counter() - self._began
            if self._bar is not None:
                self._bar.update(self._task, advance=samples, rate=f"{self.samples_per_second:,.0f} samples/s")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and, on a terminal, the bar."""
        self._began = time.perf_counter()
        if self._shown and Console().is_terminal:
            todo = int(sum(trainer.num_predict_batches)) * self.evaluations
            self._bar = Progress(
                TextColumn("certifying"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
            )
            self._task = self._bar.add_task("certifying", total=todo, rate="")
            self._bar.start()

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:  # noqa: ANN401  # Lightning's signature
        """Print one line per finished example."""
        self.finished += trainer.world_size
        self._done += 1
        if self._bar is not None:  # an example may have stopped before all its samples
            self._bar.update(self._task, completed=self._done * self.evaluations)
        if self._shown:
            left = max(0, self.total - self.finished) * self.seconds / self._done
            line = f"{min(self.finished, self.total)} of {self.total} examples, "
            rate = self.samples_per_second * trainer.world_size
            line += f"{rate:,.0f} samples/s, {left / trainer.world_size:,.0f} s left"
            (self._bar.console.print if self._bar is not None else print)(line)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the bar."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the bar."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
