import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from center_smoothing import Certificate, SmoothingBudget, TotalVariation
from center_smoothing.budget import Coverage
from center_smoothing.promise import promise_line
from center_smoothing.threats import NORMS
from results import numbers
from results.certified_fraction import FractionCurve, certified_fractions
from results.folder import CertificationFolder
from results.html import Curve, Report, ReportExample, render, report_of_folder, report_of_folders, write
from results.html.charts import format_radius, fraction_charts
from results.plots.examples import Picture, difference
from results.rows import Row
from results.summary import summarise

BUDGET = SmoothingBudget(n=1000, m=2000, k=64, delta=0.12)
PROMISE = promise_line(BUDGET, TotalVariation(), coverage="pointwise")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}&amp;"
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Elements of a page as (name, attributes), the texts inside them, and whether all are closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    def all(self, *names: str) -> list[tuple[str, dict[str, str | None]]]:
        return [element for element in self.elements if element[0] in names]

    def text(self) -> str:
        return " ".join(" ".join(text for name, text in self.texts if name not in ("script", "style")).split())

    def charts(self) -> dict[str, Any]:
        """What the JavaScript draws."""
        (found,) = (text for name, text in self.texts if name == "script" and text.startswith("{"))
        return json.loads(found, parse_constant=pytest.fail)


def row(index: int, eps_in: float, eps_out: float, *, abstained: bool = False) -> Row:
    loss = math.inf if abstained else 0.5
    return Row(
        index=index, sigma=0.25, eps_in=eps_in, eps_out=eps_out, smoothing_loss=loss, abstained=abstained,
        n=1000, m=2000, delta=0.12, method="exact", theorem="T3", seconds=1.0,
    )  # fmt: skip


WORDS = {"model": "Autoencoder", "data": {"class": "MNIST"}, "distance": "TotalVariation(p=1)"}
Certified = Callable[..., CertificationFolder]


@pytest.fixture
def certified(tmp_path: Path, write_random: Certified) -> Certified:
    """Writes a folder of certified examples by hand; the last of them abstained."""
    return partial(write_random, tmp_path / "certification", **WORDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_random: Certified) -> CertificationFolder:
    """Such a folder that stays as it is."""
    return write_random(tmp_path_factory.mktemp("certification"), **WORDS)


@pytest.fixture(scope="module")
def report(folder: CertificationFolder) -> Report:
    return of(folder)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render(report)


def of(folder: CertificationFolder, **more: Any) -> Report:  # noqa: ANN401  # arguments of report_of_folder
    return report_of_folder(folder, promise=PROMISE, **more)


def everywhere(text: str) -> Report:
    """A report with a text in every place that takes one."""
    rows = [row(0, 0.25, 1.0)]
    picture = Picture(text, np.zeros((2, 2, 1)), note=text)
    return Report(
        title=text,
        summary=[text],
        promise=text,
        reading=[text],
        not_promised=[text],
        curves=[Curve(label, [0.25], [1.0], low=[0.5], high=[2.0]) for label in (text, text + "2")],
        examples=[ReportExample(text, rows, [picture], [text], eps_in=[0.25], eps_out=[1.0])],
        configuration={text: {text: [text, 1]}},
        reference_lines={text: 2.0},
        notes=[text],
        origin={text: text, "command": text},
    )


def test_page_refers_to_nothing_outside(html: str) -> None:
    page = Page(html)
    addresses = [value or "" for _, given in page.elements for name, value in given.items() if name in ("src", "href")]
    assert addresses
    outside = [address for address in addresses if not address.startswith(("data:", "#"))]
    assert outside == ["certificates.csv", "certified_fraction.csv", "summary.json"]  # of the same folder
    identities = {f"#{given['id']}" for _, given in page.elements if "id" in given}
    assert {address for address in addresses if address.startswith("#")} <= identities
    described = {f"#{given['aria-describedby']}" for _, given in page.elements if "aria-describedby" in given}
    assert described
    assert described <= identities
    assert not page.open
    style = next(text for name, text in page.texts if name == "style")
    assert "url(" not in style
    assert "@import" not in style


def test_plotly_is_there_once_and_only_known_scripts_may_run(html: str) -> None:
    page = Page(html)
    data, *scripts = [text for name, text in page.texts if name == "script"]
    assert json.loads(data)
    assert [("plotly.js v" in script) for script in scripts] == [True, False]
    (policy,) = (given["content"] for _, given in page.all("meta") if given.get("http-equiv"))
    allowed = {f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts}
    assert set(re.search(r"script-src ([^;]*)", policy).group(1).split()) == allowed
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("text", [HOSTILE, "]]><!--<script>", "\ud800 not in UTF-8", "\u2028 %{x} <b>"])
def test_no_text_becomes_markup(text: str, tmp_path: Path) -> None:
    write(everywhere("plain"), tmp_path / "plain.html")
    write(everywhere(text), tmp_path / "report.html")
    plain, page = (Page((tmp_path / name).read_text("utf-8")) for name in ("plain.html", "report.html"))
    assert [name for name, _ in page.elements] == [name for name, _ in plain.elements]
    assert [set(given) for _, given in page.elements] == [set(given) for _, given in plain.elements]
    assert "".join(text.split()).replace("\ud800", "?") in "".join(page.text().split())
    assert page.charts()["chart-0"]["lines"][0]["name"] == text


def test_page_is_built_for_screen_readers(html: str) -> None:
    page = Page(html)
    assert page.all("html")[0][1]["lang"] == "en"
    levels = [int(name[1]) for name, _ in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert all(given.get("scope") in ("col", "row") for _, given in page.all("th"))
    assert all(given.get("alt") for _, given in page.all("img"))
    charts = [given for _, given in page.elements if given.get("class") == "chart"]
    assert len(charts) == 1 + 1 + 4
    assert all(given["role"] == "img" for given in charts)
    medians, fractions, *examples = (str(given["aria-label"]) for given in charts)
    assert all(label.startswith("Line chart.") for label in (medians, *examples))
    assert all(" at eps_in " in label for label in (medians, *examples[:-1]))
    assert fractions.startswith(
        "Step chart. Certified fraction for each eps_in against eps_out. eps_in = 0.25 (h = 1): "
    )
    assert "infinite" in str(charts[-1]["aria-label"])
    identities = [given["id"] for _, given in page.elements if "id" in given]
    assert len(set(identities)) == len(identities)
    scrolled = [given for _, given in page.elements if str(given.get("class")).startswith("scroll")]
    assert all(given["tabindex"] == "0" and given["aria-label"] for given in scrolled)
    assert len(scrolled) == len(page.all("table"))


def test_summary_says_what_was_certified_and_what_is_not_promised(folder: CertificationFolder, html: str) -> None:
    text = Page(html).text()
    median = summarise(folder.rows(), sigma=0.25)[0]["median_eps_out"]
    moves = f"the smoothed output of the median example is certified to move by at most {numbers.rounded_up(median)}."
    assert f"at most eps_in = 0.25 (l2 norm), fixed beforehand, {moves}" in text
    assert "4 examples of MNIST" in text
    assert "abstained on 1 of the 4 inputs" in text
    assert "with probability at least 0.99 over the noise of both runs" in text
    for part in ("base model alone", "abstains", "all changed inputs at once", "several eps_in at once"):
        assert part in text
    for part in ("config.budget.n", "1000", "checkpoint_sha256", "0123abcd", "versions.torch", "device"):
        assert part in text


@pytest.mark.parametrize("coverage", ["pointwise", "dkw"])
def test_the_curve_is_dense_and_agrees_with_the_certificates(certified: Certified, coverage: Coverage) -> None:
    folder = certified(coverage=coverage, eps_in=(0.0, 0.25, 0.5))
    report = of(folder)
    (curve,) = report.curves
    assert len(curve.eps_in) > 50
    assert curve.marked == [0.0, 0.25, 0.5]
    for example in report.examples[:-1]:
        own = folder.certificates()[int(example.name)]
        np.testing.assert_array_equal(example.eps_out, own.eps_out(example.eps_in, coverage=coverage))
        limit = own.eps_in(math.inf, coverage=coverage)
        assert [math.isfinite(radius) for radius in example.eps_out] == [at <= limit for at in example.eps_in]
    assert np.all(np.isinf(report.examples[-1].eps_out))
    radii = np.sort([example.eps_out for example in report.examples], axis=0)
    np.testing.assert_array_equal(curve.eps_out, radii[2])
    for result in summarise(folder.rows(), sigma=0.25):
        assert curve.eps_out[list(curve.eps_in).index(result["eps_in"])] == result["median_eps_out"]
        assert curve.smoothing_loss[0] == result["median_smoothing_loss"]
        assert curve.abstention_rate[0] == result["abstention_rate"]


def test_the_curve_says_why_it_starts_above_0_and_where_another_theorem_takes_over(
    certified: Certified, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Certificate, "theorem", lambda self, *_, **__: f"T{int(self.distances[-1])}")
    folder = certified(eps_in=(0.25, 0.6))
    report = of(folder)
    (curve,) = report.curves
    assert any(f"here they start at {format_radius(curve.eps_out[0])}." in note for note in report.notes)
    page = Page(
        render(replace(report, curves=[replace(curve, theorem=["T7 J=1"] * 9 + ["T3"] * (len(curve.eps_in) - 9))]))
    )
    changes = page.charts()["chart-0"]["changes"]
    assert changes == [{"x": 0.0, "name": "T7 J=1"}, {"x": curve.eps_in[9], "name": "T3"}]
    assert f"Theorem: T7 J=1, from eps_in {curve.eps_in[9]:.4g} on T3." in page.text()
    own = folder.certificates()[2].eps_out(curve.eps_in)  # the median example: of four the third
    assert list(curve.theorem) == ["T2" if radius < math.inf else "none" for radius in own]


def test_radii_are_compared_with_the_outputs_of_the_folder(
    folder: CertificationFolder, report: Report, html: str
) -> None:
    outputs = [torch.from_numpy(folder.read_outputs(index)["smoothed"]) for index in range(4)]
    distance = TotalVariation()
    blank = [float(distance(output[None], torch.zeros_like(output)[None])) for output in outputs]
    assert [example.to_blank for example in report.examples] == pytest.approx(blank)
    (between,) = {example.between for example in report.examples}
    assert report.reference_lines == {
        "median distance to blank": pytest.approx(sorted(blank)[1]),
        "median distance between examples": between,
    }
    share = numbers.percent_up(summarise(folder.rows(), sigma=0.25)[0]["median_eps_out"] / between)
    assert Page(html).text().count(f" {share} ") >= 2


def test_curves_are_in_the_norm_and_the_units_of_the_noise_that_the_configuration_names(certified: Certified) -> None:
    report = of(certified(threat="linf", conversion=2.0))
    (curve,) = report.curves
    assert (curve.norm, curve.conversion) == (NORMS["linf"], 2.0)
    assert [fraction.h for fraction in report.fractions] == [2.0, 4.0]
    assert {example.norm for example in report.examples} == {NORMS["linf"]}


def test_answers_that_depend_on_their_number_are_not_multiplied(certified: Certified) -> None:
    folder = certified(coverage="bonferroni")
    report = of(folder)
    assert report.curves[0].eps_in == [0.25, 0.5]
    assert report.examples[0].eps_out == [row.eps_out for row in folder.rows() if row.index == 0]
    assert any("nothing is promised" in note for note in report.notes)


def test_several_certifications_make_one_report(report: Report) -> None:
    first, examples = report, []
    for example in report.examples:
        doubled = [replace(row, sigma=0.5, eps_out=2 * row.eps_out) for row in example.rows]
        examples.append(replace(example, rows=doubled))
    second = replace(first, examples=examples, fractions=certified_fractions(row for e in examples for row in e.rows))
    curves = [Curve("h = 1", [0.25, 0.5], [1.0, 2.0]), Curve("h = 2", [0.25, 0.5], [0.5, 1.0])]
    reports = {"sigma = 0.25": first, "sigma = 0.5": second}
    report = report_of_folders(reports, curves, title="both", summary=["all of it"], configuration={"n": 7})
    assert [example.name for example in report.examples[::4]] == ["0, sigma = 0.25", "0, sigma = 0.5"]
    assert len({example.name for example in report.examples}) == 8
    assert report.promise == first.promise
    page = Page(render(report))
    assert [line["name"] for line in page.charts()["chart-0"]["lines"]] == ["h = 1", "h = 2"]
    assert "all of it" in page.text()
    assert first.fractions == certified_fractions(row for example in first.examples for row in example.rows)
    assert [curve.counts[-1] for curve in first.fractions] == [3, 3]
    assert report.fractions == [*first.fractions, *second.fractions]


def curve_of(values: Sequence[float], *, eps_in: float = 0.25, sigma: float = 0.25) -> FractionCurve:
    return FractionCurve.of(values, sigma=sigma, eps_in=eps_in)


def test_the_certified_fraction_is_drawn_in_steps_and_said() -> None:
    fractions = [curve_of([1.001, 2.0, 2.0, math.inf]), curve_of([3.0, *[math.inf] * 3], eps_in=0.5)]
    page = Page(render(Report("title", fractions=fractions)))
    chart = page.charts()["fraction-0"]
    assert chart["steps"]
    assert (chart["x_name"], chart["y_format"]) == ("eps_out", ".0%")
    first, second = chart["lines"]
    assert first["x"] == second["x"] == [0.0, 1.01, 2.0, 3.0, 3.16]
    assert first["y"] == [0.0, 0.25, 0.75, 0.75, 0.75]
    assert second["y"] == [0.0, 0.0, 0.0, 0.25, 0.25]
    assert first["text"][2] == "eps_in = 0.25 (h = 1): 75%"
    assert chart["finding"] == (
        "eps_in = 0.25 (h = 1): certified to eps_out are 25% to 1.01, the median example to 2.00; "
        "75% of the 4 examples have a certificate. "
        "eps_in = 0.5 (h = 2): certified to eps_out are 25% to 3.00; 25% of the 4 examples have a certificate."
    )
    assert page.text().count(chart["finding"]) == 1
    explained = {"class": "term", "href": "#term-fraction", "aria-describedby": "means-fraction"}
    assert ("a", explained) in page.elements  # the title of the column of shares
    assert "0.25 0.25 1.01 25% 0.25 0.25 2.00 75% 0.25 0.5 0.00 0% 0.25 0.5 3.00 25%" in page.text()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([math.inf] * 3, "none of the 3 examples has a certificate."),
        ([1.0, *[math.inf] * 9], "eps_in = 0.25 (h = 1): 10% of the 10 examples have a certificate."),
        ([0.0], "are 25% to 0.00, the median example to 0.00, 90% to 0.00; 100% of the 1 examples"),
    ],
)
def test_what_a_fraction_shows_is_said_also_where_it_is_little(values: list[float], said: str) -> None:
    (chart,) = fraction_charts([curve_of(values)])
    assert said in chart["finding"]


def test_each_h_has_a_chart_of_its_own_where_the_noise_grows() -> None:
    fractions = [curve_of([eps_in, 2.0], eps_in=eps_in, sigma=eps_in / h) for h in (1.0, 2.0) for eps_in in (0.2, 0.4)]
    charts = fraction_charts(fractions)
    assert [chart["title"] for chart in charts] == [f"Certified fraction for each eps_in at h = {h}" for h in (1, 2)]
    names = [line["name"] for line in charts[1]["lines"]]
    assert names == ["eps_in = 0.2 (sigma = 0.1)", "eps_in = 0.4 (sigma = 0.2)"]


@given(st.lists(st.floats(min_value=0.0, max_value=1e6), min_size=1, max_size=9))
def test_the_drawn_share_is_never_larger_than_the_true_one(values: list[float]) -> None:
    (line,) = fraction_charts([curve_of(values)])[0]["lines"]
    for number, x in enumerate(line["x"][:-1]):
        certified = sum(value <= x for value in values)
        assert line["y"][number] == certified / len(values)
    assert line["y"][-1] == 1.0
    assert all(before < after for before, after in pairwise(line["x"]))


def test_examples_have_the_names_of_their_data_set(certified: Certified) -> None:
    folder = certified()
    summary = folder.read_summary()
    assert summary is not None
    folder.write_summary({**summary, "names": {"0": HOSTILE}})
    report = of(folder)
    assert [example.name for example in report.examples[:2]] == [f"0 ({HOSTILE})", "1"]
    assert "names" not in report.configuration


def test_an_infinite_median_is_a_gap_and_is_said() -> None:
    curve = Curve("h = 1", [0.1, 0.2, 0.3], [1.0, math.inf, math.inf], smoothing_loss=[0.5, 0.6, 0.7])
    page = Page(render(Report("title", curves=[curve])))
    assert page.charts()["chart-0"]["lines"][0]["y"] == [1.0, None, None]
    assert "infinite, so without a point, at eps_in 0.2 to 0.3" in page.text()


def test_several_curves_are_drawn_with_bands_and_reference_lines() -> None:
    curves = [
        Curve(
            f"h = {h}",
            [0.1, 0.2],
            [5.001 * h, 6.0 * h],
            smoothing_loss=[1.0, 2.0],
            abstention_rate=[0.0, 0.125],
            sigma=[0.1 / h, 0.2 / h],
            low=[4.0 * h, 5.0 * h],
            high=[6.0 * h, math.inf],
        )
        for h in (1, 2)
    ]
    page = Page(render(Report("title", curves=curves, reference_lines={"another digit": 9.5})))
    eps_out, loss = (page.charts()[name] for name in ("chart-0", "chart-1"))
    assert [line["name"] for line in eps_out["lines"]] == ["h = 1", "h = 2"]
    assert eps_out["lines"][0]["text"] == [
        "h = 1: 5.01 (4.00 to 6.00)",
        "h = 1: 6.00 (5.00 to inf), abstained on 12.5%",
    ]
    assert (eps_out["lines"][0]["low"], eps_out["lines"][0]["high"]) == ([4.0, 5.0], [6.0, None])
    assert eps_out["references"] == [{"name": "another digit", "y": 9.5}]
    assert loss["references"] == []
    assert "Reference line another digit: 9.5." in page.text()
    table = page.text()
    assert "h = 1 0.1 1 0.1 5.01 4.00 to 6.00 1 0.0%" in table
    assert "h = 2 0.1 2 0.2 12.00 10.00 to inf 2 12.5%" in table


def test_examples_are_sortable_by_all_digits() -> None:
    rows = [row(7, 0.25, 1.0000001), row(7, 0.5, math.inf, abstained=True)]
    page = Page(render(Report("title", examples=[ReportExample("7", rows)])))
    values = [given["data-value"] for _, given in page.elements if "data-value" in given]
    assert values == ["7", "0.25", "0.25", "1.0000001", "0.5", "0", "7", "0.25", "0.5", "Infinity", "Infinity", "1"]


def showing(*pictures: Picture) -> Report:
    return Report("title", examples=[ReportExample("0", [row(0, 0.25, 1.0)], pictures)])


def sources(report: Report) -> list[tuple[str, Image.Image]]:
    addresses = [str(given["src"]) for _, given in Page(render(report)).all("img")]
    parts = [address.removeprefix("data:image/").split(";base64,") for address in addresses]
    return [(kind, Image.open(io.BytesIO(base64.b64decode(data)))) for kind, data in parts]


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_keep_every_pixel(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels))
    ((kind, image),) = sources(showing(Picture("input", pixels / 255.0)))
    assert kind == "png"
    np.testing.assert_array_equal(np.asarray(image).reshape(5, 7, channels), pixels)


def test_photographs_do_not_swell_the_page() -> None:
    generator = np.random.default_rng(0)
    wave = np.sin(np.linspace(0, 9, 218))[:, None, None] * np.cos(np.linspace(0, 7, 178))[None, :, None]
    photo = 0.5 + 0.4 * wave * np.array([1.0, 0.8, 0.6]) + generator.normal(0.0, 0.01, (218, 178, 3))
    pictures = [Picture(f"picture {number}", photo) for number in range(4)]
    assert len(render(showing(*pictures))) - len(render(showing())) < 4 * 40_000


def test_difference_is_white_at_its_largest_and_says_how_much_that_is() -> None:
    first, second = np.zeros((1, 2, 3)), np.array([[[0.0, 0.25, 0.0], [0.1, 0.0, 0.05]]])
    picture = difference(first, second, name="difference")
    np.testing.assert_allclose(picture.array[..., 0], [[1.0, 0.4]])
    assert picture.note == "white = 0.25"
    same = difference(first, first, name="difference")
    assert same.note == "no difference"
    assert not same.array.any()


def test_pictures_of_a_folder_are_the_input_the_outputs_and_their_difference(
    certified: Certified,
) -> None:
    folder = certified(shape=(3, 8, 8))
    example = of(folder).examples[1]
    with np.load(folder.outputs(1)) as arrays:
        for picture, name in zip(example.pictures, ("image", "base", "smoothed"), strict=False):
            np.testing.assert_array_equal(picture.array, np.moveaxis(arrays[name], 0, -1))
    names = [picture.name for picture in example.pictures]
    assert names == ["input", "base output", "smoothed output", "|base - smoothed|"]


def test_a_noisy_copy_stands_beside_the_input_where_the_noise_is_on_images(
    certified: Certified,
) -> None:
    folder = certified(shape=(1, 8, 8))
    summary = folder.read_summary()

    def pictures(model: str) -> dict[str, np.ndarray]:
        folder.write_summary({**summary, "config": {**summary["config"], "model": model}})
        return {picture.name: picture.array for picture in of(folder).examples[0].pictures}

    found = pictures("NoisyAutoencoder")
    assert list(found)[:3] == ["input", "one noisy copy", "base output"]
    assert np.std(found["one noisy copy"] - found["input"]) == pytest.approx(0.25, rel=0.3)
    np.testing.assert_array_equal(found["one noisy copy"], pictures("NoisyAutoencoder")["one noisy copy"])
    assert "one noisy copy" not in pictures("NoisyReconstructor")  # its noise is on measurements


def test_the_page_says_where_it_comes_from(certified: Certified) -> None:
    folder = certified()
    origin = {"command": "certify.py --ckpt a.ckpt", "checkpoint": "/runs/a.ckpt", "date": "2030-01-02 03:04+00:00"}
    folder.write_summary({**folder.read_summary(), "origin": origin})
    page = Page(render(of(folder)))
    assert all(f"{name} {value}" in page.text() for name, value in origin.items())
    folder.write_summary({**folder.read_summary(), "origin": {"command": 7}})
    with pytest.raises(ValueError, match="origin is not an object of words"):
        of(folder)


def test_outputs_that_are_no_pictures_are_described(certified: Certified) -> None:
    example = of(certified(shape=(7,))).examples[0]
    assert not example.pictures
    assert [line.split(":")[0] for line in example.words] == ["Input", "Base output", "Smoothed output"]
    assert all(re.search(r": 7 values, (0\.\d+, ){6}…$", line) for line in example.words)


def test_a_page_of_nothing_can_be_made() -> None:
    page = Page(render(Report("nothing yet")))
    assert "nothing yet" in page.text()
    assert page.charts() == {}


def test_an_old_summary_without_words_will_do(certified: Certified) -> None:
    folder = certified()
    config = folder.read_summary()["config"]
    known = {name: config[name] for name in ("budget", "relaxation", "sigma", "eps_in")}
    folder.write_summary({"config": known})
    assert of(folder).title == "Certified output radii of a model"


def test_the_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write(Report("first"), path)
    before = path.read_bytes()
    monkeypatch.setattr("center_smoothing.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(Report("second"), path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    write(Report("second"), path)
    assert b"<h1>second</h1>" in path.read_bytes()
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Curve("h", [], []), "eps_in must hold at least one radius"),
        (lambda: Curve("h", [0.2, 0.1], [1, 2]), "in ascending order"),
        (lambda: Curve("h", [0.1, 0.2], [1]), "eps_out must have the 2 entries of eps_in, got 1"),
        (lambda: Curve("h", [0.1, 0.2], [1, 2], low=[1]), "low must be empty or have the 2 entries of eps_in, got 1"),
        (lambda: Curve("h", [0.1], [1], low=[1]), "must be given together"),
        (lambda: Curve("h", [0.1], [1], marked=[0.3]), r"marked must be among the eps_in, got \[0.3\]"),
        (lambda: Picture("p", np.zeros((3, 4))), r"array must have shape .* got \(3, 4\)"),
        (lambda: Picture("p", np.zeros((3, 4, 2))), r"array must have shape .* got \(3, 4, 2\)"),
        (lambda: ReportExample("e", [], eps_in=[0.1]), "eps_out must have the 1 entries of eps_in, got 0"),
        (
            lambda: Report("t", examples=[ReportExample("e", []), ReportExample("e", [])]),
            "examples must have different names, got 'e' twice",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
