"""Medians over examples, and how far they would move with other examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from center_smoothing.upper_median import upper_median

_RESAMPLES = 2_000


@dataclass(frozen=True)
class Median:
    """An upper median and its percentile bootstrap interval over examples."""

    value: float  # the upper of the two middle values for an even count; inf where half of the values are
    low: float  # lower end of the interval
    high: float  # upper end of the interval

    @classmethod
    def of(cls, values: Sequence[float], *, level: float = 0.95) -> Median:
        """Return the medians of values (N,), abstentions among them as inf (theory T9).

        The ends are medians of resamples, never between two of them, so that inf stays inf. The interval says how the
        median depends on the choice of examples; it is not part of any certificate.

        Args:
            values: at least one, none of them NaN.
            level: of the interval.
        """
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        count = len(ordered)
        drawn = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
        medians = np.sort(ordered[np.sort(drawn, axis=1)[:, count // 2]])
        outside = int((1.0 - level) / 2.0 * _RESAMPLES)
        return cls(upper_median(values), float(medians[outside]), float(medians[-1 - outside]))
