"""The certified fraction in a certification folder: its table and its picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from center_smoothing.files import atomic_write
from results.certified_fraction import FractionCurve, as_csv, panels
from results.folder import CertificationFolder
from results.numbers import percent
from results.plots.certificates import one_minus

_STYLES = ("-", "--", "-.", ":")
# Labels of shares at the right that are closer to each other than this would overlap.
_APART = 0.035


def write_fractions(folder: CertificationFolder, curves: Sequence[FractionCurve], title: str, *, overlap: bool) -> None:
    """Write certified_fraction.csv and certified_fraction.png, see :func:`draw_fractions`.

    Raises:
        OSError: if a file cannot be written.
    """
    atomic_write(folder.fractions, as_csv(curves))
    draw_fractions(curves, title, overlap=overlap).savefig(folder.fraction_picture, dpi=150)


def draw_fractions(curves: Sequence[FractionCurve], title: str, *, overlap: bool = False) -> Figure:
    """Draw step lines of the certified fraction against eps_out, one for each eps_in; side by side for several h.

    A colour for each eps_in, and a style for each folder where several are compared.

    The title is one line above it all. With ``overlap`` outputs are boxes, of which an eps_out of 1 or more says
    nothing: the axis ends there, and says the overlap that is guaranteed.
    """
    groups = panels(curves) or [("", [])]
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(max(7.5, 4.2 * columns), 1.2 + 3.8 * rows), layout="constrained")
    figure.suptitle(fill(title, int(12 * figure.get_figwidth())), fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    radii, labels = sorted({curve.eps_in for curve in curves}), list(dict.fromkeys(curve.label for curve in curves))
    colours = dict(zip(radii, _colours(len(radii)), strict=False))
    styles = dict(zip(labels if len(labels) > 1 else radii, cycle(_STYLES), strict=False))
    limit = math.nextafter(1.0, 0.0) if overlap else math.inf
    right = min(1.05 * max((curve.eps_out[-1] for curve in curves), default=0.0) or 1.0, 1.0 if overlap else math.inf)
    for axis, (heading, group) in zip(axes.flat, groups, strict=False):
        for curve in group:
            colour = colours[curve.eps_in]
            style = styles[curve.label if len(labels) > 1 else curve.eps_in]
            label = f"eps_in = {curve.eps_in:g}" + ("" if heading else f" (h = {curve.h:g})")
            label = f"{curve.label}, {label}" if curve.label else label
            places, shares = [*curve.eps_out, max(right, curve.eps_out[-1])], [*curve.fraction, curve.fraction[-1]]
            axis.step(places, shares, where="post", color=colour, linestyle=style, linewidth=1.8, label=label)
        _finish(axis, heading, right=right, overlap=overlap)
        _label_right_end(axis, [(curve.count_at(limit), curve.num_examples) for curve in group])
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    lines = {str(line.get_label()): line for axis in axes.flat for line in axis.get_lines()}
    if lines:
        wide = 2 if any(labels) else 1  # a label that names its folder
        ncols = min((4 if columns == 1 else 8) // wide, len(lines))
        figure.legend(list(lines.values()), list(lines), fontsize=8, loc="outside lower center", ncols=ncols)
    return figure


def _finish(axis: Axes, heading: str, *, right: float, overlap: bool) -> None:
    if heading:
        axis.set_title(heading, fontsize=9)
    axis.set_xlim(0.0, right)
    axis.set_ylim(0.0, 1.03)
    axis.set_yticks(np.linspace(0.0, 1.0, 5))
    axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axis.label_outer()
    spec = axis.get_subplotspec()
    assert spec is not None  # all axes here stand in a grid
    if spec.is_first_col():
        axis.set_ylabel("share of the examples")
    if spec.is_last_row():
        axis.set_xlabel("certified to move by at most eps_out")
    axis.grid(alpha=0.3)
    if overlap:
        above = axis.secondary_xaxis("top", functions=(one_minus, one_minus))
        above.set_xlabel("guaranteed overlap (IoU)", fontsize=8)
        above.tick_params(labelsize=8)


def _label_right_end(axis: Axes, ends: Sequence[tuple[int, int]]) -> None:
    """Label the shares that the lines end at on the right side; of those too close to each other the larger one."""
    ticks: list[tuple[float, str]] = []
    for count, total in sorted(set(ends), key=lambda end: end[0] / end[1], reverse=True):
        if not ticks or ticks[-1][0] - count / total >= _APART:
            ticks.append((count / total, percent(count, total)))
    side: Any = axis.secondary_yaxis("right")
    side.set_yticks([share for share, _ in ticks], [text for _, text in ticks])
    side.tick_params(labelsize=8)


def _colours(count: int) -> list[tuple[float, ...]]:
    """Return colours from dark to light, none of them too light for white paper."""
    return [tuple(colour) for colour in colormaps["viridis"](np.linspace(0.0, 0.75, max(count, 2)))]
