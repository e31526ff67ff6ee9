"""A report as one HTML file that needs nothing else: charts, examples, settings."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from center_smoothing import __version__
from center_smoothing.files import atomic_write
from results.finished import spread
from results.html.charts import (
    example_chart,
    format_number,
    format_percent,
    format_radius,
    fraction_charts,
    fraction_steps,
    median_charts,
    medians,
    thinned,
)
from results.html.content import Report, ReportExample
from results.html.terms import TERMS, identity_of
from results.plots.examples import Picture, as_image
from results.rows import Row, attacked_rows
from results.settings import flatten

_HERE = Path(__file__).parent
# What the examples of a page may take, of the 15 MB that any browser opens at once; a row takes so much in two tables.
_MAX_BYTES, _ROW_BYTES = 6 << 20, 800
_SMALL = 96  # pixels a side up to which a picture is kept without loss, and enlarged with crisp squares


def write(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the page of a report, as a whole or not at all.

    Raises:
        OSError: if the file cannot be written.
    """
    atomic_write(path, render(report))


def render(report: Report) -> str:
    """Return the page of a report: a whole HTML document without a reference to anything outside of it."""
    charts = median_charts(report.curves, reference_lines=report.reference_lines)
    fractions, steps = fraction_charts(report.fractions), thinned(report.fractions)
    all_examples = [_example(example, f"example-{number}") for number, example in enumerate(report.examples)]
    examples = _that_fit(all_examples)
    dense = any(curve.marked is not None and set(curve.marked) != set(curve.eps_in) for curve in report.curves)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            terms=TERMS,
            charts=charts,
            fractions=fractions,
            fraction_steps=fraction_steps(steps),
            all_steps=steps == list(report.fractions),
            medians=medians(report.curves),
            points=medians(report.curves, every=True) if dense else None,
            examples=examples,
            num_examples=max(report.num_examples, len(all_examples)),
            configuration=[(name, _setting(value)) for name, value in flatten(report.configuration).items()],
            relative=any(example.between is not None for example in report.examples),
            blank=any(example.to_blank is not None for example in report.examples),
            attacked=any(attacked_rows(example.rows) for example in report.examples),
            drawn={
                chart["id"]: chart
                for chart in [*charts, *fractions, *(example["chart"] for example in examples)]
                if chart is not None
            },
            style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
            scripts=list(_scripts().values()),
            hashes=list(_scripts()),
            product=f"center-smoothing {__version__}",
        )
    )


@cache
def _scripts() -> dict[str, Markup]:
    """Return the scripts of a page by their SHA-256, in base64: megabytes, which a sweep takes for many pages."""
    texts = get_plotlyjs(), (_HERE / "report.js").read_text(encoding="utf-8")
    return {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(): Markup(text) for text in texts}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters.update(
        radius=format_radius, number=format_number, percent=format_percent, term=identity_of, sortable=_sortable
    )
    return environment


def _sortable(value: float | None) -> str:
    """Format all digits of a number, as JavaScript reads them; none stands behind all others."""
    return repr(float(value)) if value is not None and math.isfinite(value) else "Infinity"


def _example(example: ReportExample, identity: str) -> dict[str, Any]:
    """Return what the template shows of one example."""
    pictures = []
    for picture in example.pictures:
        height, width, _ = picture.array.shape
        said = [f"{picture.name} of example {example.name}", f"{width} by {height} pixels", picture.note]
        pictures.append(
            {
                "name": picture.name,
                "note": picture.note,
                "alt": ", ".join(part for part in said if part),
                "width": width,
                "height": height,
                "small": max(width, height) <= _SMALL,
                "source": _data_address(picture),
            }
        )
    return {
        "id": identity,
        "name": example.name,
        "rows": example.rows,
        "to_blank": example.to_blank,
        "between": example.between,
        "said": _in_one_line(example.rows),
        "words": example.words,
        "pictures": pictures,
        "chart": example_chart(example, f"{identity}-curve"),
    }


def _that_fit(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return as many examples as a page can hold, evenly spread over the certified radii; all of them if they fit."""
    while len(examples) > 1 and (size := sum(map(_size, examples))) > _MAX_BYTES:
        rows = [example["rows"][0] for example in examples if example["rows"]]
        indices = {row.index for row in rows}
        chosen = spread(rows, max(1, min(len(indices) - 1, len(indices) * _MAX_BYTES // size)))
        if len(indices) == 1:
            return examples[:1]
        examples = [example for example in examples if example["rows"] and example["rows"][0].index in chosen]
    return examples


def _size(example: dict[str, Any]) -> int:
    """Return how many bytes an example takes in a page, about."""
    pictures = sum(len(picture["source"]) for picture in example["pictures"])
    return pictures + len(repr(example["chart"])) + _ROW_BYTES * len(example["rows"])


def _in_one_line(rows: Sequence[Row]) -> str:
    """Say the certificates of an example in one line: at its least and its largest eps_in."""
    if not rows:
        return ""
    if rows[0].abstained:
        return "Abstained: no certificate."
    ends = sorted(rows, key=lambda row: row.eps_in)[:: max(len(rows) - 1, 1)]
    radii = ", ".join(f"eps_out {format_radius(row.eps_out)} at eps_in {format_number(row.eps_in)}" for row in ends)
    return f"{radii}. Smoothing loss {format_number(rows[0].smoothing_loss)}."


def _data_address(picture: Picture) -> str:
    """Put a picture inside its own address: PNG, or JPEG for a large one where that is smaller."""
    image = as_image(picture.array)
    encoded = {"png": _encoded(image, "PNG")}
    if max(image.size) > _SMALL:
        encoded["jpeg"] = _encoded(image, "JPEG", quality=90, subsampling=0)
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"


def _encoded(image: Image.Image, kind: str, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
