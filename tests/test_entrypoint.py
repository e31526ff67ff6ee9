import math
import os
import re
import socket
import tempfile
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
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


@pytest.fixture(autouse=True)
def _stands_for_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """What calls here is a script of ours."""
    monkeypatch.setattr(entrypoint, "_OURS", entrypoint._OURS | {__name__.split(".")[0]})


def raised(by: str, statement: str, **names: object) -> Callable[[], None]:
    """A function in a module of a name, with a statement that raises."""
    found: dict[str, Any] = {"__name__": by, **names}
    file = __file__ if by.startswith("my_") else os.__file__
    exec(compile(f"def fails():\n    {statement}", file, "exec"), found)
    return found["fails"]  # type: ignore[no-any-return]


def line_of(raises: Callable[[], object], capsys: pytest.CaptureFixture[str], folder: Path | None = None) -> str:
    """The one line with which a script ends, code 2."""

    def script() -> None:
        with entrypoint.user_errors() as state:
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
    with entrypoint.user_errors() as state:
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
    root = Path(entrypoint.__file__).parent
    modules = [*root.glob("*.py"), *(path.parent for path in root.glob("*/__init__.py")), root / "examples"]
    assert {path.stem for path in modules} - {"tests"} <= entrypoint._OURS


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_interruptions_stay_what_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, entrypoint.user_errors():
        raise error
    assert caught.value is error


class Server(BaseHTTPRequestHandler):
    """Of W&B, as it answers the question for an account."""

    status, answer = 200, b'{"data": {"viewer": {"id": "me"}}}'

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        """Keep the terminal empty."""


@pytest.fixture
def server(no_wandb: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """A server of W&B on this machine, with the key of somebody."""

    class Here(Server):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Here) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        for name in ("WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT", "WANDB_SILENT"):
            monkeypatch.setenv(name, "")
        yield Here
        listening.shutdown()


@pytest.mark.parametrize("mode", ["", "online"])
def test_with_a_key_that_the_server_knows_wandb_is_online(
    mode: str, server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert entrypoint.wandb_offline() is None


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (401, b"", "does not know the API key"),
        (403, b"", "does not know the API key"),
        (200, b'{"data": {"viewer": null}}', "does not know the API key"),
        (200, b'{"data": null}', "does not know the API key"),
        (503, b"", "answers 503"),
        (200, b"<html>a portal of a hotel</html>", "no connection to"),
        (200, b"[]", "no connection to"),
    ],
)
def test_with_a_key_that_is_of_no_use_wandb_is_offline(
    status: int, answer: bytes, reason: str, server: type[Server]
) -> None:
    server.status, server.answer = status, answer
    assert reason in str(entrypoint.wandb_offline())


def test_without_a_server_wandb_is_offline(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrypoint, "_WANDB_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection, and never answers
        for port in (silent.getsockname()[1], 9):
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
            assert f"no connection to http://127.0.0.1:{port}" in str(entrypoint.wandb_offline())


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_wandb_mode_is_obeyed(mode: str, server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert entrypoint.wandb_offline() == f"WANDB_MODE={mode}"


def test_wandb_that_is_disabled_is_not_asked(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 401
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert entrypoint.wandb_offline() is None


@pytest.mark.parametrize("mode", ["", "online"])
def test_without_a_key_wandb_is_offline(mode: str, no_wandb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert entrypoint.wandb_offline() == "no API key"
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert entrypoint.wandb_offline() == "no API key"


@pytest.mark.parametrize("name", [".netrc", "elsewhere"])
def test_a_key_in_netrc_counts(
    name: str, server: type[Server], no_wandb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    assert entrypoint.wandb_offline() == "no API key"
    write_netrc(no_wandb / name, os.environ["WANDB_BASE_URL"].removeprefix("http://"))
    if name != ".netrc":
        assert entrypoint.wandb_offline() == "no API key"
        monkeypatch.setenv("NETRC", str(no_wandb / name))
    assert entrypoint.wandb_offline() is None


@pytest.mark.parametrize(
    "content",
    ["machine", "nonsense nonsense", "machine api.wandb.ai login", "machine api.wandb.ai login user",
     "machine example.org login user password 0000", None],
)  # fmt: skip
def test_netrc_without_a_key_counts_as_none(content: str | None, no_wandb: Path) -> None:
    if content is None:
        (no_wandb / ".netrc").mkdir()
    else:
        (no_wandb / ".netrc").write_text(content)
        (no_wandb / ".netrc").chmod(0o600)
    assert entrypoint.wandb_offline() == "no API key"


def test_offline_line_names_the_run_and_both_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("offline-run-20240101_000000-aaaa", "offline-run-20250101_000000-bbbb"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    entrypoint.say_offline(tmp_path, "no API key")
    said = capsys.readouterr().out
    newest = tmp_path / "wandb" / "offline-run-20250101_000000-bbbb"
    assert said.count("\n") == 1
    assert said.startswith("W&B ran offline (no API key): ")
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
