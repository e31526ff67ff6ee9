import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
import yaml
from numpy.typing import NDArray
from wandb.errors import CommError
from wandb.proto.wandb_internal_pb2 import Record
from wandb.wandb_agent import Agent

import train
from callbacks import CenterSmoothing
from command_line import process
from datamodules import MNIST
from results.numbers import rounded_up
from tests.scripts.running import refused, rows, run
from tests.scripts.wandb_server import WandbServer

ROOT = Path(train.__file__).parent
SWEEP = yaml.safe_load((ROOT / "configs" / "wandb" / "sweep_sigma.yaml").read_text())
Records = Callable[[Path], list[Record]]
History = Callable[[Path], list[dict[str, Any]]]


def read_config(records: list[Record]) -> dict[str, Any]:
    """The configuration of a run in the end."""
    changes = [record.run.config if record.HasField("run") else record.config for record in records]
    return {item.key: json.loads(item.value_json) for change in changes for item in change.update if item.key}


def test_a_certification_is_grouped_with_the_training_of_its_checkpoint(
    run_folder: Path, certified: Path, wandb_records: Records
) -> None:
    (training,) = (record.run for record in wandb_records(run_folder) if record.WhichOneof("record_type") == "run")
    records = wandb_records(certified)
    (certifying,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert training.run_group == certifying.run_group == run_folder.name
    assert (training.job_type, certifying.job_type) == ("train", "certify")
    assert training.project == certifying.project == "center-smoothing"
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
    config = read_config(records)
    assert (config["sigma"], config["seed_everything"]) == (0.25, 0)
    assert config["model"]["class_path"] == "lightning_modules.NoisyAutoencoder"
    assert config["data"]["init_args"]["batch_size"] > 0
    assert {"h": [1.0, 1.5], "n": 100, "m": 500, "smoother": "center"}.items() <= config["center_smoothing"].items()


def test_each_example_is_logged_as_it_is_finished_and_the_last_values_name_their_h(
    certified: Path, wandb_history: History, wandb_records: Records,
    wandb_table: Callable[[Path, str], tuple[list[str], list[list[Any]]]],
) -> None:  # fmt: skip
    found = [row for row in rows(certified) if row["eps_in"] == "0.25"]
    live = [row for row in wandb_history(certified) if "live/examples" in row]
    radii = [float(row["eps_out"]) for row in found]
    assert [row["live/examples"] for row in live] == [1, 2, 3]
    assert [str(row["live/index"]) for row in live] == [row["index"] for row in found]
    medians = [radii[0], max(radii[:2]), sorted(radii)[1]]  # the upper of two
    assert [row["live/median_eps_out/h=1"] for row in live] == medians
    records = wandb_records(certified)
    changes = [record.summary for record in records if record.HasField("summary")]
    last = {item.key or "/".join(item.nested_key): item.value_json for each in changes for item in each.update}
    assert json.loads(last["median_eps_out/h=1"]) == medians[-1]
    columns, cells = wandb_table(certified, "examples_by_radius")
    assert columns == ["index", "eps_in", "eps_out", "smoothing_loss", "input", "base output", "smoothed output"]
    assert sorted(cell[2] for cell in cells if cell[1] == 0.25) == sorted(radii)
    (report,) = (record.artifact for record in records if record.artifact.type == "report")
    assert [entry.path for entry in report.manifest.contents] == ["report.html"]


def test_a_certification_that_fails_ends_its_run_as_failed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb_records: Records
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("model must return a tensor, got NoneType")

    monkeypatch.setattr("center_smoothing.CenterSmoother.certify", fails)
    with pytest.raises(SystemExit, match="2"):
        run(checkpoint, tmp_path, "--h=0")
    (ended,) = (record.exit for record in wandb_records(tmp_path) if record.WhichOneof("record_type") == "exit")
    assert ended.exit_code == 1


@pytest.fixture
def wandb_anew() -> Iterator[None]:
    """W&B keeps what the environment said at the first run of a process: mode, server, sweep."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server on this machine that knows the key of the environment."""
    with WandbServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_SILENT", "true")
        for name in ("WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT"):
            monkeypatch.setenv(name, "60")  # the scripts set them otherwise, for good
        yield server
        server.shutdown()


@pytest.mark.usefixtures("logs_to_wandb")
def test_a_server_gets_the_best_checkpoint_of_a_training_as_the_input_of_its_certifications(
    tiny_training: list[str], tmp_path: Path, server: WandbServer, wandb_anew: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train.main([*tiny_training, "--trainer.max_epochs=1", f"--runs={tmp_path}"])
    name, best = f"checkpoint-{folder.name}", folder / "checkpoints" / "best.ckpt"
    logged = [given["input"] for given in server.asked["CreateArtifact"]]
    (model,) = (given for given in logged if given["artifactTypeName"] == "model")
    assert (model["artifactCollectionName"], model["projectName"]) == (name, "center-smoothing")
    assert [alias["alias"] for alias in model["aliases"]] == ["latest"]
    assert folder.name.endswith(f"-{model['runName']}")
    assert server.uploads[f"/{name}/best.ckpt"] == best.read_bytes()
    for known in (True, False):
        run(best, tmp_path / str(known), "--h=0")
        certified = server.asked["UpsertBucket"][-1]
        (asked,) = server.asked.pop("ArtifactMembershipByName")
        assert asked == {**asked, "entity": "me", "project": "center-smoothing", "name": f"{name}:latest"}
        used = [(given["artifactID"], given["runName"]) for given in server.asked.pop("UseArtifact", [])]
        assert used == ([(name, certified["name"])] if known else [])
        server.asked["CreateArtifact"].clear()  # as if it were a server that the training has not gone to
    assert "offline" not in capsys.readouterr().out


def test_examples_are_seen_as_they_are(
    run_folder: Path, certified: Path, wandb_pixels: Callable[[Path, str], dict[str, NDArray[np.uint8]]]
) -> None:
    data = MNIST("digits")
    data.setup("test")
    digits = {int(index): image for index, image in zip(data.test_set.indices, data.test_set.images, strict=True)}
    trained, shown = wandb_pixels(run_folder, "val/examples"), wandb_pixels(certified, "examples")
    assert (len(trained), len(shown)) == (2, 3)
    for caption, pixels in [*trained.items(), *shown.items()]:
        index, names = caption.split(": ")
        assert names == "input | base output | smoothed output"
        assert pixels.max() > 200
        assert np.array_equal(pixels[:, :28], digits[int(index[1:])][0])
    for caption, pixels in shown.items():
        outputs = np.load(certified / "outputs" / f"{caption.split(':')[0][1:]}.npz")
        expected = np.concatenate([outputs["base"][0], outputs["smoothed"][0]], axis=1).clip(0.0, 1.0)
        assert np.abs(pixels[:, 28:] - 255.0 * expected).max() <= 0.51


def test_the_curve_of_the_certified_fraction_has_the_median_of_its_row(
    run_folder: Path, wandb_history: History, wandb_records: Records
) -> None:
    (files,) = run_folder.glob("wandb/offline-run-*/files")
    validated = [row for row in wandb_history(run_folder) if "val/loss" in row]
    for row in validated:
        table = json.loads((files / row["val/certified_fraction_table/path"]).read_text())
        assert table["columns"] == ["sigma", "eps_in", "eps_out", "fraction"]
        corners = [cells[2:] for cells in table["data"]]
        assert corners[0] == [0.0, 0.0]
        assert [share for _, share in corners] == [0.0, 0.0, 0.5, 0.5, 1.0]  # of two examples
        assert corners[-1][0] <= row["val/certified_radius"] <= corners[-1][0] * (1 + 2e-7)  # the upper of two
    assert len({row["val/certified_fraction_table/path"] for row in validated}) == len(validated) == 2
    changes = [record.config for record in wandb_records(run_folder) if record.HasField("config")]
    charts = [json.loads(item.value_json) for change in changes for item in change.update
              if [*item.nested_key] == ["_wandb", "visualize", "val/certified_fraction"]]  # fmt: skip
    shown = charts[-1]["panel_config"]
    assert (shown["fieldSettings"]["x"], shown["fieldSettings"]["y"]) == ("eps_out", "fraction")
    assert "val/certified_fraction_table" in json.dumps(shown["userQuery"])


def test_a_checkpoint_without_a_run_is_certified_without_a_group(
    checkpoint: Path, tmp_path: Path, wandb_records: Records
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["run"]
    torch.save(content, tmp_path / "older.ckpt")
    folder = run(tmp_path / "older.ckpt", tmp_path / "out", "--h=0")
    (logged,) = (record.run for record in wandb_records(folder) if record.WhichOneof("record_type") == "run")
    assert logged.run_group == ""


@pytest.mark.usefixtures("logs_to_wandb")
def test_a_server_that_cannot_be_reached_costs_no_run(
    tiny_training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    folder = train.main([*tiny_training, "--trainer.max_epochs=1", f"--runs={tmp_path}"])
    monkeypatch.setenv("WANDB_MODE", "online")  # which Lightning's logger changes
    certified = run(folder / "checkpoints" / "best.ckpt", tmp_path / "out", "--h=0")
    said = capsys.readouterr().out
    assert said.count("W&B ran offline (no connection to http://127.0.0.1:9: ConnectionError)") == 2
    assert all(list(place.glob("wandb/offline-run-*/run-*.wandb")) for place in (folder, certified))
    assert (tmp_path / "latest").resolve() == folder.resolve()


def test_a_run_that_the_server_refuses_goes_on_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin() -> None:
        raise CommError("no such entity")

    monkeypatch.setenv("WANDB_SILENT", "true")
    assert process.wandb_refusal(begin) == "CommError: no such entity"
    assert process.wandb_refusal(lambda: None) is None


def started_by_the_agent(sigma: float, run_id: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments that W&B's agent starts train.py with, and the environment that it makes."""
    started: list[list[str]] = []
    monkeypatch.setattr(
        "wandb.wandb_agent.AgentProcess",
        lambda command, env, forward_signals: started.append(command) or SimpleNamespace(),
    )
    agent = object.__new__(Agent)
    agent._sweep_command, agent._function, agent._run_processes = SWEEP["command"], None, {}
    agent._in_jupyter = agent._forward_signals = False
    given = {name: parameter for name, parameter in SWEEP["parameters"].items() if "value" in parameter}
    agent._command_run({"run_id": run_id, "program": SWEEP["program"], "args": {"sigma": {"value": sigma}, **given}})
    ((env, python, program, *words),) = started
    assert (env, python) == ("/usr/bin/env", "python")
    assert (ROOT / program).samefile(train.__file__)
    return words


@pytest.mark.usefixtures("wandb_anew")
def test_the_sweep_compares_radii_at_one_eps_in(
    tiny_training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], wandb_records: Records, wandb_history: History,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # the agent writes there
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    sigma, tiny = SWEEP["parameters"]["sigma"]["values"][-1], [word for word in tiny_training if ".h=" not in word]
    words = started_by_the_agent(sigma, "chosen42", monkeypatch)
    folder = train.main([*tiny, "--center_smoothing.m=1000", "--trainer.max_epochs=1", "--runs=runs", *words])
    records = wandb_records(folder)
    (logged,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (logged.run_id, logged.sweep_id, folder.name) == ("chosen42", "sweep1", f"{sigma:g}-chosen42")
    config = read_config(records)
    assert config["sigma"] == sigma
    assert (config["center_smoothing"]["eps_in"], config["center_smoothing"].get("h")) == ([0.2], None)
    (radius,) = (row[SWEEP["metric"]["name"]] for row in wandb_history(folder) if SWEEP["metric"]["name"] in row)
    said = capsys.readouterr().out
    assert f"certified radius {rounded_up(radius, 1)} (eps_in=0.2) |" in said
    assert said.splitlines()[-1].endswith("--eps-in 0.2 --num-examples 10")


def test_the_sweep_asks_for_nothing_that_the_callback_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())["center_smoothing"]
    sizes, eps_in = {"n": given["n"], "m": given["m"]}, SWEEP["parameters"]["center_smoothing.eps_in"]["value"]
    for sigma in SWEEP["parameters"]["sigma"]["values"]:
        CenterSmoothing(sigma, eps_in=eps_in, **sizes)
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "--sigma=0.05", f"--center_smoothing.eps_in={eps_in}", main=train.main)
    assert said == "error: m must be at least 927539 to certify eps_in=0.2 (h=4), got 900"
    assert not list(tmp_path.glob("runs/*/*"))
