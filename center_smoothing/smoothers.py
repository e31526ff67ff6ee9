"""The smoothed functions by name: a further one is a package of its own, and a line here."""

from __future__ import annotations

from center_smoothing.means.smoother import MeanSmoother
from center_smoothing.medians.smoother import MedianSmoother
from center_smoothing.smoother import CenterSmoother
from center_smoothing.smoother_base import Smoother

SMOOTHERS: dict[str, type[Smoother]] = {
    smoother.kind: smoother for smoother in (CenterSmoother, MeanSmoother, MedianSmoother)
}
# That of folders and commands that do not name one.
DEFAULT_SMOOTHER = CenterSmoother.kind
