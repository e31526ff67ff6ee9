"""The picture of a certification."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import cycle
from statistics import mode
from textwrap import fill, wrap
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike, NDArray

from results.finished import FinishedCertification
from results.numbers import format_up
from results.plots.examples import Picture, as_image, example_pictures, guarantees
from results.reading import FLOORS, theorem_changes, theorems_in_words
from results.rows import Row
from results.summary import results_by_line

_OUTPUTS, _PHOTOS, _PHOTOS_IN_ROW = 5, 6, 3
# Of Okabe and Ito, whose colours the colour-blind can tell apart.
_COLOURS, _LOSS = ("#0072b2", "#cc79a7", "#009e73", "#000000"), "#d55e00"
_CURVES, _HEIGHT = 6.5, 4.8  # inches that the curves and the figure take


def draw_certificates(
    finished: FinishedCertification, rows: Sequence[Row], results: Sequence[dict[str, Any]], title: str
) -> Figure:
    """Draw median eps_out and smoothing loss against eps_in, and what the smoothed outputs look like.

    Args:
        finished: with the outputs of its first examples.
        rows: of certificates.csv.
        results: of summary.json. There is a line for each h where several noise levels were certified.
        title: one line above it all.
    """
    boxes = finished.holds_boxes
    indices = list(finished.outputs)[: _PHOTOS if boxes else _OUTPUTS]
    found = [(index, example_pictures(finished, index).pictures) for index in indices]
    examples = [(index, pictures) for index, pictures in found if pictures]
    beside = 0.85 * _CURVES if boxes else _width(examples)
    figure = Figure(figsize=(_CURVES + beside, _HEIGHT), layout="constrained")
    figure.suptitle(fill(title, int(14 * figure.get_figwidth())), fontsize=10)
    if not examples:
        draw_curves(figure.add_subplot(), rows, results, overlap=boxes, norm=finished.norm)
        return figure
    left, right = cast(Iterable[SubFigure], figure.subfigures(1, 2, width_ratios=[_CURVES, beside]))
    draw_curves(left.add_subplot(), rows, results, overlap=boxes, norm=finished.norm)
    if boxes:
        photos = []
        for index, pictures in examples:
            row = finished.by_index[index][0]
            (promised,) = guarantees(finished, [row])
            photos.append((f"#{index}: {promised}\nat eps_in={row.eps_in:g}, sigma={row.sigma:g}", pictures[0]))
        _draw_photos(right, photos)
    else:
        _draw_outputs(right, examples)
    return figure


def _draw_outputs(figure: SubFigure, examples: Sequence[tuple[int, Sequence[Picture]]]) -> None:
    """Draw a row for each example, a column for each of its pictures."""
    axes = figure.subplots(len(examples), max(len(pictures) for _, pictures in examples), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, (index, pictures) in enumerate(examples):
        axes[row, 0].set_ylabel(f"#{index}", fontsize=8)
        for axis, picture in zip(axes[row], pictures, strict=False):
            axis.imshow(as_image(picture.array), cmap="gray", vmin=0, vmax=255)
            if row == 0:
                # in lines so narrow that they can stand beside each other
                axis.set_title(re.sub("(smoothed|clipped) ", r"\1\n", picture.name), fontsize=8)


def _width(examples: Sequence[tuple[int, Sequence[Picture]]]) -> float:
    """Return how many inches rows of pictures take beside the curves, so that no gaps are left between them."""
    shapes = [[picture.array.shape for picture in pictures] for _, pictures in examples]
    widest = max((sum(width / height for height, width, _ in row) for row in shapes), default=0.0)
    return min(0.8 * _HEIGHT / max(len(shapes), 1) * widest + 0.5, 2.0 * _CURVES) if shapes else 0.0


def _draw_photos(figure: SubFigure, photos: Sequence[tuple[str, Picture]]) -> None:
    """Draw photos with boxes, each with its caption."""
    figure.suptitle(photos[0][1].note, fontsize=8)
    columns = min(_PHOTOS_IN_ROW, len(photos))
    axes = figure.subplots(-(-len(photos) // columns), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (caption, picture) in zip(axes.flat, photos, strict=False):
        axis.imshow(as_image(picture.array))
        axis.set_title(caption, fontsize=7)


def draw_curves(
    axis: Axes, rows: Sequence[Row], results: Sequence[dict[str, Any]], *, overlap: bool, norm: str
) -> None:
    """Draw median eps_out and smoothing loss against eps_in; with the radii of the examples where there is one line.

    Results of several folders have a ``label``. Where outputs are boxes a second axis is the guaranteed overlap.
    """
    drawn = results_by_line(results, several_levels=len({row.sigma for row in rows}) > 1)
    smoothers = {row.smoother for row in rows}
    between = f" d(f(x), {next(iter(smoothers))})" if len(smoothers) == 1 else ""
    for line, colour in zip(drawn, cycle(_COLOURS), strict=False):
        name = f", {line.replace('=', ' = ')}" if line else ""
        if not line:
            places, radii = [row.eps_in for row in rows], [row.eps_out for row in rows]
            label = "certified radius of one example"
            axis.plot(places, radii, ".", color=colour, alpha=0.3, markersize=5, label=label)
        medians = [result["median_eps_out"] for result in drawn[line]]
        eps_in, loss_colour = [result["eps_in"] for result in drawn[line]], colour if line else _LOSS
        axis.plot(eps_in, medians, "o-", color=colour, label=f"median certified radius eps_out{name}")
        losses = [result["median_smoothing_loss"] for result in drawn[line]]
        axis.plot(eps_in, losses, "s--", color=loss_colour, label=f"median smoothing loss{between}{name}")
        reached = [result["median_attack_eps"] for result in drawn[line] if "median_attack_eps" in result]
        if reached:
            axis.plot(eps_in, reached, "v:", color=colour, label=f"median reached by the attack{name}")
        for result in drawn[line]:
            if np.isfinite(result["median_eps_out"]):
                at = (result["eps_in"], result["median_eps_out"])
                text = format_up(result["median_eps_out"])
                # on the right, below: neither dots nor a rising line are there
                axis.annotate(text, at, textcoords="offset points", xytext=(7, -4), ha="left", va="top", fontsize=8)
    missing = sum(not np.isfinite(row.eps_out) for row in rows)
    abstained = max((result["abstention_rate"] for result in results), default=0.0)
    below = [
        f"input radius eps_in ({norm.replace('l2 norm', 'l2')})",
        f"abstained on {abstained:.0%}, {missing} rows without certificate",
    ]
    below += [] if len(drawn) != 1 or len(smoothers) != 1 else _how_to_read(rows, floor=FLOORS[next(iter(smoothers))])
    axis.set_xlabel("\n".join(below), fontsize=9)
    axis.set_ylabel("output distance")
    axis.set_xticks(sorted({result["eps_in"] for result in results}))
    axis.margins(x=0.13)
    axis.set_ylim(0.0, 1.25 * axis.get_ylim()[1])  # room for the legend
    axis.grid(alpha=0.3)
    if drawn:
        axis.legend(loc="upper left", fontsize=8)
    if overlap:
        right = axis.secondary_yaxis("right", functions=(one_minus, one_minus))
        right.set_ylabel("guaranteed overlap (IoU)")
        right.set_yticks([tick for tick in np.linspace(0.0, 1.0, 11) if 1.0 - tick <= axis.get_ylim()[1]])


def _how_to_read(rows: Sequence[Row], *, floor: str) -> list[str]:
    """Say why the curve starts above 0, and which theorem gives the radii of most examples."""
    by_radius: dict[float, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.eps_in):
        by_radius.setdefault(row.eps_in, []).append(row.theorem)
    theorems = theorems_in_words(theorem_changes(by_radius, map(mode, by_radius.values())))
    return [*wrap(f"eps_out starts above 0: {floor}.", 100), *wrap(theorems, 100)]


def one_minus(values: ArrayLike) -> NDArray[np.float64]:
    """Return the overlaps that certified radii guarantee, or the radii that leave them."""
    return 1.0 - np.asarray(values, dtype=np.float64)
