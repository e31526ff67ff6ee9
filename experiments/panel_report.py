"""The report of a panel, from those of its certifications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from center_smoothing import DISTANCES
from center_smoothing.promise import promise_line
from experiments.findings import findings
from experiments.plan import Plan, Point
from results.finished import MAX_SHOWN
from results.html import Curve, Report, report_of_folder, report_of_folders


def panel_report(plan: Plan, points: Sequence[Point], *, title: str, scale: float | None) -> Report:
    """Return a report with one line for each h, and all examples of all certifications."""
    promise = promise_line(plan.budget, DISTANCES[plan.distance], coverage="pointwise")
    most = max(1, MAX_SHOWN // len(plan.sigmas))
    levels = ", ".join(f"{level:g}" for level in sorted({plan.training_sigma(sigma) for sigma in plan.sigmas}))
    what = (
        f"The {plan.options.task} of {plan.options.data}, trained at sigma = {levels}, certified on "
        f"{plan.options.num_examples} random test examples. The noise of the smoothing grows with the input radius, "
        "sigma = eps_in / h, and the model trained nearest to it is smoothed."
    )
    return report_of_folders(
        {
            f"sigma = {sigma!r}": report_of_folder(plan.certification(sigma), promise=promise, most=most)
            for sigma in plan.sigmas
        },
        [_curve(points, h) for h in dict.fromkeys(point.h for point in points)],
        title=title,
        summary=[what, *(f"Found: {line}." for line in findings(points))],
        configuration=_configuration(plan),
        notes=[] if scale is None else [_scale_note(points, scale)],
        reference_lines={} if scale is None else {"the paper's scale": scale},
    )


def _curve(points: Sequence[Point], h: float) -> Curve:
    line = [point for point in points if point.h == h]
    return Curve(
        f"h = {h:g}",
        [point.eps_in for point in line],
        [point.eps_out.value for point in line],
        smoothing_loss=[point.smoothing_loss.value for point in line],
        abstention_rate=[point.abstention_rate for point in line],
        sigma=[point.sigma for point in line],
        low=[point.eps_out.low for point in line],
        high=[point.eps_out.high for point in line],
        loss_low=[point.smoothing_loss.low for point in line],
        loss_high=[point.smoothing_loss.high for point in line],
        num_examples=min(point.num_examples for point in line),
    )


def _configuration(plan: Plan) -> dict[str, Any]:
    """Return what was asked for, what was trained, and what each certification recorded."""
    certifications = {}
    for sigma in plan.sigmas:
        folder = plan.certification(sigma)
        place = folder.path.relative_to(plan.out / "certifications").as_posix()
        summary = folder.read_summary() or {}
        certifications[place] = {name: value for name, value in summary.items() if name != "results"}
    return {
        "command line": plan.options.as_dict(),
        "training": {name: plan.settings[name] for name in ("experiment", "seed_everything", "model", "data")},
        "epochs": plan.settings["trainer"]["max_epochs"],
        "certification": certifications,
    }


def _scale_note(points: Sequence[Point], scale: float) -> str:
    largest = max((point.eps_out.value for point in points), default=0.0)
    return (
        f"The paper puts total variation in perspective by {scale:g}, one unit for each pair of neighbouring pixels "
        f"and channel. It is a scale and not a bound: a checkerboard and its inverse are twice as far apart. The "
        f"largest median eps_out here is {100.0 * largest / scale:.1f}% of it."
    )
