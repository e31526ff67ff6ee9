import dataclasses
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike
from scipy import integrate, optimize, stats

from center_smoothing import Certificate, MeanBudget, MeanCertificate, bounds
from center_smoothing.means.budget import split, tail_counts
from center_smoothing.means.certificate import MeanOutput, tail_steps

BOUND = 10.0


def certificate(
    distances: ArrayLike, *, sigma: float = 0.5, bound: float = BOUND, abstained: bool = False, **given: float
) -> MeanCertificate:
    distances = np.sort(np.asarray(distances, dtype=np.float64))
    m = given.get("group", 1) * len(distances)
    budget: dict[str, Any] = {"n": 1000, "m": m, "alpha_1": 0.05, "alpha_2": 0.05, **given}
    output = MeanOutput(torch.tensor([[1.5, -2.0]], dtype=torch.float64), abstained)
    return MeanCertificate(distances, sigma, bound, MeanBudget(**budget), output, smoothing_loss=0.3)


def exponential(m: int, bound: float = BOUND) -> np.ndarray:
    """Quantiles of the standard exponential distribution cut off at the bound."""
    return np.minimum(-np.log1p(-(np.arange(m) + 0.5) / m), bound)


SAMPLES = hnp.arrays(np.float64, st.integers(1, 300), elements=st.one_of(st.floats(0.0, BOUND), st.just(math.inf)))
RADII = st.floats(0.0, 3.0)


def by_hand(distances: np.ndarray, bound: float, h: float, n: int, alpha_1: float, alpha_2: float) -> float:
    """The bound of theory T11 from its formulas, one step of the tail at a time, with a continuous choice of rate."""
    m = len(distances)
    counts = tail_counts(m).tolist()
    steps, low, height = [], 0.0, 1.0
    for count, part in reversed(list(zip(counts, split(alpha_2, len(counts)).tolist(), strict=True))):
        high = min(float(np.sort(distances)[m - count - 1]), bound)
        steps.append((low, high, stats.norm.cdf(stats.norm.ppf(height) + h)))
        low, height = high, min(height, float(stats.beta.isf(part, count + 1, m - count)))
    steps.append((low, bound, stats.norm.cdf(stats.norm.ppf(height) + h)))

    def at_rate(log_rate: float) -> float:
        rate = math.exp(log_rate) / bound
        mgf = 1.0 + sum(tail * (math.exp(rate * right) - math.exp(rate * left)) for left, right, tail in steps)
        return (math.log(mgf) + math.log(1 / alpha_1) / n) / rate

    start = min(np.linspace(-6.0, 5.0, 200), key=at_rate)
    best = optimize.minimize_scalar(at_rate, bounds=(start - 0.2, start + 0.2), method="bounded")
    return min(bound, float(best.fun))


@pytest.mark.parametrize("h", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("m", [1, 100, 20_000])
@pytest.mark.parametrize("n", [20, 10_000])
def test_eps_out_by_hand(h: float, m: int, n: int) -> None:
    distances = np.random.default_rng(m).exponential(size=m)
    expected = by_hand(distances, BOUND, h, n, 0.02, 0.03)
    eps_out = certificate(distances, n=n, alpha_1=0.02, alpha_2=0.03).eps_out(0.5 * h)
    assert expected * (1 - 1e-9) <= eps_out <= expected * 1.002


@pytest.mark.parametrize("h", [0.0, 0.5, 1.0, 2.0])
def test_with_many_samples_eps_out_is_the_integral_of_the_shifted_tail(h: float) -> None:
    def shifted(t: float) -> float:
        return float(stats.norm.cdf(stats.norm.ppf(math.exp(-t)) + h))

    integral = integrate.quad(shifted, 0.0, BOUND, limit=200)[0]
    eps_out = certificate(exponential(10**6), n=10**10).eps_out(0.5 * h)
    assert integral < eps_out < 1.06 * integral


def test_identical_outputs_certify_little_more_than_the_tail_at_the_bound() -> None:
    made = certificate(np.zeros(100_000), n=10_000)
    assert made.eps_out(0.0) < 1e-3 * BOUND
    assert made.eps_out(0.5) < 1e-2 * BOUND
    assert made.eps_out(0.5) > made.budget.plan(1.0).tail_at_bound * BOUND
    assert certificate(np.zeros(100_000), n=10_000, bound=1e-300).eps_out(0.5) < 1e-302


@given(distances=SAMPLES, radii=st.lists(RADII, min_size=2, max_size=6), sigma=st.sampled_from([0.1, 0.5, 3.0]))
def test_eps_out_does_not_decrease_with_eps_in(distances: np.ndarray, radii: list[float], sigma: float) -> None:
    curve = certificate(distances, sigma=sigma).eps_out(sorted(radii))
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(curve))


@given(distances=SAMPLES, eps_in=st.floats(1e-3, 2.0), sigma=st.sampled_from([0.1, 0.5, 3.0]))
def test_eps_in_inverts_eps_out(distances: np.ndarray, eps_in: float, sigma: float) -> None:
    made = certificate(distances, sigma=sigma)
    assert made.eps_in(made.eps_out(eps_in) * (1 + 1e-12)) >= eps_in * (1 - 1e-6)


@given(distances=SAMPLES, eps_out=st.floats(0.0, 1.1 * BOUND), sigma=st.sampled_from([0.1, 0.5, 3.0]))
def test_eps_out_of_eps_in_is_no_larger(distances: np.ndarray, eps_out: float, sigma: float) -> None:
    made = certificate(distances, sigma=sigma)
    eps_in = made.eps_in(eps_out)
    if eps_in > 0.0:
        assert made.eps_out(eps_in) <= eps_out
    if eps_in < math.inf:
        assert made.eps_out(max(eps_in * (1 + 1e-9), 1e-9)) > eps_out * (1 - 1e-9)


@given(distances=SAMPLES, eps_in=RADII, data=st.data())
def test_what_makes_eps_out_larger(distances: np.ndarray, eps_in: float, data: st.DataObject) -> None:
    made = certificate(distances).eps_out(eps_in)
    for changes in ({"alpha_1": 0.01}, {"alpha_2": 0.01}, {"n": 500}, {"bound": 1.5 * BOUND}):
        assert certificate(distances, **changes).eps_out(eps_in) >= made * (1 - 1e-12)
    further = distances + data.draw(st.floats(0.0, 5.0))
    assert certificate(further).eps_out(eps_in) >= made * (1 - 1e-12)


@given(distances=SAMPLES, eps_in=RADII)
def test_no_radius_exceeds_the_bound(distances: np.ndarray, eps_in: float) -> None:
    made = certificate(distances)
    assert made.eps_out(eps_in) <= made.eps_out(math.inf)
    assert made.eps_out(math.inf) == pytest.approx(BOUND, rel=1e-8)
    assert made.eps_out(math.inf) > BOUND
    assert made.eps_in(1.001 * BOUND) == math.inf
    assert made.eps_in(0.999 * BOUND) < math.inf


def test_groups_answer_like_fewer_draws_of_more_noise() -> None:
    distances = exponential(500)
    grouped, single = certificate(distances, group=4, n=4000), certificate(distances, n=1000)
    grid = np.array([0.0, 0.1, 0.5, 1.0])
    np.testing.assert_array_equal(grouped.eps_out(grid), single.eps_out(2 * grid))
    np.testing.assert_allclose(2 * grouped.eps_in([1.0, 3.0, 9.0]), single.eps_in([1.0, 3.0, 9.0]), rtol=1e-12)


@pytest.mark.parametrize(("n", "share"), [(1000, 2.0**-36), (10**9, 10**9 * 2.0**-52)])
def test_the_rounding_of_the_mean_is_part_of_eps_out(n: int, share: float) -> None:
    made = certificate(np.zeros(100_000), n=n)
    tails, mean_bound = made._steps
    without = mean_bound(bounds.gaussian_shifts_up(tails, 0.0))
    assert made.eps_out(0.0) / (1.0 + 2.0**-28) - without == pytest.approx(share * BOUND, rel=1e-3)


def test_every_coverage_gives_the_same_answers() -> None:
    made, grid = certificate(exponential(300)), [0.0, 0.1, 0.5]
    for coverage in ("pointwise", "bonferroni", "dkw"):
        np.testing.assert_array_equal(made.eps_out(grid, coverage=coverage), made.eps_out(grid))
        np.testing.assert_array_equal(made.eps_in(grid, coverage=coverage), made.eps_in(grid))


def test_steps_lie_above_the_tail_of_the_samples() -> None:
    distances = np.sort(np.random.default_rng(0).exponential(size=1000))
    made = certificate(distances)
    edges, heights = tail_steps(distances, BOUND, made.budget)
    assert (edges[0], edges[-1], heights[0]) == (0.0, BOUND, 1.0)
    assert np.all(np.diff(edges) >= 0.0)
    assert np.all(np.diff(heights) <= 0.0)
    for t in np.linspace(0.0, BOUND, 997, endpoint=False):
        height = heights[np.searchsorted(edges, t, side="right") - 1]
        assert height > np.mean(distances > t) or height == 1.0


def test_an_abstention_certifies_nothing() -> None:
    made = certificate(np.zeros(100), abstained=True)
    assert made.abstained
    assert made.eps_out(0.0) == math.inf
    assert made.eps_in(math.inf) == 0.0
    assert made.eps_out([0.0, 0.1]).tolist() == [math.inf, math.inf]
    assert made.eps_in([0.0, 100.0]).tolist() == [0.0, 0.0]


def test_non_finite_outputs_count_as_if_at_the_bound() -> None:
    finite = exponential(180, 5.0)
    made, at_bound = certificate([*finite, *[math.inf] * 20]), certificate([*finite, *[BOUND] * 20])
    assert (made.non_finite, at_bound.non_finite) == (20, 0)
    grid = [0.0, 0.2, 0.7]
    np.testing.assert_array_equal(made.eps_out(grid), at_bound.eps_out(grid))
    assert np.all(np.asarray(made.eps_out(grid)) > certificate([*finite, *[5.0] * 20]).eps_out(grid))
    assert certificate([math.inf] * 50).eps_out(0.1) == made.eps_out(math.inf)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distances": np.arange(3.0)}, r"distances must have shape \(50,\) for this budget, got \(3,\)"),
        ({"bound": 0.0}, "bound must be a positive finite number, got 0.0"),
        ({"bound": math.inf}, "bound must be .* got inf"),
        ({"bound": math.nan}, "bound must be .* got nan"),
    ],
)
def test_a_certificate_checks_its_fields(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(certificate(exponential(50)), **changes)


def test_a_changed_copy_answers_for_itself() -> None:
    made = certificate(exponential(50))
    before = made.eps_out(0.1)
    assert dataclasses.replace(made, bound=2 * BOUND).eps_out(0.1) > before


@pytest.mark.parametrize("abstained", [False, True])
@pytest.mark.parametrize("group", [1, 3])
def test_saving_and_loading_keeps_every_answer(tmp_path: Path, group: int, abstained: bool) -> None:
    distances = [*exponential(95), *[math.inf] * 5]
    made = certificate(distances, sigma=0.3, group=group, n=900, abstained=abstained)
    made = dataclasses.replace(made, smoothing_loss=math.inf)
    made.save(tmp_path / "one.npz")
    loaded = MeanCertificate.load(str(tmp_path / "one.npz"))
    for field in ("sigma", "bound", "budget", "smoothing_loss", "abstained", "non_finite"):
        assert getattr(loaded, field) == getattr(made, field)
    assert torch.equal(loaded.center, made.center)
    assert np.array_equal(loaded.distances, made.distances)
    grid = [0.0, 0.1, 0.2, 0.5, 3.0]
    assert np.array_equal(loaded.eps_out(grid), made.eps_out(grid))
    assert np.array_equal(loaded.eps_in(grid), made.eps_in(grid))


def test_certificates_of_one_kind_are_not_read_as_the_other(tmp_path: Path) -> None:
    certificate(exponential(50)).save(tmp_path / "mean.npz")
    with pytest.raises(ValueError, match=r"path must be a file written by Certificate\.save"):
        Certificate.load(tmp_path / "mean.npz")
    with np.load(tmp_path / "mean.npz") as arrays:
        content = dict(arrays)
    described = '{"sigma": 1.0, "relaxation": 1.0, "budget": {"n": 3}, "abstained": false, "smoothing_loss": 1.0}'
    np.savez(tmp_path / "center.npz", **{**content, "certificate": np.array(described)})
    with pytest.raises(ValueError, match=r"path must be a file written by MeanCertificate\.save"):
        MeanCertificate.load(tmp_path / "center.npz")
