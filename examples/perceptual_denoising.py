"""Certified denoising of pictures by a perceptual distance, whose triangle inequality is relaxed.

Smoothed is a small network that takes the noise out of grey crops of 32x32 pixels in [0, 1] of six pictures. The
distance compares what a second network sees in two pictures: it was trained to tell which picture a crop is from, and
its first two layers, channels normalised at each position, are compared by squared differences (`Perceptual`). A
square of a metric needs a relaxed inequality, d(a, c) <= 2 (d(a, b) + d(b, c)), gamma = 2; the certificate allows for
that. Each layer contributes at most 2, as directions of features that are not negative are at most at right angles,
so that no two pictures are further apart than 4.

A certificate says: for one change of the crop by at most eps_in = h sigma (l2 norm over pixels), fixed beforehand, the
smoothed denoised picture looks the same up to eps_out. Read it against the distances printed below the table. The
smoothing loss is the distance from what the network makes of the crop without noise. All crops that are certified are
of the right parts of the pictures, which neither network has seen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from skimage import data, transform
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import CenterSmoother, Certificate, Perceptual
from command_line.errors import user_errors
from examples import common

SIGMA = 0.1  # of the noise, in units of pixels
SIDE = 32
PICTURES = ("brick", "coins", "grass", "gravel", "page", "text")


def features() -> nn.Sequential:
    """Make a network (N, 1, 32, 32) -> (N, 8) that tells the picture of a crop; the distance takes layers 1 and 3."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, len(PICTURES)),
    )


def crops(*, right: bool) -> tuple[Tensor, Tensor]:
    """Cut crops (N, 1, 32, 32) of each picture's right third, or of the rest; return which picture each is from."""
    cut, labels = [], []
    for label, name in enumerate(PICTURES):
        halved = transform.downscale_local_mean(getattr(data, name)() / 255.0, (2, 2))  # of 2x2 pixels the mean
        left_columns = 2 * halved.shape[1] // 3
        part, stride = (halved[:, left_columns:], SIDE) if right else (halved[:, :left_columns], SIDE // 4)
        image = torch.from_numpy(part).float()
        found = image.unfold(0, SIDE, stride).unfold(1, SIDE, stride).reshape(-1, 1, SIDE, SIDE)
        cut.append(found)
        labels.append(torch.full((len(found),), label))
    return torch.cat(cut), torch.cat(labels)


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        (train, labels), (test, test_labels) = crops(right=False), crops(right=True)
        chosen = settings.chosen(len(test))

    fit = partial(common.fit, inputs=train, noise=1.5 * SIGMA)
    denoiser = fit(common.Denoiser, lambda clean, batch: functional.mse_loss(clean, train[batch]), epochs=8)
    backbone = fit(features, lambda scores, batch: functional.cross_entropy(scores, labels[batch]), epochs=12)
    distance = Perceptual(backbone, layers=["1", "3"])

    noisy = test + SIGMA * torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    cleaned, other = denoiser(noisy), test.roll(len(test) // 3, dims=0)
    recognised = backbone(test).argmax(dim=1) == test_labels
    quality = {
        "share of test crops whose picture the feature network knows": float(recognised.double().mean()),
        "PSNR of noisy test crops, dB": psnr(noisy, test),
        "PSNR of denoised test crops, dB": psnr(cleaned, test),
        "median distance from a noisy test crop to the clean one": float(distance(noisy, test).median()),
        "median distance from a denoised test crop to the clean one": float(distance(cleaned, test).median()),
        "median distance between two test crops": float(distance(test, other).median()),
    }

    smoother = CenterSmoother(denoiser, distance, sigma=SIGMA, budget=settings.budget, seed=settings.seed)
    certificates = common.certify(smoother, test, chosen)
    summary = common.summarise(certificates, quality)
    if settings.out is not None:
        draw(test[chosen], noisy[chosen], denoiser(test[chosen]), certificates, settings.out)
    return summary


def psnr(pictures: Tensor, clean: Tensor) -> float:
    """Return the peak signal to noise ratio of all pictures together, in dB."""
    return float(-10.0 * functional.mse_loss(pictures, clean).log10())


def draw(clean: Tensor, noisy: Tensor, denoised: Tensor, certificates: Sequence[Certificate], out: Path) -> None:
    """Draw the first six crops: clean, as one of the noisy copies, as the network sees the clean one, and smoothed."""
    from matplotlib.figure import Figure

    count = min(6, len(clean))
    figure = Figure(figsize=(1.5 * count, 6.4), layout="constrained")
    grid = figure.subplots(4, count, squeeze=False)
    for column, (axes, certificate) in enumerate(zip(grid.T, certificates, strict=False)):
        pictures = (clean[column], noisy[column], denoised[column], certificate.center)
        for each, picture in zip(axes, pictures, strict=True):
            each.imshow(picture[0], cmap="gray", vmin=0, vmax=1)
            each.set(xticks=[], yticks=[])
        axes[-1].set_xlabel(f"eps_out {certificate.eps_out(SIGMA):.3f}\nfor h = 1")
    for axes, title in zip(grid[:, 0], ("crop", "noisy", "network, no noise", "smoothed"), strict=True):
        axes.set_ylabel(title)
    common.save(figure, out)


if __name__ == "__main__":
    main()
