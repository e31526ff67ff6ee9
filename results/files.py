"""Folders of one process at a time, tables as text, and the hash of a file."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

# What a file system without locks answers.
_UNKNOWN = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
# What filelock made of ENOSYS before it had a lock of its own for such file systems.
_OF_OLDER_FILELOCKS = (NotImplementedError,)


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Keep every other process that wants to lock a folder out, until this one ends in whatever way.

    The folder is there already. On a file system without locks it goes on with a warning in one line.

    Raises:
        ValueError: with the refusal, if another process has locked it.
        OSError: if nothing can be written there.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(refusal) from error
    except (OSError, *_OF_OLDER_FILELOCKS) as error:
        if isinstance(error, OSError) and error.errno not in _UNKNOWN:
            raise
        print(
            f"warning: {folder} is on a file system without locks: nothing keeps a second process from writing there",
            file=sys.stderr,
        )
    try:
        yield
    finally:
        lock.release()


def as_csv(rows: Iterable[Iterable[object]]) -> str:
    """Return a table as text, numbers with all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
