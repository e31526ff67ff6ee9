"""Certified class probabilities: how far an attacker can move what a classifier of digits believes.

Smoothed are the ten probabilities of a small network on 8x8 digits in [0, 1]. The distance is the total variation of
probability vectors, half of the l1 norm of their difference, hence a metric (gamma = 1), between 0 and 1: no event's
probability, such as "the digit is even", differs by more. A certificate says: for one change of the digit by at most
eps_in = h sigma (l2 norm over pixels), fixed beforehand, the smoothed probability of each set of classes moves by at
most eps_out.

A consequence that the rows mention: moving eps_out from one class to another closes a gap of 2 eps_out. So where the
most probable class leads the second by more than 2 eps_out, it stays the most probable one. The smoothing loss is the
distance from the network's own probabilities. An eps_out of 1 or more says nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import CenterSmoother, Certificate, ProbabilityTV
from command_line.errors import user_errors
from examples import common

SIGMA = 0.15  # of the noise, in units of pixels
NUM_TEST = 400


def network() -> nn.Sequential:
    """Return logits: (N, 8, 8) -> (N, 10)."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def lead(certificate: Certificate) -> float:
    """Return by how much the most probable class of the smoothed output is ahead of the second."""
    first, second = certificate.center.topk(2).values.tolist()
    return first - second


def keeps(certificate: Certificate, h: float) -> bool:
    """Return whether a digit within h sigma cannot have another most probable class."""
    # an abstention has eps_out = inf
    return lead(certificate) > 2.0 * certificate.eps_out(h * SIGMA)


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        chosen = settings.chosen(NUM_TEST)
        table = load_digits()
        order = torch.randperm(len(table.target), generator=torch.Generator().manual_seed(0))
        images, labels = torch.from_numpy(table.images / 16.0).float()[order], torch.from_numpy(table.target)[order]

    test, test_labels, train, train_labels = images[:NUM_TEST], labels[:NUM_TEST], images[NUM_TEST:], labels[NUM_TEST:]
    classifier = common.fit(
        network,
        lambda scores, batch: functional.cross_entropy(scores, train_labels[batch], label_smoothing=0.1),
        train,
        noise=2.0 * SIGMA,
        epochs=40,
    )
    right = classifier(test).argmax(dim=1) == test_labels
    quality = {"accuracy on test digits": float(right.double().mean())}

    def remark(certificate: Certificate, example: int) -> str:
        held = [h for h in common.H if keeps(certificate, h)]
        digit = int(certificate.center.argmax())
        return f"{digit}, ahead by {lead(certificate):.2f}" + (f": keeps its place to h={max(held):g}" if held else "")

    probabilities = nn.Sequential(classifier, nn.Softmax(dim=1))
    smoother = CenterSmoother(probabilities, ProbabilityTV(), sigma=SIGMA, budget=settings.budget, seed=settings.seed)
    certificates = common.certify(smoother, test, chosen, remark=remark, heading="most probable digit")
    for h in common.H:
        kept = [keeps(each, h) for each in certificates]
        quality[f"share whose most probable digit cannot change, h={h:g}"] = sum(kept) / len(kept)
    summary = common.summarise(certificates, quality)
    if settings.out is not None:
        draw(certificates, chosen, settings.out)
    return summary


def draw(certificates: Sequence[Certificate], chosen: Sequence[int], out: Path) -> None:
    """Draw smoothed probabilities of the first five examples, with what h = 1 leaves of them at least and at most."""
    from matplotlib.figure import Figure

    shown = list(zip(chosen, certificates, strict=True))[:5]
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    for axes, (example, certificate) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        center, radius = certificate.center.double(), certificate.eps_out(SIGMA)
        margins = torch.stack([center - (center - radius).clamp_min(0.0), (center + radius).clamp_max(1.0) - center])
        axes.bar(range(10), center.numpy(), yerr=margins.numpy(), capsize=2, color="C0", ecolor="C1")
        axes.set(title=f"example {example}", xticks=range(10), ylim=(0, 1.02))
    common.save(figure, out)


if __name__ == "__main__":
    main()
