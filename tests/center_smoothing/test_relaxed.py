import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from center_smoothing import CenterSmoother, Cosine, Distance, Lp, MeanBudget, MeanSmoother, SmoothingBudget, SquaredL2
from center_smoothing.distances.axioms import needed_relaxation
from center_smoothing.means.smoother import clip

VECTORS = hnp.arrays(np.float64, (3, 4), elements=st.one_of(st.integers(-2, 2).map(float), st.floats(-50, 50)))


def vectors(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@given(z=VECTORS)
def test_squared_l2_is_the_square_of_l2(z: np.ndarray) -> None:
    outputs = torch.from_numpy(z)
    torch.testing.assert_close(SquaredL2().pairwise(outputs, outputs), Lp(2).pairwise(outputs, outputs) ** 2)


def test_cosine_of_known_angles() -> None:
    for radians in map(math.radians, (0.0, 10.0, 60.0, 90.0, 135.0, 180.0)):
        a, b = vectors([3.0, 0.0]), vectors([7 * math.cos(radians), 7 * math.sin(radians)])
        assert Cosine()(a, b).item() == pytest.approx(1.0 - math.cos(radians), rel=1e-13, abs=1e-30)


def test_cosine_keeps_its_digits_where_one_minus_cosine_has_none() -> None:
    for angle in (10.0**log_angle for log_angle in range(-15, -1)):
        a, b = vectors([1.0, 0.0]), vectors([math.cos(angle), math.sin(angle)])
        assert Cosine()(a, b).item() == pytest.approx(2.0 * math.sin(angle / 2.0) ** 2, rel=1e-12)


def test_a_zero_output_is_at_right_angles_to_all_others() -> None:
    z = vectors([0.0, 0.0], [1.0, 2.0], [-1e-300, 0.0], [5.0, 0.0])
    np.testing.assert_allclose(Cosine().pairwise(z[:1], z).numpy(), [[0.0, 1.0, 1.0, 1.0]], rtol=1e-15)
    assert Cosine().pairwise(z[:1], z[:1]).item() == 0.0


def test_zero_outputs_at_the_distance_of_no_angle_would_break_it() -> None:
    # at 0 from everything, as cos = 1 would say, the way from one output to its opposite would be free
    z = vectors([1.0, 0.0], [0.0, 0.0], [-1.0, 0.0])
    distances = Cosine().pairwise(z, z)
    distances[1, :] = distances[:, 1] = 0.0
    assert needed_relaxation(distances)[0] == math.inf


@pytest.mark.parametrize("distance", [SquaredL2(), Cosine()], ids=repr)
def test_no_smaller_relaxation_would_do(distance: Distance) -> None:
    line = vectors([1.0, -1e-3], [1.0, 0.0], [1.0, 1e-3])
    assert needed_relaxation(distance.pairwise(line, line))[0] == pytest.approx(2.0, rel=1e-5)
    assert distance.relaxation == 2.0


def test_which_of_the_two_is_convex() -> None:
    assert (SquaredL2.convex, Cosine.convex) == (True, False)
    # between two outputs of the same distance from c lies one that is further away
    c, a, b = vectors([1.0, 0.0]), vectors([-0.1, 1.0]), vectors([-0.1, -1.0])
    assert Cosine()(c, (a + b) / 2).item() > Cosine()(c, a).item() + 0.5


@given(z=VECTORS, share=st.floats(0.0, 1.0))
def test_squared_l2_is_convex_of_degree_two(z: np.ndarray, share: float) -> None:
    a, b, c = torch.from_numpy(z).unsqueeze(1).unbind()
    d, between = SquaredL2(), share * a + (1.0 - share) * b
    apart = d(c, between).item()
    assert apart <= (share * d(c, a) + (1.0 - share) * d(c, b)).item() * (1 + 1e-9) + 1e-9
    assert d(c, c + share * (a - c)).item() <= share**2 * d(c, a).item() * (1 + 1e-9) + 1e-9


def test_clipping_scales_by_the_root_of_a_square() -> None:
    z = vectors([3.0, 4.0], [30.0, 40.0], [0.3, 0.4])
    clipped = clip(z, SquaredL2(), 4.0)
    norms = SquaredL2()(clipped, torch.zeros_like(clipped))
    assert bool((norms <= 4.0).all())
    np.testing.assert_allclose(norms.numpy(), [4.0, 4.0, 0.25], rtol=1e-8)


@pytest.mark.parametrize("distance", [SquaredL2(), Cosine()], ids=repr)
def test_eps_out_is_at_most_ten_times_the_radius(distance: Distance) -> None:
    budget = SmoothingBudget(n=300, m=600)
    x = vectors([1.0, 2.0, -1.0])[0]
    certificate = CenterSmoother(torch.tanh, distance, sigma=0.1, budget=budget, batch_size=64).certify(x)
    assert not certificate.abstained
    assert (certificate.relaxation, certificate.factor) == (2.0, 10.0)
    for eps_in in (0.0, 0.05, 0.1):
        ranks = budget.with_sizes(sorted(certificate.probes)).ranks(eps_in / 0.1, m=600)
        radius = certificate.distances[ranks.distances - 1]
        eps_out = certificate.eps_out(eps_in)
        assert 2.0 * radius <= eps_out <= 10.0 * radius * (1 + 1e-8)
        # theory T7, with gamma in front of the sum
        probes = min(certificate._probe_distance(*found, upwards=True) for found in ranks.probes)
        assert eps_out == pytest.approx(2.0 * (radius + min(4.0 * radius, probes)), rel=1e-8)


def test_means_are_certified_by_squared_l2() -> None:
    budget, x = MeanBudget(n=500, m=1000), vectors([0.3, -0.2])[0]
    smoother, in_l2 = (
        MeanSmoother(torch.tanh, distance, sigma=0.25, budget=budget, clip_norm=norm, batch_size=64)
        for distance, norm in ((SquaredL2(), 2.0), (Lp(2), 2.0**0.5))
    )
    certificate = smoother.certify(x)
    assert certificate.bound <= smoother.largest_bound == pytest.approx(2.0 * 2.0**0.5)  # in l2
    assert 0.0 < certificate.eps_out(0.25) < certificate.bound**2
    assert certificate.eps_out(0.25) == pytest.approx(in_l2.certify(x).eps_out(0.25) ** 2, rel=1e-6)
