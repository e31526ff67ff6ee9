"""Lightning callbacks."""

from callbacks.center_smoothing import CenterSmoothing

__all__ = ["CenterSmoothing"]
