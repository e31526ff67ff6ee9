import csv
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from callbacks import CertificateWriter
from center_smoothing import (
    CenterSmoother,
    CertificateBase,
    MeanBudget,
    MeanCertificate,
    MeanSmoother,
    SmoothingBudget,
    TotalVariation,
)
from center_smoothing.budget import COVERAGES, Coverage
from center_smoothing.promise import promise_line
from lightning_modules import CertifiedExample
from results import comparison, numbers, queries, terminal
from results.certified_fraction import COLUMNS_OF_SEVERAL, as_csv, certified_fractions, panels
from results.finished import FinishedCertification, Question
from results.folder import CertificationFolder
from results.html import curve_question, report_of, report_of_folder
from results.html.charts import fraction_steps
from results.plots.certificates import draw_certificates
from results.plots.examples import example_pictures
from results.plots.fractions import draw_fractions
from results.rows import Row
from results.summary import line_key, results_by_line, summarise

BUDGET, MEAN_BUDGET = SmoothingBudget(n=60, m=120, k=8, delta=0.4), MeanBudget(n=60, m=120)
EPS_IN = (0.1, 0.2)


def image(index: int) -> torch.Tensor:
    return torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(index))


def center_smoother() -> CenterSmoother:
    return CenterSmoother(torch.sigmoid, TotalVariation(), sigma=0.25, budget=BUDGET, batch_size=64)


def mean_smoother(clip_norm: float = 1.0) -> MeanSmoother:
    return MeanSmoother(
        torch.sigmoid, TotalVariation(), sigma=0.25, budget=MEAN_BUDGET, clip_norm=clip_norm, batch_size=64
    )


def write(
    folder: CertificationFolder, smoother: CenterSmoother | MeanSmoother, *, coverage: Coverage = "pointwise"
) -> dict[int, CertificateBase]:
    """Certify three images and write them as certify.py does."""
    folder.create()
    mean = isinstance(smoother, MeanSmoother)
    config: dict[str, Any] = {"smoother": "mean" if mean else "center", "budget": smoother.budget.as_dict()}
    config |= {"clip_norm": smoother.clip_norm} if mean else {}
    config |= {"relaxation": 1.0, "coverage": coverage, "sigma": 0.25, "distance": "TotalVariation(p=1)"}
    config |= {"eps_in": list(EPS_IN)}
    folder.write_summary({"config": config, "results": []})
    certificates = {index: smoother.certify(image(index), example=index) for index in (5, 2, 9)}
    examples = [
        CertifiedExample(index, image(index), smoother.outputs.base_output(image(index)), certificate, 1.0)
        for index, certificate in certificates.items()
    ]
    trainer: Any = SimpleNamespace(global_rank=0, world_size=1)
    module: Any = None
    writer = CertificateWriter(folder, eps_in=EPS_IN, coverage=coverage)
    writer.write_on_batch_end(trainer, module, examples, None, None, 0, 0)
    return certificates


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of means and of centers of the same images."""
    path = tmp_path_factory.mktemp("certified")
    for name, smoother in (("mean", mean_smoother()), ("center", center_smoother())):
        write(CertificationFolder(path / name), smoother)
    return path


@pytest.fixture
def means(certified: Path, tmp_path: Path) -> CertificationFolder:
    return CertificationFolder(shutil.copytree(certified / "mean", tmp_path / "mean"))


@pytest.fixture
def centers(certified: Path, tmp_path: Path) -> CertificationFolder:
    return CertificationFolder(shutil.copytree(certified / "center", tmp_path / "center"))


QUESTIONS = (
    Question("eps_in", EPS_IN, "pointwise"),
    Question("eps_in", (0.15,), "dkw"),
    Question("eps_out", (5.0,), "pointwise"),
)


def read(folder: CertificationFolder, *questions: Question) -> FinishedCertification:
    return FinishedCertification.open(folder).read(*questions)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_means_come_back_from_disk_with_all_answers(tmp_path: Path) -> None:
    folder = CertificationFolder(tmp_path)
    made, found = write(folder, mean_smoother(), coverage="dkw"), folder.certificates()
    assert list(found) == list(made) == [5, 2, 9]
    for original, restored in zip(made.values(), found.values(), strict=True):
        assert isinstance(restored, MeanCertificate)
        for coverage in COVERAGES:
            for ask in ("eps_out", "eps_in"):
                answers = getattr(original, ask)([0.0, 0.3, 2.0])
                assert np.array_equal(getattr(restored, ask)([0.0, 0.3, 2.0], coverage=coverage), answers)
    for row in folder.rows():
        assert (row.method, row.smoother, row.delta, row.n, row.m) == ("mean", "mean", 0.0, 60, 120)
        assert row.eps_out == made[row.index].eps_out(row.eps_in)


def test_a_row_by_another_theorem_than_its_certificate_is_damaged(means: CertificationFolder) -> None:
    text = means.table.read_text()
    means.table.write_text(text.replace(",T12,", ",,").replace(",T11,", ",,"))
    assert FinishedCertification.open(means).read().rows[0].theorem == ""
    means.table.write_text(text.replace(",T12,", ",T3,").replace(",T11,", ",T3,"))
    with pytest.raises(ValueError, match="is certified by T3 at eps_in="):
        FinishedCertification.open(means).read()


def test_without_its_bound_a_mean_is_damaged(means: CertificationFolder) -> None:
    with np.load(means.outputs(2)) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "bound"}
    np.savez(means.outputs(2), **kept)
    with pytest.raises(ValueError, match="damaged certification"):
        means.certificates()


@pytest.mark.parametrize(
    "wrong", [{}, {"budget": {"n": 60, "m": 50}}, {"budget": BUDGET.as_dict()}, {"smoother": "center"}]
)
def test_a_configuration_of_something_else_is_damaged(means: CertificationFolder, wrong: dict[str, Any]) -> None:
    summary = means.read_summary()
    assert summary is not None
    config = {**summary["config"], **wrong} if wrong else {"smoother": "mean"}
    means.write_summary({**summary, "config": config})
    with pytest.raises(ValueError, match="damaged certification"):
        means.certificates()


def test_the_base_output_that_is_kept_is_clipped(means: CertificationFolder, centers: CertificationFolder) -> None:
    distance = TotalVariation()
    with np.load(means.outputs(2)) as clipped, np.load(centers.outputs(2)) as whole:
        norms = [float(distance(torch.zeros(1, 1, 4, 4), torch.from_numpy(arrays["base"])[None]))
                 for arrays in (clipped, whole)]  # fmt: skip
    assert norms[0] == pytest.approx(1.0, rel=1e-6)
    assert norms[1] > 1.5
    assert [picture.name for picture in example_pictures(read(means), 2).pictures] == [
        "input", "clipped base output", "smoothed output",
    ]  # fmt: skip


def test_answers_of_means_promise_all_at_once(means: CertificationFolder) -> None:
    finished = read(means, Question("eps_in", EPS_IN, "bonferroni"))
    (table,) = finished.answers.values()
    assert table.by_index == {row.index: tuple(other.eps_out for other in means.rows() if other.index == row.index)
                              for row in means.rows()}  # fmt: skip
    (*_, promise) = queries.lines(finished)
    assert promise == promise_line(MEAN_BUDGET, repr(TotalVariation()), coverage="pointwise")


@pytest.mark.parametrize(
    ("result", "several_levels", "line"),
    [
        ({"h": 1.5}, False, ""),
        ({"h": 1.5}, True, "h=1.5"),
        ({"h": 1.0, "label": "a"}, False, "a"),
        ({"h": 1.0, "label": "b"}, True, "b"),
    ],
)
def test_what_sets_a_line_apart(result: dict[str, Any], several_levels: bool, line: str) -> None:
    assert line_key(result, several_levels=several_levels) == line


def test_lines_are_in_the_order_of_h_and_their_points_in_that_of_eps_in() -> None:
    results = [{"h": h, "eps_in": eps_in} for h in (2.0, 1.0) for eps_in in (0.4, 0.2)]
    found = results_by_line(results, several_levels=True)
    assert list(found) == ["h=1", "h=2"]
    assert all([result["eps_in"] for result in line] == [0.2, 0.4] for line in found.values())


@pytest.fixture(scope="module")
def compared(certified: Path) -> dict[str, FinishedCertification]:
    opened = comparison.open_all([str(certified / "center"), str(certified / "mean")])
    return {label: each.read(*QUESTIONS, curve_question(each, EPS_IN, "pointwise")) for label, each in opened.items()}


@pytest.fixture(scope="module")
def rows(compared: dict[str, FinishedCertification]) -> dict[str, list[Row]]:
    return {label: comparison.rows_at(each, EPS_IN, coverage="pointwise") for label, each in compared.items()}


def test_compared_folders_have_their_own_rows_and_answers_at_other_radii(
    compared: dict[str, FinishedCertification], rows: dict[str, list[Row]]
) -> None:
    assert list(compared) == ["center", "mean"]
    for label, each in compared.items():
        assert rows[label] == each.folder.rows()
        (other, *_) = comparison.rows_at(each, [0.15], coverage="dkw")
        assert other.eps_out == each.folder.certificates()[other.index].eps_out(0.15, coverage="dkw")
    assert comparison.asked_radii(compared) == list(EPS_IN)


def test_compared_folders_stand_side_by_side_on_the_terminal(
    compared: dict[str, FinishedCertification], rows: dict[str, list[Row]]
) -> None:
    inputs = {label: each.answers[QUESTIONS[-1]] for label, each in compared.items()}
    found = comparison.lines(compared, rows, inputs, coverage="pointwise")
    assert "  differ in smoother: center center, mean mean" in found
    assert "  differ in clip_norm: center none, mean 1.0" in found
    assert not any("budget" in line for line in found)
    table = [line.split() for line in found if line.startswith(("center  ", "mean  "))]
    assert [line[0] for line in table] == 3 * ["center", "mean"]
    for line, result in zip(table, comparison.results(compared, rows), strict=False):
        assert line[3] == numbers.format_up(result["median_eps_out"])
    for line, column in zip(table[4:], (table.column(0) for table in inputs.values()), strict=True):
        assert line[2] == numbers.format_down(sorted(column)[1])
    assert any(line.startswith("center: promise (pointwise)") for line in found)
    assert any(line.startswith("mean: promise (mean): ") for line in found)
    assert found[-1] == comparison.TWO_FUNCTIONS


def test_the_report_of_compared_folders(
    compared: dict[str, FinishedCertification], rows: dict[str, list[Row]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    written = comparison.write(compared, rows, out, coverage="pointwise")
    assert {path.name for path in written} == {path.name for path in out.iterdir()}
    page = (out / "report.html").read_text()
    for words in (
        comparison.TWO_FUNCTIONS, "center: For one example and one change of it ", "mean: For one example and one ",
        "mean: The smoothed output is the mean of 60 outputs", "center, eps_in = 0.1 (h = 0.4)",
    ):  # fmt: skip
        assert words in page
    assert page.count("Nothing where the smoothed function abstains") == 1
    places = [page.index(f"Example {index}, {label}</h3>") for index in (5, 2, 9) for label in compared]
    assert places == sorted(places)
    steps = list(csv.reader((out / "certified_fraction.csv").read_text().splitlines()))
    assert tuple(steps[0]) == COLUMNS_OF_SEVERAL
    for label, each in compared.items():
        alone = list(csv.reader(as_csv(certified_fractions(each.folder.rows())).splitlines()))
        assert [step[1:] for step in steps if step[0] == label] == alone[1:]
    for picture in (out / "certificates.png", out / "certified_fraction.png"):
        with Image.open(picture) as pixels:
            assert min(pixels.size) > 400


def test_the_picture_of_compared_fractions_has_a_style_for_each_folder(rows: dict[str, list[Row]]) -> None:
    curves = [curve for label, own in rows.items() for curve in certified_fractions(own, label=label)]
    assert [len(group) for _, group in panels(curves)] == [4]
    assert fraction_steps(curves)["titles"] == ["Folder", "sigma", "eps_in", "eps_out", "Certified"]
    (axis,) = draw_fractions(curves, "title").axes
    looks = {str(line.get_label()): (line.get_color(), line.get_linestyle()) for line in axis.get_lines()}
    assert list(looks) == [
        "center, eps_in = 0.1 (h = 0.4)", "center, eps_in = 0.2 (h = 0.8)",
        "mean, eps_in = 0.1 (h = 0.4)", "mean, eps_in = 0.2 (h = 0.8)",
    ]  # fmt: skip
    first, second, third, fourth = looks.values()
    assert first[0] == third[0] != second[0] == fourth[0]
    assert first[1] == second[1] != third[1] == fourth[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distance": "Angular()"}, "one distance to compare them, got distance TotalVariation(p=1) and Angular()"),
        ({"distance_sha256": "0"}, "one distance to compare them, got distance_sha256 None and 0"),
        ({"num_examples": 9}, "must be a finished folder"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    means: CertificationFolder, centers: CertificationFolder, changes: dict[str, Any], words: str
) -> None:
    summary = means.read_summary() or {}
    summary["config"] |= changes
    means.write_summary(summary)
    with pytest.raises(ValueError, match=re.escape(words)):
        comparison.open_all([str(centers.path), str(means.path)])
    with pytest.raises(ValueError, match="must name different folders"):
        comparison.open_all([str(centers.path), f"{centers.path.parent}/mean/../center"])


def test_labels_are_as_short_as_they_can_be(centers: CertificationFolder, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(centers.path, tmp_path / name / "center")
    assert list(comparison.open_all([str(tmp_path / name / "center") for name in "ab"])) == ["a/center", "b/center"]


def test_the_picture_of_means_alone_calls_their_center_a_mean(means: CertificationFolder) -> None:
    figure = draw_certificates(read(means), means.rows(), summarise(means.rows(), 0.25), "title")
    assert "median smoothing loss d(f(x), mean)" in texts(figure)
    assert "median certified radius eps_out" in texts(figure)


def test_the_plan_rounds_what_is_not_sampled_up() -> None:
    found = terminal.plan_lines(mean_smoother(7.0), levels={0.25: [0.1], 0.5: [0.5, 1.0]}, num_examples=4)
    assert "method=mean, n=60, m=120, clip_norm=7, alpha=0.01" in found[0]
    assert [line.split()[:3] for line in found[2:5]] == [["0.25", "0.4", "0.1"], ["0.5", "1", "0.5"], ["0.5", "2", "1"]]
    for line, h in zip(found[2:5], (0.4, 1.0, 2.0), strict=True):
        tail = MEAN_BUDGET.plan(h).tail_at_bound
        assert float(line.split()[3]) >= tail
        assert float(line.split()[4]) >= 14.0 * tail
    assert "180 evaluations per example and sigma, 1,440 in all" in found[5]
    promised = MeanSmoother(torch.sigmoid, TotalVariation(), sigma=0.25, budget=MEAN_BUDGET, bound=3.0)
    assert "output_bound=3, alpha" in terminal.plan_lines(promised, levels={0.25: [0.1]}, num_examples=1)[0]


@pytest.mark.parametrize(("kind", "words"), [("means", "at the bound on distances"), ("centers", "outside every ball")])
def test_non_finite_outputs_are_noted(kind: str, words: str, request: pytest.FixtureRequest) -> None:
    folder: CertificationFolder = request.getfixturevalue(kind)
    assert terminal.non_finite_lines(read(folder)) == []
    for index, bad in ((9, 2), (2, 1)):
        distances = np.load(folder.distances(index))
        distances[-bad:] = math.inf
        np.save(folder.distances(index), distances)
    folder.write_rows(
        row
        for index, certificate in folder.certificates().items()
        for row in Row.of(index, certificate, eps_in=EPS_IN, coverage="pointwise", seconds=1.0)
    )
    (line,) = terminal.non_finite_lines(read(folder))
    assert f"NaN or inf 3 times, around examples 2, 9: such outputs count as {words}" in line


def test_the_report_of_means_says_what_was_smoothed(compared: dict[str, FinishedCertification]) -> None:
    finished = compared["mean"]
    found = report_of(finished, promise=finished.promise("pointwise"))
    assert "The smoothed output is the mean of 60 outputs under noise, not their center." in found.summary
    assert any("clip_norm = 1 from zero are scaled down" in item for item in found.reading)
    assert any("whose output is the mean of the base model's outputs" in item for item in found.not_promised)
    assert not any("several eps_in" in item for item in found.not_promised)
    certificates = finished.folder.certificates()
    assert len(found.curves[0].eps_in) > 50
    for example in found.examples:
        expected = certificates[int(example.name)].eps_out(example.eps_in)
        assert np.array_equal(example.eps_out, expected)


def test_a_report_of_means_at_no_radius_but_zero_still_has_a_curve(means: CertificationFolder) -> None:
    summary, certificate = means.read_summary() or {}, means.certificates()[5]
    means.write_summary({**summary, "config": {**summary["config"], "eps_in": [0.0]}})
    means.write_rows(Row.of(5, certificate, eps_in=[0.0], coverage="pointwise", seconds=1.0))
    (curve,) = report_of_folder(means, promise="promise: all of it").curves
    assert curve.eps_in[-1] == pytest.approx(0.5)
    assert np.isfinite(curve.eps_out).all()
