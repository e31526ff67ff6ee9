"""Whether what the paper found holds for a panel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise, product

from experiments.plan import Point
from results.numbers import rounded_up


def findings(points: Sequence[Point]) -> list[str]:
    """Return a line for each finding of the paper's section 5: that it holds for all medians, or where it does not."""
    by_place = {(point.h, point.eps_in): point for point in points}
    ratios = sorted({point.h for point in points})
    radii = sorted({point.eps_in for point in points})
    grows = (
        f"h={h:g}: {_at(by_place[h, near])}, {_at(by_place[h, far])}"
        for h, (near, far) in product(ratios, pairwise(radii))
        if not by_place[h, near].eps_out.value < by_place[h, far].eps_out.value
    )
    lower = (
        f"eps_in={eps_in:g}: {_at(by_place[small, eps_in])} at h={small:g}, "
        f"{_at(by_place[large, eps_in])} at h={large:g}"
        for eps_in, (small, large) in product(radii, pairwise(ratios))
        if not by_place[large, eps_in].eps_out.value < by_place[small, eps_in].eps_out.value
    )
    below = (
        f"h={point.h:g}: loss {point.smoothing_loss.value:.4g}, {_at(point)}"
        for point in points
        if not point.smoothing_loss.value < point.eps_out.value < math.inf
    )
    return [
        _line("median eps_out grows with eps_in", grows, compared=len(radii) > 1),
        _line("median eps_out is lower for larger h at the same eps_in", lower, compared=len(ratios) > 1),
        _line("the median smoothing loss stays below the median eps_out", below, compared=True),
    ]


def _line(finding: str, exceptions: Iterable[str], *, compared: bool) -> str:
    if not compared:
        return f"{finding}: nothing to compare"
    found = list(exceptions)
    return f"{finding}: everywhere" if not found else f"{finding}: not at {'; '.join(found)}"


def _at(point: Point) -> str:
    return f"eps_out {rounded_up(point.eps_out.value, 4)} at eps_in={point.eps_in:g}"
