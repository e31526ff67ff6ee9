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


@pytest.mark.parametrize(
    ("value", "number"), [("0.25", 0.25), (0.25, 0.25), (1, 1.0), ("1e-3", 0.001), (" 2 ", 2.0), ("5e-324", 5e-324)]
)
def test_positive_number_takes(value: object, number: float) -> None:
    found = argument_types.positive_number("--sigma")(value)
    assert found == number
    assert type(found) is float


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "-1",
        0,
        -0.25,
        "nan",
        "inf",
        math.nan,
        math.inf,
        "x",
        "",
        None,
        True,
        [1.0],
        "1e400",
        pytest.param(10**400, id="10**400"),
    ],
)
def test_positive_number_refuses(value: object) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        argument_types.positive_number("--sigma")(value)
    assert str(refused.value) == f"--sigma must be a positive number such as 0.25, got {value!r}"


@pytest.mark.parametrize(("value", "number"), [("0", 0.0), (0, 0.0), ("0.5", 0.5), (3, 3.0)])
def test_radius_takes(value: object, number: float) -> None:
    assert argument_types.radius("--eps-in")(value) == number


@pytest.mark.parametrize("value", ["-0.1", -1, "nan", "inf", "-inf", "x", "", None, False])
def test_radius_refuses(value: object) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        argument_types.radius("--eps-in")(value)
    assert str(refused.value) == f"--eps-in must be a number of at least 0 such as 0.5, got {value!r}"


@pytest.mark.parametrize(
    ("value", "number"), [("1", 1), (50, 50), ("1e4", 10_000), ("10_000", 10_000), (2.0, 2), ("20000.0", 20_000)]
)
def test_count_takes(value: object, number: int) -> None:
    found = argument_types.count("--n")(value)
    assert found == number
    assert type(found) is int


@pytest.mark.parametrize(
    "value",
    ["0", 0, -3, "1.5", 2.5, "nan", "inf", "1e30", "x", "", None, True, [3], pytest.param(10**400, id="10**400")],
)
def test_count_refuses(value: object) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        argument_types.count("--n")(value)
    assert str(refused.value) == f"--n must be a whole number of at least 1, got {value!r}"


@given(st.integers(1, 2**53))
def test_count_keeps_every_digit(number: int) -> None:
    assert argument_types.count("--n")(number) == number
    assert argument_types.count("--n")(str(number)) == number


@pytest.mark.parametrize(("value", "size"), [("auto", "auto"), ("64", 64), (64, 64), ("1e2", 100)])
def test_batch_size_takes(value: object, size: int | str) -> None:
    assert argument_types.batch_size(value) == size


@pytest.mark.parametrize("value", ["0", -1, "big", "Auto", "1.5", None])
def test_batch_size_refuses(value: object) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        argument_types.batch_size(value)
    assert str(refused.value) == f"--batch-size must be auto or a whole number of at least 1, got {value!r}"


@pytest.mark.parametrize("value", ["exact", "paper"])
def test_choice_takes(value: str) -> None:
    assert argument_types.choice("--method", "exact", "paper")(value) == value


@pytest.mark.parametrize("value", ["Exact", "", "exac", None, 3, ["exact"]])
def test_choice_refuses(value: object) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        argument_types.choice("--method", "exact", "paper")(value)
    assert str(refused.value) == f"--method must be one of exact, paper, got {value!r}"


@pytest.mark.parametrize(
    ("make", "value"),
    [(argument_types.positive_number, "x"), (argument_types.radius, "x"), (argument_types.count, "x")],
)
def test_types_name_the_argument_that_they_were_made_for(
    make: Callable[[str], Callable[[object], object]], value: object
) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^--some-name must"):
        make("--some-name")(value)


@pytest.mark.parametrize("main", [certify.main, train.main, figure4.main, consistency.main])
def test_help_says_what_flags_take(main: Callable[[list[str]], object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"\(type: positive number[,)]", printed)
    assert not re.search(r"<(function|class|locals)|0x[0-9a-f]{6}", printed)
