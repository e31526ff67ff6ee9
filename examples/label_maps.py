"""Certified maps of labels: photos segmented by colour.

Smoothed is the map of labels that a segmentation gives a crop of 48x48 pixels in [0, 1] of a photo: at each pixel the
nearest of six colours to the mean of its 7x7 neighbourhood. The colours are the k-means of the left halves of six
photos of scikit-image and scikit-learn; the crops that are certified come from the right halves. The distance is the
disagreement, the share of pixels with another label, a metric (gamma = 1). A certificate says: for one change of the
crop by at most eps_in = h sigma (l2 norm over pixels), fixed beforehand, the smoothed label changes at a share of at
most eps_out of the pixels. The smoothing loss is the disagreement with the segmentation of the clean crop.

``ColourSegmentation`` is also a model for certify.py, for photos of your own:
    python certify.py --model examples.label_maps.ColourSegmentation --data PhotoFolder --data.root PHOTOS \
        --data.max_side 128 --distance disagreement --sigma 0.25 --h 0.5 1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from skimage import data, transform
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import CenterSmoother, Certificate, Disagreement
from center_smoothing.upper_median import upper_median
from command_line.errors import user_errors
from examples import common

SIGMA = 0.25  # of the noise, in units of pixels
SIDE, HEIGHT = 48, 96  # of crops and of photos


class ColourSegmentation(nn.Module):
    """Labels by colour: float (N, 3, H, W) in [0, 1], plus noise -> int64 (N, H, W) from 0 on.

    Args:
        labels: how many colours there are.
        window: side of the neighbourhood whose mean colour counts, an odd number of pixels.
    """

    palette: Tensor

    def __init__(self, labels: int = 6, window: int = 7) -> None:
        super().__init__()
        self.window = window
        left = [self._means(photo[None, :, :, : photo.shape[2] // 2]) for photo in photos()]
        pixels = torch.cat([means.flatten(2)[0].T for means in left]).double().numpy()
        colours, _ = kmeans2(pixels, labels, minit="++", seed=0)
        order = np.argsort(colours.sum(axis=1))  # from dark to bright
        self.register_buffer("palette", torch.from_numpy(colours[order]).float())

    def forward(self, x: Tensor) -> Tensor:
        """Label each pixel with the nearest colour to its neighbourhood's mean."""
        means = self._means(x).permute(0, 2, 3, 1)
        return (means[..., None, :] - self.palette).square().sum(dim=-1).argmin(dim=-1)

    def _means(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.window, stride=1, padding=self.window // 2, count_include_pad=False)


@lru_cache(maxsize=1)
def photos() -> list[Tensor]:
    """Return six photos (3, 96, W) in [0, 1]."""
    images = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    images += [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    small = [transform.resize(image, (HEIGHT, HEIGHT * image.shape[1] // image.shape[0])) for image in images]
    return [torch.from_numpy(image).float().permute(2, 0, 1) for image in small]


def crops() -> Tensor:
    """Cut two crops, one below the other, from the middle of each photo's right half: (12, 3, 48, 48)."""
    right = [photo[:, :, photo.shape[2] // 2 :] for photo in photos()]
    middle = [half[:, :, (half.shape[2] - SIDE) // 2 :][:, :, :SIDE] for half in right]
    return torch.cat([torch.stack(part.split(SIDE, dim=1)) for part in middle])


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Segment, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        test = crops()
        chosen = settings.chosen(len(test))

    network = ColourSegmentation()
    own = network(test)
    left_over = (test - network.palette[own].permute(0, 3, 1, 2)).square().mean()
    explained = 1.0 - float(left_over / test.var(dim=(0, 2, 3)).mean())

    smoother = CenterSmoother(network, Disagreement(), sigma=SIGMA, budget=settings.budget, seed=settings.seed)
    certificates = common.certify(smoother, test, chosen)
    kept = upper_median([1.0 - certificate.smoothing_loss for certificate in certificates])
    quality = {
        "variance of the test pixels that their labels explain": explained,
        "median share of pixels that keep their label when smoothed": kept,
    }
    summary = common.summarise(certificates, quality)
    if settings.out is not None:
        draw(test[chosen], own[chosen], certificates, network.palette, settings.out)
    return summary


def draw(shown: Tensor, own: Tensor, certificates: Sequence[Certificate], palette: Tensor, out: Path) -> None:
    """Crop, the segmentation's own map, and the smoothed one, in the colours of the labels, of the first six."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    grid = figure.subplots(3, min(6, len(shown)), squeeze=False)
    for column, (axes, certificate) in enumerate(zip(grid.T, certificates[:6], strict=True)):
        pictures = shown[column].permute(1, 2, 0), palette[own[column]], palette[certificate.center]
        for each, picture in zip(axes, pictures, strict=True):
            each.imshow(picture.clamp(0, 1).numpy())
            each.set(xticks=[], yticks=[])
        changed = min(1.0, certificate.eps_out(SIGMA))
        axes[-1].set_xlabel(f"at most {changed:.0%} of the\nlabels change for h = 1", fontsize=8)
    for axes, title in zip(grid[:, 0], ("crop", "segmentation", "smoothed"), strict=True):
        axes.set_ylabel(title)
    common.save(figure, out)


if __name__ == "__main__":
    main()
