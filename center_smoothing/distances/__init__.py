"""Distances between outputs."""

from center_smoothing.distances.angular import Angular
from center_smoothing.distances.base import Distance
from center_smoothing.distances.custom import FunctionDistance, ObjectDistance, as_distance
from center_smoothing.distances.jaccard import NO_BOX, BoxJaccard, MaskJaccard
from center_smoothing.distances.lp import Lp
from center_smoothing.distances.total_variation import TotalVariation

__all__ = [
    "NO_BOX",
    "Angular",
    "BoxJaccard",
    "Distance",
    "FunctionDistance",
    "Lp",
    "MaskJaccard",
    "ObjectDistance",
    "TotalVariation",
    "as_distance",
]
