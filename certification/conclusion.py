"""What the jobs of one certification gave, brought together in the files that a reader opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from center_smoothing.promise import confidence, promise_line
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from certification.jobs import Job, merged_config
from certification.run import Run
from results import html
from results.attacks import LOWER_BOUND
from results.certified_fraction import certified_fractions
from results.folder import CertificationFolder
from results.html.of_folder import NOT_SETTINGS
from results.plots.certificates import draw_certificates
from results.plots.examples import holds_boxes
from results.plots.fractions import write_fractions
from results.rows import Row
from results.summary import results_by_line


@dataclass(frozen=True, eq=False)
class JobResult:
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
    page: html.Report

    @classmethod
    def of(cls, run: Run) -> JobResult:
        """Bring the files of a run together."""
        job, (rows, results) = run.job, run.conclude()
        job.folder.check_consistent(job.folder.certificates())  # of examples that were there already, too
        smoother, grid = job.smoother, job.smoother.outputs.grid
        promise = promise_line(smoother.budget, smoother.distance, coverage=job.coverage, grid=grid)
        return cls(job, rows, results, promise, html.report_of_folder(job.folder, rows, promise=promise))


def write_files(
    folder: CertificationFolder, parts: Sequence[JobResult], run: Run
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Write the files for a reader of a folder with these parts, and return their rows and results."""
    jobs, rows = [part.job for part in parts], [row for part in parts for row in part.rows]
    results = [result for part in parts for result in part.results]
    results.sort(key=lambda result: (result["h"], result["eps_in"]))
    config = merged_config(jobs)
    title = _title(jobs, config)
    if len(parts) > 1:
        folder.write_rows(rows)
        rate = max((job.folder.read_summary() or {}).get("samples_per_second", 0.0) for job in jobs)
        run.write_summary(results, folder=folder, config=config, samples_per_second=rate)
    draw_certificates(shown_folders(jobs), rows, results, title).savefig(folder.picture, dpi=150)
    write_fractions(folder, certified_fractions(rows), title, overlap=holds_boxes(folder))
    page = parts[0].page if len(parts) == 1 else _report_of_all(parts, results, folder, title)
    html.write(page, folder.path / "report.html")
    return rows, results


def shown_folders(jobs: Sequence[Job]) -> CertificationFolder:
    """Return the folder whose examples are shown: that of the noise level in the middle."""
    return jobs[len(jobs) // 2].folder


def _report_of_all(
    parts: Sequence[JobResult], results: Sequence[dict[str, Any]], folder: CertificationFolder, title: str
) -> html.Report:
    """Return one page for all noise levels, with a line for each h."""
    pages = {part.job.folder.path.name.replace("=", " = "): part.page for part in parts}
    found, summary = results_by_line(results, several_levels=True), folder.read_summary() or {}
    return html.report_of_folders(
        pages,
        [_curve(line.replace("=", " = "), points) for line, points in found.items()],
        title=title,
        summary=[*parts[0].page.summary[:1], "The noise grows with the input radius, sigma = eps_in / h."],
        configuration={name: value for name, value in summary.items() if name not in NOT_SETTINGS},
        notes=[LOWER_BOUND] if any(LOWER_BOUND in part.page.notes for part in parts) else [],
    )


def _curve(label: str, line: Sequence[dict[str, Any]]) -> html.Curve:
    return html.Curve(
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
    kind, smoother = jobs[0].kind, jobs[0].smoother
    smoothed = "" if kind == DEFAULT_SMOOTHER else f"{kind}, "
    clipped = f", means clipped to {config['clip_norm']:g}" if "clip_norm" in config else ""
    return (
        f"{config['model']}, {smoothed}{smoother.distance!r}, sigma = {sigma}, {len(jobs[0].examples)} examples"
        f"{clipped}, each radius certified with probability {confidence(smoother.budget)}"
    )
