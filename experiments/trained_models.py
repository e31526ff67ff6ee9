"""The base models of a panel: what they are trained with, and which of them are there already."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

import datamodules
import lightning_modules

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
_PACKAGES = {"datamodules": datamodules, "lightning_modules": lightning_modules}

# Anything else of the Trainer's leaves the trained weights alone, or is refused by whoever set it.
_WHOLE_TRAINING = {
    "limit_train_batches": None,
    "limit_val_batches": None,
    "overfit_batches": 0.0,
    "max_steps": -1,
    "max_time": None,
    "fast_dev_run": False,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "precision": None,
}


def settings(config: str) -> dict[str, Any]:
    """Return the training settings of a configuration: the file over the default one."""
    default = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    merged = _overlaid(default, yaml.safe_load((CONFIGS / config).read_text()))
    assert isinstance(merged, dict)
    return merged


def finished_run(runs: Path, wanted: Mapping[str, Any], *, sigma: float) -> Path | None:
    """Return the run folder of the first whole training with these settings, or None: later ones change nothing."""
    folders = (runs / str(wanted["experiment"])).glob(f"{sigma:g}-*/")
    for folder in sorted(folders, key=_trained_at):
        try:
            saved = yaml.safe_load((folder / "config.yaml").read_text())
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if _same_training(saved, wanted, sigma) and _is_finished(folder, int(wanted["trainer"]["max_epochs"])):
            return folder
    return None


def best_checkpoint(runs: str, wanted: Mapping[str, Any], *, sigma: float) -> Path | None:
    """Return the best checkpoint of the :func:`finished_run`, or None."""
    folder = finished_run(Path(runs), wanted, sigma=sigma)
    return None if folder is None else folder / "checkpoints" / "best.ckpt"


def _overlaid(below: object, above: object) -> object:
    """Lay one configuration over another; a class other than the one below brings arguments of its own."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if above.get("class_path", below.get("class_path")) != below.get("class_path"):
        return above
    return {**below, **{key: _overlaid(below.get(key), value) for key, value in above.items()}}


def _same_training(saved: object, wanted: Mapping[str, Any], sigma: float) -> bool:
    if not isinstance(saved, dict) or saved.get("sigma") != sigma:
        return False
    trainer = saved.get("trainer") or {}
    return (
        all(_arguments(saved.get(part)) == _arguments(wanted[part]) for part in ("model", "data"))
        and saved.get("seed_everything") == wanted["seed_everything"]
        and saved.get("init_from") == wanted.get("init_from")
        and trainer.get("max_epochs") == wanted["trainer"]["max_epochs"]
        and all(trainer.get(key, value) == value for key, value in _WHOLE_TRAINING.items())
    )


def _arguments(described: object) -> dict[str, Any] | None:
    """Return the class that a configuration describes with all its arguments, or None if it describes none of ours.

    Left out is what does not change a training, and what is linked: sigma, and the shape of the data's images.
    """
    if not isinstance(described, dict):
        return None
    package, _, name = str(described.get("class_path")).partition(".")
    kind = getattr(_PACKAGES.get(package), name.rsplit(".", 1)[-1], None)
    if not isinstance(kind, type):
        return None
    parameters = inspect.signature(kind).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    given = {**defaults, **(described.get("init_args") or {}), "class": kind.__name__}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    return {
        key: value for key, value in plain.items() if key not in ("sigma", "image_shape", "num_workers", "download")
    }


def _trained_at(folder: Path) -> float:
    """Return when the best checkpoint was written; without one, after all others."""
    best = folder / "checkpoints" / "best.ckpt"
    return best.stat().st_mtime if best.is_file() else math.inf


def _is_finished(folder: Path, max_epochs: int) -> bool:
    """Return whether the last epoch's checkpoint is there; best.ckpt is written before it."""
    try:
        last = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", mmap=True, weights_only=True)
        return int(last["epoch"]) == max_epochs - 1 and (folder / "checkpoints" / "best.ckpt").is_file()
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        return False
