"""Center smoothing: certified robustness for functions with outputs in a metric space."""

from center_smoothing.base_functions import Estimator, OnnxModel
from center_smoothing.budget import Plan, SmoothingBudget
from center_smoothing.certificate import Certificate, SmoothedOutput
from center_smoothing.distances import (
    NO_BOX,
    Angular,
    BoxJaccard,
    Distance,
    FunctionDistance,
    Lp,
    MaskJaccard,
    ObjectDistance,
    TotalVariation,
)
from center_smoothing.mean_budget import MeanBudget, MeanPlan
from center_smoothing.mean_certificate import MeanCertificate, MeanOutput
from center_smoothing.mean_smoother import MeanSmoother
from center_smoothing.smoother import CenterSmoother
from center_smoothing.stopping import Decided, TightEnough

__all__ = [
    "NO_BOX",
    "Angular",
    "BoxJaccard",
    "CenterSmoother",
    "Certificate",
    "Decided",
    "Distance",
    "Estimator",
    "FunctionDistance",
    "Lp",
    "MaskJaccard",
    "MeanBudget",
    "MeanCertificate",
    "MeanOutput",
    "MeanPlan",
    "MeanSmoother",
    "ObjectDistance",
    "OnnxModel",
    "Plan",
    "SmoothedOutput",
    "SmoothingBudget",
    "TightEnough",
    "TotalVariation",
]
