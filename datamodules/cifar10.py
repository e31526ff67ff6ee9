"""Small colour photographs of animals and vehicles."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torchvision import datasets

from datamodules import full_data_set
from datamodules.base import ImageDataModule, IndexedImages

_WITHOUT_DOWNLOAD = (
    "--config configs/cifar10_autoencoder_folder.yaml with images of your own, or the digits of the default "
    "configuration; neither needs one"
)


class CIFAR10(ImageDataModule):
    """32x32 RGB images in [0, 1]: 50 000 for training, 10 000 for test; the index is the position in its split.

    Args:
        root: folder of the data set, in torchvision's layout.
        download: fetch the data set if it is not there.
        batch_size: images per batch.
        num_workers: processes that load.
    """

    image_shape = (3, 32, 32)

    def __init__(self, root: str = "data", download: bool = True, batch_size: int = 64, num_workers: int = 0) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.save_hyperparameters(logger=False)
        self.root, self.download = Path(root), download

    def prepare_data(self) -> None:
        """Download what is missing; raise ValueError if it is neither on disk nor to be had."""
        self._torchvision(train=False, download=self.download)  # checks and fetches the files of both splits

    def setup(self, stage: str | None = None) -> None:
        """Read the images."""
        self.train_set, self.test_set = (self._indexed(train=train) for train in (True, False))

    def _torchvision(self, *, train: bool, download: bool) -> datasets.CIFAR10:
        load = partial(datasets.CIFAR10, self.root, train=train, download=download)
        wanted = "download it there" if self.download else "allow --data.download true"
        return full_data_set.read(load, "CIFAR10", self.root, wanted=wanted, otherwise=_WITHOUT_DOWNLOAD)

    def _indexed(self, *, train: bool) -> IndexedImages:
        images = torch.from_numpy(self._torchvision(train=train, download=False).data).permute(0, 3, 1, 2)
        return IndexedImages(images.contiguous(), torch.arange(len(images)))
