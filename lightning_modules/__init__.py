"""Base models, trained with noise, and their certification."""

from lightning_modules.autoencoder import NoisyAutoencoder
from lightning_modules.base import NoisyModule
from lightning_modules.certifier import CertifiedExample, Certifier
from lightning_modules.checkpoint import LoadedCheckpoint, load_checkpoint
from lightning_modules.reconstructor import NoisyReconstructor

__all__ = [
    "CertifiedExample",
    "Certifier",
    "LoadedCheckpoint",
    "NoisyAutoencoder",
    "NoisyModule",
    "NoisyReconstructor",
    "load_checkpoint",
]
