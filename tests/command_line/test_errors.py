"""Errors of the user in one line."""

import os
import tempfile
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from command_line import argument_types, errors
from datamodules import ImageDataModule


def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--sigma", type=argument_types.positive_number("--sigma"), default=0.25)
    parser.add_argument("--eps-in", type=argument_types.radius("--eps-in"), nargs="+")
    parser.add_argument("--num-examples", type=argument_types.count("--num-examples"), default=50)
    parser.add_argument("--method", type=argument_types.choice("--method", "exact", "paper"))
    parser.add_argument("--batch-size", type=argument_types.batch_size, default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", type=Literal["digits", "mnist"], default="digits")
    parser.add_argument("--data", type=ImageDataModule | None)
    return parser


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
    assert errors.one_line(str(refused.value)) == line


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
    line = errors.one_line(str(refused.value))
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
    with pytest.raises(SystemExit), errors.user_errors():
        parser().parse_args(["--config", str(tmp_path / "bad.yaml")])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for part in parts:
        assert part in said


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_message_becomes_one_line(message: str) -> None:
    assert len(errors.one_line(message).splitlines()) <= 1


@pytest.mark.parametrize("message", ["m must be at least 357, got 100", "--out must be a folder, got a (b): c"])
def test_message_of_our_own_stays_as_it_is(message: str) -> None:
    assert errors.one_line(message) == message


def test_failure_is_one_line_on_stderr_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        errors.fail("first,\n  second")
    assert left.value.code == 2
    assert capsys.readouterr() == ("", "error: first, second\n")


@pytest.fixture(autouse=True)
def _stands_for_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """What calls here is a script of ours."""
    monkeypatch.setattr(errors, "_OURS", errors._OURS | {__name__.split(".")[0]})


def raised(by: str, statement: str, **names: object) -> Callable[[], None]:
    """A function in a module of a name, with a statement that raises."""
    found: dict[str, Any] = {"__name__": by, **names}
    file = __file__ if by.startswith("my_") else os.__file__
    exec(compile(f"def fails():\n    {statement}", file, "exec"), found)
    return found["fails"]  # type: ignore[no-any-return]


def line_of(raises: Callable[[], object], capsys: pytest.CaptureFixture[str], folder: Path | None = None) -> str:
    """The one line with which a script ends, code 2."""

    def script() -> None:
        with errors.user_errors() as state:
            state.folder, state.kept = folder, None if folder is None else lambda: "3 of 5 are kept"
            raises()

    with pytest.raises(SystemExit, match="2"):
        script()
    (line,) = capsys.readouterr().err.splitlines()
    return line


def users(error: BaseException) -> Callable[[], None]:
    return raised("my_package.my_model", "raise error", error=error)


@pytest.mark.parametrize(
    ("by", "statement"),
    [
        ("certify", "raise ValueError('what is\\nwrong')"),
        ("center_smoothing.bounds", "raise ValueError('what is wrong')"),
        ("jsonargparse._core", "raise TypeError('what is wrong')"),
        ("shutil", "raise OSError('what is wrong')"),
        ("argparse", "raise ArgumentTypeError('what is wrong')"),
        ("argparse", "raise ArgumentError(None, 'what is wrong')"),
    ],
)
def test_bad_input_is_said_as_it_is(by: str, statement: str, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {"ArgumentError": ArgumentError, "ArgumentTypeError": ArgumentTypeError}
    assert line_of(raised(by, statement, **kinds), capsys) == "error: what is wrong"


def test_error_without_a_message_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(raised("certify", "raise ValueError"), capsys) == "error: ValueError"


class Own(Exception):
    """Of a user, whose code the tests stand for here."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("weights"), "KeyError: 'weights'"),
        (TypeError("no\nwords"), "TypeError: no words"),
        (ValueError("wrong"), "ValueError: wrong"),
        (FileNotFoundError(2, "not there", "w.bin"), "FileNotFoundError: [Errno 2] not there: 'w.bin'"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "MemoryError"),
        (Own("it is broken"), "Own: it is broken"),
        (RuntimeError("long " * 1000), f"RuntimeError: {'long ' * 100}..."),
        (
            RuntimeError("Caught it in worker process 0.\nTraceback (most recent call last):\nKeyError: 3"),
            "RuntimeError: KeyError: 3",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_a_user_have_their_class_and_a_file_with_the_traceback(
    error: Exception, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "traceback.txt"
    line = line_of(users(error), capsys, tmp_path)
    assert line == f"error: {said}; 3 of 5 are kept; the traceback is in {file}"
    assert "in fails" in file.read_text()
    with errors.user_errors() as state:
        state.folder = tmp_path
    assert not list(tmp_path.iterdir())  # a run that ends well leaves none behind


def test_a_traceback_goes_elsewhere_where_the_folder_cannot_be_written_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = line_of(users(KeyError("a")), capsys, tmp_path / "missing")
    (file,) = tmp_path.iterdir()
    assert line.endswith(f"the traceback is in {file}")


def test_a_link_in_place_of_the_traceback_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "traceback.txt").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("kept")
    line_of(users(KeyError("a")), capsys, tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize("statement", ["[][0]", "assert False", "raise TypeError('of arguments')", "None.shape"])
def test_faults_of_ours_say_so(statement: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "this looks like a fault of Center Smoothing itself" in line_of(raised("certify", statement), capsys)


@pytest.mark.parametrize("statement", ["raise RuntimeError('of a device')", "raise MemoryError"])
def test_machines_and_users_are_no_fault_of_ours(statement: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of(raised("certify", statement), capsys)
    assert "Center Smoothing" not in line
    assert statement.split()[1].partition("(")[0] in line
    assert "Center Smoothing" not in line_of(users(KeyError("a")), capsys)


def test_every_module_of_ours_is_known_as_such() -> None:
    root = Path(__file__).parents[2]
    modules = [*root.glob("*.py"), *(path.parent for path in root.glob("*/__init__.py")), root / "examples"]
    assert {path.stem for path in modules} - {"tests"} <= errors._OURS


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_interruptions_stay_what_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, errors.user_errors():
        raise error
    assert caught.value is error
