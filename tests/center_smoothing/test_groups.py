"""Smoothed functions of groups: J noisy outputs are aggregated into one (theory T13)."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from center_smoothing import (
    BoxJaccard,
    CenterSmoother,
    Certificate,
    Distance,
    Hausdorff,
    Lp,
    MaskJaccard,
    ObjectDistance,
    SmoothedOutput,
    SmoothingBudget,
    Symmetrised,
    TotalVariation,
)
from center_smoothing.budget import Coverage
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs
from tests.center_smoothing.refutation import Pairs, SampleCenters, failures_of, pairs_between, refuted

NAN = math.nan


def test_outputs_that_can_be_averaged_become_their_mean() -> None:
    groups = torch.tensor([[[0.0, 1.0], [3.0, 1.0], [6.0, 4.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    for distance in (Lp(2), Symmetrised(Lp(1))):
        assert distance.aggregate(groups).tolist() == [[3.0, 2.0], [1.0, 1.0]]


def test_other_outputs_become_the_one_in_the_middle() -> None:
    # by l1 the sums of distances are 12, 11 and 19, and 4, 4 and 8
    groups = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [9.0, 1.0]], [[1.0, 0.0], [1.0, 0.0], [5.0, 0.0]]])
    assert SampleCenters(1).aggregate(groups).tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert SampleCenters(1).aggregate(groups.flip(1)).tolist() == [[1.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_whole_numbers_are_never_averaged(dtype: torch.dtype) -> None:
    groups = torch.tensor([[[0], [1], [9]]], dtype=dtype)
    assert Lp(1).aggregate(groups).dtype == dtype
    assert Lp(1).aggregate(groups).tolist() == [[1]]
    boxes = torch.tensor([[[0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 1, 1]]], dtype=dtype)
    assert BoxJaccard().aggregate(boxes).tolist() == [[0, 0, 4, 3]]


def test_sets_and_objects_have_medoids() -> None:
    sets = torch.tensor([[[[0.0, 1.0]], [[1.0, 1.0]], [[7.0, 1.0]]]])
    assert Hausdorff().aggregate(sets).tolist() == [[[1.0, 1.0]]]

    class Overlap(ObjectDistance):
        def between(self, a: frozenset[str], b: frozenset[str]) -> float:
            return 1.0 - len(a & b) / max(len(a | b), 1)

    distance = Overlap()
    numbers = distance.encode([frozenset("ab"), frozenset("abc"), frozenset("bcd"), frozenset("x"), None, None])
    assert distance.decode(distance.aggregate(numbers[:3][None])[0]) == frozenset("abc")
    assert distance.decode(distance.aggregate(numbers[3:][None])[0]) is None


def test_boxes_become_their_coordinate_wise_median() -> None:
    groups = torch.tensor(
        [
            [[0.0, 0.0, 4.0, 4.0], [1.0, 2.0, 3.0, 9.0], [2.0, 1.0, 8.0, 5.0], [9.0, 9.0, 1.0, 1.0]],  # one is empty
            [[0.0, 0.0, 4.0, 4.0], [1.0, 2.0, 3.0, 9.0], [2.0, 1.0, 8.0, 5.0], [1.5, 1.0, 6.0, 7.0]],
            [[0.0, 0.0, 4.0, 4.0], [1.0, 2.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0]],  # half are
        ]
    )
    expected = [[1.0, 1.0, 4.0, 5.0], [1.25, 1.0, 5.0, 6.0], [0.0, 0.0, 0.0, 0.0]]
    assert BoxJaccard().aggregate(groups).tolist() == expected
    assert BoxJaccard().aggregate(groups.flip(1)).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_masks_vote_and_half_of_the_votes_are_too_few(dtype: torch.dtype) -> None:
    groups = torch.tensor([[[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]]]).to(dtype)
    assert MaskJaccard().aggregate(groups).tolist() == [[1, 0, 0]]
    assert MaskJaccard().aggregate(groups).dtype == dtype


@pytest.mark.parametrize(
    ("distance", "shape"),
    [
        (Lp(2), (4,)),
        (SampleCenters(2), (4,)),
        (BoxJaccard(), (4,)),
        (MaskJaccard(), (2, 2)),
        (TotalVariation(), (1, 2, 2)),
    ],
)
@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_a_group_with_what_is_no_output_is_none(distance: Distance, shape: tuple[int, ...], bad: float) -> None:
    groups = torch.rand(5, 3, *shape, generator=torch.Generator().manual_seed(0))
    expected = distance.aggregate(groups)
    for member in range(3):
        groups.flatten(2)[member + 1, member, 2] = bad
    found = distance.aggregate(groups)
    assert distance.are_outputs(found).tolist() == [True, False, False, False, True]
    assert torch.equal(found[[0, 4]], expected[[0, 4]])


@pytest.mark.parametrize("distance", [Lp(2), SampleCenters(2), BoxJaccard(), MaskJaccard()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_group_depends_on_nothing_else_in_the_tensor(distance: Distance, dtype: torch.dtype) -> None:
    groups = torch.rand(37, 9, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    together = distance.aggregate(groups)
    assert together.shape == (37, 4)
    assert torch.equal(torch.cat([distance.aggregate(group[None]) for group in groups]), together)
    assert distance.aggregate(groups[:0]).shape == (0, 4)


def drawn(distance: Distance, group: int, batch_size: int, count: int) -> Tensor:
    outputs = NoisyOutputs(
        torch.sin, sigma=0.5, batch_size=batch_size, group=group, aggregate=distance.aggregate if group > 1 else None
    )
    return torch.cat(list(outputs.draw(torch.zeros(3), example=1, stage=Stage.PILOT, count=count)))


@pytest.mark.parametrize("distance", [Lp(2), SampleCenters(2)])
@pytest.mark.parametrize("group", [2, 100])
def test_the_ith_output_is_made_of_the_ith_copies_whatever_the_batch_size(distance: Distance, group: int) -> None:
    values = drawn(distance, 1, 64, 13 * group)
    expected = distance.aggregate(values.reshape(13, group, 3))
    for batch_size in (7, 64, 1000):
        assert torch.equal(drawn(distance, group, batch_size, 13), expected)
        assert torch.equal(drawn(distance, group, batch_size, 5), expected[:5])


def test_the_smoothing_loss_is_that_of_the_base_output() -> None:
    budget = SmoothingBudget(n=200, m=400, group=4)
    certificate = CenterSmoother(lambda z: z.square(), Lp(1), sigma=1.0, budget=budget).certify(torch.zeros(1))
    assert certificate.smoothing_loss == pytest.approx(float(certificate.center), rel=1e-6)
    assert certificate.smoothing_loss > 0.4  # f(0) = 0, and means of groups of squares lie about 1


@pytest.mark.parametrize("coverage", ["pointwise", "bonferroni", "dkw"])
@pytest.mark.parametrize("h", [0.0, 0.3, 1.0])
def test_ranks_are_those_of_a_larger_shift(h: float, coverage: Coverage) -> None:
    settings: dict[str, Any] = {"n": 1000, "m": 4000, "looks": 3}
    grouped, single = SmoothingBudget(group=4, **settings), SmoothingBudget(**settings)
    for m in grouped.look_sizes:
        assert grouped.ranks(h, m=m, coverage=coverage) == single.ranks(2 * h, m=m, coverage=coverage)
        answers: dict[str, Any] = {"m": m, "coverage": coverage, "answers": 3}
        assert grouped.certifies(h, **answers) == single.certifies(2 * h, **answers)
    ours, theirs = grouped.plan(h), single.plan(2 * h)
    assert (ours.p, ours.rank, ours.least_m, ours.tuple_sizes) == (
        *(theirs.p, theirs.rank, theirs.least_m, theirs.tuple_sizes),
    )
    assert ours.h == h
    assert ours.evaluations == 4 * theirs.evaluations
    assert grouped.evaluations_to_smooth == 4 * single.evaluations_to_smooth
    assert ours.abstention_probability == theirs.abstention_probability


def certificate_of(budget: SmoothingBudget) -> Certificate:
    output = SmoothedOutput(torch.zeros(1), 1.0, 0.5, abstained=False)
    return Certificate(np.linspace(1.0, 2.0, budget.m), 0.5, 1.0, budget, output, 0.0)


def test_both_directions_know_of_the_group() -> None:
    grouped, single = (certificate_of(SmoothingBudget(n=500, m=2000, group=group)) for group in (9, 1))
    for eps_in in (0.0, 0.1, 0.2):
        assert grouped.eps_out(eps_in) == single.eps_out(3 * eps_in)
    for eps_out in (5.2, 5.5, 5.9):
        assert grouped.eps_in(eps_out) == pytest.approx(single.eps_in(eps_out) / 3, rel=1e-9)
        assert grouped.eps_out(grouped.eps_in(eps_out)) <= eps_out
    assert grouped.eps_out(1.5) == math.inf


def test_plain_values_name_a_group_and_are_the_old_ones_without() -> None:
    single, grouped = SmoothingBudget(n=500), SmoothingBudget(n=500, group=4)
    assert "group" not in single.as_dict()
    assert SmoothingBudget.from_dict(json.loads(json.dumps(grouped.as_dict()))) == grouped
    assert SmoothingBudget.from_dict(single.as_dict()).group == 1
    assert (grouped.with_sizes((1,)).group, grouped.without_averages().group) == (4, 4)
    assert "group=4" in grouped.settings
    assert "group" not in single.settings


class Sides(Lp):
    """A pseudometric: 1 between outputs on either side of zero, else 0."""

    def _embed(self, z: Tensor) -> Tensor:
        return (z.sum(dim=1, keepdim=True) > 0.0).to(z.dtype)


TOWARDS = torch.tensor([0.6, 0.8], dtype=torch.float64)


def linear(z: Tensor) -> Tensor:
    return z @ TOWARDS[:, None]


def mask(z: Tensor) -> Tensor:
    return linear(z) > 0.0


def box(z: Tensor) -> Tensor:
    return torch.where(mask(z), z.new_tensor([0.0, 0.0, 1.0, 1.0]), 0.0)


def label(z: Tensor) -> Tensor:
    return mask(z).to(z.dtype)


VOTES = {"vote": (mask, MaskJaccard()), "median box": (box, BoxJaccard()), "medoid": (label, SampleCenters(1))}
CASES = {"mean": (linear, Sides(1)), **VOTES}


def pairs_of(case: str, budget: SmoothingBudget, start: float, eps_in: float, runs: int) -> Pairs:
    """Pairs where x' lies eps_in from x = start along the worst direction."""
    return pairs_between(*CASES[case], budget, start * TOWARDS, TOWARDS, eps_in, runs)


def test_the_promise_holds_where_chance_decides() -> None:
    """Outputs of the group fall on both sides equally often at x', where a few certification outputs decide at x."""
    budget = SmoothingBudget(n=601, m=25, k=16, group=4, alpha_1=0.02, alpha_2=0.5, delta=0.1)
    found, h = pairs_of("mean", budget, -0.25, 0.25, 20), 0.25
    assert len(found) > 0.9 * 20
    failures = failures_of(found, h)
    assert not refuted(failures, 20, 0.52)
    assert failures > 0


@pytest.mark.parametrize(("case", "group"), [("median box", 4), ("medoid", 3)])
def test_votes_keep_the_promise(case: str, group: int) -> None:
    budget = SmoothingBudget(n=201, m=120, k=16, group=group, alpha_1=0.1, alpha_2=0.1, delta=0.2)
    found = pairs_of(case, budget, -0.9, 0.7, 20)
    assert len(found) > 10
    assert not refuted(failures_of(found, 0.7), 20, budget.alpha)


@pytest.mark.parametrize(("case", "start", "eps_in"), [("mean", -0.7, 1.0), ("median box", -1.0, 1.5)])
def test_h_without_the_root_of_the_group_would_be_noticed(
    case: str, start: float, eps_in: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SmoothingBudget, "shift", lambda self, h: h)
    budget = SmoothingBudget(n=201, m=1000, k=16, group=9, alpha_1=0.1, alpha_2=0.1, delta=0.2)
    assert refuted(failures_of(pairs_of(case, budget, start, eps_in, 10), eps_in), 10, budget.alpha)
