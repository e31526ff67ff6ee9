"""Monte Carlo: what theory T11 says of means fails no more often than it may, and broken variants are refuted."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate, stats
from torch import Tensor

from center_smoothing import (
    Distance,
    Lp,
    MeanBudget,
    MeanSmoother,
    TotalVariation,
    bounds,
    noise,
    sampling,
)
from center_smoothing.means import budget as mean_budget
from center_smoothing.means import certificate as mean_certificate
from center_smoothing.means import smoother as mean_smoother
from center_smoothing.means.certificate import tail_steps
from center_smoothing.noise import Stage
from tests.center_smoothing.refutation import Pairs, failures_of, pairs, refuted

Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _t11_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """T11 has all of alpha, and not T12 beside it."""
    for distance in (Lp, TotalVariation):
        monkeypatch.setattr(distance, "norm", None)


@pytest.fixture(autouse=True)
def _no_remembered_tails() -> Iterator[None]:
    """Broken variants must neither use nor leave behind bounds that are kept from call to call."""
    mean_budget._tails.cache_clear()
    yield
    mean_budget._tails.cache_clear()


def tails_budget(m: int) -> MeanBudget:
    return MeanBudget(n=50, m=m, alpha_1=0.1, alpha_2=0.1)


def uniform(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    return rng.uniform(size=size)


def tenths(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """Uniform, rounded up to multiples of 1/10."""
    return np.ceil(10 * rng.uniform(size=size)) / 10


def mass_beyond(values: Array, draw: Callable[..., Array]) -> Array:
    return 1 - (values if draw is uniform else np.floor(10 * values + 1e-9) / 10)


def failures_of_tails(draw: Callable[..., Array], m: int, runs: int) -> int:
    """How often the mass beyond any sample of the grid exceeds its bound."""
    ranks, tails = tails_budget(m).tails()
    samples = np.sort(draw(np.random.default_rng(0), (runs, m)), axis=1)[:, ranks - 1]
    return int(np.any(mass_beyond(samples, draw) > tails, axis=1).sum())


@pytest.mark.parametrize("draw", [uniform, tenths])
@pytest.mark.parametrize("m", [20, 300])
def test_all_tails_hold_together(draw: Callable[..., Array], m: int) -> None:
    failures = failures_of_tails(draw, m, 2000)
    assert not refuted(failures, 2000, 0.1)
    assert draw is tenths or failures > 2000 * 0.1 / 2


def test_alpha_that_is_not_split_over_the_grid_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mean_budget, "split", lambda alpha, levels: np.full(levels, alpha))
    assert refuted(failures_of_tails(uniform, 300, 2000), 2000, 0.1)


def test_tails_at_one_rank_lower_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, tails = tails_budget(300).tails()
    monkeypatch.setattr(MeanBudget, "tails", lambda self: (np.maximum(1, ranks - 1), tails))
    assert refuted(failures_of_tails(uniform, 300, 2000), 2000, 0.1)


H, BOUND = 1.0, 5.0


def shifted_integral(tail: Callable[[float], float]) -> float:
    """E_h of T11: the integral of Phi(Phi^-1(S(t)) + h) over [0, B]."""
    return integrate.quad(lambda t: stats.norm.cdf(stats.norm.ppf(tail(t)) + H), 0.0, BOUND, limit=400)[0]


def rare(m: int) -> float:
    """A mass that m samples miss with the failure probability of the bound beyond the largest of them."""
    return mean_budget._tails(m, 0.1)[1][-1] * (1 + 1e-9)


# Tail and draws of distances in [0, B], by the number of samples.
DISTANCES: dict[str, Callable[[int], tuple[Callable[[float], float], Callable[[np.random.Generator], Array]]]] = {
    "exponential": lambda m: (lambda t: math.exp(-t), lambda rng: np.minimum(rng.exponential(size=m), BOUND)),
    "uniform": lambda m: (lambda t: max(0.0, 1 - t), lambda rng: rng.uniform(size=m)),
    "rare": lambda m: (lambda t: rare(m), lambda rng: BOUND * (rng.uniform(size=m) < rare(m))),
    "rarer": lambda m: (lambda t: rare(m) / 9, lambda rng: BOUND * (rng.uniform(size=m) < rare(m) / 9)),
}


def failures_of_expectation(case: str, m: int, runs: int, cut: bool = False) -> tuple[int, float]:
    """How often the expectation after the shift exceeds what the samples bound it by, and the mean of those bounds."""
    tail, draw = DISTANCES[case](m)
    truth = shifted_integral(tail)
    rng, budget, estimates = np.random.default_rng(1), tails_budget(m), []
    for _ in range(runs):
        edges, tails = tail_steps(np.sort(draw(rng)), BOUND, budget)
        widths = np.diff(edges)
        widths[-1] *= not cut
        estimates.append(float(widths @ bounds.gaussian_shifts_up(tails, H)))
    return int(np.sum(np.array(estimates) < truth)), float(np.mean(estimates)) / truth


@pytest.mark.parametrize(
    ("case", "m"), [("exponential", 50), ("uniform", 500), ("rare", 50), ("rare", 500), ("rarer", 500)]
)
def test_the_expectation_after_the_shift_is_bounded(case: str, m: int) -> None:
    failures, _ = failures_of_expectation(case, m, 400)
    assert not refuted(failures, 400, 0.1)
    assert case != "rare" or failures > 400 * 0.1 / 2


def test_a_last_step_that_does_not_reach_the_bound_would_be_noticed() -> None:
    failures, _ = failures_of_expectation("rarer", 500, 60, cut=True)
    assert refuted(failures, 60, 0.1)


def test_an_expectation_without_the_shift_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "gaussian_shifts_up", lambda masses, h: masses)
    failures, _ = failures_of_expectation("exponential", 500, 60)
    assert refuted(failures, 60, 0.1)


def failures_of_tails_around_the_mean(runs: int) -> int:
    """Of f(x) = x in 2 000 dimensions: outputs that a mean is made of lie nearer to it than fresh ones."""
    budget, dimension, failures = MeanBudget(n=20, m=20, alpha_1=0.1, alpha_2=0.1), 2000, 0
    ranks, tails = budget.tails()
    smoother = MeanSmoother(lambda z: z, Lp(2), sigma=1.0, budget=budget, bound=1e3, batch_size=64)
    for run in range(runs):
        certificate = smoother.certify(torch.zeros(dimension), example=run)
        offset = float((certificate.center**2).sum())
        beyond = stats.ncx2.sf(certificate.distances[ranks - 1] ** 2, dimension, offset)
        failures += bool(np.any(beyond > tails))
    return failures


def test_tails_around_the_mean_hold() -> None:
    assert not refuted(failures_of_tails_around_the_mean(60), 60, 0.1)


def test_a_mean_of_the_certification_batch_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MeanSmoother._draw

    def draw(self: MeanSmoother, x: Tensor, example: int, stage: Stage, count: int) -> Iterator[Tensor]:
        return original(self, x, example, Stage.CERTIFICATION, count)

    monkeypatch.setattr(MeanSmoother, "_draw", draw)
    assert refuted(failures_of_tails_around_the_mean(30), 30, 0.1)


Model = Callable[[Tensor], Tensor]


def pairs_between(
    model: Model,
    distance: Distance,
    budget: MeanBudget,
    x: Tensor,
    along: Tensor,
    h: float,
    runs: int,
    **more: float,
) -> Pairs:
    """Both runs have the same seed and example: only x tells their noise apart. sigma is 1."""
    smoother = MeanSmoother(model, distance, sigma=1.0, budget=budget, batch_size=4096, **more)
    return pairs(smoother, smoother, x, along, h, runs)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def step(mass: float, height: float = 3.0) -> Model:
    """0, and the height where the first coordinate is among the largest ones, which have so much mass at x = 0."""
    threshold = float(stats.norm.isf(mass))
    return lambda z: height * (z[:, :1] > threshold).to(z.dtype)


def outliers(mass: float) -> Model:
    """The identity, and huge outputs of that mass at x = 0, more of them further on."""
    threshold = float(stats.norm.isf(mass))
    return lambda z: z * torch.where(z[:, :1] > threshold, 1e9, 1.0)


def jumps(z: Tensor) -> Tensor:
    return torch.cat([(z[:, :1] * 1.5).floor(), (z.sum(dim=1, keepdim=True) > 0.0) * 2.0], dim=1)


def heavy(z: Tensor) -> Tensor:
    return torch.tan(math.pi * (torch.special.ndtr(z) - 0.5))  # Cauchy at x = 0


def picture(z: Tensor) -> Tensor:
    return (z.cumsum(dim=1) > 1.0).to(z.dtype).reshape(-1, 1, 2, 2)


def undefined(z: Tensor) -> Tensor:
    return torch.where(z[:, :1] > 4.5, torch.nan, 2.0 * z.clamp(-3.0, 3.0))


X2, ALONG = torch.zeros(2, dtype=torch.float64), vector(1.0, 0.0)
STRETCH = torch.tensor([[3.0, 0.0], [1.0, 0.2], [0.0, -0.1]], dtype=torch.float64)

# model, distance, x, direction of x', and what bounds the distances
CASES: dict[str, tuple[Model, Distance, Tensor, Tensor, dict[str, float]]] = {
    "linear": (lambda z: z @ STRETCH.T, Lp(2), X2, torch.linalg.svd(STRETCH).Vh[0], {"clip_norm": 12.0}),
    "step": (step(0.05), Lp(1), X2, ALONG, {"bound": 3.0}),
    "rare step": (step(0.005), Lp(2), X2, ALONG, {"clip_norm": 3.0}),
    "outliers": (outliers(0.01), Lp(1), X2, ALONG, {"clip_norm": 4.0}),
    "jumps": (jumps, Lp(math.inf), vector(0.1, -1.2), vector(0.4, 1.0), {"clip_norm": 4.0}),
    "heavy": (heavy, Lp(2), X2, vector(1.0, 1.0), {"clip_norm": 5.0}),
    "picture": (picture, TotalVariation(), torch.zeros(4, dtype=torch.float64), torch.ones(4), {"bound": 8.0}),
    "undefined": (undefined, Lp(2), X2, ALONG, {"clip_norm": 4.0}),
}


@pytest.mark.parametrize(
    ("case", "h", "group"), [(case, *[(1.0, 1), (2.0, 2)][place % 2]) for place, case in enumerate(CASES)]
)
def test_means_are_no_further_apart_than_certified(case: str, h: float, group: int) -> None:
    model, distance, x, direction, options = CASES[case]
    budget, runs = MeanBudget(n=60, m=200, group=group, alpha_1=0.05, alpha_2=0.05), 30
    found = pairs_between(model, distance, budget, x, direction, h, runs, **options)
    assert len(found) > 0.5 * runs
    assert case != "undefined" or h == 1.0 or len(found) < runs
    assert not refuted(failures_of(found, h), runs, budget.alpha)


@pytest.fixture
def _large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in larger blocks is another stream of the same law, and faster where there is much of it."""
    for module in (noise, sampling, mean_smoother):
        monkeypatch.setattr(module, "BLOCK", 4096)


def pairs_at_the_edge(budget: MeanBudget, share: float, runs: int, h: float = 2.0) -> Pairs:
    """Of a step of a mass that is so many times what the budget assumes beyond the largest of the samples.

    At x' it is all there is to the mean, which is of so many outputs that it hardly varies.
    """
    model = step(budget.plan(h).tail * share)
    return pairs_between(model, Lp(1), budget, vector(0.0), vector(1.0), h, runs, bound=3.0)


def edge_budget(alpha: float = 0.22) -> MeanBudget:
    return MeanBudget(n=30_000, m=3000, alpha_1=alpha / 11, alpha_2=10 * alpha / 11)


@pytest.mark.usefixtures("_large_blocks")
@pytest.mark.parametrize(("h", "alpha", "share"), [(1.0, 0.22, 1.3), (2.0, 0.01, 1.1)])
def test_the_promise_holds_where_chance_decides(h: float, alpha: float, share: float) -> None:
    failures = failures_of(pairs_at_the_edge(edge_budget(alpha), share, 60, h), h)
    assert not refuted(failures, 60, alpha)
    assert failures > 0 or alpha < 0.1


@pytest.mark.parametrize("h", [1.0, 2.0])
@pytest.mark.usefixtures("_large_blocks")
def test_a_missing_shift_would_be_noticed(h: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "gaussian_shifts_up", lambda masses, h: masses)
    budget = MeanBudget(n=3000, m=3000, alpha_1=0.05, alpha_2=0.05)
    found = pairs_between(step(0.05), Lp(1), budget, X2, ALONG, h, 12, bound=3.0)
    assert refuted(failures_of(found, h), 12, budget.alpha)


@pytest.mark.usefixtures("_large_blocks")
def test_a_tail_that_ends_at_the_largest_sample_would_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tail_steps

    def steps(distances: Array, bound: float, budget: MeanBudget) -> tuple[Array, Array]:
        edges, heights = original(distances, bound, budget)
        return edges, np.array([*heights[:-1], 1e-300])

    monkeypatch.setattr(mean_certificate, "tail_steps", steps)
    assert refuted(failures_of(pairs_at_the_edge(edge_budget(), 0.2, 30), 2.0), 30, 0.22)


@pytest.mark.usefixtures("_large_blocks")
def test_groups_without_their_larger_shift_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = MeanBudget(n=8000, m=16_000, group=8, alpha_1=0.05, alpha_2=0.05)
    found = pairs_between(step(0.01), Lp(1), budget, X2, ALONG, 2.0, 20, bound=3.0)
    assert not refuted(failures_of(found, 2.0), 20, budget.alpha)
    monkeypatch.setattr(MeanBudget, "shift", lambda self, h: h)
    assert refuted(failures_of(found, 2.0), 20, budget.alpha)


class Expectation:
    """What the mean exceeds about every other time."""

    def __init__(self, edges: Array, n: int, alpha: float) -> None:
        self.widths = np.diff(edges)

    def __call__(self, tails: Array) -> float:
        return float(self.widths @ tails)


@pytest.mark.usefixtures("_large_blocks")
def test_an_expectation_in_place_of_the_bound_of_a_mean_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = MeanBudget(n=5, m=20_000, alpha_1=0.05, alpha_2=0.05)
    found = pairs_between(step(0.02), Lp(1), budget, X2, ALONG, 1.0, 40, bound=3.0)
    assert not refuted(failures_of(found, 1.0), 40, budget.alpha)
    monkeypatch.setattr(bounds, "MeanBound", Expectation)
    anew = [(dataclasses.replace(certificate), apart) for certificate, apart in found]  # each keeps its bound
    assert refuted(failures_of(anew, 1.0), 40, budget.alpha)
