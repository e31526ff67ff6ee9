"""Any base function that a user brings, as a model that certify.py certifies."""

from __future__ import annotations

import hashlib
import inspect
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from center_smoothing import OnnxModel
from center_smoothing.base_functions import as_base_function
from center_smoothing.distances.naming import weights_of
from lightning_modules.base import BaseModel

# Files that hold a model: TorchScript, an exported program, ONNX.
SUFFIXES = (".pt", ".pt2", ".onnx")
# Of these, those whose readers may run code of whoever wrote the file.
_CAN_RUN_CODE = (".pt", ".pt2")


class ImportedModel(BaseModel):
    """A base function of any kind.

    Args:
        function: see :func:`center_smoothing.base_functions.as_base_function`.
        name: what the user calls it.
        arguments: that it was made with, in plain values.
        file: that holds it; default: the one that its source code stands in.
    """

    def __init__(
        self, function: object, *, name: str, arguments: Mapping[str, Any] | None = None, file: Path | None = None
    ) -> None:
        super().__init__()
        self.save_hyperparameters({"name": name, **({"arguments": dict(arguments)} if arguments else {})})
        self.sha256 = fingerprint(function, file)
        self.function = as_base_function(function)

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401  # outputs may be of any kind
        """Compute the base function f."""
        return self.function(x)

    def train(self, mode: bool = True) -> ImportedModel:
        """Set the mode as in any module, but do not call ``train`` of the parts, which exported programs refuse."""
        for part in self.modules():
            part.training = mode
        return self

    @property
    def is_eager(self) -> bool:
        """Whether it is a module whose layers can be looked at and copied."""
        return isinstance(self.function, nn.Module) and not isinstance(self.function, torch.jit.ScriptModule)


def model_of(found: object, arguments: Mapping[str, Any], *, name: str, flag: str = "--model") -> ImportedModel:
    """Make a model of what a dotted name leads to: an instance, a function, or a class called with the arguments.

    New weights are drawn with a fixed seed, so that the same command makes the same model. ``name`` is as it was typed,
    for that ``flag``.

    Raises:
        ValueError: if a class does not take the arguments, or if something else is given any.
    """
    if isinstance(found, type):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            try:
                made = found(**arguments)
            except TypeError as error:
                raise ValueError(f"{flag} must be a class that takes its {flag}.* arguments: {error}") from error
        return ImportedModel(made, name=name, arguments=arguments)
    if arguments:
        raise ValueError(
            f"{flag}.{next(iter(arguments))} must be left out: {name} is no class, which alone takes arguments"
        )
    return ImportedModel(found, name=name)


def model_in(path: Path, *, trusted: bool, flag: str = "--model") -> ImportedModel:
    """Load a model from a file with one of ``SUFFIXES``, whose reader may run code that stands in it where trusted.

    Raises:
        ValueError: if it may not but could, or if the file cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{flag} must be a file of a model, got {path}: there is no such file")
    if path.suffix in _CAN_RUN_CODE and not trusted:
        raise ValueError(
            f"--trust must be given for {path}: a program in such a file can do anything; an ONNX file needs no trust"
        )
    logger = logging.getLogger("torch.export")  # it prints tracebacks of what it raises
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        if path.suffix == ".onnx":
            return ImportedModel(OnnxModel(path), name=str(path), file=path)
        load = torch.jit.load if path.suffix == ".pt" else torch.export.load
        return ImportedModel(load(str(path)), name=str(path), file=path)
    except ValueError:
        raise
    except Exception as error:  # of the readers, for whatever a damaged file leads them to
        raise ValueError(
            f"{flag} must be a file that torch.jit.save (.pt), torch.export.save (.pt2) or an ONNX exporter wrote, "
            f"got {path}: {str(error).splitlines()[0]}"
        ) from error
    finally:
        logger.setLevel(level)


def fingerprint(function: object, file: Path | None = None) -> str:
    """Hash the weights and the code: what must stay the same while a certification goes on."""
    digest = hashlib.sha256()
    if isinstance(function, nn.Module) and not isinstance(function, torch.jit.ScriptModule):
        for part in weights_of(function):
            digest.update(part)
    elif file is None and not inspect.isroutine(function):
        try:
            digest.update(pickle.dumps(function))
        except Exception:  # what cannot be pickled has at least its code
            digest.update(type(function).__name__.encode())
    source = file or source_of(function)
    if source is not None:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def source_of(thing: object) -> Path | None:
    """Return the file in which a function or the class of an object is written; None if it is not known."""
    try:
        code = thing if inspect.isroutine(thing) or inspect.isclass(thing) else type(thing)
        found = inspect.getsourcefile(code)
    except TypeError:  # of built-in classes
        return None
    return Path(found) if found is not None and Path(found).is_file() else None
