"""Discrete Gaussian noise against exact probabilities; mpmath and SciPy are written independently of it."""

import math
from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from center_smoothing import discrete_gaussian as module
from center_smoothing.discrete_gaussian import DiscreteGaussian, discrete_gaussian, scaled_cdf

law_of = cache(DiscreteGaussian)
SCALES = [Fraction(3, 10), Fraction(1), Fraction(173, 10), Fraction(1020)]


def probabilities(scale: Fraction, low: int, high: int) -> np.ndarray:
    """P[Z = j] for j from low to high, from the tail that loses no digits."""
    edges = (np.arange(low, high + 2) - 0.5) / float(scale)
    return np.where(edges[:-1] > 0, -np.diff(stats.norm.sf(edges)), np.diff(stats.norm.cdf(edges)))


def p_value(draws: torch.Tensor, scale: Fraction) -> float:
    """Of a chi-square test with cells of at least 10 expected draws."""
    end = math.ceil(6 * scale)
    expected = probabilities(scale, -end, end) * len(draws)
    counts = np.bincount(np.clip(draws.numpy() + end, 0, 2 * end), minlength=2 * end + 1)
    step = max(1, math.ceil(float(scale) / 20))
    starts = np.arange(0, len(expected), step)
    expected, counts = np.add.reduceat(expected, starts), np.add.reduceat(counts, starts)
    few = expected < 10
    expected = np.append(expected[~few], expected[few].sum())
    counts = np.append(counts[~few], counts[few].sum())
    kept = expected > 1
    statistic = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    return float(stats.chi2.sf(statistic, kept.sum() - 1))


@pytest.mark.parametrize("scale", SCALES)
def test_draws_have_the_exact_probabilities(scale: Fraction) -> None:
    draws = law_of(scale).sample((200_000,), torch.Generator().manual_seed(1))
    assert p_value(draws, scale) > 1e-4


def test_a_scale_that_is_two_percent_off_would_be_noticed() -> None:
    draws = law_of(Fraction(510)).sample((200_000,), torch.Generator().manual_seed(1))
    assert p_value(draws, Fraction(520)) < 1e-4


def test_noise_that_is_cut_to_the_grid_would_be_noticed() -> None:
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert p_value((17.3 * noise).floor().long(), SCALES[2]) < 1e-4
    assert p_value((17.3 * noise).round().long(), SCALES[2]) > 1e-4


@pytest.mark.parametrize("scale", [*SCALES[:3], Fraction(0.25) * 255])
def test_the_table_has_the_first_63_bits_of_each_probability(scale: Fraction) -> None:
    law = law_of(scale)
    with mpmath.workdps(60):
        for position in range(0, len(law.thresholds), max(1, len(law.thresholds) // 300)):
            x = (mpmath.mpf(law.first + position) + mpmath.mpf("0.5")) * scale.denominator / scale.numerator
            assert int(law.thresholds[position]) == int(mpmath.floor(mpmath.ncdf(x) * 2**63))


@pytest.mark.parametrize("bits", [63, 126, 300])
@pytest.mark.parametrize("j", [-6200, -1021, -1, 0, 17, 5000, 7000])
def test_probabilities_are_exact_to_any_number_of_bits(j: int, bits: int) -> None:
    with mpmath.workdps(140):
        expected = mpmath.ncdf((mpmath.mpf(j) + mpmath.mpf("0.5")) / 1020) * mpmath.mpf(2) ** bits
        assert scaled_cdf(j, Fraction(1020), bits) == int(mpmath.floor(expected))


@pytest.mark.parametrize("scale", [Fraction(1020), Fraction(173, 10), Fraction(5)])
def test_the_bound_on_the_error_holds_with_hardly_any_digits(scale: Fraction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DIGITS", 1)
    for bits in (4, 8, 12, 16):
        for j in range(60):
            with mpmath.workdps(60):
                x = (mpmath.mpf(j) + mpmath.mpf("0.5")) * scale.denominator / scale.numerator
                expected = int(mpmath.floor(mpmath.ncdf(x) * 2**bits))
            assert scaled_cdf(j, scale, bits) == expected


@pytest.mark.parametrize("sigma", [1e-2, 1e-4, 1e-30])
def test_noise_far_below_the_grid_is_zero_and_its_table_is_made_at_once(sigma: float) -> None:
    law = DiscreteGaussian(Fraction(sigma))
    assert scaled_cdf(0, law.scale, 63) == 2**63 - 1
    assert not law.sample((1000,), torch.Generator().manual_seed(0)).any()


def test_the_law_is_symmetric_and_its_table_ascends_to_the_ends() -> None:
    thresholds = law_of(Fraction(1020)).thresholds
    assert bool((thresholds.diff() >= 0).all())
    assert int(thresholds[0]) == 0
    assert int(thresholds[-1]) == 2**63 - 1
    assert bool((thresholds[:-1] + thresholds[:-1].flip(0) == 2**63 - 1).all())


def test_between_five_and_six_sigma_the_tail_has_the_exact_probabilities() -> None:
    scale, rng = Fraction(1020), np.random.default_rng(0)
    law, low, high = law_of(scale), -6120, -5100
    first, last = (int(law.thresholds[j - law.first]) for j in (low, high))
    words = torch.from_numpy(rng.integers(first + 1, last, 200_000))  # uniform, given that the draw lies there
    draws, open_ = law._look_up(words)
    assert len(open_) < 5
    edges = np.arange(low, high + 1, 60)
    expected = np.diff(stats.norm.cdf((edges + 0.5) / 1020))
    counts = np.histogram(draws.numpy(), bins=edges + 0.5)[0]
    expected *= counts.sum() / expected.sum()
    kept = expected > 5
    assert stats.chi2.sf((((counts - expected) ** 2 / expected)[kept]).sum(), kept.sum() - 1) > 1e-4


@pytest.mark.parametrize("scale", [Fraction(1, 3), Fraction(173, 10), Fraction(1020)])
def test_the_guide_finds_what_a_search_finds(scale: Fraction) -> None:
    law = law_of(scale)
    around = torch.cat([law.thresholds + step for step in (-1, 0, 1)]).clamp(0, 2**63 - 1)
    words = torch.cat([around, torch.empty(50_000, dtype=torch.int64).random_()])
    draws, open_ = law._look_up(words)
    expected = torch.searchsorted(law.thresholds, words) + law.first  # the least j with word <= threshold
    assert torch.equal(draws, expected)
    assert set(open_.tolist()) == set(torch.isin(words, law.thresholds).nonzero()[:, 0].tolist())


@pytest.mark.parametrize(("scale", "bits"), [(Fraction(2), 7), (Fraction(1, 3), 4), (Fraction(5), 12)])
def test_short_words_leave_many_draws_open_and_give_the_same_law(scale: Fraction, bits: int) -> None:
    law = DiscreteGaussian(scale, bits=bits)
    opened: list[int] = []
    resolve = law._resolved
    law._resolved = lambda word, more: opened.append(word) or resolve(word, more)  # type: ignore[method-assign,func-returns-value]
    draws = law.sample((6000,), torch.Generator().manual_seed(2))
    assert len(opened) > 50
    assert p_value(draws, scale) > 1e-4


def test_draws_that_more_bits_decide_lie_on_both_sides() -> None:
    law = DiscreteGaussian(Fraction(2), bits=7)
    word = int(law.thresholds[0 - law.first])  # P[Z <= 0] = Phi(1/4) = .59871 = (76 + .635) / 128
    high, low = ([127] * 9, [0] * 9)
    assert law._resolved(word, lambda: high.pop()) == 1
    assert law._resolved(word, lambda: low.pop()) == 0
    for third, expected in ((0, 0), (127, 1)):
        undecided = [third, int(0.6346 * 128)]  # equal in the second word too: the third one decides
        assert law._resolved(word, lambda words=undecided: words.pop()) == expected


def test_each_of_the_63_bits_of_a_word_is_one_in_half_of_the_words() -> None:
    words = DiscreteGaussian(Fraction(1))._words((40_000,), torch.Generator().manual_seed(3))
    ones = torch.stack([words >> bit & 1 for bit in range(64)]).sum(dim=1)
    assert int(ones[63]) == 0
    assert int((ones[:63] - 20_000).abs().max()) < 5 * 100  # five standard deviations


def test_the_exact_value_of_sigma_counts() -> None:
    assert discrete_gaussian(0.1, 255).scale == Fraction(0.1) * 255 != Fraction(1, 10) * 255
    assert discrete_gaussian(0.1, 255) is discrete_gaussian(0.1, 255)


@pytest.mark.parametrize(
    ("scale", "named"), [(Fraction(0), "scale"), (Fraction(-1), "scale"), (Fraction(10**6), "grid")]
)
def test_absurd_scales_are_refused(scale: Fraction, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must be"):
        DiscreteGaussian(scale)
