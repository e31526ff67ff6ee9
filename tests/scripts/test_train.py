import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import train
from lightning_modules import load_checkpoint
from tests.scripts.running import refused, table
from training import arguments as own
from training.checkpoints import WholeCheckpoints

KEYS = {
    "val/loss",
    "val/certified_radius",
    "val/certified_radius/h=1.5",
    "val/smoothing_loss",
    "val/abstention_rate",
}


def rows(run_folder: Path) -> list[dict[str, str]]:
    return table(run_folder / "metrics.csv")


def test_run_folder_holds_config_checkpoints_metrics_and_wandb(run_folder: Path) -> None:
    for name in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv", "wandb"):
        assert (run_folder / name).exists(), name
    assert run_folder.name.startswith("0.25-")
    assert run_folder.parent.name == "mnist-digits-autoencoder"


def test_latest_points_to_the_newest_run(run_folder: Path) -> None:
    assert (run_folder.parent.parent / "latest").resolve() == run_folder.resolve()


def test_only_the_first_checkpoint_of_a_run_is_told_of(tmp_path: Path) -> None:
    told: list[bool] = []
    writer = WholeCheckpoints(lambda: told.append(True))  # which points latest at the run: a newer one may have it
    for _ in range(2):
        writer.save_checkpoint({}, tmp_path / "a.ckpt")
    assert told == [True]


def test_every_validated_epoch_has_all_keys_in_the_csv(run_folder: Path) -> None:
    validated = [row for row in rows(run_folder) if row["val/loss"]]
    assert len(validated) == 2
    for row in validated:
        assert all(row[key] for key in KEYS)
        assert float(row["val/certified_radius"]) <= float(row["val/certified_radius/h=1.5"])
    assert sum(bool(row["train/loss"]) for row in rows(run_folder)) == 2


def test_the_offline_wandb_run_has_all_keys_for_every_validated_epoch(
    run_folder: Path, wandb_history: Callable[[Path], list[dict[str, object]]]
) -> None:
    history = wandb_history(run_folder)
    validated = [row for row in history if "val/loss" in row]
    assert [row["epoch"] for row in validated] == [0, 1]
    assert all(
        row.keys() >= {*KEYS, "val/examples/count", "val/certified_radii/bins", "val/certified_fraction_table/path"}
        for row in validated
    )
    assert sum("train/loss" in row for row in history) == 2


def test_golden_losses(run_folder: Path) -> None:
    losses = [float(row["val/loss"]) for row in rows(run_folder) if row["val/loss"]]
    # bounds wide enough for another CPU, narrow enough for another seed, batch or noise level
    assert losses == pytest.approx([0.2482, 0.2339], rel=0.01)


def test_sigma_stands_at_top_level_of_the_saved_config_alone(run_folder: Path) -> None:
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    assert config["sigma"] == 0.25
    assert "sigma" not in config["model"]["init_args"]
    assert "sigma" not in config["center_smoothing"]


def test_saved_config_repeats_the_run(run_folder: Path, tmp_path: Path) -> None:
    words = [f"--config={run_folder / 'config.yaml'}", f"--runs={tmp_path}", "--trainer.logger=false"]
    again = train.main([*words, "--center_smoothing.every_n_validations=9"])
    first, second = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (run_folder, again))
    assert all(torch.equal(first["state_dict"][key], second["state_dict"][key]) for key in first["state_dict"])


@pytest.mark.usefixtures("logs_to_wandb")
def test_last_lines_name_folder_scores_and_the_next_command(
    tiny_training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train.main([*tiny_training, "--trainer.max_epochs=1", "--sigma=0.5"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1].strip() == (f"python {own.CERTIFY} --ckpt {run}/checkpoints/best.ckpt --h 1 1.5 --num-examples 10")
    assert f"run folder: {run}" in lines
    assert any(line.startswith("W&B ran offline (no API key): view with `wandb leet ") for line in lines)
    assert any("val/loss" in line and "val/certified_radius" in line for line in lines[-3:])
    assert any(line.startswith("epoch 0: val/loss") and "(h=1.5)" in line for line in lines)
    assert run.name.startswith("0.5-")
    assert load_checkpoint(run / "checkpoints/best.ckpt").model.sigma == 0.5


# What is typed, and a part of what is said.
REFUSED = """
--sigma=nan | error: --sigma must be a positive number such as 0.25, got 'nan'
--center_smoothing.m=20 | m must be at least
--center_smoothing.delta=0.01 | delta must lie in
--data.variant=fashion --data.root=TMP/none --data.download=false | --data.root must hold Fashion
--model.latent_dim=0 | latent_dim must be at least 1, got 0
--model.consistency_weight=-0.1 | consistency_weight must be a finite number of at least 0 such as 0.05, got -0.1
--model.consistency_distance=l2 | consistency_distance must be one of tv, l1, mse, got 'l2'
--model.image_shape=[3,32,32] | --model must take the images of --data, (C, H, W) = [1, 28, 28], got NoisyAutoencoder:
--model.image_shape=[3,32,32] | it is for images [3, 32, 32]; leave --model.image_shape out
--model.image_shape=[1,196,4] | it is for images [1, 196, 4]
--model=NoisyReconstructor --model.image_shape=[1,196,4] | it is for images [1, 196, 4]
--data=CIFAR10 --model.image_shape=[1,28,28] | (C, H, W) = [3, 32, 32], got NoisyAutoencoder
--data=CelebA | image_shape must be (C, H, W) with H and W divisible by 4, got (3, 218, 178)
--data=ImageFolder --data.image_size=[8,8] --model=NoisyReconstructor | must lie in 1..192
--model=Foo | --model
--trainer.max_epochs=many | --trainer.max_epochs
--runs=/dev/null/runs | --runs must be a folder that can be written to, got /dev/null/runs
--trainer.max_epochz=1 | is no flag of train.py: the nearest is --trainer.max_epochs,
--model.latnet-dim=1 | latnet_dim is no argument of NoisyAutoencoder: the nearest is latent_dim
"""


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_bad_arguments_give_one_line_and_exit_code_2(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed, words = line.replace("TMP", str(tmp_path)).split(" | ")
    assert words in refused(capsys, f"--runs={tmp_path}", *typed.split(), main=train.main)
    assert not list(tmp_path.glob("*/*"))


def test_typed_arguments_before_the_config_and_images_of_another_shape(
    tiny_training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(8):
        Image.new("RGB", (10, 10), (30 * number, 0, 0)).save(tmp_path / f"{number}.png")
    typed = ["--sigma=0.5", "--data.mode=grey", "--data.image_size=[8,8]", f"--data.root={tmp_path}"]
    file = own.ROOT / "configs" / "image_folder_autoencoder.yaml"
    run = train.main([*tiny_training, *typed, "--config", str(file), f"--runs={tmp_path / 'it is my run'}"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["sigma"], config["model"]["init_args"]["image_shape"]) == (0.5, [1, 8, 8])
    model = load_checkpoint(run).model
    assert (model.sigma, model.example_shape()) == (0.5, (1, 8, 8))
    command = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(command)[2:4] == ["--ckpt", str(run / "checkpoints" / "best.ckpt")]
