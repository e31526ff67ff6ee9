import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from center_smoothing import BoxJaccard
from results.certified_fraction import COLUMNS, FractionCurve, as_csv, certified_fractions, panels, steps
from results.folder import CertificationFolder
from results.plots.fractions import draw_fractions, write_fractions
from results.rows import Row
from results.summary import summarise

radius = st.floats(min_value=0.0, allow_nan=False) | st.just(math.inf) | st.sampled_from([0.0, 1.0, 2.0])
radii = st.lists(radius, min_size=1, max_size=30)


def row(index: int, eps_out: float, *, eps_in: float = 0.25, sigma: float = 0.25, abstained: bool = False) -> Row:
    return Row(index, sigma, eps_in, eps_out, 0.5, abstained, 60, 120, 0.4, "exact", "T3", 1.0)


def curve(values: Sequence[float]) -> FractionCurve:
    return FractionCurve.of(values, sigma=0.25, eps_in=0.5)


@given(radii, radius)
def test_the_curve_is_the_share_certified_to_at_most_that(values: list[float], at: float) -> None:
    found = curve(values)
    for eps_out in (at, *values, *(math.nextafter(value, 0.0) for value in values)):
        naive = sum(value <= eps_out and value < math.inf for value in values)
        assert found.count_at(eps_out) == naive
    assert found.num_examples == len(values)


@given(radii)
def test_the_curve_has_a_step_where_it_changes_and_nowhere_else(values: list[float]) -> None:
    found = curve(values)
    assert found.eps_out[0] == 0.0
    assert all(before < after for before, after in zip(found.eps_out, found.eps_out[1:], strict=False))
    assert all(before < after for before, after in zip(found.counts, found.counts[1:], strict=False))
    assert all(math.isfinite(value) for value in found.eps_out)
    assert all(0.0 <= share <= 1.0 for share in found.fraction)
    assert found.counts[-1] == sum(math.isfinite(value) for value in values)


@given(radii, st.integers(1, 100))
def test_the_radius_of_a_share_is_the_least_that_reaches_it(values: list[float], percent: int) -> None:
    found = curve(values)
    least = found.radius_of(percent)
    reaching = [value for value in values if 100 * found.count_at(value) >= percent * len(values) and value < math.inf]
    assert least == min(reaching, default=math.inf)


@given(radii)
def test_the_median_is_that_of_the_summary(values: list[float]) -> None:
    (result,) = summarise([row(index, value) for index, value in enumerate(values)], sigma=0.25)
    assert curve(values).median == result["median_eps_out"]


def test_abstentions_stay_in_the_denominator() -> None:
    rows = [row(0, 1.0), row(1, math.inf, abstained=True), row(2, math.inf), row(3, math.nan)]
    (found,) = certified_fractions(rows)
    assert (found.eps_out, found.counts, found.fraction) == ((0.0, 1.0), (0, 1), (0.0, 0.25))
    (found,) = certified_fractions(rows[1:])
    assert (found.eps_out, found.fraction, found.num_examples) == ((0.0,), (0.0,), 3)
    assert found.median == found.radius_of(1) == math.inf


def test_radii_of_zero_are_certified_from_the_start() -> None:
    assert curve([0.0, 0.0, 3.0]).fraction == (2 / 3, 1.0)


def test_no_example_has_no_curve() -> None:
    assert certified_fractions([]) == []
    with pytest.raises(ValueError, match="radii must hold at least one certified output radius, got none"):
        curve([])


def test_every_noise_level_and_radius_has_a_curve_of_its_own() -> None:
    rows = [
        row(index, 10 * sigma + eps_in + index, eps_in=eps_in, sigma=sigma)
        for sigma, levels in ((0.4, (0.2, 0.4)), (0.2, (0.2,)), (0.8, (0.4,)))
        for index in range(3)
        for eps_in in levels
    ]
    found = certified_fractions(rows)
    places = [(0.2, 0.2, 1.0), (0.4, 0.2, 0.5), (0.4, 0.4, 1.0), (0.8, 0.4, 0.5)]
    assert [(one.sigma, one.eps_in, one.h) for one in found] == places
    assert [one.eps_out[1] for one in found] == [2.2, 4.2, 4.4, 8.4]
    assert certified_fractions([*rows, *rows]) == found
    drawn_together = [(heading, [one.eps_in for one in group]) for heading, group in panels(found)]
    assert drawn_together == [("h = 0.5", [0.2, 0.4]), ("h = 1", [0.2, 0.4])]
    assert [heading for heading, _ in panels([one for one in found if one.sigma == 0.4])] == [""]


@given(st.dictionaries(st.sampled_from([0.1, 1 / 3, 0.5]), radii, max_size=3))
def test_the_table_draws_the_curves_again_exactly(levels: dict[float, list[float]]) -> None:
    curves = [FractionCurve.of(values, sigma=0.25, eps_in=eps_in) for eps_in, values in levels.items()]
    header, *lines = csv.reader(as_csv(curves).splitlines())
    assert tuple(header) == COLUMNS == ("sigma", "eps_in", "eps_out", "fraction")
    assert [tuple(map(float, line)) for line in lines] == steps(curves)
    for one in curves:
        own = [(float(line[2]), float(line[3])) for line in lines if float(line[1]) == one.eps_in]
        assert own == list(zip(one.eps_out, one.fraction, strict=True))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def drawn(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for axis in figure.axes
        for line in axis.get_lines()
    }


@pytest.mark.filterwarnings("error")
def test_the_picture_has_a_step_line_for_each_radius_and_says_where_it_ends() -> None:
    rows = [row(index, 10.0 * (index + 1) * eps_in, eps_in=eps_in) for index in range(4) for eps_in in (0.25, 0.5)]
    rows += [row(4, 3.0), row(4, math.inf, eps_in=0.5)]
    figure = draw_fractions(certified_fractions(rows), "a title")
    (axis,) = figure.axes
    lines = drawn(figure)
    assert list(lines) == ["eps_in = 0.25 (h = 1)", "eps_in = 0.5 (h = 2)"]
    places, shares = lines["eps_in = 0.5 (h = 2)"]
    assert places == [0.0, 5.0, 10.0, 15.0, 20.0, 21.0]
    assert shares == [0.0, 0.2, 0.4, 0.6, 0.8, 0.8]
    assert {line.get_drawstyle() for line in axis.get_lines()} == {"steps-post"}
    assert {line.get_linestyle() for line in axis.get_lines()} == {"-", "--"}
    figure.draw_without_rendering()
    shown = texts(figure)
    assert {"a title", "100%", "80%", "eps_in = 0.25 (h = 1)", "eps_in = 0.5 (h = 2)"} <= set(shown)


def test_several_h_stand_side_by_side_with_one_legend() -> None:
    rows = [
        row(index, 10.0 + index, eps_in=eps_in, sigma=eps_in / h)
        for h in (1.0, 2.0)
        for eps_in in (0.2, 0.4)
        for index in range(3)
    ]
    figure = draw_fractions(certified_fractions(rows), "title")
    assert [axis.get_title() for axis in figure.axes] == ["h = 1", "h = 2"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["eps_in = 0.2", "eps_in = 0.4"]


def test_the_axis_of_boxes_ends_where_nothing_is_promised() -> None:
    rows = [row(0, 0.4), row(1, 1.0), row(2, 1.7)]
    figure = draw_fractions(certified_fractions(rows), "boxes", overlap=True)
    (axis,) = figure.axes
    assert axis.get_xlim() == (0.0, 1.0)
    figure.draw_without_rendering()
    assert {"guaranteed overlap (IoU)", "33.3%"} <= set(texts(figure))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[], [math.inf] * 3, [0.0], [1e-300, 1e300], [1.0] * 5])
def test_anything_can_be_drawn(values: list[float], tmp_path: Path) -> None:
    rows = [row(index, value) for index, value in enumerate(values)]
    draw_fractions(certified_fractions(rows), "title " * 30).savefig(tmp_path / "a.png", dpi=40)
    assert (tmp_path / "a.png").stat().st_size > 0


def test_ten_lines_look_different() -> None:
    rows = [row(0, 1.0 + eps_in, eps_in=eps_in) for eps_in in np.linspace(0.0, 0.9, 10).tolist()]
    (axis,) = draw_fractions(certified_fractions(rows), "title").axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.get_lines()}) == 10


def test_table_and_picture_are_written(tmp_path: Path) -> None:
    folder = CertificationFolder(tmp_path)
    folder.write_summary({"config": {"distance": repr(BoxJaccard())}})
    rows = [row(0, 0.4), row(1, math.inf)]
    write_fractions(folder, certified_fractions(rows), "title", overlap=False)
    assert folder.fractions.read_text() == "sigma,eps_in,eps_out,fraction\n0.25,0.25,0.0,0.0\n0.25,0.25,0.4,0.5\n"
    assert folder.fraction_picture.read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"certified_fraction.csv", "certified_fraction.png", "summary.json"}
