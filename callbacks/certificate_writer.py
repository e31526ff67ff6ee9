"""Writes each example as soon as it is certified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from center_smoothing.budget import Coverage
from center_smoothing.files import atomic_write
from lightning_modules import CertifiedExample
from results.attacks import write_counterexample
from results.folder import CertificationFolder
from results.rows import AttackedRow, Row


class CertificateWriter(BasePredictionWriter):
    """Writes distances and outputs of each certified example, and then its rows, flushed to disk.

    Of several processes each appends to a file of its own; :meth:`CertificationFolder.merge` brings them together.
    There is a row for each eps_in. Counterexamples name the seed of the noise. ``on_rows`` is called with the rows of
    each example of this process, once they are on disk.
    """

    def __init__(
        self, folder: CertificationFolder, *, eps_in: Sequence[float], coverage: Coverage, seed: int = 0
    ) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self.eps_in = list(eps_in)
        self.coverage = coverage
        self.seed = seed
        self.on_rows: Callable[[Sequence[Row]], None] = lambda rows: None

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: list[CertifiedExample],
        batch_indices: Sequence[int] | None,
        batch: Any,  # noqa: ANN401  # Lightning's signature
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the examples of one batch."""
        part = f"rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        for example in prediction:
            self._write_arrays(example)
            rows = Row.of(
                example.index, example.certificate, eps_in=self.eps_in, coverage=self.coverage, seconds=example.seconds
            )
            if example.attacks:
                attacked = [AttackedRow.of_row(row, attack) for row, attack in zip(rows, example.attacks, strict=True)]
                write_counterexample(self.folder, example, attacked, seed=self.seed)
                rows = [*attacked]
            self.folder.append(rows, part=part)
            self.on_rows(rows)

    def _write_arrays(self, example: CertifiedExample) -> None:
        certificate = example.certificate
        outputs: dict[str, Any] = {
            "image": example.image.float().numpy(),
            "base": example.base_output.float().numpy(),
            "smoothed": certificate.center.cpu().float().numpy(),
            **certificate.kept_arrays(),
        }
        atomic_write(self.folder.distances(example.index), lambda file: np.save(file, certificate.distances))
        atomic_write(self.folder.outputs(example.index), lambda file: np.savez(file, **outputs))
        if example.described is not None:
            base, center = example.described
            atomic_write(self.folder.description(example.index), f"base output: {base}\nsmoothed: {center}\n")
