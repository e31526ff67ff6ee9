"""Types of arguments."""

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import certify
import train
from command_line import argument_types
from experiments import consistency, figure4

positive, radius, count = (
    make("--some-name") for make in (argument_types.positive_number, argument_types.radius, argument_types.count)
)
choice = argument_types.choice("--some-name", "exact", "paper")


@pytest.mark.parametrize(
    ("take", "value", "meant"),
    [
        *((positive, value, meant) for value, meant in [
            ("0.25", 0.25), (0.25, 0.25), (1, 1.0), ("1e-3", 0.001), (" 2 ", 2.0), ("5e-324", 5e-324)
        ]),
        *((radius, value, meant) for value, meant in [("0", 0.0), (0, 0.0), ("0.5", 0.5), (3, 3.0)]),
        *((count, value, meant) for value, meant in [
            ("1", 1), (50, 50), ("1e4", 10_000), ("10_000", 10_000), (2.0, 2), ("20000.0", 20_000)
        ]),
        *((argument_types.batch_size, value, meant) for value, meant in [
            ("auto", "auto"), ("64", 64), (64, 64), ("1e2", 100)
        ]),
        (choice, "exact", "exact"), (choice, "paper", "paper"),
    ],
)  # fmt: skip
def test_what_is_taken(take: Callable[[object], object], value: object, meant: object) -> None:
    found = take(value)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    ("take", "wanted", "values"),
    [
        (positive, "--some-name must be a positive number such as 0.25",
         ["0", "-1", 0, -0.25, "nan", "inf", math.nan, math.inf, "x", "", None, True, [1.0], "1e400", 10**400]),
        (radius, "--some-name must be a number of at least 0 such as 0.5",
         ["-0.1", -1, "nan", "inf", "-inf", "x", "", None, False]),
        (count, "--some-name must be a whole number of at least 1",
         ["0", 0, -3, "1.5", 2.5, "nan", "inf", "1e19", "x", "", None, True, [3], 10**400]),
        (argument_types.batch_size, "--batch-size must be auto or a whole number of at least 1",
         ["0", -1, "big", "Auto", "1.5", None]),
        (choice, "--some-name must be one of exact, paper", ["Exact", "", "exac", None, 3, ["exact"]]),
    ],
)  # fmt: skip
def test_what_is_refused(take: Callable[[object], object], wanted: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ArgumentTypeError) as refused:
            take(value)
        assert str(refused.value) == f"{wanted}, got {value!r}"


@given(st.integers(1, 2**53))
def test_count_keeps_every_digit(number: int) -> None:
    assert argument_types.count("--n")(number) == number
    assert argument_types.count("--n")(str(number)) == number


@pytest.mark.parametrize("main", [certify.main, train.main, figure4.main, consistency.main])
def test_help_says_what_flags_take(main: Callable[[list[str]], object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"\(type: positive number[,)]", printed)
    assert not re.search(r"<(function|class|locals)|0x[0-9a-f]{6}", printed)
