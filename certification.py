"""One certification: a job that was checked beforehand, and its run on whatever Lightning's Trainer runs on."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import entrypoint
from callbacks import CertificateWriter, CertificationFolder, CertificationProgress, Row, summarise
from center_smoothing import CenterSmoother, Distance, MeanSmoother
from center_smoothing.attack import AttackBudget, has_gradient
from center_smoothing.audit import RTOL, Finding, check_axioms, check_determinism, check_independence
from center_smoothing.budget import Coverage
from center_smoothing.sampling import NoisyOutputs, Stage, grid_change
from center_smoothing.smoother import StoppingRule
from lightning_modules import BaseModel, Certifier, point_of

_PACKAGES = (
    *("center-smoothing", "torch", "torchvision", "lightning", "torchmetrics", "numpy", "scipy", "pillow"),
    "facenet-pytorch",
)

# With so many others an output is compared, on average: when it is ranked with up to 114 candidates, in the
# certification sample, which is larger, with 24 probes and the center.
_COMPARISONS = 56
# More outputs than are drawn in that time.
_MANY = 1 << 30

# Noisy copies that a model is tried on.
_CALIBRATION = 64
# Relative; far above what bfloat16 rounds off in a deep network, far below what a wrong fusion of layers does.
_ALIKE = 0.1

# Outputs on which a user's distance is tried, all triples of them.
_AXIOMS = 24
# Those of this project are tested.
_KNOWN = {repr(distance) for distance in entrypoint.DISTANCES.values()}

# A distributed run has several processes and one terminal.
_say = rank_zero_only(print)


@dataclass(frozen=True)
class Job:
    """Everything that a certification at one noise level needs, checked before any sample is drawn.

    Attributes:
        model: the base model, as it is evaluated.
        original: the base model as it was given; the same function up to rounding.
        examples: of the test split, in the order in which they were drawn.
        indices: theirs in the data set, in the same order.
        smoother: of the model; which one, the configuration says.
        folder: where the results go.
        eps_in: distinct input radii, in units of x.
        coverage: of the certificates.
        config: what the results depend on, in plain values.
        checkpoint_sha256: of the checkpoint's file; None for a pretrained model.
        names: of the examples by index, where their data set has names.
        stop: when to stop sampling an example, at one of the looks of the smoother's budget.
        attack: what attacks on each certificate may try; default: there are none.
    """

    model: BaseModel
    original: BaseModel
    examples: Subset[dict[str, torch.Tensor]]
    indices: list[int]
    smoother: CenterSmoother | MeanSmoother
    folder: CertificationFolder
    eps_in: list[float]
    coverage: Coverage
    config: dict[str, Any]
    checkpoint_sha256: str | None
    names: Mapping[int, str]
    stop: StoppingRule | None = None
    attack: AttackBudget | None = None

    @cached_property
    def grid_change(self) -> tuple[float, float] | None:
        """How far rounding to the grid moves a point, any coordinate and in l2 norm, at most; None without a grid."""
        grid = self.smoother.outputs.grid
        if grid is None:
            return None
        with torch.no_grad(), value_errors("--data must hold examples that the model takes"):
            images = (self.examples[position]["image"] for position in range(len(self.examples)))
            points = (point_of(self.original, image) for image in images)
            changes = [grid_change(point, grid) for point in points]
        return max(largest for largest, _ in changes), max(norm for _, norm in changes)

    @property
    def evaluations(self) -> int:
        """Evaluations of the base function per example at most, about so many of them for attacks."""
        return self.smoother.budget.evaluations + len(self.eps_in) * self.evaluations_of_attack

    @property
    def evaluations_of_attack(self) -> int:
        """Evaluations of the base function for an attack at one eps_in, about so many; 0 without attacks."""
        return 0 if self.attack is None else self.attack.evaluations + self.smoother.budget.evaluations_to_smooth

    @property
    def kind(self) -> str:
        """Which smoothed function: "center" or "mean"."""
        return str(self.config["smoother"])


class Run:
    """A job on a Trainer, going on from what its folder holds already.

    Args:
        job: what to do.
        accelerator: as in lightning.pytorch.Trainer, like the others.
        devices: a number, or what else the Trainer takes.
        num_nodes: of the cluster.
        strategy: of several devices.
        precision: of the base model.

    Attributes:
        todo: positions of the examples that are not finished.
        findings: of an audit, for summary.json.

    Raises:
        ValueError: for a folder that holds something else, and for settings that do not work on this machine.
    """

    def __init__(
        self,
        job: Job,
        *,
        accelerator: str,
        devices: str,
        num_nodes: int,
        strategy: str,
        precision: str,
    ) -> None:
        self.job = job
        self.findings: list[dict[str, Any]] = []
        finished = _finished(job)
        self.todo = [position for position, index in enumerate(job.indices) if index not in finished]
        self.progress = CertificationProgress(
            evaluations=job.evaluations,
            finished=len(finished),
            total=len(job.examples),
        )
        job.smoother.outputs.progress = self.progress.advance
        writer = CertificateWriter(
            job.folder,
            eps_in=job.eps_in,
            coverage=job.coverage,
            seed=job.smoother.outputs.seed,
        )
        self.trainer = make_trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,
            callbacks=[self.progress, writer],
        )

    @property
    def most_examples(self) -> int:
        """How many examples a process has to do at most."""
        return -(-len(self.todo) // self.trainer.world_size)

    def preflight(self) -> float:
        """See on a few examples that the model and the distance fit: they may differ in size.

        In the precision of the run, and with the compiled model if there is one.

        Returns:
            Noisy copies a second, of this process.

        Raises:
            ValueError: if the model or the distance cannot do with the examples, or if making the model faster made
                it another function.
        """
        job, precision, device = self.job, self.trainer.precision_plugin, self.trainer.strategy.root_device
        home = job.original.device
        for model in (job.original, job.model):
            precision.convert_module(model.to(device))
        seconds, finite = [], False
        for position in sorted({0, len(job.indices) // 2, len(job.indices) - 1}):
            image = precision.convert_input(job.examples[position]["image"]).to(device)
            with precision.predict_step_context():
                x, drawn = self._calibration_outputs(image, job.indices[position], compare=not seconds)
                rate = samples_per_second(job.smoother.outputs, x, job.smoother.distance, seconds=0.0)
                seconds.append(1.0 / rate)
            with value_errors(f"--distance must take the model's outputs, got shape {tuple(drawn.shape[1:])}"):
                self._check_distance(drawn, job.indices[position])
                finite |= bool(job.smoother.distance.are_outputs(drawn).any())
        if job.original is not job.model:
            job.original.to(home)  # its memory is of more use to the run
        if not finite:
            raise ValueError(
                "--ckpt or --model must be a model with finite outputs: on 64 noisy copies of each of "
                f"{len(seconds)} test images all were NaN"
            )
        return len(seconds) / sum(seconds)

    def _check_distance(self, drawn: Tensor, index: int) -> None:
        """See that the distance takes outputs, and that a user's own one is a distance on them."""
        distance = self.job.smoother.distance
        finite = drawn[distance.are_outputs(drawn).to(drawn.device)][:_AXIOMS]
        if self.job.config["distance"] in _KNOWN or len(finite) < 3:
            return
        if distance.averages:
            finite = torch.cat([finite, distance.averages_of(finite)])
        finding = check_axioms(distance, finite)
        if not finding.passed:
            raise ValueError(
                f"--distance must be symmetric, 0 from an output to itself and keep its triangle inequality, got "
                f"{finding.seen}, noisy outputs of test image {index}; {finding.advice}"
            )

    @property
    def rtol(self) -> float:
        """A relative difference of outputs that rounding explains."""
        return RTOL if self.job.config["precision"].startswith(("32", "64")) else _ALIKE

    def points(self, count: int) -> tuple[list[Tensor], list[int]]:
        """What is smoothed of a few examples, each (*in), on the device of the run; and their numbers.

        Raises:
            ValueError: if the model does not take them.
        """
        job, precision, device = self.job, self.trainer.precision_plugin, self.trainer.strategy.root_device
        precision.convert_module(job.model.to(device))
        points, examples = [], job.indices[:count]
        for position in range(len(examples)):
            image = precision.convert_input(job.examples[position]["image"]).to(device)
            with value_errors(f"--data must hold examples that the model takes, got {tuple(image.shape)}"):
                points.append(point_of(job.model, image))
        return points, examples

    def has_gradient(self) -> bool:
        """Whether attacks can follow gradients of the model and the distance, seen at the first example."""
        points, _ = self.points(1)
        with self.trainer.precision_plugin.predict_step_context():
            return has_gradient(self.job.smoother, points[0])

    def _calibration_outputs(self, image: Tensor, index: int, *, compare: bool) -> tuple[Tensor, Tensor]:
        """The point (*in) of an image, and outputs (64, *out) of noisy copies, compared with the original model's."""
        job, outputs = self.job, self.job.smoother.outputs
        given = {"example": index, "stage": Stage.CALIBRATION, "count": _CALIBRATION}
        unfit = f"--data must hold examples that the model takes, got {tuple(image.shape)}"
        names = ("fold_batch_norm", "channels_last", "compile")
        flags = " ".join(f"--{name.replace('_', '-')}={job.config[name]}".lower() for name in names)
        with value_errors(unfit):
            x = point_of(job.model, image)
            if compare:
                original = job.smoother.distance.encoded(job.original)
                same = {"sigma": outputs.sigma, "seed": outputs.seed, "grid": outputs.grid, "after": outputs.after}
                plain = NoisyOutputs(original, **same, batch_size=_CALIBRATION)
                expected = torch.cat(list(plain.draw(x, **given)))
        with value_errors(f"{flags} does not work with this model here" if compare else unfit):
            drawn = torch.cat(list(outputs.draw(x, **given)))
            if compare:
                for check in (check_determinism, check_independence):
                    _refuse(check(outputs, x, example=index, rtol=self.rtol), index)
        if compare and not _are_alike(drawn, expected):
            raise ValueError(
                f"{flags} must not be used with this model: its outputs on {_CALIBRATION} noisy copies "
                f"of test image {index} become others"
            )
        return x, drawn

    def execute(self) -> None:
        """Certify what is not finished; each example is on disk as soon as it is.

        Raises:
            Exception: whatever the model, the distance, the disk or another process raises on the way.
        """
        if not self.todo:
            return
        remaining = _Remaining(self.job.examples, self.todo)
        certifier = Certifier(
            self.job.model,
            self.job.smoother,
            self.job.stop,
            attack=self.job.attack,
            eps_in=self.job.eps_in,
        )
        try:
            if self.trainer.is_global_zero:
                self.write_summary([])
            self.trainer.predict(certifier, datamodule=remaining, return_predictions=False)
            self.trainer.strategy.barrier()
        except (SystemExit, KeyboardInterrupt):
            if self.trainer.is_global_zero:
                print(f"interrupted; {self.kept()}")
            raise

    def conclude(self) -> tuple[list[Row], list[dict[str, float | int]]]:
        """Bring the files together: all rows, and the medians by eps_in."""
        rows = self.job.folder.merge(self.job.indices, self.job.eps_in)
        results = summarise(rows, self.job.smoother.sigma)
        self.write_summary(results)
        return rows, results

    def write_summary(
        self,
        results: Sequence[Mapping[str, float | int]],
        *,
        folder: CertificationFolder | None = None,
        config: Mapping[str, Any] | None = None,
        samples_per_second: float = 0.0,
    ) -> None:
        """Write summary.json.

        Args:
            results: as far as there are any.
            folder: where to; default: the job's.
            config: what the results depend on; default: the job's.
            samples_per_second: default: what this run reached, or else an earlier one.
        """
        folder = self.job.folder if folder is None else folder
        before = (folder.read_summary() or {}).get("samples_per_second", samples_per_second)
        rate = samples_per_second or self.progress.samples_per_second * self.trainer.world_size or before
        names = {str(index): name for index, name in self.job.names.items()}
        change = self.job.grid_change
        folder.write_summary(
            {
                "config": self.job.config if config is None else dict(config),
                "checkpoint_sha256": self.job.checkpoint_sha256,
                "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
                "device": self._device_name(),
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

    def _device_name(self) -> str:
        device = self.trainer.strategy.root_device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


class _Remaining(LightningDataModule):
    """The examples that are not finished, each for one of the processes.

    Which ones, the first process says: another one may have looked while files were moved.

    Args:
        examples: finished or not.
        todo: positions of those that are not.
    """

    def __init__(self, examples: Subset[dict[str, Tensor]], todo: Sequence[int]) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be more processes than examples
        self.examples = examples
        self.todo = list(todo)

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """One example after the other; Lightning asks for it once the processes know each other."""
        assert self.trainer is not None  # it is the Trainer that asks
        todo: list[int] = self.trainer.strategy.broadcast(self.todo)
        todo = todo[self.trainer.global_rank :: self.trainer.world_size]
        # Lightning copies pinned examples to a GPU without waiting
        pin_memory = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(Subset(self.examples, todo), batch_size=1, pin_memory=pin_memory)


def make_trainer(
    *,
    accelerator: str,
    devices: str,
    num_nodes: int,
    strategy: str,
    precision: str,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """A Trainer that predicts and writes nothing by itself. Arguments are those of :class:`Run`.

    Raises:
        ValueError: for settings that do not work on this machine.
    """
    try:
        return Trainer(
            accelerator=accelerator,
            devices=int(devices) if devices.lstrip("-").isdigit() else devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            inference_mode=False,
            use_distributed_sampler=False,  # it would give some examples twice, or none to a process
        )
    except Exception as error:  # Lightning has its own exceptions for each of these arguments
        raise ValueError(
            f"--accelerator={accelerator} --devices={devices} --strategy={strategy} "
            f"--precision={precision} do not work here: {error}"
        ) from error


def check_same(folder: CertificationFolder, config: Mapping[str, Any], checkpoint_sha256: str | None) -> bool:
    """Whether a folder holds a certification already.

    Args:
        folder: where the results are to go.
        config: what they depend on, in plain values.
        checkpoint_sha256: of the checkpoint's file; None for a pretrained model.

    Raises:
        ValueError: if it holds the results of something else, with what differs.
    """
    summary = folder.read_summary()
    if summary is None:
        if folder.table.exists():
            raise ValueError(f"--out must be an empty or a certification folder, got {folder.path}: no summary.json")
        return False
    there = {**summary.get("config", {}), "checkpoint_sha256": summary.get("checkpoint_sha256")}
    wanted = {**json.loads(json.dumps(config)), "checkpoint_sha256": checkpoint_sha256}
    for key in {**wanted, **there}:
        before, now = there.get(key), wanted.get(key)
        if before != now:
            if isinstance(before, dict) and isinstance(now, dict):  # name the one setting that differs
                inner = next(name for name in {**now, **before} if before.get(name) != now.get(name))
                key, before, now = f"{key}.{inner}", before.get(inner), now.get(inner)
            raise ValueError(
                f"--out must be another folder, got {folder.path}: it holds a certification with "
                f"{key}={before!r}, not {now!r}"
            )
    return True


def samples_per_second(outputs: NoisyOutputs, x: Tensor, distance: Distance, *, seconds: float) -> float:
    """Measure how many noisy outputs are drawn and compared a second, by this process.

    Args:
        outputs: whose batch size is chosen first if it is still to be.
        x: (*in), around which they are drawn.
        distance: between them.
        seconds: to measure for; 0 is one batch.
    """
    given: dict[str, Any] = {"example": 0, "stage": Stage.CALIBRATION}
    next(outputs.draw(x, **given, count=1))  # finds the batch size
    drawn, began, took = 0, 0.0, 0.0
    for number, batch in enumerate(outputs.draw(x, **given, count=_MANY)):
        if number == 0:  # the first call of a shape does not count
            began = time.perf_counter()
            continue
        embedded = distance.embed(batch)
        others = embedded.repeat(-(-_COMPARISONS // len(embedded)), *[1] * (embedded.ndim - 1))[:_COMPARISONS]
        distance.compare(embedded, others).flatten()[0].item()  # reading one number waits for the device
        drawn, took = drawn + len(batch), time.perf_counter() - began
        if took >= seconds:
            break
    return drawn / max(took, 1e-9)


@contextmanager
def value_errors(message: str) -> Iterator[None]:
    """Turn whatever a model raises, such as for shapes that don't fit, and what cannot be compiled into ValueErrors."""
    try:
        yield
    except Exception as error:  # a model may raise anything
        if entrypoint.speaks_for_itself(error):
            raise
        raise ValueError(f"{message}: {entrypoint.described(error)}") from error


def _refuse(finding: Finding, index: int) -> None:
    """Raise ValueError for a model of which no certificate would mean anything."""
    if not finding.passed:
        wanted = {
            "determinism": "give the same outputs for the same inputs",
            "batch independence": "give outputs that do not depend on the rest of the batch",
        }[finding.check]
        raise ValueError(
            f"--ckpt or --model must {wanted}, got one that does not: {finding.seen}, around test image {index}; "
            f"{finding.advice}"
        )


def _are_alike(outputs: Tensor, expected: Tensor) -> bool:
    """Whether most of the outputs (N, *out) are the expected ones up to rounding, which may flip a few."""
    if outputs.shape != expected.shape:
        return False
    a, b = (torch.nan_to_num(z.double().flatten(1)) for z in (outputs, expected))
    errors, sizes = torch.linalg.vector_norm(a - b, dim=1), torch.linalg.vector_norm(b, dim=1)
    return bool((errors <= _ALIKE * sizes).double().mean() >= 0.5)


def _finished(job: Job) -> set[int]:
    """Examples that an earlier run of the same command has finished."""
    there = check_same(job.folder, job.config, job.checkpoint_sha256)
    job.folder.create()
    if rank_zero_only.rank == 0:
        job.folder.remove_partial_files()
    if not there:
        return set()
    if rank_zero_only.rank == 0:
        job.folder.merge(job.indices, job.eps_in)
    finished = job.folder.finished(job.eps_in) & set(job.indices)
    if finished:
        _say(f"{job.folder.path}: {len(finished)} of {len(job.examples)} examples are there already and kept")
    return finished


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
