"""A finished certification is read once, an example at a time, and its page stays small."""

import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch

from center_smoothing import CenterSmoother, SmoothingBudget, TotalVariation, safe_arrays
from results import html
from results.certified_fraction import FractionCurve
from results.finished import FinishedCertification, Question, spread
from results.folder import CertificationFolder
from results.html.content import Report, ReportExample
from results.html.page import render
from results.plots.examples import Picture
from results.rows import Row

BUDGET = SmoothingBudget(n=60, m=2000, k=8, delta=0.4)


def row(index: int, eps_out: float = 1.5) -> Row:
    return Row(index, 0.25, 0.1, eps_out, 0.5, False, 60, 200, 0.4, "exact", "T3", 1.0)


@pytest.fixture
def write(tmp_path: Path, write_folder: Callable[..., CertificationFolder]) -> Callable[[int], CertificationFolder]:
    """Writes a folder of so many examples with the same certificate."""
    smoother = CenterSmoother(torch.sigmoid, TotalVariation(), sigma=0.25, budget=BUDGET, batch_size=256)
    certificate = smoother.certify(torch.zeros(1, 8, 8))
    return lambda count: write_folder(tmp_path / str(count), dict.fromkeys(range(count), certificate))


def test_each_file_is_opened_once(write: Callable[..., CertificationFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opened, whole = write(12), Counter[Path](), safe_arrays._whole
    text, stays = Path.read_text, folder.table.read_bytes()

    def counted(path: Path, kind: str) -> AbstractContextManager[tuple[IO[bytes], int]]:
        opened[Path(path)] += 1
        return whole(path, kind)

    def read(path: Path, encoding: str | None = None) -> str:
        opened[path] += folder.path in path.parents
        return text(path, encoding=encoding)

    monkeypatch.setattr(safe_arrays, "_whole", counted)
    monkeypatch.setattr(Path, "read_text", read)
    page = html.report_of_folder(folder, promise="promise: all of it")
    render(page)
    wanted = {folder.summary, folder.table, *folder.path.glob("distances/*"), *folder.path.glob("outputs/*")}
    assert {path: count for path, count in opened.items() if folder.path in path.parents} == dict.fromkeys(wanted, 1)
    assert len(page.examples) == 12
    assert folder.table.read_bytes() == stays


def test_reading_takes_memory_for_the_examples_that_are_shown(write: Callable[..., CertificationFolder]) -> None:
    peaks = []
    for count in (20, 50):
        finished, question = FinishedCertification.open(write(count)), Question("eps_in", (0.1,), "pointwise")
        tracemalloc.start()
        read = finished.read(question)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert list(read.outputs) == list(range(10))
        assert len(read.answers[question].by_index) == count
    assert peaks[1] - peaks[0] < 30 * 8 * BUDGET.m / 2  # half of the distances alone


@pytest.mark.parametrize(("theorem", "factor", "is_read"), [("", 1.01, True), ("", 0.99, False), ("T3", 1.01, False)])
def test_rows_of_earlier_versions_may_have_larger_radii(
    theorem: str, factor: float, is_read: bool, write: Callable[..., CertificationFolder]
) -> None:
    folder = write(1)
    (found,) = folder.rows()
    folder.table.unlink()
    folder.append([replace(found, eps_out=found.eps_out * factor, theorem=theorem)])
    finished = FinishedCertification.open(folder)
    if is_read:
        assert finished.read().rows[0].eps_out == pytest.approx(found.eps_out * factor)
        return
    with pytest.raises(ValueError, match="its distances give"):
        finished.read()


def test_appending_does_not_read_the_table(tmp_path: Path) -> None:
    folder = CertificationFolder(tmp_path)
    folder.append([row(0)])
    line = (",".join(row(1).as_text()) + "\n").encode()
    with folder.table.open("ab") as file:
        file.write(line * (2 << 20 >> 6))
    tracemalloc.start()
    folder.append([row(2)])
    assert tracemalloc.get_traced_memory()[1] < 1 << 18
    tracemalloc.stop()
    assert [each.index for each in folder.rows()] == [0, 1, 2]


@pytest.mark.parametrize(("count", "most"), [(1000, 300), (7, 3), (3, 3), (2, 9), (5, 1)])
def test_shown_examples_are_spread_over_the_certified_radii(count: int, most: int) -> None:
    rows = [row(index, math.inf if index == 0 else float(index * 37 % count)) for index in range(count)]
    found = spread(rows, most)
    assert len(found) == min(most, count)
    ranks = sorted(sorted(range(count), key=lambda index: rows[index].eps_out).index(index) for index in found)
    assert ranks[0] == 0
    if most > 1:
        assert ranks[-1] == count - 1
        assert max(np.diff(ranks)) <= math.ceil((count - 1) / (len(found) - 1))


@pytest.mark.parametrize(("side", "count"), [(8, 300), (128, 180)])
def test_a_page_says_how_many_examples_it_shows_and_stays_small(side: int, count: int) -> None:
    noise = np.random.default_rng(0).random((side, side, 3))
    examples = [
        ReportExample(str(index), [row(index, float(index))], pictures=[Picture("input", noise)])
        for index in range(count)
    ]
    curve = FractionCurve.of(range(20_000), sigma=0.25, eps_in=0.1)
    page = render(Report("many", examples=examples, num_examples=20_000, fractions=[curve]))
    assert len(page) < 15e6
    shown = page.count("<article ")
    assert (shown == count) == (side == 8)
    assert f"{shown} of 20000 examples are shown, spread over the certified radii." in page
    assert "The rows of all of them are in certificates.csv" in page
    assert "all are in certified_fraction.csv" in page


def test_a_thinned_curve_is_never_above_the_whole_one() -> None:
    curve = FractionCurve.of([*range(1, 1000), math.inf], sigma=0.25, eps_in=0.1)
    thin = curve.thinned(30)
    assert len(thin.eps_out) == 30
    assert (thin.counts[0], thin.counts[-1]) == (0, 999)
    assert all(thin.count_at(at) <= curve.count_at(at) for at in np.linspace(0.0, 1100.0, 500))
    assert curve.thinned(5000) == curve
