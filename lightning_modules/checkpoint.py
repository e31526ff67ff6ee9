"""From a checkpoint file back to a base model."""

from __future__ import annotations

import inspect
import pickle
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_modules.autoencoder import NoisyAutoencoder
from lightning_modules.base import NoisyModule
from lightning_modules.checkpoint_limits import (
    check_archive,
    check_module,
    check_weights,
    data_of,
    name_of,
    plain_arguments,
)
from lightning_modules.denoiser import NoisyDenoiser
from lightning_modules.reconstructor import NoisyReconstructor

BASE_MODELS: dict[str, type[NoisyModule]] = {
    cls.__name__: cls for cls in (NoisyAutoencoder, NoisyReconstructor, NoisyDenoiser)
}
# Hyperparameters that leave the shapes of the weights alone.
_OF_TRAINING = ("sigma", "learning_rate", "noise_range", "consistency_weight", "consistency_distance")


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A base model and the data that it was trained on."""

    model: NoisyModule  # in eval mode, on the CPU
    # class name and constructor arguments of its datamodule; None if it was trained without one
    data: dict[str, Any] | None
    run: str | None = None  # name of the run folder of its training; None if the checkpoint does not say
    path: Path = Path()  # of the file


def checkpoint_file(path: str | Path, *, flag: str = "--ckpt") -> Path:
    """Return the checkpoint that a path names: itself, or of a run folder the best one, or the last if none is best.

    A run folder's ``checkpoints`` will do too. ``flag`` named the path, for the error message.

    Raises:
        ValueError: for a folder without any.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    places = [folder / f"{name}.ckpt" for name in ("best", "last") for folder in (path / "checkpoints", path)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"{flag} must be a checkpoint that train.py wrote, or a run folder such as runs/latest that has one, got "
            f"{path}: no such file as checkpoints/best.ckpt or checkpoints/last.ckpt in it"
        )
    return found


def load_checkpoint(path: str | Path, *, flag: str = "--ckpt") -> LoadedCheckpoint:
    """Rebuild a base model from its checkpoint alone, without executing any pickle; :func:`checkpoint_file` finds it.

    Raises:
        ValueError: for a missing, truncated or foreign file, and for a checkpoint of another class.
    """
    path, content = _read(path, flag=flag)
    name = content.get("base_model")
    if not isinstance(name, str) or name not in BASE_MODELS:
        described = "names no class of this project" if name is None else f"is of class {name!r:.80}"
        own = name if isinstance(name, str) and name.isidentifier() and len(name) < 80 else "MyModel"
        named = "--model" if flag == "--ckpt" else flag
        raise ValueError(
            f"{flag} must hold one of {', '.join(BASE_MODELS)}, got {path}: it {described}; a model of your own "
            f"is named with {shlex.join([named, f'my_package.{own}', f'{named}.weights', str(path)])}"
        )
    try:
        arguments = check_module(BASE_MODELS[name], content, size=path.stat().st_size)
        model = BASE_MODELS[name](**arguments)
        model.load_state_dict(content["state_dict"])
        data = data_of(content.get("data"))
    except Exception as error:  # hyperparameters and weights of a foreign file may be anything
        described = f"the weights of the {name} that it describes"
        raise ValueError(f"{flag} must hold {described}, got {path}: {_in_one_line(error)}") from error
    return LoadedCheckpoint(model=model.eval(), data=data, run=name_of(content.get("run")), path=path)


def takes_weights(kind: type[NoisyModule], path: Path) -> bool:
    """Return whether a user's class itself knows what to do with weights that are no checkpoint of train.py."""
    return "weights" in inspect.signature(kind).parameters and path.suffix != ".ckpt" and not path.is_dir()


def load_own(
    kind: type[NoisyModule], path: str | Path, given: Mapping[str, Any], *, flag: str = "--model"
) -> LoadedCheckpoint:
    """Rebuild a user's model from its class and its checkpoint, without executing any pickle.

    A class that takes ``weights`` gets the file's name and loads it on its own. Arguments that are ``given`` go before
    the checkpoint's hyperparameters. ``path`` is as :func:`checkpoint_file` takes it, ``flag`` named the class.

    Raises:
        ValueError: for a missing, truncated or foreign file, and for weights of other names or shapes than the model's.
    """
    path, content = _read(path, flag=f"{flag}.weights")
    accepted = inspect.signature(kind).parameters
    try:
        arguments = {**plain_arguments(kind, content.get("hyper_parameters") or {}), **given}
        data = data_of(content.get("data"))
        weights: dict[str, Any] = {"weights": str(path)} if "weights" in accepted else {}
        model = kind(**arguments, **weights)
    except Exception as error:  # a class may raise anything
        if isinstance(error, ValueError) and str(error).startswith("--"):
            raise
        raise ValueError(
            f"{flag} must be a class that takes its {flag}.* arguments and those in {path}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if "weights" not in accepted:
        load_weights(model, path, flag=f"{flag}.weights")
    return LoadedCheckpoint(model=model.eval(), data=data, run=name_of(content.get("run")), path=path)


def load_weights(model: NoisyModule, path: str | Path, *, flag: str = "--init-from") -> None:
    """Give a model, in place, the weights of a checkpoint, and nothing else of it, without executing any pickle.

    The checkpoint's class and hyperparameters are not used: what is trained says which model it is. ``path`` and
    ``flag`` are those of :func:`checkpoint_file`.

    Raises:
        ValueError: for a missing, truncated or foreign file, and for weights of other names or shapes than the model's.
    """
    path, content = _read(path, flag=flag)
    try:
        check_weights(content["state_dict"], model.state_dict(), size=path.stat().st_size)
        model.load_state_dict(content["state_dict"])
    except Exception as error:  # weights of a foreign file may be anything
        raise ValueError(
            f"{flag} must hold weights of the {type(model).__name__} that is trained, got {path}: {_in_one_line(error)}"
            f"{_other_hyperparameters(model, content.get('hyper_parameters'))}"
        ) from error


def _read(path: str | Path, *, flag: str) -> tuple[Path, dict[str, Any]]:
    """Find and read a checkpoint file: tensors and plain values, with a state_dict."""
    path = checkpoint_file(path, flag=flag)
    if not path.is_file():
        raise ValueError(f"{flag} must be a checkpoint file that train.py wrote, got {path}: no such file")
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        wrong = "damaged or of another format"
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            wrong = "a pickle of more than tensors and plain values, and such files are not executed"
        elif type(error) is ValueError and str(error).startswith(("an archive", "compressed")):
            wrong = str(error)
        raise ValueError(f"{flag} must be a whole checkpoint that train.py wrote, got {path}: it is {wrong}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"{flag} must be a checkpoint that train.py wrote, got {path}: it holds no Lightning module")
    return path, content


def _other_hyperparameters(model: NoisyModule, found: object) -> str:
    """Name hyperparameters of a checkpoint that differ from the model's and shape its weights; empty if none do."""
    if not isinstance(found, Mapping):
        return ""
    differing = [
        f"{name}={found[name]!r:.80}"
        for name, value in model.hparams.items()
        if name in found and name not in _OF_TRAINING and found[name] != value
    ]
    return f"; it was trained with {', '.join(differing)}" if differing else ""


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
