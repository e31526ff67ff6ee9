import math
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributed, multiprocessing

from center_smoothing.metrics import AbstentionRate, MedianCertifiedRadius, MedianSmoothingLoss, upper_median

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


@given(st.lists(st.one_of(st.floats(0.0, 1e6), st.just(math.inf)), min_size=1))
def test_at_least_half_of_the_values_are_at_most_the_upper_median(values: list[float]) -> None:
    median = upper_median(vector(*values)).item()
    assert 2 * sum(value <= median for value in values) > len(values)
    assert 2 * sum(value >= median for value in values) >= len(values)


def test_no_median_of_nothing() -> None:
    with pytest.raises(ValueError, match="values must hold at least one number, got none"):
        upper_median(torch.empty(0))


@pytest.mark.parametrize("metric_type", METRICS)
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_a_metric_without_examples_says_so(metric_type: type[AbstentionRate]) -> None:
    metric = metric_type()
    with pytest.raises(ValueError, match=r"at least one number|no example"):
        metric.compute()
    metric.update(torch.empty(0), torch.empty(0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"at least one number|no example"):
        metric.compute()


@pytest.mark.parametrize("metric_type", MEDIANS)
def test_of_values_with_one_index_the_first_counts(metric_type: type[MedianCertifiedRadius]) -> None:
    metric = metric_type()
    metric.update(vector(1.0, 5.0, 9.0), torch.tensor([4, 0, 4]))
    metric.update(vector(7.0, 9.0, 3.0), torch.tensor([0, 0, 2]))
    assert metric.compute().item() == 3.0  # of 1, 5 and 3


def test_duplicates_do_not_count_as_abstentions() -> None:
    metric = AbstentionRate()
    metric.update(torch.tensor([True, False, True]), torch.tensor([0, 1, 0]))
    metric.update(torch.tensor([False, True]), torch.tensor([2, 0]))
    assert metric.compute().item() == pytest.approx(1 / 3, rel=1e-15)


@pytest.mark.parametrize("metric_type", MEDIANS)
def test_nan_is_refused(metric_type: type[MedianCertifiedRadius]) -> None:
    metric = metric_type()
    with pytest.raises(ValueError, match="values must not be NaN; where there is no certificate eps_out is inf"):
        metric.update(vector(1.0, math.nan), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("values", "index"),
    [
        (torch.zeros(2), torch.arange(3)),
        (torch.zeros(2, 1), torch.arange(2)),
        (torch.tensor(1.0), torch.tensor(0)),
        (torch.zeros(2, 2), torch.zeros(2, 2)),
    ],
)
@pytest.mark.parametrize("metric_type", METRICS)
def test_shapes_that_do_not_match_are_refused(metric_type: type[AbstentionRate], values: Tensor, index: Tensor) -> None:
    with pytest.raises(ValueError, match="values and index must be vectors of one length, got"):
        metric_type().update(values, index)


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
def test_reset_forgets(metric_type: type[AbstentionRate]) -> None:
    metric = metric_type()
    metric.update(vector(1.0, 1.0), torch.arange(2))
    metric.reset()
    metric.update(vector(0.0), torch.arange(1))
    assert metric.compute().item() == 0.0


@pytest.mark.parametrize("metric_type", METRICS)
def test_forward_gives_the_batch_and_keeps_the_whole(metric_type: type[AbstentionRate]) -> None:
    metric = metric_type()
    assert metric(vector(1.0, 1.0), torch.tensor([0, 1])).item() == 1.0
    assert metric(vector(0.0), torch.tensor([2])).item() == 0.0
    assert metric(vector(0.0), torch.tensor([0])).item() == 0.0
    assert metric.compute().item() == pytest.approx(2 / 3 if metric_type is AbstentionRate else 1.0)


@pytest.mark.parametrize("metric_type", METRICS)
def test_lower_is_better_and_pickles(metric_type: type[AbstentionRate]) -> None:
    metric = metric_type()
    metric.update(vector(1.0), torch.arange(1))
    assert metric.higher_is_better is False
    assert pickle.loads(pickle.dumps(metric)).compute().item() == 1.0


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
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    try:
        torch.save({name: results([shares[rank]]) for name, shares in SCENES.items()}, f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    multiprocessing.spawn(one_process, args=(str(tmp_path),), nprocs=2)
    expected = {name: results(shares) for name, shares in SCENES.items()}
    assert torch.load(tmp_path / "0.pt") == expected
    assert torch.load(tmp_path / "1.pt") == expected
