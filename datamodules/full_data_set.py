"""Public data sets that torchvision reads and downloads: whatever goes wrong is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_DataSet = TypeVar("_DataSet")


def read(load: Callable[[], _DataSet], name: str, root: Path, *, wanted: str, otherwise: str) -> _DataSet:
    """Read one split of a data set of that name, which ``load`` makes from files below a root or by a download.

    ``wanted`` is what to do so that it is there, ``otherwise`` what to use instead, without a download.

    Raises:
        ValueError: if the data set is neither on disk nor to be had.
    """
    try:
        return load()
    except Exception as error:  # gdown, requests, zipfile and the readers of damaged files have no common one
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        raise ValueError(
            f"--data.root must hold {name}, got {root.absolute()}: not there or damaged, and no download ({reason}); "
            f"{wanted}, or use {otherwise}"
        ) from error
