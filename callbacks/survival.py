"""What lets a training end at any moment and go on: whole checkpoints, random states, and an end where numbers end."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

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


class Survival(Callback):
    """Keeps the random states in checkpoints, so that a training that goes on is the one that was interrupted.

    It ends a training whose validation loss is no number any more, before a checkpoint keeps that.
    """

    def __init__(self) -> None:
        super().__init__()
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Random states of PyTorch, NumPy and Python, in plain values."""
        name, keys, *rest = np.random.get_state()  # noqa: NPY002  # the one that libraries draw from
        version, internal, gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
            "python": [version, list(internal), gauss],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them for the first epoch: setting up draws random numbers too."""
        self._restored = dict(state_dict)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore them, just before the data of the first epoch are shuffled."""
        if self._restored is None:
            return
        state, self._restored = self._restored, None
        torch.set_rng_state(state["torch"])
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop where the loss is not finite.

        Raises:
            ValueError: with what may help.
        """
        loss = trainer.callback_metrics.get("val/loss")
        if not trainer.sanity_checking and loss is not None and not math.isfinite(float(loss)):
            raise ValueError(
                f"--model.learning_rate must be such that the loss stays finite, got val/loss {float(loss)} after "
                f"epoch {trainer.current_epoch}; take a smaller one"
            )
