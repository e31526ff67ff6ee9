"""Base models, trained with noise, and their certification."""

from lightning_modules.autoencoder import NoisyAutoencoder
from lightning_modules.base import BaseModel, NoisyModule, point_of
from lightning_modules.certifier import CertifiedExample, Certifier
from lightning_modules.checkpoint import (
    BASE_MODELS,
    LoadedCheckpoint,
    checkpoint_file,
    load_checkpoint,
    load_own,
    load_weights,
)
from lightning_modules.compiled import CompiledModel
from lightning_modules.denoised import DenoisedModel
from lightning_modules.denoiser import NoisyDenoiser
from lightning_modules.face_detector import FaceDetector
from lightning_modules.folding import fold_batch_norm
from lightning_modules.imported import ImportedModel
from lightning_modules.reconstructor import NoisyReconstructor

__all__ = [
    "BASE_MODELS",
    "BaseModel",
    "CertifiedExample",
    "Certifier",
    "CompiledModel",
    "DenoisedModel",
    "FaceDetector",
    "ImportedModel",
    "LoadedCheckpoint",
    "NoisyAutoencoder",
    "NoisyDenoiser",
    "NoisyModule",
    "NoisyReconstructor",
    "checkpoint_file",
    "fold_batch_norm",
    "load_checkpoint",
    "load_own",
    "load_weights",
    "point_of",
]
