"""Denoising: a network that goes in front of a model which was never trained with noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.base import Batch, NoisyModule
from lightning_modules.networks import ResidualDenoiser, plain_shape


class NoisyDenoiser(NoisyModule):
    """Residual convolutional network trained to recover images from noisy ones; ``certify.py --denoiser`` takes it.

    It takes images of any size, with as many channels as those that it was trained on.

    Args:
        sigma: noise level, in units of pixels in [0, 1].
        image_shape: (C, H, W); default: that of the data in train.py, else (1, 28, 28).
        channels: of each inner layer.
        dilations: of each convolution; fields of 25x25 pixels by default.
        learning_rate: Adam's.
        noise_range: (low, high) of each training image's own noise level; default: all have sigma.
    """

    def __init__(
        self,
        sigma: float,
        image_shape: Sequence[int] | None = None,
        channels: int = 24,
        dilations: Sequence[int] = (1, 2, 3, 3, 2, 1),
        learning_rate: float = 1e-3,
        noise_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__(sigma, learning_rate, noise_range)
        sigma, learning_rate, noise_range = self.sigma, self.learning_rate, self.noise_range
        image_shape, channels, dilations = plain_shape(image_shape), int(channels), [int(d) for d in dilations]
        self.save_hyperparameters()
        self.network = ResidualDenoiser(image_shape[0], channels, dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise images: (N, C, H, W) -> (N, C, H, W)."""
        return self.network(x)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the mean squared error of f(x + noise) to the image, under the same noise in each epoch."""
        images, generator = batch["image"], torch.Generator().manual_seed(batch_idx)
        low, high = (self.sigma, self.sigma) if self.noise_range is None else self.noise_range
        levels = torch.empty(len(images), 1, 1, 1).uniform_(low, high, generator=generator)
        noise = levels * torch.randn(images.shape, generator=generator)
        loss = self.loss(self(images + noise.to(images)), images)
        self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(images))
