import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from center_smoothing import BoxJaccard, BoxSetMatching, CenterSmoother, Disagreement, SmoothingBudget, TotalVariation
from results import numbers, terminal, wandb_run
from results.finished import FinishedCertification
from results.folder import CertificationFolder
from results.html import page
from results.plots.certificates import draw_certificates
from results.plots.examples import (
    disagreement,
    example_pictures,
    guaranteed_overlap,
    guarantees,
    in_colours,
    with_boxes,
)
from results.rows import COLUMNS, Row
from results.summary import summarise

BUDGET = SmoothingBudget(n=1000, m=2000, k=64, delta=0.12)
# Colours that the colour-blind can tell apart (Okabe and Ito, 2008).
OKABE_ITO = {"#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"}
SHAPES = {"grey": (1, 8, 8), "rgb": (3, 8, 8), "vector": (5,), "many channels": (7, 4, 4)}


def row(index: int, eps_in: float, eps_out: float, smoothing_loss: float = 0.5, abstained: bool = False) -> Row:
    return Row(index, 0.25, eps_in, eps_out, smoothing_loss, abstained, 1000, 2000, 0.12, "exact", "T3", 1.0)


def rows_of(values: Sequence[float]) -> list[Row]:
    return [row(index, eps_in, value + eps_in) for index, value in enumerate(values) for eps_in in (0.25, 0.5)]


def write_outputs(folder: CertificationFolder, indices: Sequence[int], shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    for index in indices:
        image, base, smoothed = generator.random((3, *shape), dtype=np.float32)
        np.savez(folder.outputs(index), image=image, base=base, smoothed=smoothed)


def draw(folder: CertificationFolder, rows: Sequence[Row], shape: tuple[int, ...] = (5,)) -> Figure:
    write_outputs(folder, list(dict.fromkeys(row.index for row in rows)), shape)
    return draw_certificates(read(folder, rows), rows, summarise(rows, sigma=0.25), "a title")


def read(folder: CertificationFolder, rows: Sequence[Row] = ()) -> FinishedCertification:
    """What is read of a folder of outputs alone."""
    indices = dict.fromkeys(row.index for row in rows) or range(len(list(folder.path.glob("outputs/*.npz"))))
    outputs = {index: folder.read_outputs(index) for index in indices}
    return FinishedCertification(folder, folder.read_summary() or {}, rows, outputs=outputs)


@given(st.floats(min_value=0.0, max_value=1e6) | st.integers(0, 10**7).map(lambda n: math.nextafter(n / 100, math.inf)))
def test_rounded_up_is_never_below_and_above_by_less_than_two_of_the_last_digit(value: float) -> None:
    for digits in range(5):
        text = numbers.rounded_up(value, digits)
        assert float(text) >= value
        assert Decimal(text) < Decimal(value) + 2 * Decimal(10) ** -digits
    shown = float(numbers.format_up(value))
    assert value <= shown <= max(1.011 * value, 1e-14) or 0.0 <= shown - value <= 0.011


@pytest.mark.parametrize(
    ("value", "text"), [(80.001, "80.01"), (80.0, "80.00"), (0.0, "0.00"), (1e-9, "0.01"), (math.inf, "inf")]
)
def test_rounded_up_looks_like_this(value: float, text: str) -> None:
    assert numbers.rounded_up(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (36_000, "10.0 h")]
)
def test_duration_looks_like_this(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


def plan_lines(budget: SmoothingBudget = BUDGET, *, eps_in: Sequence[float] = (0.25,)) -> list[str]:
    smoother = CenterSmoother(lambda z: z, TotalVariation(), sigma=0.25, budget=budget)
    return terminal.plan_lines(smoother, levels={0.25: eps_in, 0.5: [1.0]}, num_examples=7)


def test_plan_tells_what_will_be_sampled_and_what_that_can_certify() -> None:
    lines = plan_lines(eps_in=[0.25, 0.5])
    assert lines[0] == (
        "plan: 7 examples, TotalVariation(p=1), sigma=0.25, 0.5, method=exact, n=1000, m=2000, k=64, delta=0.12, "
        "alpha=0.01"
    )
    assert lines[1].split() == ["sigma", "h", "eps_in", "p", "rank", "of", "m", "least", "m", "theorem"]
    for line, sigma, radius in zip(lines[2:5], (0.25, 0.25, 0.5), (0.25, 0.5, 1.0), strict=True):
        plan = BUDGET.plan(radius / sigma)
        figures = [f"{plan.p:.6f}", f"{plan.rank}/2000", f"{plan.least_m:.0f}", *plan.theorem.split()]
        assert line.split() == [f"{sigma:g}", f"{plan.h:g}", f"{radius:g}", *figures]
    assert "3,064 evaluations per example and sigma, 42,896 in all" in lines[5]
    assert len(lines) == 6
    assert plan_lines(eps_in=[5.0])[2].split()[-3:] == ["2001/2000", "inf", "T3"]


def test_plan_of_the_paper_has_no_pilot_and_says_where_sampling_may_stop() -> None:
    lines = plan_lines(SmoothingBudget(n=200, m=100, delta=0.3, method="paper"))
    assert "n=200, m=100, delta=0.3" in lines[0]
    assert "500 evaluations per example and sigma, 7,000 in all" in lines[-1]
    lines = plan_lines(SmoothingBudget(n=100, m=800, k=16, looks=3))
    assert lines[-2] == "  may stop an example at 200, 400, 800 certification outputs, each with alpha_2 / 3"
    assert lines[-1].startswith("  at most 916 evaluations")


@pytest.mark.parametrize("delta", [0.1, 0.1042, 0.107, 0.112, 0.2])
def test_plan_does_not_understate_the_abstentions(delta: float) -> None:
    budget = SmoothingBudget(n=1000, m=2000, k=64, delta=delta)
    (percent,) = re.findall(r"abstains on at most ([\d.]+)% of inputs", plan_lines(budget)[-1])
    assert float(percent) / 100 >= budget.abstention_probability()


def test_result_lines_show_all_figures_with_radii_rounded_up() -> None:
    results = summarise([row(0, 0.25, 12.3401, 1.23456), row(1, 0.25, math.inf, math.inf, True)], sigma=0.25)
    results += summarise([row(0, 0.5, 12.3401, 1.23456)], sigma=0.25)
    lines = terminal.result_lines(results)
    assert lines[0].split() == [
        "h", "eps_in", "median", "eps_out", "smoothing", "loss", "abstained", "examples",
    ]  # fmt: skip
    assert lines[1].split() == ["1", "0.25", "inf", "inf", "50.0%", "2"]
    assert lines[2].split() == ["2", "0.5", "12.35", "1.235", "0.0%", "1"]
    assert len({len(line) for line in lines}) == 1
    assert len(terminal.result_lines([])) == 1


def test_only_outputs_that_are_images_are_pictures(folder: CertificationFolder) -> None:
    for index, shape in enumerate(SHAPES.values()):
        write_outputs(folder, [index], shape)
    found = [[picture.array.shape for picture in example_pictures(read(folder), index).pictures] for index in range(4)]
    assert found == [[(8, 8, 1)] * 3, [(8, 8, 3)] * 3, [], []]


@pytest.fixture
def boxes(folder: CertificationFolder) -> CertificationFolder:
    """Three photos: the same box twice, two boxes, and no box in either output."""
    folder.write_summary({"config": {"distance": repr(BoxJaccard()), "sigma": 0.1}, "results": []})
    photo = np.full((3, 40, 30), 0.5, dtype=np.float32)
    box, other, none = (np.array(corners, dtype=np.float32) for corners in ([5, 6, 20, 30], [8, 6, 25, 35], [0] * 4))
    for index, (base, smoothed) in enumerate([(box, box), (box, other), (none, none)]):
        np.savez(folder.outputs(index), image=photo, base=base, smoothed=smoothed)
    return folder


def test_boxes_are_drawn_on_their_photo(boxes: CertificationFolder) -> None:
    same, two, none = (example_pictures(read(boxes), index) for index in range(3))
    assert [len(found.pictures) for found in (same, two, none)] == [1, 1, 1]
    assert same.pictures[0].array.shape == (40, 30, 3)
    np.testing.assert_array_equal(none.pictures[0].array, np.full((40, 30, 3), 128 / 255, dtype=np.float32))
    changed = {row for row, *_ in np.argwhere(two.pictures[0].array != none.pictures[0].array).tolist()}
    assert (min(changed), max(changed)) == (5, 36) or (min(changed), max(changed)) == (6, 35)
    assert none.words == ["Base output: no box", "Smoothed output: no box"]
    assert two.words[1] == "Smoothed output: box 8.0, 6.0, 25.0, 35.0 (x1, y1, x2, y2)"


def test_all_boxes_of_sets_are_drawn(folder: CertificationFolder) -> None:
    folder.write_summary({"config": {"distance": repr(BoxSetMatching()), "sigma": 0.1}, "results": []})
    photo, none = np.full((3, 40, 60), 0.5, dtype=np.float32), np.zeros((3, 4), dtype=np.float32)
    two = np.array([[30, 10, 50, 30], [0, 0, 0, 0], [5, 5, 20, 20]], dtype=np.float32)
    for index, (base, smoothed) in enumerate([(none, two), (none, none)]):
        np.savez(folder.outputs(index), image=photo, base=base, smoothed=smoothed)
    drawn, empty = (example_pictures(read(folder), index) for index in range(2))
    blue = np.argwhere((drawn.pictures[0].array * 255).round().astype(int)[..., 2] == 200)[:, :2].tolist()
    assert {(5, 5), (20, 20), (10, 30), (30, 50)} <= {tuple(place) for place in blue}
    assert drawn.words == [
        "Base output: no box",
        "Smoothed output: box 30.0, 10.0, 50.0, 30.0; 5.0, 5.0, 20.0, 20.0 (x1, y1, x2, y2)",
    ]
    np.testing.assert_array_equal(empty.pictures[0].array, np.full((40, 60, 3), 128 / 255, dtype=np.float32))
    assert guarantees(read(folder), [row(0, 0.25, 0.25), row(0, 0.5, 1.0)]) == [
        "mean IoU of at least 0.750",
        "nothing is guaranteed",
    ]
    assert guarantees(read(folder), [row(1, 0.25, 5e-324)]) == ["no box stays no box"]


def test_maps_of_labels_are_shown_in_colours(folder: CertificationFolder) -> None:
    folder.write_summary({"config": {"distance": repr(Disagreement()), "sigma": 0.1}, "results": []})
    image, base = np.full((3, 4, 6), 0.5, dtype=np.float32), np.arange(24).reshape(4, 6) % 16
    smoothed = base.copy()
    smoothed[1, 2:5] = 3
    for index, (first, second) in enumerate([(base, smoothed), (base[None], smoothed[None]), (base[0], smoothed[0])]):
        np.savez(folder.outputs(index), image=image, base=first, smoothed=second)
    one, same, row_of_labels = (example_pictures(read(folder), index) for index in range(3))
    assert [picture.name for picture in one.pictures] == ["input", "base output", "smoothed output"]
    for first, second in zip(one.pictures, same.pictures, strict=True):
        np.testing.assert_array_equal(first.array, second.array)
    colours = {
        label: tuple(colour) for label, colour in zip(base.flat, one.pictures[1].array.reshape(-1, 3), strict=True)
    }
    assert len(set(colours.values())) == 16
    assert {tuple(colour) for colour in one.pictures[2].array[1, 2:5]} == {colours[3]}
    differs = disagreement(one.pictures[1].array, one.pictures[2].array)
    assert differs.array[..., 0].astype(bool).tolist() == (base != smoothed).tolist()
    assert differs.note == "12.5% of the pixels"
    assert [picture.name for picture in row_of_labels.pictures] == ["input"]
    assert row_of_labels.words[1] == "Smoothed output: 6 values, 0, 1, 2, 3, 4, 5"
    assert in_colours(np.array([[np.nan, 0.0], [-1.0, 15.5]])).tolist()[0] == [[1.0] * 3, [0.0] * 3]


def test_a_box_partly_outside_or_not_finite_does_no_harm() -> None:
    photo, outside = np.zeros((1, 10, 10)), np.array([-5.0, -5.0, 30.0, 4.0])
    assert with_boxes(photo, outside, np.full(4, np.nan)).shape == (10, 10, 3)


@given(st.floats(0.0, 1.5))
def test_guaranteed_overlap_is_never_above_what_the_radius_leaves(eps_out: float) -> None:
    overlap = float(guaranteed_overlap(eps_out))
    assert max(0.0, 1.0 - eps_out) - 0.001 <= overlap <= max(0.0, 1.0 - eps_out)


def test_what_is_guaranteed_of_boxes_and_of_no_box(boxes: CertificationFolder) -> None:
    rows = [row(0, 0.25, 0.1234), row(0, 0.5, math.inf), row(0, 0.5, math.inf, abstained=True)]
    assert guarantees(read(boxes), rows) == ["IoU of at least 0.876", "nothing is guaranteed", "abstained"]
    assert guarantees(read(boxes), [row(2, 0.25, 5e-324), row(2, 0.5, 1.0)]) == [
        "no box stays no box",
        "nothing is guaranteed",
    ]


def test_figure_of_boxes_has_the_photos_with_their_guarantee_and_an_axis_of_overlap(boxes: CertificationFolder) -> None:
    rows = [Row(index, 0.1, 0.2, 0.05 + index, 0.01, index == 2, 10, 10, 0.1, "exact", "T3", 1.0) for index in range(3)]
    figure = draw_certificates(read(boxes, rows), rows, summarise(rows, sigma=0.1), "boxes")
    shown = texts(figure)
    assert "#0: IoU of at least 0.950\nat eps_in=0.2, sigma=0.1" in shown
    assert "#2: abstained\nat" in shown
    assert "guaranteed overlap (IoU)" in shown
    assert sum(len(axis.images) for axis in figure.axes) == 3


def test_several_noise_levels_give_a_line_for_each_h(folder: CertificationFolder) -> None:
    rows, results = [], []
    for sigma, radii in ((0.133333333, (0.133333333, 0.2)), (0.4, (0.4, 0.6))):
        group = [
            Row(0, sigma, eps_in, 10 * eps_in / sigma, 1.0, False, 9, 9, 0.1, "exact", "T3", 1.0) for eps_in in radii
        ]
        rows += group
        results += summarise(group, sigma)
    write_outputs(folder, [0], (5,))
    (axis,) = draw_certificates(read(folder, rows), rows, results, "lines").axes
    lines = {line.get_label(): line.get_xdata() for line in axis.get_lines()}
    np.testing.assert_array_equal(lines["median certified radius eps_out, h = 1"], [0.133333333, 0.4])
    np.testing.assert_array_equal(lines["median certified radius eps_out, h = 1.5"], [0.2, 0.6])


def texts(figure: Figure) -> str:
    """All that is written in a figure."""
    return " | ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("outputs", "values"),
    zip(SHAPES, [[3.0, 1.0, 2.0], [3.0, math.inf, 2.0], [3.0, math.inf, math.inf], [math.inf] * 2], strict=True),
)
def test_figure_saves_to_png(outputs: str, values: list[float], folder: CertificationFolder) -> None:
    rows = rows_of(values)
    figure = draw(folder, rows, SHAPES[outputs])
    figure.savefig(folder.picture, dpi=40)
    with Image.open(folder.picture) as picture:
        assert picture.format == "PNG"
        assert picture.getcolors() is None or len(picture.getcolors()) > 10
    assert figure.canvas.manager is None


def test_figure_says_what_is_missing(folder: CertificationFolder) -> None:
    rows = [*rows_of([3.0, math.inf]), row(5, 0.25, math.inf, math.inf, True), row(5, 0.5, math.inf, math.inf, True)]
    shown = texts(draw(folder, rows, (1, 8, 8)))
    assert "a title" in shown
    assert "abstained on 33%, 4 rows without certificate" in shown


def test_figure_labels_the_medians_rounded_up(folder: CertificationFolder) -> None:
    rows = [row(0, 0.25, 12.3401), row(0, 0.5, math.inf)]
    figure = draw(folder, rows)
    shown = texts(figure).split(" | ")
    assert "12.35" in shown
    assert "inf" not in shown


def test_numbers_stand_beside_the_dots_and_colours_are_those_of_okabe_and_ito(folder: CertificationFolder) -> None:
    rows = rows_of([3.0, 3.1, 3.2, 3.3, 3.4])
    figure = draw(folder, rows)
    figure.canvas.draw()
    (axis,) = figure.axes
    dots = axis.transData.transform([(row.eps_in, row.eps_out) for row in rows])
    numbers_shown = [text.get_window_extent() for text in axis.texts]
    assert len(numbers_shown) == 2
    assert not any(box.padded(2).contains(*dot) for box in numbers_shown for dot in dots)
    assert {line.get_color() for line in axis.get_lines()} <= OKABE_ITO
    style = (Path(page.__file__).parent / "report.css").read_text()
    assert set(re.findall(r"--line-\d: (#\w+)", style)) <= OKABE_ITO


def test_figure_says_why_the_curve_starts_above_0_and_where_the_theorem_changes(folder: CertificationFolder) -> None:
    rows = [replace(row, theorem="T7 J=1" if row.eps_in < 0.5 else "T3") for row in rows_of([3.0, 4.0])]
    shown = texts(draw(folder, rows))
    assert "the ball that holds half of the outputs" in shown
    assert "Theorem: T7 J=1, from eps_in 0.5 on T3." in shown


def test_curve_goes_by_eps_in_and_holds_every_example(folder: CertificationFolder) -> None:
    rows = [row(index, eps_in, eps_in + index) for index in range(3) for eps_in in (0.5, 0.25)]
    (axis,) = draw(folder, rows).axes
    lines = {str(line.get_label()): line for line in axis.get_lines()}
    median = lines["median certified radius eps_out"]
    np.testing.assert_array_equal(median.get_xdata(), [0.25, 0.5])
    np.testing.assert_array_equal(median.get_ydata(), [1.25, 1.5])
    points = lines["certified radius of one example"].get_xydata()
    np.testing.assert_array_equal(points, [(value.eps_in, value.eps_out) for value in rows])


def test_figure_shows_a_few_examples_with_their_indices(folder: CertificationFolder) -> None:
    indices = (31, 7, 19, 4, 8, 12, 3)
    rows = [row(index, 0.25, 1.0) for index in indices]
    figure = draw(folder, rows, (3, 8, 8))
    shown = re.findall(r"#(\d+)", texts(figure))
    assert shown == ["31", "7", "19", "4", "8"]
    assert sum(len(axis.images) for axis in figure.axes) == 15


def test_figure_of_nothing_can_be_drawn(folder: CertificationFolder) -> None:
    draw_certificates(read(folder, []), [], [], "nothing yet").savefig(folder.picture, dpi=40)
    assert folder.picture.stat().st_size > 0


@pytest.mark.usefixtures("logs_offline")
def test_weights_and_biases_has_what_was_found(
    folder: CertificationFolder,
    monkeypatch: pytest.MonkeyPatch,
    wandb_records: Callable[[Path], list[Any]],
    wandb_history: Callable[[Path], list[dict[str, Any]]],
    wandb_table: Callable[[Path, str], tuple[list[str], list[list[Any]]]],
    wandb_pixels: Callable[[Path, str], dict[str, NDArray[np.uint8]]],
) -> None:
    # an abstention first, and more rows than W&B takes of itself
    monkeypatch.setattr(wandb.Table, "MAX_ROWS", 7)
    monkeypatch.setattr(wandb.Table, "MAX_ARTIFACT_ROWS", 7)
    rows = [*rows_of([math.inf, 0.1, math.nan]), *(row(index, 1.0, 0.1 + index) for index in range(3, 10))]
    write_outputs(folder, range(10), (1, 8, 8))
    results = summarise(rows, sigma=0.25)
    (folder.path / "report.html").write_text("a report")
    for picture in (folder.picture, folder.fraction_picture):
        draw_certificates(read(folder, rows), rows, results, "what it is").savefig(picture, dpi=40)
    config = {"sigma": 0.25, "eps_in": [0.25, 0.5], "clip_norm": math.inf}
    begun = wandb_run.WandbRun(folder, config=config, group="0.25-abc", why_offline="a test")
    begun.conclude(rows, results, examples=read(folder, rows))
    (run,) = (record.run for record in wandb_records(folder.path) if record.WhichOneof("record_type") == "run")
    assert (run.run_group, run.job_type) == ("0.25-abc", "certify")
    assert {item.key: json.loads(item.value_json) for item in run.config.update} == {"_wandb": {}, **config}
    assert results[0]["median_eps_out"] == math.inf
    for line, result in zip(wandb_history(folder.path), results, strict=False):
        assert {key: line[key] for key in result} == result
    columns, data = wandb_table(folder.path, "certificates")
    assert columns == list(COLUMNS)
    np.testing.assert_array_equal(data, [list(value.__dict__.values()) for value in rows])
    columns, data = wandb_table(folder.path, "certified_fraction")
    assert columns == ["sigma", "eps_in", "eps_out", "fraction"]
    assert data[:4] == [
        [0.25, 0.25, 0.0, 0.0],
        [0.25, 0.25, 0.35, 1 / 3],
        [0.25, 0.5, 0.0, 0.0],
        [0.25, 0.5, 0.6, 1 / 3],
    ]
    assert len(data) == 12
    examples = wandb_pixels(folder.path, "examples")
    assert [*examples] == [f"#{index}: input | base output | smoothed output" for index in range(10)]
    for index, pixels in enumerate(examples.values()):
        outputs = folder.read_outputs(index)
        expected = np.concatenate([outputs[name][0] for name in ("image", "base", "smoothed")], axis=1)
        assert np.abs(pixels - 255.0 * expected).max() <= 0.5
        assert pixels.max() > 200
    for key, picture in {"curve": folder.picture, "fraction_curve": folder.fraction_picture}.items():
        (pixels,) = wandb_pixels(folder.path, key).values()
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(picture)))


def test_weights_and_biases_has_pictures_of_every_shape(folder: CertificationFolder) -> None:
    odd = np.array([[[-1.0, 0.0, 0.5, 1.0, 7.0, math.nan, math.inf, -math.inf, 0.999, 1e-3]]])
    np.savez(folder.outputs(0), image=odd, base=odd.astype(np.float16), smoothed=odd > 0.5)
    np.savez(folder.outputs(1), image=np.ones((1, 2, 3)), base=np.zeros((3, 4, 1)), smoothed=np.full(5, 0.5))
    np.savez(folder.outputs(2), image=odd, base=odd, smoothed=odd)
    rows = [row(index, 0.25, 1.0 + index) for index in range(3)]
    found = wandb_run._pictures(rows, read(folder, rows))
    assert list(found) == [*(f"examples/{index}" for index in range(3)), "examples_by_radius"]  # of several sizes
    assert [cells[:3] for cells in found["examples_by_radius"].data] == [[2, 0.25, 3.0], [0, 0.25, 1.0]]
    shown = [0, 0, 128, 255, 255, 0, 255, 0, 255, 0]
    first, second = (np.asarray(found[f"examples/{index}"].image) for index in range(2))
    assert first.tolist() == [[*shown, *shown, *(255 * (value > 0.5) for value in odd[0, 0])]]
    assert second.shape == (4, 4, 3)
    assert (second[:, :3] == 255).all()  # white below the lower one
    assert (second[:, 3] == 0).all()
