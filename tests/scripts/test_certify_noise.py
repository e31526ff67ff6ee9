"""certify.py with exact noise on a grid, and with groups of noisy outputs."""

from pathlib import Path

import pytest

import certify
from center_smoothing.scalars import format_up
from results.terminal import grid_line
from tests.scripts.running import CENTERS, Done, listened, radii, refused, run, summary

TINY = [*CENTERS, "--h=1"]


@pytest.fixture(scope="module")
def done(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    out = tmp_path_factory.mktemp("discrete")
    return listened(f"--ckpt={checkpoint}", f"--out={out}", *TINY, "--noise=discrete", "--grid=10")


def test_the_folder_says_what_noise_it_was(checkpoint: Path, tmp_path: Path) -> None:
    folder = run(checkpoint, tmp_path, "--h=1", "--noise=discrete")
    found = summary(folder)
    assert (found["config"]["noise"], found["config"]["grid"]) == ("discrete", 4080)
    assert 0.0 < found["grid_change"]["largest"] < 1e-7  # 8-bit images: what float32 leaves of k / 255
    assert "grid of 1/4080" in (folder / "report.html").read_text()


def test_the_plan_and_the_promise_speak_of_the_grid(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    plan, promise = (
        "  noise: discrete, exact on a grid of 10 steps per unit; rounding the inputs to it changes no value",
        "; inputs and changes are those of a grid of 1/10, and rounding is included",
    )
    assert sum(line.startswith(plan) for line in done.lines) == 1
    assert sum(promise in line for line in done.lines) == 1
    certify.main([f"--from={done.folder}", "--eps-in=0.1"])
    assert promise in capsys.readouterr().out


def test_the_plan_says_whether_only_float32_rounds() -> None:
    assert grid_line(4080, (2.0**-25, 1e-7)).endswith(": none beyond the rounding of float32")
    assert grid_line(10, (0.05, 0.9)).endswith("no value by more than 0.0502, and none in l2 norm by more than 0.904")


def test_noises_are_not_mixed_in_a_folder(checkpoint: Path, done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--noise=discrete", "--grid=255"]):
        line = refused(capsys, f"--ckpt={checkpoint}", f"--out={done.folder}", *TINY, *arguments)
        assert "holds a certification with" in line


def test_centers_of_groups_are_certified_and_answer_later(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(checkpoint, tmp_path, "--group=2", "--h=0.5")
    assert f"{2 * (8 + 100 + 400):,} evaluations per example" in capsys.readouterr().out
    found = summary(out)
    assert found["config"]["budget"]["group"] == 2
    certify.main([f"--from={out}", "--h=0.5"])
    assert format_up(found["results"][0]["median_eps_out"]) in capsys.readouterr().out
    assert radii(out) == [found["results"][0]["median_eps_out"]]


def test_auto_takes_what_suits_the_smallest_h(capsys: pytest.CaptureFixture[str]) -> None:
    certify.main(["--sigma=0.25", "--plan", "--group=auto", "--h=0.5"])
    printed = capsys.readouterr().out
    assert "group=16" in printed
    assert "n=625" in printed
