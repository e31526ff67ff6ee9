"""Arrays from files of strangers: no pickles, and no more memory than the file's own size."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_MAX_ARRAYS = 256
# Booleans, whole and real numbers, and text.
_KINDS = "biufU"


def read_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read the array of a ``.npy`` file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: with the file's name, if it is none, or holds less than it claims.
    """
    with _whole(path, ".npy") as (file, size):
        return _array(file, size)


def read_npz(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file, by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: with the file's name, if it is none, is compressed, or holds less than it claims.
    """
    with _whole(path, ".npz") as (file, size), ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.compress_type != ZIP_STORED for part in parts):
            raise ValueError("it is compressed, so that it could unpack to any size")
        if len(parts) > _MAX_ARRAYS or sum(part.file_size for part in parts) > size:
            raise ValueError(f"its {len(parts)} arrays claim more than the {size} bytes of the file")
        found = {}
        for part in parts:
            with archive.open(part) as member:
                found[part.filename.removesuffix(".npy")] = _array(member, part.file_size)
        return found


@contextmanager
def _whole(path: str | os.PathLike[str], kind: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a regular file, with its size; whatever else goes wrong is said of the file."""
    try:
        found = Path(path)
        if found.exists() and not found.is_file():
            raise ValueError("it is no regular file")  # a pipe or a device might never end
        with found.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise ValueError(f"{os.fspath(path)} is not a whole {kind} file: {error}") from error


def _array(file: IO[bytes], size: int) -> NDArray[Any]:
    """Read an array in npy format of ``size`` bytes in all, header included."""
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"npy format {version} is not read")
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in _KINDS:
        raise ValueError(f"arrays of type {dtype} are not read")
    count = math.prod(shape)
    if count * dtype.itemsize > size or min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape} is claimed, more than its {size} bytes")
    content = file.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize or file.read(1):
        raise ValueError(f"an array of shape {shape} is claimed, not what there is")
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if fortran else "C").copy()
