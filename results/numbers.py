"""Numbers for the eye, rounded to the safe side."""

from __future__ import annotations

import math
from decimal import Decimal

from center_smoothing.scalars import TINY, format_up, rounded_up

__all__ = ["duration", "format_down", "format_up", "percent", "percent_up", "rounded_down", "rounded_up"]


def rounded_down(value: float, digits: int = 2) -> str:
    """Format a certified input radius, never above the true one."""
    text = f"{value:.{digits}f}"
    return text if float(text) <= value else f"{Decimal(text) - Decimal(1).scaleb(-digits):f}"


def format_down(value: float) -> str:
    """Format a certified input radius with two decimals or three significant digits, never above the true one."""
    return rounded_down(value, 2 - math.floor(math.log10(value)) if TINY <= value < 1.0 else 2)


def percent(count: int, total: int) -> str:
    """Format a share of examples, never above the true one."""
    return f"{1000 * count // total / 10:g}%"


def percent_up(share: float) -> str:
    """Format a certified radius as a share of another distance, never below the true one.

    Example:
        >>> percent_up(0.2861), percent_up(float("inf"))
        ('28.7%', 'inf')
    """
    return f"{rounded_up(100.0 * share, 1)}%" if share < math.inf else "inf"


def duration(seconds: float) -> str:
    """Format seconds."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
