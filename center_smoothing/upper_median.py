"""The median that certificates are summed up by."""

from __future__ import annotations

from collections.abc import Iterable


def upper_median(values: Iterable[float]) -> float:
    """Return the median of values without NaN; of an even count, the upper of the two middle ones (theory T9).

    Raises:
        ValueError: if there is no value.

    Example:
        >>> upper_median([1.0, 2.0, 3.0, float("inf")])
        3.0
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("values must hold at least one number, got none")
    return ordered[len(ordered) // 2]
