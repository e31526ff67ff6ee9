"""What ends a training early, and what the user sees."""

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

import train
from command_line import errors
from datamodules import ImageDataModule, IndexedImages
from lightning_modules import NoisyModule
from training import resuming
from training.arguments import ROOT

Told = Callable[[str, str, str], None]
pytestmark = pytest.mark.usefixtures("_stands_for_a_machine", "_interruptible")
SECTION = "Training"


@pytest.fixture
def arguments(tmp_path: Path, tiny_checkpoint: Path) -> list[str]:
    return [
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.max_epochs=3",
        "--trainer.limit_train_batches=2", "--trainer.logger=false", "--model.init_args.latent_dim=4",
        "--model.init_args.image_shape=[1,8,8]", "--data=ImageFolder",
        f"--data.root={tiny_checkpoint.parent / 'images'}",
        "--data.image_size=[8,8]", "--data.mode=grey", "--data.batch_size=8", "--center_smoothing.num_examples=1",
        "--center_smoothing.h=[0.5]", "--center_smoothing.n=100", "--center_smoothing.m=400", "--center_smoothing.k=8",
        f"--runs={tmp_path / 'runs'}",
    ]  # fmt: skip


def seen(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line, on whichever stream."""
    with pytest.raises(SystemExit, match=str(code)):
        train.main(arguments)
    said = capsys.readouterr()
    line = (said.err or said.out).strip().splitlines()[-1]
    return line.replace(str(ROOT) + "/", "").replace(os.path.relpath(ROOT) + "/", "")


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM, as of SLURM")])
def test_interruptions(
    number: signal.Signals, name: str, arguments: list[str], told: Told, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    step, calls = NoisyModule.training_step, []

    def interrupts(self: NoisyModule, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        calls.append(batch_idx)
        if len(calls) == 4:
            signal.raise_signal(number)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(NoisyModule, "training_step", interrupts)
    told(SECTION, name, seen(arguments, 1, capsys))


def test_an_interruption_in_the_first_epoch_leaves_nothing_to_go_on_with(
    arguments: list[str], told: Told, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupts(self: NoisyModule, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(NoisyModule, "training_step", interrupts)
    told(SECTION, "Ctrl-C before an epoch has ended", seen(arguments, 1, capsys))


def test_an_error_in_the_model_is_one_line_and_no_latest_run(
    arguments: list[str], told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fails(self: NoisyModule, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        raise KeyError("weights")

    monkeypatch.setattr(NoisyModule, "training_step", fails)
    monkeypatch.setattr(errors, "_OURS", errors._OURS - {__name__.split(".")[0]})
    told(SECTION, "an error in the model", seen(arguments, 2, capsys))
    assert not (tmp_path / "runs" / "latest").exists()
    assert len(list(tmp_path.glob("runs/*/*/traceback.txt"))) == 1


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    arguments: list[str],
    told: Told,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:  # two checkpoints of the first epoch
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    told(SECTION, "the disk is full while a checkpoint is written", seen(arguments, 2, capsys))
    (last,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 0
    assert not list(last.parent.glob(".*"))


def test_a_loss_that_is_no_number_is_kept_in_no_checkpoint(
    arguments: list[str], told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = seen([*arguments, "--model.init_args.learning_rate=1e30"], 2, capsys)
    told(SECTION, "the loss becomes NaN", line)
    assert not list(tmp_path.glob("runs/*/*/checkpoints/*.ckpt"))


@pytest.mark.parametrize("stuck", [True, False])
def test_a_process_that_loads(
    stuck: bool, arguments: list[str], told: Told, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = IndexedImages.__getitem__

    def fails(self: IndexedImages, position: int) -> dict[str, Tensor]:
        if get_worker_info() is None:
            return load(self, position)
        if stuck:
            time.sleep(60.0)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(IndexedImages, "__getitem__", fails)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # which it is waited for at the end
    monkeypatch.setattr(ImageDataModule, "timeout", 0.5)
    line = seen([*arguments, "--data.num_workers=1"], 2, capsys)
    fault = "a process that loads images is stuck" if stuck else "a process that loads images is killed"
    told(SECTION, fault, line)


def test_a_second_training_of_a_run_is_refused(
    arguments: list[str], told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train.main(arguments)
    with resuming.locked(folder):
        line = seen([f"--resume={folder}", "--trainer.max_epochs=9"], 2, capsys)
    told(SECTION, "a second training of the same run", line)
