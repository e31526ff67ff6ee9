"""Machines that fail while certify.py runs, and what the user sees."""

import errno
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import certify
from callbacks import CertificateWriter
from results.folder import CertificationFolder

Told = Callable[[str, str, str], None]
Contents = Callable[[Path], dict[str, bytes]]
pytestmark = pytest.mark.usefixtures("_stands_for_a_machine", "_interruptible")
SECTION = "Machines"


def after_examples(count: int, what: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen when so many examples are finished."""
    write, calls = CertificateWriter.write_on_batch_end, []

    def writes(self: CertificateWriter, *arguments: Any) -> None:  # noqa: ANN401  # passed on
        write(self, *arguments)
        calls.append(1)
        if len(calls) == count:
            what()

    monkeypatch.setattr(CertificateWriter, "write_on_batch_end", writes)


def stopped(command: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a command that ends early."""
    with pytest.raises(SystemExit, match=str(code)):
        certify.main(command)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return (said.err or said.out).strip().splitlines()[-1]


def said(capsys: pytest.CaptureFixture[str], beginning: str) -> str:
    """The line of what was printed that begins so."""
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(beginning))
    return line


def goes_on(command: list[str], out: Path, uninterrupted: Path, contents: Contents) -> None:
    certify.main(command)
    assert contents(out) == contents(uninterrupted)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM, as of SLURM")])
def test_interruptions(
    number: signal.Signals, name: str, tiny_command: list[str], told: Told, tmp_path: Path, uninterrupted: Path,
    contents: Contents, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = [*tiny_command, f"--out={tmp_path / 'out'}"]
    with monkeypatch.context() as patch:
        after_examples(4, lambda: signal.raise_signal(number), patch)
        told(SECTION, name, stopped(command, 1, capsys))
    goes_on(command, tmp_path / "out", uninterrupted, contents)


def test_an_interruption_before_the_first_sample(
    tiny_command: list[str], told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("certification.session.preflight", lambda runs: signal.raise_signal(signal.SIGTERM))
    line = stopped([*tiny_command, f"--out={tmp_path / 'out'}"], 1, capsys)
    told(SECTION, "an interruption before the first sample", line)


def test_a_full_disk(
    tiny_command: list[str], told: Told, tmp_path: Path, uninterrupted: Path, contents: Contents,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.system(f"mount -t tmpfs -o size=80k tmpfs {disk} 2>/dev/null") == 0
    command, fsync, calls = [*tiny_command, f"--out={disk / 'out'}"], os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    try:
        with monkeypatch.context() as patch:
            if not mounted:  # no right to mount: the last step of each file says that there is no room
                patch.setattr(os, "fsync", full)
            line = stopped(command, 2, capsys)
        finished = int(re.search(r"(\d+) of 12 examples", line)[1])  # type: ignore[index]
        assert 1 <= finished < 12
        assert len(CertificationFolder(disk / "out").rows()) >= 2 * finished
        line = re.sub(r"'[^']*/([^/']*)'", "'.../FILE'", re.sub(r"\d+ of 12", "N of 12", line))
        told(SECTION, "the disk is full", line)
        if mounted:
            assert os.system(f"mount -o remount,size=50m {disk}") == 0
        goes_on(command, disk / "out", uninterrupted, contents)
    finally:
        if mounted:
            os.system(f"umount {disk}")


def test_a_full_disk_at_the_very_end(
    tiny_command: list[str], told: Told, tmp_path: Path, uninterrupted: Path, contents: Contents,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = [*tiny_command, f"--out={tmp_path / 'out'}"]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out" / "report.html"))

    with monkeypatch.context() as patch:
        patch.setattr("results.html.write", full)
        told(SECTION, "the disk is full when all examples are finished", stopped(command, 2, capsys))
    goes_on(command, tmp_path / "out", uninterrupted, contents)


def test_a_folder_that_becomes_read_only(
    tiny_command: list[str], told: Told, tmp_path: Path, uninterrupted: Path, contents: Contents,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command, replaces = [*tiny_command, f"--out={tmp_path / 'out'}"], os.replace

    def forbidden(source: object, target: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))

    with monkeypatch.context() as patch:  # root may write to every folder, so that chmod would show nothing
        after_examples(3, lambda: patch.setattr(os, "replace", forbidden), patch)
        line = stopped(command, 2, capsys)
    assert os.replace is replaces
    told(SECTION, "the folder becomes read-only", re.sub(r"'[^']*/([^/']*)'", "'.../FILE'", line))
    goes_on(command, tmp_path / "out", uninterrupted, contents)


def test_a_clock_that_goes_backwards_changes_nothing(
    tiny_command: list[str], tmp_path: Path, told: Told, uninterrupted: Path, contents: Contents,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    now = iter(range(2_000_000_000, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    certify.main([*tiny_command, f"--out={tmp_path / 'out'}"])
    assert contents(tmp_path / "out") == contents(uninterrupted)
    assert all(row.seconds >= 0.0 for row in CertificationFolder(tmp_path / "out").rows())
    told(SECTION, "the clock goes backwards", said(capsys, "report: "))


def test_torn_files_are_made_anew(
    tiny_command: list[str], tmp_path: Path, told: Told, uninterrupted: Path, contents: Contents,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    table = out / "certificates.csv"
    table.write_bytes(table.read_bytes()[:-30])  # the last example is torn
    lines = table.read_text().splitlines()
    first, second = (int(lines[number].split(",")[0]) for number in (1, 3))
    for path in (CertificationFolder(out).outputs(first), CertificationFolder(out).distances(second)):
        path.unlink()
    (out / "outputs" / ".7.npz.partial").write_bytes(b"half")
    (out / "report.html").write_bytes(b"<html")
    (out / "certificates.png").unlink()
    certify.main([*tiny_command, f"--out={out}"])
    assert contents(out) == contents(uninterrupted)
    told(SECTION, "rows, arrays and pages are torn or missing", said(capsys, str(out)))


def test_a_file_system_without_locks_is_named(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def acquire(lock: FileLock, timeout: float) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(FileLock, "acquire", acquire)
        with CertificationFolder(tmp_path / "out").locked():
            pass
    told(SECTION, "a file system without locks", capsys.readouterr().err.strip())


def test_another_checkpoint_or_other_data_do_not_go_on(
    tiny_command: list[str], tiny_checkpoint: Path, told: Told, uninterrupted: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def hidden(line: str) -> str:
        return re.sub(r"'[0-9a-f]{64}'", "'HASH'", line)

    content = torch.load(tiny_checkpoint, weights_only=True)
    content["state_dict"] = {name: value * 1.01 if value.is_floating_point() else value
                             for name, value in content["state_dict"].items()}  # fmt: skip
    torch.save(content, tmp_path / "other.ckpt")
    out = f"--out={uninterrupted}"
    line = stopped([*tiny_command, f"--ckpt={tmp_path / 'other.ckpt'}", out], 2, capsys)
    told(SECTION, "a folder of another checkpoint", hidden(line))
    line = stopped([*tiny_command, out, "--data.split_seed=3"], 2, capsys)
    told(SECTION, "a folder of another data set", hidden(line))
    told(SECTION, "a folder of another configuration", stopped([*tiny_command, out, "--n=101"], 2, capsys))
