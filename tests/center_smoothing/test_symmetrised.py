from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from center_smoothing import (
    CenterSmoother,
    Distance,
    Lp,
    MaskJaccard,
    ObjectDistance,
    SmoothingBudget,
    Symmetrised,
    check_distance,
)
from center_smoothing.distances.axioms import needed_relaxation

VECTORS = 50.0 * torch.randn((30, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VECTORS[:15] = (VECTORS[:15] / 30.0).round()


def uphill(a: Tensor, b: Tensor) -> Tensor:
    """A directed distance with gamma = 1: what climbs from a to b, and a tenth of what falls."""
    step = (b - a).flatten(1)
    return step.clamp_min(0.0).sum(dim=1) + 0.1 * (-step).clamp_min(0.0).sum(dim=1)


def steep(a: Tensor, b: Tensor) -> Tensor:
    """Its square: directed, with gamma = 2."""
    return uphill(a, b) ** 2


class Uphill(Distance):
    """The same as a Distance, but for its symmetry."""

    convex = True

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([uphill(a, one.expand_as(a)) for one in b], dim=1)


@pytest.mark.parametrize("mode", ["max", "sum"])
def test_both_kinds_of_directed_distances_give_the_same(mode: Literal["max", "sum"]) -> None:
    there = torch.stack([uphill(VECTORS, one.expand_as(VECTORS)) for one in VECTORS], dim=1)
    expected = torch.maximum(there, there.T) if mode == "max" else there + there.T
    for distance in (Symmetrised(Uphill(), mode), Symmetrised(uphill, mode, relaxation=1)):
        torch.testing.assert_close(distance.pairwise(VECTORS, VECTORS), expected, rtol=1e-12, atol=0.0)
        paired = distance(VECTORS, VECTORS.flip(0))
        torch.testing.assert_close(paired, expected.flip(1).diagonal(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("mode", ["max", "sum"])
@pytest.mark.parametrize(("directed", "gamma"), [(uphill, 1.0), (steep, 2.0)])
def test_gamma_is_kept(mode: Literal["max", "sum"], directed: Callable, gamma: float) -> None:
    distance = Symmetrised(directed, mode, relaxation=gamma)
    found = distance.pairwise(VECTORS, VECTORS)
    assert torch.equal(found, found.T)
    assert found.diagonal().tolist() == [0.0] * 30
    assert needed_relaxation(found)[0] <= gamma * (1 + 1e-9)
    assert distance.relaxation == gamma


def test_the_directed_distance_itself_fails_and_its_symmetrised_passes() -> None:
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert "not symmetric" in check_distance(Uphill(), z).seen
    assert check_distance(Symmetrised(Uphill()), z).passed


def test_what_is_known_of_a_distance_is_taken_over() -> None:
    squared = type("Squared", (Uphill,), {"relaxation": 2.0, "averages": False})()
    assert (Symmetrised(squared).relaxation, Symmetrised(squared).averages) == (2.0, False)
    assert Symmetrised(squared, relaxation=3).relaxation == 3.0
    assert (Symmetrised(Uphill()).averages, Symmetrised(uphill, relaxation=1).averages) == (True, False)
    # d(z, c) need not be convex where d(c, z) is
    assert (Symmetrised(Uphill()).convex, Symmetrised(Uphill(), convex=True).convex) == (False, True)


def test_outputs_are_averaged_as_the_directed_distance_does() -> None:
    masks = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    assert Symmetrised(MaskJaccard()).averages_of(masks).tolist() == [[1.0, 0.0]]
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Symmetrised(uphill, relaxation=1, averages=True).averages_of(z), Lp().averages_of(z))
    tuples = z.reshape(2, 2, 3)
    for distance in (Symmetrised(Uphill()), Symmetrised(uphill, relaxation=1, averages=True)):
        assert torch.equal(distance.averages_of_tuples(tuples), Lp().averages_of_tuples(tuples))
    for distance in (Symmetrised(uphill, relaxation=1), Symmetrised(Uphill(), averages=False)):
        with pytest.raises(ValueError, match="distance must be one whose outputs can be averaged"):
            distance.averages_of_tuples(tuples)
    assert len(Symmetrised(uphill, relaxation=1).averages_of(z)) == 0


class Missing(ObjectDistance):
    """How many elements of the first set the second one lacks."""

    def between(self, a: frozenset, b: frozenset) -> float:
        return float(len(a - b))


def test_outputs_may_be_objects() -> None:
    def model(x: Tensor) -> list[frozenset]:
        return [frozenset("ab") if value > 0.0 else frozenset("abcd") for value in x[:, 0]]

    distance = Symmetrised(Missing())
    budget = SmoothingBudget(n=300, m=300)
    certificate = CenterSmoother(model, distance, sigma=0.5, budget=budget, batch_size=64).certify(torch.ones(1))
    assert distance.directed.decode(certificate.center) == frozenset("ab")  # type: ignore[attr-defined]  # it has objects
    assert not certificate.abstained


def test_a_name_is_no_address() -> None:
    assert "0x" not in repr(Symmetrised(uphill, "sum", relaxation=1))
    assert ".uphill, mode='sum', relaxation=1.0, averages=False, convex=False)" in repr(
        Symmetrised(uphill, "sum", relaxation=1)
    )
    assert repr(Symmetrised(Lp(1))).startswith("Symmetrised(directed=Lp(p=1.0), mode='max', relaxation=1.0")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="relaxation must be given for the function uphill, got None"):
        Symmetrised(uphill)
    with pytest.raises(ValueError, match=r"relaxation must be a finite number of at least 1, got 0\.5"):
        Symmetrised(uphill, relaxation=0.5)
    with pytest.raises(ValueError, match="mode must be 'max' or 'sum', got 'mean'"):
        Symmetrised(Lp(), "mean")  # type: ignore[arg-type]  # it is wrong
    with pytest.raises(ValueError, match="directed must be a Distance or a callable"):
        Symmetrised(3)  # type: ignore[arg-type]  # it is wrong
    with pytest.raises(ValueError, match=r"must return one number for each pair, shape \(2,\), got \(2, 3\)"):
        Symmetrised(lambda a, b: a - b, relaxation=1)(torch.zeros(2, 3), torch.zeros(2, 3))
