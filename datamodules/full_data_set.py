"""Public data sets that torchvision reads and downloads: whatever goes wrong is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError

_DataSet = TypeVar("_DataSet")


def read(
    kind: Callable[..., _DataSet], root: Path, *, train: bool, download: bool, may_download: bool, otherwise: str
) -> _DataSet:
    """Read one split of a data set of torchvision's.

    Args:
        kind: torchvision's class; its name is the data set's.
        root: folder of the data set, in torchvision's layout.
        train: the training split, else the test split.
        download: fetch it now if it is not there.
        may_download: whether the user allows downloads, at this or another step.
        otherwise: what to use instead, without a download; it ends the message.

    Raises:
        ValueError: if the data set is neither on disk nor to be had.
    """
    try:
        return kind(root, train=train, download=download)
    except (RuntimeError, OSError, URLError, HTTPException, ValueError, AssertionError, LookupError) as error:
        wanted = "download it there" if may_download else "allow --data.download true"
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:120]
        raise ValueError(
            f"--data.root must hold {kind.__name__}, got {root.absolute()}: not there or damaged, and no "
            f"download ({reason}); {wanted}, or use {otherwise}"
        ) from error
