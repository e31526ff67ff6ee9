"""What a certification tells its user on the terminal, before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

from center_smoothing import Distance, Smoother, SmoothingBudget
from center_smoothing.budget import Coverage
from center_smoothing.planner import predicted_eps_out
from center_smoothing.threats import NORMS
from results.finished import FinishedCertification
from results.numbers import duration, format_up, percent_up, rounded_up
from results.summary import sigma_of

_NAMES = 10


def plan_lines(
    smoother: Smoother,
    *,
    levels: Mapping[float, Sequence[float]],
    num_examples: int | None,
    conversion: float = 1.0,
) -> list[str]:
    """Return what will be sampled and what that can certify, before any sampling.

    Args:
        smoother: at one of the noise levels.
        levels: the eps_in that are answered at each sigma.
        num_examples: certified at each sigma; None where that is not known.
        conversion: h is conversion * eps_in / sigma (theory T15), at most.
    """
    budget, asked = smoother.budget, [(sigma, radius) for sigma, radii in levels.items() for radius in radii]
    norm, h = smoother.outputs.threat.norm, [conversion * radius / sigma for sigma, radius in asked]
    heading, *table = smoother.plan_table(h)
    examples = "all" if num_examples is None else num_examples
    lines = [
        f"plan: {examples} examples, {smoother.distance!r}, sigma={', '.join(f'{sigma:g}' for sigma in levels)}, "
        f"method={budget.method}, n={budget.n}, m={budget.m}, {smoother.plan_settings}, alpha={budget.alpha:g}"
        f"{_in_norm(norm)}",
        f"  {'sigma':>8} {'h':>6} {'eps_in':>8} {heading}",
    ]
    for (sigma, radius), each, columns in zip(asked, h, table, strict=True):
        lines.append(f"  {sigma:>8.4g} {each:>6.4g} {radius:>8.4g} {columns}")
    in_all = "" if num_examples is None else f", {budget.evaluations * num_examples * len(levels):,} in all"
    if budget.looks > 1:
        lines.append(f"  may stop an example at {budget.stops}")
    lines.append(
        f"  {'at most ' if budget.looks > 1 else ''}{budget.evaluations:,} evaluations per example and sigma"
        f"{in_all}; abstains {budget.abstains}"
    )
    return lines


def denoiser_line(denoiser: Mapping[str, Any]) -> str:
    """Say which denoiser of a configuration stands in front of the model, before any sampling."""
    return f"denoiser: {denoiser['name']}, sha256 {denoiser['sha256'][:12]}"


def _in_norm(norm: str) -> str:
    """Name the norm of eps_in where it is another one than l2."""
    return "" if norm == "l2" else f", eps_in in {NORMS[norm]}"


def grid_line(grid: int, change: tuple[float, float]) -> str:
    """Say by how much rounding to so many steps per unit changes the inputs: any value at most, and in l2 norm."""
    largest, norm = (f"{value * 1.005:.3g}" for value in change)  # rounded up
    beyond = "" if change[0] > 2.0**-24 else ": none beyond the rounding of float32"
    return (
        f"  noise: discrete, exact on a grid of {grid} steps per unit; rounding the inputs to it changes no value by "
        f"more than {largest}, and none in l2 norm by more than {norm}{beyond}"
    )


def planning_table(
    budgets: Sequence[SmoothingBudget],
    distance: Distance,
    *,
    h: Sequence[float],
    sigma: float | None,
    coverage: Coverage,
    answers: int,
    inputs: int | None,
    samples_per_second: float | None,
    conversion: float = 1.0,
    norm: str = "l2",
) -> list[str]:
    """Return what budgets that differ in m cost, and what they can certify at each h, to choose among them.

    Args:
        budgets: at least one, by m.
        distance: between outputs.
        h: the eps_in / sigma in question.
        sigma: noise level, in units of x; None where there is no single one.
        coverage: of the answers.
        answers: how many there are at each noise level.
        inputs: how many are to be certified, at all noise levels together; None where that is not known.
        samples_per_second: of all processes together; None where that is not known.
        conversion: h is conversion * eps_in / sigma (theory T15).
        norm: that eps_in is measured in, one of ``NORMS``.
    """
    first, unit = budgets[0], None if sigma is None else sigma / conversion
    lines = [
        f"plan: {distance!r}, {'' if sigma is None else f'sigma={sigma:g}, '}method={first.method}, n={first.n}, "
        f"{first.settings}, alpha={first.alpha:g}{_in_norm(norm)}",
        *_aligned(_costs(budgets, inputs=inputs, samples_per_second=samples_per_second)),
        *_aligned(_certifiable(budgets, distance, h=h, unit=unit, coverage=coverage, answers=answers)),
    ]
    lines += [
        "  p: share of the noisy outputs that the ball around the center must hold at that h",
        "  rank of m: which of the m sorted distances from the center is the radius of that ball",
        "  needs: with fewer certification outputs nothing is certified at that h",
        "  theorem: what bounds the ball at a changed input, in docs/theory.md; T3 holds always, T7 is closer",
    ]
    if len(budgets) > 1:
        lines.append(
            "  *: relative to the least at that h, predicted for Gaussian outputs in 16 dimensions: a guide only"
        )
    if coverage != "pointwise":
        lines.append(
            f"  p, rank and what it needs are those of a single radius: --coverage {coverage} takes larger ranks"
        )
    if budgets[-1].looks > 1:
        lines.append(f"  at most so many evaluations: may stop an example at {budgets[-1].stops}")
    return lines


def _costs(
    budgets: Sequence[SmoothingBudget], *, inputs: int | None, samples_per_second: float | None
) -> list[list[str]]:
    """Return a row for each m."""
    table = [["m", "evaluations", "s per input", f"{inputs} inputs", "abstains on at most"]]
    for budget in budgets:
        seconds = math.nan if samples_per_second is None else budget.evaluations / samples_per_second
        in_all = "" if math.isnan(seconds) or inputs is None else duration(seconds * inputs)
        abstains = f"{rounded_up(100 * budget.abstention_probability(), 1)}% of inputs"
        each = f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}"
        table.append([f"{budget.m:,}", f"{budget.evaluations:,}", each, in_all, abstains])
    shown = [True, True, samples_per_second is not None, samples_per_second is not None and inputs is not None, True]
    return [list(compress(row, shown)) for row in table]


def _certifiable(
    budgets: Sequence[SmoothingBudget],
    distance: Distance,
    *,
    h: Sequence[float],
    unit: float | None,
    coverage: Coverage,
    answers: int,
) -> list[list[str]]:
    """Return a row for each h and m; ``unit`` is the eps_in of h = 1."""
    table = [["h", "eps_in", "p", "rank of m", "needs", "eps_out*", "theorem"]]
    how: dict[str, Any] = {"averages": distance.averages, "coverage": coverage, "answers": answers}
    for each in h:
        predicted = [predicted_eps_out(budget, each, **how) for budget in budgets]
        for budget, eps_out in zip(budgets, predicted, strict=True):
            plan = budget.plan(each)
            eps_in = "" if unit is None else f"{each * unit:.4g}"
            rank, theorem = f"{plan.rank}/{budget.m}", plan.theorem
            if not plan.certifiable:
                rank, theorem = f"none of {budget.m}", "none"
            needs = f"m >= {plan.least_m:.0f}" if plan.least_m < math.inf else "more than any m"
            relative = f"{eps_out / min(predicted):.3f}" if eps_out < math.inf else "inf"
            table.append([f"{each:.4g}", eps_in, f"{plan.p:.6f}", rank, needs, relative, theorem])
    shown = [True, unit is not None, True, True, True, len(budgets) > 1, True]
    return [list(compress(row, shown)) for row in table]


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of a table: numbers at the right of their columns, the last column at the left of its own."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)][:-1]
    return [
        "  ".join(["", *(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in table
    ]


def result_lines(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the medians, certified radii rounded up, and what they are compared with.

    Of several folders each line has its label.
    """
    width = max((len(result.get("label", "")) for result in results), default=0)
    compared = any("relative_eps_out" in result for result in results)
    lines = [
        f"{'':<{width}}{'h':>6} {'eps_in':>8} {'median eps_out':>15} {'relative' if compared else '':>{9 * compared}}"
        f"{'smoothing loss':>16} {'abstained':>10} {'examples':>9}"
    ]
    for result in results:
        relative = percent_up(result["relative_eps_out"]) if "relative_eps_out" in result else ""
        lines.append(
            f"{result.get('label', ''):<{width}}{result['h']:>6.4g} {result['eps_in']:>8.4g} "
            f"{format_up(result['median_eps_out']):>15} {relative:>{9 * compared}}"
            f"{result['median_smoothing_loss']:>16.4g} {result['abstention_rate']:>10.1%} {result['num_examples']:>9}"
        )
    yardsticks: dict[str, dict[str, Any]] = {}
    for result in results:
        line = yardstick_line(result.get("median_to_blank"), result.get("median_between_examples"))
        yardsticks.setdefault(line, result)
    yardsticks.pop("", None)
    for line, result in yardsticks.items():  # one for all, or for each folder or noise level one of its own
        of = f" of {result.get('label') or f'sigma={sigma_of(result):.4g}'}" if len(yardsticks) > 1 else ""
        lines.append(f"yardstick{of}: {line}")
    return lines


def yardstick_line(to_blank: float | None, between: float | None) -> str:
    """Say what certified radii are compared with, medians over the examples; empty where there is nothing."""
    said = [
        *([] if to_blank is None else [f"{to_blank:.4g} from a blank one (zeros)"]),
        *([] if between is None else [f"{between:.4g} from that of another example"]),
    ]
    relative = "" if between is None else f"; relative: eps_out / {between:.4g}"
    return f"a smoothed output is {' and '.join(said)} (medians){relative}" if said else ""


def non_finite_lines(finished: FinishedCertification) -> list[str]:
    """Return one line if the base function returned NaN or inf anywhere."""
    counts = finished.non_finite
    affected = sorted(index for index, count in counts.items() if count)
    if not affected:
        return []
    shown = ", ".join(map(str, affected[:5])) + (", ..." if len(affected) > 5 else "")
    return [
        f"note: the model returned NaN or inf {sum(counts.values()):,} times, around examples {shown}: such outputs "
        f"count as {finished.smoother.certificate_type.non_finite_count_as}"
    ]


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """Return one line that counts and names files that could not be read, if there are any.

    Example:
        >>> left_out_lines({"a.heic": "HEIC", "b.png": "truncated"})
        ["left out: 'a.heic', HEIC; 'b.png', truncated; 2 files in all"]
    """
    shown = [f"{name!r}, {reason}" for name, reason in list(left_out.items())[:_NAMES]]
    counted = [f"{len(left_out)} files in all"] if len(left_out) > 1 else []
    return [f"left out: {'; '.join(shown + counted)}"] if left_out else []
