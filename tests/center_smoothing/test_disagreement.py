"""Labels: the distance against a naive count, votes against counters, and coverage where the answer is known."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from center_smoothing import (
    CenterSmoother,
    Disagreement,
    MedianBudget,
    MedianSmoother,
    SmoothingBudget,
    bounds,
    check_distance,
)
from center_smoothing import budget as budget_module
from center_smoothing.attack import AttackBudget, attack, has_gradient
from tests.center_smoothing.refutation import failures_of, pairs, refuted
from tests.center_smoothing.test_distances import of_labels

LABELS = [torch.from_numpy(of_labels(np.random.default_rng(seed), 5)) for seed in range(20)]
LABELS += [torch.randint(-2, 4, (5, 3, 2), generator=torch.Generator().manual_seed(seed)) for seed in range(20)]


def test_it_is_the_share_that_differs() -> None:
    for z in LABELS:
        expected = [[float((a != b).double().mean()) for b in z] for a in z]
        assert Disagreement().pairwise(z, z).tolist() == expected


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float64]
)
def test_labels_of_every_type(dtype: torch.dtype) -> None:
    z = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0], [1, 1, 0, 0]]).to(dtype)
    assert Disagreement().pairwise(z, z).tolist() == [[0.0, 0.25, 0.5], [0.25, 0.0, 0.25], [0.5, 0.25, 0.0]]
    vote = Disagreement().averages_of(z)
    assert vote.dtype == dtype
    assert vote.tolist() == z[1:2].tolist()


def test_a_group_is_the_majority_and_of_several_the_smallest() -> None:
    def vote(column: np.ndarray) -> float:
        counts = Counter(column.tolist())
        return min(label for label, count in counts.items() if count == max(counts.values()))

    for z in LABELS:
        expected = np.apply_along_axis(vote, 0, z.numpy()).tolist()
        for members in (z, z.flip(0)):
            assert Disagreement().aggregate(members[None]).tolist() == [expected]
            assert Disagreement().averages_of(members).tolist() == [expected]
    assert not Disagreement().averages


def bands(x: Tensor) -> Tensor:
    """Label 0, 1 or 2 of each number (N, D): below -1, between, above 1."""
    return torch.bucketize(x, torch.tensor([-1.0, 1.0]))


def test_a_map_of_labels_is_certified_and_attacked_without_gradients() -> None:
    budget = SmoothingBudget(n=300, m=800)
    smoother = CenterSmoother(bands, Disagreement(), sigma=0.5, budget=budget, batch_size=128)
    x = torch.tensor([-3.0, -0.9, 0.0, 0.9, 3.0, 3.0])
    certificate = smoother.certify(x)
    assert not certificate.abstained
    assert certificate.center.dtype == torch.int64
    assert certificate.center[[0, 2, 4, 5]].tolist() == [0, 1, 2, 2]
    assert 0.0 < certificate.eps_out(0.25) < 1.0
    assert not has_gradient(smoother, x)
    found = attack(smoother, x, certificate, eps_in=0.25, budget=AttackBudget(steps=3, starts=1, samples=8))
    assert found.gradient_free
    assert found.eps is None or found.eps <= certificate.eps_out(0.25)
    outputs = bands(torch.randn(60, 6, generator=torch.Generator().manual_seed(1)) * 2)
    assert check_distance(Disagreement(), outputs).passed


def test_medians_of_labels_say_which_elements_can_change() -> None:
    smoother = MedianSmoother(bands, Disagreement(), sigma=0.5, budget=MedianBudget(n=201, m=600), batch_size=128)
    certificate = smoother.certify(torch.tensor([-3.0, -0.9, 0.0, 1.1]))
    low, high = certificate.box(0.25)
    assert (low != high).tolist() == [False, True, False, True]
    assert certificate.eps_out(0.25) == pytest.approx(0.5)


def test_centers_are_no_further_apart_than_certified_and_a_missing_shift_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A label that is 1 on a half-line: an attack straight at it changes its mass as much as any can."""
    h, runs, alpha, x = 1.2, 30, 0.2, torch.tensor([-0.8])  # at x most labels are 0, at x' most are 1
    budget = SmoothingBudget(n=201, m=120, k=16, alpha_1=alpha / 2, alpha_2=alpha / 2, delta=0.2)
    model = lambda z: (z > 0.0).long().expand(-1, 4)  # noqa: E731
    here, there = (
        CenterSmoother(model, Disagreement(), sigma=1.0, budget=budget, batch_size=256, seed=seed) for seed in (1, 2)
    )
    found = pairs(here, there, x, torch.ones_like(x), h, runs)
    assert len(found) > runs / 2
    assert not refuted(failures_of(found, h), runs, alpha)
    budget_module._ranks.cache_clear()
    monkeypatch.setattr(bounds, "gaussian_shift_up", lambda mass, h: mass)
    assert refuted(failures_of(found, h), runs, alpha)
