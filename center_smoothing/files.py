"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO


def atomic_write(path: str | os.PathLike[str], content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file as a whole or not at all, on the disk itself before its name points to it.

    Args:
        path: of the file; one that is there is replaced.
        content: what to write, text in UTF-8; or a function that writes to an open file.

    Raises:
        OSError: if it cannot be written, with the path; what was there stays.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.partial")
    try:
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode(errors="replace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # its place may be what is missing
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
