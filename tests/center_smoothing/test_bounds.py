import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from center_smoothing import bounds

ALPHAS = (1e-9, 0.0005, 0.005, 0.1, 0.5)
NEXT_TO_ONE = (1.0 - 1e-12, math.nextafter(1.0, 0.0))


def exact_tail(m: int, p: float | Fraction, r: int) -> Fraction:
    """P[Bin(m, p) >= r] in rational arithmetic."""
    q = Fraction(p)
    return sum((math.comb(m, i) * q**i * (1 - q) ** (m - i) for i in range(max(r, 0), m + 1)), Fraction(0))


@pytest.mark.parametrize("m", [1, 2, 7, 30])
@pytest.mark.parametrize("p", [0.0, 1e-12, 0.1, 0.5, 0.9832, 1 - 1e-12, math.nextafter(1.0, 0.0), 1.0])
def test_tail_and_shortfall_equal_exact_sums(m: int, p: float) -> None:
    for r in range(-1, m + 3):
        tail = exact_tail(m, p, r)
        assert bounds.binomial_tail(m, p, r) == pytest.approx(float(tail), rel=1e-11, abs=1e-300)
        assert bounds.binomial_shortfall(m, p, r) == pytest.approx(float(1 - tail), rel=1e-11, abs=1e-300)


@pytest.mark.parametrize(("m", "p", "r"), [(10**7, 0.5, 5_003_000), (10**7, 1 - 1e-6, 9_999_980), (1000, 0.98, 990)])
def test_tail_agrees_with_scipy_for_many_trials(m: int, p: float, r: int) -> None:
    assert bounds.binomial_tail(m, p, r) == pytest.approx(stats.binom.sf(r - 1, m, p), rel=1e-8)
    assert bounds.binomial_shortfall(m, p, r) == pytest.approx(stats.binom.cdf(r - 1, m, p), rel=1e-8)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("m", [1, 2, 10, 40])
def test_clopper_pearson_is_safe_and_tight_in_exact_arithmetic(m: int, alpha: float) -> None:
    for successes in range(1, m + 1):
        bound = bounds.clopper_pearson_lower(successes, m, alpha)
        assert exact_tail(m, bound, successes) <= Fraction(alpha)
        assert exact_tail(m, min(1.0, bound * (1 + 1e-8) + 4e-15), successes) > Fraction(alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("successes", "m"), [(1, 1000), (500, 1000), (999, 1000), (9_999_990, 10**7), (3, 10**7)])
def test_clopper_pearson_agrees_with_the_beta_quantile(successes: int, m: int, alpha: float) -> None:
    reference = stats.beta.ppf(alpha, successes, m - successes + 1)
    assert bounds.clopper_pearson_lower(successes, m, alpha) == pytest.approx(reference, rel=2e-9)


@pytest.mark.parametrize("m", [1, 100, 10**7])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_clopper_pearson_at_no_and_at_all_successes(m: int, alpha: float) -> None:
    assert bounds.clopper_pearson_lower(0, m, alpha) == 0.0
    bound = bounds.clopper_pearson_lower(m, m, alpha)
    assert bound == pytest.approx(alpha ** (1 / m), abs=1e-14)
    assert bound < alpha ** (1 / m)


@given(st.integers(2, 10_000), st.data())
def test_clopper_pearson_grows_with_successes_and_with_alpha(m: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, m - 1))
    alpha = data.draw(st.sampled_from(ALPHAS[:-1]))
    bound = bounds.clopper_pearson_lower(successes, m, alpha)
    assert bound <= bounds.clopper_pearson_lower(successes + 1, m, alpha)
    assert bound <= bounds.clopper_pearson_lower(successes, m, 2 * alpha)
    assert bound <= successes / m


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("p", [0.0, 1e-12, 0.3, 0.5, 0.9832, 1 - 1e-12, math.nextafter(1.0, 0.0), 1.0])
@pytest.mark.parametrize("m", [1, 2, 10, 40])
def test_exact_rank_is_the_first_with_a_small_enough_tail(m: int, p: float, alpha: float) -> None:
    rank = bounds.order_statistic_rank(m, p, alpha)
    assert 1 <= rank <= m + 1
    assert exact_tail(m, p, rank) <= Fraction(alpha)
    assert exact_tail(m, p, rank - 1) > Fraction(alpha) * (1 - Fraction(1, 10**8))


@pytest.mark.parametrize("m", [10**4, 10**6, 10**7])
@pytest.mark.parametrize("p", [0.55, 0.98323, 1 - 1e-6])
def test_exact_rank_is_minimal_for_many_draws(m: int, p: float) -> None:
    rank = bounds.order_statistic_rank(m, p, 0.005)
    assert stats.binom.sf(rank - 1, m, p) <= 0.005 * (1 + 1e-9)
    assert stats.binom.sf(rank - 2, m, p) > 0.005 * (1 - 1e-6)


@pytest.mark.parametrize("p", [*NEXT_TO_ONE, 1.0])
@pytest.mark.parametrize("m", [1, 10**4, 10**7])
def test_no_rank_covers_a_quantile_next_to_one(m: int, p: float) -> None:
    assert bounds.order_statistic_rank(m, p, 0.005) == m + 1
    assert bounds.dkw_rank(m, p, 0.005) == m + 1


def test_a_quantile_at_zero_is_covered_by_the_smallest_draw() -> None:
    assert bounds.order_statistic_rank(10**7, 0.0, 0.005) == 1
    assert bounds.order_statistic_least_m(0.0, 0.005) == 1.0


@given(st.integers(1, 5000), st.floats(0.0, 0.999), st.sampled_from(ALPHAS))
def test_dkw_rank_is_the_least_that_reaches_its_level(m: int, p: float, alpha: float) -> None:
    rank, level = bounds.dkw_rank(m, p, alpha), (p + math.sqrt(math.log(1 / alpha) / (2 * m))) * m
    if rank > m:
        assert level > m * (1 - 1e-12)
    else:
        assert rank >= level * (1 - 1e-12)
        assert rank - 1 < level * (1 + 1e-12)


@given(st.integers(1, 3000), st.floats(0.5, 1.0), st.sampled_from(ALPHAS))
def test_exact_rank_is_never_above_the_dkw_rank(m: int, p: float, alpha: float) -> None:
    assert bounds.order_statistic_rank(m, p, alpha) <= bounds.dkw_rank(m, p, alpha)


Finder = Callable[[int, float, float], int]


@pytest.mark.parametrize(
    ("rank", "least_m"),
    [
        (bounds.order_statistic_rank, bounds.order_statistic_least_m),
        (bounds.dkw_rank, bounds.dkw_least_m),
    ],
)
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


@pytest.mark.parametrize(("h", "exact", "dkw"), [(1.0, 38, 157), (1.5, 100, 980), (2.0, 314, 9425)])
def test_least_m_at_delta_five_percent(h: float, exact: int, dkw: int) -> None:
    p = bounds.gaussian_shift_up(0.55, h)
    assert bounds.order_statistic_least_m(p, 0.005) == exact
    assert bounds.dkw_least_m(p, 0.005) == dkw


def test_quantile_levels_at_delta_five_percent_and_two_sigma() -> None:
    p = bounds.gaussian_shift_up(0.55, 2.0)
    assert bounds.order_statistic_rank(10**4, p, 0.005) / 10**4 == pytest.approx(0.9865, abs=5e-5)
    assert bounds.dkw_rank(10**4, p, 0.005) == math.ceil(0.99951 * 10**4)
    assert bounds.dkw_rank(10**6, p, 0.005) / 10**6 == pytest.approx(0.98486, abs=5e-6)


def test_hoeffding_margin_is_rounded_up() -> None:
    for m in (1, 7, 10**4, 10**7):
        for alpha in ALPHAS:
            margin = bounds.hoeffding_margin(m, alpha)
            assert margin == pytest.approx(math.sqrt(math.log(1 / alpha) / (2 * m)), rel=4e-15)
            assert margin >= math.sqrt(math.log(1 / alpha) / (2 * m))


@pytest.mark.parametrize("mass", [1e-9, 0.3, 0.5, 0.55, 0.9, 1 - 1e-9])
@pytest.mark.parametrize("h", [0.0, 1e-9, 0.5, 1.0, 2.0, 5.0])
def test_shift_up_agrees_with_the_normal_distribution_from_above(mass: float, h: float) -> None:
    p = bounds.gaussian_shift_up(mass, h)
    reference = stats.norm.cdf(stats.norm.ppf(mass) + h)
    assert reference <= p <= reference + 1e-14


def test_shift_up_reaches_one_and_stays_there() -> None:
    assert bounds.gaussian_shift_up(0.55, 40.0) == 1.0
    assert bounds.gaussian_shift_up(0.55, math.inf) == 1.0


@given(st.floats(0.5, 0.99), st.floats(1e-3, 4.0))
def test_shift_between_inverts_shift_up_from_below(mass: float, h: float) -> None:
    p = bounds.gaussian_shift_up(mass, h)
    if p < 1.0 - 1e-6:
        back = bounds.gaussian_shift_between(mass, p)
        assert back == pytest.approx(h, rel=1e-7)
        # both round to the safe side, so that the way back up ends no higher; 5e-16 is the error of scipy itself
        assert bounds.gaussian_shift_up(mass, back) <= p + 5e-16


@pytest.mark.parametrize("p", [0.0, 0.3, 0.55, math.nextafter(0.55, 1.0)])
def test_shift_between_is_zero_without_surplus_mass(p: float) -> None:
    assert bounds.gaussian_shift_between(0.55, p) == 0.0


@pytest.mark.parametrize(("draws", "candidates"), [(100, 1), (101, 66), (30, 7)])
def test_selected_masses_are_quantiles_of_the_union_bound(draws: int, candidates: int) -> None:
    half = (draws + 1) // 2
    masses = bounds.mass_selected_by_minimum(draws, half, candidates, points=8)
    reference = stats.beta.ppf(np.arange(8) / 8 / candidates, half, draws + 1 - half)
    np.testing.assert_allclose(masses, reference, rtol=1e-9, atol=0.0)


def test_rank_zero_selects_no_mass() -> None:
    assert not bounds.mass_selected_by_minimum(10, 0, 4).any()


def test_mean_shortfall_is_the_mean_of_shortfalls() -> None:
    masses = np.array([0.1, 0.4, 0.45])
    expected = np.mean([bounds.binomial_shortfall(50, mass, 20) for mass in masses])
    assert bounds.mean_shortfall(masses, 50, 20) == pytest.approx(expected, rel=1e-12)
    assert bounds.mean_shortfall(masses, 50, 0) == 0.0
    assert bounds.mean_shortfall(masses, 50, 51) == 1.0


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
    ],
)
def test_errors_name_the_argument_and_the_value(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
