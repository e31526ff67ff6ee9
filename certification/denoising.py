"""What --denoiser names: a denoiser in front of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from certification.request import Arguments
from command_line import class_paths
from command_line.errors import value_errors
from lightning_modules import BaseModel, DenoisedModel, NoisyModule, load_checkpoint, load_own, point_of
from lightning_modules.checkpoint import takes_weights
from lightning_modules.imported import SUFFIXES, model_in, model_of
from results import files

_FLAG = "--denoiser"


@dataclass(frozen=True)
class Denoiser:
    """What stands in front of a model.

    Attributes:
        model: computes it.
        config: its name, the arguments of its class, and the sha256 of its file, or of its weights and code.
    """

    model: BaseModel
    config: dict[str, Any]

    def in_front_of(self, model: BaseModel) -> DenoisedModel:
        """Return the composition, in eval mode."""
        return DenoisedModel(model, self.model).eval()


def load_denoiser(options: Arguments) -> Denoiser | None:
    """Return what --denoiser names; None where nothing does.

    Raises:
        ValueError: for what is neither a checkpoint that train.py wrote nor a model as --model takes it.
    """
    if options.denoiser is None:
        return None
    name, arguments = options.denoiser
    path = Path(name)
    if class_paths.is_import(name) and path.suffix not in (*SUFFIXES, ".ckpt"):
        return _by_name(name, arguments)
    if arguments:
        raise ValueError(f"{_FLAG}.{next(iter(arguments))} must be left out: {name} is no class, which takes arguments")
    if path.suffix in SUFFIXES:
        found = model_in(path, trusted=options.trust, flag=_FLAG)
        return _denoiser(found, path.name, found.sha256)
    trained = load_checkpoint(name, flag=_FLAG)
    run = "" if trained.run is None else f" of run {trained.run}"
    return _denoiser(trained.model, f"{type(trained.model).__name__}{run}", files.sha256(trained.path))


def check_denoiser(model: BaseModel, examples: Subset[dict[str, Tensor]]) -> None:
    """See on a few examples, which may differ in size, that a denoiser takes them and keeps their shape.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(model, DenoisedModel):
        return
    for position in sorted({0, len(examples) // 2, len(examples) - 1}):
        image = examples[position]["image"]
        with torch.no_grad():
            with value_errors(f"--data must hold examples that the model takes, got {tuple(image.shape)}"):
                x = point_of(model, image)[None]
            with value_errors(f"{_FLAG} must take inputs of shape {tuple(x.shape)}, and return that shape"):
                model.function.denoise(x)


def _by_name(name: str, arguments: Mapping[str, Any]) -> Denoiser:
    """Return what stands in a module under a dotted name."""
    found, weights = class_paths.import_by_name(name, _FLAG), arguments.get("weights")
    if weights is not None and isinstance(found, type) and issubclass(found, NoisyModule):
        if not takes_weights(found, Path(weights)):
            given = {key: value for key, value in arguments.items() if key != "weights"}
            trained = load_own(found, weights, given, flag=_FLAG)
            return _denoiser(trained.model, name, files.sha256(trained.path), given)
    own = model_of(found, arguments, name=name, flag=_FLAG)
    return _denoiser(own, name, own.sha256, arguments)


def _denoiser(model: BaseModel, name: str, sha256: str, arguments: Mapping[str, Any] | None = None) -> Denoiser:
    return Denoiser(model, {"name": name, **({"arguments": dict(arguments)} if arguments else {}), "sha256": sha256})
