"""A denoiser in front of a network that was never trained with noise: an embedding of digits.

Smoothed is an encoder from 28x28 pixels in [0, 1] to 16 dimensions, trained on clean digits so that embeddings of one
digit point into one direction. It is certified as it is, and behind a small denoiser (`Denoised`), which was trained on
the same digits without the encoder. The distance is the angle in units of pi, a metric on directions (gamma = 1).

A certificate says how far anybody who changes the pixels by at most eps_in = h sigma (l2 norm over all of them) can
turn the smoothed embedding: by at most eps_out. Each row has both functions. The smoothing loss is the angle between
the smoothed embedding and the base function's own: with the denoiser that of the composition.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import Angular
from command_line.errors import user_errors
from examples import common
from examples.image_retrieval import Classifier

SIGMA = 0.25  # of the noise, in units of pixels


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train both networks, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        digits = common.digits()
        chosen = settings.chosen(len(digits.test))

    classifier = common.fit(
        Classifier,
        lambda scores, batch: functional.cross_entropy(scores, digits.train_labels[batch]),
        digits.train,
        noise=0.0,
        epochs=8,
    )
    denoiser = common.fit(
        common.Denoiser,
        lambda denoised, batch: functional.mse_loss(denoised, digits.train[batch]),
        digits.train,
        noise=2.0 * SIGMA,
        epochs=6,
    )
    noisy = digits.test + SIGMA * torch.randn(digits.test.shape, generator=torch.Generator().manual_seed(0))
    quality = {
        f"share of {name} digits that are recognised{how}": share(classifier(images), digits.test_labels)
        for name, images, how in (
            ("clean", digits.test, ""),
            ("noisy", noisy, ""),
            ("noisy", denoiser(noisy), " behind the denoiser"),
            ("clean", denoiser(digits.test), " behind the denoiser"),
        )
    }
    certificates, without = common.compare(
        classifier.encoder, denoiser, Angular(), sigma=SIGMA, settings=settings, points=digits.test
    )
    summary = common.summarise(certificates, {**without, **quality})
    if settings.out is not None:
        common.draw_denoised(digits.test[chosen], denoiser, sigma=SIGMA, out=settings.out)
    return summary


def share(scores: Tensor, labels: Tensor) -> float:
    """Return which share of scores (N, classes) is largest at the label."""
    return float((scores.argmax(dim=1) == labels).double().mean())


if __name__ == "__main__":
    main()
