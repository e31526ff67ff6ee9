"""The picture of a certification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.certification_folder import CertificationFolder, Row
from callbacks.certification_report import output_pictures, rounded_up

_EXAMPLES = 5
_INK, _BASE = "#1f4e79", "#b85c00"


def draw(folder: CertificationFolder, rows: Sequence[Row], results: Sequence[dict[str, Any]], title: str) -> Figure:
    """Median eps_out and smoothing loss against eps_in, and what the smoothed outputs look like.

    Args:
        folder: where the outputs of the examples are.
        rows: of certificates.csv.
        results: of summary.json.
        title: one line above it all.

    Returns:
        A figure, not tied to any window; ``figure.savefig(path)`` writes it.
    """
    indices = dict.fromkeys(row.index for row in rows)
    pictures = [(index, found) for index in indices if (found := output_pictures(folder, index))][:_EXAMPLES]
    figure = Figure(figsize=(11.0 if pictures else 6.0, 4.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    if not pictures:
        _draw_curve(figure.add_subplot(), rows, results)
        return figure
    left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1.0])
    _draw_curve(left.add_subplot(), rows, results)
    axes = right.subplots(3, len(pictures), squeeze=False)
    for column, (_, images) in enumerate(pictures):
        for row, (name, image) in enumerate(zip(("input", "base output", "smoothed\noutput"), images, strict=True)):
            axis = axes[row, column]
            axis.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(name, fontsize=8)
    for axis, (index, _) in zip(axes[0], pictures, strict=True):
        axis.set_title(f"#{index}", fontsize=8)
    return figure


def _draw_curve(axis: Axes, rows: Sequence[Row], results: Sequence[dict[str, Any]]) -> None:
    shown = sorted(results, key=lambda result: result["eps_in"])
    eps_in = [result["eps_in"] for result in shown]
    for number, row in enumerate(rows):
        label = "certified radius of one example" if number == 0 else None
        axis.plot(row.eps_in, row.eps_out, ".", color=_INK, alpha=0.3, markersize=5, label=label)
    medians = [result["median_eps_out"] for result in shown]
    axis.plot(eps_in, medians, "o-", color=_INK, label="median certified radius eps_out")
    losses = [result["median_smoothing_loss"] for result in shown]
    axis.plot(eps_in, losses, "s--", color=_BASE, label="median smoothing loss d(f(x), center)")
    for result in shown:
        if np.isfinite(result["median_eps_out"]):
            at = (result["eps_in"], result["median_eps_out"])
            text = rounded_up(result["median_eps_out"])
            axis.annotate(text, at, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=8)
    missing = sum(not np.isfinite(row.eps_out) for row in rows)
    abstained = max((result["abstention_rate"] for result in shown), default=0.0)
    axis.set_xlabel(f"input radius eps_in (l2)   |   abstained on {abstained:.0%}, {missing} rows without certificate")
    axis.set_ylabel("output distance")
    axis.set_xticks(eps_in)
    axis.margins(x=0.1)
    axis.set_ylim(0.0, 1.25 * axis.get_ylim()[1])  # room for the legend
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", fontsize=8)
