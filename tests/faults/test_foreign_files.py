"""Files from strangers: nothing of them runs, grows or leaves its folder, and the user is told."""

import io
import json
import os
import re
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import certify
import train
from results.folder import CertificationFolder

Told = Callable[[str, str, str], None]
SECTION = "Files from strangers"


@pytest.fixture
def folder(uninterrupted: Path, tmp_path: Path) -> CertificationFolder:
    """A finished certification that may be spoilt."""
    shutil.copytree(uninterrupted, tmp_path / "folder")
    return CertificationFolder(tmp_path / "folder")


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a trace when it is imported."""
    (tmp_path / "evil_module.py").write_text(
        f"open({str(tmp_path / 'trace')!r}, 'w')\nfrom datamodules import MNIST\nclass Evil(MNIST):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    return tmp_path / "trace"


def said(main: Callable[[list[str]], object], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error with exit code 2."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def asked(folder: CertificationFolder, capsys: pytest.CaptureFixture[str]) -> str:
    """What a question to a spoilt folder gives."""
    return said(certify.main, [f"--from={folder.path}", "--eps-in=0.1"], capsys)


def first_index(folder: CertificationFolder) -> int:
    return folder.rows()[0].index


def changed(checkpoint: Path, path: Path, **settings: object) -> Path:
    """The checkpoint with other hyperparameters."""
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] |= settings
    torch.save(content, path)
    return path


def test_a_checkpoint_that_would_run_code(
    tiny_checkpoint: Path, told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "trace"),)

    torch.save({"state_dict": {}, "evil": Runs()}, tmp_path / "stranger.ckpt")
    told(SECTION, "a checkpoint with code", said(certify.main, [f"--ckpt={tmp_path / 'stranger.ckpt'}"], capsys))
    assert not (tmp_path / "trace").exists()


def test_a_checkpoint_of_another_class(
    tiny_checkpoint: Path, told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(tiny_checkpoint, weights_only=True)
    for fault, key, value in (
        ("a checkpoint of a foreign class", "base_model", "os.system"),
        ("a checkpoint with data of a foreign class", "data", {"class": "subprocess.Popen", "init_args": {}}),
    ):
        torch.save({**content, key: value}, tmp_path / "stranger.ckpt")
        told(SECTION, fault, said(certify.main, [f"--ckpt={tmp_path / 'stranger.ckpt'}"], capsys))


def test_a_checkpoint_that_asks_for_absurd_memory(
    tiny_checkpoint: Path, told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting in ({"latent_dim": 10**12}, {"image_shape": [1, 4 * 10**8, 4 * 10**8]}):
        path = changed(tiny_checkpoint, tmp_path / "stranger.ckpt", **setting)
        line = said(certify.main, [f"--ckpt={path}"], capsys)
        assert any(reason in line for reason in ("must be a plain value", "Storage size", "size mismatch"))
    path = changed(tiny_checkpoint, tmp_path / "stranger.ckpt", latent_dim=10**12)
    told(SECTION, "a checkpoint of absurd size", said(certify.main, [f"--ckpt={path}"], capsys))


def test_a_checkpoint_that_grows(
    tiny_checkpoint: Path, told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        zipfile.ZipFile(tiny_checkpoint) as source,
        zipfile.ZipFile(tmp_path / "stranger.ckpt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
        target.writestr("archive/data/999", bytes(64 << 20))
    line = said(certify.main, [f"--ckpt={tmp_path / 'stranger.ckpt'}"], capsys)
    told(SECTION, "a checkpoint that grows when it is read", line)


@pytest.mark.parametrize("form", ["data: evil_module.Evil", "data:\n  class_path: evil_module.Evil"])
def test_a_configuration_that_names_a_foreign_class(
    form: str, evil: Path, told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stranger.yaml").write_text(f"{form}\n")
    for main in (train.main, certify.main):
        line = said(
            main, [f"--config={tmp_path / 'stranger.yaml'}", f"--runs={tmp_path}"][: 2 - (main is certify.main)], capsys
        )
        assert not evil.exists()
        told(SECTION, "a configuration that names a foreign class", line)


def test_trust_lets_a_configuration_name_it(
    evil: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "friend.yaml").write_text("data:\n  class_path: evil_module.Evil\n")
    command = [
        f"--config={tmp_path / 'friend.yaml'}",
        f"--ckpt={tiny_checkpoint}",
        "--trust",
        f"--out={tmp_path / 'o'}",
    ]
    line = said(certify.main, command, capsys)  # 28x28 digits for a model of 8x8 images
    assert "--trust" not in line
    assert evil.exists()


def test_what_is_typed_is_trusted(
    evil: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(
        certify.main, [f"--ckpt={tiny_checkpoint}", "--data=evil_module.Evil", f"--out={tmp_path / 'o'}"], capsys
    )
    assert "--trust" not in line
    assert evil.exists()


def test_a_configuration_that_writes_elsewhere(told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stranger.yaml").write_text("experiment: ../../elsewhere\n")
    line = said(train.main, [f"--config={tmp_path / 'stranger.yaml'}", f"--runs={tmp_path / 'runs'}"], capsys)
    told(SECTION, "a configuration that writes elsewhere", line)
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_links_to_elsewhere(
    folder: CertificationFolder, tiny_command: list[str], told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(folder.path / "outputs")
    (folder.path / "outputs").symlink_to(elsewhere)
    line = said(certify.main, [*tiny_command, f"--out={folder.path}"], capsys)
    told(SECTION, "a folder with a link to elsewhere, written to", line)
    assert not list(elsewhere.iterdir())
    line = asked(folder, capsys)
    assert "damaged" in line
    secret = tmp_path / "secret.npz"
    np.savez(secret, smoothed=np.zeros(3))
    (folder.path / "outputs").unlink()
    (folder.path / "outputs").mkdir()
    folder.outputs(first_index(folder)).symlink_to(secret)
    told(SECTION, "a folder with a link to elsewhere, read", re.sub(r"\d+\.npz", "N.npz", asked(folder, capsys)))


@pytest.mark.parametrize("name", [".lock", ".writable", ".certificates.csv.partial", "certificates.png", "center"])
def test_links_are_refused_before_anything_is_written(
    name: str, tiny_command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out" / name).symlink_to(tmp_path / "precious")
    command = [*tiny_command, "--eps-in", "0.1", "0.2", "--num-examples=1", f"--out={tmp_path / 'out'}"]
    assert "without links to other places" in said(certify.main, command, capsys)
    assert (tmp_path / "precious").read_text() == "mine"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_row_that_its_distances_do_not_give(
    folder: CertificationFolder, tiny_command: list[str], told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = folder.rows()
    better = replace(first, eps_out=first.eps_out / 2)
    folder.write_rows([better, *others])
    line = re.sub(r"\d+(\.\d+)?(?=[ ,'\"])", "N", asked(folder, capsys))
    told(SECTION, "a row with a smaller eps_out than its distances give", line)
    assert "its distances give" in said(certify.main, [*tiny_command, f"--out={folder.path}"], capsys)


def test_control_characters_do_not_reach_the_terminal(
    folder: CertificationFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads(folder.summary.read_text())
    summary["config"]["distance"] = "\x1b[2J\x9b31mTotalVariation\r"
    folder.summary.write_text(json.dumps(summary))
    certify.main([f"--from={folder.path}", "--eps-in=0.1"])
    shown = capsys.readouterr().out
    assert "\\x1b[2J\\x9b31mTotalVariation\\r" in shown
    assert all(each.isprintable() or each == "\n" for each in shown)
    summary["config"]["budget"]["\x1b]0;mine\x07"] = 1
    folder.summary.write_text(json.dumps(summary))
    assert asked(folder, capsys).isprintable()


def bomb(shape: tuple[int, ...]) -> bytes:
    """A ``.npy`` file that claims to hold more than it does."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_arrays_that_claim_to_be_huge(
    folder: CertificationFolder, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    index = first_index(folder)
    kept = folder.distances(index).read_bytes()
    folder.distances(index).write_bytes(bomb((10**13,)))
    line = asked(folder, capsys)
    told(
        SECTION,
        "distances that claim to be huge",
        re.sub(r"holds a damaged.*", "holds a damaged certification: …", line),
    )
    folder.distances(index).write_bytes(kept)
    with zipfile.ZipFile(folder.outputs(index), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("smoothed.npy", bomb((10**8,)) + bytes(8 * 10**6))
    line = asked(folder, capsys)
    assert "compressed" in line
    with zipfile.ZipFile(folder.outputs(index), "w") as archive:
        archive.writestr("smoothed.npy", bomb((10**14,)))
    assert "damaged" in asked(folder, capsys)


def test_pickles_in_arrays_are_not_opened(
    folder: CertificationFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "trace"),)

    index = first_index(folder)
    np.save(folder.distances(index), np.array([Runs()], dtype=object), allow_pickle=True)
    assert "damaged" in asked(folder, capsys)
    assert not (tmp_path / "trace").exists()


def test_summaries_and_tables_that_are_none(
    folder: CertificationFolder, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = folder.summary.read_text()
    folder.summary.write_text('{"config": ' + "[" * 100_000)
    told(SECTION, "a summary that is nested too deeply", asked(folder, capsys))
    config = json.loads(kept)
    for change in ({"n": 10**40}, {"n": -1}, {"delta": float("nan")}, {"k": "many"}, {"foreign": 1}):
        spoilt = {**config, "config": {**config["config"], "budget": {**config["config"]["budget"], **change}}}
        folder.summary.write_text(json.dumps(spoilt))
        assert "damaged" in asked(folder, capsys)
    folder.summary.write_text(kept)
    folder.table.write_bytes(b"\xff\xfe\x00" * 100)
    told(SECTION, "a table that is no text", re.sub(r"in UTF-8.*", "in UTF-8 …", asked(folder, capsys)))
    folder.table.write_text("index," + "9" * 400_000 + "\n")
    told(SECTION, "a table with an absurd cell", asked(folder, capsys))
    folder.table.write_text(folder.table.read_text()[:100])


def png(width: int, height: int) -> bytes:
    """The head of a PNG that claims to be so large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_images_that_claim_to_be_huge(
    tiny_checkpoint: Path, told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(png(60_000, 60_000))
    line = said(certify.main, [f"--ckpt={tiny_checkpoint}", f"--data.root={tmp_path / 'images'}"], capsys)
    told(SECTION, "images that claim to be huge", line)


def test_names_of_files_are_shown_as_text(tiny_checkpoint: Path, tiny_command: list[str], tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint.parent / "images", tmp_path / "images")
    name = "<img src=x onerror=alert(1)>&\u2028'=1+1\x1b[31m.png"
    for number in range(60):
        (tmp_path / "images" / f"{number:02}.png").rename(tmp_path / "images" / f"{number:02}{name}")
    out = tmp_path / "out"
    certify.main([*tiny_command, "--num-examples=1", f"--data.root={tmp_path / 'images'}", f"--out={out}"])
    page = (out / "report.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "onerror" not in (out / "certificates.csv").read_text()
