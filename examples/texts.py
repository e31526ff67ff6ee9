"""Certified texts: outputs that are no tensors, compared by edit distance.

Smoothed is the text that a reader sees in a strip of 28x112 pixels in [0, 1], in which two to four handwritten digits
stand in four places: a small network names the digit in each place or says that there is none. The distance is the
least number of characters to insert, delete or replace that turns one text into the other (Levenshtein's), a metric
(gamma = 1): to turn a into c one may turn a into b and then b into c. Two methods make it known to center smoothing:
the reader returns a list of texts, and ``EditDistance.between`` says how far two are apart.

A certificate says: for one change of the strip by at most eps_in = h sigma (l2 norm over pixels), fixed beforehand, the
smoothed text moves by at most eps_out edits. Edits are whole numbers: below 1 the text cannot change at all. The
smoothing loss counts the edits from what the reader says without noise.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import CenterSmoother, Certificate, ObjectDistance
from command_line.errors import user_errors
from examples import common

SIGMA = 0.3  # of the noise, in units of pixels
PLACES = 4
NOTHING = 10  # the class of an empty place
NUM_STRIPS = 100


class EditDistance(ObjectDistance):
    """Levenshtein's distance of texts."""

    def between(self, a: str, b: str) -> float:
        """Count the insertions, deletions and replacements of a character that turn one into the other."""
        row = list(range(len(b) + 1))  # from the first i characters of a to the first j of b
        for i, letter in enumerate(a, start=1):
            before, row[0] = row[0], i
            for j, other in enumerate(b, start=1):
                before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
        return float(row[-1])


class Reader:
    """Strips (N, 1, 28, 112) -> N texts."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        self.classifier = classifier

    def __call__(self, strips: Tensor) -> list[str]:
        """Read each place by itself."""
        places = torch.cat(strips.chunk(PLACES, dim=3))  # all first places, then all second ones
        classes = self.classifier(places).argmax(dim=1).reshape(PLACES, -1).T.tolist()
        return ["".join(str(each) for each in row if each != NOTHING) for row in classes]


def strips(images: Tensor, labels: Tensor) -> tuple[Tensor, list[str]]:
    """Make strips of digits in random places, the same in each run, and their texts."""
    generator = torch.Generator().manual_seed(0)
    rows, texts = [], []
    for _ in range(NUM_STRIPS):
        which = torch.randint(len(images), (PLACES,), generator=generator)
        empty = torch.randperm(PLACES, generator=generator)[: int(torch.randint(3, (), generator=generator))]
        row, text = images[which].clone(), [str(int(label)) for label in labels[which]]
        row[empty] = 0.0
        rows.append(torch.cat(list(row), dim=2))
        texts.append("".join(letter for place, letter in enumerate(text) if place not in empty.tolist()))
    return torch.stack(rows), texts


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        digits = common.digits()
        test, wanted = strips(digits.test, digits.test_labels)
        chosen = settings.chosen(len(test))

    images = torch.cat([digits.train, torch.zeros(450, 1, 28, 28)])
    labels = functional.pad(digits.train_labels, (0, 450), value=NOTHING)
    classifier = common.fit(
        partial(common.convolutions, NOTHING + 1),
        lambda scores, batch: functional.cross_entropy(scores, labels[batch]),
        images,
        noise=1.5 * SIGMA,
        epochs=8,
    )
    reader, distance = Reader(classifier), EditDistance()
    right = [text == read for text, read in zip(wanted, reader(test), strict=True)]
    quality = {"share of test strips that are read without a mistake": sum(right) / len(right)}

    smoother = CenterSmoother(reader, distance, sigma=SIGMA, budget=settings.budget, seed=settings.seed)

    def remark(certificate: Certificate, example: int) -> str:
        return f"{distance.decode(certificate.center)!r} of {wanted[example]!r}"

    certificates = common.certify(smoother, test, chosen, remark=remark, heading="smoothed text, and what was written")
    for h in common.H:
        kept = [certificate.eps_out(h * SIGMA) < 1.0 for certificate in certificates]
        quality[f"share of strips whose smoothed text cannot change, h={h:g}"] = sum(kept) / len(kept)
    summary = common.summarise(certificates, quality)
    if settings.out is not None:
        texts = [distance.decode(certificate.center) for certificate in certificates]
        draw(test[chosen], texts, certificates, settings.out)
    return summary


def draw(shown: Tensor, texts: list[str], certificates: Sequence[Certificate], out: Path) -> None:
    """Draw the first six strips, with one noisy copy of each and its smoothed text."""
    from matplotlib.figure import Figure

    count = min(6, len(shown))
    noise = SIGMA * torch.randn(shown.shape, generator=torch.Generator().manual_seed(0))
    figure = Figure(figsize=(8, 1.1 * count + 0.2), layout="constrained")
    for row, strip, noisy, text, certificate in zip(
        figure.subplots(count, 2, squeeze=False), shown, shown + noise, texts, certificates, strict=False
    ):
        edits = [certificate.eps_out(h * SIGMA) for h in common.H]
        promised = [
            f"at most {math.floor(edit)} edits to h = {h:g}"
            for h, edit in zip(common.H, edits, strict=True)
            if edit < math.inf
        ]
        for axes, picture in zip(row, (strip, noisy), strict=True):
            axes.imshow(picture[0], cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        row[0].set_title(f"smoothed: {text}", fontsize="small")
        row[1].set_title(", ".join(promised) or "nothing certified", fontsize="small")
    common.save(figure, out)


if __name__ == "__main__":
    main()
