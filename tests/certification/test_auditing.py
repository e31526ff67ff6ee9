"""What finished certificates say of the plan."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from center_smoothing import CenterSmoother, Lp, MeanSmoother, SmoothingBudget
from center_smoothing.audit import Finding
from certification import auditing
from results.rows import Row

BUDGET = SmoothingBudget(n=100, m=400, k=8)
CENTER = CenterSmoother(torch.tanh, Lp(2), sigma=0.25, budget=BUDGET)
MEAN = MeanSmoother(torch.tanh, Lp(2), sigma=0.25, clip_norm=1.0)
ROW = Row(0, 0.25, 0.25, 1.0, 0.1, False, 100, 400, 0.3, "exact", "T3", 0.0)


def run_with(*rows: Row, smoother: CenterSmoother | MeanSmoother = CENTER, coverage: str = "pointwise") -> Any:  # noqa: ANN401
    """As much of a finished run as the audit looks at."""
    job = SimpleNamespace(
        kind="mean" if smoother is MEAN else "center",
        indices=[row.index for row in rows],
        folder=SimpleNamespace(rows=lambda: [*rows, replace(ROW, index=10**6, abstained=True)]),  # of another command
        smoother=smoother,
        eps_in=[0.25],
        coverage=coverage,
        conversion=1.0,
    )
    return SimpleNamespace(job=job)


def abstentions(count: int, total: int, smoother: CenterSmoother | MeanSmoother = CENTER) -> Finding:
    rows = [replace(ROW, index=i, abstained=i < count, eps_out=torch.inf if i < count else 1.0) for i in range(total)]
    return auditing.after([run_with(*rows, smoother=smoother)])[0]


def test_as_many_abstentions_as_planned_pass() -> None:
    assert BUDGET.abstention_probability() == pytest.approx(0.0074, abs=1e-4)
    assert abstentions(0, 50).passed
    assert abstentions(3, 50).passed  # P[at least 3 of 50] = .006, were it so for every input
    assert abstentions(0, 50).seen == "0 of 50 examples abstained, planned are at most 0.8% of inputs"


def test_more_abstentions_than_planned_fail() -> None:
    found = abstentions(4, 50)  # P[at least 4 of 50] = .0005
    assert (found.check, found.passed, found.fatal) == ("abstention", False, False)
    assert "--delta" in found.advice


def test_a_mean_that_abstains_fails() -> None:
    assert abstentions(0, 50, MEAN).passed
    assert not abstentions(1, 50, MEAN).passed


@pytest.mark.parametrize("smoother", [CENTER, MEAN])
def test_a_certificate_that_is_not_finite_although_planned_fails(smoother: CenterSmoother | MeanSmoother) -> None:
    good, bad = (auditing.after([run_with(ROW, row, smoother=smoother)])[1] for row in
                 (replace(ROW, index=1), replace(ROW, index=1, eps_out=torch.inf)))  # fmt: skip
    assert (good.check, good.passed, good.advice) == ("finite certificates", True, "")
    assert (bad.passed, bad.fatal) == (False, False)
    assert bad.seen == "1 of 2 output radii that should be finite by the plan is inf"


@pytest.mark.parametrize(
    "row",
    [
        replace(ROW, index=1, eps_out=torch.inf, abstained=True),
        replace(ROW, index=1, eps_out=torch.inf, m=50),  # stopped early
        replace(ROW, index=1, eps_out=torch.inf, eps_in=5.0),
    ],
)
def test_a_certificate_that_is_not_finite_by_plan_passes(row: Row) -> None:
    assert auditing.after([run_with(ROW, row)])[1].passed


def test_a_look_has_a_plan_of_its_own() -> None:
    budget = SmoothingBudget(n=100, m=800, k=8, looks=2)
    smoother = CenterSmoother(torch.tanh, Lp(2), sigma=0.25, budget=budget)
    assert budget.ranks(1.0, m=400).distances <= 400 < budget.ranks(1.0).distances
    found = auditing.after([run_with(ROW, replace(ROW, index=1, eps_out=torch.inf), smoother=smoother)])[1]
    assert not found.passed


def test_only_abstentions_leave_no_certificate_to_look_at() -> None:
    assert len(auditing.after([run_with(replace(ROW, abstained=True, eps_out=torch.inf))])) == 1


def test_findings_of_several_runs_have_names() -> None:
    found = auditing.after([run_with(ROW), run_with(ROW, smoother=MEAN)])
    assert [finding.check for finding in found] == [
        "abstention, sigma 0.25", "finite certificates, sigma 0.25",
        "abstention, sigma 0.25", "finite certificates, sigma 0.25",
    ]  # fmt: skip
