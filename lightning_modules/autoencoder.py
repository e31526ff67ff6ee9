"""Dimensionality reduction: the autoencoder of the paper's section 5.2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_modules.base import NoisyModule
from lightning_modules.networks import ConvolutionalAutoencoder, plain_shape


class NoisyAutoencoder(NoisyModule):
    """Convolutional autoencoder trained on noisy images; the attacker perturbs the image.

    Args:
        sigma: noise level, in units of pixels in [0, 1].
        image_shape: (C, H, W); default: that of the data in train.py, else (1, 28, 28).
        latent_dim: latent dimension.
        learning_rate: Adam's.
        noise_range: (low, high) of each training image's own noise level; default: all have sigma.
        consistency_weight: of the consistency term, 0 for none: see :class:`NoisyModule`.
        consistency_distance: in which it compares outputs.
        channels: of the three convolutions of the encoder, and of the decoder that mirrors it.
    """

    def __init__(
        self,
        sigma: float,
        image_shape: Sequence[int] | None = None,
        latent_dim: int = 256,
        learning_rate: float = 1e-3,
        noise_range: Sequence[float] | None = None,
        consistency_weight: float = 0.0,
        consistency_distance: str = "tv",
        channels: Sequence[int] = (32, 64, 128),
    ) -> None:
        super().__init__(sigma, learning_rate, noise_range, consistency_weight, consistency_distance)
        sigma, learning_rate, noise_range = self.sigma, self.learning_rate, self.noise_range
        consistency_weight, consistency_distance = self.consistency_weight, self.consistency_distance
        image_shape, latent_dim, channels = plain_shape(image_shape), int(latent_dim), [int(c) for c in channels]
        self.save_hyperparameters()
        self.network = ConvolutionalAutoencoder(tuple(image_shape), latent_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct images: (N, C, H, W) -> (N, C, H, W) in [0, 1]."""
        return self.network(x)
