"""The networks that the modules train, built from plain values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvolutionalAutoencoder(nn.Module):
    """Convolutional encoder to a latent vector, deconvolutional decoder with sigmoid output (the paper's section 5.2).

    Three convolutions, the last two with stride 2; the decoder mirrors them; batch norm between all of them.

    Args:
        image_shape: (C, H, W), H and W divisible by 4.
        latent_dim: length of the latent vector.
        channels: of the three convolutions.

    Shapes: images (N, C, H, W) in [0, 1] -> (N, C, H, W) in [0, 1].
    """

    def __init__(self, image_shape: Sequence[int], latent_dim: int, channels: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        if len(image_shape) != 3 or min(image_shape) < 1 or image_shape[1] % 4 or image_shape[2] % 4:
            raise ValueError(f"image_shape must be (C, H, W) with H and W divisible by 4, got {tuple(image_shape)}")
        colours, height, width = self.image_shape = torch.Size(image_shape)
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim!r}")
        if len(channels) != 3 or min(channels) < 1:
            raise ValueError(f"channels must be three positive numbers, got {list(channels)}")
        first, second, third = channels
        coarse = (third, height // 4, width // 4)
        features = third * (height // 4) * (width // 4)
        self.encoder = nn.Sequential(
            *_normed(nn.Conv2d(colours, first, 3, padding=1)),
            *_normed(nn.Conv2d(first, second, 4, stride=2, padding=1)),
            *_normed(nn.Conv2d(second, third, 4, stride=2, padding=1)),
            nn.Flatten(),
            nn.Linear(features, latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.BatchNorm1d(latent_dim),
            nn.Linear(latent_dim, features),
            nn.Unflatten(1, coarse),
            nn.BatchNorm2d(third),
            nn.ReLU(inplace=True),
            *_normed(nn.ConvTranspose2d(third, second, 4, stride=2, padding=1)),
            *_normed(nn.ConvTranspose2d(second, first, 4, stride=2, padding=1)),
            nn.Conv2d(first, colours, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct (N, C, H, W) images."""
        check_images(images, self.image_shape)
        return self.decoder(self.encoder(images))


class ResidualDenoiser(nn.Module):
    """Estimates the noise in images by dilated convolutions at full size, and subtracts it; no bottleneck.

    Batch norm and ReLU stand between the convolutions. Outputs are not confined to [0, 1]: clipping would hide
    gradients from an attack.

    Args:
        colours: channels C of the images.
        channels: of each inner layer.
        dilations: of each 3x3 convolution, at least two.

    Shapes: images (N, C, H, W) -> (N, C, H, W), for any H and W.
    """

    def __init__(self, colours: int, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        if min(colours, channels) < 1:
            raise ValueError(f"channels must be at least 1, got {colours} of images and {channels} inside")
        if len(dilations) < 2 or min(dilations) < 1:
            raise ValueError(f"dilations must be at least two positive numbers, got {list(dilations)}")
        self.colours = colours
        first, *inner, last = dilations
        layers: list[nn.Module] = [_dilated(colours, channels, first), nn.ReLU(inplace=True)]
        for dilation in inner:
            layers += _normed(_dilated(channels, channels, dilation, bias=False))  # batch norm has one
        self.noise = nn.Sequential(*layers, _dilated(channels, colours, last))

    def forward(self, images: Tensor) -> Tensor:
        """Denoise (N, C, H, W) images."""
        if images.ndim != 4 or images.shape[1] != self.colours:
            raise ValueError(f"images must be (N, {self.colours}, H, W), got {tuple(images.shape)}")
        return images - self.noise(images)


def _normed(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Put batch norm and ReLU after a layer."""
    return layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)


def _dilated(inputs: int, outputs: int, dilation: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)


def plain_shape(image_shape: Sequence[int] | None) -> list[int]:
    """Return a shape as plain numbers; that of a digit for None."""
    return [int(size) for size in ((1, 28, 28) if image_shape is None else image_shape)]


def check_images(images: Tensor, image_shape: torch.Size) -> None:
    """Raise ValueError for images of another shape, even of one with as many pixels."""
    if images.shape[1:] != image_shape:
        raise ValueError(f"images must be (N, {', '.join(map(str, image_shape))}), got {tuple(images.shape)}")
