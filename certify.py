"""Certify a checkpoint: ``python certify.py --ckpt runs/latest/checkpoints/best.ckpt``."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Subset

import datamodules
import entrypoint
from callbacks import (
    CertificateWriter,
    CertificationFolder,
    CertificationProgress,
    Row,
    draw,
    html_report,
    summarise,
)
from callbacks import certification_report as report
from center_smoothing import CenterSmoother
from center_smoothing.budget import METHODS
from center_smoothing.certificate import COVERAGES, Coverage
from center_smoothing.sampling import Stage, check_point
from datamodules import ImageDataModule
from lightning_modules import Certifier, LoadedCheckpoint, NoisyModule, load_checkpoint

DEFAULT_H = (1.0, 1.5, 2.0)
_PACKAGES = ("center-smoothing", "torch", "lightning", "torchmetrics", "numpy", "scipy")


@dataclass(frozen=True)
class Job:
    """Everything that a certification needs, checked before any sample is drawn."""

    model: NoisyModule
    examples: Subset[dict[str, torch.Tensor]]
    smoother: CenterSmoother
    folder: CertificationFolder
    eps_in: list[float]
    coverage: Coverage
    config: dict[str, Any]
    checkpoint_sha256: str

    @cached_property
    def indices(self) -> list[int]:
        """Data set indices of the examples, in the order in which they were drawn."""
        return [int(self.examples[position]["index"]) for position in range(len(self.examples))]


# A distributed run has several processes and one terminal.
_say = rank_zero_only(print)


def main(args: Sequence[str] | None = None) -> Path:
    """Certify, and return the certification folder.

    Args:
        args: command-line arguments; default those of the process.

    Raises:
        SystemExit: with code 2 and one line on bad input; what was finished stays on disk.
    """
    offline = entrypoint.wandb_offline()
    entrypoint.quiet_libraries(offline=offline)
    entrypoint.keep_freed_memory()
    with entrypoint.user_errors():
        options = _parse(args)
        if options["from"] is not None:
            return _answer(options)
        checkpoint = load_checkpoint(options.ckpt)
        job = _prepare(options, checkpoint)
        _say(*_plan(job), sep="\n")
        finished = _finished(job)
        trainer, progress = _trainer(options, job, finished)
        if len(finished) < len(job.examples):
            job.model.to(trainer.strategy.root_device)
            _preflight(job, len(job.examples) - len(finished))
            if rank_zero_only.rank == 0:
                _write_summary(job, [], progress, trainer)
    _run(job, trainer, progress, finished)
    if trainer.is_global_zero:
        with entrypoint.user_errors():
            rows, results = _conclude(job, trainer, progress)
        if len(finished) < len(job.examples):
            config = {**job.config, "checkpoint_sha256": job.checkpoint_sha256}
            report.log_to_wandb(job.folder, rows, results, config=config, group=checkpoint.run, offline=offline)
            if offline:
                entrypoint.say_offline(job.folder.path)
    return job.folder.path


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="certify.py", description=__doc__, exit_on_error=False)
    add, count, choice, positive = parser.add_argument, entrypoint.count, entrypoint.choice, entrypoint.positive_number
    ratios, budgets = " ".join(f"{ratio:g}" for ratio in DEFAULT_H), f"one of {', '.join(entrypoint.BUDGETS)}"
    add("--config", action="config", help="YAML file with any of these arguments")
    add("--ckpt", type=str | None, help="checkpoint that train.py wrote")
    add("--from", type=str | None, help="answer --eps-in or --h from this finished folder, without sampling")
    add("--eps-in", type=entrypoint.radius("--eps-in"), nargs="+", help="input radii (l2 norm), in units of x")
    add("--h", type=entrypoint.radius("--h"), nargs="+", help=f"input radii as multiples of sigma; default {ratios}")
    add("--num-examples", type=count("--num-examples"), default=50, help="test examples, drawn with the seed")
    add(
        "--distance",
        type=choice("--distance", *entrypoint.DISTANCES),
        default="tv",
        help=f"one of {', '.join(entrypoint.DISTANCES)}",
    )
    add("--sigma", type=positive("--sigma"), help="noise level, in units of x; default: the checkpoint's")
    add("--budget", type=choice("--budget", *entrypoint.BUDGETS), default="standard", help=budgets)
    add("--n", type=count("--n"), help="ranked outputs")
    add("--m", type=count("--m"), help="certification outputs")
    add("--k", type=count("--k"), help="pilot outputs, the candidate centers")
    add("--delta", type=positive("--delta"), help="margin; default: the least that abstains on at most 1%% of inputs")
    add("--alpha1", type=positive("--alpha1"), help="failure probability of the smoothed output")
    add("--alpha2", type=positive("--alpha2"), help="failure probability of the certificate")
    add("--method", type=choice("--method", *METHODS), help="paper: the paper's algorithms to the letter")
    add("--coverage", type=choice("--coverage", *COVERAGES), default="pointwise", help="promise per eps_in, or for all")
    add("--data", type=ImageDataModule | None, help="data module, e.g. MNIST; default: what the model was trained on")
    add("--out", type=str | None, help="folder to write; default: certification/ beside the checkpoint's folder")
    add("--seed", type=int, default=0, help="of the choice of examples and of the noise")
    add(
        "--batch-size",
        type=entrypoint.batch_size,
        default="auto",
        help="noisy copies per call of the model, or auto",
    )
    add("--accelerator", type=str, default="auto", help="as in lightning.pytorch.Trainer, like the next four")
    add("--devices", type=str, default="1")
    add("--num-nodes", type=count("--num-nodes"), default=1)
    add("--strategy", type=str, default="auto")
    add("--precision", type=str, default="32-true")
    return parser


def _parse(args: Sequence[str] | None) -> Namespace:
    parser, given = _parser(), sys.argv[1:] if args is None else list(args)
    parser.set_defaults(data=_data_that_arguments_change(given))
    options = parser.parse_args(given)
    if (options.ckpt is None) == (options["from"] is None):
        got = "neither" if options.ckpt is None else "both"
        raise ValueError(f"--ckpt must name a checkpoint that train.py wrote, or --from a finished folder, got {got}")
    if options.h is not None and options.eps_in is not None:
        raise ValueError(f"--h and --eps-in exclude each other, got h={options.h} and eps_in={options.eps_in}")
    return parser.instantiate(options)


def _prepare(options: Namespace, checkpoint: LoadedCheckpoint) -> Job:
    """Check everything that can be checked without sampling."""
    given = {name: options[name] for name in ("n", "m", "k", "delta", "alpha1", "alpha2", "method")}
    model, budget, distance = (
        checkpoint.model,
        entrypoint.budget(options.budget, **given),
        entrypoint.DISTANCES[options.distance],
    )
    sigma = options.sigma if options.sigma is not None else model.sigma
    eps_in = _input_radii(options, sigma)
    for radius in eps_in:
        entrypoint.check_certifiable(budget, sigma=sigma, eps_in=radius)
    datamodule = options.data
    if datamodule is None:
        kind, init_args = _trained_on(checkpoint)
        datamodule = kind(**init_args)
    datamodule.prepare_data()
    datamodule.setup("test")
    examples = _draw_examples(datamodule, options.num_examples, options.seed)
    digest = entrypoint.sha256(options.ckpt)
    config = {
        "model": type(model).__name__,
        "data": {"class": type(datamodule).__name__, **dict(datamodule.hparams)},
        "num_examples": len(examples),
        "seed": options.seed,
        "distance": repr(distance),
        "relaxation": distance.relaxation,
        "sigma": sigma,
        "eps_in": eps_in,
        "coverage": options.coverage,
        "budget": budget.as_dict(),
        "precision": options.precision,
    }
    out = Path(options.out) if options.out is not None else _default_folder(options, config, digest)
    entrypoint.make_writable(out, "--out")
    return Job(
        model=model,
        examples=examples,
        smoother=CenterSmoother(
            model, distance, sigma=sigma, budget=budget, seed=options.seed, batch_size=options.batch_size
        ),
        folder=CertificationFolder(out),
        eps_in=eps_in,
        coverage=options.coverage,
        config=config,
        checkpoint_sha256=digest,
    )


def _input_radii(options: Namespace, sigma: float) -> list[float]:
    """Distinct eps_in, in units of x, from --eps-in or --h."""
    ratios = DEFAULT_H if options.h is None else options.h
    return list(dict.fromkeys(options.eps_in or (ratio * sigma for ratio in ratios)))


def _data_that_arguments_change(args: Sequence[str]) -> dict[str, Any] | None:
    """With ``--data.root`` alone: the data that the checkpoint was trained on, at another place."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--ckpt")
    peek.add_argument("--data")
    known, others = peek.parse_known_args(args)
    if known.ckpt is None or known.data is not None or not any(other.startswith("--data.") for other in others):
        return None
    kind, init_args = _trained_on(load_checkpoint(known.ckpt))
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": init_args}


def _trained_on(checkpoint: LoadedCheckpoint) -> tuple[type[ImageDataModule], dict[str, Any]]:
    """The class of the data module, and its arguments."""
    if checkpoint.data is None:
        raise ValueError(
            "--data must name a data module, e.g. MNIST: the checkpoint does not say what it was trained on"
        )
    kind = getattr(datamodules, str(checkpoint.data["class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, ImageDataModule)):
        raise ValueError(
            f"--data must name a data module, e.g. MNIST: there is no {checkpoint.data['class']!r} any more"
        )
    return kind, dict(checkpoint.data["init_args"])


def _draw_examples(datamodule: ImageDataModule, num_examples: int, seed: int) -> Subset[dict[str, torch.Tensor]]:
    """Test examples drawn with the seed; fewer of them are the first of more."""
    test_set = datamodule.test_set
    if num_examples > len(test_set):
        raise ValueError(
            f"--num-examples must be at most {len(test_set)}, the size of the test set, got {num_examples}"
        )
    order = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(seed))
    examples = Subset(test_set, order[:num_examples].tolist())
    for position in range(num_examples):
        example = examples[position]
        try:
            check_point(example["image"])
        except ValueError as error:
            raise ValueError(f"--data: image {int(example['index'])} cannot be certified: {error}") from error
    return examples


def _default_folder(options: Namespace, config: dict[str, Any], checkpoint_sha256: str) -> Path:
    """The same command finds the same folder again."""
    ckpt = Path(options.ckpt).resolve()
    base = ckpt.parent.parent if ckpt.parent.name == "checkpoints" else ckpt.parent
    identity = json.dumps([config, checkpoint_sha256, options.batch_size], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return _relative(base / "certification" / f"{options.distance}-{config['budget']['method']}-{digest}")


def _relative(path: Path) -> Path:
    """As seen from here, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _plan(job: Job) -> list[str]:
    smoother = job.smoother
    return report.plan_lines(
        smoother.budget, smoother.distance, sigma=smoother.sigma, eps_in=job.eps_in, num_examples=len(job.examples)
    )


def _finished(job: Job) -> set[int]:
    """Examples that an earlier run of the same command has finished; another command's folder is refused."""
    summary = job.folder.read_summary()
    if summary is None:
        if job.folder.table.exists():
            raise ValueError(
                f"--out must be an empty or a certification folder, got {job.folder.path}: no summary.json"
            )
        job.folder.create()
        return set()
    there = {**summary["config"], "checkpoint_sha256": summary.get("checkpoint_sha256")}
    wanted = {**json.loads(json.dumps(job.config)), "checkpoint_sha256": job.checkpoint_sha256}
    for key in wanted:
        if there.get(key) != wanted[key]:
            raise ValueError(
                f"--out must be another folder, got {job.folder.path}: it holds a certification with "
                f"{key}={there.get(key)!r}, not {wanted[key]!r}"
            )
    job.folder.create()
    if rank_zero_only.rank == 0:
        job.folder.merge(job.indices, job.eps_in)
    finished = job.folder.finished(job.eps_in) & set(job.indices)
    if finished:
        _say(f"{job.folder.path}: {len(finished)} of {len(job.examples)} examples are there already and kept")
    return finished


def _trainer(options: Namespace, job: Job, finished: set[int]) -> tuple[Trainer, CertificationProgress]:
    progress = CertificationProgress(
        evaluations=job.smoother.budget.evaluations, finished=len(finished), total=len(job.examples)
    )
    job.smoother.outputs.progress = progress.advance
    writer = CertificateWriter(job.folder, eps_in=job.eps_in, coverage=job.coverage)
    devices = int(options.devices) if options.devices.lstrip("-").isdigit() else options.devices
    try:
        trainer = Trainer(
            accelerator=options.accelerator,
            devices=devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=options.precision,
            callbacks=[progress, writer],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            inference_mode=False,
        )
    except Exception as error:  # Lightning has its own exceptions for each of these arguments
        raise ValueError(
            f"--accelerator={options.accelerator} --devices={options.devices} --strategy={options.strategy} "
            f"--precision={options.precision} do not work here: {error}"
        ) from error
    return trainer, progress


def _preflight(job: Job, todo: int) -> None:
    """See on one example that the model and the distance fit, and how long it will take."""
    outputs, device = job.smoother.outputs, job.model.device
    x = job.model.point(job.examples[0]["image"].unsqueeze(0).to(device))[0]
    drawn = torch.cat(list(outputs.draw(x, example=job.indices[0], stage=Stage.CALIBRATION, count=64)))
    job.smoother.distance.embed(drawn)
    if not bool(torch.isfinite(drawn).flatten(1).all(dim=1).any()):
        raise ValueError(
            "--ckpt must hold a model with finite outputs: on 64 noisy copies of a test image all were NaN"
        )
    rate = outputs.evaluations_per_second(x)
    seconds = report.duration(job.smoother.budget.evaluations * todo / rate)
    _say(f"  about {seconds} for {todo} examples at {rate:,.0f} samples/s in batches of {outputs.batch_size}")


def _run(job: Job, trainer: Trainer, progress: CertificationProgress, finished: set[int]) -> None:
    todo = [position for position, index in enumerate(job.indices) if index not in finished]
    if not todo:
        return
    loader = DataLoader(Subset(job.examples, todo), batch_size=1)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Lightning's own waits for the end of a prediction
    try:
        trainer.predict(Certifier(job.model, job.smoother), loader, return_predictions=False)
        trainer.strategy.barrier()
    except (ValueError, OSError) as error:
        entrypoint.fail(f"{error}; {_kept(job)}")
    except (SystemExit, KeyboardInterrupt):
        if trainer.is_global_zero:
            print(f"interrupted; {_kept(job)}; the same command goes on from there")
        raise


def _conclude(
    job: Job, trainer: Trainer, progress: CertificationProgress
) -> tuple[list[Row], list[dict[str, float | int]]]:
    """Bring the files together, and say what was found and what holds."""
    rows = job.folder.merge(job.indices, job.eps_in)
    results = summarise(rows, job.smoother.sigma)
    _write_summary(job, results, progress, trainer)
    draw(job.folder, rows, results, _title(job)).savefig(job.folder.picture, dpi=150)
    print(*report.result_lines(results), *report.non_finite_lines(job.folder, rows), sep="\n")
    promise = report.promise_line(job.smoother.budget, job.smoother.distance, coverage=job.coverage)
    html_report.write(html_report.report_of_folder(job.folder, rows, promise=promise), job.folder.path / "report.html")
    print(promise)
    print(
        f"written: {job.folder.path} (certificates.csv, summary.json, certificates.png, report.html, distances/, "
        "outputs/)"
    )
    return rows, results


def _kept(job: Job) -> str:
    count = len(job.folder.finished(job.eps_in) & set(job.indices))
    return f"{count} of {len(job.examples)} examples are finished and kept in {job.folder.path}"


def _write_summary(job: Job, results: list[Any], progress: CertificationProgress, trainer: Trainer) -> None:
    before = job.folder.read_summary() or {}
    rate = progress.samples_per_second * trainer.world_size or before.get("samples_per_second", 0.0)
    job.folder.write_summary(
        {
            "config": job.config,
            "checkpoint_sha256": job.checkpoint_sha256,
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
            "device": _device_name(trainer),
            "samples_per_second": rate,
            "results": results,
        }
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device_name(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def _title(job: Job) -> str:
    budget = job.smoother.budget
    return (
        f"{job.config['model']}, {job.smoother.distance!r}, sigma={job.smoother.sigma:g}, {len(job.examples)} examples"
        f", each radius certified with probability {report.confidence(budget)}"
    )


def _answer(options: Namespace) -> Path:
    """Answer from a finished folder without a single evaluation (theory T6)."""
    folder = CertificationFolder(options["from"])
    certificates = folder.certificates()
    sigma = next(iter(certificates.values())).sigma
    eps_in = _input_radii(options, sigma)
    rows = [
        row
        for index, certificate in certificates.items()
        for row in Row.of(index, certificate, eps_in=eps_in, coverage=options.coverage, seconds=0.0)
    ]
    print(f"{len(certificates)} examples of {folder.path}, {options.coverage}, without sampling")
    print(f"{'index':>8} " + " ".join(f"{f'eps_in={radius:g}':>14}" for radius in eps_in))
    for index in certificates:
        print(f"{index:>8} " + " ".join(f"{report.rounded_up(row.eps_out):>14}" for row in rows if row.index == index))
    medians = " ".join(f"{report.rounded_up(result['median_eps_out']):>14}" for result in summarise(rows, sigma))
    print(f"{'median':>8} {medians}")
    return folder.path


if __name__ == "__main__":
    main()
