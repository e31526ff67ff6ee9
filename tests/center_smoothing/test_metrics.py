import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor, distributed, multiprocessing
from torchmetrics import MetricCollection

from center_smoothing.metrics import AbstentionRate, MedianCertifiedRadius, MedianSmoothingLoss
from center_smoothing.upper_median import upper_median

MEDIANS = [MedianCertifiedRadius, MedianSmoothingLoss]
METRICS = [*MEDIANS, AbstentionRate]


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0], 1.0),
        ([1.0, 2.0], 2.0),
        ([3.0, 1.0, 2.0], 2.0),
        ([4.0, 1.0, 3.0, 2.0], 3.0),
        ([1.0, math.inf], math.inf),
        ([1.0, 2.0, math.inf], 2.0),
        ([1.0, 2.0, math.inf, math.inf], math.inf),
        ([math.inf, math.inf, math.inf], math.inf),
    ],
)
def test_the_upper_median(values: list[float], expected: float) -> None:
    assert upper_median(vector(*values)).item() == expected
    for metric_type in MEDIANS:
        metric = metric_type()
        metric.update(vector(*values), torch.arange(len(values)))
        assert metric.compute().item() == expected


@pytest.mark.parametrize("metric_type", METRICS)
def test_a_metric_without_examples_says_so(metric_type: type[AbstentionRate]) -> None:
    metric = metric_type()
    metric.update(torch.empty(0), torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"at least one number|no example"):
        metric.compute()


@pytest.mark.parametrize("metric_type", MEDIANS)
def test_of_values_with_one_index_the_first_counts(metric_type: type[MedianCertifiedRadius]) -> None:
    metric = metric_type()
    metric.update(vector(1.0, 5.0, 9.0), torch.tensor([4, 0, 4]))
    metric.update(vector(7.0, 9.0, 3.0), torch.tensor([0, 0, 2]))
    assert metric.compute().item() == 3.0  # of 1, 5 and 3
    metric.update(vector(7.0, 7.0))  # each of them another one
    assert metric.compute().item() == 5.0
    metric.reset()
    metric.update(vector(0.0), torch.arange(1))
    assert metric.compute().item() == 0.0


@pytest.mark.parametrize("metric_type", MEDIANS)
def test_values_and_indices_are_exact(metric_type: type[MedianCertifiedRadius]) -> None:
    metric = metric_type()
    value, index = 0.1 + 2**-54, 2**53 - 1
    metric.update(vector(value, value, 2.0), torch.tensor([index, index - 1, index]))
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == value
    metric.half()
    metric.float()
    assert metric.compute().item() == value


@pytest.mark.parametrize("metric_type", METRICS)
def test_forward_gives_the_batch_and_keeps_the_whole(metric_type: type[AbstentionRate]) -> None:
    metric = metric_type()
    assert metric(vector(1.0, 1.0), torch.tensor([0, 1])).item() == 1.0
    assert metric(vector(0.0), torch.tensor([2])).item() == 0.0
    assert metric(vector(0.0), torch.tensor([0])).item() == 0.0
    assert metric.compute().item() == pytest.approx(2 / 3 if metric_type is AbstentionRate else 1.0)


@pytest.mark.parametrize("metric_type", METRICS)
def test_lower_is_better_and_copies_keep_all(metric_type: type[AbstentionRate]) -> None:
    metric = metric_type()
    metric.update(vector(1.0), torch.arange(1))
    assert metric.higher_is_better is False
    for copy in (pickle.loads(pickle.dumps(metric)), metric.clone()):
        copy.update([0.0, 0.0], [1, 2])
        copy.merge_state(metric)
        assert copy.compute().item() == (pytest.approx(1 / 3) if metric_type is AbstentionRate else 0.0)
    assert metric.compute().item() == 1.0


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        np.array,
        lambda values: np.array(values).astype(">f8"),
        lambda values: np.array(values, np.float32)[::-1][::-1],
        lambda values: np.array(values)[::-1].copy()[::-1],
        lambda values: [torch.tensor(value) for value in values],
        lambda values: [np.float64(value) for value in values],
        lambda values: torch.tensor(values, requires_grad=True),
    ],
)
def test_lists_and_arrays_count_like_tensors(make: Any) -> None:  # noqa: ANN401  # whatever holds numbers
    metric = MedianCertifiedRadius()
    metric.update(make([0.5, math.inf, 3.0]), make([2.0, 0.0, 1.0]))
    metric.update(make([9.0]), make([2.0]))
    assert metric.compute().item() == 3.0
    rate = AbstentionRate()
    rate.update(np.array([True, False, False]), [0, 1, 2])
    rate.update([True], np.array([3], np.int32))
    assert rate.compute().item() == 0.5


@pytest.mark.parametrize(
    ("values", "index", "message"),
    [
        ([1.0], [0.5], "index must hold whole numbers below"),
        ([1.0], [math.nan], "index must hold whole numbers below"),
        ([1.0], [2**53 + 1], "index must hold whole numbers below"),
        ([-1.0], None, r"values must be at least 0, got -1\.0"),
        ([1.0, math.nan], [0, 1], "values must not be NaN; where there is no certificate eps_out is inf"),
        (torch.zeros(2), torch.arange(3), "values and index must be vectors of one length, got"),
        (torch.zeros(2, 1), torch.arange(2), "values and index must be vectors of one length, got"),
        (torch.tensor(1.0), torch.tensor(0), "values and index must be vectors of one length, got"),
        ([1j], None, "values must be a vector of real numbers"),
        (np.array([1j]), None, "values must be a vector of real numbers"),
        (torch.tensor([1j]), None, "values must be a vector of real numbers"),
        (["a"], None, "values must be a vector of real numbers"),
        (np.array([None]), None, "values must be a vector of real numbers"),
        (3.0, None, "values must be a vector of real numbers"),
    ],
)
def test_what_is_no_vector_of_numbers_is_refused(values: Any, index: Any, message: str) -> None:  # noqa: ANN401
    metric = MedianSmoothingLoss()
    with pytest.raises(ValueError, match=message):
        metric.update(values, index)


def test_an_abstention_is_true_or_false() -> None:
    with pytest.raises(ValueError, match=r"abstained must be true or false for each example, got \[0\.3\]"):
        AbstentionRate().update([0.3])


@pytest.mark.parametrize("metric_type", METRICS)
def test_arguments_of_torchmetrics_are_passed_on(metric_type: type[AbstentionRate]) -> None:
    metric = metric_type(compute_on_cpu=True, sync_on_compute=False, compute_with_cache=False)
    assert (metric.compute_on_cpu, metric.sync_on_compute, metric.compute_with_cache) == (True, False, False)
    metric.update([1.0], [0])
    assert metric.compute().item() == 1.0
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `colour`"):
        metric_type(colour="red")


@pytest.mark.parametrize("metric_type", METRICS)
def test_a_plot_starts_at_zero(metric_type: type[AbstentionRate]) -> None:
    metric = metric_type()
    results = [metric([1.0, 1.0]), metric([1.0])]
    for given_values in (None, results):
        figure, axes = metric.plot(given_values)
        low, high = axes.get_ylim()
        assert -0.2 < low <= 0.0
        assert 1.0 <= high < 1.2
        drawn = [float(value) for line in axes.get_lines() for value in np.atleast_1d(line.get_ydata())]
        expected = [metric.compute().item()] if given_values is None else [value.item() for value in results]
        assert set(expected) <= set(drawn)
        pyplot.close(figure)


class RadiusElsewhere(MedianCertifiedRadius):
    """Of a user, who has two radii of each example."""

    def update(self, elsewhere: Tensor, index: Tensor) -> None:  # type: ignore[override]
        self._append(elsewhere, index)


TOGETHER = {
    "radius": MedianCertifiedRadius,
    "loss": MedianSmoothingLoss,
    "rate": AbstentionRate,
    "elsewhere": RadiusElsewhere,
}


def together(names: tuple[str, ...], groups: bool, examples: range) -> dict[str, float]:
    """Results of one collection; example 0, an abstention, looks alike to all but one."""
    collection = MetricCollection({name: TOGETHER[name]() for name in names}, compute_groups=groups)
    for i in examples:
        collection.update(
            eps_out=[50.0 + i if i else math.inf],
            smoothing_loss=[1.0 + i if i else math.inf],
            elsewhere=[20.0 + i if i else math.inf],
            abstained=[i == 0],
            index=[i],
        )
    return {name: value.item() for name, value in collection.compute().items()}


OF_SIX = {"radius": 54.0, "loss": 5.0, "rate": pytest.approx(1 / 6), "elsewhere": 24.0}


@pytest.mark.parametrize("groups", [True, False])
def test_metrics_of_one_collection_keep_apart(groups: bool) -> None:
    for names in itertools.permutations(TOGETHER):
        assert together(names, groups, range(6)) == OF_SIX


# what each of two processes sees: other numbers of examples, none at all, duplicates within and across
Shares = list[tuple[list[float], list[int]]]
SCENES: dict[str, Shares] = {
    "uneven": [([1.0, 0.0, 1.0, math.inf], [0, 2, 4, 6]), ([0.25], [1])],
    "none on the second": [([1.0, 0.5, math.inf], [0, 1, 2]), ([], [])],
    "none on the first": [([], []), ([1.0, 0.5], [0, 1])],
    "duplicates": [([1.0, 0.0, 1.0], [0, 2, 0]), ([0.5, 1.0, 0.5], [1, 0, 1])],
    "one and the same": [([0.75], [0]), ([0.75], [0])],
}


def results(shares: Shares) -> list[float]:
    """All metrics, each fed one share after the other."""
    computed = []
    for metric_type in METRICS:
        metric = metric_type()
        for values, index in shares:
            if values:
                seen = vector(*values).float()
                metric.update(seen > 0.6 if metric_type is AbstentionRate else seen, torch.tensor(index))
        computed.append(metric.compute().item())
        metric.reset()
    return computed


def one_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's other threads
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    try:
        found: dict[str, object] = {name: results([shares[rank]]) for name, shares in SCENES.items()}
        for groups in (True, False):  # the first process starts with the abstention
            found[f"collection {groups}"] = together(tuple(TOGETHER), groups, range(4 * rank, 4 + 2 * rank))
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    multiprocessing.start_processes(one_process, args=(str(tmp_path),), nprocs=2, start_method="fork")
    expected: dict[str, object] = {name: results(shares) for name, shares in SCENES.items()}
    expected |= {f"collection {groups}": OF_SIX for groups in (True, False)}
    assert torch.load(tmp_path / "0.pt") == expected
    assert torch.load(tmp_path / "1.pt") == expected
