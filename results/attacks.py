"""What attacks on certificates reached: on the terminal, and on disk where a certificate is contradicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from center_smoothing.attack import AttackBudget
from center_smoothing.files import atomic_write
from center_smoothing.upper_median import upper_median
from lightning_modules import CertifiedExample
from results.folder import CertificationFolder
from results.rows import AttackedRow, Row, attacked_rows

# What a reader of the lower line in charts must know.
LOWER_BOUND = (
    "The attack is a search: what it reached is a lower bound on how far the smoothed output can be moved, and no "
    "proof of anything. Between it and eps_out lies what is not known. An abstention counts as 0."
)
_SHOWN = 5


def plan_line(budget: AttackBudget, *, evaluations: int) -> str:
    """Return what attacks will cost, before any sampling: evaluations of one, smoothed outputs at its end included."""
    return (
        f"  attack: pgd, {budget.steps} steps from {budget.starts} starts, {budget.samples} samples a step: about "
        f"{evaluations:,} evaluations more for each example and eps_in, a gradient counted as three"
    )


def result_lines(rows: Sequence[Row]) -> list[str]:
    """Return a table of the ratios by noise level and eps_in, and how often there was no gradient.

    Empty where nothing was attacked.
    """
    groups: dict[tuple[float, float], list[AttackedRow]] = {}
    for row in attacked_rows(rows):
        groups.setdefault((row.sigma, row.eps_in), []).append(row)
    if not groups:
        return []
    titles = f"{'median attack':>15} {'median ratio':>13} {'largest ratio':>14} {'base model':>11}"
    lines = [f"attack{'sigma':>9} {'eps_in':>8} {titles}"]
    for (sigma, eps_in), group in groups.items():
        reached, ratios, base = (
            [getattr(row, name) for row in group] for name in ("attack_eps", "attack_ratio", "base_attack_eps")
        )
        lines.append(
            f"{sigma:>15.4g} {eps_in:>8.4g} {upper_median(reached):>15.4g} {upper_median(ratios):>13.3f} "
            f"{max(ratios):>14.3f} {upper_median(base):>11.4g}"
        )
    attacked = attacked_rows(rows)
    without = sum(row.attack_gradient_free for row in attacked)
    if without:
        weaker = "searches had to do without gradients somewhere, which is a weaker attack"
        lines.append(f"attack: {without} of {len(attacked)} {weaker}")
    return lines


def contradiction_lines(rows: Sequence[Row], *, alpha: float, where: str) -> list[str]:
    """Say, loudly, where smoothed outputs moved further than certified; empty where none did.

    A single certificate may fail with probability alpha; ``where`` says where the counterexamples are.
    """
    found = sorted((row for row in attacked_rows(rows) if row.contradicts), key=lambda row: -row.attack_ratio)
    if not found:
        return []
    shown = [
        f"  example {row.index}, {row.smoother}, sigma={row.sigma:g}, eps_in={row.eps_in!r}: moved by "
        f"{row.attack_eps!r}, certified at most {row.eps_out!r}, ratio {row.attack_ratio:.4g}"
        for row in found[:_SHOWN]
    ]
    more = [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return [
        f"error: the attack CONTRADICTS {len(found)} of {len(attacked_rows(rows))} certificates:",
        *shown,
        *more,
        f"  each certificate may fail with probability {alpha:g}, the attack included: one of many may be chance. Else "
        "a bound, the noise or the model is not what it is taken for: try another --seed, and --audit.",
        f"  counterexamples: {where}",
    ]


def write_counterexample(
    folder: CertificationFolder, example: CertifiedExample, rows: Sequence[AttackedRow], *, seed: int
) -> None:
    """Keep everything about an example whose smoothed output moved further than certified, if it did.

    ``counterexamples/<index>.npz`` has ``x`` and ``center``; and an entry for each eps_in that is contradicted in
    ``perturbed`` (J, *in), ``center_perturbed`` (J, *out), ``distance``, ``eps_in``, ``eps_out`` (J,); and ``seed``, of
    the noise. The example has an attack for each row.
    """
    pairs = [(row, attack) for row, attack in zip(rows, example.attacks, strict=True) if row.contradicts]
    if not pairs:
        return
    assert example.point is not None  # it was attacked
    arrays: Mapping[str, Any] = {
        "x": example.point.double().numpy(),
        "center": example.certificate.center.cpu().double().numpy(),
        "perturbed": np.stack([attack.perturbed.cpu().double().numpy() for _, attack in pairs]),
        "center_perturbed": np.stack([attack.output.center.cpu().double().numpy() for _, attack in pairs]),
        "distance": np.array([row.attack_eps for row, _ in pairs]),
        "eps_in": np.array([row.eps_in for row, _ in pairs]),
        "eps_out": np.array([row.eps_out for row, _ in pairs]),
        "seed": np.array(seed),
    }
    folder.counterexamples.mkdir(exist_ok=True)
    atomic_write(folder.counterexamples / f"{example.index}.npz", lambda file: np.savez(file, **arrays))
