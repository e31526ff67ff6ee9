import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from experiments import consistency, trained_models
from experiments.medians import Median
from experiments.steps import Step


def write_run(runs: Path, arguments: dict[str, Any], *, epochs: int = 2) -> Path:
    """A run folder as a whole training leaves it, without weights."""
    settings = trained_models.settings("default.yaml")
    settings["model"]["init_args"].update(arguments)
    settings["trainer"]["max_epochs"] = epochs
    folder = runs / settings["experiment"] / f"0.25-{len(list(runs.glob('*/*')))}"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "sigma": 0.25}))
    for name in ("best", "last"):
        torch.save({"epoch": epochs - 1}, folder / "checkpoints" / f"{name}.ckpt")
    return folder


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What would be run."""
    seen: list[Step] = []
    row = consistency.Row(
        0.0, 0.004, 0.005, (Median(60.0, 50.0, 70.0), Median(80.001, 70.0, 90.0)), Median(5.0, 4.0, 6.0)
    )
    rows = {
        0.0: row,
        0.3: consistency.Row(0.3, 0.0042, 0.004, (row.eps_out[0], Median(60.0, 50.0, 70.0)), row.smoothing_loss),
    }
    monkeypatch.setattr(consistency, "run", lambda steps, log: seen.extend(steps))
    monkeypatch.setattr(consistency, "_row", lambda options, weight: rows[weight])
    return seen


def test_a_weight_is_trained_unless_its_own_training_is_there(tmp_path: Path, steps: list[Step]) -> None:
    write_run(tmp_path, {})
    write_run(tmp_path, {"consistency_weight": 0.3, "consistency_distance": "mse"})
    arguments = [f"--runs={tmp_path}", f"--out={tmp_path / 'out'}", "--epochs=2", "--weights", "0", "0.3"]
    consistency.main([*arguments, "--consistency-distance=tv"])
    assert [(step.title, step.finished()) for step in steps[:2]] == [
        ("train with weight 0", True),
        ("train with weight 0.3", False),
    ]
    assert steps[1].work == 2 * steps[0].work
    assert not any(step.finished() for step in steps[2:])
    command = steps[1].command()
    assert "--model.init_args.consistency_weight=0.3" in command
    assert "--model.init_args.consistency_distance=tv" in command
    assert not any(word.startswith("--model") for word in steps[0].command())
    steps.clear()
    consistency.main([*arguments, "--consistency-distance=mse"])
    assert [step.finished() for step in steps[:2]] == [True, True]
    assert str(tmp_path / "mnist-digits-autoencoder" / "0.25-1" / "checkpoints" / "best.ckpt") in steps[3].command()


@pytest.mark.usefixtures("steps")
def test_the_table_is_relative_to_the_first_weight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = consistency.main([f"--runs={tmp_path}", f"--out={tmp_path / 'out'}", "--weights", "0", "0.3"])
    lines = capsys.readouterr().out.splitlines()
    assert "| 0 | 0.00400 (+0%) | 0.00500 (+0%) | 60.00 (+0%) | 80.01 (+0%) | 5.00 |" in lines
    assert "| 0.3 | 0.00420 (+5%) | 0.00400 (-20%) | 60.00 (+0%) | 60.00 (-25%) | 5.00 |" in lines
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["median_eps_out_h=2"]) for row in rows] == [80.001, 60.0]


@pytest.mark.parametrize("weight", ["-1", "nan", "inf", "much"])
def test_a_weight_that_is_none_is_one_line(weight: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        consistency.main([f"--out={tmp_path}", f"--weights={weight}"])
    assert stopped.value.code == 2
    assert "--weights must be a number of at least 0" in capsys.readouterr().err
