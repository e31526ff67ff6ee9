"""Noise-augmented training, and what is smoothed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional

from lightning_modules.consistency import CONSISTENCY_DISTANCES, consistency


class Batch(TypedDict):
    """What a datamodule yields: images (N, C, H, W) in [0, 1] and their indices (N,) in the data set."""

    image: Tensor
    index: Tensor


class BaseModel(LightningModule, ABC):
    """A base function f, and what of an image it is a function of.

    Subclasses implement :meth:`forward`. Where the attacker perturbs something else than the image they override
    :meth:`point`. Each output must depend on its own input alone, as it does in eval mode.
    """

    def example_shape(self) -> tuple[int, ...] | None:
        """Return the (C, H, W) of images on which speed is measured without any data; None if unknown."""
        shape = self.hparams.get("image_shape")
        return None if shape is None else tuple(shape)

    def point(self, image: Tensor) -> Tensor:
        """Return what the attacker perturbs and the noise is added to: (N, C, H, W) -> (N, *in)."""
        return image

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Compute the base function f: (N, *in) -> (N, *out)."""


def point_of(model: LightningModule, image: Tensor) -> Tensor:
    """Return what is smoothed of one image (C, H, W): its point (*in), on the model's device."""
    return cast(BaseModel, model).point(image[None].clone().to(model.device))[0]


class NoisyModule(BaseModel):
    """A base function trained on inputs with Gaussian noise, mean squared error to the clean image, Adam.

    Subclasses call ``save_hyperparameters()`` on plain values too, so that the checkpoint alone rebuilds them. Where
    outputs should be something else than the image they override :meth:`loss`.

    Args:
        sigma: noise level of training and smoothing, in units of the point (pixels in [0, 1]).
        learning_rate: Adam's.
        noise_range: (low, high), in units of the point. Each training image then has a noise level of its own, uniform
            between the two, so that one model serves several sigma; default: all have sigma.
        consistency_weight: of the consistency term, the distance between the outputs at two noisy copies of each image;
            0 leaves it out. With it a step takes twice the time.
        consistency_distance: one of ``CONSISTENCY_DISTANCES``, in which the outputs are compared.

    Raises:
        ValueError: for arguments out of range, and for a sigma outside noise_range.
    """

    def __init__(
        self,
        sigma: float,
        learning_rate: float = 1e-3,
        noise_range: Sequence[float] | None = None,
        consistency_weight: float = 0.0,
        consistency_distance: str = "tv",
    ) -> None:
        super().__init__()
        if not 0.0 < sigma < math.inf:
            raise ValueError(f"sigma must be a positive finite number, got {sigma!r}")
        if not 0.0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a positive finite number, got {learning_rate!r}")
        if not 0.0 <= consistency_weight < math.inf:
            raise ValueError(
                f"consistency_weight must be a finite number of at least 0 such as 0.05, got {consistency_weight!r}"
            )
        if consistency_distance not in CONSISTENCY_DISTANCES:
            raise ValueError(
                f"consistency_distance must be one of {', '.join(CONSISTENCY_DISTANCES)}, got {consistency_distance!r}"
            )
        self.sigma = float(sigma)
        self.consistency_weight = float(consistency_weight)
        self.consistency_distance = str(consistency_distance)
        self.learning_rate = float(learning_rate)
        self.noise_range = None if noise_range is None else _check_noise_range(noise_range, self.sigma)

    def loss(self, outputs: Tensor, images: Tensor) -> Tensor:
        """Compare outputs (N, *out) at points of images (N, C, H, W) with the images: the mean squared error."""
        return functional.mse_loss(outputs, images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean squared error of f(x + noise) to the clean image, and the weighted consistency term.

        ``train/loss`` is the error without the term, ``train/consistency`` the term without its weight.
        """
        x, copies = self.point(batch["image"]), 1 if self.consistency_weight == 0.0 else 2
        level: float | Tensor = self.sigma
        noises = [torch.randn_like(x) for _ in range(copies)]  # from the global generator, which Lightning seeds
        if self.noise_range is not None:  # of each point, the same for its copies
            level = x.new_empty(len(x)).uniform_(*self.noise_range).reshape(-1, *[1] * (x.ndim - 1))
        # one call for all copies, so that batch norm takes them as one batch
        outputs = self(torch.cat([x + level * noise for noise in noises]))
        loss = self.loss(outputs, torch.cat([batch["image"]] * copies))
        self._log_training("loss", loss, len(x))
        if copies == 1:
            return loss
        term = consistency(*outputs.chunk(2), distance=self.consistency_distance)
        self._log_training("consistency", term, len(x))
        return loss + self.consistency_weight * term

    def _log_training(self, name: str, value: Tensor, batch_size: int) -> None:
        self.log(f"train/{name}", value, on_step=False, on_epoch=True, sync_dist=True, batch_size=batch_size)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the mean squared error of f(x), without noise, to the image."""
        loss = self.loss(self(self.point(batch["image"])), batch["image"])
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(batch["image"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the class, the run, and the data that it was trained on, in plain values."""
        checkpoint["base_model"] = type(self).__name__
        if self._trainer is not None:
            checkpoint["run"] = Path(self._trainer.default_root_dir).name
        datamodule = getattr(self._trainer, "datamodule", None)
        if datamodule is not None:
            checkpoint["data"] = {"class": type(datamodule).__name__, "init_args": dict(datamodule.hparams)}


def _check_noise_range(noise_range: Sequence[float], sigma: float) -> list[float]:
    try:
        low, high = (float(level) for level in noise_range)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (0.0 <= low <= high < math.inf and high > 0.0):
        raise ValueError(
            "noise_range must be two finite numbers 0 <= low <= high with high > 0, such as [0.1, 0.5], "
            f"got {noise_range!r}"
        )
    if not low <= sigma <= high:
        raise ValueError(
            f"noise_range must include sigma={sigma!r}, got {[low, high]!r}; take a sigma in it, or a wider range"
        )
    return [low, high]
