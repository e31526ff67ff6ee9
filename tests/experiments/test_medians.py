import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.medians import Median

VALUES = st.lists(st.floats(0.0, 1e6) | st.just(math.inf), min_size=1, max_size=30)


@given(VALUES)
def test_the_value_is_the_upper_median_and_lies_within_its_interval(values: list[float]) -> None:
    median = Median.of(values)
    assert median.value == sorted(values)[len(values) // 2]
    assert median.low <= median.value <= median.high
    assert {median.low, median.high} <= set(values)  # never between two of them


def test_half_without_certificate_is_an_infinite_median_and_never_a_nan() -> None:
    assert Median.of([1.0, 2.0, math.inf, math.inf]).value == math.inf
    assert Median.of([math.inf] * 3) == Median(math.inf, math.inf, math.inf)
    few = Median.of([1.0, 2.0, 3.0, 4.0, math.inf])
    assert few.value == 3.0
    assert few.high == math.inf


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        median = Median.of(generator.exponential(size=51).tolist(), level=0.9)
        covered += median.low <= math.log(2.0) <= median.high
    assert 0.82 <= covered / 200 <= 0.97


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(size=50).tolist()
    assert Median.of(values) == Median.of(values)
    assert Median.of(values, level=0.5).high <= Median.of(values, level=0.99).high


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_the_interval_moves_with_the_values(shift: float) -> None:
    values = np.arange(20.0)
    assert Median.of((values + shift).tolist()).low == pytest.approx(Median.of(values.tolist()).low + shift)
