"""What tests of several modules share: small images, and a trainer that says nothing."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from datamodules import ImageDataModule, IndexedImages


class Bars(ImageDataModule):
    """Bars in images of 8x8 pixels: 32 for training, 8 for test."""

    def __init__(self, batch_size: int = 8, num_workers: int = 0) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str | None = None) -> None:
        images = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
        for number in range(40):
            images[number, :, number % 8, number // 8 : number // 8 + 4] = 255
        self.train_set = IndexedImages(images[:32], torch.arange(32))
        self.test_set = IndexedImages(images[32:], torch.arange(32, 40))


def bars(*, train: bool) -> Tensor:
    """The images of a split, in [0, 1]."""
    data = Bars()
    data.setup()
    return (data.train_set if train else data.test_set).images.float() / 255


def silent_trainer(**options: Any) -> Trainer:  # noqa: ANN401  # whatever Trainer takes
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **options,
    )  # fmt: skip


def fitted(model: LightningModule, *, epochs: int = 1, **options: Any) -> Trainer:  # noqa: ANN401  # likewise
    """Train on the bars, without validation."""
    trainer = silent_trainer(max_epochs=epochs, limit_val_batches=0, **options)
    trainer.fit(model, Bars())
    return trainer


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))
