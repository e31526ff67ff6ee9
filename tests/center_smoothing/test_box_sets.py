"""Sets of boxes against all matchings in exact arithmetic, and through the whole algorithm."""

from fractions import Fraction
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from center_smoothing import NO_BOX, BoxJaccard, BoxSetMatching, CenterSmoother, SmoothingBudget
from center_smoothing.distances import box_sets
from tests.center_smoothing.refutation import failures_of, pairs, refuted
from tests.center_smoothing.test_jaccard import Box, exact_box_distance, some_boxes

UNIT = (0.0, 0.0, 1.0, 1.0)


def sets(*members: list[Box], size: int) -> Tensor:
    """Sets (N, size, 4), filled up with empty boxes."""
    filled = [[*boxes, *[NO_BOX] * (size - len(boxes))] for boxes in members]
    return torch.tensor(filled, dtype=torch.float64)


def exact_distance(a: list[Box], b: list[Box]) -> Fraction:
    """From every way to match the smaller set into the larger one, in exact arithmetic."""
    small, large = sorted(([box for box in z if box[0] < box[2] and box[1] < box[3]] for z in (a, b)), key=len)
    if not large:
        return Fraction(0)
    chosen = permutations(large, len(small))
    least = min(sum(map(exact_box_distance, small, some), start=Fraction(0)) for some in chosen)
    return (least + len(large) - len(small)) / len(large)


@st.composite
def some_sets(draw: st.DrawFn, count: int = 3, most: int = 4) -> list[list[Box]]:
    """Sets with the same number of places, some of them empty; boxes recur more often than by chance."""
    size, corners = draw(st.integers(1, most)), draw(st.sampled_from(["grid", "quarters", "nearly equal", "numbers"]))
    stock = draw(some_boxes(corners, 4))
    return [draw(st.lists(st.sampled_from(stock), min_size=size, max_size=size)) for _ in range(count)]


@given(drawn=some_sets())
def test_it_is_the_least_over_all_matchings(drawn: list[list[Box]]) -> None:
    z = sets(*drawn, size=len(drawn[0]))
    d = BoxSetMatching().pairwise(z, z).tolist()
    for i, a in enumerate(drawn):
        for j, b in enumerate(drawn):
            exact = exact_distance(a, b)
            assert abs(Fraction(d[i][j]) - exact) <= exact * Fraction(2) ** -48, (a, b)


@settings(max_examples=12)
@given(drawn=some_sets(count=2, most=7), seed=st.integers(0, 99))
def test_the_order_and_the_place_of_absent_boxes_do_not_matter(drawn: list[list[Box]], seed: int) -> None:
    size = len(drawn[0])
    z = sets(*drawn, size=size + 1)
    order = torch.randperm(size + 1, generator=torch.Generator().manual_seed(seed))
    assert BoxSetMatching()(z, z[:, order]).tolist() == [0.0, 0.0]
    d = BoxSetMatching().pairwise(z, z)
    torch.testing.assert_close(BoxSetMatching().pairwise(z[:, order], z), d, rtol=1e-14, atol=0.0)
    z[:, -1] = torch.tensor([5.0, 5.0, 5.0, 1.0])  # another empty box
    assert torch.equal(BoxSetMatching().pairwise(z, z), d)


@settings(max_examples=10)
@given(drawn=some_boxes("quarters", 8))
def test_of_one_box_it_is_the_jaccard_distance(drawn: list[Box]) -> None:
    z = torch.tensor(drawn, dtype=torch.float64)
    assert torch.equal(BoxSetMatching().pairwise(z[:, None], z[:, None]), BoxJaccard().pairwise(z, z))


def test_a_greedy_matching_would_not_do() -> None:
    # the best pair, (0, 0), leaves two that do not touch; crosswise both overlap
    a = sets([(0.0, 0.0, 4.0, 1.0), (3.0, 0.0, 7.0, 1.0)], size=2)
    b = sets([(1.0, 0.0, 5.0, 1.0), (-3.0, 0.0, 1.0, 1.0)], size=2)
    assert float(BoxSetMatching()(a, b)) == pytest.approx(float(exact_distance(*(z[0].tolist() for z in (a, b)))))


@pytest.mark.parametrize("size", [2, 5])
def test_many_sets_at_once_and_blocks_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(60, size, 4, generator=generator)
    z[..., 2:] += z[..., :2] - 0.1
    whole, paired = BoxSetMatching().pairwise(z, z[:7]), BoxSetMatching()(z, z.flip(0))
    monkeypatch.setattr(box_sets, "_BLOCK_PAIRS", 50)
    assert torch.equal(BoxSetMatching().pairwise(z, z[:7]), whole)
    assert torch.equal(BoxSetMatching()(z, z.flip(0)), paired)
    monkeypatch.setattr(box_sets, "_MAX_AT_ONCE", 1)  # pair by pair
    torch.testing.assert_close(BoxSetMatching().pairwise(z, z[:7]), whole, rtol=1e-14, atol=0.0)


def test_a_group_is_the_set_in_its_middle() -> None:
    near, far = (0.0, 0.0, 1.0, 0.9), (5.0, 5.0, 6.0, 6.0)
    z = sets([near], [far, UNIT], [UNIT], [NO_BOX], size=2)
    assert BoxSetMatching().aggregate(z[None]).tolist() == [[list(UNIT), list(NO_BOX)]]
    assert not BoxSetMatching().averages


def two_boxes(x: Tensor) -> Tensor:
    """Two boxes at places (N, 2) on a line, by descending place: the order jumps where the boxes pass each other."""
    left = x.sort(dim=1, descending=True).values * 2.0
    return torch.stack([left, torch.zeros_like(left), left + 4.0, torch.ones_like(left)], dim=2)


def test_certificates_cover_sets_that_move() -> None:
    here = CenterSmoother(
        two_boxes, BoxSetMatching(), sigma=0.2, budget=SmoothingBudget(n=100, m=300, k=16, delta=0.3), batch_size=256
    )
    runs = pairs(here, here, torch.tensor([0.0, 1.0]), torch.tensor([1.0, -1.0]), 0.1, 20)
    assert len(runs) == 20
    assert not refuted(failures_of(runs, 0.1), 20, 0.01)
    moved = min(apart for _, apart in runs)
    assert moved > 0.0
    assert refuted(sum(apart > 0.1 * certificate.eps_out(0.1) for certificate, apart in runs), 20, 0.01)
