import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from callbacks import CertificateWriter, CertificationFolder, Row, draw, summarise
from callbacks import certification_answers as answers
from callbacks import certification_report as report
from callbacks.certification_folder import AnyCertificate, line_of, lines
from callbacks.certified_fraction import COLUMNS_OF_SEVERAL, as_csv, certified_fractions, panels
from callbacks.certified_fraction_plot import draw_fractions
from callbacks.example_pictures import example_pictures
from callbacks.html_report import Report, render, report_of_folder, report_of_folders, said
from callbacks.html_report.charts import fraction_steps
from center_smoothing import (
    CenterSmoother,
    MeanBudget,
    MeanCertificate,
    MeanSmoother,
    SmoothingBudget,
    TotalVariation,
)
from center_smoothing.budget import Coverage
from center_smoothing.promise import promise_line
from lightning_modules import CertifiedExample

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
) -> dict[int, AnyCertificate]:
    """Certify three images and write them as certify.py does."""
    folder.create()
    mean = isinstance(smoother, MeanSmoother)
    config: dict[str, Any] = {"smoother": "mean" if mean else "center", "budget": smoother.budget.as_dict()}
    config |= {"clip_norm": smoother.clip_norm} if mean else {}
    config |= {"relaxation": 1.0, "coverage": coverage, "sigma": 0.25, "distance": "TotalVariation(p=1)"}
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


@pytest.fixture
def means(tmp_path: Path) -> CertificationFolder:
    folder = CertificationFolder(tmp_path / "mean")
    write(folder, mean_smoother())
    return folder


@pytest.fixture
def centers(tmp_path: Path) -> CertificationFolder:
    folder = CertificationFolder(tmp_path / "center")
    write(folder, center_smoother())
    return folder


def results_of(*folders: CertificationFolder) -> list[dict[str, Any]]:
    return [
        {"smoother": folder.rows()[0].smoother, **result}
        for folder in folders
        for result in summarise(folder.rows(), 0.25)
    ]


def page_of(folder: CertificationFolder) -> Report:
    budget = MEAN_BUDGET if folder.rows()[0].smoother == "mean" else BUDGET
    promise = promise_line(budget, TotalVariation(), coverage="pointwise")
    return report_of_folder(folder, folder.rows(), promise=promise)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.mark.parametrize("coverage", ["pointwise", "bonferroni", "dkw"])
def test_means_come_back_from_disk_with_all_answers(tmp_path: Path, coverage: Coverage) -> None:
    folder = CertificationFolder(tmp_path)
    made, found = write(folder, mean_smoother(), coverage=coverage), folder.certificates()
    questions = np.linspace(0.0, 2.0, 9)
    assert list(found) == list(made) == [5, 2, 9]
    for original, restored in zip(made.values(), found.values(), strict=True):
        assert isinstance(restored, MeanCertificate)
        assert np.array_equal(restored.eps_out(questions, coverage=coverage), original.eps_out(questions))
        assert np.array_equal(restored.eps_in(questions, coverage=coverage), original.eps_in(questions))
    for row in folder.rows():
        assert (row.method, row.smoother, row.delta, row.n, row.m) == ("mean", "mean", 0.0, 60, 120)
        assert row.eps_out == made[row.index].eps_out(row.eps_in)


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
    assert [picture.name for picture in example_pictures(means, 2).pictures] == [
        "input", "clipped base output", "smoothed output",
    ]  # fmt: skip


def test_pictures_of_both_stand_beside_each_other(means: CertificationFolder, centers: CertificationFolder) -> None:
    found = example_pictures({"center": centers, "mean": means}, 2)
    assert [picture.name for picture in found.pictures] == [
        "input", "base output", "smoothed output, center", "clipped base output", "smoothed output, mean",
    ]  # fmt: skip
    assert found.words == []
    with np.load(means.outputs(2)) as arrays:
        assert np.array_equal(found.pictures[-1].array[..., 0], arrays["smoothed"][0])


def test_answers_of_means_promise_all_at_once(means: CertificationFolder) -> None:
    certificates = answers.certificates_of_finished(means)
    table = answers.output_radii(certificates, EPS_IN, coverage="bonferroni")
    assert table.by_index == {row.index: tuple(other.eps_out for other in means.rows() if other.index == row.index)
                              for row in means.rows()}  # fmt: skip
    (*_, promise) = answers.lines(means, certificates, [table])
    assert promise == promise_line(MEAN_BUDGET, repr(TotalVariation()), coverage="pointwise")


@pytest.mark.parametrize("key", ["smoother", "sigma"])
def test_a_folder_above_others_is_not_asked(means: CertificationFolder, tmp_path: Path, key: str) -> None:
    above = CertificationFolder(tmp_path)
    above.write_summary({"config": {"smoother": "mean", key: ["a", "b"]}})
    with pytest.raises(
        ValueError, match=f"folder of one {'smoother' if key == 'smoother' else 'noise level'}"
    ) as error:
        answers.certificates_of_finished(above)
    assert str(means.path) in str(error.value)


@pytest.mark.parametrize(
    ("result", "several_levels", "line"),
    [
        ({"h": 1.5}, False, ()),
        ({"h": 1.5}, True, ("h=1.5",)),
        ({"h": 1.0, "smoother": "mean"}, False, ("mean",)),
        ({"h": 1.0, "smoother": "center"}, True, ("center", "h=1")),
    ],
)
def test_what_sets_a_line_apart(result: dict[str, Any], several_levels: bool, line: tuple[str, ...]) -> None:
    assert line_of(result, several_levels=several_levels) == line


def test_lines_are_in_the_order_of_h_and_their_points_in_that_of_eps_in() -> None:
    results = [
        {"smoother": smoother, "h": h, "eps_in": eps_in}
        for smoother in ("center", "mean") for h in (2.0, 1.0) for eps_in in (0.4, 0.2)
    ]  # fmt: skip
    found = lines(results, several_levels=True)
    assert list(found) == [("center", "h=1"), ("mean", "h=1"), ("center", "h=2"), ("mean", "h=2")]
    assert all([result["eps_in"] for result in line] == [0.2, 0.4] for line in found.values())
    assert list(lines(results, several_levels=False)) == [("center",), ("mean",)]


def test_fractions_of_both_are_curves_of_their_own(means: CertificationFolder, centers: CertificationFolder) -> None:
    both = certified_fractions([*centers.rows(), *means.rows()])
    assert [(curve.smoother, curve.eps_in) for curve in both] == [
        ("center", 0.1), ("mean", 0.1), ("center", 0.2), ("mean", 0.2),
    ]  # fmt: skip
    for folder, kind in ((centers, "center"), (means, "mean")):
        alone = certified_fractions(folder.rows())
        assert {curve.smoother for curve in alone} == {""}
        assert [curve.counts for curve in alone] == [curve.counts for curve in both if curve.smoother == kind]
    table = list(csv.reader(as_csv(both).splitlines()))
    assert tuple(table[0]) == COLUMNS_OF_SEVERAL
    assert {row[0] for row in table[1:]} == {"center", "mean"}
    assert fraction_steps(both)["titles"] == ["Smoother", "sigma", "eps_in", "eps_out", "Certified"]
    assert all(len(row) == 5 for row in fraction_steps(both)["rows"])
    assert [len(group) for _, group in panels(both)] == [4]


def test_the_picture_of_fractions_has_a_colour_for_each_radius_and_a_style_for_each_smoother(
    means: CertificationFolder, centers: CertificationFolder
) -> None:
    (axis,) = draw_fractions(certified_fractions([*centers.rows(), *means.rows()]), "title").axes
    looks = {str(line.get_label()): (line.get_color(), line.get_linestyle()) for line in axis.get_lines()}
    assert list(looks) == [
        "center, eps_in = 0.1 (h = 0.4)", "center, eps_in = 0.2 (h = 0.8)",
        "mean, eps_in = 0.1 (h = 0.4)", "mean, eps_in = 0.2 (h = 0.8)",
    ]  # fmt: skip
    first, second, third, fourth = looks.values()
    assert first[0] == third[0] != second[0] == fourth[0]
    assert first[1] == second[1] != third[1] == fourth[1]


@pytest.mark.filterwarnings("error")
def test_the_picture_of_both_has_a_line_and_a_loss_for_each(
    means: CertificationFolder, centers: CertificationFolder, tmp_path: Path
) -> None:
    rows, results = [*centers.rows(), *means.rows()], results_of(centers, means)
    figure = draw({"center": centers, "mean": means}, rows, results, "a title " * 30)
    figure.savefig(tmp_path / "both.png", dpi=40)
    curves = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    for kind, folder in (("center", centers), ("mean", means)):
        medians = [result["median_eps_out"] for result in summarise(folder.rows(), 0.25)]
        assert list(curves[f"median certified radius eps_out, {kind}"].get_ydata()) == medians
        losses = [result["median_smoothing_loss"] for result in summarise(folder.rows(), 0.25)]
        assert list(curves[f"median smoothing loss d(f(x), {kind})"].get_ydata()) == losses
    assert {"smoothed\noutput,\ncenter", "smoothed\noutput,\nmean", "clipped\nbase output"} <= set(texts(figure))


def test_the_picture_of_means_alone_calls_their_center_a_mean(means: CertificationFolder) -> None:
    figure = draw(means, means.rows(), summarise(means.rows(), 0.25), "title")
    assert "median smoothing loss d(f(x), mean)" in texts(figure)
    assert "median certified radius eps_out" in texts(figure)


def test_the_plan_rounds_what_is_not_sampled_up() -> None:
    found = report.mean_plan_lines(mean_smoother(7.0), levels={0.25: [0.1], 0.5: [0.5, 1.0]}, num_examples=4)
    assert "method=mean, n=60, m=120, clip_norm=7, alpha=0.01" in found[0]
    assert [line.split()[:3] for line in found[2:5]] == [["0.25", "0.4", "0.1"], ["0.5", "1", "0.5"], ["0.5", "2", "1"]]
    for line, h in zip(found[2:5], (0.4, 1.0, 2.0), strict=True):
        tail = MEAN_BUDGET.plan(h).tail_at_bound
        assert float(line.split()[3]) >= tail
        assert float(line.split()[4]) >= 14.0 * tail
    assert "180 evaluations per example and sigma, 1,440 in all" in found[5]
    promised = MeanSmoother(torch.sigmoid, TotalVariation(), sigma=0.25, budget=MEAN_BUDGET, bound=3.0)
    assert "output_bound=3, alpha" in report.mean_plan_lines(promised, levels={0.25: [0.1]}, num_examples=1)[0]


def test_result_lines_of_both_name_the_smoother(means: CertificationFolder, centers: CertificationFolder) -> None:
    found = report.result_lines(results_of(centers, means))
    assert [line.split()[0] for line in found] == ["h", "center", "center", "mean", "mean"]
    assert len({len(line) for line in found}) == 1


def test_non_finite_outputs_of_means_count_as_at_the_bound(means: CertificationFolder) -> None:
    distances = np.load(means.distances(9))
    distances[-2:] = math.inf
    np.save(means.distances(9), distances)
    (line,) = report.non_finite_lines(means, means.rows())
    assert "NaN or inf 2 times, around examples 9: such outputs count as at the bound on distances" in line


def test_the_report_of_means_says_what_was_smoothed(means: CertificationFolder) -> None:
    found = page_of(means)
    assert "The smoothed output is the mean of 60 outputs under noise, not their center." in found.summary
    assert any("clip_norm = 1 from zero are scaled down" in item for item in found.reading)
    assert any("whose output is the mean of the base model's outputs" in item for item in found.not_promised)
    assert not any("several eps_in" in item for item in found.not_promised)
    certificates = means.certificates()
    assert len(found.curves[0].eps_in) > 50
    for example in found.examples:
        expected = certificates[int(example.name)].eps_out(example.eps_in)
        assert np.array_equal(example.eps_out, expected)


def test_a_report_of_means_at_no_radius_but_zero_still_has_a_curve(tmp_path: Path) -> None:
    folder = CertificationFolder(tmp_path)
    write(folder, mean_smoother())
    folder.write_rows(map(_at_zero, folder.rows()))
    (curve,) = page_of(folder).curves
    assert curve.eps_in[-1] == pytest.approx(0.5)
    assert np.isfinite(curve.eps_out).all()


def _at_zero(row: Row) -> Row:
    return Row(**{**row.__dict__, "eps_in": 0.0})


def test_the_report_of_both_says_of_which_what_is_not_said_of_both(
    means: CertificationFolder, centers: CertificationFolder
) -> None:
    pages = {"center": page_of(centers), "mean": page_of(means)}
    both = report_of_folders(pages, pages["center"].curves, title="both", summary=[], configuration={})
    assert [example.name for example in both.examples] == [
        f"{index}, {kind}" for index in (5, 2, 9) for kind in ("center", "mean")
    ]
    assert both.promise.startswith("Center: for one example and one change of it ")
    assert " Mean: for one example and one change of it " in both.promise
    own = [item.split(":")[0] for item in both.not_promised if item.startswith(("Center: ", "Mean: "))]
    assert sorted(own) == ["Center", "Center", "Mean"]
    assert sum(item.startswith("Nothing where the smoothed function abstains") for item in both.not_promised) == 1
    assert {curve.smoother for curve in both.fractions} == {"center", "mean"}
    assert "center, eps_in = 0.1 (h = 0.4)" in render(both)


def test_what_reports_of_one_smoother_say_is_said_once(centers: CertificationFolder) -> None:
    page = page_of(centers)
    assert said([page, page], lambda report: report.reading) == list(page.reading)


@pytest.mark.usefixtures("logs_offline")
def test_wandb_has_a_key_for_each_smoother(
    means: CertificationFolder,
    centers: CertificationFolder,
    tmp_path: Path,
    wandb_records: Callable[[Path], list[Any]],
    wandb_history: Callable[[Path], list[dict[str, Any]]],
    wandb_table: Callable[[Path, str], tuple[list[str], list[list[Any]]]],
    wandb_pixels: Callable[[Path, str], dict[str, NDArray[np.uint8]]],
) -> None:
    rows: Sequence[Row] = [*centers.rows(), *means.rows()]
    above, shown = CertificationFolder(tmp_path), {"center": centers, "mean": means}
    for picture in (above.picture, above.fraction_picture):
        Figure().savefig(picture)
    results = results_of(centers, means)
    report.log_to_wandb(above, rows, results, examples=shown, config={}, group=None, offline=True)
    defined = {record.metric.name for record in wandb_records(tmp_path) if record.HasField("metric")}
    assert {"median_eps_out/center", "median_eps_out/mean", "median_smoothing_loss/mean"} <= defined
    logged = wandb_history(tmp_path)
    assert not any("smoother" in line for line in logged)
    for line, result in zip(logged, results, strict=False):
        assert line["eps_in"] == result["eps_in"]
        assert line[f"median_eps_out/{result['smoother']}"] == result["median_eps_out"]
    columns, data = wandb_table(tmp_path, "certified_fraction")
    assert tuple(columns) == COLUMNS_OF_SEVERAL
    assert {row[0] for row in data} == {"center", "mean"}
    images = wandb_pixels(tmp_path, "examples")
    assert all(picture.shape == (4, 20) for picture in images.values())
    assert all("smoothed output, center | clipped base output | smoothed output, mean" in caption for caption in images)
