"""Whether the files of a certification folder, which may come from a stranger, say the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from center_smoothing import CertificateBase
from center_smoothing.threats import NORMS
from results.rows import Row

# Another processor may round a certified radius in another way.
_TOLERANCE = 1e-9


def check_summary(summary: object) -> None:
    """See that a summary is built as certify.py builds it, as far as it is read back.

    Raises:
        TypeError: if it is not, with what is wrong.
    """
    if not isinstance(summary, dict) or not isinstance(summary.get("config"), dict):
        raise TypeError("config is not an object")
    for key in ("names", "origin"):
        names = summary.get(key, {})
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise TypeError(f"{key} is not an object of words")
    rate = summary.get("samples_per_second", 0.0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate < math.inf:
        raise TypeError(f"samples_per_second is not a number of at least 0: {rate!r:.80}")
    for name in ("model", "distance", "coverage", "threat"):
        if not isinstance(summary["config"].get(name, ""), str):
            raise TypeError(f"config.{name} is not a word")
    denoiser = summary["config"].get("denoiser", {"name": "", "sha256": ""})
    if not isinstance(denoiser, dict) or not all(isinstance(denoiser.get(key), str) for key in ("name", "sha256")):
        raise TypeError("config.denoiser has no name and sha256")
    if summary["config"].get("threat", "l2") not in NORMS:
        raise TypeError("config.threat is no norm")
    conversion = summary["config"].get("conversion", 1.0)
    if isinstance(conversion, bool) or not isinstance(conversion, int | float) or not 0.0 < conversion < math.inf:
        raise TypeError(f"config.conversion is not a positive number: {conversion!r:.80}")
    if not isinstance(summary["config"].get("distance_identity", {}), dict):
        raise TypeError("config.distance_identity is not an object")


def check_rows(rows: Sequence[Row], certificate: CertificateBase, config: Mapping[str, Any]) -> None:
    """See that the rows of an example are those that its distances on disk give with the configuration.

    A change of one file alone is found. Whoever changes all of them consistently makes up a certification that cannot
    be told from a true one without the model.

    Raises:
        ValueError: for a row that is another one, with both.
    """
    asked, budget = [float(radius) for radius in config["eps_in"]], certificate.budget
    coverage = config.get("coverage", "pointwise")
    expected = {row.eps_in: row for row in Row.of(0, certificate, eps_in=asked, coverage=coverage, seconds=0.0)}
    wanted = (config["sigma"], budget.n, certificate.m, budget.delta, budget.method, certificate.abstained)
    for row in rows:
        if hasattr(row, "attack_eps") != ("attack" in config):
            raise ValueError(f"example {row.index} was attacked, or was not, unlike the configuration says")
        there = (row.sigma, row.n, row.m, row.delta, row.method, row.abstained)
        if there != wanted:
            raise ValueError(f"example {row.index} has sigma, n, m, delta, method, abstained {there}, not {wanted}")
        wanted_row = expected.get(row.eps_in)
        eps_out, theorem = (None, "") if wanted_row is None else (wanted_row.eps_out, wanted_row.theorem)
        # rows without a theorem are of earlier versions, whose radii for outputs of whole numbers were larger
        is_larger = eps_out is not None and row.theorem == "" and row.eps_out > eps_out
        if eps_out is None or not (is_larger or math.isclose(row.eps_out, eps_out, rel_tol=_TOLERANCE)):
            raise ValueError(
                f"example {row.index} has eps_out={row.eps_out!r} at eps_in={row.eps_in!r}, "
                f"its distances give {eps_out!r}"
            )
        if row.theorem not in ("", theorem):
            raise ValueError(
                f"example {row.index} is certified by {row.theorem} at eps_in={row.eps_in!r}, not {theorem}"
            )
