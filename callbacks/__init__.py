"""Lightning callbacks."""

from callbacks.center_smoothing import CenterSmoothing
from callbacks.certificate_writer import CertificateWriter
from callbacks.certification_progress import CertificationProgress
from callbacks.survival import Survival

__all__ = ["CenterSmoothing", "CertificateWriter", "CertificationProgress", "Survival"]
