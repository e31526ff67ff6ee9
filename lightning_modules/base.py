"""Noise-augmented training, and what is smoothed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, TypedDict

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional


class Batch(TypedDict):
    """What a datamodule yields: images (N, C, H, W) in [0, 1] and their indices (N,) in the data set."""

    image: Tensor
    index: Tensor


class NoisyModule(LightningModule, ABC):
    """A base function trained on inputs with Gaussian noise, mean squared error to the clean image, Adam.

    Subclasses implement :meth:`forward`, the base function f, and call ``save_hyperparameters()`` on plain values, so
    that the checkpoint alone rebuilds them. Where the attacker perturbs something else than the image they override
    :meth:`point`.

    Args:
        sigma: noise level of training and smoothing, in units of the point (pixels in [0, 1]).
        learning_rate: Adam's.
    """

    def __init__(self, *, sigma: float, learning_rate: float = 1e-3) -> None:
        super().__init__()
        if not 0.0 < sigma < math.inf:
            raise ValueError(f"sigma must be a positive finite number, got {sigma!r}")
        if not 0.0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a positive finite number, got {learning_rate!r}")
        self.sigma = float(sigma)
        self.learning_rate = float(learning_rate)

    def point(self, image: Tensor) -> Tensor:
        """What the attacker perturbs and the noise is added to: (N, C, H, W) -> (N, *in)."""
        return image

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The base function f: (N, *in) -> (N, *out)."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of f(x + noise) to the clean image."""
        x = self.point(batch["image"])
        loss = functional.mse_loss(self(x + self.sigma * torch.randn_like(x)), batch["image"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Mean squared error of f(x), without noise, to the image."""
        loss = functional.mse_loss(self(self.point(batch["image"])), batch["image"])
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch["image"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the class, and the data that it was trained on, in plain values."""
        checkpoint["base_model"] = type(self).__name__
        datamodule = getattr(self._trainer, "datamodule", None)
        if datamodule is not None:
            checkpoint["data"] = {"class": type(datamodule).__name__, "init_args": dict(datamodule.hparams)}
