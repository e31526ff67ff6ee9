import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from center_smoothing import (
    CenterSmoother,
    Certificate,
    Distance,
    Lp,
    MaskJaccard,
    MeanBudget,
    MeanCertificate,
    MeanSmoother,
    SmoothingBudget,
    TotalVariation,
)
from center_smoothing.sampling import NoisyOutputs, Stage
from center_smoothing.sharing import Share

BUDGET = SmoothingBudget(n=300, m=700, k=20, delta=0.3)
X = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))


class Table:
    """Where threads that stand for processes meet."""

    def __init__(self, processes: int) -> None:
        self.barrier = threading.Barrier(processes, timeout=30)
        self.given: list[Any] = [None] * processes

    def all_of(self, rank: int, value: object) -> list[Any]:
        self.given[rank] = value
        self.barrier.wait()
        found = list(self.given)
        self.barrier.wait()
        return found


@dataclass(frozen=True)
class ThreadShare(Share):
    """The same among threads."""

    table: Table = field(kw_only=True)

    def exchanged(self, own: Tensor | None, like: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        found = self.table.all_of(self.rank, None if own is None else own.clone())
        assert [len(batch) for batch in found if batch is not None] == list(lengths)
        assert all(batch.dtype == like.dtype and batch.shape[1:] == like.shape for batch in found[: len(lengths)])
        return found[: len(lengths)]

    def add_up(self, distances: Tensor) -> None:
        distances.copy_(sum(self.table.all_of(self.rank, distances.clone()), torch.zeros_like(distances)))


def in_threads(processes: int, work: Callable[[Share], Any]) -> list[Any]:
    """What each of several processes gets."""
    table = Table(processes)
    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(work, [ThreadShare(rank, processes, table=table) for rank in range(processes)]))


def image_model(x: Tensor) -> Tensor:
    return (3.0 * x).tanh()


def nan_model(x: Tensor) -> Tensor:
    return torch.where(x.flatten(1).sum(dim=1) > 9.5, torch.nan, 1.0).reshape(-1, 1, 1, 1) * x


def mask_model(x: Tensor) -> Tensor:
    return x > 0.5


def same(a: Certificate, b: Certificate) -> None:
    np.testing.assert_array_equal(a.distances, b.distances)
    assert set(a.probes) == set(b.probes)
    for size, kept in a.probes.items():
        np.testing.assert_array_equal(kept, b.probes[size])
    assert torch.equal(a.center, b.center)
    assert (a.output.radius, a.output.mass, a.abstained, a.smoothing_loss) == (
        b.output.radius, b.output.mass, b.abstained, b.smoothing_loss,
    )  # fmt: skip


@pytest.mark.parametrize("processes", [2, 3, 7])
@pytest.mark.parametrize(
    ("model", "distance", "batch_size", "budget"),
    [
        (image_model, TotalVariation(), 64, BUDGET),
        (image_model, Lp(2), 50, BUDGET),
        (nan_model, Lp(1), 64, BUDGET),
        (mask_model, MaskJaccard(), 32, BUDGET),
        (image_model, Lp(2), 1000, BUDGET),
        (image_model, Lp(2), 33, SmoothingBudget(n=200, m=1000, k=20, delta=0.35, looks=3)),
        (image_model, Lp(2), 64, SmoothingBudget(n=100, m=400, n_check=100, delta=0.4, method="paper")),
    ],
)
def test_several_processes_get_the_numbers_of_one(
    model: Callable[[Tensor], Tensor], distance: Distance, batch_size: int, budget: SmoothingBudget, processes: int
) -> None:
    def certified(share: Share) -> Certificate:
        smoother = CenterSmoother(model, distance, sigma=0.3, budget=budget, seed=3, batch_size=batch_size)
        smoother.outputs.share = share
        return smoother.certify(X, example=5)

    expected = certified(Share())
    for found in in_threads(processes, certified):
        same(found, expected)


def test_an_early_stop_is_the_same_for_all() -> None:
    budget = SmoothingBudget(n=300, m=4000, k=20, delta=0.3, looks=3)

    def stopped(share: Share) -> Certificate:
        smoother = CenterSmoother(image_model, Lp(2), sigma=0.3, budget=budget, batch_size=64)
        smoother.outputs.share = share
        return smoother.certify(X, stop=lambda certificate: certificate.m > 1000)

    expected = stopped(Share())
    assert 1000 < expected.m < 4000
    for found in in_threads(3, stopped):
        same(found, expected)


@pytest.mark.parametrize("processes", [2, 3])
def test_means_are_the_same_too(processes: int) -> None:
    def certified(share: Share) -> MeanCertificate:
        smoother = MeanSmoother(
            image_model, Lp(2), sigma=0.3, budget=MeanBudget(n=500, m=1000), clip_norm=3.0, batch_size=50
        )
        smoother.outputs.share = share
        return smoother.certify(X, example=2)

    expected = certified(Share())
    for found in in_threads(processes, certified):
        np.testing.assert_array_equal(found.distances, expected.distances)
        assert torch.equal(found.center, expected.center)


def test_each_copy_is_evaluated_by_one_process() -> None:
    def evaluated(share: Share) -> int:
        counts: list[int] = []
        smoother = CenterSmoother(image_model, Lp(2), sigma=0.3, budget=BUDGET, batch_size=50, progress=counts.append)
        smoother.outputs.share = share
        smoother.certify(X)
        return sum(counts)

    alone = evaluated(Share())
    parts = in_threads(3, evaluated)
    assert sum(parts) == alone == BUDGET.evaluations
    assert max(parts) < 0.4 * alone


def test_a_batch_is_at_hand_where_it_was_evaluated_and_common_ones_everywhere() -> None:
    def places(share: Share) -> list[tuple[int, int, bool]]:
        outputs = NoisyOutputs(image_model, sigma=0.3, batch_size=10)
        outputs.share = share
        draws = outputs.draw_share(X, example=0, stage=Stage.RANKING, count=65, common=25)
        return [(place.start, place.stop, batch is not None) for place, batch in draws]

    first, second = in_threads(2, places)
    assert [place[:2] for place in first] == [(start, min(start + 10, 65)) for start in range(0, 65, 10)]
    assert [there for *_, there in first] == [True, True, True, False, True, False, True]
    assert [there for *_, there in second] == [True, True, True, True, False, True, False]


def test_without_a_process_group_everything_is_ones_own() -> None:
    assert Share.of_this_process() == Share(0, 1)


@pytest.mark.parametrize(("rank", "processes"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_is_none_is_refused(rank: int, processes: int) -> None:
    with pytest.raises(ValueError, match="rank must lie in"):
        Share(rank, processes)
