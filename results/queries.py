"""What a finished certification folder answers, both ways, without an evaluation of the model (theory T6)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from center_smoothing import CertificateBase
from center_smoothing.budget import Coverage
from center_smoothing.files import atomic_write
from center_smoothing.promise import promise_line
from results.certified_fraction import FractionCurve
from results.folder import CertificationFolder
from results.numbers import format_down, format_up, percent

COLUMNS = ("index", "asked", "eps_in", "eps_out", "coverage")
# The shares of the examples that are shown beside the median.
_PERCENTS = (25, 75, 90)


@dataclass(frozen=True)
class Answers:
    """A table of certified radii: an answer of each example to each question.

    Attributes:
        asked: which radius was given; "eps_in": the answers are certified output radii, inf where there is none;
            "eps_out": they are the largest certified input radii, 0 where there is none.
        radii: (J,) the distinct ones that were given.
        by_index: (J,) answers of each example, by its index in the data set.
        coverage: of the answers, see :meth:`center_smoothing.Certificate.eps_out`.
        sigma: noise level, in units of x.
    """

    asked: Literal["eps_in", "eps_out"]
    radii: tuple[float, ...]
    by_index: Mapping[int, tuple[float, ...]]
    coverage: Coverage
    sigma: float

    def column(self, position: int) -> list[float]:
        """The answers of all examples (N,) to one question."""
        return [answers[position] for answers in self.by_index.values()]


def certificates_of_finished(folder: CertificationFolder) -> dict[int, CertificateBase]:
    """The certificates of a finished folder by index.

    Args:
        folder: of one noise level.

    Raises:
        ValueError: if it is none, is not finished, is damaged, or has several noise levels or smoothers.
    """
    config = (folder.read_summary() or {}).get("config", {})
    for name, one in (("smoother", "smoother"), ("sigma", "noise level")):
        if isinstance(config.get(name), list) and len(config[name]) > 1:
            parts = ", ".join(map(str, folder.parts())) or "its parts, once they are there"
            raise ValueError(f"--from must be the folder of one {one}, got {folder.path}: take one of {parts}")
    certificates = folder.certificates()
    wanted = config.get("num_examples", len(certificates))
    if len(certificates) != wanted:
        raise ValueError(
            f"--from must be a finished folder, got {folder.path}: {len(certificates)} of {wanted} examples are "
            "certified; run the same command again to go on"
        )
    return certificates


def output_radii(
    certificates: Mapping[int, CertificateBase], eps_in: Sequence[float], *, coverage: Coverage
) -> Answers:
    """The certified output radius of each example for each input radius.

    Args:
        certificates: at least one, at one noise level.
        eps_in: (J,) distinct input radii, at least 0, in units of x.
        coverage: of the answers; "bonferroni" counts the J of this call.

    Raises:
        ValueError: if an eps_in is negative or NaN.
    """
    found = {
        index: tuple(np.atleast_1d(certificate.eps_out(eps_in, coverage=coverage)).tolist())
        for index, certificate in certificates.items()
    }
    return Answers("eps_in", tuple(eps_in), found, coverage, _sigma(certificates))


def input_radii(
    certificates: Mapping[int, CertificateBase], eps_out: Sequence[float], *, coverage: Coverage
) -> Answers:
    """The largest input radius of each example at which it is certified to move by at most each output radius.

    Args:
        certificates: at least one, at one noise level.
        eps_out: (J,) distinct output radii, at least 0.
        coverage: of the answers; "bonferroni" counts the J of this call.

    Raises:
        ValueError: if an eps_out is negative or NaN.
    """
    found = {
        index: tuple(np.atleast_1d(certificate.eps_in(eps_out, coverage=coverage)).tolist())
        for index, certificate in certificates.items()
    }
    return Answers("eps_out", tuple(eps_out), found, coverage, _sigma(certificates))


def lower_median(values: Sequence[float]) -> float:
    """The median of input radii (N,), N >= 1; of an even count the lower of the two middle values, the safe side.

    Example:
        >>> lower_median([0.0, 0.3, 0.5, 0.4])
        0.3
    """
    return sorted(values)[(len(values) - 1) // 2]


def lines(
    folder: CertificationFolder, certificates: Mapping[int, CertificateBase], tables: Sequence[Answers]
) -> list[str]:
    """All that is said on the terminal: the tables, and what they promise.

    Args:
        folder: that answered.
        certificates: its own.
        tables: at least one, of one coverage.
    """
    config = (folder.read_summary() or {}).get("config", {})
    distance = config.get("distance", "the distance of the configuration")
    found = [f"{len(certificates)} examples of {folder.path}, sigma={tables[0].sigma:g}, without sampling"]
    for table in tables:
        found += table_lines(table)
        if table.asked == "eps_in":
            found += fraction_lines(table)
    budget = next(iter(certificates.values())).budget
    return [*found, promise_line(budget, distance, coverage=tables[0].coverage, grid=config.get("grid"))]


def table_lines(answers: Answers) -> list[str]:
    """A table for the terminal: a line for each example, the median, and how many are certified.

    Output radii are rounded up and input radii down.
    """
    titles = [f"{answers.asked}={radius:g}" for radius in answers.radii]
    width = max(14, *map(len, titles))
    columns = [answers.column(position) for position in range(len(titles))]
    if answers.asked == "eps_in":
        curves = _curves(answers)
        heading, shown = "certified output radius eps_out, rounded up; inf: no certificate", format_up
        last = {"median": [format_up(curve.median) for curve in curves]}
    else:
        heading, shown = "largest certified input radius eps_in, rounded down; 0: no certificate", format_down
        certified = [sum(radius > 0.0 for radius in column) for column in columns]
        last = {
            "median": [format_down(lower_median(column)) for column in columns],
            "certified": [percent(count, len(answers.by_index)) for count in certified],
        }
    cells = {"index": titles, **{str(index): map(shown, found) for index, found in answers.by_index.items()}, **last}
    return [heading, *(f"{name:>9} " + " ".join(f"{cell:>{width}}" for cell in row) for name, row in cells.items())]


def fraction_lines(answers: Answers) -> list[str]:
    """How far which share of the examples is certified, a line for each eps_in; output radii are rounded up."""
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


def write_table(tables: Sequence[Answers], path: Path) -> None:
    """Write all answers with all their digits, a row for each example and question.

    Raises:
        ValueError: if the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        for index, found in table.by_index.items():
            for radius, answer in zip(table.radii, found, strict=True):
                pair = (radius, answer) if table.asked == "eps_in" else (answer, radius)
                writer.writerow([index, table.asked, *pair, table.coverage])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, text.getvalue())
    except OSError as error:
        raise ValueError(f"--out must be a file that can be written, got {path}: {error.strerror or error}") from error


def _curves(answers: Answers) -> list[FractionCurve]:
    return [
        FractionCurve.of(answers.column(position), sigma=answers.sigma, eps_in=eps_in)
        for position, eps_in in enumerate(answers.radii)
    ]


def _sigma(certificates: Mapping[int, CertificateBase]) -> float:
    return next(iter(certificates.values())).sigma
