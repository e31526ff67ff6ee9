"""Lightning callbacks, and the folder, the picture and the report of a certification."""

from callbacks.center_smoothing import CenterSmoothing
from callbacks.certificate_plot import draw
from callbacks.certificate_writer import CertificateWriter
from callbacks.certification_folder import AttackedRow, CertificationFolder, Row, summarise
from callbacks.certification_progress import CertificationProgress

__all__ = [
    "AttackedRow",
    "CenterSmoothing",
    "CertificateWriter",
    "CertificationFolder",
    "CertificationProgress",
    "Row",
    "draw",
    "summarise",
]
