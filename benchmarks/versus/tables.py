"""Numbers and tables that are read in a terminal and in Markdown alike."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence

from benchmarks.versus.paper_procedure import Estimate

_SIGNIFICANT = 4


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with columns of even width, the first one to the left and the others to the right.

    Example:
        >>> print(table(["step", "seconds"], [["all pairs", "40"]]))
        | step      | seconds |
        | :-------- | ------: |
        | all pairs |      40 |
    """
    cells = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(each, widths) for each in [cells[0], rule, *cells[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:]))
    return f"| {' | '.join([first, *others])} |"


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


def estimate(radius: Estimate) -> str:
    """Format a radius and, where the run was not made, its interval, rounded away from it."""
    if radius.measured:
        return format_up(radius.value)
    return f"{format_up(radius.value)} [{format_down(radius.low)}, {format_up(radius.high)}]"


def paragraph(text: str) -> str:
    """Wrap a text in lines that are as long as the project's."""
    return textwrap.fill(text, 118)


def share(part: float, whole: float) -> str:
    """Format a share in percent, rounded up; a dash where one of the two is no number.

    Example:
        >>> share(1.0, 3.0), share(1.0, float("inf"))
        ('34%', '-')
    """
    return f"{math.ceil(100.0 * part / whole)}%" if part < math.inf and 0.0 < whole < math.inf else "-"


def excess(part: float, whole: float) -> str:
    """Format by how much the part exceeds the whole, in percent of it; a dash where one of the two is no number.

    Example:
        >>> excess(1.02, 1.0)
        '2.0%'
    """
    return f"{part / whole - 1.0:.1%}" if part < math.inf and 0.0 < whole < math.inf else "-"


def times(whole: float, part: float) -> str:
    """Format how often the part goes into the whole, rounded down.

    Example:
        >>> times(1000.0, 3.0), times(10.0, 3.0)
        ('333', '3.3')
    """
    ratio = whole / part
    return f"{math.floor(ratio):,}" if ratio >= 10.0 else f"{math.floor(10.0 * ratio) / 10.0:.1f}"


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
