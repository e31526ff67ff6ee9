"""What shows how far a certification is."""

import io
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import Progress

from callbacks import CertificationProgress
from callbacks.certification_progress import tracked

TRAINER, MODULE = cast(Trainer, SimpleNamespace(world_size=1)), LightningModule()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def certified(examples: int) -> CertificationProgress:
    progress = CertificationProgress(evaluations=100, finished=1, total=examples + 1)
    progress.on_predict_start(TRAINER, MODULE)
    for _ in range(examples):
        progress.advance(60)
        progress.advance(40)
        progress.on_predict_batch_end(TRAINER, MODULE)
    progress.on_predict_end(TRAINER, MODULE)
    return progress


def test_a_log_file_gets_a_line_for_each_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert certified(2).samples == 200
    said, errors = capsys.readouterr()
    assert [line.split(",")[0] for line in said.splitlines()] == ["2 of 3 examples", "3 of 3 examples"]
    assert all("samples/s, " in line and line.endswith(" left") for line in said.splitlines())
    assert not {"\r", "\x1b"} & {*said, *errors}


def test_a_log_file_gets_at_most_a_hundred_lines(capsys: pytest.CaptureFixture[str]) -> None:
    certified(999)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"{10 * percent} of 1000 examples" for percent in range(1, 101)]


def test_a_terminal_gets_one_bar_over_the_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    certified(2)
    assert "3 of 3 examples, " in terminal.getvalue()
    assert "samples/s" in terminal.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("finished", [0, 2])
def test_half_an_example_is_half_an_example_on_the_way(finished: int) -> None:
    progress = CertificationProgress(evaluations=100, finished=finished, total=finished + 4)
    progress.on_predict_start(TRAINER, MODULE)
    progress.advance(50)
    progress.seconds = 10.0
    assert progress._done() == finished + 0.5
    assert progress._line().endswith("5 samples/s, 70 s left")  # what an earlier run has finished took no time


def test_the_bar_of_a_training_counts_certified_examples() -> None:
    bar = Progress(console=Console(file=io.StringIO()), auto_refresh=False)
    trainer: Any = SimpleNamespace(progress_bar_callback=SimpleNamespace(progress=bar))
    seen = [
        (example, bar.tasks[-1].description, bar.tasks[-1].completed) for example in tracked(trainer, "ab", total=2)
    ]
    assert seen == [("a", "Certifying", 0), ("b", "Certifying", 1)]
    assert not bar.tasks
    assert list(tracked(cast(Trainer, SimpleNamespace(progress_bar_callback=None)), "ab", total=2)) == ["a", "b"]
