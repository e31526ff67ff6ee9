"""Data sets as Lightning data modules."""

from datamodules.base import ImageDataModule, IndexedImages
from datamodules.celeba import CelebA
from datamodules.cifar10 import CIFAR10
from datamodules.image_folder import ImageFolder
from datamodules.mnist import MNIST
from datamodules.photo_folder import PhotoFolder

__all__ = ["CIFAR10", "MNIST", "CelebA", "ImageDataModule", "ImageFolder", "IndexedImages", "PhotoFolder"]
