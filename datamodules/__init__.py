"""Data sets as Lightning data modules."""

from datamodules.base import ImageDataModule, IndexedImages
from datamodules.cifar10 import CIFAR10
from datamodules.image_folder import ImageFolder
from datamodules.mnist import MNIST

__all__ = ["CIFAR10", "MNIST", "ImageDataModule", "ImageFolder", "IndexedImages"]
