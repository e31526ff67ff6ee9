"""Distances between outputs."""

from center_smoothing.distances.angular import Angular, Cosine
from center_smoothing.distances.axioms import DistanceCheck, check_distance
from center_smoothing.distances.base import Distance
from center_smoothing.distances.box_sets import BoxSetMatching
from center_smoothing.distances.custom import FunctionDistance, ObjectDistance
from center_smoothing.distances.disagreement import Disagreement
from center_smoothing.distances.features import FeatureDistance, Perceptual
from center_smoothing.distances.hausdorff import Hausdorff
from center_smoothing.distances.jaccard import NO_BOX, BoxJaccard, MaskJaccard
from center_smoothing.distances.lp import Lp, SquaredL2
from center_smoothing.distances.named import DISTANCES, DistanceLike, as_distance
from center_smoothing.distances.probability import ProbabilityTV, Wasserstein1
from center_smoothing.distances.symmetrised import Symmetrised
from center_smoothing.distances.total_variation import TotalVariation

__all__ = [
    "DISTANCES",
    "NO_BOX",
    "Angular",
    "BoxJaccard",
    "BoxSetMatching",
    "Cosine",
    "Disagreement",
    "Distance",
    "DistanceCheck",
    "DistanceLike",
    "FeatureDistance",
    "FunctionDistance",
    "Hausdorff",
    "Lp",
    "MaskJaccard",
    "ObjectDistance",
    "Perceptual",
    "ProbabilityTV",
    "SquaredL2",
    "Symmetrised",
    "TotalVariation",
    "Wasserstein1",
    "as_distance",
    "check_distance",
]
