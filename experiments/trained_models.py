"""The base models of a panel: what they are trained with, and which of them are there already."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"

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
    """What train.py trains with a configuration: the file over the default one.

    Args:
        config: name of a file in configs/.
    """
    default = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    merged = _overlaid(default, yaml.safe_load((CONFIGS / config).read_text()))
    assert isinstance(merged, dict)
    return merged


def finished_run(runs: Path, wanted: dict[str, Any], *, sigma: float) -> Path | None:
    """The newest run folder of a whole training with these settings, or None.

    Args:
        runs: folder of all runs, train.py's ``--runs``.
        wanted: as :func:`settings` gives them, with ``trainer.max_epochs``.
        sigma: noise level of the training.
    """
    folders = (runs / str(wanted["experiment"])).glob(f"{sigma:g}-*/")
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            saved = yaml.safe_load((folder / "config.yaml").read_text())
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if _same_training(saved, wanted, sigma) and _is_finished(folder, int(wanted["trainer"]["max_epochs"])):
            return folder
    return None


def _overlaid(below: object, above: object) -> object:
    """One configuration over another; a class other than the one below brings arguments of its own."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if above.get("class_path", below.get("class_path")) != below.get("class_path"):
        return above
    return {**below, **{key: _overlaid(below.get(key), value) for key, value in above.items()}}


def _same_training(saved: object, wanted: dict[str, Any], sigma: float) -> bool:
    if not isinstance(saved, dict) or saved.get("sigma") != sigma:
        return False
    trainer = saved.get("trainer") or {}
    return (
        all(_holds(saved.get(key), wanted[key]) for key in ("model", "data", "seed_everything"))
        and trainer.get("max_epochs") == wanted["trainer"]["max_epochs"]
        and all(trainer.get(key, value) == value for key, value in _WHOLE_TRAINING.items())
    )


def _holds(saved: object, wanted: object) -> bool:
    """Whether everything that is wanted was so; what was not named had its default."""
    if isinstance(wanted, dict):
        return isinstance(saved, dict) and all(_holds(saved.get(key), value) for key, value in wanted.items())
    return saved == wanted


def _is_finished(folder: Path, max_epochs: int) -> bool:
    """Whether the last epoch's checkpoint is there; best.ckpt is written before it."""
    try:
        last = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        return int(last["epoch"]) == max_epochs - 1 and (folder / "checkpoints" / "best.ckpt").is_file()
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        return False
