"""A denoiser in front of a pretrained network: text detection, from a pip package as it is.

Smoothed is the mask of text in a crop of 64x64 pixels in [0, 1] of a scanned page: where the detector of PaddleOCR,
which the package rapidocr-onnxruntime carries as an ONNX file, gives a probability above 0.3. It was never trained with
this noise. It is certified as it is, and behind a small denoiser (`Denoised`), which learns from the left half of the
page; the crops that are certified are of the right half. Nothing of the detector is trained.

The distance is that of Jaccard between sets of pixels, 1 - intersection over union, a metric (gamma = 1) with values
from 0 to 1. A certificate says: for one change of the crop by at most eps_in = h sigma (l2 norm over pixels), fixed
beforehand, the two smoothed masks overlap by at least 1 - eps_out. The smoothing loss is the distance from the base
function's own mask, with the denoiser that of the composition. Where a smoothed mask is empty a small radius says
nothing: the share of text that it finds is printed below the table.

It needs `pip install rapidocr-onnxruntime`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from skimage import data
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import Denoised, MaskJaccard, OnnxModel
from command_line.errors import user_errors
from examples import common

SIGMA = 0.15  # of the noise, in units of pixels
SIDE = 64
PACKAGE = "rapidocr_onnxruntime"


def detector() -> OnnxModel:
    """Load the text detector: (N, 3, H, W) in [-1, 1] -> probabilities of text (N, 1, H, W).

    Raises:
        ValueError: if its package is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ValueError("rapidocr-onnxruntime must be installed for this example: pip install rapidocr-onnxruntime")
    models = sorted(Path(found.submodule_search_locations[0], "models").glob("*_det_infer.onnx"))
    if not models:
        raise ValueError("rapidocr-onnxruntime must carry a text detector, models/*_det_infer.onnx: try version 1.4.4")
    return OnnxModel(models[0], providers=["CPUExecutionProvider"])


def crops(picture: Tensor, side: int, stride: int) -> Tensor:
    """Return all crops of a picture (H, W) at multiples of a stride: (N, 1, side, side)."""
    return picture.unfold(0, side, stride).unfold(1, side, stride).reshape(-1, 1, side, side).clone()


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train the denoiser, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        network = detector()
        page = torch.from_numpy(data.page()).float() / 255.0
        middle = page.shape[1] // 2
        train, test = crops(page[:, :middle], 32, 4), crops(page[:, middle:], SIDE, 16)
        chosen = settings.chosen(len(test))

    denoiser = common.fit(
        common.Denoiser,
        lambda denoised, batch: functional.mse_loss(denoised, train[batch]),
        train,
        noise=2.0 * SIGMA,
        epochs=10,
    )

    def text(x: Tensor) -> Tensor:
        return network(2.0 * x.expand(-1, 3, -1, -1) - 1.0)[:, 0] > 0.3

    clean = text(test[chosen])
    noisy = test[chosen] + SIGMA * torch.randn(len(chosen), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    certificates, without = common.compare(text, denoiser, MaskJaccard(), sigma=SIGMA, settings=settings, points=test)
    found = {
        "in noisy crops": text(noisy),
        "in noisy crops behind the denoiser": Denoised(text, denoiser)(noisy),
        "by the smoothed function behind the denoiser": torch.stack([each.center for each in certificates]).bool(),
    }
    quality = {
        f"share of the detector's text that is found {where}": float((mask & clean).sum() / clean.sum())
        for where, mask in found.items()
    }
    summary = common.summarise(certificates, {**without, **quality})
    if settings.out is not None:
        common.draw_denoised(test[chosen], denoiser, sigma=SIGMA, out=settings.out)
    return summary


if __name__ == "__main__":
    main()
