"""Numbers and tables that are read in a terminal and in Markdown alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

_SIGNIFICANT = 4


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, named: int = 1) -> str:
    """Return a Markdown table with columns of even width, the first ones to the left and the others to the right.

    Example:
        >>> print(table(["step", "seconds"], [["all pairs", "40"]]))
        | step      | seconds |
        | :-------- | ------: |
        | all pairs |      40 |
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [":" + "-" * (width - 1) if i < named else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        [
            cell.ljust(width) if i < named else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_up(value: float) -> str:
    """Format a number of at least 0 with four significant digits, rounded up, as a promise is.

    Example:
        >>> format_up(97.2101), format_up(0.11632), format_up(float("inf"))
        ('97.22', '0.1164', 'inf')
    """
    return _rounded(value, math.ceil)


def format_down(value: float) -> str:
    """Format a number of at least 0 with four significant digits, rounded down."""
    return _rounded(value, math.floor)


def share(part: float, whole: float) -> str:
    """Format a share in percent, rounded up; a dash where one of the two is no number.

    Example:
        >>> share(1.0, 3.0), share(1.0, float("inf"))
        ('34%', '-')
    """
    return f"{math.ceil(100.0 * part / whole)}%" if part < math.inf and 0.0 < whole < math.inf else "-"


def seconds(value: float) -> str:
    """Format seconds, to a hundredth below ten.

    Example:
        >>> seconds(1.234), seconds(123.4)
        ('1.23', '123')
    """
    return f"{value:.2f}" if value < 10.0 else f"{value:.1f}" if value < 100.0 else f"{value:.0f}"


def _rounded(value: float, to_whole: Callable[[float], int]) -> str:
    if not 0.0 < value < math.inf:
        return "inf" if value > 0.0 else "0"
    decimals = max(0, _SIGNIFICANT - 1 - math.floor(math.log10(value)))
    return f"{to_whole(value * 10**decimals) / 10**decimals:.{decimals}f}"
