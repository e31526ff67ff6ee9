"""Photos of faces, read from disk one by one."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.functional import pil_to_tensor

from datamodules import full_data_set
from datamodules.base import ImageDataModule, Images


class IndexedPhotos(Images):
    """A split of CelebA, without targets; photos are decoded when they are asked for.

    ``indices``, int64 (N,), are the numbers in the photos' file names: 000001.jpg is 1.
    """

    def __init__(self, photos: datasets.CelebA) -> None:
        self.photos = photos
        self.indices = torch.tensor([int(Path(name).stem) for name in photos.filename], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """Return ``image`` float32 (3, 218, 178) in [0, 1], and ``index``."""
        photo, _ = self.photos[position]
        return {"image": pil_to_tensor(photo.convert("RGB")).float() / 255.0, "index": self.indices[position]}


class CelebA(ImageDataModule):
    """202 599 aligned photos of 178x218 pixels, split by CelebA's own partition file: 162 770 train, 19 962 test.

    Args:
        root: folder that holds, or will hold, the folder ``celeba`` in torchvision's layout.
        download: fetch the data set if it is not there; needs the package gdown.
        batch_size: images per batch.
        num_workers: processes that load.
    """

    image_shape = (3, 218, 178)
    train_set: IndexedPhotos
    test_set: IndexedPhotos

    def __init__(self, root: str = "data", download: bool = True, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.save_hyperparameters(logger=False)
        self.root, self.download = Path(root), download

    def prepare_data(self) -> None:
        """Download what is missing; raise ValueError if it is neither on disk nor to be had."""
        self._split("test", download=self.download)

    def setup(self, stage: str | None = None) -> None:
        """Read which photo is in which split."""
        self.train_set = IndexedPhotos(self._split("train", download=False))
        self.test_set = IndexedPhotos(self._split("test", download=False))

    def _split(self, split: str, *, download: bool) -> datasets.CelebA:
        def load() -> datasets.CelebA:
            photos = datasets.CelebA(str(self.root), split=split, target_type=[], download=download)
            there = os.listdir(self.root / datasets.CelebA.base_folder / "img_align_celeba")
            if missing := sorted(set(photos.filename).difference(there)):
                raise FileNotFoundError(f"{len(missing)} photos such as {missing[0]} are missing in img_align_celeba")
            if not photos.filename:
                raise ValueError("the partition file names no photos of this split")
            return photos

        wanted = "put it there by hand" if self.download else "allow --data.download true"
        otherwise = "--data ImageFolder or PhotoFolder with photos of yours, which needs none"
        return full_data_set.read(load, "CelebA", self.root, wanted=wanted, otherwise=otherwise)
