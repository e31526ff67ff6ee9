"""Images in memory, split and batched, each with its index in the data set."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Images(Dataset[dict[str, Tensor]], ABC):
    """A data set of images that says how many they are."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""


class IndexedImages(Images):
    """8-bit images, uint8 (N, C, H, W), with indices, int64 (N,): where each stands in its data set."""

    def __init__(self, images: Tensor, indices: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or indices.shape != images.shape[:1]:
            raise ValueError(f"images must be uint8 (N, C, H, W) with (N,) indices, got {images.dtype} {images.shape}")
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """Return ``image`` float32 (C, H, W) in [0, 1], and ``index``."""
        return {"image": self.images[position].float() / 255.0, "index": self.indices[position]}


class ImageDataModule(LightningDataModule, ABC):
    """Subclasses implement :meth:`setup`, which sets ``train_set`` and ``test_set``.

    The test split serves validation too: nothing but the choice of the best epoch depends on it.

    Args:
        batch_size: images per training batch.
        num_workers: processes that load; 0 is fastest for images in memory.

    Attributes:
        train_set: dictionaries of ``image``, float32 (C, H, W) in [0, 1], and ``index``, int64 scalar.
        test_set: the same of the test split.
        image_shape: (C, H, W) of all images; None where only :meth:`setup` tells, or where they differ.
        left_out: names of files that :meth:`setup` could not read, and why.
        timeout: seconds after which a process that loads and gives nothing is given up.
    """

    image_shape: tuple[int, int, int] | None = None
    timeout: float = 600.0

    train_set: Images
    test_set: Images

    def __init__(self, *, batch_size: int, num_workers: int) -> None:
        super().__init__()
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, for batch norm, got {batch_size!r}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.left_out: dict[str, str] = {}

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Set ``train_set`` and ``test_set``."""

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Shuffle training batches; a last batch of one image, which batch norm cannot take, is left out."""
        return self._loader(self.train_set, shuffle=True, drop_last=len(self.train_set) % self.batch_size == 1)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Load the test split, in order."""
        return self._loader(self.test_set)

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Load the test split, in order."""
        return self._loader(self.test_set)

    def _loader(
        self, images: Images, *, shuffle: bool = False, drop_last: bool = False
    ) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(
            images,
            batch_size=self.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=self.num_workers,
            timeout=self.timeout if self.num_workers > 0 else 0.0,
            persistent_workers=self.num_workers > 0,
        )
