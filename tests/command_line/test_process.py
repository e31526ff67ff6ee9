"""Folders, and where Weights & Biases writes."""

import os
import re
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from command_line import process


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
        Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
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
    assert process.wandb_offline() is None


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
    assert reason in str(process.wandb_offline())


def test_without_a_server_wandb_is_offline(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_WANDB_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection, and never answers
        for port in (silent.getsockname()[1], 9):
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
            assert f"no connection to http://127.0.0.1:{port}" in str(process.wandb_offline())


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_wandb_mode_is_obeyed(mode: str, server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert process.wandb_offline() == f"WANDB_MODE={mode}"


def test_wandb_that_is_disabled_is_not_asked(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 401
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert process.wandb_offline() is None


@pytest.mark.parametrize("mode", ["", "online"])
def test_without_a_key_wandb_is_offline(mode: str, no_wandb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert process.wandb_offline() == "no API key"
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert process.wandb_offline() == "no API key"


@pytest.mark.parametrize("name", [".netrc", "elsewhere"])
def test_a_key_in_netrc_counts(
    name: str, server: type[Server], no_wandb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    assert process.wandb_offline() == "no API key"
    write_netrc(no_wandb / name, os.environ["WANDB_BASE_URL"].removeprefix("http://"))
    if name != ".netrc":
        assert process.wandb_offline() == "no API key"
        monkeypatch.setenv("NETRC", str(no_wandb / name))
    assert process.wandb_offline() is None


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
    assert process.wandb_offline() == "no API key"


def test_offline_line_names_the_run_and_both_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("offline-run-20240101_000000-aaaa", "offline-run-20250101_000000-bbbb"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    process.say_offline(tmp_path, "no API key")
    said = capsys.readouterr().out
    newest = tmp_path / "wandb" / "offline-run-20250101_000000-bbbb"
    assert said.count("\n") == 1
    assert said.startswith("W&B ran offline (no API key): ")
    assert f"`wandb leet {newest}`" in said
    assert "`wandb sync` of the same" in said


def test_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    process.make_writable(tmp_path / "a" / "b", "--out")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    process.make_writable(tmp_path / "a" / "b", "--out")


@pytest.mark.parametrize("below", ["file", "file/a", "file/a/b"])
def test_folder_at_or_below_a_file_is_refused(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="--out must be a folder that can be written to, got ") as refused:
        process.make_writable(tmp_path / below, "--out")
    assert re.search(re.escape(str(tmp_path / below)) + r": \w+", str(refused.value))
    assert (tmp_path / "file").read_text() == "kept"


def test_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:  # noqa: ANN401  # whatever touch takes
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(ValueError, match=r"--runs must be a folder .*: Permission denied"):
        process.make_writable(tmp_path, "--runs")
