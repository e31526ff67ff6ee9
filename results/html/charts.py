"""The charts of a report as plain values for its JavaScript, the same in tables, and what they show in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results import numbers
from results.certified_fraction import FractionCurve, panels
from results.html.content import Curve, ReportExample
from results.reading import theorem_changes, theorems_in_words

_INTERVAL = "95% bootstrap interval"
# The axis of output radii: how a chart calls it, and how a number on it is called.
_EPS_OUT = {"x_title": "eps_out", "x_name": "eps_out", "x_format": ".12~g"}
# Steps of the certified fraction in a page, those of all curves together.
_MAX_STEPS = 1500
# Of the table of medians, where a curve has something to say there.
_COLUMNS = {
    "relative": "Relative",
    "theorem": "Theorem",
    "low": _INTERVAL,
    "smoothing_loss": "Median smoothing loss",
    "loss_low": f"{_INTERVAL} of the loss",
    "abstention_rate": "Abstained",
    "attack_eps": "Median reached by the attack",
}
_QUANTITIES = {"eps_out": "certified radius eps_out", "smoothing_loss": "smoothing loss"}
_INTERVALS = {"eps_out": ("low", "high"), "smoothing_loss": ("loss_low", "loss_high")}


def median_charts(curves: Sequence[Curve], *, reference_lines: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return one chart of both output distances for a single curve, else one for each of them."""
    there = [name for name in _QUANTITIES if any(len(getattr(curve, name)) for curve in curves)]
    groups = [there] if len(curves) == 1 else [[name] for name in there]
    charts = []
    for number, names in enumerate(groups):
        lines = [
            _line(curve, name, label=curve.label if len(curves) > 1 else _QUANTITIES[name])
            for name in names
            for curve in curves
            if len(getattr(curve, name))
        ]
        if "eps_out" in names:
            lines += [_attack_line(curve, several=len(curves) > 1) for curve in curves if len(curve.attack_eps)]
        references = reference_lines if "eps_out" in names else {}
        of_one = len(curves) == 1 and len(curves[0].theorem)
        changes = theorem_changes(curves[0].eps_in, curves[0].theorem) if of_one else []
        charts.append(
            _chart(
                f"chart-{number}",
                title="Median " + " and ".join(_QUANTITIES[name] for name in names),
                axes={**_eps_in([curve.norm for curve in curves]), "y_title": "output distance"},
                lines=lines,
                findings=[*map(_finding, lines), theorems_in_words(changes)],
                references=references,
                changes=changes if len(changes) > 1 else [],
                dots=curves[0].examples if len(curves) == 1 else (),
                note=" ".join(
                    [f"Bands: {_INTERVAL}."] * any(line["low"] for line in lines)
                    + ["Dots: certified radii of single examples."] * bool(len(curves) == 1 and curves[0].examples)
                ),
            )
        )
    return charts


def example_chart(example: ReportExample, identity: str) -> dict[str, Any] | None:
    """Return the chart of one example's own curve; None if it has none."""
    if not len(example.eps_in):
        return None
    asked = {row.eps_in for row in example.rows}
    marked = [value in asked for value in example.eps_in]
    text = [f"eps_out {format_radius(value)}" for value in example.eps_out]
    line = _drawn("eps_out", example.eps_in, example.eps_out, text, marked=marked, certified=True)
    title = f"Certified radius eps_out of example {example.name}"
    axes = {**_eps_in([example.norm]), "y_title": "eps_out"}
    return _chart(identity, title=title, axes=axes, lines=[line], findings=[_finding(line)])


def fraction_charts(curves: Sequence[FractionCurve]) -> list[dict[str, Any]]:
    """Return charts of the certified fraction against eps_out: one, or one for each h of several noise levels."""
    charts = []
    for number, (heading, group) in enumerate(panels(curves)):
        labels = [_fraction_label(curve, heading) for curve in group]
        charts.append(
            _chart(
                f"fraction-{number}",
                title=f"Certified fraction for each eps_in{f' at {heading}' if heading else ''}",
                axes={**_EPS_OUT, "y_title": "share of the examples", "y_format": ".0%", "y_range": [0.0, 1.03]},
                lines=_fraction_lines(thinned(group), labels),
                findings=[_fraction_finding(curve, label) for curve, label in zip(group, labels, strict=True)],
                steps=True,
            )
        )
    return charts


def thinned(curves: Sequence[FractionCurve]) -> list[FractionCurve]:
    """Return curves of the certified fraction with as many steps as a page can hold."""
    return [curve.thinned(max(2, _MAX_STEPS // len(curves))) for curve in curves]


def fraction_steps(curves: Sequence[FractionCurve]) -> dict[str, Any]:
    """Return the table of the steps of the certified fraction: its titles, and a row for each step."""
    several = any(curve.label for curve in curves)
    rows = [
        [
            *[curve.label] * several,
            format_number(curve.sigma),
            format_number(curve.eps_in),
            format_radius(eps_out),
            _percent(curve, eps_out),
        ]
        for curve in curves
        for eps_out in curve.eps_out
    ]
    return {"titles": [*["Folder"] * several, "sigma", "eps_in", "eps_out", "Certified"], "rows": rows}


def medians(curves: Sequence[Curve], *, every: bool = False) -> dict[str, Any]:
    """Return the table of medians: its titles, and a row for each marked eps_in of each curve, or for every one."""
    given = {name for name in ("sigma", *_COLUMNS) if any(len(getattr(curve, name)) for curve in curves)}
    titles = {
        **({"curve": "Curve"} if len(curves) > 1 else {}),
        **({"sigma": "sigma", "h": "h"} if "sigma" in given else {}),
        **{"eps_in": "eps_in", "eps_out": "Median eps_out"},
        **{name: title for name, title in _COLUMNS.items() if name in given},
        **({"num_examples": "Examples"} if any(curve.num_examples for curve in curves) else {}),
    }
    rows = [
        _median_row(curve, position)
        for curve in curves
        for position in (range(len(curve.eps_in)) if every else curve.marked_positions)
    ]
    return {"titles": list(titles.values()), "rows": [[row[key] for key in titles] for row in rows]}


def format_radius(value: float | None) -> str:
    """Format a certified radius; empty where there is none to show."""
    return "" if value is None else numbers.format_up(value)


def format_percent(share: float | None) -> str:
    """Format a certified radius as a share of another distance; empty where there is none."""
    return "" if share is None else numbers.percent_up(share)


def format_number(value: float | None) -> str:
    """Format any other number; empty where there is none."""
    return "" if value is None else f"{value:.4g}"


def _chart(
    identity: str,
    *,
    title: str,
    axes: Mapping[str, Any],
    lines: list[dict[str, Any]],
    findings: Sequence[str],
    references: Mapping[str, float] | None = None,
    changes: Sequence[tuple[float, str]] = (),
    dots: Sequence[tuple[float, float]] = (),
    note: str = "",
    steps: bool = False,
) -> dict[str, Any]:
    """Return a chart for the JavaScript.

    ``axes`` has x_title, y_title; x_name and x_format (of D3) of the values under the pointer; y_format and y_range
    where the y axis has one of its own. ``references`` are horizontal lines by name; ``changes`` are vertical ones:
    from which x on which theorem holds. With ``steps`` a line keeps its height up to its next point.
    """
    references = references or {}
    said = [*findings, *(f"Reference line {name}: {value:.4g}." for name, value in references.items())]
    return {
        "y_format": "",
        "y_range": None,
        **axes,
        "id": identity,
        "kind": "Step chart" if steps else "Line chart",
        "title": title,
        "lines": lines,
        "steps": steps,
        "changes": [{"x": x, "name": name} for x, name in changes],
        "dots": [(x, y) for x, y in dots if math.isfinite(y)],
        "references": [{"name": name, "y": float(value)} for name, value in references.items()],
        "finding": " ".join(filter(None, said)),
        "note": note,
    }


def _drawn(
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    text: Sequence[str],
    *,
    marked: Sequence[bool],
    certified: bool | None = None,
) -> dict[str, Any]:
    """Return one line of a chart; None is a gap."""
    return {
        "name": name,
        "x": [float(value) for value in x],
        "y": _gaps(y),
        "low": [],
        "high": [],
        "marked": marked or [False] * len(x),
        "text": text,
        **({} if certified is None else {"certified": certified}),
    }


def _fraction_lines(curves: Sequence[FractionCurve], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return lines that share their x, so that the pointer shows all of them at one eps_out, rounded up."""
    x = sorted({float(format_radius(eps_out)) for curve in curves for eps_out in curve.eps_out})
    x.append(float(format_radius(1.05 * x[-1] or 1.0)))  # beyond the last step, which would end on the frame
    found = []
    for curve, label in zip(curves, labels, strict=True):
        shares = [curve.count_at(eps_out) / curve.num_examples for eps_out in x]
        found.append(_drawn(label, x, shares, [f"{label}: {_percent(curve, eps_out)}" for eps_out in x], marked=[]))
    return found


def _fraction_label(curve: FractionCurve, heading: str) -> str:
    folder = f"{curve.label}, " if curve.label else ""
    other = f"sigma = {format_number(curve.sigma)}" if heading else f"h = {format_number(curve.h)}"
    return f"{folder}eps_in = {format_number(curve.eps_in)} ({other})"


def _fraction_finding(curve: FractionCurve, label: str) -> str:
    """Say what a curve of the certified fraction shows."""
    if not curve.counts[-1]:
        return f"{label}: none of the {curve.num_examples} examples has a certificate."
    places = {"25%": curve.radius_of(25), "the median example": curve.median, "90%": curve.radius_of(90)}
    reached = ", ".join(f"{who} to {format_radius(radius)}" for who, radius in places.items() if math.isfinite(radius))
    certified = f"{_percent(curve, math.inf)} of the {curve.num_examples} examples have a certificate"
    return f"{label}: {f'certified to eps_out are {reached}; ' if reached else ''}{certified}."


def _percent(curve: FractionCurve, eps_out: float) -> str:
    return numbers.percent(curve.count_at(eps_out), curve.num_examples)


def _line(curve: Curve, name: str, *, label: str) -> dict[str, Any]:
    """Return one line of a chart; None is a gap."""
    low, high = _INTERVALS[name]
    said = []
    for position, value in enumerate(getattr(curve, name)):
        text = f"{label}: {_FORMATS[name](value)}"
        if interval := _interval(curve, name, position):
            text += f" ({interval})"
        if name == "eps_out" and (rate := curve.at("abstention_rate", position)):
            text += f", abstained on {rate:.1%}"
        said.append(text)
    positions = set(curve.marked_positions)
    marked = [position in positions for position in range(len(curve.eps_in))]
    line = _drawn(label, curve.eps_in, getattr(curve, name), said, marked=marked, certified=name == "eps_out")
    return {**line, "low": _gaps(getattr(curve, low)), "high": _gaps(getattr(curve, high))}


def _attack_line(curve: Curve, *, several: bool) -> dict[str, Any]:
    """Return the line of what attacks reached at the marked eps_in, below the certified one."""
    label = f"{curve.label}, reached by the attack" if several else "reached by the attack"
    eps_in = [curve.eps_in[position] for position in curve.marked_positions]
    text = [f"{label}: {format_number(value)}" for value in curve.attack_eps]
    return _drawn(label, eps_in, curve.attack_eps, text, marked=[True] * len(text), certified=False)


def _median_row(curve: Curve, position: int) -> dict[str, str]:
    eps_in, sigma, rate = curve.eps_in[position], curve.at("sigma", position), curve.at("abstention_rate", position)
    return {
        "curve": curve.label,
        "sigma": format_number(sigma),
        "h": format_number(None if sigma is None else curve.conversion * eps_in / sigma),
        "eps_in": format_number(eps_in),
        "eps_out": format_radius(curve.eps_out[position]),
        "relative": format_percent(curve.at("relative", position)),
        "theorem": curve.theorem[position] if len(curve.theorem) else "",
        "low": _interval(curve, "eps_out", position),
        "smoothing_loss": format_number(curve.at("smoothing_loss", position)),
        "loss_low": _interval(curve, "smoothing_loss", position),
        "abstention_rate": "" if rate is None else f"{rate:.1%}",
        "attack_eps": format_number(dict(zip(curve.marked_positions, curve.attack_eps, strict=False)).get(position)),
        "num_examples": str(curve.num_examples or ""),
    }


def _eps_in(norms: Sequence[str]) -> dict[str, str]:
    """Return the axis of input radii: how a chart calls it, and how a number on it is called."""
    title = f"eps_in ({' or '.join(dict.fromkeys(norms))} of the change)"
    return {"x_title": title, "x_name": "eps_in", "x_format": ".4~g"}


def _finding(line: Mapping[str, Any]) -> str:
    """Say what a line shows, and where its gaps are."""
    name, eps_in, values = line["name"], line["x"], line["y"]
    shown = format_radius if line["certified"] else format_number
    there = [(x, y) for x, y in zip(eps_in, values, strict=True) if y is not None]
    gaps = [x for x, y in zip(eps_in, values, strict=True) if y is None]
    if not there:
        return f"{name}: infinite, so without a point, at every eps_in."
    (first_in, first), (last_in, last) = there[0], there[-1]
    text = f"{name}: {shown(first)} at "
    if len(there) > 1 and len({y for _, y in there}) == 1:
        text += "every eps_in" if not gaps else "every other eps_in"
    else:
        text += f"eps_in {format_number(first_in)}"
        if len(there) > 1:
            text += f", {shown(last)} at eps_in {format_number(last_in)}"
    if gaps:
        where = format_number(gaps[0]) if len(gaps) == 1 else f"{format_number(gaps[0])} to {format_number(gaps[-1])}"
        text += f"; infinite, so without a point, at eps_in {where}"
    return text + "."


def _gaps(values: Sequence[float]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _interval(curve: Curve, name: str, position: int) -> str:
    low, high = (_FORMATS[name](curve.at(end, position)) for end in _INTERVALS[name])
    return f"{low} to {high}" if low else ""


_FORMATS = {"eps_out": format_radius, "smoothing_loss": format_number}
