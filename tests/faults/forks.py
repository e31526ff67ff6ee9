"""Certifications in processes of their own, forks of one that has imported everything: for the scripts beside it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas  # noqa: F401  # plotly looks for it
import wandb  # noqa: F401

import certification.session  # all that certify.py imports when it is called
import certification.trainer  # noqa: F401
import certify
import datamodules  # noqa: F401

_ACCESSES = {"open", "os.rename", "os.remove", "os.mkdir"}


def start(command: Sequence[str], log: Path, before: Callable[[], None] | None = None) -> int:
    """Certify in a process of its own, and return its number.

    Args:
        command: of certify.py.
        log: where its output goes, after what is there.
        before: what that process does first.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if before is not None:
            before()
        certify.main(command)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kill_before_access(number: int, folder: str) -> None:
    """Kill this process just before it accesses a folder for the ``number``-th time."""
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _ACCESSES and str(arguments[0]).startswith(folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
