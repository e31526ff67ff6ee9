"""The same hypothesis examples in every run, without a time limit for each; one thread in each of several workers.

What takes seconds to import is imported where it is used: the process that hands out tests needs none of it.
"""

from __future__ import annotations

import gc
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported, and for subprocesses too
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # tests with two threads would spin while a core is busy

import json
import signal
import struct
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from wandb.proto.wandb_internal_pb2 import Record

# Files that take longest, which start first, so that no worker is left with one at the end; and their folders, each of
# which stays together, as its fixtures change the environment until another folder's do.
_LONG = {
    *("test_certify.py", "test_code_blocks.py", "test_readme.py", "test_certify_attack.py", "test_certify_speed.py"),
    *("test_panel.py", "test_processes.py", "test_machine_faults.py", "test_certify_photos.py"),
}
_LONG_FOLDERS = {"docs", "experiments", "faults", "scripts"}
# Where programs run as a whole.
_PROGRAMS = {*_LONG_FOLDERS, "callbacks", "examples", "training", "test_readme.py"}


def pytest_configure(config: pytest.Config) -> None:
    """Let hypothesis repeat itself, where tests run."""
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None):
        from hypothesis import settings

        settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25, database=None)
        settings.load_profile("repeatable")
        gc.disable()  # until all is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files start first."""

    def order(item: pytest.Item) -> tuple[bool, str, bool]:
        folder = item.path.parent
        return folder.name not in _LONG_FOLDERS, str(folder), item.path.name not in _LONG

    items.sort(key=order)


def pytest_collection_finish() -> None:
    """Spare the garbage collector the million objects that imports have made."""
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _figures_are_blank(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures take most of a tiny certification's time: drawn in the tests of plots, of panels, and in subprocesses."""
    from PIL import Image

    with pytest.MonkeyPatch.context() as patch:
        if {request.path.parent.name, request.path.name} & {"scripts", "faults", "test_code_blocks.py"}:
            blank = Image.new("RGB", (4, 4), "white")
            patch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **options: blank.save(file, "PNG"))
        yield


@pytest.fixture(autouse=True, scope="module")
def _programs_start_at_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where programs run as a whole, speeds are not measured for a second, and a parser is made once."""
    with pytest.MonkeyPatch.context() as patch:
        if {request.path.parent.name, request.path.name} & _PROGRAMS:
            patch.setattr("certification.arguments._parser", _parser())
            patch.setattr("center_smoothing.sampling._CALIBRATION_SECONDS", 0.02)
            patch.setattr("certification.speed._SECONDS", 0.01)
        yield


@cache
def _parser() -> Callable[..., Any]:
    from certification import arguments

    return cache(arguments._parser)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Lightning ignores Ctrl-C once it was pressed, for the rest of the process; a shell's background jobs do, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Threads of PyTorch, with which it may add up in another order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def wandb_history() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads back the logged rows of the one offline run below a folder."""
    return lambda folder: [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in _records(folder)
        if record.WhichOneof("record_type") == "history"
    ]


@pytest.fixture(scope="session")
def wandb_records() -> Callable[[Path], list[Record]]:
    """Reads back all records of the one offline run below a folder."""
    return _records


@pytest.fixture(scope="session")
def wandb_pixels(
    wandb_history: Callable[[Path], list[dict[str, Any]]],
) -> Callable[[Path, str], dict[str, NDArray[np.uint8]]]:
    """Reads the pictures that the run wrote when a key was logged last: pixels (H, W) or (H, W, 3), by caption."""

    import numpy as np
    from PIL import Image

    def pixels_of(folder: Path, key: str) -> dict[str, NDArray[np.uint8]]:
        row = [row for row in wandb_history(folder) if f"{key}/_type" in row][-1]
        if row[f"{key}/_type"] == "image-file":
            places, captions = [row[f"{key}/path"]], [row.get(f"{key}/caption", "")]
        else:
            places, captions = row[f"{key}/filenames"], row[f"{key}/captions"]
        (files,) = folder.glob("wandb/offline-run-*/files")
        return {caption: np.asarray(Image.open(files / place)) for caption, place in zip(captions, places, strict=True)}

    return pixels_of


@pytest.fixture(scope="session")
def wandb_table(
    wandb_history: Callable[[Path], list[dict[str, Any]]],
) -> Callable[[Path, str], tuple[list[str], list[list[Any]]]]:
    """Reads the columns and the rows of a table that the run wrote."""

    def table_of(folder: Path, key: str) -> tuple[list[str], list[list[Any]]]:
        (place,) = (row[f"{key}/path"] for row in wandb_history(folder) if f"{key}/path" in row)
        (files,) = folder.glob("wandb/offline-run-*/files")
        table = json.loads((files / place).read_text())
        return table["columns"], table["data"]

    return table_of


@pytest.fixture
def logs_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that log to W&B without a script: quietly, and nothing stays in the environment."""
    for name, value in {"WANDB_SILENT": "true", "WANDB_MODE": "offline", "WANDB_RUN_GROUP": ""}.items():
        monkeypatch.setenv(name, value)


def _records(folder: Path) -> list[Record]:
    """The records of an offline run, once they are all there: W&B's own process writes them, and ends after the run."""
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 60
    while True:
        records = list(_whole_records(log.read_bytes()))
        if any(record.WhichOneof("record_type") == "exit" for record in records) or time.monotonic() > end:
            return records
        time.sleep(0.05)


def _whole_records(data: bytes) -> Iterator[Record]:
    """LevelDB's log format, 32 KiB blocks of records, each a protobuf message; without one that is cut off."""
    from wandb.proto.wandb_internal_pb2 import Record  # slow to import

    position, message = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if position + 7 + length > len(data):
            return
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(message)
            message = b""
            yield record
