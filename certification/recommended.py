"""Which smoothed function has the smallest certified radii: a rule by distance and h, from figures on the digits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from center_smoothing import Distance, MeanSmoother, MedianSmoother

# From these h on medians have smaller radii than means, by the norm that a distance is or follows from. By others means
# do, and where there are none centers, in groups below h = 1. docs/choosing.md has the figures.
_MEDIANS_FROM = {"linf": 0.0, "l2": 2.0}
_GROUPS_BELOW = 1.0


def recommended(distance: Distance, h: float) -> str:
    """Return the flags of the smoothed function to take.

    Args:
        distance: between outputs.
        h: eps_in / sigma.

    Example:
        >>> from center_smoothing import BoxJaccard, Lp
        >>> [recommended(Lp(2), 1.0), recommended(Lp(2), 2.0), recommended(BoxJaccard(), 0.5)]
        ['--smoother mean --clip-norm auto', '--smoother median', '--smoother center --group auto']
    """
    norm = distance.norm if distance.l2_form is None else "l2"
    if MedianSmoother.takes(distance) and h >= _MEDIANS_FROM.get(str(norm), math.inf):
        return "--smoother median"
    if not MeanSmoother.takes(distance):
        return "--smoother center" + (" --group auto" if h < _GROUPS_BELOW else "")
    if not MeanSmoother.needs_bound(distance):
        return "--smoother mean"
    # vectors that add up to 1 cannot be scaled down
    return "--smoother mean " + ("--clip-norm auto" if norm is not None else "--output-bound B")


def recommended_lines(distance: Distance, h: Sequence[float]) -> list[str]:
    """Return a line for each recommendation, with the h that it is for."""
    by_flags: dict[str, list[str]] = {}
    for each in h:
        by_flags.setdefault(recommended(distance, each), []).append(f"{each:.4g}")
    return [
        f"recommended for {distance!r} at h={', '.join(ratios)}: {flags} (the smallest eps_out; docs/choosing.md)"
        for flags, ratios in by_flags.items()
    ]
