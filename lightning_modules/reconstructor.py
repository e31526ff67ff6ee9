"""Image reconstruction from compressed measurements: the paper's section 5.2."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.base import NoisyModule
from lightning_modules.networks import ConvolutionalAutoencoder, check_images, plain_shape

# The pseudo-inverse is kept and applied in float32, whose rounding errors of 2^-24 come out multiplied by the condition
# number: 10^4 makes them 0.0006 of an image, still below the half step, 0.002, of 8-bit pixels.
MAX_CONDITION_NUMBER = 1e4
# Relative; far above what float32 and bfloat16 round off, far below the distance to another matrix's pseudo-inverse.
_PSEUDO_INVERSE_TOLERANCE = 0.01


class NoisyReconstructor(NoisyModule):
    """Recovers images from Gaussian measurements; the attacker perturbs the measurements.

    The point is A image, where A has ``num_measurements`` rows and entries N(0, 1 / num_measurements), which keeps
    the expected norm of the image. ``forward`` reverts measurements with the pseudo-inverse of A and passes the result
    through a convolutional autoencoder. A and its pseudo-inverse are buffers: those of a checkpoint are used as they
    are, whatever the seed would give today.

    Args:
        sigma: noise level, in units of the measurements.
        image_shape: (C, H, W); default: that of the data in train.py, else (1, 28, 28).
        num_measurements: rows of A, at most C * H * W.
        measurement_seed: of A, 0..2^32 - 1.
        latent_dim: latent dimension of the autoencoder.
        learning_rate: Adam's.
        noise_range: (low, high) of each training image's own noise level; default: all have sigma.
        consistency_weight: of the consistency term, 0 for none: see :class:`NoisyModule`.
        consistency_distance: in which it compares outputs.
        channels: of the three convolutions of the encoder, and of the decoder that mirrors it.

    Raises:
        ValueError: for arguments out of range, and for an A that cannot be reverted in float32.
    """

    def __init__(
        self,
        sigma: float,
        image_shape: Sequence[int] | None = None,
        num_measurements: int = 256,
        measurement_seed: int = 0,
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
        num_measurements, measurement_seed = int(num_measurements), int(measurement_seed)
        self.save_hyperparameters()
        self.network = ConvolutionalAutoencoder(tuple(image_shape), latent_dim, channels)
        self.measurement = GaussianMeasurement(tuple(image_shape), num_measurements, seed=measurement_seed)

    def point(self, image: Tensor) -> Tensor:
        """Measure images: (N, C, H, W) -> (N, num_measurements)."""
        return self.measurement(image)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct images from measurements: (N, num_measurements) -> (N, C, H, W) in [0, 1]."""
        return self.network(self.measurement.pseudo_invert(x))


class GaussianMeasurement(nn.Module):
    """Multiplies flat images by a Gaussian matrix, and reverts that with the matrix's pseudo-inverse.

    Args:
        image_shape: (C, H, W).
        num_measurements: rows M of the matrix, at most C * H * W.
        seed: of the matrix, 0..2^32 - 1.

    Attributes:
        matrix: (M, C * H * W), a buffer.
        pseudo_inverse: (C * H * W, M), a buffer. Loading a pair that does not belong together is refused.
    """

    matrix: Tensor
    pseudo_inverse: Tensor

    def __init__(self, image_shape: Sequence[int], num_measurements: int, *, seed: int) -> None:
        super().__init__()
        num_pixels = math.prod(image_shape)
        if not 1 <= num_measurements <= num_pixels:
            raise ValueError(
                f"num_measurements must lie in 1..{num_pixels}, the pixels of images {tuple(image_shape)}, "
                f"got {num_measurements!r}"
            )
        self.image_shape = torch.Size(image_shape)
        if torch.get_default_device().type == "meta":  # asked for shapes alone
            self.register_buffer("matrix", torch.empty(num_measurements, num_pixels))
            self.register_buffer("pseudo_inverse", torch.empty(num_pixels, num_measurements))
            return
        matrix = gaussian_matrix(num_measurements, num_pixels, seed=seed)
        self.register_buffer("matrix", matrix)
        self.register_buffer("pseudo_inverse", pseudo_inverse(matrix).to(matrix.dtype))
        self.register_load_state_dict_post_hook(_check_loaded)

    def forward(self, images: Tensor) -> Tensor:
        """Measure: (N, C, H, W) -> (N, M)."""
        check_images(images, self.image_shape)
        # without autocast: the noise is added in the precision of the point, which mixed precision would make coarse
        with torch.autocast(images.device.type, enabled=False):
            return functional.linear(images.flatten(1), self.matrix)

    def pseudo_invert(self, measurements: Tensor) -> Tensor:
        """Return the least-squares images of least norm: (N, M) -> (N, C, H, W), not confined to [0, 1]."""
        return functional.linear(measurements, self.pseudo_inverse).unflatten(1, self.image_shape)


def gaussian_matrix(num_rows: int, num_columns: int, *, seed: int) -> Tensor:
    """Draw independent entries N(0, 1 / num_rows), float32 (num_rows, num_columns), from a generator of their own.

    Raises:
        ValueError: for a seed outside 0..2^32 - 1, which is all that PyTorch's CPU generator tells apart.
    """
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"measurement_seed must lie in 0..{(1 << 32) - 1}, got {seed!r}")
    generator = torch.Generator().manual_seed(seed)
    entries = torch.randn(num_rows, num_columns, generator=generator, dtype=torch.float32, device=generator.device)
    return entries / math.sqrt(num_rows)


def pseudo_inverse(matrix: Tensor) -> Tensor:
    """Return the Moore-Penrose pseudo-inverse of a matrix (M, P) of full rank: float64 (P, M), computed on the CPU.

    Raises:
        ValueError: if the condition number is above ``MAX_CONDITION_NUMBER``, as it is where the matrix lacks
            rank or holds NaN or inf.
    """
    condition = math.nan
    if bool(torch.isfinite(matrix).all()):
        left, singular, right = torch.linalg.svd(matrix.detach().cpu().double(), full_matrices=False)
        condition = float(singular[0] / singular[-1])
    if not condition <= MAX_CONDITION_NUMBER:
        raise ValueError(
            f"the measurement matrix must have a condition number of at most {MAX_CONDITION_NUMBER:g}, so that float32 "
            f"reverts it, got {condition:.3g}; use another measurement_seed or fewer measurements"
        )
    return right.mH @ (left / singular).mH


def _check_loaded(measurement: nn.Module, _: object) -> None:
    """Refuse a checkpoint whose matrix cannot be reverted, or whose pseudo-inverse is not that of its matrix."""
    assert isinstance(measurement, GaussianMeasurement)  # whose hook this is
    expected, found = pseudo_inverse(measurement.matrix), measurement.pseudo_inverse.cpu().double()
    error = float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))
    if not error <= _PSEUDO_INVERSE_TOLERANCE:
        raise ValueError(
            "the stored pseudo-inverse must be that of the stored measurement matrix, "
            f"got one {error:.2g} away from it, relative to its norm"
        )
