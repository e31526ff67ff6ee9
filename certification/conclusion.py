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
from results.finished import MAX_SHOWN, FinishedCertification, spread
from results.folder import CertificationFolder
from results.html.of_folder import FILES, NOT_SETTINGS
from results.plots.certificates import draw_certificates
from results.plots.fractions import write_fractions
from results.rows import Row
from results.summary import results_by_line, sigma_of, summarise


@dataclass(frozen=True, eq=False)
class JobResult:
    """What one job gave."""

    job: Job
    results: list[dict[str, Any]]  # of its summary.json
    promise: str
    finished: FinishedCertification  # read back from the disk, with the certificates of earlier runs
    page: html.Report


def read_back(runs: Sequence[Run]) -> list[JobResult]:
    """Bring the files of each run together, and read them back: each once, an example at a time."""
    concluded = [run.conclude() for run in runs]
    shown = spread(concluded[0], max(1, MAX_SHOWN // len(runs)))
    found = []
    for run in runs:
        job = run.job
        outputs = job.smoother.outputs
        measures: dict[str, Any] = {"grid": outputs.grid, "threat": outputs.threat.norm}
        promise = promise_line(job.smoother.budget, job.smoother.distance, coverage=job.coverage, **measures)
        finished = FinishedCertification.open(job.folder)
        finished = finished.read(html.curve_question(finished), shown=shown, distance=job.smoother.distance)
        results = summarise(finished.rows, job.smoother.sigma, finished.yardstick, conversion=job.conversion)
        run.write_summary(results)
        found.append(JobResult(job, results, promise, finished, html.report_of(finished, promise=promise)))
    return found


def write_files(
    folder: CertificationFolder, parts: Sequence[JobResult], run: Run
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Write the files for a reader of a folder with these parts, and return their rows and results."""
    jobs, rows = [part.job for part in parts], [row for part in parts for row in part.finished.rows]
    results = [result for part in parts for result in part.results]
    results.sort(key=lambda result: (result["h"], result["eps_in"]))
    config = merged_config(jobs)
    title = _title(jobs, config)
    if len(parts) > 1:
        folder.write_rows(rows)
        rate = max(part.finished.summary.get("samples_per_second", 0.0) for part in parts)
        run.write_summary(results, folder=folder, config=config, samples_per_second=rate)
    shown = shown_examples(parts)
    draw_certificates(shown, rows, results, title).savefig(folder.picture, dpi=150)
    fractions = certified_fractions(rows, conversion=jobs[0].conversion)
    write_fractions(folder, fractions, title, overlap=shown.holds_boxes)
    page = parts[0].page if len(parts) == 1 else _report_of_all(parts, results, folder, title)
    html.write(page, folder.path / "report.html")
    return rows, results


def shown_examples(parts: Sequence[JobResult]) -> FinishedCertification:
    """Return the certification whose examples are shown: that of the noise level in the middle."""
    return parts[len(parts) // 2].finished


def _report_of_all(
    parts: Sequence[JobResult], results: Sequence[dict[str, Any]], folder: CertificationFolder, title: str
) -> html.Report:
    """Return one page for all noise levels, with a line for each h."""
    pages = {part.job.folder.path.name.replace("=", " = "): part.page for part in parts}
    found, summary = results_by_line(results, several_levels=True), folder.read_summary() or {}
    norm = parts[0].page.curves[0].norm
    curves = [
        html.Curve(
            label.replace("=", " = "),
            [result["eps_in"] for result in line],
            [result["median_eps_out"] for result in line],
            smoothing_loss=[result["median_smoothing_loss"] for result in line],
            abstention_rate=[result["abstention_rate"] for result in line],
            sigma=[sigma_of(result) for result in line],
            conversion=line[0].get("conversion", 1.0),
            norm=norm,
            relative=[result["relative_eps_out"] for result in line if "relative_eps_out" in result],
            num_examples=int(line[0]["num_examples"]),
            attack_eps=[result["median_attack_eps"] for result in line if "median_attack_eps" in result],
        )
        for label, line in found.items()
    ]
    return html.report_of_folders(
        pages,
        curves,
        title=title,
        summary=[*parts[0].page.summary[:1], "The noise grows with the input radius, sigma = eps_in / h."],
        configuration={name: value for name, value in summary.items() if name not in NOT_SETTINGS},
        origin=summary.get("origin", {}),
        files=FILES,
        notes=[LOWER_BOUND] if any(LOWER_BOUND in part.page.notes for part in parts) else [],
    )


def _title(jobs: Sequence[Job], config: Mapping[str, Any]) -> str:
    sigma = "eps_in / h" if isinstance(config["sigma"], list) else f"{config['sigma']:g}"
    kind, smoother = config["smoother"], jobs[0].smoother
    smoothed = "" if kind == DEFAULT_SMOOTHER else f"{kind}, "
    clipped = f", means clipped to {config['clip_norm']:g}" if "clip_norm" in config else ""
    return (
        f"{config['model']}, {smoothed}{smoother.distance!r}, sigma = {sigma}, {len(jobs[0].examples)} examples"
        f"{clipped}, each radius certified with probability {confidence(smoother.budget)}"
    )
