"""Monte Carlo: every bound fails no more often than it may, and each check can tell a broken implementation.

A count of failures refutes a bound if a binomial variable with its failure probability exceeds that count with
probability below 1e-4. All counts are seeded. Broken variants are patched in and must be refuted.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from center_smoothing import (
    Angular,
    CenterSmoother,
    Certificate,
    Cosine,
    Distance,
    Lp,
    SmoothedOutput,
    SmoothingBudget,
    SquaredL2,
    bounds,
)
from center_smoothing import budget as budget_module
from center_smoothing.budget import Coverage
from center_smoothing.margins import Method
from center_smoothing.noise import Stage
from tests.center_smoothing.refutation import (
    Pairs,
    SampleCenters,
    failures_of,
    one_hot,
    pairs_between,
    refuted,
    vector,
)

TIGHT = [(40, 50), (3, 50), (180, 200), (50, 50)]


def failures_of_lower_bound(successes: int, m: int, alpha: float, runs: int, shift: int = 0) -> int:
    """How often the bound reaches the true probability, which is one where it may fail with alpha exactly."""
    p = bounds.clopper_pearson_lower(successes, m, alpha)
    table = np.array([bounds.clopper_pearson_lower(min(k + shift, m), m, alpha) for k in range(m + 1)])
    return int((table[np.random.default_rng(0).binomial(m, p, runs)] >= p).sum())


@pytest.mark.parametrize(("successes", "m"), TIGHT)
@pytest.mark.parametrize("alpha", [0.01])
def test_clopper_pearson_fails_with_alpha_and_no_more(successes: int, m: int, alpha: float) -> None:
    failures = failures_of_lower_bound(successes, m, alpha, 100_000)
    assert not refuted(failures, 100_000, alpha)
    assert failures > 100_000 * alpha / 2


@pytest.mark.parametrize(("successes", "m"), TIGHT)
def test_one_success_too_many_would_be_noticed(successes: int, m: int) -> None:
    assert refuted(failures_of_lower_bound(successes, m, 0.1, 100_000, shift=1), 100_000, 0.1)


DELTA, ALPHA_2, SIGMA = 0.1, 0.1, 0.5


@cache
def budget_of(m: int, method: Method) -> SmoothingBudget:
    return SmoothingBudget(n=2000, m=m, delta=DELTA, alpha_2=ALPHA_2, method=method)


def made_of(distances: np.ndarray, method: Method = "exact") -> Certificate:
    output = SmoothedOutput(torch.zeros(1), 1.0, 0.5, abstained=False)
    return Certificate(np.sort(distances), SIGMA, 1.0, budget_of(len(distances), method), output, 0.0)


def eps_in_with_quantile(p: float) -> float:
    return SIGMA * float(special.ndtri(p) - special.ndtri(0.5 + DELTA))


def uniform(rng: np.random.Generator, m: int, p: float) -> np.ndarray:
    return rng.uniform(size=m)


def two_atoms(rng: np.random.Generator, m: int, p: float) -> np.ndarray:
    return np.where(rng.uniform(size=m) < p, p, 1.0)


def many_atoms(rng: np.random.Generator, m: int, p: float) -> np.ndarray:
    """Uniform, rounded up to multiples of p / 8: each atom lies at the value of the distribution function there."""
    return np.minimum(np.ceil(rng.uniform(size=m) / (p / 8)) * (p / 8), 1.0)


Draw = Callable[[np.random.Generator, int, float], np.ndarray]
DISTRIBUTIONS = [uniform, two_atoms, many_atoms]


def failures_of_quantile(
    draw: Draw, m: int, rank: int, runs: int, method: Method = "exact", coverage: Coverage = "pointwise"
) -> int:
    """How often P[D <= R] <= p, for distances with P[D <= d] = d at all d that they take.

    The quantile p is one where the exact rank may fail with all of alpha_2.
    """
    p = bounds.clopper_pearson_lower(rank, m, ALPHA_2) - 1e-9  # or rounding p up makes it the next rank
    eps_in, rng, failures = eps_in_with_quantile(p), np.random.default_rng(1), 0
    for _ in range(runs):
        radius = made_of(draw(rng, m, p), method).eps_out(eps_in, coverage=coverage) / 3.0
        failures += radius <= p * (1 + 1e-8)  # eps_out is rounded up
    return failures


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
@pytest.mark.parametrize(("m", "rank"), [(30, 27), (200, 160)])
def test_exact_rank_fails_with_alpha_and_no_more(draw: Draw, m: int, rank: int) -> None:
    failures = failures_of_quantile(draw, m, rank, 600)
    assert not refuted(failures, 600, ALPHA_2)
    assert failures > 600 * ALPHA_2 / 2


@pytest.mark.parametrize("draw", [uniform, many_atoms])
@pytest.mark.parametrize(("method", "coverage"), [("paper", "pointwise"), ("exact", "dkw")])
def test_dkw_rank_fails_with_alpha_at_most(draw: Draw, method: Method, coverage: Coverage) -> None:
    failures = failures_of_quantile(draw, 200, 160, 600, method, coverage)
    assert not refuted(failures, 600, ALPHA_2)
    assert failures > 0


@pytest.mark.parametrize(("draw", "m", "rank"), [(uniform, 100, 97), (two_atoms, 30, 27)])
def test_a_rank_one_lower_would_be_noticed(draw: Draw, m: int, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = bounds.order_statistic_rank
    monkeypatch.setattr(bounds, "order_statistic_rank", lambda *arguments: original(*arguments) - 1)
    assert refuted(failures_of_quantile(draw, m, rank, 600), 600, ALPHA_2)


def test_dkw_without_its_margin_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "hoeffding_margin", lambda m, alpha: 0.0)
    assert refuted(failures_of_quantile(two_atoms, 200, 160, 600, coverage="dkw"), 600, ALPHA_2)


GRID = np.array([0.65, 0.72, 0.79, 0.86, 0.93])


def failures_of_curve(coverage: Coverage, runs: int) -> int:
    """How often any of five certified radii covers too little."""
    eps_in, rng, failures = [eps_in_with_quantile(p) for p in GRID], np.random.default_rng(2), 0
    for _ in range(runs):
        failures += bool(np.any(made_of(rng.uniform(size=150)).eps_out(eps_in, coverage=coverage) / 3.0 <= GRID))
    return failures


@pytest.mark.parametrize("coverage", ["bonferroni", "dkw"])
def test_simultaneous_answers_hold_together(coverage: Coverage) -> None:
    failures = failures_of_curve(coverage, 600)
    assert not refuted(failures, 600, ALPHA_2)
    assert failures > 600 * ALPHA_2 / 10


def test_pointwise_answers_taken_together_would_be_noticed() -> None:
    assert refuted(failures_of_curve("pointwise", 600), 600, ALPHA_2)


def failures_of_eps_in(radius: float, method: Method, runs: int) -> int:
    """How often the certified input radius exceeds what the true mass within the given radius allows."""
    allowed, rng, failures = eps_in_with_quantile(radius), np.random.default_rng(3), 0
    for _ in range(runs):
        failures += made_of(rng.uniform(size=100), method).eps_in(3.0 * radius * (1 + 1e-8)) > allowed
    return failures


@pytest.mark.parametrize(("radius", "method"), [(0.8, "exact"), (0.9, "paper")])
def test_certified_input_radius_fails_with_alpha_at_most(radius: float, method: Method) -> None:
    failures = failures_of_eps_in(radius, method, 400)
    assert not refuted(failures, 400, ALPHA_2)
    assert method == "paper" or failures > 400 * ALPHA_2 / 5


def test_an_input_radius_from_ranks_too_low_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = bounds.order_statistic_rank
    monkeypatch.setattr(bounds, "order_statistic_rank", lambda *arguments: original(*arguments) - 2)
    assert refuted(failures_of_eps_in(0.9, "exact", 400), 400, ALPHA_2)


ALPHA_1 = 0.2


def selection_budget(method: Method, n: int = 121, n_check: int | None = None) -> SmoothingBudget:
    """The least admissible delta leaves the check as little slack as it may have."""
    generous = SmoothingBudget(n=n, m=1, k=16, alpha_1=ALPHA_1, delta=0.49, n_check=n_check, method=method)
    return SmoothingBudget(**{**generous.as_dict(), "delta": generous.least_delta})


def outputs_at_zero(
    model: Callable[[Tensor], Tensor], distance: Distance, budget: SmoothingBudget, dimension: int, runs: int
) -> Iterator[SmoothedOutput]:
    """Smoothed outputs at zero, with sigma = 1."""
    smoother = CenterSmoother(model, distance, sigma=1.0, budget=budget, batch_size=128)
    x = torch.zeros(dimension, dtype=torch.float64)
    return (smoother.smooth(x, example=run) for run in range(runs))


def cap_mass(radius: float, dimension: int) -> float:
    """Mass of an angular ball around any direction under the uniform distribution on directions."""
    half = 0.5 * float(special.betainc((dimension - 1) / 2, 0.5, math.sin(math.pi * radius) ** 2))
    return half if radius <= 0.5 else 1.0 - half


def failures_on_directions(budget: SmoothingBudget, runs: int) -> int:
    """Of f(x) = x under the angular distance: all centers are alike, and the smallest ball is small by chance.

    Zero is as near as 1/2 to everything, so that no radius exceeds twice the best one.
    """
    outputs = outputs_at_zero(lambda z: z, Angular(), budget, 16, runs)
    return sum(not o.abstained and cap_mass(o.radius, 16) < 0.5 - budget.delta for o in outputs)


def failures_on_the_line(budget: SmoothingBudget, distance: Distance, runs: int) -> int:
    """Of f(x) = x in one dimension: too little mass in the ball, or a radius beyond twice the best."""
    best, failures = float(special.ndtri(0.75 + budget.delta / 2)), 0
    for output in outputs_at_zero(lambda z: z, distance, budget, 1, runs):
        center, radius = output.center.item(), output.radius
        mass = special.ndtr(center + radius) - special.ndtr(center - radius)
        failures += not output.abstained and (mass < 0.5 - budget.delta or radius > 2 * best)
    return failures


@pytest.mark.parametrize(("method", "n_check"), [("exact", 31), ("exact", 121), ("paper", None)])
def test_center_holds_its_mass_among_many_like_candidates(method: Method, n_check: int | None) -> None:
    failures = failures_on_directions(selection_budget(method, n_check=n_check), 60)
    assert not refuted(failures, 60, ALPHA_1)
    assert failures > 0


@pytest.mark.parametrize("distance", [Lp(), SampleCenters()], ids=["averages", "samples"])
@pytest.mark.parametrize("method", ["exact", "paper"])
def test_center_on_the_line_holds_its_mass_within_twice_the_best_radius(method: Method, distance: Distance) -> None:
    assert not refuted(failures_on_the_line(selection_budget(method), distance, 60), 60, ALPHA_1)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_center_among_atoms_has_exactly_twice_the_best_radius(method: Method) -> None:
    # three atoms at l1 distance 2; around the middle of two of them lies 2/3 of the mass within radius 1
    budget, abstained = selection_budget(method), 0
    assert 0.5 + budget.delta < 2 / 3
    for output in outputs_at_zero(one_hot, SampleCenters(1), budget, 3, 60):
        abstained += output.abstained
        assert output.abstained or output.radius <= 2.0
    assert abstained < 5


def check_on_the_ranking_batch(self: CenterSmoother, x: Tensor, example: int, center: Tensor) -> Tensor:
    batches = self.outputs.draw(x, example=example, stage=Stage.RANKING, count=self.budget.n_check)
    return torch.cat([self.distance.pairwise(batch, center[None])[:, 0] for batch in batches])


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_a_check_on_the_ranking_batch_would_be_noticed(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CenterSmoother, "_check_distances", check_on_the_ranking_batch)
    assert refuted(failures_on_directions(selection_budget(method), 30), 30, ALPHA_1)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_a_missing_check_would_be_noticed(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmoothingBudget, "mass_lower_bound", lambda self, inside: 0.5)
    assert refuted(failures_on_directions(selection_budget(method), 30), 30, ALPHA_1)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_a_ball_around_all_ranked_outputs_would_be_noticed(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmoothingBudget, "half", property(lambda self: self.n))
    assert refuted(failures_on_the_line(selection_budget(method), Lp(), 20), 20, ALPHA_1)


STRETCH = torch.tensor([[3.0, 0.0], [1.0, 0.2], [0.0, -0.1]], dtype=torch.float64)


def linear(z: Tensor) -> Tensor:
    return z @ STRETCH.T


def step(z: Tensor) -> Tensor:
    return (z[:, :1] > 0.0).to(z.dtype)


def stairs(z: Tensor) -> Tensor:
    return torch.cat([(z[:, :1] * 1.5).floor(), (z.sum(dim=1, keepdim=True) > 0.0) * 2.0], dim=1)


# model, distance, x, direction of x', eps_in in units of sigma
CASES = {
    "linear": (linear, Lp(2), vector(0.5, -1.0), torch.linalg.svd(STRETCH).Vh[0], 1.0),
    "step": (step, Lp(1), vector(-0.8, 0.0), vector(1.0, 0.0), 1.2),
    "step without averages": (step, SampleCenters(1), vector(-0.8, 0.0), vector(1.0, 0.0), 1.2),
    "classes": (one_hot, Lp(1), vector(1.7, 0.0, 0.0), vector(-1.0, 1.0, 0.0), 1.3),
    "stairs": (stairs, Lp(math.inf), vector(0.1, -1.2), vector(0.4, 1.0), 1.0),
    "directions": (linear, Angular(), vector(0.3, 0.3), vector(-1.0, 0.0), 0.8),
    "squares": (linear, SquaredL2(), vector(0.5, -1.0), torch.linalg.svd(STRETCH).Vh[0], 1.0),
    "cosines": (linear, Cosine(), vector(0.3, 0.3), vector(-1.0, 0.0), 0.8),
}


RUNS, ALPHA = 40, 0.2


@cache
def pairs_of(method: Method, case: str) -> Pairs:
    """Of correct code: tests break what is asked of them."""
    budget = SmoothingBudget(n=201, m=120, k=16, alpha_1=ALPHA / 2, alpha_2=ALPHA / 2, delta=0.2, method=method)
    model, distance, x, direction, eps_in = CASES[case]
    return pairs_between(model, distance, budget, x, direction, eps_in, RUNS)


@pytest.mark.parametrize(("method", "case"), [*(("exact", case) for case in CASES), ("paper", "step")])
def test_centers_are_no_further_apart_than_certified(method: Method, case: str) -> None:
    found = pairs_of(method, case)
    assert len(found) > 0.5 * RUNS
    assert not refuted(failures_of(found, CASES[case][-1]), RUNS, ALPHA)


@pytest.mark.parametrize(
    ("method", "case"),
    [("exact", "step"), ("exact", "step without averages"), ("exact", "classes")],
)
def test_a_missing_shift_would_be_noticed(method: Method, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pairs_of(method, case)
    budget_module._ranks.cache_clear()
    monkeypatch.setattr(bounds, "gaussian_shift_up", lambda mass, h: mass)
    assert refuted(failures_of(found, CASES[case][-1]), RUNS, ALPHA)


def test_the_promise_holds_where_chance_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step that divides the mass in halves at x', where a few certification outputs decide at x."""
    budget, h, runs = SmoothingBudget(n=601, m=25, k=16, alpha_1=0.02, alpha_2=0.2, delta=0.1), 0.5, 80
    found = pairs_between(step, SampleCenters(1), budget, vector(-h), vector(1.0), h, runs)
    failures = failures_of(found, h)
    assert len(found) > 0.9 * runs
    assert not refuted(failures, runs, 0.22)
    assert failures > 0
    budget_module._ranks.cache_clear()
    original = bounds.order_statistic_rank  # a rank a few lower breaks the promise
    monkeypatch.setattr(bounds, "order_statistic_rank", lambda m, p, alpha: original(m, p, alpha) - (m == 25) * 8)
    assert refuted(failures_of(found, h), runs, 0.22)


class SquaresOfSamples(SquaredL2):
    """Squared l2 of outputs that cannot be averaged; gamma = 2."""

    averages = False


def three_in_a_row(z: Tensor) -> Tensor:
    """Outputs 0, 1 and 2: by squared l2 the middle is at 1 from both ends, which are at 4 from each other."""
    return (z[:, :1] > 0.0).to(z.dtype) + (z[:, :1] > 1.05)


def test_the_promise_holds_where_gamma_is_two() -> None:
    """At x the center is 0, with 1 within R; at x' all three outputs are as good, and 2 is taken 28 times in 100."""
    budget, runs = SmoothingBudget(n=601, m=1000, k=16, alpha_1=0.02, alpha_2=0.05, delta=0.1), 60
    found = pairs_between(three_in_a_row, SquaresOfSamples(), budget, vector(-0.532), vector(1.0), 1.0, runs)
    assert len(found) > 0.9 * runs
    assert not refuted(failures_of(found, 1.0), runs, 0.07)
    of_a_metric = [(dataclasses.replace(certificate, relaxation=1.0), apart) for certificate, apart in found]
    assert refuted(failures_of(of_a_metric, 1.0), runs, 0.07)
