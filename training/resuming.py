"""Going on with a training: which run, whether it is the same one, and from where."""

from __future__ import annotations

import argparse
import csv
import io
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from center_smoothing.files import atomic_write
from results import files
from results.settings import flatten

# What a run is; the rest (how long, on what, logged where) may change.
_SAME = ("sigma", "model", "data", "center_smoothing", "seed_everything", "init_from")


def parse_resume_flag(words: Sequence[str]) -> Path | None:
    """Return the run folder that --resume names on the command line; None where it is not given.

    Raises:
        ValueError: if it is no run folder with a checkpoint to go on from, or if --init-from names other weights.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    peek.add_argument("--resume")
    peek.add_argument("--init-from")
    found = peek.parse_known_args(list(words))[0]
    if found.resume is not None and found.init_from is not None:
        raise ValueError(
            "--init-from must be left out with --resume, which goes on from the run's own weights, got "
            f"{found.init_from}"
        )
    return None if found.resume is None else run_folder(found.resume)


def run_folder(resume: str) -> Path:
    """Return the run folder of what --resume names: itself, or one that has the named checkpoint.

    Raises:
        ValueError: if it is neither.
    """
    path = Path(resume).resolve()
    folder = path.parent.parent if path.name == "last.ckpt" else path
    for needed in (folder / "config.yaml", folder / "checkpoints" / "last.ckpt"):
        if not needed.is_file():
            raise ValueError(
                f"--resume must be a run folder such as runs/latest, or its checkpoints/last.ckpt, got {resume}: there "
                f"is no {needed.relative_to(folder)}"
            )
    return folder


def arguments(folder: Path) -> list[str]:
    """Return the arguments that the run was started with, to be followed by what is to change."""
    place = folder.parent
    return [f"--config={folder / 'config.yaml'}", f"--runs={place.parent}", f"--experiment={place.name}"]


def check_same(folder: Path, parser: ArgumentParser, config: Namespace) -> None:
    """Raise ValueError for a configuration, read by this parser, that makes another training than that in a folder."""
    path = folder / "config.yaml"
    given, whole = (flatten(parser.parse_path(path, defaults=defaults).as_dict()) for defaults in (False, True))
    before = {**given, **{key: whole[key] for key in whole if key not in given}}  # it may be older than an argument
    now = flatten(config.as_dict())
    for key in before:
        if key.split(".")[0] in _SAME and str(before[key]) != str(now.get(key, before[key])):
            raise ValueError(
                f"--{key} must stay what it is in a run that goes on, {before[key]!r}, got {now[key]!r}; start another "
                "run instead"
            )


def checkpoint(folder: Path, trainer: Trainer) -> Path:
    """Return the checkpoint to go on from.

    Raises:
        ValueError: for one that cannot be read, and for a run that has nothing left to do.
    """
    path = folder / "checkpoints" / "last.ckpt"
    try:
        epochs = int(torch.load(path, map_location="cpu", weights_only=True)["epoch"]) + 1
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise ValueError(f"--resume must name a run with a whole last.ckpt, got {path}: it is damaged") from error
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs:
        raise ValueError(
            f"--resume must name a run that is not finished, got {folder}: all {epochs} epochs are done; go on longer "
            f"with --trainer.max_epochs {2 * epochs}"
        )
    return path


def locked(folder: Path) -> AbstractContextManager[None]:
    """Keep other trainings out of a run folder until this process ends; on entering, ValueError if one is there."""
    busy = f"--resume must name a run that no other process is training, got {folder}: wait for its end"
    return files.locked(folder, busy)


def continue_metrics(trainer: Trainer, path: Path) -> None:
    """Go on with metrics.csv, which Lightning's logger would begin anew as it fits, from a checkpoint on."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    if not loggers or not trainer.is_global_zero:
        return
    steps = int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])
    for logger in loggers:
        table = Path(logger.log_dir) / "metrics.csv"
        kept = table.with_name(".metrics.before.csv")
        if table.is_file() and not kept.is_file():
            os.replace(table, kept)
        experiment = logger.experiment  # removes the table
        if kept.is_file():
            with kept.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader if row.get("step", "").isdigit() and int(row["step"]) < steps]
                experiment.metrics_keys = list(reader.fieldnames or [])
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, experiment.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
            atomic_write(table, text.getvalue())
            kept.unlink()
