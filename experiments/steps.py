"""Runs the commands of an experiment one after the other, with overall progress and the time left."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

Kind = Literal["train", "certify"]

# What the scripts print as they go on, by kind: how many of the step's parts are done.
_DONE: dict[Kind, tuple[re.Pattern[str], int]] = {
    "train": (re.compile(r"^epoch (\d+):"), 1),  # epochs count from 0
    "certify": (re.compile(r"^(\d+) of \d+ examples\b"), 0),
}
# Until a kind of step was measured: an image of a training costs about as much as six noisy copies.
_EVALUATIONS_PER_TRAINING_IMAGE = 6.0
_LAST_LINES = 5


@dataclass(frozen=True)
class Step:
    """One command."""

    kind: Kind  # of the command, which says what its output means
    title: str  # for the progress
    parts: int  # epochs of a training, examples of a certification
    work: float  # images, or noisy copies, of one part
    command: Callable[[], list[str]]  # gives the arguments of the Python process; called when its turn comes
    finished: Callable[[], bool]  # whether there is nothing to do


class Clock:
    """How long the steps that are left will take, from how long those before them took."""

    def __init__(self) -> None:
        self._work: dict[Kind, float] = {}
        self._seconds: dict[Kind, float] = {}

    def measured(self, kind: Kind, work: float, seconds: float) -> None:
        """Add what was measured."""
        self._work[kind] = self._work.get(kind, 0.0) + work
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    def seconds(self, kind: Kind, work: float) -> float | None:
        """Return the time that so much work takes; None before anything was measured."""
        other: tuple[Kind, float] = ("certify", _EVALUATIONS_PER_TRAINING_IMAGE)
        if kind == "certify":
            other = "train", 1.0 / _EVALUATIONS_PER_TRAINING_IMAGE
        for known, factor in ((kind, 1.0), other):
            if self._work.get(known):
                return work * factor * self._seconds[known] / self._work[known]
        return None


def run(steps: Sequence[Step], log: Path) -> None:
    """Run what is not finished.

    Raises:
        ValueError: if a command fails, with its last lines.
    """
    todo = [step for step in steps if not step.finished()]
    print(f"{len(todo)} of {len(steps)} steps to do, {len(steps) - len(todo)} are there already; their output: {log}")
    clock, console = Clock(), Console()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TextColumn("{task.fields[left]}"),
        console=console,
        auto_refresh=False,  # it would need a thread, and processes are started here
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=1.0, left="")
        for number, step in enumerate(todo):
            rest = todo[number + 1 :]

            def show(done: int, step: Step = step, rest: Sequence[Step] = rest, number: int = number) -> None:
                left = _seconds_left(clock, [(step, step.parts - done), *((later, later.parts) for later in rest)])
                whole = sum(_evaluations(each) * each.parts for each in todo)
                over = sum(_evaluations(each) * each.parts for each in todo[:number]) + _evaluations(step) * done
                text = f"[{number + 1}/{len(todo)}] {step.title}"
                bar.update(task, description=text, completed=over / whole, left=left, refresh=True)
                if not console.is_terminal:
                    print(f"{text}: {done} of {step.parts}, {over / whole:.0%} of all, {left}", flush=True)

            show(0)
            _run_one(step, log, clock, show)


def _evaluations(step: Step) -> float:
    """Return the work of one part of a step, in evaluations of the base function."""
    return step.work * (_EVALUATIONS_PER_TRAINING_IMAGE if step.kind == "train" else 1.0)


def _seconds_left(clock: Clock, parts: Sequence[tuple[Step, int]]) -> str:
    estimates = [clock.seconds(step.kind, step.work * count) for step, count in parts]
    if any(seconds is None for seconds in estimates):
        return "time left: not known yet"
    seconds = sum(seconds for seconds in estimates if seconds is not None)
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{int(seconds % 60):02} left"


def _run_one(step: Step, log: Path, clock: Clock, show: Callable[[int], None]) -> None:
    pattern, first = _DONE[step.kind]
    command = [sys.executable, *step.command()]
    lines: list[str] = []
    done, began = 0, time.perf_counter()
    with log.open("a") as file:
        print("$", *command, file=file, flush=True)
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            preexec_fn=_die_with_parent,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                lines = [*lines, line.strip()][-_LAST_LINES:]
                if (match := pattern.match(line)) and int(match[1]) + first > done:
                    now = time.perf_counter()
                    clock.measured(step.kind, step.work * (int(match[1]) + first - done), now - began)
                    done, began = int(match[1]) + first, now
                    show(done)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code != 0 or not step.finished():
        raise ValueError(f"{step.title} failed with exit code {code}; its last lines: {' | '.join(lines)}")


def _die_with_parent() -> None:
    """End with an experiment that was killed, on Linux. Elsewhere the command's next line of output ends it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # from linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
