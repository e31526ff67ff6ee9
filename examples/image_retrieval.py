"""Certified retrieval: which digit is found by the angle between embeddings, where an attacker changes the query.

Smoothed is an encoder from 28x28 pixels in [0, 1] to 16 dimensions, trained so that embeddings of one digit point into
one direction. The distance is the angle in units of pi, from 0 to 1, where 1/2 is a right angle. On directions it is
the length of the shortest arc on the sphere, so that the triangle inequality holds as it is (gamma = 1). A query's
smoothed embedding z is looked up in a gallery: the encoder's embeddings of 200 training digits, which the attacker
cannot touch. Let a be the angle from z to the nearest item, of class c, and b the angle to the nearest item of any
other class. The smoothed embedding z' of one changed query, fixed beforehand, is at most eps_out from z with
probability at least .99, unless one of the two abstains. Then some item of class c is within a + eps_out of z', and no
item of another class is nearer than b - eps_out: if eps_out < (b - a) / 2, the nearest item of z' is of class c too. It
need not be the same item.

Each row says c, half of the gap b - a, and to which h it is larger than eps_out. The smoothing loss is the angle
between z and the encoder's own embedding.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import Angular, CenterSmoother, Certificate
from command_line.errors import user_errors
from examples import common

SIGMA = 0.1  # of the noise, in units of pixels
DIMENSIONS = 16
GALLERY = 200  # training digits that queries are looked up among


class Classifier(nn.Module):
    """(N, 1, 28, 28) -> (N, 10): cosines between embeddings (N, 16) and a direction for each class, times 4."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = common.convolutions(DIMENSIONS)
        self.directions = nn.Parameter(torch.randn(10, DIMENSIONS))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of the classes."""
        return 4.0 * functional.normalize(self.encoder(x)) @ functional.normalize(self.directions).T


@dataclass(frozen=True)
class Gallery:
    """What queries are looked up in.

    Attributes:
        embeddings: (G, 16).
        labels: (G,).
    """

    embeddings: Tensor
    labels: Tensor

    def find(self, query: Tensor) -> tuple[int, int, float]:
        """Find the nearest item's place, its class, and half of the gap to the nearest item of another class."""
        angles = Angular().pairwise(query[None], self.embeddings)[0]
        nearest = int(angles.argmin())
        label = int(self.labels[nearest])
        return nearest, label, float(angles[self.labels != label].min() - angles[nearest]) / 2.0

    def keeps(self, certificate: Certificate, h: float) -> bool:
        """Return whether a query within h sigma cannot find another class than the smoothed query does."""
        # an abstention has eps_out = inf
        return certificate.eps_out(h * SIGMA) < self.find(certificate.center)[2]


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        digits = common.digits()
        chosen = settings.chosen(len(digits.test))

    encoder = common.fit(
        Classifier,
        lambda scores, batch: functional.cross_entropy(scores, digits.train_labels[batch]),
        digits.train,
        noise=4.0 * SIGMA,
        epochs=8,
    ).encoder
    gallery = Gallery(encoder(digits.train[:GALLERY]), digits.train_labels[:GALLERY])
    found = [gallery.find(embedding)[1] for embedding in encoder(digits.test)]
    quality = {"share of test queries that find their digit": _share(torch.tensor(found) == digits.test_labels)}

    def remark(certificate: Certificate, example: int) -> str:
        _, label, half_gap = gallery.find(certificate.center)
        held = [h for h in common.H if gallery.keeps(certificate, h)]
        return f"{label}, half gap {half_gap:.4f}" + (f": certain to h={max(held):g}" if held else "")

    smoother = CenterSmoother(encoder, Angular(), sigma=SIGMA, budget=settings.budget, seed=settings.seed)
    certificates = common.certify(smoother, digits.test, chosen, remark=remark, heading="digit found")
    for h in common.H:
        kept = torch.tensor([gallery.keeps(certificate, h) for certificate in certificates])
        quality[f"share of queries that cannot find another digit, h={h:g}"] = _share(kept)
    summary = common.summarise(certificates, quality)
    if settings.out is not None:
        draw(digits, gallery, certificates, chosen, settings.out)
    return summary


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def draw(
    digits: common.Digits,
    gallery: Gallery,
    certificates: Sequence[Certificate],
    chosen: Sequence[int],
    out: Path,
) -> None:
    """Draw each query, and below it the item that its smoothed embedding finds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 * len(chosen) + 0.2, 3.2), layout="constrained")
    for column, example, certificate in zip(
        figure.subplots(2, len(chosen), squeeze=False).T, chosen, certificates, strict=True
    ):
        held = [h for h in common.H if gallery.keeps(certificate, h)]
        column[0].imshow(digits.test[example, 0], cmap="gray")
        column[0].set_title(f"query {example}", fontsize="small")
        column[1].imshow(digits.train[gallery.find(certificate.center)[0], 0], cmap="gray")
        column[1].set_title(f"class certain\nto h = {max(held):g}" if held else "class not\ncertain", fontsize="small")
        for axes in column:
            axes.axis("off")
    common.save(figure, out)


if __name__ == "__main__":
    main()
