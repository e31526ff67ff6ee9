"""Checkpoints that are whole, whenever a training ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from center_smoothing.files import atomic_write


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint as a whole or not at all, on the disk itself before its name points to it.

    Lightning's own way goes through the folder for temporary files, which may be on another disk: a process that is
    killed while it copies leaves half a file.

    Args:
        first_written: called once the first one is there.
    """

    def __init__(self, first_written: Callable[[], None] = lambda: None) -> None:
        self._first_written: Callable[[], None] | None = first_written

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: object = None
    ) -> None:
        """Replace the file, if there is one.

        Raises:
            OSError: if it cannot be written; what was there stays.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            atomic_write(target, lambda file: torch.save(checkpoint, file))
        except RuntimeError as error:  # PyTorch's writer raises it where the disk is full
            raise OSError(None, str(error).splitlines()[0], str(target)) from error
        if self._first_written is not None:
            self._first_written()
            self._first_written = None
