"""Center smoothing: certified robustness for functions with outputs in a metric space."""

from center_smoothing.budget import Plan, SmoothingBudget
from center_smoothing.certificate import Certificate, SmoothedOutput
from center_smoothing.distances import Angular, Distance, Lp, TotalVariation
from center_smoothing.smoother import CenterSmoother

__all__ = [
    "Angular",
    "CenterSmoother",
    "Certificate",
    "Distance",
    "Lp",
    "Plan",
    "SmoothedOutput",
    "SmoothingBudget",
    "TotalVariation",
]
