"""Medians and rates of rows: the results of summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from center_smoothing.upper_median import upper_median
from results.rows import Row, attacked_rows
from results.yardstick import Yardstick


def summarise(
    rows: Sequence[Row], sigma: float, yardstick: Yardstick | None = None, *, conversion: float = 1.0
) -> list[dict[str, float | int]]:
    """Return medians and rates by eps_in, the ``results`` of summary.json. Abstentions count as inf (theory T9).

    The rows are of one noise level. The yardstick is what their median radii are compared with. h is
    conversion * eps_in / sigma (theory T15); the conversion is among the results where it is not 1.
    """
    results: list[dict[str, float | int]] = []
    for eps_in in dict.fromkeys(row.eps_in for row in rows):
        group = [row for row in rows if row.eps_in == eps_in]
        attacked, median = attacked_rows(group), upper_median(row.eps_out for row in group)
        results.append(
            {
                "eps_in": eps_in,
                "h": round(conversion * eps_in / sigma, 6),  # the same number for all noise levels of one h
                **({} if conversion == 1.0 else {"conversion": conversion}),
                "median_eps_out": median,
                **({} if yardstick is None else yardstick.results(median)),
                "median_smoothing_loss": upper_median(row.smoothing_loss for row in group),
                "abstention_rate": sum(row.abstained for row in group) / len(group),
                "num_examples": len(group),
            }
        )
        if attacked:
            results[-1]["max_attack_ratio"] = max(row.attack_ratio for row in attacked)
            results[-1]["median_attack_eps"] = upper_median(row.attack_eps for row in attacked)
            results[-1]["median_base_attack_eps"] = upper_median(row.base_attack_eps for row in attacked)
    return results


def sigma_of(result: Mapping[str, Any]) -> float:
    """Return the noise level of a result of summary.json, about as exactly as its h is."""
    return float(result.get("conversion", 1.0) * result["eps_in"] / result["h"])


def line_key(result: Mapping[str, Any], *, several_levels: bool) -> str:
    """Return what sets the line that a result of summary.json belongs to apart; "" where there is only one line.

    Of several folders that is the ``label`` of its folder; of several noise levels h, which they have in common.
    """
    return str(result.get("label", f"h={result['h']:g}" if several_levels else ""))


def results_by_line(results: Sequence[dict[str, Any]], *, several_levels: bool) -> dict[str, list[dict[str, Any]]]:
    """Return the results of each line, see :func:`line_key`, by ascending h and eps_in."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda result: (result["h"], result["eps_in"])):
        found.setdefault(line_key(result, several_levels=several_levels), []).append(result)
    return found
