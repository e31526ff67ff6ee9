import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import steps
from experiments.steps import Clock, Kind, Step, run


def step(tmp_path: Path, name: str, code: str, *, kind: Kind = "certify", parts: int = 2) -> Step:
    """A step whose Python code leaves a file."""
    code = f"import pathlib, sys, time\n{code}\npathlib.Path({str(tmp_path / name)!r}).touch()"
    return Step(kind, name, parts, 10.0, lambda: ["-c", code], (tmp_path / name).exists)


def test_steps_run_in_their_order_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"print(sorted(p.name for p in pathlib.Path({str(tmp_path)!r}).iterdir() if p.name != 'log'))"
    steps = [step(tmp_path, name, code) for name in ("a", "b")]
    run(steps, tmp_path / "log")
    assert re.findall(r"^\[.*\]$", (tmp_path / "log").read_text(), flags=re.MULTILINE) == ["[]", "['a']"]
    capsys.readouterr()
    run(steps, tmp_path / "log")
    assert "0 of 2 steps to do" in capsys.readouterr().out


def test_progress_counts_what_the_scripts_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = "print('epoch 0: val/loss 1'); time.sleep(0.1); print('epoch 1: val/loss 1')"
    certify = "print('1 of 2 examples, 5 samples/s'); print('2 of 2 examples, 5 samples/s')"
    run([step(tmp_path, "a", train, kind="train"), step(tmp_path, "b", certify)], tmp_path / "log")
    shown = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(",")[0] for line in shown] == [
        *(f"[1/2] a: {done} of 2" for done in range(3)),
        *(f"[2/2] b: {done} of 2" for done in range(3)),
    ]
    assert "not known yet" in shown[0]
    assert all(re.search(r"\d:\d\d:\d\d left$", line) for line in shown[1:])
    assert "100% of all, 0:00:00 left" in shown[-1]


def test_a_step_that_fails_is_named_with_its_last_lines(tmp_path: Path) -> None:
    failing = step(tmp_path, "certify at sigma=0.1", "print('error: no such thing', file=sys.stderr); sys.exit(2)")
    with pytest.raises(ValueError, match=r"certify at sigma=0\.1 failed with exit code 2.*error: no such thing"):
        run([failing, step(tmp_path, "later", "")], tmp_path / "log")
    assert not (tmp_path / "later").exists()


def test_a_step_that_ends_without_its_result_has_failed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="failed with exit code 0"):
        run([Step("train", "nothing", 1, 1.0, lambda: ["-c", "pass"], lambda: False)], tmp_path / "log")


def test_time_left_follows_what_was_measured() -> None:
    clock = Clock()
    assert clock.seconds("certify", 100.0) is None
    clock.measured("train", work=100.0, seconds=60.0)
    assert clock.seconds("train", 50.0) == pytest.approx(30.0)
    assert clock.seconds("certify", 60.0) == pytest.approx(6.0)
    clock.measured("certify", work=100.0, seconds=1.0)
    assert clock.seconds("certify", 60.0) == pytest.approx(0.6)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_experiment_leaves_no_command_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = tmp_path / "alive"
    touch = f"pathlib.Path({str(alive)!r}).touch(); time.sleep(0.02)"
    code = f"print('1 of 2 examples', flush=True)\nfor _ in range(500): {touch}"

    def say(*words: object, **_: object) -> None:
        if "certify: 1 of 2" in str(words[0]):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(steps, "print", say, raising=False)
    with pytest.raises(KeyboardInterrupt):
        run([step(tmp_path, "certify", code)], tmp_path / "log")
    alive.unlink(missing_ok=True)
    time.sleep(0.2)
    assert not alive.exists()
    assert not (tmp_path / "certify").exists()  # which it leaves at its end


def test_a_killed_experiment_leaves_no_command_behind(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    alive = tmp_path / "alive"
    says = "" if sys.platform == "linux" else "print('1 of 2 examples', flush=True); "  # elsewhere that ends it
    child = f"import time, pathlib\nwhile True: {says}pathlib.Path({str(alive)!r}).write_text('x'); time.sleep(0.02)"
    parent = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from experiments.steps import Step, run\nfrom pathlib import Path\n"
        f"run([Step('train', 'a', 1, 1.0, lambda: ['-c', {child!r}], lambda: False)], Path({str(tmp_path / 'log')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not alive.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive.exists()
    process.kill()
    process.wait()
    time.sleep(0.2)
    alive.unlink()
    time.sleep(0.3)
    assert not alive.exists()
