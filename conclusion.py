"""What the jobs of one certification gave, brought together in the files that a reader opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from callbacks import CertificationFolder, draw, html_report
from callbacks import certification_report as report
from callbacks.attack_results import LOWER_BOUND
from callbacks.certification_folder import Row, lines
from callbacks.certified_fraction_plot import write_fractions
from callbacks.example_pictures import Shown
from callbacks.html_report.of_folder import NOT_SETTINGS
from center_smoothing.promise import confidence, promise_line
from certification import Job, Run


@dataclass(frozen=True, eq=False)
class Part:
    """What one job gave.

    Attributes:
        job: which.
        rows: of its certificates.csv.
        results: of its summary.json.
        promise: what holds.
        page: its report.
    """

    job: Job
    rows: list[Row]
    results: list[dict[str, Any]]
    promise: str
    page: html_report.Report

    @classmethod
    def of(cls, run: Run) -> Part:
        """Bring the files of a run together."""
        job, (rows, results) = run.job, run.conclude()
        job.folder.check_consistent(job.folder.certificates())  # of examples that were there already, too
        smoother, grid = job.smoother, job.smoother.outputs.grid
        promise = promise_line(smoother.budget, smoother.distance, coverage=job.coverage, grid=grid)
        return cls(job, rows, results, promise, html_report.report_of_folder(job.folder, rows, promise=promise))


def folders(out: CertificationFolder, jobs: Sequence[Job]) -> list[tuple[CertificationFolder, list[Job]]]:
    """The folders with files for a reader, and the jobs at or below each.

    There is one for each of several kinds; the last one is that of all jobs.
    """
    kinds = list(dict.fromkeys(job.kind for job in jobs))
    of_kinds = [(CertificationFolder(out.path / kind), [job for job in jobs if job.kind == kind]) for kind in kinds]
    return [*(of_kinds if len(kinds) > 1 else []), (out, list(jobs))]


def label_of(folder: CertificationFolder, job: Job) -> str:
    """What sets a job apart from the others below a folder, as it sets their folders apart."""
    return ", ".join(job.folder.path.relative_to(folder.path).parts)


def config_of_all(jobs: Sequence[Job]) -> dict[str, Any]:
    """The configuration of one job, or of several: what they share, and lists of what sets them apart."""
    by_kind, levels = {job.kind: job.config for job in jobs}, radii_by_sigma(jobs)
    config = {name: value for of_kind in by_kind.values() for name, value in of_kind.items()}
    if len(by_kind) > 1:
        config |= {"smoother": list(by_kind), "budget": {kind: each["budget"] for kind, each in by_kind.items()}}
    if len(levels) > 1:
        config |= {"sigma": list(levels), "eps_in": sorted({radius for radii in levels.values() for radius in radii})}
    return config


def radii_by_sigma(jobs: Sequence[Job]) -> dict[float, list[float]]:
    """The eps_in that are answered at each sigma."""
    return {job.smoother.sigma: job.eps_in for job in jobs}


def write_files(folder: CertificationFolder, parts: Sequence[Part], run: Run) -> tuple[list[Row], list[dict[str, Any]]]:
    """Write the files for a reader of the parts at or below a folder, and return their rows and results."""
    jobs, rows = [part.job for part in parts], [row for part in parts for row in part.rows]
    several_kinds = len({job.kind for job in jobs}) > 1
    results = [
        {**({"smoother": part.job.kind} if several_kinds else {}), **result}
        for part in parts
        for result in part.results
    ]
    results.sort(key=lambda result: (result["h"], result["eps_in"]))
    config = config_of_all(jobs)
    title = _title(jobs, config)
    if len(parts) > 1:
        folder.write_rows(rows)
        rate = max((job.folder.read_summary() or {}).get("samples_per_second", 0.0) for job in jobs)
        run.write_summary(results, folder=folder, config=config, samples_per_second=rate)
    draw(shown(jobs), rows, results, title).savefig(folder.picture, dpi=150)
    write_fractions(folder, rows, title)
    page = parts[0].page if len(parts) == 1 else _report_of_all(parts, results, folder, title)
    html_report.write(page, folder.path / "report.html")
    return rows, results


def shown(jobs: Sequence[Job]) -> Shown:
    """Whose examples are shown: of each kind those at the noise level in the middle."""
    folders = {kind: [job.folder for job in jobs if job.kind == kind] for kind in {job.kind: None for job in jobs}}
    middle = {kind: found[len(found) // 2] for kind, found in folders.items()}
    return middle if len(middle) > 1 else next(iter(middle.values()))


def _report_of_all(
    parts: Sequence[Part], results: Sequence[dict[str, Any]], folder: CertificationFolder, title: str
) -> html_report.Report:
    """One page for all noise levels and smoothers, with a line for whatever sets them apart."""
    pages = {label_of(folder, part.job).replace("=", " = "): part.page for part in parts}
    kinds = {part.job.kind: part.page for part in parts}
    if len(pages) == len(kinds):  # one noise level, whose certificates answer in between too
        curves = [replace(page.curves[0], label=label) for label, page in pages.items()]
        summary = html_report.said(pages.values(), lambda page: page.summary)
    else:
        found = lines(results, several_levels=True)
        curves = [_curve(", ".join(line).replace("=", " = "), points) for line, points in found.items()]
        summary = [*parts[0].page.summary[:1], "The noise grows with the input radius, sigma = eps_in / h."]
    if len(kinds) > 1:
        summary.append(report.TWO_FUNCTIONS)
    configuration = {name: value for name, value in (folder.read_summary() or {}).items() if name not in NOT_SETTINGS}
    notes = html_report.said(pages.values(), lambda page: [note for note in page.notes if note == LOWER_BOUND])
    return html_report.report_of_folders(
        pages, curves, title=title, summary=summary, configuration=configuration, notes=notes
    )


def _curve(label: str, line: Sequence[dict[str, Any]]) -> html_report.Curve:
    return html_report.Curve(
        label,
        [result["eps_in"] for result in line],
        [result["median_eps_out"] for result in line],
        smoothing_loss=[result["median_smoothing_loss"] for result in line],
        abstention_rate=[result["abstention_rate"] for result in line],
        sigma=[result["eps_in"] / result["h"] for result in line],
        num_examples=int(line[0]["num_examples"]),
        attack_eps=[result["median_attack_eps"] for result in line if "median_attack_eps" in result],
    )


def _title(jobs: Sequence[Job], config: Mapping[str, Any]) -> str:
    sigma = "eps_in / h" if isinstance(config["sigma"], list) else f"{config['sigma']:g}"
    kinds, smoother = list(dict.fromkeys(job.kind for job in jobs)), jobs[0].smoother
    smoothed = "" if kinds == ["center"] else f"{' and '.join(kinds)}, "
    clipped = f", means clipped to {config['clip_norm']:g}" if "clip_norm" in config else ""
    return (
        f"{config['model']}, {smoothed}{smoother.distance!r}, sigma = {sigma}, {len(jobs[0].examples)} examples"
        f"{clipped}, each radius certified with probability {confidence(smoother.budget)}"
    )
