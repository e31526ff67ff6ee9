import re
from pathlib import Path

import pytest
from torch import Tensor

from benchmarks import best_sigma
from benchmarks.versus.rows import exact_budget
from benchmarks.versus_paper import test_digits as digits_of
from center_smoothing import CenterSmoother, TotalVariation
from lightning_modules import NoisyModule


class Dimmed(NoisyModule):
    """An autoencoder that takes no time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0.0, 1.0) / 2.0


def _model(path: Path, **_: object) -> tuple[NoisyModule, str]:
    return Dimmed(sigma=float(path.name)).eval(), "dimmed"


def _cells(printed: str, function: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if re.match(rf"\| {function}, n", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_smallest_radius_of_each_column_is_marked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(best_sigma, "base_model", _model)
    arguments = ["--n", "128", "--digits", "1", "--distance", "tv", "--eps-in", "0.05", "0.1"]
    best_sigma.main(["--ckpt", "0.5", "0.1", *arguments])

    printed = capsys.readouterr().out.rsplit("tv:", 1)[1]  # the tables with both
    small, large = _cells(printed, "center")
    assert (small[1], large[1]) == ("0.1", "0.5")
    for column in (2, 3):
        radii = {cell.strip("*"): cell for cell in (small[column], large[column])}
        least = min(radii, key=float)
        assert {value for value, cell in radii.items() if cell.startswith("**")} == {least}
    # of the digits of certify.py, under its noise
    model, budget = Dimmed(sigma=0.1).eval(), exact_budget(256, 512)
    index, x = next(digits_of(model, 1))
    certificate = CenterSmoother(model, TotalVariation(), sigma=0.1, budget=budget).certify(x, example=index)
    assert small[2].strip("*") == f"{certificate.eps_out(0.05):.3g}"
    assert small[0] == "center, n = 256, m = 512"
