"""Distances between outputs."""

from center_smoothing.distances.angular import Angular
from center_smoothing.distances.base import Distance
from center_smoothing.distances.lp import Lp
from center_smoothing.distances.total_variation import TotalVariation

__all__ = ["Angular", "Distance", "Lp", "TotalVariation"]
