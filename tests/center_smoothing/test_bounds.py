import math
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from center_smoothing import bounds

ALPHAS = (1e-9, 0.0005, 0.005, 0.1, 0.5)
MASSES = (0.0, 1e-12, 0.5, 0.9832, 1 - 1e-12, math.nextafter(1.0, 0.0), 1.0)
NEXT_TO_ONE = (1.0 - 1e-12, math.nextafter(1.0, 0.0))


def exact_tail(m: int, p: float | Fraction, r: int) -> Fraction:
    """P[Bin(m, p) >= r] in rational arithmetic."""
    q = Fraction(p)
    return sum((math.comb(m, i) * q**i * (1 - q) ** (m - i) for i in range(max(r, 0), m + 1)), Fraction(0))


@pytest.mark.parametrize("m", [1, 2, 7, 30])
def test_tail_and_shortfall_equal_exact_sums(m: int) -> None:
    for p, r in product([*MASSES, 0.1], range(-1, m + 3)):
        tail = exact_tail(m, p, r)
        assert bounds.binomial_tail(m, p, r) == pytest.approx(float(tail), rel=1e-11, abs=1e-300)
        assert bounds.binomial_shortfall(m, p, r) == pytest.approx(float(1 - tail), rel=1e-11, abs=1e-300)


@pytest.mark.parametrize(("m", "p", "r"), [(10**7, 0.5, 5_003_000), (10**7, 1 - 1e-6, 9_999_980), (1000, 0.98, 990)])
def test_tail_agrees_with_scipy_for_many_trials(m: int, p: float, r: int) -> None:
    assert bounds.binomial_tail(m, p, r) == pytest.approx(stats.binom.sf(r - 1, m, p), rel=1e-8)
    assert bounds.binomial_shortfall(m, p, r) == pytest.approx(stats.binom.cdf(r - 1, m, p), rel=1e-8)


@pytest.mark.parametrize("m", [1, 2, 30])
def test_clopper_pearson_is_safe_and_tight_in_exact_arithmetic(m: int) -> None:
    for alpha, successes in product(ALPHAS, range(1, m + 1)):
        bound = bounds.clopper_pearson_lower(successes, m, alpha)
        assert exact_tail(m, bound, successes) <= Fraction(alpha)
        assert exact_tail(m, min(1.0, bound * (1 + 1e-8) + 4e-15), successes) > Fraction(alpha)


@pytest.mark.parametrize(("successes", "m"), [(1, 1000), (500, 1000), (999, 1000), (9_999_990, 10**7), (3, 10**7)])
def test_clopper_pearson_agrees_with_the_beta_quantile(successes: int, m: int) -> None:
    for alpha in ALPHAS:
        reference = stats.beta.ppf(alpha, successes, m - successes + 1)
        assert bounds.clopper_pearson_lower(successes, m, alpha) == pytest.approx(reference, rel=2e-9)


@pytest.mark.parametrize("m", [1, 2, 10, 40])
def test_exact_rank_is_the_first_with_a_small_enough_tail(m: int) -> None:
    for p, alpha in product([*MASSES, 0.3], ALPHAS):
        rank = bounds.order_statistic_rank(m, p, alpha)
        assert 1 <= rank <= m + 1
        assert exact_tail(m, p, rank) <= Fraction(alpha)
        assert exact_tail(m, p, rank - 1) > Fraction(alpha) * (1 - Fraction(1, 10**8))


@pytest.mark.parametrize("m", [10**4, 10**6, 10**7])
def test_exact_rank_is_minimal_for_many_draws(m: int) -> None:
    for p in (0.55, 0.98323, 1 - 1e-6):
        rank = bounds.order_statistic_rank(m, p, 0.005)
        assert stats.binom.sf(rank - 1, m, p) <= 0.005 * (1 + 1e-9)
        assert stats.binom.sf(rank - 2, m, p) > 0.005 * (1 - 1e-6)


def test_no_rank_covers_a_quantile_next_to_one() -> None:
    for m, p in product([1, 10**4, 10**7], [*NEXT_TO_ONE, 1.0]):
        assert bounds.order_statistic_rank(m, p, 0.005) == m + 1
        assert bounds.dkw_rank(m, p, 0.005) == m + 1


@settings(max_examples=60)
@given(st.integers(1, 5000), st.floats(0.0, 0.999), st.sampled_from(ALPHAS))
def test_dkw_rank_is_the_least_that_reaches_its_level(m: int, p: float, alpha: float) -> None:
    rank, level = bounds.dkw_rank(m, p, alpha), (p + math.sqrt(math.log(1 / alpha) / (2 * m))) * m
    if rank > m:
        assert level > m * (1 - 1e-12)
    else:
        assert rank >= level * (1 - 1e-12)
        assert rank - 1 < level * (1 + 1e-12)


Finder = Callable[[int, float, float], int]


@pytest.mark.parametrize(
    ("rank", "least_m"),
    [
        (bounds.order_statistic_rank, bounds.order_statistic_least_m),
        (bounds.dkw_rank, bounds.dkw_least_m),
    ],
)
@settings(max_examples=60)
@given(p=st.floats(0.0, 0.9999), alpha=st.sampled_from(ALPHAS))
def test_least_m_is_the_first_m_with_a_rank(
    rank: Finder, least_m: Callable[[float, float], float], p: float, alpha: float
) -> None:
    first = int(least_m(p, alpha))
    assert first >= 1
    assert rank(first, p, alpha) <= first
    assert first == 1 or rank(first - 1, p, alpha) == first


@pytest.mark.parametrize("least_m", [bounds.order_statistic_least_m, bounds.dkw_least_m])
def test_least_m_next_to_one_is_huge_and_at_one_infinite(least_m: Callable[[float, float], float]) -> None:
    assert least_m(1.0, 0.005) == math.inf
    assert least_m(math.nextafter(1.0, 0.0), 0.005) > 1e16
    assert least_m(1.0 - 1e-12, 0.005) > 1e12


def test_hoeffding_margin_is_rounded_up() -> None:
    for m in (1, 7, 10**4, 10**7):
        for alpha in ALPHAS:
            margin = bounds.hoeffding_margin(m, alpha)
            assert margin == pytest.approx(math.sqrt(math.log(1 / alpha) / (2 * m)), rel=4e-15)
            assert margin >= math.sqrt(math.log(1 / alpha) / (2 * m))


def test_shift_up_agrees_with_the_normal_distribution_from_above() -> None:
    for mass, h in product([1e-9, 0.3, 0.5, 0.55, 0.9, 1 - 1e-9], [0.0, 1e-9, 0.5, 1.0, 2.0, 5.0]):
        p = bounds.gaussian_shift_up(mass, h)
        reference = stats.norm.cdf(stats.norm.ppf(mass) + h)
        assert reference <= p <= reference + 1e-14


@settings(max_examples=60)
@given(st.floats(0.5, 0.99), st.floats(1e-3, 4.0))
def test_shift_between_inverts_shift_up_from_below(mass: float, h: float) -> None:
    p = bounds.gaussian_shift_up(mass, h)
    if p < 1.0 - 1e-6:
        back = bounds.gaussian_shift_between(mass, p)
        assert back == pytest.approx(h, rel=1e-7)
        # both round to the safe side, so that the way back up ends no higher; 5e-16 is the error of scipy itself
        assert bounds.gaussian_shift_up(mass, back) <= p + 5e-16


@pytest.mark.parametrize(("draws", "candidates"), [(100, 1), (101, 66), (30, 7)])
def test_selected_masses_are_quantiles_of_the_union_bound(draws: int, candidates: int) -> None:
    half = (draws + 1) // 2
    masses = bounds.mass_selected_by_minimum(draws, half, candidates, points=8)
    reference = stats.beta.ppf(np.arange(8) / 8 / candidates, half, draws + 1 - half)
    np.testing.assert_allclose(masses, reference, rtol=1e-9, atol=0.0)


def test_mean_shortfall_is_the_mean_of_shortfalls() -> None:
    masses = np.array([0.1, 0.4, 0.45])
    expected = np.mean([bounds.binomial_shortfall(50, mass, 20) for mass in masses])
    assert bounds.mean_shortfall(masses, 50, 20) == pytest.approx(expected, rel=1e-12)
    assert bounds.mean_shortfall(masses, 50, 0) == 0.0
    assert bounds.mean_shortfall(masses, 50, 51) == 1.0


@pytest.mark.parametrize("points", [96, 100])
@pytest.mark.parametrize("limit", [0.0, 0.01, 0.3, 1.0])
def test_mean_shortfall_is_compared_with_a_limit_as_if_all_masses_were_looked_at(points: int, limit: float) -> None:
    masses = bounds.mass_selected_by_minimum(100, 50, 20, points)
    for r in range(102):
        assert bounds.mean_shortfall_at_most(masses, 100, r, limit) == (bounds.mean_shortfall(masses, 100, r) <= limit)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bounds.check_alpha(0.0), r"alpha must lie in \(0, 0.5\], got 0.0"),
        (lambda: bounds.check_alpha(math.nan, "alpha_2"), r"alpha_2 must lie in \(0, 0.5\], got nan"),
        (lambda: bounds.check_alpha(0.51), r"alpha .* got 0.51"),
        (lambda: bounds.binomial_tail(0, 0.5, 1), "m must be a whole number of at least 1, got 0"),
        (lambda: bounds.binomial_shortfall(2.5, 0.5, 1), "m must .* got 2.5"),  # type: ignore[arg-type]
        (lambda: bounds.binomial_tail(3, 1.5, 1), r"p must lie in \[0, 1\], got 1.5"),
        (lambda: bounds.order_statistic_rank(3, math.nan, 0.1), "p must .* got nan"),
        (lambda: bounds.dkw_rank(3, -0.1, 0.1), "p must .* got -0.1"),
        (lambda: bounds.order_statistic_least_m(1.1, 0.1), "p must .* got 1.1"),
        (lambda: bounds.dkw_least_m(0.5, 0.6), "alpha must .* got 0.6"),
        (lambda: bounds.clopper_pearson_lower(11, 10, 0.1), r"successes must lie in 0\.\.10, got 11"),
        (lambda: bounds.clopper_pearson_lower(-1, 10, 0.1), "successes must .* got -1"),
        (lambda: bounds.clopper_pearson_lower(0, 0, 0.1), "trials must .* got 0"),
        (lambda: bounds.gaussian_shift_up(1.0, 1.0), r"mass must lie in \(0, 1\), got 1.0"),
        (lambda: bounds.gaussian_shift_up(0.5, -1.0), "h must be at least 0, got -1.0"),
        (lambda: bounds.gaussian_shift_up(0.5, math.nan), "h must .* got nan"),
        (lambda: bounds.gaussian_shift_between(0.0, 0.5), "mass must .* got 0.0"),
        (lambda: bounds.gaussian_shift_between(0.5, 1.0), r"p must lie in \[0, 1\), got 1.0"),
        (lambda: bounds.mass_selected_by_minimum(0, 0, 2), "draws must .* got 0"),
        (lambda: bounds.mass_selected_by_minimum(3, 4, 2), r"rank must lie in 0\.\.3, got 4"),
        (lambda: bounds.mean_shortfall(np.ones(1), 0, 1), "m must .* got 0"),
        (lambda: bounds.clopper_pearson_upper(11, 10, 0.1), r"successes must lie in 0\.\.10, got 11"),
        (lambda: bounds.gaussian_shifts_up(np.array([0.0]), 1.0), r"masses must lie in \(0, 1\], got array\(\[0.\]\)"),
        (lambda: bounds.gaussian_shifts_up(np.array([math.nan]), 1.0), "masses must lie in"),
        (lambda: bounds.gaussian_shifts_up(np.array([0.5]), math.nan), "h must be at least 0, got nan"),
        (lambda: bounds.MeanBound(np.array([0.0, 1.0]), 0, 0.1), "n must be a whole number of at least 1, got 0"),
        (lambda: bounds.MeanBound(np.array([0.0, 1.0]), 1, 0.6), "alpha must lie in"),
        (lambda: bounds.total_variation_shift_up(1.0, 0.1), "mass must"),
        (lambda: bounds.total_variation_between(0.0, 0.1), "mass must"),
        (lambda: bounds.total_variation_between(0.5, 1.0), "p must"),
        (lambda: bounds.total_variation_of_copies(1.1, 2), r"tv must lie in \[0, 1\]"),
        (lambda: bounds.total_variation_of_copies(0.1, 0), "copies must"),
    ],
)
def test_errors_name_the_argument_and_the_value(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("m", [1, 2, 30])
def test_upper_clopper_pearson_is_safe_and_tight_in_exact_arithmetic(m: int) -> None:
    for alpha, k in product([1e-9, 0.004, 0.5], range(m)):
        upper = bounds.clopper_pearson_upper(k, m, alpha)
        assert 1 - exact_tail(m, upper, k + 1) <= Fraction(alpha)
        assert 1 - exact_tail(m, Fraction(upper) * Fraction(1 - 1e-8), k + 1) > Fraction(alpha)
        assert bounds.clopper_pearson_upper(m, m, alpha) == 1.0


@pytest.mark.parametrize("h", [0.0, 0.3, 2.0, 9.0])
def test_masses_shifted_up_are_those_of_the_half_spaces_rounded_up(h: float) -> None:
    masses = np.array([1e-9, 1e-5, 0.01, 0.5, 0.9, 1 - 1e-12])
    expected = stats.norm.cdf(stats.norm.ppf(masses) + h)
    shifted = bounds.gaussian_shifts_up(masses, h)
    assert np.all(shifted >= np.minimum(1.0, expected))
    np.testing.assert_allclose(shifted, expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(shifted, [bounds.gaussian_shift_up(mass, h) for mass in masses])
    assert bounds.gaussian_shifts_up(np.ones(1), h)[0] == 1.0
    assert np.all(bounds.gaussian_shifts_up(masses, math.inf) == 1.0)


TAILS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6).map(lambda tails: np.sort(tails)[::-1])


def moments(edges: np.ndarray, tails: np.ndarray) -> tuple[float, float]:
    """Mean and variance of the variable with exactly these tails."""
    mean = float(np.diff(edges) @ tails)
    return mean, max(0.0, float(np.diff(edges**2) @ tails) - mean**2)


def bernstein(edges: np.ndarray, tails: np.ndarray, n: int, alpha: float) -> float:
    mean, variance = moments(edges, tails)
    b = edges[-1] * math.log(1 / alpha) / (3 * n)
    return mean + b + math.sqrt(b * b + 2 * variance * math.log(1 / alpha) / n)


@settings(max_examples=60)
@given(tails=TAILS, n=st.integers(1, 10**6), alpha=st.sampled_from(ALPHAS), scale=st.sampled_from([1e-300, 1.0, 1e6]))
def test_the_bound_of_a_mean_lies_between_its_expectation_and_bernstein(
    tails: np.ndarray, n: int, alpha: float, scale: float
) -> None:
    edges = np.linspace(0.0, scale, len(tails) + 1)
    bound = bounds.MeanBound(edges, n, alpha)(tails)
    mean, _ = moments(edges / scale, tails)
    assert mean * (1 - 1e-12) <= bound / scale <= 1.0
    assert bound / scale <= mean + 1.01 * (bernstein(edges / scale, tails, n, alpha) - mean) + 1e-12


@pytest.mark.parametrize("n", [5, 100, 3000])
@pytest.mark.parametrize("p", [1e-4, 0.02, 0.3, 0.9])
@pytest.mark.parametrize("alpha", [0.005, 0.1])
def test_a_mean_of_two_point_draws_exceeds_its_bound_with_alpha_at_most(n: int, p: float, alpha: float) -> None:
    bound = bounds.MeanBound(np.array([0.0, 3.0]), n, alpha)(np.array([p]))
    exceeding = math.floor(n * bound / 3.0) + 1
    failure = stats.binom.sf(exceeding - 1, n, p)
    assert failure <= alpha
    # Chernoff's bound is an n-th root away from the truth; a count more or less matters where few are expected
    assert bound == 3.0 or stats.binom.sf(exceeding - 3, n, p) > alpha / 100


@given(tails=TAILS, more=TAILS, n=st.integers(1, 10**5))
def test_the_bound_of_a_mean_grows_with_the_tails_and_shrinks_with_n(
    tails: np.ndarray, more: np.ndarray, n: int
) -> None:
    edges = np.array([0.0, *np.geomspace(0.1, 5.0, len(tails))])
    larger = np.maximum(tails, np.resize(more, len(tails)))
    bound = bounds.MeanBound(edges, n, 0.01)
    assert bound(tails) <= bound(larger) * (1 + 1e-13)
    assert bounds.MeanBound(edges, 2 * n, 0.01)(tails) <= bound(tails) * (1 + 1e-12)
    assert bounds.MeanBound(edges, n, 0.02)(tails) <= bound(tails) * (1 + 1e-12)
