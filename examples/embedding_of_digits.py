"""Certified dimensionality reduction: the embedding of digits in eight dimensions.

Smoothed is the encoder of an autoencoder, from 28x28 pixels in [0, 1] to R^8. The distance is l2 in the embedding, a
norm of a difference and hence a metric (gamma = 1). A certificate says how far anybody who changes the pixels by at
most eps_in = h sigma (l2 norm over all of them) can move the smoothed embedding: at most eps_out. Read it against
how far apart the embeddings of different digits lie, which is printed below the table: where eps_out is smaller than
that, neighbourhoods survive. The smoothing loss is the distance from the encoder's own embedding, without any attack.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import CenterSmoother, Certificate, Lp
from command_line.errors import user_errors
from examples import common

SIGMA = 0.2  # of the noise, in units of pixels
DIMENSIONS = 8


class Autoencoder(nn.Module):
    """(N, 1, 28, 28) -> (N, 784), through (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = common.convolutions(DIMENSIONS)
        self.decoder = nn.Sequential(
            nn.Linear(DIMENSIONS, 64), nn.ReLU(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction."""
        return self.decoder(self.encoder(x))


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        digits = common.digits()
        chosen = settings.chosen(len(digits.test))

    clean = digits.train.flatten(1)
    autoencoder = common.fit(
        Autoencoder,
        lambda reconstructed, batch: functional.mse_loss(reconstructed, clean[batch]),
        digits.train,
        noise=2.0 * SIGMA,
        epochs=12,
    )
    encoder = autoencoder.encoder
    embedded, known = encoder(digits.test), encoder(digits.train)
    nearest = digits.train_labels[torch.cdist(embedded, known).argmin(dim=1)]
    error = functional.mse_loss(autoencoder(digits.test), digits.test.flatten(1))
    quality = {
        "share of the pixels' variance that the embedding keeps": 1.0 - float(error / digits.test.var(dim=0).mean()),
        "share of test digits whose nearest neighbour is the same digit": float(
            (nearest == digits.test_labels).double().mean()
        ),
        "median distance between the embeddings of two test digits": float(torch.pdist(embedded).median()),
    }

    smoother = CenterSmoother(encoder, Lp(2), sigma=SIGMA, budget=settings.budget, seed=settings.seed)
    certificates = common.certify(smoother, digits.test, chosen)
    summary = common.summarise(certificates, quality)
    if settings.out is not None:
        draw(embedded, digits.test_labels, certificates, settings.out)
    return summary


def draw(embedded: Tensor, labels: Tensor, certificates: Sequence[Certificate], out: Path) -> None:
    """Draw all test digits in the plane of most variance, where a certified ball is a disc of the same radius."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    middle = embedded.mean(dim=0)
    plane = torch.linalg.svd(embedded - middle, full_matrices=False).Vh[:2].T
    points = (embedded - middle) @ plane
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    dots = axes.scatter(*points.T.numpy(), c=labels.numpy(), cmap="tab10", s=12, vmin=-0.5, vmax=9.5)
    for certificate in certificates:
        if not certificate.abstained:
            center_x, center_y = ((certificate.center - middle) @ plane).tolist()
            axes.add_patch(Circle((center_x, center_y), certificate.eps_out(SIGMA), fill=False))
    axes.set_aspect("equal")
    axes.set_title(f"Where smoothed embeddings stay for pixels changed by at most {SIGMA:g} (h = 1)")
    figure.colorbar(dots, ticks=range(10), label="digit")
    common.save(figure, out)


if __name__ == "__main__":
    main()
