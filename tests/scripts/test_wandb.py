import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
import yaml
from numpy.typing import NDArray
from wandb.errors import CommError
from wandb.proto.wandb_internal_pb2 import Record

import certify
import train
from command_line import process
from datamodules import MNIST

ROOT = Path(train.__file__).parent
SWEEP = yaml.safe_load((ROOT / "configs" / "wandb" / "sweep_sigma.yaml").read_text())
Records = Callable[[Path], list[Record]]


TINY = ["--n=100", "--m=400", "--k=8", "--batch-size=64", "--accelerator=cpu"]


@pytest.fixture(scope="module")
def certification(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a certification of two digits, with a checkpoint that was moved."""
    moved = tmp_path_factory.mktemp("moved") / "renamed.ckpt"
    moved.write_bytes(checkpoint.read_bytes())
    return certify.main([f"--ckpt={moved}", f"--out={moved.parent / 'out'}", *TINY, "--num-examples=2", "--h=1"])


def test_a_certification_is_grouped_with_the_training_of_its_checkpoint(
    run_folder: Path, certification: Path, wandb_records: Records
) -> None:
    (training,) = (record.run for record in wandb_records(run_folder) if record.WhichOneof("record_type") == "run")
    records = wandb_records(certification)
    (certified,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert training.run_group == certified.run_group == run_folder.name
    assert (training.job_type, certified.job_type) == ("train", "certify")
    assert training.project == certified.project == "center-smoothing"
    axes = {record.metric.name: record.metric.step_metric for record in records if record.HasField("metric")}
    axes |= {record.metric.glob_name: record.metric.step_metric for record in records if record.metric.glob_name}
    assert axes["live/*"] == "live/examples"
    assert axes["median_eps_out"] == axes["median_smoothing_loss"] == axes["abstention_rate"] == "eps_in"
    assert axes["eps_in"] == ""


def test_the_run_of_a_training_has_its_configuration_and_the_best_and_the_last_values(
    run_folder: Path, wandb_records: Records
) -> None:
    records = wandb_records(run_folder)
    kept = {record.metric.name: record.metric.summary for record in records if record.HasField("metric")}
    for key in ("val/loss", "val/certified_radius", "val/certified_radius/h=1.5"):
        assert kept[key].min
        assert kept[key].last
    changes = [*(record.config for record in records if record.HasField("config"))]
    config = {item.key: json.loads(item.value_json) for change in changes for item in change.update}
    assert (config["sigma"], config["seed_everything"]) == (0.25, 0)
    assert config["model"]["class_path"] == "lightning_modules.NoisyAutoencoder"
    assert config["data"]["init_args"]["batch_size"] > 0
    assert {"h": [1.0, 1.5], "n": 100, "m": 500, "smoother": "center"}.items() <= config["center_smoothing"].items()


def test_each_example_is_logged_as_it_is_finished_and_the_last_values_name_their_h(
    certification: Path, wandb_history: Callable[[Path], list[dict[str, Any]]], wandb_records: Records,
    wandb_table: Callable[[Path, str], tuple[list[str], list[list[Any]]]],
) -> None:  # fmt: skip
    rows = [*csv.DictReader((certification / "certificates.csv").open())]
    live = [row for row in wandb_history(certification) if "live/examples" in row]
    radii = [float(row["eps_out"]) for row in rows]
    assert [row["live/examples"] for row in live] == [1, 2]
    assert [str(row["live/index"]) for row in live] == [row["index"] for row in rows]
    assert [row["live/median_eps_out/h=1"] for row in live] == [radii[0], max(radii)]  # the upper of two
    records = wandb_records(certification)
    changes = [record.summary for record in records if record.HasField("summary")]
    summary = {item.key or "/".join(item.nested_key): item.value_json for each in changes for item in each.update}
    assert json.loads(summary["median_eps_out/h=1"]) == max(radii)
    columns, cells = wandb_table(certification, "examples_by_radius")
    assert columns == ["index", "eps_in", "eps_out", "smoothing_loss", "input", "base output", "smoothed output"]
    assert [cell[2] for cell in cells] == sorted(radii, reverse=True)
    (report,) = (record.artifact for record in records if record.artifact.type == "report")
    assert [entry.path for entry in report.manifest.contents] == ["report.html"]


def test_a_certification_that_fails_ends_its_run_as_failed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb_records: Records
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("model must return a tensor, got NoneType")

    monkeypatch.setattr("center_smoothing.CenterSmoother.certify", fails)
    with pytest.raises(SystemExit, match="2"):
        certify.main([f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, "--num-examples=1", "--h=0"])
    (ended,) = (record.exit for record in wandb_records(tmp_path) if record.WhichOneof("record_type") == "exit")
    assert ended.exit_code == 1


def test_a_server_gets_the_best_checkpoint_of_a_training(
    tiny_training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb_records: Records
) -> None:
    monkeypatch.setattr(process, "wandb_offline", lambda: None)  # as if there were one
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # it keeps the mode of the first run of a process
    folder = train.main([*tiny_training, "--trainer.max_epochs=1", f"--runs={tmp_path}"])
    logged = [record.artifact for record in wandb_records(folder) if record.artifact.type == "model"]
    assert [(artifact.name, artifact.manifest.contents[0].path) for artifact in logged] == [
        (f"checkpoint-{folder.name}", "best.ckpt")
    ]


def test_examples_are_seen_as_they_are(
    run_folder: Path, certification: Path, wandb_pixels: Callable[[Path, str], dict[str, NDArray[np.uint8]]]
) -> None:
    data = MNIST("digits")
    data.setup("test")
    digits = {int(index): image for index, image in zip(data.test_set.indices, data.test_set.images, strict=True)}
    trained, certified = wandb_pixels(run_folder, "val/examples"), wandb_pixels(certification, "examples")
    assert len(trained) == len(certified) == 2
    for caption, pixels in [*trained.items(), *certified.items()]:
        index, names = caption.split(": ")
        assert names == "input | base output | smoothed output"
        assert pixels.max() > 200
        assert np.array_equal(pixels[:, :28], digits[int(index[1:])][0])
    for caption, pixels in certified.items():
        outputs = np.load(certification / "outputs" / f"{caption.split(':')[0][1:]}.npz")
        shown = np.concatenate([outputs["base"][0], outputs["smoothed"][0]], axis=1).clip(0.0, 1.0)
        assert np.abs(pixels[:, 28:] - 255.0 * shown).max() <= 0.51


def test_a_checkpoint_without_a_run_is_certified_without_a_group(
    checkpoint: Path, tmp_path: Path, wandb_records: Records
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["run"]
    torch.save(content, tmp_path / "older.ckpt")
    given = [f"--ckpt={tmp_path / 'older.ckpt'}", f"--out={tmp_path / 'out'}", "--num-examples=1", "--h=0"]
    folder = certify.main([*TINY, *given])
    (run,) = (record.run for record in wandb_records(folder) if record.WhichOneof("record_type") == "run")
    assert run.run_group == ""


@pytest.mark.usefixtures("logs_to_wandb")
@pytest.mark.parametrize("mode", ["", "online"])
def test_a_server_that_cannot_be_reached_costs_no_run(
    mode: str, tiny_training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    folder = train.main([*tiny_training, "--trainer.max_epochs=1", f"--runs={tmp_path}"])
    tiny = ["--n=100", "--m=400", "--k=8", "--num-examples=1", "--batch-size=64", "--accelerator=cpu", "--h=0"]
    monkeypatch.setenv("WANDB_MODE", mode)  # which Lightning's logger changes
    certified = certify.main([f"--ckpt={folder / 'checkpoints' / 'best.ckpt'}", f"--out={tmp_path / 'out'}", *tiny])
    said = capsys.readouterr().out
    assert said.count("W&B ran offline (no connection to http://127.0.0.1:9: ConnectionError)") == 2
    assert certified is not None
    assert all(list(place.glob("wandb/offline-run-*/run-*.wandb")) for place in (folder, certified))
    assert (tmp_path / "latest").resolve() == folder.resolve()


def test_a_run_that_the_server_refuses_goes_on_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin() -> None:
        raise CommError("no such entity")

    monkeypatch.setenv("WANDB_SILENT", "true")
    assert process.wandb_refusal(begin) == "CommError: no such entity"
    assert process.wandb_refusal(lambda: None) is None


def test_the_sweep_runs_train_py_for_every_sigma(
    tiny_training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb_records: Records
) -> None:
    assert (ROOT / SWEEP["program"]).is_file()
    assert SWEEP["command"] == ["${env}", "python", "${program}", "${args}"]
    # as the agent does: its arguments for one of the values, and an id that it has chosen
    monkeypatch.setenv("WANDB_RUN_ID", "chosen42")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    sigma = SWEEP["parameters"]["sigma"]["values"][0]
    folder = train.main([*tiny_training, f"--sigma={sigma}", "--trainer.max_epochs=1", f"--runs={tmp_path}"])
    (run,) = (record.run for record in wandb_records(folder) if record.WhichOneof("record_type") == "run")
    assert run.run_id == "chosen42"
    assert folder.name == f"{sigma:g}-chosen42"
    assert "val/certified_radius" == SWEEP["metric"]["name"]
    assert os.environ.get("WANDB_RUN_ID") == "chosen42"
