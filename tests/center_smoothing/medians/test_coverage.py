"""Monte Carlo: what theory T14 says fails no more often than it may, and broken variants are refuted."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from scipy import stats
from torch import Tensor

from center_smoothing import Lp, MedianBudget, MedianSmoother, bounds
from center_smoothing.medians import budget as median_budget
from center_smoothing.medians import order_statistics
from center_smoothing.noise import Stage
from tests.center_smoothing.refutation import refuted

Model = Callable[[Tensor], Tensor]
RUNS = 40


@pytest.fixture(autouse=True)
def _no_remembered_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Broken variants must neither use nor leave behind ranks that are kept from call to call. Fewer of them do."""
    monkeypatch.setattr(median_budget, "_STEP", 0.5)
    monkeypatch.setattr(order_statistics, "_COUNTED_AT_ONCE", 1 << 14)  # as many at once as are drawn
    remembered = median_budget._upper_mass, median_budget._kept_ranks
    for each in remembered:
        each.cache_clear()
    yield
    for each in remembered:
        each.cache_clear()


class Drawing(MedianSmoother):
    """Draws all outputs of a stage at once, with noise of the same law: much faster for functions that cost nothing."""

    def _draw(self, x: Tensor, example: int, stage: Stage, count: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(8 * example + stage)
        yield self.outputs.model(x + torch.randn((count, *x.shape), generator=generator, dtype=x.dtype))


def failures_of(
    model: Model, direction: Tensor, h: float, budget: MedianBudget, runs: int = RUNS, p: float = 2.0
) -> tuple[int, int]:
    """How often the medians at x' leave the box, and how often they are further away than certified; sigma = 1."""
    smoother = Drawing(model, Lp(p), sigma=1.0, budget=budget)
    x = torch.zeros_like(direction)
    outside = beyond = 0
    for run in range(runs):
        certificate, there = smoother.certify(x, example=run), smoother.smooth(x + h * direction, example=~run)
        if not (certificate.abstained or there.abstained):
            (low, high), moved = certificate.box(h), there.center
            outside += not bool(((low <= moved) & (moved <= high)).all())
            beyond += float(Lp(p)(certificate.center[None], moved[None])) > certificate.eps_out(h)
    return outside, beyond


def many(alpha: float = 0.2, m: int = 5_000) -> MedianBudget:
    """A budget with enough certification outputs for chance at x' to decide."""
    return MedianBudget(n=41, m=m, alpha_1=0.95 * alpha, alpha_2=0.05 * alpha)


def few(alpha: float = 0.2) -> MedianBudget:
    """A budget with so many outputs in the medians that chance at x decides."""
    return MedianBudget(n=20_001, m=60, alpha_1=0.05 * alpha, alpha_2=0.95 * alpha)


STRETCH = torch.tensor([[3.0, 0.0, 1.0], [1.0, 0.2, 0.0], [0.0, -0.1, 0.3]], dtype=torch.float64)


def linear(z: Tensor) -> Tensor:
    return z @ STRETCH.T.to(z)


@pytest.mark.parametrize(("row", "h"), [(0, 0.5), (1, 1.5)])
def test_linear_functions_stay_in_the_box_along_the_worst_direction_of_a_coordinate(row: int, h: float) -> None:
    outside, beyond = failures_of(linear, STRETCH[row] / STRETCH[row].norm(), h, many(), p=math.inf)
    assert not refuted(outside, RUNS, 0.2)
    assert outside > 0
    assert beyond <= outside


ALONG = torch.ones(1, dtype=torch.float64)


def test_all_numbers_hold_together() -> None:
    outside, _ = failures_of(lambda z: z, torch.zeros(5), 0.0, many())
    assert not refuted(outside, RUNS, 0.2)
    assert outside > 0


def test_alpha_for_each_number_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MedianBudget, "for_output", lambda self, output: self)
    outside, _ = failures_of(lambda z: z, torch.zeros(10), 0.0, many(0.1), runs=20)
    assert refuted(outside, 20, 0.1)


def test_a_missing_shift_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = bounds.gaussian_shift_up
    monkeypatch.setattr(bounds, "gaussian_shift_up", lambda mass, h: original(mass, 0.0))
    outside, beyond = failures_of(lambda z: z, ALONG, 1.0, many(), runs=20)
    assert refuted(outside, 20, 0.2)
    assert refuted(beyond, 20, 0.2)


def test_quantiles_without_their_margin_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(median_budget, "_upper_mass", lambda budget: 0.5)
    outside, _ = failures_of(lambda z: z, ALONG, 1.0, many(0.05), runs=30)
    assert refuted(outside, 30, 0.05)


def step(mass: float) -> Model:
    """0, and 1 beyond a threshold that leaves so much mass to 0 at x = 0."""
    threshold = float(stats.norm.ppf(mass))
    return lambda z: (z > threshold).to(z.dtype)


@pytest.mark.parametrize(("h", "sign"), [(0.5, 1.0), (1.0, -1.0)])
def test_atoms_at_the_ranks_of_the_box_fail_no_more_often_than_they_may(h: float, sign: float) -> None:
    # at x' just less than half of the mass is left to 0, so that the median there is almost surely 1
    model = step(stats.norm.cdf(stats.norm.ppf(0.485) + h))
    outside, beyond = failures_of(lambda z: sign * model(sign * z), sign * ALONG, h, few())
    assert not refuted(outside, RUNS, 0.2)
    assert outside == beyond
    assert outside > 0


def test_lower_ranks_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original, model = bounds.order_statistic_rank, step(stats.norm.cdf(stats.norm.ppf(0.485) + 1.0))
    monkeypatch.setattr(bounds, "order_statistic_rank", lambda m, p, alpha: original(m, p, alpha) - 4)
    outside, _ = failures_of(model, ALONG, 1.0, few(0.05), runs=60)
    assert refuted(outside, 60, 0.05)


def undefined(z: Tensor) -> Tensor:
    """z, and beyond 1 nothing, which counts as above all numbers in a median."""
    return torch.where(z > 1.0, torch.nan, z)


def test_outputs_that_are_not_finite_are_bounded() -> None:
    outside, _ = failures_of(undefined, ALONG, 0.5, many())
    assert not refuted(outside, RUNS, 0.2)
    assert outside > 0


def test_non_finite_outputs_that_are_left_out_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = order_statistics._UpperTail.add
    monkeypatch.setattr(
        order_statistics._UpperTail, "add", lambda self, numbers: original(self, numbers.nan_to_num(nan=-1e9))
    )
    outside, _ = failures_of(undefined, ALONG, 0.5, many(0.05, m=12_000), runs=40)
    assert refuted(outside, 40, 0.05)


def test_input_radii_of_an_output_radius_hold() -> None:
    """The radius is chosen from the sample: it promises something about an x' only where it reaches that far."""
    smoother, failures, h = Drawing(lambda z: z, Lp(1), sigma=1.0, budget=many()), 0, 1.0
    for run in range(RUNS):
        certificate, there = (
            smoother.certify(torch.zeros(1), example=run),
            smoother.smooth(h * torch.ones(1), example=~run),
        )
        moved = float((certificate.center - there.center).abs())
        failures += certificate.eps_in(moved * (1 - 1e-9)) >= h
    assert not refuted(failures, RUNS, 0.2)
