import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

import certify
import train

# A run of seconds: a few batches of the real digits, and a budget that just certifies h = 1.
TINY_TRAINING = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=1",
    "--trainer.max_epochs=2",
    "--model.init_args.latent_dim=16",
    "--center_smoothing.num_examples=2",
    "--center_smoothing.h=[1.0, 1.5]",
    "--center_smoothing.n=100",
    "--center_smoothing.m=500",
    "--center_smoothing.k=8",
]


@pytest.fixture(autouse=True, scope="session")
def _no_account() -> Iterator[None]:
    """No W&B key and no mode, as on a machine where nobody ever heard of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_SILENT"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", "/nonexistent")
        patch.setenv("HOME", "/nonexistent")
        yield


@pytest.fixture(autouse=True)
def _wandb_settings_are_not_inherited(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A run of W&B leaves its mode and its group in the environment of the process; it costs a second, where wanted."""
    for name in ("WANDB_MODE", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    if not {"wandb_history", "wandb_records", "logs_to_wandb"} & set(request.fixturenames):
        monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """The one line with which certify.py refuses arguments, with exit code 2."""

    def line_of(arguments: list[str]) -> str:
        with pytest.raises(SystemExit, match="2"):
            certify.main(arguments)
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return line_of


@pytest.fixture
def logs_to_wandb() -> None:
    """For tests that let a script log to W&B."""


@pytest.fixture(scope="session")
def tiny_training() -> list[str]:
    """Arguments that make a training run take seconds."""
    return list(TINY_TRAINING)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny training run."""
    return train.main([*TINY_TRAINING, "--sigma=0.25", f"--runs={tmp_path_factory.mktemp('runs')}"])


@pytest.fixture(scope="session")
def checkpoint(run_folder: Path) -> Path:
    return run_folder / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="session")
def wandb_history() -> Callable[[Path], list[dict[str, object]]]:
    """Reads back the logged rows of the one offline run below a folder."""
    return lambda folder: [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in _records(folder)
        if record.WhichOneof("record_type") == "history"
    ]


@pytest.fixture(scope="session")
def wandb_records() -> Callable[[Path], list[wandb_internal_pb2.Record]]:
    """Reads back all records of the one offline run below a folder."""
    return _records


def _records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """The records of an offline run, once they are all there: W&B's own process writes them, and ends after the run."""
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + 60
    while True:
        records = list(_whole_records(log.read_bytes()))
        if any(record.WhichOneof("record_type") == "exit" for record in records) or time.monotonic() > end:
            return records
        time.sleep(0.05)


def _whole_records(data: bytes) -> Iterator[wandb_internal_pb2.Record]:
    """LevelDB's log format, 32 KiB blocks of records, each a protobuf message; without one that is cut off."""
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
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            yield record
