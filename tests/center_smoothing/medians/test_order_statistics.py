"""Order statistics of coordinates: bounds hold for whatever comes, and are close for edges of the same kind."""

import numpy as np
import pytest
import torch
from torch import Tensor

from center_smoothing.medians.order_statistics import OrderStatistics, sorted_coordinates

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def bounds(edges: int, outputs: Tensor, ranks: list[int], batch: int = 17) -> tuple[Tensor, Tensor]:
    statistics = OrderStatistics(edges)
    for part in outputs.split(batch):
        statistics.add(part)
    return statistics.bounds(np.array(ranks))


def true_bounds(outputs: Tensor, ranks: list[int]) -> tuple[Tensor, Tensor]:
    """The order statistics themselves, from below for numbers that are not finite as -inf, from above as inf."""
    finite, at = torch.isfinite(outputs), torch.tensor(ranks) - 1
    descending = outputs.masked_fill(~finite, -torch.inf).sort(dim=0, descending=True).values
    ascending = outputs.masked_fill(~finite, torch.inf).sort(dim=0).values
    return descending[at].flatten(1), ascending[at].flatten(1)


def some(count: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Outputs of three coordinates: normal, with atoms, and with numbers that are not finite."""
    z = torch.randn((count, 3), generator=torch.Generator().manual_seed(seed))
    z[:, 1] = (2.0 * z[:, 1]).round()
    z[z[:, 2] > 1.5, 2] = torch.inf
    z[z[:, 2] < -1.8, 2] = torch.nan
    return z.to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_coordinates_are_sorted_with_nan_last(dtype: torch.dtype) -> None:
    z = some(101, 0, dtype)
    assert torch.equal(sorted_coordinates(z).nan_to_num(7e4), z.sort(dim=0).values.T.nan_to_num(7e4))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seed", range(5))
def test_order_statistics_are_bounded_from_both_sides(seed: int, dtype: torch.dtype) -> None:
    ranks = [110, 150, 180, 199, 200]
    outputs = some(200, seed, dtype)
    (low, high), (below, above) = bounds(51, outputs, ranks), true_bounds(outputs, ranks)
    assert low.dtype == high.dtype == dtype
    assert bool((low <= below).all() and (above <= high).all())
    assert bool((high[:, 1] == above[:, 1])[:3].all())  # edges lie on the atoms
    assert all(torch.equal(a, b) for a, b in zip(bounds(200, outputs, ranks), (below, above), strict=True))


def test_a_part_of_the_outputs_as_edges_makes_bounds_hardly_wider() -> None:
    ranks, outputs = [1100, 1600, 1950], torch.randn(2000, 4, generator=torch.Generator().manual_seed(1))
    (low, high), (below, above) = bounds(1000, outputs, ranks), true_bounds(outputs, ranks)
    assert float((high - above).max()) < 0.05
    assert float((below - low).max()) < 0.05


@pytest.mark.parametrize("nothing", [torch.nan, torch.inf, -torch.inf])
def test_edges_that_are_mostly_not_finite_leave_the_bounds_right(nothing: float) -> None:
    outputs = torch.arange(-30.0, 30.0)[:, None]
    outputs[3:10] = nothing
    (low, high), (below, above) = bounds(11, outputs, [31, 45, 53, 54]), true_bounds(outputs, [31, 45, 53, 54])
    assert bool((low <= below).all() and (above <= high).all())
    assert [float(high[place]) for place in (2, 3)] == [29.0, torch.inf]


def test_beyond_all_edges_extremes_take_their_place() -> None:
    outputs = torch.cat([torch.zeros(3, 1), torch.arange(-49.0, 50.0)[:, None]])[:102]
    low, high = bounds(3, outputs, [53, 54, 102])
    assert high.flatten().tolist() == [0.0, 49.0, 49.0]
    assert low.flatten().tolist() == [0.0, -49.0, -49.0]


def test_numbers_that_are_not_finite_lie_beyond_both_ends() -> None:
    outputs = torch.tensor([[0.0], [1.0], [torch.nan], [torch.inf], [-torch.inf]])
    low, high = bounds(1, outputs, [2, 3])
    assert high.flatten().tolist() == [1.0, torch.inf]
    assert low.flatten().tolist() == [0.0, -torch.inf]


def test_the_batch_size_makes_no_difference() -> None:
    both = (bounds(31, some(100, 4), [60, 99], batch) for batch in (1, 100))
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))
