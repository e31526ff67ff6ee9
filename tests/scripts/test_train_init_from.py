"""Trainings that start with the weights of a checkpoint, and one's own networks."""

import hashlib
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import certify
import train
from lightning_modules import NoisyModule, load_checkpoint
from lightning_modules.base import Batch
from tests.scripts.running import TINY, refused, summary
from training import arguments

OWN = """
from torch import Tensor, nn

from lightning_modules import NoisyModule, load_weights


class Denoiser(NoisyModule):
    def __init__(
        self, sigma: float = 0.25, width: int = 4, consistency_weight: float = 0.0, weights: str | None = None
    ) -> None:
        super().__init__(sigma=sigma, learning_rate=1e-4, consistency_weight=consistency_weight)
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1))
        if weights is not None:
            load_weights(self, weights, flag="--model.weights")

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)
"""

MINE = """
import torch
from torch import Tensor, nn

from datamodules import ImageDataModule, IndexedImages
from lightning_modules import NoisyModule


class Plain(NoisyModule):
    def __init__(self, sigma: float, width: int, scale: float = 1.0) -> None:
        super().__init__(sigma=sigma)
        self.save_hyperparameters("width")
        self.scale = scale
        self.network = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.network(x)


class Squares(ImageDataModule):
    def __init__(self, channels: int = 1, name: str = "none") -> None:
        super().__init__(batch_size=4, num_workers=0)
        self.save_hyperparameters(logger=False)
        self.channels = channels

    def setup(self, stage: str | None = None) -> None:
        images = torch.randint(256, (12, self.channels, 9, 9), generator=torch.Generator().manual_seed(0))
        self.train_set = self.test_set = IndexedImages(images.byte(), torch.arange(12))
"""


def state(run: Path, name: str = "last") -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def first_step(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Weights, and the number of parameters that Adam knows something of, when the first step of a training begins."""
    seen: dict[str, Any] = {}
    step = NoisyModule.training_step

    def watched(self: NoisyModule, batch: Batch, batch_idx: int) -> Tensor:
        if not seen:
            seen["weights"] = {name: tensor.clone() for name, tensor in self.state_dict().items()}
            seen["of the optimizer"] = len(self.trainer.optimizers[0].state)
            seen["epoch"] = self.trainer.current_epoch
        return step(self, batch, batch_idx)

    monkeypatch.setattr(NoisyModule, "training_step", watched)
    return seen


def no_training(arguments: list[str], runs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a training that is refused, and writes nothing."""
    line = refused(capsys, *arguments, f"--runs={runs}", main=train.main)
    assert not list(runs.glob("*/*"))
    return line


def test_a_training_starts_with_the_weights_and_an_optimizer_of_its_own(
    run_folder: Path, checkpoint: Path, tiny_training: list[str], tmp_path: Path, first_step: dict[str, Any]
) -> None:
    before = checkpoint.read_bytes()
    arguments = [f"--init-from={checkpoint}", "--sigma=0.3", "--model.init_args.consistency_weight=0.3"]
    run = train.main([*tiny_training, *arguments, "--trainer.max_epochs=1", f"--runs={tmp_path}"])
    expected = state(run_folder, "best")
    assert all(torch.equal(first_step["weights"][name], tensor) for name, tensor in expected.items())
    assert first_step["of the optimizer"] == 0
    assert first_step["epoch"] == 0
    model = load_checkpoint(run / "checkpoints" / "last.ckpt").model
    assert (model.sigma, model.consistency_weight) == (0.3, 0.3)
    assert not all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert "train/consistency" in (run / "metrics.csv").read_text().splitlines()[0]
    assert checkpoint.read_bytes() == before
    assert run != run_folder


def test_such_a_training_is_repeated_by_its_configuration_and_goes_on_without_the_checkpoint(
    checkpoint: Path, tiny_training: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "source.ckpt"
    shutil.copy(checkpoint, source)
    runs = f"--runs={tmp_path / 'runs'}"
    few = ["--trainer.limit_train_batches=1", "--center_smoothing.num_examples=1"]
    whole = train.main([*tiny_training, f"--init-from={source}", "--trainer.max_epochs=2", *few, runs])
    again = train.main([f"--config={whole / 'config.yaml'}", "--trainer.max_epochs=1", runs])
    assert yaml.safe_load((again / "config.yaml").read_text())["init_from"] == str(source)
    source.unlink()
    assert train.main([f"--resume={again}", "--trainer.max_epochs=2"]) == again
    assert all(torch.equal(state(again)[name], tensor) for name, tensor in state(whole).items())


def test_weights_of_other_shapes_are_one_line_that_says_what_the_checkpoint_was_trained_with(
    checkpoint: Path, tiny_training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [f"--init-from={checkpoint}", "--model.init_args.latent_dim=8"]
    line = no_training([*tiny_training, *other], tmp_path, capsys)
    assert line.startswith(
        f"error: --init-from must hold weights of the NoisyAutoencoder that is trained, got {checkpoint}: "
    )
    assert "size mismatch for network.encoder.10.weight: (16, 784) in its state_dict, (8, 784) in the model" in line
    assert line.endswith("; it was trained with latent_dim=16")


def test_weights_of_another_class_are_refused(
    checkpoint: Path, tiny_training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = arguments.ROOT / "configs" / "mnist_reconstructor.yaml"
    line = no_training([f"--config={config}", *tiny_training, f"--init-from={checkpoint}"], tmp_path, capsys)
    assert "of the NoisyReconstructor that is trained" in line
    assert "Missing key 'measurement.matrix'" in line


class Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.mkdir, (self.folder,)


def test_what_is_no_checkpoint_is_refused_and_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, proof = tmp_path / "runs", tmp_path / "executed"
    torch.save({"state_dict": {}, "hyper_parameters": Evil(proof)}, tmp_path / "evil.ckpt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "bare.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "bare.ckpt").read_bytes()[:100])
    for name, said in {
        "none": "no such file",
        "evil": "such files are not executed",
        "bare": "it holds no Lightning module",
        "cut": "damaged or of another format",
    }.items():
        line = no_training([f"--init-from={tmp_path / name}.ckpt", "--trust"], runs, capsys)
        assert line.startswith("error: --init-from must be a")
        assert said in line
    assert not proof.exists()


def test_going_on_and_starting_from_weights_exclude_each_other(
    run_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = no_training([f"--resume={run_folder}", f"--init-from={checkpoint}"], tmp_path, capsys)
    assert line == (
        f"error: --init-from must be left out with --resume, which goes on from the run's own weights, got {checkpoint}"
    )


def test_a_run_from_before_the_consistency_term_goes_on_without_it(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = tmp_path / "mnist-digits-autoencoder" / run_folder.name
    shutil.copytree(run_folder, older)
    config = yaml.safe_load((older / "config.yaml").read_text())
    assert "init_from" not in config
    del config["model"]["init_args"]["consistency_weight"]
    del config["model"]["init_args"]["consistency_distance"]
    (older / "config.yaml").write_text(yaml.safe_dump(config))
    longer, other = [f"--resume={older}", "--trainer.max_epochs=3"], "--model.init_args.consistency_weight=0.3"
    assert f"{other[:-4]} must stay what it is" in refused(capsys, *longer, other, main=train.main)
    assert train.main(longer) == older


def test_ones_own_network_is_tuned_and_certified(
    tiny_training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    kept = [argument for argument in tiny_training if "--model." not in argument]
    own = [*kept, "--model=own_network.Denoiser", "--trainer.max_epochs=1", f"--runs={tmp_path / 'runs'}"]
    first = train.main(own)
    second = train.main([*own, f"--init-from={first / 'checkpoints/last.ckpt'}", "--model.consistency_weight=0.3"])
    assert "train/consistency" in (second / "metrics.csv").read_text()
    weights = second / "checkpoints" / "best.ckpt"
    certifying = ["--model=own_network.Denoiser", f"--model.weights={weights}", "--data=MNIST", "--sigma=0.25"]
    certifying += [*TINY, "--h=0", f"--out={tmp_path / 'certified'}"]
    certify.main(certifying)
    assert (tmp_path / "certified" / "summary.json").is_file()
    line = refused(capsys, *certifying, "--model.width=5")
    assert "--model.weights must hold weights of the Denoiser that is trained" in line


def test_the_command_that_training_ends_with_certifies_ones_own_model_on_ones_own_data(
    tiny_training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    runs = tmp_path / 'it\'s "mine"'
    own = [*(argument for argument in tiny_training if "--model." not in argument), "--model=mine.Plain"]
    own += ["--model.width=3", "--model.scale=0.5", "--sigma=0.3", "--data=mine.Squares"]
    line = no_training([*own, "--data.channels=3"], runs, capsys)
    assert line.startswith(
        "error: --model must take the images of --data, (C, H, W) = [3, 9, 9], got Plain: RuntimeError"
    )
    run = train.main([*own, "--data.name=it's 1", f"--runs={runs}"])
    python, script, *command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert (python, Path(script).name) == ("python", "certify.py")
    folder = certify.main([*command, *TINY, "--m=1000"])
    assert folder is not None
    config, best = summary(folder)["config"], run / "checkpoints" / "best.ckpt"
    assert (config["sigma"], config["model"]) == (0.3, "Plain")
    assert config["data"] == {"class": "Squares", "channels": 1, "name": "it's 1"}
    assert summary(folder)["checkpoint_sha256"] == hashlib.sha256(best.read_bytes()).hexdigest()
    assert folder.parent == run / "certification"
    line = refused(capsys, f"--ckpt={run}")
    assert f"--model my_package.Plain --model.weights {shlex.quote(str(best))}" in line
