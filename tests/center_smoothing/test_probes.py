"""The data-dependent bound on the other ball's radius (theory T7), against references written independently."""

import dataclasses
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from center_smoothing import (
    CenterSmoother,
    Certificate,
    Distance,
    Lp,
    SmoothedOutput,
    SmoothingBudget,
    bounds,
    certification_sample,
)
from center_smoothing.budget import Coverage
from center_smoothing.budget import _ranks as certificate_ranks
from center_smoothing.certification_sample import CertificationSample, kept_ranks, tuples_of
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs
from tests.center_smoothing.refutation import (
    SampleCenters,
    failures_of,
    failures_of_radius,
    one_hot,
    pairs_between,
    refuted,
    two_centers,
    vector,
)

SMALL = SmoothingBudget(n=201, m=1200, k=32, alpha_1=0.1, alpha_2=0.1, delta=0.2)


@given(st.integers(1, 20_000))
def test_kept_ranks_are_ascending_and_reach_from_the_middle_to_the_end(compared: int) -> None:
    ranks = kept_ranks(compared)
    assert ranks[-1] == compared
    assert ranks[0] <= max(1, (compared + 1) // 2)
    assert ranks[0] >= 1
    assert np.all(np.diff(ranks) >= 1)
    assert len(ranks) <= 120


def test_what_is_left_for_the_tuples_pays_for_the_ranking_of_each_size() -> None:
    budget = SmoothingBudget(n=61, m=400, k=16, alpha_1=0.4, delta=0.2, tuple_sizes=(1, 2))
    spent = 0.3**16 + 3 * stats.binom.cdf(30, 61, 0.7)
    assert budget._alpha_hit() == pytest.approx((0.2 - spent) / 2, rel=1e-6)


def expected_ranks(budget: SmoothingBudget, h: float, size: int, sizes: int) -> tuple[int, int]:
    """Ranks among the probes and among their distances, from scipy's binomial and the statement of T7."""
    theta, share = 0.5 + budget.delta, budget.alpha_2 / 2 / sizes / 2
    shortfall = stats.binom.cdf(math.ceil(budget.n / 2) - 1, budget.n, theta)
    left = budget.alpha_1 / 2 - (1 - theta) ** min(budget.candidates, budget.k) - (1 + sizes) * shortfall
    hit = 1 - (left / sizes) ** (1 / min(budget.candidates, budget.k // size))
    v = stats.norm.cdf(stats.norm.ppf(hit) + math.sqrt(size) * h)
    p = stats.norm.cdf(stats.norm.ppf(theta) + h)
    number, compared = budget.probes, budget.compared(budget.m)
    return (
        int(stats.binom.isf(share, number, v)) + 1,
        int(stats.binom.isf(share / number, compared, p)) + 1,
    )


@pytest.mark.parametrize("h", [0.0, 0.7])
@pytest.mark.parametrize(
    "budget",
    [SMALL, SmoothingBudget(), SmoothingBudget(n=1000, m=2000), SmoothingBudget(tuple_sizes=(1, 2, 4), candidates=64)],
)
def test_ranks_are_those_of_the_statement(budget: SmoothingBudget, h: float) -> None:
    sizes = budget.tuple_sizes
    expected = {size: expected_ranks(budget, h, size, len(sizes)) for size in sizes}
    most = budget.probes, budget.compared(budget.m)
    possible = {size: ranks for size, ranks in expected.items() if ranks[0] <= most[0] and ranks[1] <= most[1]}
    assert {size: ranks for size, *ranks in budget.ranks(h).probes} == {s: list(r) for s, r in possible.items()}
    alpha = budget.alpha_2 / 2 if possible else budget.alpha_2
    p = stats.norm.cdf(stats.norm.ppf(0.5 + budget.delta) + h)
    assert budget.ranks(h).distances == int(stats.binom.isf(alpha, budget.m, p)) + 1


def curved(z: Tensor) -> Tensor:
    return torch.stack([z[:, 0].sin() + z[:, 1] ** 2, z[:, 0] * z[:, 1], z[:, 1].exp()], dim=1)


@pytest.mark.parametrize("distance", [Lp(2), Lp(1), SampleCenters(2)], ids=["l2", "l1", "samples"])
def test_eps_out_equals_a_naive_computation(distance: Lp) -> None:
    """From the outputs as they are drawn."""
    x = torch.tensor([0.3, -0.7], dtype=torch.float64)
    smoother = CenterSmoother(curved, distance, sigma=0.5, budget=SMALL, batch_size=50)
    certificate, budget = smoother.certify(x, example=4), smoother.budget
    outputs = NoisyOutputs(curved, sigma=0.5, batch_size=64)
    drawn = torch.cat(list(outputs.draw(x, example=4, stage=Stage.CERTIFICATION, count=budget.m))).numpy()
    center, number, compared = certificate.center.numpy(), budget.probes, budget.compared(budget.m)
    largest = budget.tuple_sizes[-1]
    norm = {1.0: 1, 2.0: 2}[distance.p]
    radii = np.sort(np.linalg.norm(drawn - center, ord=norm, axis=1))
    for h in (0.0, 0.6):
        ranks, bound = budget.ranks(h), math.inf
        assert ranks.probes
        for size, among, within in ranks.probes:
            kept = min(rank for rank in kept_ranks(compared) if rank >= within)
            probes = [drawn[at * size : (at + 1) * size].mean(axis=0) for at in range(number)]
            others = drawn[number * largest : number * largest + compared]
            each = [np.sort(np.linalg.norm(others - c, ord=norm, axis=1))[kept - 1] for c in probes]
            bound = min(bound, sorted(each)[among - 1])
        radius = radii[ranks.distances - 1]
        assert certificate.eps_out(0.5 * h) == pytest.approx(radius + min(2 * radius, bound), rel=1e-6)
        assert certificate.eps_out(0.5 * h) >= radius + min(2 * radius, bound)


def test_no_output_is_compared_with_a_probe_that_it_is_a_part_of() -> None:
    x = torch.zeros(3, dtype=torch.float64)
    certificate = CenterSmoother(lambda z: z, Lp(2), sigma=1.0, budget=SMALL, batch_size=64).certify(x)
    assert min(float(kept.min()) for kept in certificate.probes.values()) > 0.0
    sample = CertificationSample(SMALL, Lp(2), x)
    for batch in torch.arange(1200, dtype=torch.float64).reshape(-1, 1).expand(-1, 3).split(7):
        sample.add(batch)
    # outputs ascend, so that the nearest to each probe is the first one compared
    first = SMALL.outputs_in_probes
    rows = sample._rows[: SMALL.probes, 0]
    torch.testing.assert_close(
        rows.double(), math.sqrt(3) * (first - torch.arange(SMALL.probes, dtype=torch.float64)), rtol=1e-6, atol=0
    )


def test_tuples_are_disjoint_and_in_the_order_of_the_draws() -> None:
    outputs = torch.arange(12.0).reshape(12, 1)
    assert tuples_of(outputs, 1, 3, Lp(2)).flatten().tolist() == [0.0, 1.0, 2.0]
    assert tuples_of(outputs, 4, 3, Lp(2)).flatten().tolist() == [1.5, 5.5, 9.5]
    holed = outputs.clone()
    holed[1] = math.nan
    assert torch.isnan(tuples_of(holed, 2, 2, Lp(2)).flatten()).tolist() == [True, False]


@pytest.mark.parametrize("coverage", ["pointwise", "bonferroni", "dkw"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_outputs_without_averages_pay_for_no_tuple_size_that_they_do_not_have(
    dtype: torch.dtype, coverage: Coverage
) -> None:
    """Neither in failure probability nor in outputs and comparisons: what one size alone certifies."""
    x, curve = torch.full((3,), 9.0), [0.0, 0.3, 0.6, 1.0]
    found, alone = (
        CenterSmoother(lambda z: (4.0 * z).to(dtype), Lp(2), sigma=1.0, budget=budget, batch_size=64).certify(x)
        for budget in (SMALL, dataclasses.replace(SMALL, tuple_sizes=(1,)))
    )
    assert alone.theorem(0.3) == found.theorem(0.3) == "T7 J=1"
    assert found.eps_out(curve, coverage=coverage) == pytest.approx(alone.eps_out(curve, coverage=coverage), rel=0)
    np.testing.assert_array_equal(found.probes[1], alone.probes[1])
    described = {"sigma": 1.0, "relaxation": 1.0, "abstained": False, "smoothing_loss": 0.0}
    described["budget"] = found.budget.as_dict()
    again = Certificate.from_kept(found.distances, found.kept_arrays(), described, center=found.center)
    assert again.eps_out(0.6) == found.eps_out(0.6)


def test_outputs_that_cannot_be_averaged_have_as_many_candidates() -> None:
    budget = SmoothingBudget()
    without = budget.without_averages()
    assert without.tuple_sizes == (1,)
    assert without.tuples(1) == sum(budget.tuples(size) for size in budget.tuple_sizes)
    assert without.most_candidates == budget.most_candidates == sum(map(budget.tuples, budget.tuple_sizes)) + 2
    assert without.delta == budget.delta
    assert without.abstention_probability() <= budget.abstention_probability() + 1e-12
    assert CenterSmoother(lambda z: z, SampleCenters(), sigma=1.0).budget == without
    paper = SmoothingBudget(n=200, delta=0.2, method="paper")
    assert paper.without_averages() is paper


@pytest.mark.parametrize("coverage", ["pointwise", "bonferroni", "dkw"])
@pytest.mark.parametrize("budget", [SMALL, SmoothingBudget(n=1000, m=2000)])
def test_never_looser_than_t3_by_more_than_the_split_of_alpha(budget: SmoothingBudget, coverage: str) -> None:
    """Whatever the distances: at most what T3 says at half of alpha_2, or exactly what it says at all of it."""
    rng = np.random.default_rng(0)
    half = dataclasses.replace(budget, alpha_2=budget.alpha_2 / 2, tuple_sizes=())
    whole = dataclasses.replace(budget, tuple_sizes=())
    shape = (budget.probes, len(kept_ranks(budget.compared(budget.m))))
    output = SmoothedOutput(torch.zeros(1), 1.0, 0.5, abstained=False)
    for scale in (0.1, 1.0, 10.0):
        distances = np.sort(rng.gamma(3.0, size=budget.m))
        kept = scale * np.sort(np.sort(rng.gamma(3.0, size=shape), axis=1), axis=0)
        probes = {size: kept.astype(np.float32) for size in budget.tuple_sizes}
        ours = Certificate(distances, 1.0, 1.0, budget, output, 0.0, probes)
        for eps_in in np.linspace(0.0, 3.5, 6):
            certified = ours.eps_out([eps_in, 9.0], coverage=coverage)[0]
            at_half = Certificate(distances, 1.0, 1.0, half, output, 0.0).eps_out([eps_in, 9.0], coverage=coverage)[0]
            at_all = Certificate(distances, 1.0, 1.0, whole, output, 0.0).eps_out([eps_in, 9.0], coverage=coverage)[0]
            assert certified <= at_half or certified == at_all


def test_the_input_radius_is_where_the_curve_first_exceeds_the_output_radius() -> None:
    x = torch.tensor([0.3, -0.7], dtype=torch.float64)
    certificate = CenterSmoother(curved, Lp(2), sigma=0.5, budget=SMALL, batch_size=64).certify(x)
    for coverage in ("pointwise", "dkw"):
        curve = np.linspace(0.0, 1.6, 321)
        radii = certificate.eps_out(curve, coverage=coverage)
        for eps_out in (*radii[np.isfinite(radii)][::30], 1.0, 5.0):
            eps_in = certificate.eps_in(float(eps_out), coverage=coverage)
            exceeds = int(np.argmax(radii > eps_out))
            assert eps_in <= curve[exceeds]
            assert eps_in >= (curve[exceeds - 1] * (1 - 1e-9) if exceeds else 0.0)
        assert certificate.eps_out(certificate.eps_in(math.inf, coverage=coverage), coverage=coverage) < math.inf


# --- coverage -----------------------------------------------------------------------------------------------------


TIGHT = SmoothingBudget(n=2001, m=900, k=64, alpha_1=0.1, alpha_2=0.4, delta=0.1, tuple_sizes=(1, 2, 4))
# 32 probes of single outputs, 868 comparisons each
ONE = dataclasses.replace(TIGHT, tuple_sizes=(1,), candidates=64)


def share_of_good_probes(t: float, p: float, size: int) -> float:
    """Of f(X) ~ N(0, 1) on the line: P over averages c of J outputs that more than p of the mass is within t of c."""

    def mass(c: float) -> float:
        return float(special.ndtr(c + t) - special.ndtr(c - t))

    if mass(0.0) <= p:
        return 0.0
    low, high = 0.0, 10.0 + t
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) > p else (low, middle)
    return float(2 * special.ndtr(low * math.sqrt(size)) - 1)


def failures_of_probes(budget: SmoothingBudget, size: int, h: float, runs: int) -> int:
    """How often t does not have more than the share v of probes, each with more than p around it.

    The outputs are standard normal on the line.
    """
    (found,) = [ranks for ranks in budget.ranks(h).probes if ranks[0] == size]
    p = bounds.gaussian_shift_up(0.5 + budget.delta, h)
    alpha_hit = budget._alpha_hit()
    v = bounds.gaussian_shift_up(bounds.mass_hit(budget.tuples(size), alpha_hit), math.sqrt(size) * h)
    rng, failures = torch.Generator().manual_seed(3), 0
    kept = kept_ranks(budget.compared(budget.m))
    for _ in range(runs):
        sample = CertificationSample(budget, Lp(1), torch.zeros(1))
        sample.add(torch.randn(budget.m, 1, generator=rng, dtype=torch.float64))
        column = int(np.searchsorted(kept, found[2]))
        t = float(sample.probe_distances(budget.m)[size][found[1] - 1, column])
        failures += share_of_good_probes(t, p, size) <= v
    return failures


@pytest.mark.parametrize(("budget", "size", "h"), [(ONE, 1, 0.8), (TIGHT, 2, 0.5), (TIGHT, 4, 0.3)])
def test_probes_fail_with_their_share_of_alpha_at_most(budget: SmoothingBudget, size: int, h: float) -> None:
    failures = failures_of_probes(budget, size, h, 100)
    assert not refuted(failures, 100, budget.alpha_2 / 2 / len(budget.tuple_sizes))


# Outputs at which chance decides: all alike with probability s, else far from everything. An average of four is good
# at t = 0 if all four are alike. s is such that good ones have exactly the share v, which must not pass as more.
EDGE = SmoothingBudget(n=2001, m=3000, k=64, alpha_1=0.1, alpha_2=0.4, delta=0.1, tuple_sizes=(4,))
EDGE_ALPHA, EDGE_HIT = EDGE.alpha_2 / 4, bounds.mass_hit(EDGE.tuples(4), EDGE._alpha_hit())
# the h at which the order statistic among the probes fails with all of its alpha
EDGE_V = bounds.clopper_pearson_lower(23, EDGE.probes, EDGE_ALPHA) - 1e-9
EDGE_RUNS = 300
EDGE_H = bounds.gaussian_shift_between(EDGE_HIT, EDGE_V) / 2.0


@cache
def probes_at_the_edge(runs: int) -> list[NDArray[np.float32]]:
    """What is kept of each probe's distances, run by run, of the rank that the budget compares."""
    ((_, _, within),) = EDGE.ranks(EDGE_H).probes
    column = int(np.searchsorted(kept_ranks(EDGE.compared(EDGE.m)), within))
    rng, found = torch.Generator().manual_seed(5), []
    for _ in range(runs):
        alike = torch.rand(EDGE.m, 1, generator=rng, dtype=torch.float64) < EDGE_V**0.25
        far = torch.arange(1.0, EDGE.m + 1.0, dtype=torch.float64)[:, None] * 100.0
        sample = CertificationSample(EDGE, Lp(1), torch.zeros(1))
        sample.add(torch.where(alike, 0.0, far))
        found.append(sample.probe_distances(EDGE.m)[4][:, column])
    return found


def failures_at_the_edge(runs: int) -> int:
    """How often t is 0."""
    ((_, among, _),) = EDGE.ranks(EDGE_H).probes
    return sum(bool(distances[among - 1] == 0.0) for distances in probes_at_the_edge(runs))


def test_where_chance_decides_probes_fail_with_their_share_of_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = failures_at_the_edge(EDGE_RUNS)
    assert not refuted(failures, EDGE_RUNS, EDGE_ALPHA)
    assert failures > EDGE_RUNS * EDGE_ALPHA / 5
    certificate_ranks.cache_clear()
    original = bounds.order_statistic_rank  # one rank lower among the probes would be noticed
    monkeypatch.setattr(bounds, "order_statistic_rank", lambda m, p, alpha: original(m, p, alpha) - (m == EDGE.probes))
    assert refuted(failures_at_the_edge(EDGE_RUNS), EDGE_RUNS, EDGE_ALPHA)


def overlapping(outputs: Tensor, size: int, number: int, distance: Distance) -> Tensor:
    return outputs.unfold(0, size, 1)[:number].mean(dim=-1)


def test_tuples_that_overlap_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certification_sample, "tuples_of", overlapping)
    assert refuted(failures_at_the_edge(200), 200, EDGE_ALPHA)


def test_comparisons_on_the_wrong_side_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order statistic below the quantile of each probe's distances in place of the one above it."""
    # two places, p of the outputs at one of them: a probe there has p of the mass at t = 0 and no more
    budget = dataclasses.replace(EDGE, tuple_sizes=(1,))
    p, rng = bounds.gaussian_shift_up(0.6, EDGE_H), torch.Generator().manual_seed(6)

    def failures(runs: int) -> int:
        ((_, among, within),) = budget.ranks(EDGE_H).probes
        column, count = int(np.searchsorted(kept_ranks(budget.compared(budget.m)), within)), 0
        for _ in range(runs):
            sample = CertificationSample(budget, Lp(1), torch.zeros(1))
            sample.add((torch.rand(budget.m, 1, generator=rng, dtype=torch.float64) >= p - 1e-9).double())
            count += bool(sample.probe_distances(budget.m)[1][among - 1, column] == 0.0)
        return count

    assert not refuted(failures(100), 100, EDGE_ALPHA)
    original = bounds.order_statistic_rank

    def below(m: int, p: float, alpha: float) -> int:
        return (bounds.order_statistic_rank_below if m == budget.compared(budget.m) else original)(m, p, alpha)

    monkeypatch.setattr(bounds, "order_statistic_rank", below)
    certificate_ranks.cache_clear()
    assert refuted(failures(100), 100, EDGE_ALPHA)


# --- the whole promise, with an attacked x' -----------------------------------------------------------------------


def linear(z: Tensor) -> Tensor:
    return z @ z.new_tensor([[3.0, 0.0], [1.0, 0.2], [0.0, -0.1]]).T


def identity(z: Tensor) -> Tensor:
    return z


def mixture(z: Tensor) -> Tensor:
    """Two far clusters: the first coordinate says which one, the others where in it."""
    return torch.cat([torch.where(z[:, :1] > 0.9, 20.0, 0.0).to(z.dtype), z[:, 1:]], dim=1)


# model, distance, x, direction of x', whether t is below 2 R at h = 0.5
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Distance, Tensor, Tensor, bool]] = {
    "many dimensions": (identity, Lp(2), torch.zeros(24).double(), torch.ones(24).double(), True),
    "line": (linear, Lp(2), vector(0.5, -1.0), vector(1.0, 0.05), True),
    "samples": (identity, SampleCenters(1), torch.zeros(6).double(), torch.ones(6).double(), True),
    "clusters": (mixture, Lp(2), torch.zeros(8).double(), torch.eye(8).double()[0], True),
    "classes": (one_hot, SampleCenters(1), vector(1.9, 0.0, 0.0), vector(-1.0, 1.0, 0.0), False),
}


def promise_budget(alpha: float, h: float) -> SmoothingBudget:
    # sizes at which probes are certified at that h, with an abstention rate that leaves something to test
    return SmoothingBudget(n=301, m=900 if h < 1.5 else 3000, k=64, alpha_1=alpha / 2, alpha_2=alpha / 2, delta=0.15)


@pytest.mark.parametrize(("case", "h", "alpha"), [*((case, 1.0, 0.05) for case in CASES), ("clusters", 2.0, 0.005)])
def test_centers_are_no_further_apart_than_certified(case: str, h: float, alpha: float) -> None:
    budget, runs = promise_budget(alpha, h), 20
    found = pairs_between(*CASES[case][:2], budget, *CASES[case][2:4], h, runs)
    assert len(found) > 0.5 * runs
    assert not refuted(failures_of(found, h), runs, alpha)


@pytest.mark.parametrize("case", CASES)
def test_cases_have_both_sides_of_the_minimum(case: str) -> None:
    budget, below = promise_budget(0.05, 1.0), CASES[case][-1]
    ((certificate, _),) = pairs_between(*CASES[case][:2], budget, *CASES[case][2:4], 0.0, 1)
    ranks = budget.without_averages().ranks(0.5) if not CASES[case][1].averages else budget.ranks(0.5)
    radius = float(certificate.distances[ranks.distances - 1])
    assert (certificate.eps_out(0.5) < 3.0 * radius * (1 - 1e-6)) == below


def failures_of_balls(case: str, h: float, runs: int) -> int:
    """How often the other ball is larger than t: what T7 says of it."""
    model, distance, x, direction, _ = CASES[case]
    budget = dataclasses.replace(promise_budget(0.2, h), tuple_sizes=(1,))
    return failures_of_radius(model, distance, budget, x, h * direction / direction.norm(), h, runs)


@pytest.mark.parametrize("case", ["line", "clusters"])
def test_the_other_ball_is_no_larger_than_the_probes_say(case: str) -> None:
    assert not refuted(failures_of_balls(case, 1.0, 40), 40, 0.2)


def test_probes_without_the_shift_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "gaussian_shift_up", lambda mass, h: mass)
    monkeypatch.setattr(bounds, "order_statistic_rank", lambda m, p, alpha: max(1, math.ceil(m * p)))
    assert refuted(failures_of_balls("clusters", 1.0, 40), 40, 0.2)


# --- looks --------------------------------------------------------------------------------------------------------


LOOKS = SmoothingBudget(n=50, m=800, k=32, alpha_1=0.2, alpha_2=0.1, delta=0.35, n_check=50, tuple_sizes=(), looks=5)


def failures_with_the_luckiest_look(budgets: list[SmoothingBudget], runs: int) -> int:
    """How often the smallest of the certified radii of all looks covers too little: the worst stopping rule.

    Distances are uniform: the p-quantile is p.
    """
    rng, output, failures = np.random.default_rng(4), SmoothedOutput(torch.zeros(1), 1.0, 0.5, abstained=False), 0
    p, h = 0.93, float(special.ndtri(0.93) - special.ndtri(0.85))
    for _ in range(runs):
        distances = rng.uniform(size=LOOKS.m)
        radii = [
            Certificate(np.sort(distances[:m]), 1.0, 1.0, budget, output, 0.0).eps_out(h) / 3.0
            for m, budget in zip(LOOKS.look_sizes, budgets, strict=True)
        ]
        failures += min(radii) <= p
    return failures


def test_all_looks_hold_together() -> None:
    assert LOOKS.look_sizes == (50, 100, 200, 400, 800)
    assert dataclasses.replace(LOOKS, m=801).look_sizes == (51, 101, 201, 401, 801)
    failures = failures_with_the_luckiest_look([LOOKS] * 5, 400)
    assert not refuted(failures, 400, LOOKS.alpha_2)
    assert failures > 400 * LOOKS.alpha_2 / 5
    # as if alpha_2 were not shared by the looks
    alone = [dataclasses.replace(LOOKS, m=m, looks=1) for m in LOOKS.look_sizes]
    assert refuted(failures_with_the_luckiest_look(alone, 400), 400, LOOKS.alpha_2)


@pytest.mark.parametrize("case", ["line", "classes"])
def test_the_promise_holds_with_optional_stopping(case: str) -> None:
    """Stopped at the look with the smallest radius so far, which knows the next one: no rule is luckier."""
    model, distance, x, direction, _ = CASES[case]
    budget = SmoothingBudget(n=201, m=1608, k=64, alpha_1=0.05, alpha_2=0.05, delta=0.2, looks=4)
    here, there = two_centers(model, distance, budget)
    moved, failures, both = x + direction / torch.linalg.vector_norm(direction), 0, 0
    for run in range(25):
        seen: list[float] = []
        last = here.certify(x, example=run, stop=lambda certificate, seen=seen: seen.append(certificate.eps_out(1.0)))
        output = there.smooth(moved, example=run)
        if not (last.abstained or output.abstained):
            both += 1
            apart = distance(last.center[None], output.center[None]).item()
            failures += apart > min([*seen, last.eps_out(1.0)])
    assert both > 12
    assert not refuted(failures, 25, budget.alpha)
