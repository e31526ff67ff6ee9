"""A norm to clip to, from training images alone."""

import pytest
import torch
from torch import Tensor

from center_smoothing import Distance, Lp, ProbabilityTV
from certification import clip_norm
from certification.arguments import parse
from datamodules import ImageDataModule, PhotoFolder
from datamodules.base import IndexedImages
from lightning_modules import BaseModel


class Bright(ImageDataModule):
    """A hundred training images of 2x2 pixels, the i-th of brightness i; no test images."""

    def __init__(self) -> None:
        super().__init__(batch_size=2, num_workers=0)

    def setup(self, stage: str | None = None) -> None:
        assert stage == "fit"
        shades = torch.arange(1, 101, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        self.train_set = IndexedImages(shades.contiguous(), torch.arange(100))


class Scaled(BaseModel):
    """Returns what it is given, a few times as large."""

    def __init__(self, factor: float = 255.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Shares(BaseModel):
    """Returns probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).softmax(dim=1)


def measured(data: ImageDataModule, model: BaseModel, distance: Distance, sigma: float = 1e-6) -> float:
    options = parse(["--plan", "--accelerator=cpu", "--batch-size=8"])
    return clip_norm.clip_norm_of_training(options, data, model, model, distance, sigma=sigma)


def test_one_output_in_a_hundred_is_clipped_and_noise_counts() -> None:
    assert 198.0 <= measured(Bright(), Scaled(), Lp(2)) <= 200.0  # of images i the norm is 2 i
    assert measured(Bright(), Scaled(), Lp(2), sigma=10.0) > 5000.0


@pytest.mark.parametrize(
    ("data", "model", "distance", "words"),
    [
        (PhotoFolder("tests"), Scaled(), Lp(2), "--clip-norm must be a number with --data PhotoFolder"),
        (Bright(), Scaled(float("nan")), Lp(2), "no positive finite distance from zero"),
        (Bright(), Scaled(0.0), Lp(2), "no positive finite distance from zero"),
        (Bright(), Shares(), ProbabilityTV(), "clip_norm must be left out with ProbabilityTV"),
    ],
)
def test_where_there_is_no_norm_it_says_why(
    data: ImageDataModule, model: BaseModel, distance: Distance, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PhotoFolder, "setup", lambda self, stage: None)
    with pytest.raises(ValueError, match=words):
        measured(data, model, distance)
