"""Trainings that are interrupted, and go on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import train
from lightning_modules import NoisyModule
from lightning_modules.base import Batch
from tests.scripts.running import refused, table


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def interrupted(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], *, at: tuple[int, int] = (1, 2), error: type[BaseException]
) -> None:
    """Train up to a step of an epoch."""
    step = NoisyModule.training_step

    def stops(self: NoisyModule, batch: Batch, batch_idx: int) -> Tensor:
        if (self.trainer.current_epoch, batch_idx) == at:
            raise error
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(NoisyModule, "training_step", stops)
        with pytest.raises(SystemExit, match="1"):
            train.main(arguments)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Lightning ignores Ctrl-C once it was pressed, for the rest of the process; a shell's background jobs do, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_training_that_goes_on_is_the_uninterrupted_one(
    run_folder: Path, tiny_training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    interrupted(monkeypatch, [*tiny_training, "--sigma=0.25", f"--runs={tmp_path}"], error=KeyboardInterrupt)
    (folder,) = (tmp_path / "mnist-digits-autoencoder").iterdir()
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("interrupted; go on with `python ")
    assert line.endswith(f"train.py --resume {folder}`")
    assert train.main([f"--resume={folder}"]) == folder
    expected, found = weights(run_folder), weights(folder)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert table(folder / "metrics.csv") == table(run_folder / "metrics.csv")
    assert f"run folder: {folder}" in capsys.readouterr().out


def test_a_finished_run_goes_on_for_longer(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, f"--resume={run_folder / 'checkpoints' / 'last.ckpt'}", main=train.main)
    assert line.endswith("all 2 epochs are done; go on longer with --trainer.max_epochs 4")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--sigma=0.5", "--sigma must stay what it is in a run that goes on, 0.25, got 0.5"),
        ("--model.init_args.latent_dim=32", "--model.init_args.latent_dim must stay what it is"),
        ("--center_smoothing.m=600", "--center_smoothing.m must stay what it is"),
    ],
)
def test_another_training_is_no_going_on(
    change: str, said: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_folder / "config.yaml").read_bytes()
    assert said in refused(capsys, f"--resume={run_folder}", "--trainer.max_epochs=3", change, main=train.main)
    assert (run_folder / "config.yaml").read_bytes() == before


def test_what_is_no_run_is_one_line(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"not one")
    assert "there is no config.yaml" in refused(capsys, f"--resume={tmp_path}", main=train.main)
    (tmp_path / "checkpoints" / "config.yaml").write_text("sigma: 0.25\n")
    line = refused(capsys, f"--resume={tmp_path / 'checkpoints'}", main=train.main)
    assert "there is no checkpoints/last.ckpt" in line
    (tmp_path / "config.yaml").write_bytes((run_folder / "config.yaml").read_bytes())
    assert "a whole last.ckpt" in refused(capsys, f"--resume={tmp_path}", main=train.main)
