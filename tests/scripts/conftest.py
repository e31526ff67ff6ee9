from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import train
from tests.scripts.refusals import refused

# A run of seconds: a few batches of the real digits, and a budget that just certifies h = 1.
TINY_TRAINING = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=1",
    "--trainer.max_epochs=2",
    "--model.init_args.latent_dim=16",
    "--model.init_args.channels=[4, 8, 16]",
    "--model.init_args.learning_rate=0.005",
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
    if not {"wandb_history", "wandb_records", "wandb_pixels", "logs_to_wandb"} & set(request.fixturenames):
        monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """The one line with which certify.py refuses arguments, with exit code 2."""
    return lambda arguments: refused(capsys, *arguments)


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
