"""What a checkpoint from a stranger may hold, so that it takes no more memory than its file's size."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor

from lightning_modules.base import NoisyModule

# Of a checkpoint's plain values.
_MAX_VALUES = 16
_LARGEST_COUNT = 2**31 - 1
_MAX_PARTS = 100_000
_LONGEST_PICKLE = 2**24
# The first bytes of a zip archive.
_ARCHIVE = b"PK\x03\x04"


def check_archive(path: Path) -> None:
    """See that a file unpacks to no more than its own size, before any of it is read.

    Raises:
        ValueError: for a compressed archive, one whose parts overlap, and one with too many of them.
        zipfile.BadZipFile: for a file that is no whole archive.
    """
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) != _ARCHIVE:  # PyTorch would read another format
            raise BadZipFile("File is not a zip file")
    with ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != ZIP_STORED for part in parts):
            raise ValueError("compressed, which train.py does not do, so that it could unpack to any size")
        unpacked, size = sum(part.file_size for part in parts), path.stat().st_size
        if unpacked > size or len(parts) > _MAX_PARTS:
            raise ValueError(f"an archive of {len(parts)} parts that claim {unpacked} bytes in a file of {size}")
        pickled = max((part.file_size for part in parts if part.filename.endswith("data.pkl")), default=0)
        if pickled > _LONGEST_PICKLE:
            raise ValueError(f"an archive with {pickled} bytes of plain values, at most {_LONGEST_PICKLE} are read")


def check_module(module: type[NoisyModule], content: Mapping[str, Any], *, size: int) -> dict[str, Any]:
    """See that the weights are those of the module that the hyperparameters describe, before it takes any memory.

    The checkpoint has that content, and its file ``size`` bytes. Returns the hyperparameters that the class takes.

    Raises:
        ValueError: for hyperparameters that are no plain values, for weights that claim more bytes than the file has,
            and for weights of other names or shapes than the module's.
        Exception: whatever the class raises for its arguments.
    """
    hyper_parameters, weights = content.get("hyper_parameters"), content["state_dict"]
    if "pytorch-lightning_version" not in content:
        raise ValueError("it was not written by Lightning")
    if not isinstance(hyper_parameters, Mapping):
        raise ValueError("it has no hyperparameters")
    arguments = plain_arguments(module, hyper_parameters)
    check_weights(weights, None, size=size)
    with torch.device("meta"):  # has shapes, and no memory
        expected = module(**arguments).state_dict()
    check_weights(weights, expected, size=size)
    return arguments


def plain_arguments(module: type[NoisyModule], hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters that a class takes.

    Raises:
        ValueError: for those of them that are no plain values.
    """
    accepted = inspect.signature(module).parameters
    arguments = {name: value for name, value in hyper_parameters.items() if name in accepted and name != "weights"}
    for name, value in arguments.items():
        _check_plain(name, value)
    return arguments


def check_weights(weights: object, expected: Mapping[str, Tensor] | None, *, size: int) -> None:
    """See that weights, a state_dict, take no more memory than the ``size`` bytes of their file, and are a module's.

    ``expected`` is the module's state_dict, on any device; None leaves names and shapes unchecked.

    Raises:
        ValueError: with the first thing that is wrong.
    """
    if not isinstance(weights, Mapping) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError("its state_dict is no mapping of names to tensors")
    claimed = sum(weight.numel() * weight.element_size() for weight in weights.values())
    if claimed > size:
        raise ValueError(f"its weights claim {claimed} bytes, more than the {size} of the file")
    for name, tensor in (expected or {}).items():
        if name not in weights:
            raise ValueError(f"Missing key {name!r} in its state_dict")
        if weights[name].shape != tensor.shape:
            found = tuple(weights[name].shape)
            raise ValueError(f"size mismatch for {name}: {found} in its state_dict, {tuple(tensor.shape)} in the model")
    if expected is not None and (foreign := [name for name in weights if name not in expected]):
        raise ValueError(f"Unexpected key {foreign[0]!r} in its state_dict")


def data_of(value: object) -> dict[str, Any] | None:
    """Return name and arguments of a data module, as a checkpoint describes it; None if it does not.

    Raises:
        ValueError: for anything but a name and plain values.
    """
    if value is None:
        return None
    described: dict[str, Any] = value if isinstance(value, dict) else {}
    name, arguments = described.get("class"), described.get("init_args")
    if not isinstance(name, str) or len(name) >= 200 or not isinstance(arguments, dict):
        raise ValueError("its data are not described by a class and init_args")
    for name, argument in arguments.items():
        _check_plain(f"data.init_args.{name}", argument)
    return described


def name_of(value: object, *, most: int = 100) -> str | None:
    """Return a run's name, if it is a name."""
    plain = isinstance(value, str) and value.isprintable() and not set(value) & set("/\\")
    return str(value) if plain and 0 < len(str(value)) <= most else None


def _check_plain(name: str, value: object) -> None:
    """Raise ValueError unless a value is a word, a number, or a few of them."""
    parts = value if isinstance(value, list | tuple) else [value]
    too_large = any(isinstance(part, int) and not abs(part) <= _LARGEST_COUNT for part in parts)
    too_many = len(parts) > _MAX_VALUES or any(isinstance(part, str) and len(part) > 4096 for part in parts)
    if too_large or too_many or not all(isinstance(part, str | int | float | None) for part in parts):
        raise ValueError(f"{name} must be a plain value, numbers up to {_LARGEST_COUNT}, got {value!r:.80}")
