"""Certifications by several processes: the numbers of one, whoever starts them and whatever becomes of them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import certify
from results.folder import CertificationFolder

ROOT = Path(certify.__file__).parent
HARNESS = Path(__file__).with_name("ranks_harness.py")

Contents = Callable[[Path], dict[str, bytes]]


MODEL = """
import os


def fails_elsewhere(x):
    fails_elsewhere.calls += 1
    if fails_elsewhere.calls > 25 and os.environ.get("LOCAL_RANK") == "1":
        raise KeyError("weights")
    return x.flatten(1)


fails_elsewhere.calls = 0
"""
ATTACK = ["--num-examples=2", "--attack=pgd", "--attack-steps=2", "--attack-starts=1", "--attack-samples=4"]


@pytest.fixture(scope="module")
def cases(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of certifications by several processes, by the name of the case."""
    folder, one_example = tmp_path_factory.mktemp("ranks"), [*tiny_command, "--num-examples=1"]
    (folder / "my_models.py").write_text(MODEL)
    root = tiny_command[0].removeprefix("--ckpt=").rpartition("/")[0]
    own_model = [
        "--model=my_models.fails_elsewhere", "--data=ImageFolder", f"--data.root={root}/images",
        "--data.image_size=[8,8]", "--data.mode=grey", "--data.test_fraction=0.6", "--sigma=0.25", "--distance=l2",
    ]  # fmt: skip
    asked: dict[str, dict[str, Any]] = {
        "slurm": {"ranks": 2, "arguments": one_example, "launcher": "slurm"},
        "lightning": {"ranks": 2, "arguments": tiny_command, "launcher": "lightning"},
        "killed": {"ranks": 2, "arguments": tiny_command, "kill": 1},
        "attacked": {"ranks": 2, "arguments": [*tiny_command, *ATTACK]},
        "failed": {"ranks": 2, "arguments": [*own_model, *tiny_command[1:]]},
    }
    for name, case in asked.items():
        case["out"] = str(folder / name)
    done = subprocess.run(
        [sys.executable, HARNESS, json.dumps(list(asked.values()))], cwd=folder, text=True, timeout=300,
        capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = zip(asked.items(), json.loads(done.stdout), strict=True)
    return {name: {**result, "out": Path(case["out"])} for (name, case), result in found}


def test_several_processes_write_the_files_of_one(
    cases: dict[str, dict[str, Any]], uninterrupted: Path, contents: Contents
) -> None:
    case = cases["lightning"]
    assert case["codes"] == [0]
    assert sum("12 of 12 examples" in line for line in case["said"][0]) == 1  # one of them talks
    assert contents(case["out"]) == contents(uninterrupted)


def test_more_processes_than_examples(cases: dict[str, dict[str, Any]], uninterrupted: Path) -> None:
    case, first = cases["slurm"], CertificationFolder(uninterrupted).rows()[:2]
    assert case["codes"] == [0, 0]
    rows = CertificationFolder(case["out"]).rows()
    assert [row.as_text()[:-1] for row in rows] == [row.as_text()[:-1] for row in first]


def test_what_others_finished_outlives_a_process(
    cases: dict[str, dict[str, Any]], tiny_command: list[str], uninterrupted: Path, contents: Contents,
    told: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    case = cases["killed"]
    assert case["codes"] == [2, -9]
    told("Machines", "a process of several is killed", re.sub(r"\d+ of 12", "N of 12", case["said"][0][-1]))
    certify.main([*tiny_command, f"--out={case['out']}"])
    assert "of 12 examples are there already and kept" in capsys.readouterr().out
    assert contents(case["out"]) == contents(uninterrupted)


def test_a_model_that_fails_in_one_process_ends_all_of_them(
    cases: dict[str, dict[str, Any]], told: Callable[[str, str, str], None]
) -> None:
    case = cases["failed"]
    assert case["codes"] == [2, 2]
    lines = [re.sub(r"\d+ of 12", "N of 12", said[-1]) for said in case["said"]]
    assert lines[0].startswith("error: another process has ended before its work was done; N of 12")
    told("Machines", "the model fails in a process of several", lines[1])


def test_an_attack_by_several_processes_has_the_numbers_of_one(
    cases: dict[str, dict[str, Any]], tiny_command: list[str], tmp_path: Path
) -> None:
    case = cases["attacked"]
    assert case["codes"] == [0, 0]
    assert case["said"][1] == []
    certify.main([*tiny_command, *ATTACK, f"--out={tmp_path / 'out'}"])
    ours, theirs = (CertificationFolder(folder).rows() for folder in (case["out"], tmp_path / "out"))
    assert [row.index for row in ours] == [row.index for row in theirs]
    for name in ("eps_out", "attack_eps", "base_attack_eps"):
        assert [getattr(row, name) for row in ours] == pytest.approx([getattr(row, name) for row in theirs], rel=1e-3)


def test_a_second_process_on_a_folder_is_refused(
    tiny_command: list[str], tmp_path: Path, told: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    with CertificationFolder(tmp_path / "out").locked(), pytest.raises(SystemExit, match="2"):
        certify.main([*tiny_command, f"--out={tmp_path / 'out'}"])
    (line,) = capsys.readouterr().err.splitlines()
    told("Machines", "a second process on the same folder", line)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock"]
