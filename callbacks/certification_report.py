"""What a certification tells its user: on the terminal before and after, and in Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callbacks.certification_folder import COLUMNS, CertificationFolder, Row
from center_smoothing import Distance, SmoothingBudget

_IMAGES = 10


def plan_lines(
    budget: SmoothingBudget, distance: Distance, *, sigma: float, eps_in: Sequence[float], num_examples: int
) -> list[str]:
    """What will be sampled and what that can certify, before any sampling."""
    lines = [
        f"plan: {num_examples} examples, {distance!r}, sigma={sigma:g}, method={budget.method}, n={budget.n}, "
        f"m={budget.m}, k={budget.k}, delta={budget.delta:g}, alpha={budget.alpha:g}",
        f"  {'h':>6} {'eps_in':>8} {'p':>9} {'rank of m':>17} {'least m':>9}",
    ]
    for radius in eps_in:
        plan = budget.plan(radius / sigma)
        rank = f"{plan.rank}/{budget.m}"
        lines.append(f"  {plan.h:>6.4g} {radius:>8.4g} {plan.p:>9.6f} {rank:>17} {plan.least_m:>9.0f}")
    lines.append(
        f"  {budget.evaluations:,} evaluations per example, {budget.evaluations * num_examples:,} in all; "
        f"abstains on at most {rounded_up(100 * budget.abstention_probability(), 1)}% of inputs"
    )
    return lines


def result_lines(results: Sequence[dict[str, float | int]]) -> list[str]:
    """The medians, certified radii rounded up."""
    lines = [f"{'h':>6} {'eps_in':>8} {'median eps_out':>15} {'smoothing loss':>15} {'abstained':>10} {'examples':>9}"]
    for result in results:
        lines.append(
            f"{result['h']:>6.4g} {result['eps_in']:>8.4g} {rounded_up(result['median_eps_out']):>15} "
            f"{result['median_smoothing_loss']:>15.4g} {result['abstention_rate']:>10.1%} {result['num_examples']:>9}"
        )
    return lines


def promise_line(budget: SmoothingBudget, distance: Distance, *, coverage: str) -> str:
    """What exactly holds."""
    each = "each eps_in by itself" if coverage == "pointwise" else "all eps_in at once"
    return (
        f"promise, for {each}: no change of an input by at most eps_in (l2 norm) moves its smoothed output by more "
        f"than its eps_out ({distance!r}), with probability {confidence(budget)} over the sampling, unless one of "
        "the two abstains"
    )


def confidence(budget: SmoothingBudget) -> str:
    """1 - alpha for the eye, never above the true one."""
    alpha = Decimal(repr(budget.alpha))
    quantum = Decimal(1).scaleb(alpha.adjusted() - 2)
    return f"{(1 - alpha).quantize(quantum, ROUND_FLOOR).normalize():f}"


def non_finite_lines(folder: CertificationFolder, rows: Sequence[Row]) -> list[str]:
    """One line if the base function returned NaN or inf anywhere."""
    counts = {index: int(np.isinf(np.load(folder.distances(index))).sum()) for index in {row.index for row in rows}}
    affected = sorted(index for index, count in counts.items() if count)
    if not affected:
        return []
    shown = ", ".join(map(str, affected[:5])) + (", ..." if len(affected) > 5 else "")
    return [
        f"note: the model returned NaN or inf {sum(counts.values()):,} times, around examples {shown}: such outputs "
        "count as outside every ball"
    ]


def rounded_up(value: float, digits: int = 2) -> str:
    """A certified radius for the eye, never below the true one.

    Example:
        >>> rounded_up(80.001)
        '80.01'
    """
    text = f"{value:.{digits}f}"
    return text if float(text) >= value else f"{value + 10.0**-digits:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds for the eye.

    Example:
        >>> duration(5400)
        '90 min'
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def log_to_wandb(
    folder: CertificationFolder,
    rows: Sequence[Row],
    results: Sequence[dict[str, Any]],
    *,
    config: dict[str, Any],
    group: str | None,
    offline: bool,
) -> None:
    """The table, the curve and the images of a certification whose files are on disk.

    Args:
        folder: with the files.
        rows: of certificates.csv.
        results: of summary.json; each is logged with eps_in as the x axis.
        config: of the certification.
        group: the run of the training that the checkpoint came from: W&B shows both together.
        offline: write to disk instead of the server.
    """
    import wandb  # slow to import, and not needed to refuse bad input

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "center-smoothing"),
        dir=folder.path,
        mode="offline" if offline else None,
        job_type="certify",
        name=f"certify {folder.path.name}",
        group=group,
        config=config,
    )
    run.define_metric("eps_in")
    for key in (results[0] if results else {}).keys() - {"eps_in"}:
        run.define_metric(key, step_metric="eps_in")
    for result in results:
        run.log(result)
    run.log({"certificates": wandb.Table(list(COLUMNS), [[getattr(row, name) for name in COLUMNS] for row in rows])})
    images = [
        wandb.Image(np.concatenate(pictures, axis=1).clip(0.0, 1.0), caption=f"#{index}: input | base | smoothed")
        for index in list(dict.fromkeys(row.index for row in rows))[:_IMAGES]
        if (pictures := output_pictures(folder, index))
    ]
    run.log({"curve": wandb.Image(str(folder.picture)), "examples": images})
    run.finish()


def output_pictures(folder: CertificationFolder, index: int) -> list[NDArray[np.float32]]:
    """Input, base output and smoothed output as (H, W, C) arrays; an empty list where they are not images."""
    with np.load(folder.outputs(index), allow_pickle=False) as arrays:
        images = [arrays[name] for name in ("image", "base", "smoothed")]
    if any(image.ndim != 3 or image.shape[0] not in (1, 3) for image in images):
        return []
    return [np.moveaxis(image, 0, -1) for image in images]
