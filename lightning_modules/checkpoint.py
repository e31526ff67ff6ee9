"""From a checkpoint file back to a base model."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_modules.autoencoder import NoisyAutoencoder
from lightning_modules.base import NoisyModule
from lightning_modules.networks import ConvolutionalAutoencoder
from lightning_modules.reconstructor import NoisyReconstructor

BASE_MODELS: dict[str, type[NoisyModule]] = {cls.__name__: cls for cls in (NoisyAutoencoder, NoisyReconstructor)}


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A base model and the data that it was trained on.

    Attributes:
        model: in eval mode, on the CPU.
        data: class name and constructor arguments of its datamodule; None if it was trained without one.
        run: name of the run folder of its training; None if the checkpoint does not say.
    """

    model: NoisyModule
    data: dict[str, Any] | None
    run: str | None = None


def load_checkpoint(path: str | Path) -> LoadedCheckpoint:
    """Rebuild a base model from its checkpoint alone, without executing any pickle.

    Raises:
        ValueError: for a missing, truncated or foreign file, and for a checkpoint of another class.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"--ckpt must be a checkpoint file that train.py wrote, got {path}: no such file")
    try:
        _refuse_bombs(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise ValueError(
            f"--ckpt must be a whole checkpoint that train.py wrote, got {path}: it is {_what_is_wrong(error)}"
        ) from error
    known = ", ".join(BASE_MODELS)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"--ckpt must be a checkpoint that train.py wrote, got {path}: it holds no Lightning module")
    name = content.get("base_model")
    if not isinstance(name, str) or name not in BASE_MODELS:
        described = "names no class of this project" if name is None else f"is of class {name!r}"
        raise ValueError(f"--ckpt must hold one of {known}, got {path}: it {described}")
    try:
        _check_sizes(content)
        model = BASE_MODELS[name].load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except Exception as error:  # hyperparameters and weights of a foreign file may be anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"--ckpt must hold the weights of the {name} that it describes, got {path}: {reason}"
        ) from error
    return LoadedCheckpoint(model=model.eval(), data=content.get("data"), run=_name(content.get("run")))


def _refuse_bombs(path: Path) -> None:
    """Raise ValueError for a file that would grow when it is read: PyTorch compresses nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError("it claims to hold more than the file")


def _check_sizes(content: Mapping[str, Any]) -> None:
    """See, without any memory, that hyperparameters describe the tensors that are there.

    Raises:
        ValueError: if they describe others, which may be absurdly large.
    """
    settings, tensors = dict(content.get("hyper_parameters", {})), content["state_dict"]
    if not {"image_shape", "latent_dim"} <= set(settings):
        return  # defaults, which are small
    shape = tuple(int(size) for size in settings["image_shape"])
    with torch.device("meta"):
        network = ConvolutionalAutoencoder(shape, int(settings["latent_dim"]))  # type: ignore[arg-type]  # it checks
    described = {f"network.{name}": tensor.shape for name, tensor in network.state_dict().items()}
    if "num_measurements" in settings:
        described["measurement.matrix"] = torch.Size([int(settings["num_measurements"]), math.prod(shape)])
    for name, size in described.items():
        found = tensors[name].shape if name in tensors else None
        if found != size:
            raise ValueError(f"it describes {name} of shape {tuple(size)}, and holds {found and tuple(found)}")


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _what_is_wrong(error: BaseException) -> str:
    if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
        return "a pickle of more than tensors and plain values, and such files are not executed"
    return "damaged or of another format"
