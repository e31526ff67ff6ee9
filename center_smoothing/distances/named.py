"""Distances by name, and whatever else stands for a distance."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from center_smoothing.distances.angular import Angular, Cosine
from center_smoothing.distances.base import Distance
from center_smoothing.distances.box_sets import BoxSetMatching
from center_smoothing.distances.custom import FunctionDistance
from center_smoothing.distances.disagreement import Disagreement
from center_smoothing.distances.hausdorff import Hausdorff
from center_smoothing.distances.jaccard import BoxJaccard, MaskJaccard
from center_smoothing.distances.lp import Lp, SquaredL2
from center_smoothing.distances.probability import ProbabilityTV, Wasserstein1
from center_smoothing.distances.total_variation import TotalVariation

# What stands for a distance wherever one is taken, see `as_distance`.
DistanceLike = Distance | str | Callable[[Tensor, Tensor], Tensor]

# The names of distances, here and on the command line.
DISTANCES: dict[str, Distance] = {
    "tv": TotalVariation(p=1),
    "tv-l2": TotalVariation(p=2),
    "angular": Angular(),
    "l1": Lp(1.0),
    "l2": Lp(2.0),
    "linf": Lp(float("inf")),
    "jaccard": BoxJaccard(),
    "mask-jaccard": MaskJaccard(),
    "box-sets": BoxSetMatching(),
    "disagreement": Disagreement(),
    "cosine": Cosine(),
    "squared-l2": SquaredL2(),
    "hausdorff": Hausdorff(),
    "probability-tv": ProbabilityTV(),
    "wasserstein1": Wasserstein1(),
}


def as_distance(distance: object, undeclared: float | None = None) -> Distance:
    """Make a distance of what a user brings.

    Args:
        distance: itself, a name in ``DISTANCES``, a class without arguments, or a function of two batches; else
            ValueError.
        undeclared: relaxation of a function that declares none; default: 1 with a warning.

    Example:
        >>> as_distance("l2"), as_distance("tv")
        (Lp(p=2.0), TotalVariation(p=1))
    """
    if isinstance(distance, str) and distance in DISTANCES:
        return DISTANCES[distance]
    if isinstance(distance, type) and issubclass(distance, Distance):
        try:
            return distance()
        except TypeError as error:
            raise ValueError(f"distance must be an instance such as {distance.__name__}(...), got the class") from error
    if isinstance(distance, Distance):
        return distance
    if callable(distance):
        return FunctionDistance(distance, relaxation=getattr(distance, "relaxation", undeclared))
    raise ValueError(
        f"distance must be a Distance such as TotalVariation(), one of {', '.join(DISTANCES)}, or a function of two "
        f"batches of outputs, got {distance!r}"
    )
