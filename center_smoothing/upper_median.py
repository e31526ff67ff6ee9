"""The median that certificates are summed up by."""

from __future__ import annotations

from collections.abc import Iterable


def upper_median(values: Iterable[float]) -> float:
    """Return the median; of an even count, the upper of the two middle values (theory T9).

    Args:
        values: at least one, none of them NaN; inf counts like any other value.

    Raises:
        ValueError: if there is none.

    Example:
        >>> upper_median([1.0, 2.0, 3.0, float("inf")])
        3.0
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("values must hold at least one number, got none")
    return ordered[len(ordered) // 2]
