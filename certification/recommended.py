"""Which smoothed function has the smallest certified radii: a rule by distance and h, from figures on the digits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from center_smoothing import Distance, MeanSmoother, ProbabilityTV, Wasserstein1

# From these h on medians have smaller radii than means, by the norm that a distance is; "l2" stands for its square too.
# By others means have, and where there are none centers, in groups below h = 1. docs/choosing.md has the figures.
_MEDIANS_FROM = {"linf": 0.0, "l2": 2.5}
_GROUPS_BELOW = 1.0


def recommended(distance: Distance, h: float) -> str:
    """Return the flags of the smoothed function to take.

    Args:
        distance: between outputs.
        h: eps_in / sigma.
    """
    if not MeanSmoother.takes(distance):
        return "--smoother center" + (" --group auto" if h < _GROUPS_BELOW else "")
    if not MeanSmoother.needs_bound(distance):
        return "--smoother mean"
    norm = distance.norm if distance.l2_form is None else "l2"
    if h >= _MEDIANS_FROM.get(str(norm), math.inf):
        return "--smoother median"
    cannot_be_scaled = isinstance(distance, ProbabilityTV | Wasserstein1)  # vectors that add up to 1
    return "--smoother mean " + ("--output-bound B" if cannot_be_scaled else "--clip-norm auto")


def recommended_lines(name: str, distance: Distance, h: Sequence[float]) -> list[str]:
    """Return a line for each recommendation, with the h that it is for; name is the distance's on the command line."""
    by_flags: dict[str, list[str]] = {}
    for each in h:
        by_flags.setdefault(recommended(distance, each), []).append(f"{each:.4g}")
    return [
        f"recommended for {name} at h={', '.join(ratios)}: {flags} (docs/choosing.md)"
        for flags, ratios in by_flags.items()
    ]
