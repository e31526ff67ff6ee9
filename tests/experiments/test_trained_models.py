import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from experiments import trained_models

WANTED: dict[str, Any] = {
    "experiment": "some-images",
    "seed_everything": 0,
    "model": {"class_path": "lightning_modules.NoisyAutoencoder", "init_args": {"latent_dim": 8}},
    "data": {"class_path": "datamodules.MNIST", "init_args": {"variant": "digits"}},
    "trainer": {"max_epochs": 3},
}


def write_run(runs: Path, name: str, *, epoch: int = 2, **changes: Any) -> Path:  # noqa: ANN401  # any YAML
    folder = runs / "some-images" / name
    (folder / "checkpoints").mkdir(parents=True)
    saved = {**WANTED, "sigma": 0.2, "trainer": {"max_epochs": 3, "limit_train_batches": None}, **changes}
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    torch.save({"epoch": epoch}, folder / "checkpoints" / "last.ckpt")
    torch.save({"epoch": 1}, folder / "checkpoints" / "best.ckpt")
    return folder


def test_a_finished_run_with_the_same_settings_is_found(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "0.2-abc")
    assert trained_models.finished_run(tmp_path, WANTED, sigma=0.2) == folder


def test_settings_that_were_not_named_must_be_the_defaults(tmp_path: Path) -> None:
    spelled_out = {"latent_dim": 8, "learning_rate": 0.001, "image_shape": [1, 28, 28], "noise_range": None}
    model = {"class_path": "lightning_modules.autoencoder.NoisyAutoencoder", "init_args": spelled_out}
    folder = write_run(tmp_path, "0.2-abc", model=model)
    assert trained_models.finished_run(tmp_path, WANTED, sigma=0.2) == folder


def test_later_trainings_change_nothing(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path, name) for name in ("0.2-z", "0.2-a"))
    for age, folder in ((100, second), (200, first)):
        os.utime(folder / "checkpoints" / "best.ckpt", (1e9 - age, 1e9 - age))
    assert trained_models.finished_run(tmp_path, WANTED, sigma=0.2) == first
    (second / "certification").mkdir()
    assert trained_models.finished_run(tmp_path, WANTED, sigma=0.2) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"sigma": 0.25},
        {"seed_everything": 1},
        {"init_from": "some.ckpt"},
        {"model": {**WANTED["model"], "init_args": {"latent_dim": 8, "consistency_weight": 0.3}}},
        {"model": {"class_path": "lightning_modules.NoisyAutoencoder", "init_args": {"latent_dim": 16}}},
        {"model": {"class_path": "lightning_modules.NoisyReconstructor", "init_args": {"latent_dim": 8}}},
        {"model": {**WANTED["model"], "init_args": {"latent_dim": 8, "noise_range": [0.1, 0.5]}}},
        {"model": {**WANTED["model"], "init_args": {"latent_dim": 8, "learning_rate": 0.01}}},
        {"model": {"class_path": "somewhere.Else", "init_args": {"latent_dim": 8}}},
        {"data": {"class_path": "datamodules.MNIST", "init_args": {"variant": "mnist"}}},
        {"data": {"class_path": "datamodules.MNIST", "init_args": {"variant": "digits", "root": "elsewhere"}}},
        {"trainer": {"max_epochs": 4}},
        {"trainer": {"max_epochs": 3, "limit_train_batches": 4}},
        {"epoch": 1},
    ],
)
def test_another_or_an_unfinished_training_is_not_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_run(tmp_path, "0.2-abc", **changes)
    assert trained_models.finished_run(tmp_path, WANTED, sigma=0.2) is None


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt"])
def test_a_run_of_which_something_is_missing_or_damaged_is_not_taken(tmp_path: Path, name: str) -> None:
    assert trained_models.finished_run(tmp_path, WANTED, sigma=0.2) is None
    place = write_run(tmp_path, "0.2-abc") / name
    assert trained_models.best_checkpoint(str(tmp_path), WANTED, sigma=0.2) is not None
    if name != "checkpoints/best.ckpt":
        place.write_bytes(b"\x80: {[")
        assert trained_models.finished_run(tmp_path, WANTED, sigma=0.2) is None
    place.unlink()
    assert trained_models.best_checkpoint(str(tmp_path), WANTED, sigma=0.2) is None


def test_settings_are_the_configuration_over_the_default_one() -> None:
    default = trained_models.settings("default.yaml")
    assert default["model"]["init_args"]["latent_dim"] == 256
    other = trained_models.settings("mnist_reconstructor.yaml")
    assert other["model"]["class_path"].endswith("NoisyReconstructor")
    assert other["data"]["init_args"]["variant"] == "digits"
    assert other["experiment"] != default["experiment"]
    assert other["trainer"]["max_epochs"] == default["trainer"]["max_epochs"]
