"""Tiny certifications, and how the scripts refuse what they cannot do."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import certify
from results.plots.certificates import draw_certificates
from results.plots.fractions import draw_fractions

TINY = ["--n=100", "--m=400", "--num-examples=1", "--batch-size=64", "--accelerator=cpu"]
CENTERS = [*TINY, "--k=8"]
# What draws figures, and where it is looked for.
DRAW = {
    "certification.conclusion.draw_certificates": draw_certificates,
    "results.plots.fractions.draw_fractions": draw_fractions,
}


@dataclass(frozen=True)
class Done:
    """A finished certification: its folder, and what it said."""

    folder: Path
    lines: list[str]


@contextmanager
def shown() -> Iterator[None]:
    """Draw figures, and log to W&B offline: few certifications here do, as it takes longer than their sampling."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        for place, draw in DRAW.items():
            patch.setattr(place, draw)
        yield


def run(checkpoint: Path, out: Path, *arguments: str) -> Path:
    """Certify a digit or a few; return the folder."""
    small = TINY if any(word.startswith("--smoother") for word in arguments) else CENTERS
    folder = certify.main([f"--ckpt={checkpoint}", f"--out={out}", *small, *arguments])
    assert folder is not None
    return folder


def listened(*arguments: str) -> Done:
    """Certify; return the folder and the lines on the terminal."""
    with redirect_stdout(io.StringIO()) as said:
        folder = certify.main(list(arguments))
    assert folder is not None
    return Done(folder, said.getvalue().splitlines())


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def rows(folder: Path) -> list[dict[str, str]]:
    """Of certificates.csv, without the seconds."""
    found = table(folder / "certificates.csv")
    return [{name: cell for name, cell in row.items() if name != "seconds"} for row in found]


def radii(folder: Path) -> list[float]:
    return [float(row["eps_out"]) for row in rows(folder)]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())  # type: ignore[no-any-return]


def refused(
    capsys: pytest.CaptureFixture[str], *arguments: str, main: Callable[[Sequence[str]], object] = certify.main
) -> str:
    """The one line of an error with exit code 2, beside those of W&B, whose runs share the console of many tests."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    assert exit_info.value.code == 2
    stderr = capsys.readouterr().err
    (line,) = [line for line in stderr.splitlines() if line and not line.startswith("wandb:")]
    assert line.startswith("error: ")
    return line
