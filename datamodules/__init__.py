"""Data sets as Lightning data modules."""

from datamodules.base import ImageDataModule, IndexedImages
from datamodules.mnist import MNIST

__all__ = ["MNIST", "ImageDataModule", "IndexedImages"]
