"""The self-audit of certify.py: what every certificate takes for granted, tried on the model and the data at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import binom

from center_smoothing.audit import Finding, audit
from certification.jobs import Job
from certification.preflight import points_of, rounding_tolerance
from certification.run import Run
from results.numbers import rounded_up
from results.rows import Row

# So many abstentions would be seen with this probability at most, were the plan right.
_LEVEL = 0.001
_PROBED = 3


def before(runs: Sequence[Run]) -> list[Finding]:
    """Make the checks that need no certificate, of the model, the noise and the distance of the first run.

    Raises:
        ValueError: if the model or the distance cannot do with the examples.
    """
    run = runs[0]
    points, smoother = points_of(run, _PROBED), run.job.smoother
    examples, rtol = run.job.indices[: len(points)], rounding_tolerance(run)
    with run.trainer.precision_plugin.predict_step_context():
        return audit(smoother.outputs, smoother.distance, points, rtol=rtol, examples=examples)


def after(runs: Sequence[Run]) -> list[Finding]:
    """Check that no more examples abstained, or have no finite certificate, than the plan leads one to expect."""
    found = []
    for run in runs:
        chosen = set(run.job.indices)
        rows = [row for row in run.job.folder.rows() if row.index in chosen]
        abstained = {row.index: row.abstained for row in rows}
        count, total, smoother = sum(abstained.values()), len(abstained), run.job.smoother
        # means abstain where an output is not finite, which no plan knows of
        bound = min(1.0, smoother.budget.abstention_probability())
        passed = bool(count == 0 or binom.sf(count - 1, total, bound) >= _LEVEL)
        of_run = f", sigma {smoother.sigma:g}" if len(runs) > 1 else ""
        advice = "" if passed else "raise --delta or --n where outputs scatter; look for NaN where they are not finite"
        seen = f"{count} of {total} examples abstained, planned are at most {rounded_up(100.0 * bound, 1)}% of inputs"
        found.append(Finding(f"abstention{of_run}", passed, seen, advice))
        certified = [row for row in rows if not row.abstained]
        if certified:  # they are finite where their ranks are, which the plan knows
            planned = [row for row in certified if _is_planned(row, run.job)]
            infinite = sum(math.isinf(row.eps_out) for row in planned)
            seen = f"{infinite or 'none'} of {len(planned)} output radii that should be finite by the plan is inf"
            why = "too many outputs around these examples are NaN or inf; find out where they come from"
            found.append(Finding(f"finite certificates{of_run}", infinite == 0, seen, why if infinite else ""))
    return found


def _is_planned(row: Row, job: Job) -> bool:
    """Return whether finite outputs would have given a finite certificate."""
    h = job.conversion * row.eps_in / job.smoother.sigma
    return job.smoother.budget.certifies(h, m=row.m, coverage=job.coverage, answers=len(job.eps_in))


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return the table for the terminal."""
    width = max(len(finding.check) for finding in findings)
    table = [
        f"  {'pass' if finding.passed else 'FAIL'}  {finding.check:<{width}}  {finding.seen}"
        + (f"; {finding.advice}" if finding.advice else "")
        for finding in findings
    ]
    failed = sum(not finding.passed for finding in findings)
    said = "all passed" if failed == 0 else f"{failed} failed"
    return [f"audit: {len(findings)} checks, {said}", *table]
