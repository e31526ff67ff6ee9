"""What a finished certification folder answers, both ways, without an evaluation of the model (theory T6)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median_low

from center_smoothing.files import atomic_write
from results.certified_fraction import FractionCurve
from results.files import as_csv
from results.finished import Answers, FinishedCertification
from results.folder import CertificationFolder
from results.numbers import format_down, format_up, percent, percent_up
from results.terminal import yardstick_line

COLUMNS = ("index", "asked", "eps_in", "eps_out", "coverage")
# The shares of the examples that are shown beside the median.
_PERCENTS = (25, 75, 90)


def lines(finished: FinishedCertification) -> list[str]:
    """Return all that is said on the terminal: the tables, and what their answers, all of one coverage, promise."""
    found = [f"{len(finished.by_index)} examples of {finished.folder.path}, sigma={finished.sigma:g}, without sampling"]
    for table in finished.answers.values():
        found += table_lines(table, between=finished.yardstick.between)
        if table.asked == "eps_in":
            found += fraction_lines(table)
    yardstick = finished.yardstick
    line = yardstick_line(yardstick.median_to_blank, yardstick.between)
    return [*found, *([f"yardstick: {line}"] if line else []), finished.promise(next(iter(finished.answers)).coverage)]


def table_lines(answers: Answers, *, between: float | None = None) -> list[str]:
    """Return a table for the terminal: a line for each example, the median, and how many are certified.

    Output radii are rounded up and input radii down. Their medians are also shown as shares of the median distance
    ``between`` outputs, if there is one.
    """
    titles = [f"{answers.asked}={radius:g}" for radius in answers.radii]
    width = max(14, *map(len, titles))
    columns = [answers.column(position) for position in range(len(titles))]
    if answers.asked == "eps_in":
        curves = _curves(answers)
        heading, shown = "certified output radius eps_out, rounded up; inf: no certificate", format_up
        last = {"median": [format_up(curve.median) for curve in curves]}
        if between is not None:
            last["relative"] = [percent_up(curve.median / between) for curve in curves]
    else:
        heading, shown = "largest certified input radius eps_in, rounded down; 0: no certificate", format_down
        certified = [sum(radius > 0.0 for radius in column) for column in columns]
        last = {
            "median": [format_down(median_low(column)) for column in columns],
            "certified": [percent(count, len(answers.by_index)) for count in certified],
        }
    cells = {"index": titles, **{str(index): map(shown, found) for index, found in answers.by_index.items()}, **last}
    return [heading, *(f"{name:>9} " + " ".join(f"{cell:>{width}}" for cell in row) for name, row in cells.items())]


def fraction_lines(answers: Answers) -> list[str]:
    """Return how far which share of the examples is certified, a line for each eps_in; output radii are rounded up."""
    titles = [f"{_PERCENTS[0]}%", "median", *(f"{share}%" for share in _PERCENTS[1:]), "certified"]
    lines = [
        "least eps_out to which that share of the examples is certified, rounded up; inf: fewer are certified",
        f"{'eps_in':>9} " + " ".join(f"{title:>14}" for title in titles),
    ]
    for curve in _curves(answers):
        radii = [curve.radius_of(_PERCENTS[0]), curve.median, *map(curve.radius_of, _PERCENTS[1:])]
        cells = [*map(format_up, radii), percent(curve.counts[-1], curve.num_examples)]
        lines.append(f"{curve.eps_in:>9.4g} " + " ".join(f"{cell:>14}" for cell in cells))
    return lines


def check_table(path: Path) -> None:
    """See that a table of answers may be written to a path, before anything is answered.

    Raises:
        ValueError: if it is no CSV file, or one that certify.py wrote.
    """
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise ValueError(f"--out must be a file that ends in .csv with --from, got {path}")
    folder = CertificationFolder(path.parent)
    if folder.summary.exists() and path.name.startswith((f"{folder.table.stem}.", f"{folder.fractions.stem}.")):
        raise ValueError(f"--out must be another file, got {path}: it belongs to the certification")


def write_table(tables: Iterable[Answers], path: Path) -> None:
    """Write all answers with all their digits, a row for each example and question.

    Raises:
        ValueError: if the file cannot be written.
    """
    rows: list[tuple[object, ...]] = [COLUMNS]
    for table in tables:
        for index, found in table.by_index.items():
            for radius, answer in zip(table.radii, found, strict=True):
                pair = (radius, answer) if table.asked == "eps_in" else (answer, radius)
                rows.append((index, table.asked, *pair, table.coverage))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, as_csv(rows))
    except OSError as error:
        raise ValueError(f"--out must be a file that can be written, got {path}: {error.strerror or error}") from error


def _curves(answers: Answers) -> list[FractionCurve]:
    return [
        FractionCurve.of(answers.column(position), sigma=answers.sigma, eps_in=eps_in)
        for position, eps_in in enumerate(answers.radii)
    ]
