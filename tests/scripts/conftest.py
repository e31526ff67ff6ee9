import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import train
from tests.scripts.running import CENTERS, DRAW, Done, listened, refused, run, shown

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


LOGGING = {"wandb_history", "wandb_records", "wandb_pixels", "logs_to_wandb"}


@pytest.fixture(autouse=True, scope="session")
def _no_account() -> Iterator[None]:
    """No W&B key, as on a machine where nobody ever heard of it; no figures."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_SILENT"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "disabled")  # a run takes a second
        patch.setenv("NETRC", "/nonexistent")
        patch.setenv("HOME", "/nonexistent")
        for place in DRAW:
            patch.setattr(place, lambda *_, **__: Figure())
        yield


@pytest.fixture(autouse=True)
def _wandb_settings_are_not_inherited(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A run of W&B leaves its mode and its group in the environment of the process."""
    for name in ("WANDB_MODE", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    if not LOGGING & set(request.fixturenames):
        monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def package(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The module's PACKAGE as one of the user's in the current folder, under a name that no other test has used."""
    name = f"own_{abs(hash(str(tmp_path))):x}"
    (tmp_path / f"{name}.py").write_text(request.module.PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield name
    sys.modules.pop(name, None)


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
    """The folder of a tiny training run, which W&B logs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        return train.main([*TINY_TRAINING, "--sigma=0.25", f"--runs={tmp_path_factory.mktemp('runs')}"])


@pytest.fixture(scope="session")
def checkpoint(run_folder: Path) -> Path:
    return run_folder / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="session")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Three digits at two radii, with a checkpoint that was moved."""
    root = tmp_path_factory.mktemp("certification")
    (root / "renamed.ckpt").write_bytes(checkpoint.read_bytes())
    with shown():
        given = [f"--ckpt={root / 'renamed.ckpt'}", f"--out={root / 'center'}", *CENTERS, "--num-examples=3"]
        return listened(*given, "--h", "0", "1")


@pytest.fixture(scope="session")
def certified(finished: Done) -> Path:
    return finished.folder


@pytest.fixture(scope="session")
def means(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Means of the same digits at the same radii."""
    given = ["--smoother=mean", "--clip-norm=20", "--num-examples=3", "--h", "0", "1"]
    return run(checkpoint, tmp_path_factory.mktemp("means") / "mean", *given)
