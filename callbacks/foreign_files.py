"""Reading files that may come from anybody: bounded, without pickles, and without leaving the folder."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Far above what certify.py writes: a summary with names of 10^5 photos, a table of 10^6 rows.
_MOST_JSON, _MOST_TABLE = 64 << 20, 512 << 20
# Of the arrays of one example.
_MOST_ARRAYS = 4 << 30


def read_text(path: Path, most: int = _MOST_TABLE) -> str:
    """The text of a file; empty where there is none.

    Raises:
        ValueError: if it is larger than so many bytes, or no text.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise ValueError(f"{path} must not be larger than {most >> 20} MB, got {size >> 20} MB")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text in UTF-8: {error}") from error


def read_json(path: Path) -> Any:  # noqa: ANN401  # whatever it holds
    """What a JSON file holds.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is too large, too deep, or no JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        return json.loads(read_text(path, _MOST_JSON))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def read_array(path: Path) -> NDArray[Any]:
    """The array of a ``.npy`` file, which cannot claim more than the file holds.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no array of numbers.
    """
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # a damaged header leads NumPy's parsers to raise whatever they meet
        raise ValueError(f"{path} must hold one array of numbers: {error!r}") from error
    if not isinstance(mapped, np.ndarray) or mapped.dtype.hasobject:
        raise ValueError(f"{path} must hold one array of numbers")
    return np.array(mapped)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a ``.npz`` file by name. Nothing in it may be compressed: np.savez does not, and a bomb is.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged, or claims more than it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its arrays are compressed")
        if sum(member.file_size for member in members) > min(_MOST_ARRAYS, path.stat().st_size):
            raise ValueError("it claims to hold more than the file")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError:
        raise
    except Exception as error:  # as above, and whatever zipfile raises
        raise ValueError(f"{path} must hold arrays of numbers: {error!r}") from error


def refuse_links(folders: Iterable[Path], name: str) -> None:
    """See that nothing in folders leads out of them, before anything is written there.

    Raises:
        ValueError: naming the argument, if one of their entries, or one of the folders after the first, is a link.
    """
    first, *others = folders
    entries = [entry for folder in (first, *others) if folder.is_dir() for entry in folder.iterdir()]
    for entry in [*others, *entries]:
        if entry.is_symlink():
            raise ValueError(f"{name} must be a folder without links to other places, got {entry}")


def check_inside(path: Path, folder: Path) -> None:
    """See that a file to be read lies in a folder, wherever links lead.

    Raises:
        ValueError: if not.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} must lie in {folder}, got a link to {path.resolve()}")
