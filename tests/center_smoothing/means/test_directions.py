"""Means along each direction (theory T12): the scalar bounds, the suprema over directions, and the whole promise."""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor

from center_smoothing import Distance, Lp, TotalVariation
from center_smoothing.means import directions
from center_smoothing.means.directions import (
    DirectionalMoments,
    Directions,
    hoeffding_mean_upper,
    largest_eigenvalue_upper,
    largest_shift,
)
from tests.center_smoothing.refutation import refuted

DISTANCES = [Lp(1), Lp(2), Lp(math.inf), TotalVariation(1), TotalVariation(2)]


@given(st.floats(0, 0.999), st.integers(1, 10**6), st.floats(1e-6, 0.5))
def test_hoeffdings_bound_solves_its_equation_on_the_safe_side(share: float, count: int, alpha: float) -> None:
    bound = hoeffding_mean_upper(3.0 * share, 3.0, count, alpha) / 3.0
    with mpmath.workdps(40):
        a, t = mpmath.mpf(3.0 * share) / 3, mpmath.mpf(bound)
        kl = (a * mpmath.log(a / t) if a > 0 else 0) + (
            (1 - a) * mpmath.log((1 - a) / (1 - t)) if t < 1 else mpmath.inf
        )
        limit = mpmath.log(1 / mpmath.mpf(alpha)) / count
        assert kl >= limit
    assert share <= bound <= 1.0
    slightly_less = share + (bound - share) * (1.0 - 1e-6)
    assert stats.entropy([share, 1 - share], [slightly_less, 1 - slightly_less]) <= limit * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize(
    "draw", [lambda rng, size: rng.random(size) < 0.02, lambda rng, size: rng.beta(0.1, 2.0, size)]
)
def test_an_expectation_exceeds_its_bound_no_more_often_than_alpha(draw: Callable) -> None:
    rng = np.random.default_rng(0)
    truth = 0.02 if float(draw(rng, 1)[0]) in (0.0, 1.0) else 0.1 / 2.1
    samples = draw(rng, (1000, 200)).mean(axis=1)
    failures = sum(hoeffding_mean_upper(float(mean), 1.0, 200, 0.2) < truth for mean in samples)
    assert not refuted(failures, 1000, 0.2)
    assert refuted(sum(float(mean) < truth for mean in samples), 1000, 0.2)  # without the bound


@pytest.mark.parametrize("h", [0.05, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("ratio", [1.0, 3.0**0.25, 4.0])
def test_the_shift_lies_between_what_a_function_attains_and_the_dual_by_another_quadrature(
    h: float, ratio: float
) -> None:
    bound = largest_shift(h, 2.0, 2.0 * ratio) / 2.0
    best_a, best_c = directions._dual_point(
        max(1, round(h / directions._STEP_H)), round(math.log(ratio) / directions._STEP_RATIO)
    )
    scale = math.sqrt(math.expm1(h * h) / math.expm1((max(1, round(h * 32)) / 32) ** 2))
    a, c = scale * best_a, scale * best_c

    def best(xi: float) -> float:
        """The g that attains psi: a function of the noise that the bound must cover, once scaled."""
        y = math.exp(h * xi - h * h / 2) - 1.0
        g = 2.0 * math.sqrt(a / (3 * c)) * math.sinh(math.asinh(1.5 * abs(y) / a * math.sqrt(3 * c / a)) / 3)
        return math.copysign(g, y)

    def expectation(of: Callable[[float], float]) -> float:
        return sum(
            integrate.quad(lambda xi: of(xi) * stats.norm.pdf(xi), *ends, limit=200)[0]
            for ends in ((-9, h / 2), (h / 2, 9), (9, 20))
        )

    second, fourth = expectation(lambda xi: best(xi) ** 2), expectation(lambda xi: best(xi) ** 4)
    attained = expectation(lambda xi: (math.exp(h * xi - h * h / 2) - 1.0) * best(xi))
    fit = min(1.0 / math.sqrt(second), ratio / fourth**0.25)
    assert fit * attained <= bound <= math.sqrt(math.expm1(h * h)) * (1 + 1e-9)
    assert bound <= fit * attained * 1.06  # strong duality, up to the grid of A and C
    dual = expectation(
        lambda xi: (math.exp(h * xi - h * h / 2) - 1.0) * best(xi) - a * best(xi) ** 2 / 2 - c * best(xi) ** 4 / 4
    )
    assert (
        dual + a / 2 + c * ratio**4 / 4
        <= directions._dual_value(h, ratio, a, c)
        <= (dual + a / 2 + c * ratio**4 / 4) * 1.003
    )


def test_a_linear_function_moves_by_h_and_the_bound_knows_little_more() -> None:
    assert [round(largest_shift(h, 1.0, 3.0**0.25), 2) for h in (0.5, 1.0, 1.5)] == [0.52, 1.12, 1.84]
    assert largest_shift(0.0, 1.0, 2.0) == largest_shift(1.0, 0.0, 0.0) == 0.0
    assert largest_shift(8.5, 1.0, 2.0) == largest_shift(math.inf, 1.0, 2.0) == math.inf


@settings(max_examples=10)
@given(st.floats(0.01, 7.9), st.floats(0.01, 7.9), st.floats(1.0, 6.0))
def test_shifts_grow_with_h_up_to_the_grid(h: float, more: float, ratio: float) -> None:
    small, large = sorted((h, more))
    assert largest_shift(small, 1.0, ratio) <= largest_shift(large, 1.0, ratio) * 1.05


@pytest.mark.parametrize("size", [1, 3, 300])
@pytest.mark.parametrize("rank", [1, 5, 1000])
def test_no_eigenvalue_exceeds_its_bound(size: int, rank: int) -> None:
    factor = torch.randn(size, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(size + rank))
    matrix = factor @ factor.T
    exact = float(torch.linalg.eigvalsh(matrix)[-1])
    assert exact * (1 - 1e-12) <= largest_eigenvalue_upper(matrix) <= exact * (1 + 2e-4)
    assert largest_eigenvalue_upper(torch.zeros(3, 3, dtype=torch.float64)) == 0.0


def test_an_estimate_that_is_too_small_does_not_become_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanczos' method may miss an eigenvalue; the factorisation tells."""
    matrix = torch.diag(torch.tensor([1.0, 2.0, 10.0], dtype=torch.float64))
    monkeypatch.setattr(directions, "_largest_eigenvalue", lambda _: 2.0)
    assert largest_eigenvalue_upper(matrix) >= 10.0


def gathered(
    distance: Distance, outputs: Tensor, center: Tensor, pilot: Tensor, fourth_count: int
) -> DirectionalMoments:
    found = Directions(distance, center, pilot, fourth_count=fourth_count)
    for batch in torch.split(outputs, 100):
        found.add(batch)
    return found.moments()


def directions_of(distance: Distance, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Random directions in the dual ball, with embedded shape: (40, *embedded)."""
    s = torch.from_numpy(rng.standard_normal((40, *distance.embed(torch.zeros(1, *shape)).shape[1:])))
    match distance.norm:
        case "l1":
            return s.sign()
        case "linf":
            return s / s.abs().sum(dim=1, keepdim=True)
        case _:  # the l2 norm, of each pair over channels
            return s / s.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("largest_matrix", [4096, 1])
@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_no_direction_has_larger_moments_than_their_bounds(
    distance: Distance, largest_matrix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directions, "_LARGEST_MATRIX", largest_matrix)
    rng, shape = np.random.default_rng(3), (2, 4, 5)
    mixing = torch.from_numpy(rng.standard_normal((40, 40)))
    outputs = (torch.from_numpy(rng.standard_t(5, (700, 40))) @ mixing).reshape(-1, *shape)
    center = outputs[:100].mean(dim=0)
    moments = gathered(distance, outputs[200:], center, outputs[:200], 250)
    embedded = distance.embed(outputs[200:] - center)
    norms = distance(outputs[200:], center.expand_as(outputs[200:]))
    assert moments.outside <= 40
    inside = norms <= moments.largest
    for s in directions_of(distance, shape, rng):
        along = (embedded * s).flatten(1).sum(dim=1)
        assert bool((along.abs() <= norms * (1 + 1e-12)).all())  # it is in the dual ball
        second = (along**2 * inside)[: moments.second_count]
        if moments.outside == 0:
            assert float(second.mean()) <= moments.second
            assert float((along**4)[:250].mean()) <= moments.fourth
    assert moments.second_count == (500 if largest_matrix > 1 or distance.norm == "linf" else 250)
    assert moments.spread >= float(norms[inside].max()) * (distance.norm != "linf")


@pytest.mark.parametrize("distance", [Lp(1), TotalVariation(2)], ids=repr)
def test_weights_counted_without_their_constant_would_be_noticed(
    distance: Distance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C of `||v|| <= C |v|_w` left out."""
    original = directions.Directions.moments

    def moments(self: directions.Directions) -> DirectionalMoments:
        self._factor = 1.0
        return original(self)

    monkeypatch.setattr(directions.Directions, "moments", moments)
    with pytest.raises(AssertionError):
        test_no_direction_has_larger_moments_than_their_bounds(distance, 4096, monkeypatch)


def test_outputs_further_away_than_the_pilot_by_the_norm_alone_lie_outside() -> None:
    pilot = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    moments = gathered(Lp(1), torch.full((3, 4), 0.5).double(), torch.zeros(4).double(), pilot, 3)
    assert moments.outside == 3


def test_what_is_kept_comes_back_and_damaged_numbers_do_not() -> None:
    moments = DirectionalMoments(100, 100, 20, 1, 2.0, 3.0, 0.1, 0.5, 0.9)
    assert DirectionalMoments.from_array(moments.as_array()) == moments
    for values in (moments.as_array()[:8], moments.as_array() * math.nan, moments.as_array()[::-1]):
        with pytest.raises(ValueError, match="directions must"):
            DirectionalMoments.from_array(values)


def test_a_class_that_compares_in_another_way_has_no_norm_of_its_parent() -> None:
    class Halved(Lp):
        def _embed(self, z: Tensor) -> Tensor:
            return z.flatten(1).tanh()

    class Named(Lp):
        """The same distance under another name."""

    assert (Halved(2).norm, Named(2).norm, Lp(2).norm) == (None, "l2", "l2")


def test_first_moments_and_means_deviate_by_bernsteins_and_bousquets_inequalities() -> None:
    moments = DirectionalMoments(
        count=100, second_count=100, fourth_count=100, outside=0, largest=3.0, spread=4.0, offset=0.0, second=1.0,
        fourth=2.0,
    )  # fmt: skip
    mean, level, largest = 4.0 / math.sqrt(50), math.log(100) / 50, 3.0 + 0.7
    variance = math.exp(0.125) * 1.3**2 + 2.0 * largest * mean
    expected = mean + math.sqrt(2.0 * level * variance) + largest * level / 3.0
    assert moments._deviation(0.5, 50, 0.7, 1.3, 0.01) == pytest.approx(expected, rel=1e-12)
    parts = moments.parts(0.5, n=50, alpha_1=0.02, alpha_2=0.02)
    weak = hoeffding_mean_upper(2.0, 81.0, 100, 0.1 * 0.02) ** 0.25
    assert parts[1] == pytest.approx(moments._deviation(0.5, 50, parts[0], weak, 0.01))
    level = math.log(100) / 100
    assert moments._first_moment(1.1, 0.01) == pytest.approx(1.1 * math.sqrt(2 * level) + 2 * 3.0 * level / 3)
