import math
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from center_smoothing import (
    Distance,
    MeanBudget,
    MeanSmoother,
    ProbabilityTV,
    Wasserstein1,
)
from tests.center_smoothing.test_distances import of_masses

BOTH = [Wasserstein1(), Wasserstein1(0.25), ProbabilityTV()]
MASSES = [torch.from_numpy(of_masses(np.random.default_rng(seed), 5)) for seed in range(15)]


def softmax(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (3.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype).softmax(dim=-1)


@pytest.mark.parametrize("spacing", [1.0, 0.25, 30.0])
def test_wasserstein_is_that_of_scipy(spacing: float) -> None:
    for z in MASSES[:5]:
        places = spacing * np.arange(z.shape[1])
        expected = [[stats.wasserstein_distance(places, places, a.numpy(), b.numpy()) for b in z] for a in z]
        np.testing.assert_allclose(Wasserstein1(spacing).pairwise(z, z), expected, rtol=1e-9, atol=1e-12 * spacing)


def test_total_variation_is_the_largest_difference_of_any_event() -> None:
    events = torch.tensor([[event >> k & 1 for k in range(5)] for event in range(1 << 5)]).double()
    for z in MASSES:
        masses = z @ events.T
        expected = (masses[:, None] - masses[None]).amax(dim=2)
        np.testing.assert_allclose(ProbabilityTV().pairwise(z, z), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("distance", BOTH, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_makes_no_other_outputs(distance: Distance, dtype: torch.dtype) -> None:
    z = softmax(300, 1000, dtype=dtype)
    assert bool(torch.isfinite(distance.embed(z)).all())
    assert bool(torch.isfinite(distance.embed(distance.averages_of(z))).all())
    assert bool(torch.isfinite(distance.embed(distance.averages_of_tuples(z.reshape(100, 3, -1)))).all())


@pytest.mark.parametrize("distance", BOTH, ids=repr)
def test_averages_are_probability_vectors_where_coordinatewise_medians_are_not(distance: Distance) -> None:
    classes = torch.eye(3).repeat(4, 1)
    assert torch.median(classes, dim=0).values.sum() == 0.0
    mean, middle = distance.averages_of(classes)
    torch.testing.assert_close(mean, torch.full((3,), 1 / 3))
    if isinstance(distance, Wasserstein1):
        assert middle.tolist() == [0.0, 1.0, 0.0]  # in the middle of ordered classes
    assert distance.averages_of(classes.long()).shape == (0, 3)
    tilted = softmax(41, 5)
    assert bool((distance.averages_of(tilted).sum(dim=1) - 1.0).abs().max() < 1e-6)


def test_the_middle_has_the_least_sum_of_distances() -> None:
    for z in MASSES:
        middle = Wasserstein1().averages_of(z)[1:]
        others = torch.cat([z, z.mean(dim=0, keepdim=True), softmax(20, 5).double()])
        sums = Wasserstein1().pairwise(others, z).sum(dim=1)
        assert float(Wasserstein1().pairwise(middle, z).sum()) <= float(sums.min()) + 1e-9


@pytest.mark.parametrize("distance", BOTH, ids=repr)
@pytest.mark.parametrize("wrong", [[2.0, -1.0, 0.0], [0.5, 0.4, 0.0], [3.0, 1.0, -3.5], [0.5, 0.5, 0.5]])
def test_other_outputs_are_refused(distance: Distance, wrong: list[float]) -> None:
    z = torch.tensor([[0.5, 0.5, 0.0], wrong])
    said = f"got one with least number {min(wrong):.4g} and sum {sum(wrong):.4g}; softmax makes"
    with pytest.raises(ValueError, match=re.escape(said)):
        distance.embed(z)


@pytest.mark.parametrize("distance", BOTH, ids=repr)
def test_nan_and_zeros_are_outside_of_every_ball(distance: Distance) -> None:
    z = torch.tensor([[0.5, 0.5], [math.nan, 0.5], [0.0, 0.0], [math.inf, 0.0]])
    distances = distance.pairwise(z, z)
    assert distances[0, 0] == 0.0
    assert int(torch.isinf(distances).sum()) == 15


@pytest.mark.parametrize(("distance", "bound"), [(ProbabilityTV(), 1.0), (Wasserstein1(), 2.0)], ids=repr)
def test_means_are_certified_with_a_bound(distance: Distance, bound: float) -> None:
    def model(x: Tensor) -> Tensor:
        return (5.0 * x).softmax(dim=1)

    budget, x = MeanBudget(n=500, m=1000), torch.tensor([0.5, 0.0, -0.5])
    certificate = MeanSmoother(model, distance, sigma=0.25, budget=budget, bound=bound, batch_size=64).certify(x)
    assert not certificate.abstained
    assert 0.0 < certificate.eps_out(0.1) < bound
    clipping = MeanSmoother(model, distance, sigma=0.25, budget=budget, clip_norm=1.0, batch_size=64)
    with pytest.raises(ValueError, match=r"clip_norm must be left out with .*, by which zero is no output"):
        clipping.certify(x)
