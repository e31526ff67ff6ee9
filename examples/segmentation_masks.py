"""Certified segmentation: masks of coins, from a small U-Net.

Smoothed is the mask that the network draws into a crop of 40x40 pixels in [0, 1] of a photo of coins. It learns the
crops of the photo's left part with masks from a watershed; the crops that are certified come from the right part. The
distance is that of Jaccard between sets of pixels, 1 - intersection over union, which is a metric (gamma = 1) with
values from 0 to 1. A certificate says: for one change of the crop by at most eps_in = h sigma (l2 norm over pixels),
fixed beforehand, the two smoothed masks overlap by at least 1 - eps_out. At eps_out >= 1 nothing is said. The smoothing
loss is the distance from the network's own mask.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes
from skimage import data, filters, segmentation, transform
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import CenterSmoother, Certificate, MaskJaccard
from center_smoothing.upper_median import upper_median
from command_line.errors import user_errors
from examples import common

SIGMA = 0.1  # of the noise, in units of pixels
SIDE = 40
SPLIT = 112  # columns left of it are for training


class UNet(nn.Module):
    """(N, 40, 40) -> (N, 40, 40): scores, above 0 where a pixel belongs to a coin."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(1, 8), _block(8, 16), _block(16, 32)])
        self.up = nn.ModuleList([_block(16 + 32, 16), _block(8 + 16, 8)])
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Go down to a quarter of the side, and up again with what was seen on the way."""
        z = x.unsqueeze(1)
        seen: list[Tensor] = []
        for block in self.down:
            z = block(functional.max_pool2d(z, 2) if seen else z)
            seen.append(z)
        for block, before in zip(self.up, (seen[1], seen[0]), strict=True):
            z = block(torch.cat([functional.interpolate(z, scale_factor=2.0), before], dim=1))
        return self.last(z)[:, 0]

    def masks(self, x: Tensor) -> Tensor:
        """Return masks (N, 40, 40) of ones and zeros."""
        return (self(x) > 0.0).to(x.dtype)


def _block(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())


def photo() -> tuple[Tensor, Tensor]:
    """Return grey values in [0, 1] and the mask of all coins, (151, 192) both, at half of the photo's resolution."""
    grey = data.coins()
    sure = np.where(grey < 30, 1, np.where(grey > 150, 2, 0))
    coins = binary_fill_holes(segmentation.watershed(filters.sobel(grey), sure) == 2)
    halved = transform.downscale_local_mean(grey[:302] / 255.0, (2, 2))  # of 2x2 pixels the mean
    return torch.from_numpy(halved).float(), torch.from_numpy(coins[:302:2, ::2]).float()


def crops(image: Tensor, stride: int) -> Tensor:
    """Cut all crops of an image (H, W) on a grid: (N, 40, 40)."""
    return image.unfold(0, SIDE, stride).unfold(1, SIDE, stride).reshape(-1, SIDE, SIDE)


def parts(image: Tensor) -> tuple[Tensor, Tensor]:
    """Cut crops for training from the left part of an image (H, W), and crops to certify from the right part."""
    return crops(image[:, :SPLIT], 6), crops(image[:, SPLIT:], 16)


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        image, coins = photo()
        (train, test), (masks, wanted) = parts(image), parts(coins)
        chosen = settings.chosen(len(test))

    network = common.fit(
        UNet,
        lambda scores, batch: functional.binary_cross_entropy_with_logits(scores, masks[batch]),
        train,
        noise=SIGMA,
        epochs=20,
        batch_size=16,
        learning_rate=1e-2,
    )
    distance = MaskJaccard()
    overlaps = 1.0 - distance(network.masks(test), wanted)
    quality = {"median overlap of test masks with the watershed's": upper_median(overlaps.tolist())}

    smoother = CenterSmoother(network.masks, distance, sigma=SIGMA, budget=settings.budget, seed=settings.seed)
    certificates = common.certify(smoother, test, chosen)
    summary = common.summarise(certificates, quality)
    if settings.out is not None:
        draw(test[chosen], wanted[chosen], network.masks(test[chosen]), certificates, settings.out)
    return summary


def draw(shown: Tensor, wanted: Tensor, own: Tensor, certificates: Sequence[Certificate], out: Path) -> None:
    """Crop, the watershed's mask, the network's own, and the smoothed one, of the first six."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    grid = figure.subplots(4, min(6, len(shown)), squeeze=False)
    for column, (axes, certificate) in enumerate(zip(grid.T, certificates[:6], strict=True)):
        smoothed = certificate.center
        for each, picture in zip(axes, (shown[column], wanted[column], own[column], smoothed), strict=True):
            each.imshow(picture, cmap="gray", vmin=0, vmax=1)
            each.set(xticks=[], yticks=[])
        overlap = max(0.0, 1.0 - certificate.eps_out(SIGMA))
        axes[-1].set_xlabel(f"overlap at least\n{overlap:.2f} for h = 1")
    for axes, title in zip(grid[:, 0], ("crop", "watershed", "network", "smoothed"), strict=True):
        axes.set_ylabel(title)
    common.save(figure, out)


if __name__ == "__main__":
    main()
