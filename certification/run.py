"""The run of a job on whatever Lightning's Trainer runs on."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from callbacks import CertificateWriter, CertificationProgress
from certification.jobs import Job
from certification.request import Computing
from certification.trainer import RemainingExamples, is_first_process, make_trainer, print_once
from lightning_modules import Certifier
from results.folder import CertificationFolder, check_same
from results.rows import Row
from results.summary import summarise

_PACKAGES = (
    *("center-smoothing", "torch", "torchvision", "lightning", "torchmetrics", "numpy", "scipy", "pillow"),
    "facenet-pytorch",
)


class Run:
    """A job on a Trainer, going on from what its folder holds already.

    Args:
        job: what to do.
        computing: on what.
        origin: where its results come from, in words.

    Attributes:
        todo: positions of the examples that are not finished.
        findings: of an audit, for summary.json.
        writer: of the rows.

    Raises:
        ValueError: for a folder that holds something else, and for settings that do not work on this machine.
    """

    def __init__(self, job: Job, computing: Computing, origin: Mapping[str, str]) -> None:
        self.job = job
        self.origin = {**origin, "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")}
        self.findings: list[dict[str, Any]] = []
        finished = _finished(job)
        self.todo = [position for position, index in enumerate(job.indices) if index not in finished]
        counts = {"finished": len(finished), "total": len(job.examples)}
        self.progress = CertificationProgress(evaluations=job.evaluations, **counts)
        job.smoother.outputs.progress = self.progress.advance
        seed = job.smoother.outputs.seed
        self.writer = CertificateWriter(job.folder, eps_in=job.eps_in, coverage=job.coverage, seed=seed)
        self.trainer = make_trainer(computing, callbacks=[self.progress, self.writer])

    @property
    def most_examples(self) -> int:
        """How many examples a process has to do at most."""
        return -(-len(self.todo) // self.trainer.world_size)

    def execute(self) -> None:
        """Certify what is not finished; each example is on disk as soon as it is.

        Raises:
            Exception: whatever the model, the distance, the disk or another process raises on the way.
        """
        if not self.todo:
            return
        job, remaining = self.job, RemainingExamples(self.job.examples, self.todo)
        certifier = Certifier(job.model, job.smoother, job.stop, attack=job.attack, eps_in=job.eps_in)
        try:
            if self.trainer.is_global_zero:
                self.write_summary([])
            self.trainer.predict(certifier, datamodule=remaining, return_predictions=False)
            self.trainer.strategy.barrier()
        except (SystemExit, KeyboardInterrupt):
            if self.trainer.is_global_zero:
                print(f"interrupted; {self.kept()}")
            raise

    def conclude(self) -> list[Row]:
        """Bring the files together, and return all rows."""
        rows = self.job.folder.merge(self.job.indices, self.job.eps_in)
        self.write_summary(summarise(rows, self.job.smoother.sigma, conversion=self.job.conversion))
        return rows

    def write_summary(
        self,
        results: Sequence[Mapping[str, float | int]],
        *,
        folder: CertificationFolder | None = None,
        config: Mapping[str, Any] | None = None,
        samples_per_second: float = 0.0,
    ) -> None:
        """Write summary.json, by default of the job and at the speed that this run reached, or else an earlier one."""
        folder = self.job.folder if folder is None else folder
        before = folder.read_summary() or {}
        rate = samples_per_second or self.progress.samples_per_second * self.trainer.world_size
        rate = rate or before.get("samples_per_second", 0.0)
        names = {str(index): name for index, name in self.job.names.items()}
        change, device = self.job.grid_change, self.trainer.strategy.root_device
        on_gpu = device.type == "cuda"
        folder.write_summary(
            {
                "config": self.job.config if config is None else dict(config),
                "checkpoint_sha256": self.job.checkpoint_sha256,
                "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
                "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type} {platform.machine()}",
                "origin": self.origin if self.todo else before.get("origin", self.origin),
                "samples_per_second": rate,
                "results": list(results),
                **({} if change is None else {"grid_change": {"largest": change[0], "l2_norm": change[1]}}),
                **({"audit": self.findings} if self.findings else {}),
                **({"names": names} if names else {}),
            }
        )

    def kept(self) -> str:
        """Say which examples are finished, and what to do for the rest."""
        count = len(self.job.folder.finished(self.job.eps_in) & set(self.job.indices))
        return (
            f"{count} of {len(self.job.examples)} examples are finished and kept in {self.job.folder.path}; "
            "the same command goes on from there"
        )


def _finished(job: Job) -> set[int]:
    """Return the examples that an earlier run of the same command has finished."""
    there = check_same(job.folder, job.config, job.checkpoint_sha256)
    job.folder.create()
    if is_first_process():
        job.folder.remove_partial_files()
    if not there:
        return set()
    if is_first_process():
        job.folder.merge(job.indices, job.eps_in)
    finished = job.folder.finished(job.eps_in) & set(job.indices)
    if finished:
        print_once(f"{job.folder.path}: {len(finished)} of {len(job.examples)} examples are there already and kept")
    return finished


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
