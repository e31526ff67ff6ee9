import math
import re
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

import entrypoint
from datamodules import ImageDataModule


def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--sigma", type=entrypoint.positive_number("--sigma"), default=0.25)
    parser.add_argument("--eps-in", type=entrypoint.radius("--eps-in"), nargs="+")
    parser.add_argument("--num-examples", type=entrypoint.count("--num-examples"), default=50)
    parser.add_argument("--method", type=entrypoint.choice("--method", "exact", "paper"))
    parser.add_argument("--batch-size", type=entrypoint.batch_size, default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", type=Literal["digits", "mnist"], default="digits")
    parser.add_argument("--data", type=ImageDataModule | None)
    return parser


@pytest.fixture
def no_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home, and no word of Weights & Biases in the environment."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write_netrc(path: Path, machine: str = "api.wandb.ai") -> None:
    path.write_text(f"machine {machine}\n  login user\n  password {'0' * 40}\n")
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("value", "number"), [("0.25", 0.25), (0.25, 0.25), (1, 1.0), ("1e-3", 0.001), (" 2 ", 2.0), ("5e-324", 5e-324)]
)
def test_positive_number_takes(value: object, number: float) -> None:
    found = entrypoint.positive_number("--sigma")(value)
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
        entrypoint.positive_number("--sigma")(value)
    assert str(refused.value) == f"--sigma must be a positive number such as 0.25, got {value!r}"


@pytest.mark.parametrize(("value", "number"), [("0", 0.0), (0, 0.0), ("0.5", 0.5), (3, 3.0)])
def test_radius_takes(value: object, number: float) -> None:
    assert entrypoint.radius("--eps-in")(value) == number


@pytest.mark.parametrize("value", ["-0.1", -1, "nan", "inf", "-inf", "x", "", None, False])
def test_radius_refuses(value: object) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        entrypoint.radius("--eps-in")(value)
    assert str(refused.value) == f"--eps-in must be a number of at least 0 such as 0.5, got {value!r}"


@pytest.mark.parametrize(
    ("value", "number"), [("1", 1), (50, 50), ("1e4", 10_000), ("10_000", 10_000), (2.0, 2), ("20000.0", 20_000)]
)
def test_count_takes(value: object, number: int) -> None:
    found = entrypoint.count("--n")(value)
    assert found == number
    assert type(found) is int


@pytest.mark.parametrize(
    "value",
    ["0", 0, -3, "1.5", 2.5, "nan", "inf", "1e30", "x", "", None, True, [3], pytest.param(10**400, id="10**400")],
)
def test_count_refuses(value: object) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        entrypoint.count("--n")(value)
    assert str(refused.value) == f"--n must be a whole number of at least 1, got {value!r}"


@given(st.integers(1, 2**53))
def test_count_keeps_every_digit(number: int) -> None:
    assert entrypoint.count("--n")(number) == number
    assert entrypoint.count("--n")(str(number)) == number


@pytest.mark.parametrize(("value", "size"), [("auto", "auto"), ("64", 64), (64, 64), ("1e2", 100)])
def test_batch_size_takes(value: object, size: int | str) -> None:
    assert entrypoint.batch_size(value) == size


@pytest.mark.parametrize("value", ["0", -1, "big", "Auto", "1.5", None])
def test_batch_size_refuses(value: object) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        entrypoint.batch_size(value)
    assert str(refused.value) == f"--batch-size must be auto or a whole number of at least 1, got {value!r}"


@pytest.mark.parametrize("value", ["exact", "paper"])
def test_choice_takes(value: str) -> None:
    assert entrypoint.choice("--method", "exact", "paper")(value) == value


@pytest.mark.parametrize("value", ["Exact", "", "exac", None, 3, ["exact"]])
def test_choice_refuses(value: object) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        entrypoint.choice("--method", "exact", "paper")(value)
    assert str(refused.value) == f"--method must be one of exact, paper, got {value!r}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--sigma", "-1"], "--sigma must be a positive number such as 0.25, got '-1'"),
        (["--eps-in", "0.1", "x"], "--eps-in must be a number of at least 0 such as 0.5, got 'x'"),
        (["--num-examples", "0"], "--num-examples must be a whole number of at least 1, got '0'"),
        (["--method", "other"], "--method must be one of exact, paper, got 'other'"),
        (["--batch-size", "big"], "--batch-size must be auto or a whole number of at least 1, got 'big'"),
        (["--variant", "cats"], "--variant must be one of 'digits', 'mnist', got cats"),
        (["--data", "Nope"], "--data must be the name of a class, got Nope"),
        (["--sigma"], "--sigma: expected one argument"),
        (["--nope", "1"], "unrecognized arguments: --nope 1"),
    ],
)
def test_message_of_the_parser_in_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        parser().parse_args(arguments)
    assert entrypoint.one_line(str(refused.value)) == line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--seed", "x"], ["--seed must be a", "int, got x"]),
        (["--data", "MNIST", "--data.variant", "cats"], ["--data", "MNIST", "variant", "'digits'", "got cats"]),
        (["--data", "MNIST", "--data.batch_size", "x"], ["--data", "MNIST", "batch_size", "int", "got x"]),
        (["--data", "MNIST", "--data.nope", "1"], ["--data", "MNIST", "nope", "not accepted"]),
        (["--config", "/none/at/all.yaml"], ["--config", "/none/at/all.yaml"]),
    ],
)
def test_one_line_keeps_argument_and_value(arguments: list[str], parts: list[str]) -> None:
    with pytest.raises(ArgumentError) as refused:
        parser().parse_args(arguments)
    line = entrypoint.one_line(str(refused.value))
    assert "\n" not in line
    for part in parts:
        assert part in line
    for noise in ("NoneType", "Union", "Subtypes", "Parser key", "<class", "NestedArg"):
        assert noise not in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sigma: -1\n", ["--sigma must be a positive number", "got -1"]),
        ("eps_in: [0.1, -2]\n", ["--eps-in must be a number of at least 0", "got -2"]),
        ("num_examples: 1.5\n", ["--num-examples must be a whole number", "got 1.5"]),
        ("nonsense: 1\n", ["nonsense", "not accepted"]),
        ("sigma: [1,\n", ["config"]),
    ],
)
def test_bad_config_file_is_refused_in_one_line(
    text: str, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SystemExit), entrypoint.user_errors():
        parser().parse_args(["--config", str(tmp_path / "bad.yaml")])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for part in parts:
        assert part in said


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_message_becomes_one_line(message: str) -> None:
    assert len(entrypoint.one_line(message).splitlines()) <= 1


@pytest.mark.parametrize("message", ["m must be at least 357, got 100", "--out must be a folder, got a (b): c"])
def test_message_of_our_own_stays_as_it_is(message: str) -> None:
    assert entrypoint.one_line(message) == message


def test_failure_is_one_line_on_stderr_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        entrypoint.fail("first,\n  second")
    assert left.value.code == 2
    assert capsys.readouterr() == ("", "error: first, second\n")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("what is\nwrong"),
        TypeError("what is\nwrong"),
        OSError("what is\nwrong"),
        ArgumentTypeError("what is\nwrong"),
        ArgumentError(None, "what is\nwrong"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_user_end_the_script_with_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, entrypoint.user_errors():
        raise error
    assert left.value.code == 2
    assert capsys.readouterr() == ("", "error: what is wrong\n")


def test_error_without_a_message_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), entrypoint.user_errors():
        raise ValueError
    assert capsys.readouterr().err == "error: ValueError\n"


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyError("bug"), KeyboardInterrupt()])
def test_errors_of_ours_keep_their_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)), entrypoint.user_errors():
        raise error


@pytest.mark.parametrize(
    ("mode", "offline"), [("offline", True), ("dryrun", True), ("online", False), ("disabled", False)]
)
def test_wandb_mode_decides(mode: str, offline: bool, no_wandb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert entrypoint.wandb_offline() is offline
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert entrypoint.wandb_offline() is offline


@pytest.mark.usefixtures("no_wandb")
def test_without_mode_and_key_wandb_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert entrypoint.wandb_offline() is True
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert entrypoint.wandb_offline() is True


@pytest.mark.usefixtures("no_wandb")
def test_with_a_key_in_the_environment_wandb_is_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert entrypoint.wandb_offline() is False


def test_with_a_key_in_netrc_wandb_is_online(no_wandb: Path) -> None:
    write_netrc(no_wandb / ".netrc")
    assert entrypoint.wandb_offline() is False


def test_netrc_may_stand_elsewhere(no_wandb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_netrc(no_wandb / "elsewhere")
    monkeypatch.setenv("NETRC", str(no_wandb / "elsewhere"))
    assert entrypoint.wandb_offline() is False


def test_netrc_elsewhere_comes_before_that_of_the_home(no_wandb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_netrc(no_wandb / ".netrc")
    monkeypatch.setenv("NETRC", str(no_wandb / "none"))
    assert entrypoint.wandb_offline() is True


def test_key_of_another_machine_does_not_count(no_wandb: Path) -> None:
    write_netrc(no_wandb / ".netrc", "example.org")
    assert entrypoint.wandb_offline() is True


def test_key_of_ones_own_server_counts(no_wandb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_netrc(no_wandb / ".netrc", "wandb.example.org")
    assert entrypoint.wandb_offline() is True
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert entrypoint.wandb_offline() is False


def test_key_of_a_server_on_a_port_counts(no_wandb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_netrc(no_wandb / ".netrc", "localhost:8080")
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:8080")
    assert entrypoint.wandb_offline() is False


@pytest.mark.parametrize("content", ["machine", "nonsense nonsense"])
def test_damaged_netrc_counts_as_none(content: str, no_wandb: Path) -> None:
    (no_wandb / ".netrc").write_text(content)
    (no_wandb / ".netrc").chmod(0o600)
    assert entrypoint.wandb_offline() is True


@pytest.mark.parametrize("content", ["machine api.wandb.ai login", "machine api.wandb.ai login user"])
def test_netrc_entry_without_a_key_does_not_count(content: str, no_wandb: Path) -> None:
    (no_wandb / ".netrc").write_text(content)
    (no_wandb / ".netrc").chmod(0o600)
    assert entrypoint.wandb_offline() is True


def test_netrc_that_is_a_folder_counts_as_none(no_wandb: Path) -> None:
    (no_wandb / ".netrc").mkdir()
    assert entrypoint.wandb_offline() is True


def test_offline_line_names_the_run_and_both_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("offline-run-20240101_000000-aaaa", "offline-run-20250101_000000-bbbb"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    entrypoint.say_offline(tmp_path)
    said = capsys.readouterr().out
    newest = tmp_path / "wandb" / "offline-run-20250101_000000-bbbb"
    assert said.count("\n") == 1
    assert f"`wandb leet {newest}`" in said
    assert f"`wandb sync {newest}`" in said


def test_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    entrypoint.make_writable(tmp_path / "a" / "b", "--out")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    entrypoint.make_writable(tmp_path / "a" / "b", "--out")


@pytest.mark.parametrize("below", ["file", "file/a", "file/a/b"])
def test_folder_at_or_below_a_file_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="--out must be a folder that can be written to, got ") as refused:
        entrypoint.make_writable(tmp_path / below, "--out")
    assert re.search(re.escape(str(tmp_path / below)) + r": \w+", str(refused.value))
    assert (tmp_path / "file").read_text() == "kept"


def test_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:  # noqa: ANN401  # whatever touch takes
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(ValueError, match=r"--runs must be a folder .*: Permission denied"):
        entrypoint.make_writable(tmp_path, "--runs")


@pytest.mark.parametrize(
    ("make", "value"), [(entrypoint.positive_number, "x"), (entrypoint.radius, "x"), (entrypoint.count, "x")]
)
def test_types_name_the_argument_that_they_were_made_for(
    make: Callable[[str], Callable[[object], object]], value: object
) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^--some-name must"):
        make("--some-name")(value)
