"""How far a distance takes everything in a box: never too small, and no larger than need be."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from center_smoothing import (
    Angular,
    BoxJaccard,
    Cosine,
    Disagreement,
    Distance,
    FeatureDistance,
    FunctionDistance,
    Hausdorff,
    Lp,
    MaskJaccard,
    ProbabilityTV,
    SquaredL2,
    TotalVariation,
    Wasserstein1,
)

# Distances, the shape of an output, and whether the largest distance to a corner is the bound itself.
CASES: list[tuple[Distance, tuple[int, ...], bool]] = [
    (Lp(1), (2, 3), True),
    (Lp(2), (6,), True),
    (Lp(3.5), (6,), True),
    (Lp(math.inf), (6,), True),
    (SquaredL2(), (6,), True),
    (TotalVariation(), (2, 3), False),
    (TotalVariation(), (2, 2, 2), False),
    (TotalVariation(2), (2, 2, 2), False),
    (Angular(), (4,), False),
    (Cosine(), (4,), False),
    (BoxJaccard(), (4,), True),
    (MaskJaccard(), (6,), True),
    (Disagreement(), (6,), True),
]


def box(shape: tuple[int, ...], seed: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(shape, generator=generator, dtype=torch.float64) + torch.linspace(
        -2.0, 2.0, math.prod(shape), dtype=torch.float64
    ).reshape(shape)
    widths = scale * torch.rand((2, *shape), generator=generator, dtype=torch.float64) ** 3
    return center, center - widths[0], center + widths[1]


def corners(low: Tensor, high: Tensor) -> Tensor:
    ends = zip(low.flatten(), high.flatten(), strict=True)
    return torch.stack([torch.stack(corner) for corner in itertools.product(*ends)]).reshape(-1, *low.shape)


@pytest.mark.parametrize("scale", [0.05, 0.5, 4.0])
@pytest.mark.parametrize(("distance", "shape", "exact"), CASES, ids=repr)
def test_nothing_in_a_box_is_further_away(
    distance: Distance, shape: tuple[int, ...], exact: bool, scale: float
) -> None:
    for seed in range(4):
        center, low, high = box(shape, seed, scale)
        generator = torch.Generator().manual_seed(seed)
        inside = low + (high - low) * torch.rand((100, *shape), generator=generator, dtype=torch.float64)
        radius = distance.box_radius(center, low, high)
        reached = float(distance.pairwise(center[None], corners(low, high)).max())
        assert max(reached, float(distance.pairwise(center[None], inside).max())) <= radius * (1 + 1e-12) + 1e-15
        if exact:
            assert radius == pytest.approx(reached, rel=1e-12)


@pytest.mark.parametrize("distance", [distance for distance, *_ in CASES], ids=repr)
def test_a_box_without_a_volume_has_radius_zero(distance: Distance) -> None:
    center = torch.rand(1, 2, 2, dtype=torch.float64) if isinstance(distance, TotalVariation) else torch.rand(4)
    assert distance.box_radius(center.double(), center.double(), center.double()) == 0.0


def test_total_variation_adds_up_both_ends_of_each_pair() -> None:
    center, low, high = (
        torch.tensor([[[a, b]]], dtype=torch.float64) for a, b in ((0.0, 5.0), (-1.0, 3.0), (2.0, 6.0))
    )
    assert TotalVariation().box_radius(center, low, high) == 4.0  # the difference goes from 5 to 1 at least, 7 at most
    both = torch.cat([center, center])
    assert TotalVariation(2).box_radius(both, torch.cat([low, low]), torch.cat([high, high])) == pytest.approx(32**0.5)


def test_images_of_one_channel_may_come_without_it() -> None:
    center, low, high = box((1, 3, 4), 0, 1.0)
    assert TotalVariation().box_radius(center[0], low[0], high[0]) == TotalVariation().box_radius(center, low, high)


def test_squares_that_vanish_do_not_make_a_radius_smaller() -> None:
    zero, tiny = torch.zeros(2, 1, 2, dtype=torch.float64), torch.full((2, 1, 2), 1e-200, dtype=torch.float64)
    assert TotalVariation(2).box_radius(zero, -tiny, tiny) == pytest.approx(8**0.5 * 1e-200, rel=1e-12, abs=0.0)


def test_angles_are_those_of_a_cone_around_the_box() -> None:
    center, width = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert Angular().box_radius(center, center - width, center + width) == pytest.approx(1 / 6)
    assert Cosine().box_radius(center, center - width, center + width) == pytest.approx(1 - 0.75**0.5)
    for distance, most in ((Angular(), 1.0), (Cosine(), 2.0)):
        assert distance.box_radius(center, center - 2 * width, center + 2 * width) == most
        zero = torch.zeros_like(center)
        assert distance.box_radius(zero, zero, zero + 1e-9) == most


def test_boxes_that_may_be_empty_are_at_one() -> None:
    found, none = (torch.tensor(z, dtype=torch.float64) for z in ((0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 0.0, 0.0)))
    assert BoxJaccard().box_radius(found, found - 1.0, found + 1.0) == pytest.approx(1 - 4 / 16)
    assert BoxJaccard().box_radius(found, found - 2.0, found + 2.0) == 1.0
    assert BoxJaccard().box_radius(none, none, none + torch.tensor([0.0, 0.0, 1.0, 0.0])) == 0.0
    assert BoxJaccard().box_radius(none, none - 1.0, none + 1.0) == 1.0


@pytest.mark.parametrize(
    "distance",
    [
        Hausdorff(),
        ProbabilityTV(),
        Wasserstein1(),
        FeatureDistance(lambda z: z, Lp(2), affine=True),
        FunctionDistance(lambda a, b: (a - b).abs().sum(dim=1), relaxation=1),
    ],
    ids=repr,
)
def test_other_distances_have_no_bound(distance: Distance) -> None:
    assert not distance.bounds_boxes
    with pytest.raises(ValueError, match="distance must be one that is bounded over boxes, got"):
        distance.box_radius(*box((4,), 0, 1.0))


def test_a_class_that_embeds_or_compares_in_another_way_does_not_inherit_a_bound() -> None:
    class Scaled(Lp):
        def _embed(self, z: Tensor) -> Tensor:
            return 2.0 * super()._embed(z)

    class Named(Lp):
        pass

    assert not Scaled(2).bounds_boxes
    assert Named(2).bounds_boxes
