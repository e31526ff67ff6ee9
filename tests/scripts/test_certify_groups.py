import json
from collections.abc import Callable
from pathlib import Path

import pytest

import certify
from center_smoothing.scalars import format_up

TINY = ["--n=100", "--m=400", "--k=8", "--num-examples=1", "--batch-size=64", "--accelerator=cpu"]


def test_centers_of_groups_are_certified_and_answer_later(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = certify.main([f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, "--group=2", "--h", "0.5"])
    assert f"{2 * (8 + 100 + 400):,} evaluations per example" in capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["config"]["budget"]["group"] == 2
    (row,) = (out / "certificates.csv").read_text().splitlines()[1:]
    certify.main([f"--from={out}", "--h", "0.5"])
    assert format_up(summary["results"][0]["median_eps_out"]) in capsys.readouterr().out
    assert float(row.split(",")[3]) == summary["results"][0]["median_eps_out"]


def test_auto_takes_what_suits_the_smallest_h(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certify.main([f"--ckpt={checkpoint}", "--plan", "--group=auto", "--h", "0.5", "--batch-size=64"])
    printed = capsys.readouterr().out
    assert "group=16" in printed
    assert "n=625" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group=0"], "--group must be auto or a whole number of at least 1, got '0'"),
        (["--group=4", "--smoother=median", "--distance=l2"], "--group must be left out with --smoother=median, got 4"),
        (["--group=4", "--method=paper"], "group must be 1 for method='paper', got 4"),
        (["--group=auto", "--plan", "--time-limit=1m"], "--group must be a number with --time-limit"),
    ],
)
def test_groups_that_do_not_fit_are_refused(
    arguments: list[str], message: str, checkpoint: Path, refusal: Callable[[list[str]], str]
) -> None:
    assert message in refusal([f"--ckpt={checkpoint}", *arguments])
