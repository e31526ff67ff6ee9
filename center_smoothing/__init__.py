"""Center smoothing: certified robustness for functions with outputs in a metric space."""

from center_smoothing.base_functions import Estimator, OnnxModel
from center_smoothing.budget import Budget, Plan, SmoothingBudget
from center_smoothing.certificate import Certificate, SmoothedOutput
from center_smoothing.certificate_base import CertificateBase
from center_smoothing.denoised import Denoised
from center_smoothing.distances import (
    DISTANCES,
    NO_BOX,
    Angular,
    BoxJaccard,
    BoxSetMatching,
    Cosine,
    Disagreement,
    Distance,
    DistanceCheck,
    FeatureDistance,
    FunctionDistance,
    Hausdorff,
    Lp,
    MaskJaccard,
    ObjectDistance,
    Perceptual,
    ProbabilityTV,
    SquaredL2,
    Symmetrised,
    TotalVariation,
    Wasserstein1,
    check_distance,
)
from center_smoothing.means.budget import MeanBudget, MeanPlan
from center_smoothing.means.certificate import MeanCertificate, MeanOutput
from center_smoothing.means.smoother import MeanSmoother
from center_smoothing.medians.budget import MedianBudget, MedianPlan
from center_smoothing.medians.certificate import MedianCertificate, MedianOutput
from center_smoothing.medians.smoother import MedianSmoother
from center_smoothing.smoother import CenterSmoother
from center_smoothing.smoother_base import Smoother
from center_smoothing.smoothers import SMOOTHERS
from center_smoothing.stopping import Decided, TightEnough

__version__ = "0.1.0"

__all__ = [
    "DISTANCES",
    "NO_BOX",
    "SMOOTHERS",
    "Angular",
    "BoxJaccard",
    "BoxSetMatching",
    "Budget",
    "CenterSmoother",
    "Certificate",
    "CertificateBase",
    "Cosine",
    "Decided",
    "Denoised",
    "Disagreement",
    "Distance",
    "DistanceCheck",
    "Estimator",
    "FeatureDistance",
    "FunctionDistance",
    "Hausdorff",
    "Lp",
    "MaskJaccard",
    "MeanBudget",
    "MeanCertificate",
    "MeanOutput",
    "MeanPlan",
    "MeanSmoother",
    "MedianBudget",
    "MedianCertificate",
    "MedianOutput",
    "MedianPlan",
    "MedianSmoother",
    "ObjectDistance",
    "OnnxModel",
    "Perceptual",
    "Plan",
    "ProbabilityTV",
    "SmoothedOutput",
    "Smoother",
    "SmoothingBudget",
    "SquaredL2",
    "Symmetrised",
    "TightEnough",
    "TotalVariation",
    "Wasserstein1",
    "check_distance",
]
