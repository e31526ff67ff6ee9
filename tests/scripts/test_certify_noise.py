"""certify.py with exact noise on a grid."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import certify
from results.terminal import grid_line

TINY = ["--n=100", "--m=400", "--k=8", "--num-examples=2", "--batch-size=64", "--accelerator=cpu", "--h=1"]


@pytest.fixture(scope="module")
def discrete(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("discrete")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        certify.main([f"--ckpt={checkpoint}", f"--out={out}", *TINY, "--noise=discrete"])
    return out


def test_the_folder_says_what_noise_it_was(discrete: Path) -> None:
    summary = json.loads((discrete / "summary.json").read_text())
    assert (summary["config"]["noise"], summary["config"]["grid"]) == ("discrete", 4080)
    assert 0.0 < summary["grid_change"]["largest"] < 1e-7  # 8-bit images: what float32 leaves of k / 255
    assert "grid of 1/4080" in (discrete / "report.html").read_text()


def test_the_plan_and_the_promise_speak_of_the_grid(
    checkpoint: Path,
    discrete: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    arguments = [f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, "--num-examples=1"]
    certify.main([*arguments, "--noise=discrete", "--grid=10"])
    output = capsys.readouterr().out
    assert (
        "  noise: discrete, exact on a grid of 10 steps per unit; rounding the inputs to it changes no value" in output
    )
    assert output.count("; inputs and changes are those of a grid of 1/10, and rounding is included") == 1
    certify.main([f"--from={discrete}", "--eps-in=0.1"])
    assert "; inputs and changes are those of a grid of 1/4080, and rounding is included" in capsys.readouterr().out


def test_the_plan_says_whether_only_float32_rounds() -> None:
    assert grid_line(4080, (2.0**-25, 1e-7)).endswith(": none beyond the rounding of float32")
    assert grid_line(10, (0.05, 0.9)).endswith("no value by more than 0.0502, and none in l2 norm by more than 0.904")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--grid=255"], "--grid is of discrete noise: it needs --noise discrete, got gaussian"),
        (["--noise=laplace"], "--noise must be one of gaussian, discrete, uniform, got 'laplace'"),
        (["--noise=discrete", "--grid=0"], "--grid must be a whole number of at least 1, got '0'"),
        (["--noise=discrete", "--grid=1e9"], "grid must be such that sigma * grid"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    arguments: list[str], named: str, checkpoint: Path, tmp_path: Path, refusal: Callable[[list[str]], str]
) -> None:
    assert named in refusal([f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, *arguments])


def test_noises_are_not_mixed_in_a_folder(checkpoint: Path, discrete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--noise=discrete", "--grid=255"]):
        with pytest.raises(SystemExit, match="2"):
            certify.main([f"--ckpt={checkpoint}", f"--out={discrete}", *TINY, *arguments])
        assert "holds a certification with" in capsys.readouterr().err
