"""Each example with little training and few samples, and what the examples claim beyond a certificate."""

import importlib
import math
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from center_smoothing import Angular, ProbabilityTV
from examples import common, lightning_module
from examples.class_probabilities import lead
from examples.denoised_text_detection import crops
from examples.image_retrieval import Gallery
from examples.segmentation_masks import SIDE, parts, photo
from examples.texts import EditDistance, Reader, strips

ROOT = Path(__file__).parents[2]
# Of the examples that need a package which the others don't, that package.
NEEDS = {"denoised_text_detection": "rapidocr_onnxruntime"}
NAMES = [
    pytest.param(path.stem, marks=pytest.mark.skipif(find_spec(NEEDS[path.stem]) is None, reason="its package"))
    if path.stem in NEEDS
    else path.stem
    for path in sorted((ROOT / "examples").glob("*.py"))
    if path.stem not in ("__init__", "common")
]
SMALL = ["--n=500", "--m=800", "--num-examples=2"]
# A row: example or "median", eps_out at both h, smoothing loss, abstentions.
ROW = re.compile(r"^ *(\d+|median) +([\d.]+|inf) +([\d.]+|inf) +([\d.]+|inf) +(yes|no|\d+/\d+)", flags=re.MULTILINE)


@pytest.fixture
def _trained_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = common.fit

    def short(build: Any, loss: Any, inputs: torch.Tensor, *, epochs: int, **more: Any) -> Any:  # noqa: ANN401  # as fit
        return fit(build, loss, inputs[:256], epochs=min(2, epochs), **more)

    monkeypatch.setattr(common, "fit", short)
    monkeypatch.setattr(lightning_module, "EPOCHS", 1)


def main_of(name: str) -> Any:  # noqa: ANN401  # a module's function
    return importlib.import_module(f"examples.{name}").main


@pytest.mark.usefixtures("_trained_a_little")
@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_finite_and_what_is_returned(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.random.get_rng_state()
    summary = main_of(name)([*SMALL, f"--out={tmp_path / 'picture.png'}"])
    assert torch.equal(state, torch.random.get_rng_state())
    printed = capsys.readouterr().out
    *rows, median = ROW.findall(printed)
    values = [*summary.eps_out, summary.smoothing_loss]
    assert all(math.isfinite(value) for value in [*values, *summary.quality.values()])
    assert 0.0 <= summary.eps_out[0] <= summary.eps_out[1]
    assert list(median) == ["median", *(f"{value:.4f}" for value in values), f"{summary.abstained}/2"]
    assert len(rows) == 2
    for column in (1, 2, 3):  # the upper one of two
        assert max(float(row[column]) for row in rows) == float(median[column])
    for quality, value in summary.quality.items():
        assert f"\n{quality}: {value:.4g}\n" in printed
    with Image.open(tmp_path / "picture.png") as picture:
        assert min(picture.size) > 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--n", "none"], "--n must be a whole number of at least 1, got 'none'"),
        (["--m", "100"], "--m must be at least"),
        (["--n", "3"], "n=3"),
        (["--num-examples", "100000"], "--num-examples must be at most"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--out", "picture.svg"], "--out must be a .png file"),
        (["--out", "/proc/nowhere/picture.png"], "--out must be a folder that can be written to"),
        (["--sigma", "1"], "unrecognized arguments: --sigma 1"),
    ],
)
@pytest.mark.parametrize("name", ["class_probabilities", "diabetes_regression", "denoised_text_detection"])
def test_bad_arguments_and_a_missing_package_end_in_one_line(
    name: str,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("examples.denoised_text_detection.PACKAGE", "no_such_package")
    with pytest.raises(SystemExit, match="2"):
        main_of(name)(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    if arguments[0] == "--num-examples" and name == "denoised_text_detection":  # found out after the package
        said = "rapidocr-onnxruntime must be installed for this example: pip install rapidocr-onnxruntime"
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_crops_of_a_page_are_all_those_at_multiples_of_the_stride() -> None:
    picture = torch.arange(48.0 * 40.0).reshape(48, 40)
    found = crops(picture, 32, 8)
    assert found.shape == (3 * 2, 1, 32, 32)
    assert all(torch.equal(found[2 * y + x, 0], picture[8 * y : 8 * y + 32, 8 * x : 8 * x + 32])
               for y in range(3) for x in range(2))  # fmt: skip


def test_fewer_examples_are_the_first_of_more() -> None:
    few, more = (common.settings([f"--num-examples={count}"], "") for count in (3, 8))
    assert few.chosen(100) == more.chosen(100)[:3]
    assert len(set(more.chosen(100))) == 8
    assert sorted(more.chosen(8)) == list(range(8))


def test_training_repeats_itself() -> None:
    inputs = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))

    def fitted() -> torch.nn.Linear:
        return common.fit(
            lambda: torch.nn.Linear(4, 1), lambda out, _: out.square().mean(), inputs, noise=0.1, epochs=2
        )

    torch.manual_seed(5)
    first = fitted()
    torch.manual_seed(6)
    assert torch.equal(first.weight, fitted().weight)
    assert not first.training


def test_no_test_crop_shares_a_pixel_with_training() -> None:
    image, coins = photo()
    assert image.shape == coins.shape
    columns = torch.arange(image.shape[1]).float().expand(image.shape)
    train, test = parts(columns)
    assert train.max() < test.min()
    assert test.shape[1:] == (SIDE, SIDE)
    assert 0.2 < coins.mean() < 0.6


@cache
def _edits(a: str, b: str) -> int:
    """By definition."""
    if not a or not b:
        return len(a) + len(b)
    kept = _edits(a[1:], b[1:])
    return kept if a[0] == b[0] else 1 + min(kept, _edits(a[1:], b), _edits(a, b[1:]))


TEXTS = st.text("012", max_size=5)


@given(TEXTS, TEXTS, TEXTS)
def test_edit_distance_is_the_least_number_of_edits_and_a_metric(a: str, b: str, c: str) -> None:
    between = EditDistance().between
    assert between(a, b) == _edits(a, b) == between(b, a)
    assert (between(a, b) == 0) == (a == b)
    assert between(a, c) <= between(a, b) + between(b, c)


def test_a_reader_who_knows_all_digits_reads_all_strips() -> None:
    shades = torch.arange(10) / 20.0 + 0.5  # of the digit
    images = shades.reshape(10, 1, 1, 1).expand(10, 1, 28, 28)

    def classify(places: torch.Tensor) -> torch.Tensor:
        classes = (places.mean(dim=(1, 2, 3)) * 20.0 - 10.0).round().long()
        return torch.nn.functional.one_hot(torch.where(classes < 0, 10, classes), 11)

    written, texts = strips(images, torch.arange(10))
    assert written.shape == (len(texts), 1, 28, 112)
    assert Reader(classify)(written) == texts
    assert {len(text) for text in texts} == {2, 3, 4}


def on_circle(turns: torch.Tensor) -> torch.Tensor:
    """Directions in the plane at angles in units of pi."""
    return torch.stack([(turns * math.pi).cos(), (turns * math.pi).sin()], dim=1)


def test_no_query_nearer_than_half_of_the_gap_finds_another_class() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for _ in range(50):
        items = torch.randn(12, 3, generator=generator, dtype=torch.float64)
        gallery = Gallery(items, torch.arange(12) % 3)
        query = torch.randn(3, generator=generator, dtype=torch.float64)
        _, label, half_gap = gallery.find(query)
        others = query + 0.5 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
        near = others[Angular().pairwise(query[None], others)[0] < half_gap]
        assert all(gallery.find(other)[1] == label for other in near)
        seen += len(near)
    assert seen > 125


@pytest.mark.parametrize("beyond", [-1e-6, 1e-6])
def test_half_of_the_gap_is_where_the_class_may_change(beyond: float) -> None:
    gallery = Gallery(on_circle(torch.tensor([-0.1, 0.3])), torch.tensor([4, 7]))
    nearest, label, half_gap = gallery.find(on_circle(torch.zeros(1))[0])
    assert (nearest, label) == (0, 4)
    assert half_gap == pytest.approx(0.1)
    other = gallery.find(on_circle(torch.tensor([0.1 + beyond], dtype=torch.float64))[0])[1]
    assert other == (7 if beyond > 0 else 4)


@given(st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any), st.randoms(use_true_random=False))
def test_a_lead_of_more_than_twice_the_distance_is_kept(weights: list[int], random: Any) -> None:  # noqa: ANN401
    class Smoothed:
        center = torch.tensor(weights, dtype=torch.float64) / sum(weights)

    others = torch.tensor([[random.random() + 1e-9 for _ in weights] for _ in range(20)], dtype=torch.float64)
    mixture = random.random() * others / others.sum(dim=1, keepdim=True)
    others = mixture + (1.0 - mixture.sum(dim=1, keepdim=True)) * Smoothed.center
    distances = ProbabilityTV()(others, Smoothed.center.expand_as(others))
    for other, distance in zip(others, distances, strict=True):
        if lead(Smoothed) > 2.0 * float(distance):  # type: ignore[arg-type]
            assert int(other.argmax()) == int(Smoothed.center.argmax())
