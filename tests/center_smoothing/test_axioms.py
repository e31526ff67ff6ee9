import math

import pytest
import torch
from torch import Tensor

from center_smoothing import BoxJaccard, Distance, Lp, SquaredL2, TotalVariation, check_distance


class UserSquared(Distance):
    """The square of l2 as a user may write it, who forgot that it needs gamma = 2."""

    relaxation = 1.0

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] - b[None]).square().sum(dim=2)


class OneTriple(Distance):
    """A metric but for one triple: from 1 by way of 3 to 5 it is shorter than it says."""

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        ends = torch.tensor([1.0, 5.0], dtype=a.dtype)
        between = torch.isin(a, ends) & torch.isin(b, ends).T & (a != b.T)
        return torch.where(between, 7.0, (a - b.T).abs())


def outputs(count: int = 20) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(0))


def slow(distance: Distance, z: Tensor) -> tuple[float, tuple[int, int, int]]:
    """Over all triples in a loop."""
    d, worst = distance.pairwise(z, z).tolist(), (0.0, (0, 0, 0))
    for a in range(len(z)):
        for b in range(len(z)):
            for c in range(len(z)):
                through = d[a][b] + d[b][c]
                if through > 0 and d[a][c] / through > worst[0]:
                    worst = (d[a][c] / through, (a, b, c))
    return worst


def test_a_false_gamma_is_named_with_the_triple_and_the_gamma_that_would_hold() -> None:
    z = outputs()
    found = check_distance(UserSquared(), z)
    gamma, triple = slow(UserSquared(), z)
    assert not found.passed
    assert found.broken
    assert found.needed_relaxation == pytest.approx(gamma, rel=1e-12)
    a, b, c = found.triple
    assert {a, c} == {triple[0], triple[2]}
    assert b == triple[1]
    d = UserSquared().pairwise(z, z)
    assert float(d[a, c]) == pytest.approx(gamma * float(d[a, b] + d[b, c]))
    assert 1.0 < gamma <= 2.0
    text = str(found)
    assert f"for outputs {found.triple}, with relaxation 1; mend the distance, or declare a relaxation of " in text
    assert float(text.rsplit(" ", 1)[1]) >= gamma
    assert check_distance(UserSquared(), z, relaxation=float(text.rsplit(" ", 1)[1])).passed


def test_the_one_triple_among_many_that_breaks_it_is_found() -> None:
    found = check_distance(OneTriple(), torch.tensor([[9.0], [1.0], [3.0], [5.0], [12.0]]))
    assert not found.passed
    assert found.needed_relaxation == 7.0 / 4.0
    assert found.triple in {(1, 2, 3), (3, 2, 1)}


def test_what_is_true_passes_and_says_so() -> None:
    found = check_distance(SquaredL2(), outputs())
    assert found.passed
    assert not found.broken
    assert found.advice == ""
    assert str(found).startswith("SquaredL2() on 20 outputs: all axioms hold, the relaxation that all triples need is ")
    assert not check_distance(SquaredL2(), outputs(), relaxation=1.0).passed
    images = outputs(9).reshape(9, 1, 1, 5)
    assert check_distance(TotalVariation(), images).passed


def test_places_are_those_in_the_tensor_and_what_is_not_finite_is_passed_over() -> None:
    z = torch.tensor([[math.nan], [0.0], [math.inf], [1.0], [2.0]])
    found = check_distance(UserSquared(), z)
    assert found.triple in {(1, 3, 4), (4, 3, 1)}
    assert (found.num_outputs, found.needed_relaxation) == (3, 2.0)


def test_of_many_outputs_sixty_are_taken_from_all_over() -> None:
    z = torch.arange(1000.0)[:, None]
    found = check_distance(UserSquared(), z)
    assert found.num_outputs == 60
    assert max(check_distance(Lp(), z).triple) <= 999
    assert {found.triple[0], found.triple[2]} != {0, 59}
    assert check_distance(OneTriple(), z[:60]).num_outputs == 60


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="outputs must be at least 3 that are finite, got 2 of 3"):
        check_distance(Lp(), torch.tensor([[0.0], [1.0], [math.nan]]))
    with pytest.raises(ValueError, match=r"relaxation must lie in \[1, inf\), got 0.5"):
        check_distance(Lp(), outputs(), relaxation=0.5)
    with pytest.raises(ValueError, match="distance must be a Distance"):
        check_distance(3, outputs())  # type: ignore[arg-type]  # it is wrong
    assert check_distance(BoxJaccard(), torch.rand(5, 4)).passed
