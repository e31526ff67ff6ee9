"""Several finished certification folders side by side, without an evaluation of the model (theory T6)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median_low
from typing import Any

from matplotlib.figure import Figure

from center_smoothing.budget import Coverage
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from results import html
from results.attacks import LOWER_BOUND
from results.certified_fraction import certified_fractions
from results.finished import Answers, FinishedCertification, Question
from results.folder import CertificationFolder
from results.identity import first_difference
from results.numbers import format_down, percent
from results.plots.certificates import draw_curves
from results.plots.fractions import write_fractions
from results.rows import COLUMNS, Row
from results.settings import flatten
from results.summary import summarise
from results.terminal import result_lines

# What a reader of certificates of both must know.
TWO_FUNCTIONS = (
    "These are different smoothed functions, each with a promise of its own: a certificate of one of them says nothing "
    "about another, and none says how far they are apart."
)
# Settings that are answered anew, or the same in all folders that can be compared.
_NO_DIFFERENCE = ("eps_in", "coverage", "relaxation", "distance_identity", "distance_sha256")
_SHOWN = 40  # characters of a setting that differs


def open_all(paths: Sequence[str]) -> dict[str, FinishedCertification]:
    """Open finished folders, and return them by label: their names, as far as those tell them apart.

    Raises:
        ValueError: for a folder that is not finished, twice the same, and for distances in other units.
    """
    folders = [CertificationFolder(path) for path in paths]
    places = [folder.path.resolve() for folder in folders]
    if len(set(places)) < len(places):
        raise ValueError(f"--from must name different folders to compare them, got {' '.join(paths)}")
    compared = [FinishedCertification.open(folder) for folder in folders]
    for each in compared[1:]:
        difference = first_difference(compared[0].config, each.config, ("distance",))
        if difference is not None:
            name, one, other = difference
            raise ValueError(
                f"--from must name folders of one distance to compare them, got {name} {one} and {other}: their radii "
                "are in different units"
            )
    return dict(zip(_labels(places), compared, strict=True))


def rows_at(finished: FinishedCertification, eps_in: Sequence[float], *, coverage: Coverage) -> list[Row]:
    """Return the rows of all examples for each eps_in, which were asked: the folder's own where they are the same."""
    same = finished.config.get("coverage", "pointwise") == coverage != "bonferroni"
    own = {(row.index, row.eps_in): row for row in finished.rows} if same else {}
    answers = finished.answers[Question("eps_in", tuple(eps_in), coverage)]
    found = []
    for index, radii in answers.by_index.items():
        known = {name: getattr(finished.by_index[index][0], name) for name in COLUMNS}
        for radius, eps_out in zip(eps_in, radii, strict=True):
            row = Row(**{**known, "eps_in": radius, "eps_out": eps_out, "theorem": "", "seconds": 0.0})
            found.append(own.get((index, radius), row))
    return found


def settings(finished: FinishedCertification) -> dict[str, Any]:
    """Return everything that the certificates depend on, under dotted names."""
    kept = {name: value for name, value in finished.config.items() if name not in _NO_DIFFERENCE}
    kept["budget"] = {"group": 1, **kept["budget"]}
    return flatten(
        {"checkpoint_sha256": finished.summary.get("checkpoint_sha256"), "smoother": DEFAULT_SMOOTHER, **kept}
    )


def _labels(places: Sequence[Path]) -> list[str]:
    """Return the last parts of each path, as many as tell all of them apart."""
    for count in range(1, max(len(place.parts) for place in places)):
        labels = [os.sep.join(place.parts[-count:]) for place in places]
        if len(set(labels)) == len(labels):
            return labels
    return list(map(str, places))


def asked_radii(compared: Mapping[str, FinishedCertification]) -> list[float]:
    """Return all eps_in that any of the folders was asked, ascending."""
    return sorted({row.eps_in for each in compared.values() for row in each.rows})


def difference_lines(compared: Mapping[str, FinishedCertification]) -> list[str]:
    """Return a line for each setting that is not the same in all folders."""
    return [
        f"  differ in {name}: " + ", ".join(f"{label} {str(value)[:_SHOWN]}" for label, value in values.items())
        for name, values in _differing(compared).items()
    ] or ["  the same settings in all folders"]


def _differing(compared: Mapping[str, FinishedCertification]) -> dict[str, dict[str, Any]]:
    of_each = {label: settings(each) for label, each in compared.items()}
    names = dict.fromkeys(name for each in of_each.values() for name in each)
    found = {}
    for name in names:
        values = {label: each.get(name, "none") for label, each in of_each.items()}
        # budgets of different smoothers have numbers of their own
        there = [value for value in values.values() if not (name.startswith("budget.") and value == "none")]
        if len(set(map(str, there))) > 1:
            found[name] = values
    return found


def results(compared: Mapping[str, FinishedCertification], rows: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Return medians and rates of each folder at each eps_in, with its label, by eps_in."""
    found = [
        {"label": label, **result}
        for label, own in rows.items()
        for result in summarise(own, own[0].sigma, compared[label].yardstick, conversion=compared[label].conversion)
    ]
    return sorted(found, key=lambda result: result["eps_in"])


def lines(
    compared: Mapping[str, FinishedCertification],
    rows: Mapping[str, Sequence[Row]],
    inputs: Mapping[str, Answers],
    *,
    coverage: Coverage,
) -> list[str]:
    """Return all that is said on the terminal: what differs, the medians side by side, and what they promise.

    There are at least two folders by label, the rows of their output radii and their answers for input radii, both of
    one coverage; what was not asked for is empty.
    """
    found = [f"{len(compared)} folders side by side, without sampling", *difference_lines(compared)]
    if rows:
        found += ["median certified output radii, rounded up", *result_lines(results(compared, rows))]
    if inputs:
        width = max(map(len, inputs))
        found += [
            "median of the largest certified input radii, rounded down; 0: no certificate",
            f"{'':<{width}} {'eps_out':>8} {'median eps_in':>14} {'certified':>10}",
        ]
        for position, radius in enumerate(next(iter(inputs.values())).radii):
            for label, table in inputs.items():
                column = table.column(position)
                certified = percent(sum(answer > 0.0 for answer in column), len(column))
                found.append(f"{label:<{width}} {radius:>8.4g} {format_down(median_low(column)):>14} {certified:>10}")
    promises = html.merge_sentences(compared, lambda each: [each.promise(coverage)])
    return [*found, *promises, *_two_functions(compared)]


def _two_functions(compared: Mapping[str, FinishedCertification]) -> list[str]:
    return [TWO_FUNCTIONS] if len({settings(each)["smoother"] for each in compared.values()}) > 1 else []


def write(
    compared: Mapping[str, FinishedCertification], rows: Mapping[str, Sequence[Row]], out: Path, *, coverage: Coverage
) -> list[Path]:
    """Write report.html, certificates.png, certified_fraction.csv and certified_fraction.png, and return their paths.

    The folders, at least two by label, have the answers to their ``curve_question``, of the coverage of the rows.
    The folder that is written holds no certification.
    """
    folder, first = CertificationFolder(out), next(iter(compared.values()))
    found, overlap = results(compared, rows), first.holds_boxes
    title = f"{' and '.join(compared)}, {first.config['distance']}"
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    figure.suptitle(title, fontsize=9, wrap=True)
    norms = " or ".join(dict.fromkeys(each.norm for each in compared.values()))
    draw_curves(figure.add_subplot(), [row for own in rows.values() for row in own], found, overlap=overlap, norm=norms)
    figure.savefig(folder.picture, dpi=150)
    fractions = [
        curve
        for label, own in rows.items()
        for curve in certified_fractions(own, label=label, conversion=compared[label].conversion)
    ]
    write_fractions(folder, fractions, title, overlap=overlap)
    pages = {
        label: html.report_of(each, rows[label], promise=each.promise(coverage), coverage=coverage)
        for label, each in compared.items()
    }
    differing = _differing(compared)
    configuration = {name: value for name, value in settings(first).items() if name not in differing}
    configuration |= {f"{name}, {label}": value for name, each in differing.items() for label, value in each.items()}
    page = html.report_of_folders(
        pages,
        [replace(page.curves[0], label=label) for label, page in pages.items()],
        fractions=fractions,
        files=[folder.fractions.name],
        title=title,
        summary=[*html.merge_sentences(pages, lambda page: page.summary), *_two_functions(compared)],
        configuration=configuration,
        notes=html.merge_sentences(pages, lambda page: [note for note in page.notes if note == LOWER_BOUND]),
    )
    audit = [{**check, "check": f"{label}: {check['check']}"} for label, page in pages.items() for check in page.audit]
    html.write(replace(page, audit=audit, all_rows="certificates.csv of each folder"), out / "report.html")
    return [out / "report.html", folder.picture, folder.fractions, folder.fraction_picture]
