"""The picture of a panel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.plan import Point
from results.numbers import rounded_up

_COLOURS = ("#b85c00", "#1f4e79", "#2e7d32", "#6a1b9a", "#5d4037")


def draw(points: Sequence[Point], *, title: str, distance: str, scale: float | None) -> Figure:
    """Draw median eps_out and median smoothing loss against eps_in, one line per h, with bootstrap intervals.

    Returns:
        A figure, not tied to any window.
    """
    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    radii, losses = figure.subplots(1, 2)
    for h, colour in zip(dict.fromkeys(point.h for point in points), cycle(_COLOURS), strict=False):
        line = [point for point in points if point.h == h]
        eps_in = [point.eps_in for point in line]
        rate = max(point.abstention_rate for point in line)
        label = f"h = {h:g}" + (f", abstained on up to {rate:.0%}" if rate else ", no abstention")
        for axis, medians in ((radii, [p.eps_out for p in line]), (losses, [p.smoothing_loss for p in line])):
            axis.plot(eps_in, [_drawn(m.value) for m in medians], "o-", color=colour, label=label)
            low, high = [_drawn(m.low) for m in medians], [_drawn(m.high) for m in medians]
            axis.fill_between(eps_in, low, high, color=colour, alpha=0.15, linewidth=0.0)
        last = line[-1]
        if np.isfinite(last.eps_out.value):
            at = (last.eps_in, last.eps_out.value)
            text = rounded_up(last.eps_out.value, 2 if last.eps_out.value >= 1.0 else 3)
            radii.annotate(text, at, textcoords="offset points", xytext=(6, 0), va="center", fontsize=8)
    _finish(radii, f"median certified output radius eps_out, {distance}", points, scale)
    _finish(losses, f"median smoothing loss d(f(x), {points[0].smoother}), {distance}", points, scale)
    return figure


def _finish(axis: Axes, label: str, points: Sequence[Point], scale: float | None) -> None:
    axis.set_xlabel("input radius eps_in (l2), sigma = eps_in / h; bands: 95% bootstrap of the median", fontsize=8)
    axis.set_ylabel(label, fontsize=9)
    axis.set_xticks(sorted({point.eps_in for point in points}))
    axis.set_ylim(0.0, (1.05 + 0.05 * len(axis.get_lines())) * axis.get_ylim()[1])  # room for the legend
    axis.margins(x=0.12)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", fontsize=8)
    if scale is not None:
        percent = axis.secondary_yaxis(
            "right",
            functions=(lambda y: 100.0 * np.asarray(y) / scale, lambda share: np.asarray(share) * scale / 100.0),
        )
        percent.set_ylabel(f"% of {scale:g}, the paper's scale", fontsize=8)


def _drawn(value: float) -> float:
    """Leave a gap in the line where there is no certificate."""
    return value if np.isfinite(value) else np.nan
