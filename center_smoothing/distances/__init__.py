"""Distances between outputs."""

from center_smoothing.distances.angular import Angular
from center_smoothing.distances.base import Distance
from center_smoothing.distances.jaccard import NO_BOX, BoxJaccard, MaskJaccard
from center_smoothing.distances.lp import Lp
from center_smoothing.distances.total_variation import TotalVariation

__all__ = ["NO_BOX", "Angular", "BoxJaccard", "Distance", "Lp", "MaskJaccard", "TotalVariation"]
