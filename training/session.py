"""The training itself, and its last lines on the terminal."""

from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path

import torch
from jsonargparse import Namespace

import datamodules
from command_line import process
from lightning_modules import BASE_MODELS, NoisyDenoiser
from results.numbers import rounded_up
from training import resuming
from training.arguments import CERTIFY, TRAIN
from training.cli import TrainingCLI


def fit(cli: TrainingCLI, checkpoint: Path | None) -> None:
    """Train, and say how to go on where a person ends that early.

    Raises:
        SystemExit: with code 1 on Ctrl-C and SIGTERM.
    """
    try:
        if checkpoint is not None:
            resuming.continue_metrics(cli.trainer, checkpoint)
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    except (SystemExit, KeyboardInterrupt):
        if cli.trainer.is_global_zero:
            print(f"interrupted; {going_on(cli)}")
        raise SystemExit(1) from None


def going_on(cli: TrainingCLI) -> str:
    """Say how to go on with a training that has not ended."""
    if not (cli.run_folder / "checkpoints" / "last.ckpt").is_file():
        return "no epoch has ended yet: there is nothing to go on with"
    return (
        f"go on with `python {shlex.quote(str(process.from_here(TRAIN)))} --resume {shlex.quote(str(cli.run_folder))}`"
    )


def conclude(cli: TrainingCLI) -> None:
    """End the run of W&B; print where things are, how good the best checkpoint is, and what to type next."""
    cli.end_logging()
    best = cli.run_folder / "checkpoints" / "best.ckpt"
    print(f"run folder: {cli.run_folder}")
    if cli.wandb_loggers and cli.offline is not None:
        process.say_offline(cli.run_folder, cli.offline)
    if not best.is_file():
        print("no checkpoint was written: no validation ended")
        return
    states = torch.load(best, map_location="cpu", weights_only=True)["callbacks"]
    latest: dict[str, float] = next((state["latest"] for key, state in states.items() if "CenterSmoothing" in key), {})
    score = next(state["best_model_score"] for key, state in states.items() if "'val/loss'" in key)
    line = f"best checkpoint: val/loss {float(score):.5f}"
    if "val/certified_radius" in latest:
        line += f", val/certified_radius {rounded_up(latest['val/certified_radius'])}"
    print(line)
    given = cli.config.center_smoothing
    flag, radii = ("--h", given.h) if given.eps_in is None else ("--eps-in", given.eps_in)
    words = ["python", str(process.from_here(CERTIFY)), *_certified_by(cli, best)]
    words += [flag, *(f"{radius:g}" for radius in radii), "--num-examples", "10"]
    print(f"certify it with:\n  {shlex.join(words)}")
    if isinstance(cli.model, NoisyDenoiser):
        print(f"or certify any model of such images behind it:\n  --denoiser {shlex.quote(str(best))}")


def _certified_by(cli: TrainingCLI, best: Path) -> list[str]:
    """Return arguments of certify.py that name the model and, where the checkpoint does not, its data."""
    model, data = cli.config.model, cli.config.data
    kinds = type(cli.model), type(cli.datamodule)
    if BASE_MODELS.get(kinds[0].__name__) is kinds[0]:
        words = ["--ckpt", str(best)]
    else:
        words = ["--model", model.class_path, "--model.weights", str(best)]
        words += _typed("--model", model, kinds[0], known={*cli.model.hparams, "weights"})
    if getattr(datamodules, kinds[1].__name__, None) is not kinds[1]:
        words += ["--data", data.class_path, *_typed("--data", data, kinds[1], known=set())]
    return words


def _typed(flag: str, described: Namespace, kind: type, *, known: set[str]) -> list[str]:
    """Return the arguments of a class as one types them: those that are not its defaults, nor known from elsewhere."""
    parameters, words = inspect.signature(kind).parameters, []
    for name, value in described.get("init_args", Namespace()).as_dict().items():
        if name not in known and (name not in parameters or parameters[name].default != value):
            as_it_is = isinstance(value, str) and flag == "--data"  # the arguments of one's own model are read as YAML
            words += [f"{flag}.{name}", value if as_it_is else json.dumps(value)]
    return words
