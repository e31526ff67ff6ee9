"""What lets a training go on where it was interrupted: random states, and an end where numbers end."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Survival(Callback):
    """Keeps the random states in checkpoints, so that a training that goes on is the one that was interrupted.

    It ends a training whose validation loss is no number any more, before a checkpoint keeps that.
    """

    def __init__(self) -> None:
        super().__init__()
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the random states of PyTorch, NumPy and Python, in plain values."""
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
