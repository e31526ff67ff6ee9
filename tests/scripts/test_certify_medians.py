import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import certify
from center_smoothing import Lp, MedianCertificate, MedianSmoother
from command_line import named
from datamodules import MNIST
from lightning_modules import load_checkpoint
from results.folder import CertificationFolder
from tests.scripts.running import Done, listened, refused, rows, summary, table

TINY = ["--n=101", "--m=400", "--num-examples=1", "--batch-size=64", "--accelerator=cpu"]
MEDIANS = ["--smoother=median", "--distance=linf", "--h", "1", "0"]


@pytest.fixture(scope="module")
def done(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Medians of a digit at two radii."""
    return listened(f"--ckpt={checkpoint}", f"--out={tmp_path_factory.mktemp('medians')}", *TINY, *MEDIANS)


@pytest.fixture(scope="module")
def medians(done: Done) -> Path:
    return done.folder


def test_rows_are_what_the_smoother_of_the_library_certifies(medians: Path, checkpoint: Path) -> None:
    model, digits = load_checkpoint(checkpoint).model.eval(), MNIST()
    digits.setup()
    budget = named.budget("standard", "median", n=101, m=400)
    smoother = MedianSmoother(model, Lp(float("inf")), sigma=0.25, budget=budget, batch_size=64)
    images = {int(example["index"]): example["image"] for example in map(digits.test_set.__getitem__, range(500))}
    found = rows(medians)
    assert [(row["eps_in"], row["method"], row["n"], row["m"]) for row in found] == [
        ("0.25", "median", "101", "400"),
        ("0.0", "median", "101", "400"),
    ]
    config = summary(medians)["config"]
    assert config["smoother"] == "median"
    assert config["budget"] == {"n": 101, "m": 400, "alpha_1": 0.005, "alpha_2": 0.005}
    for row in found:
        certificate = smoother.certify(images[int(row["index"])], example=int(row["index"]))
        assert float(row["eps_out"]) == pytest.approx(certificate.eps_out(float(row["eps_in"])), rel=1e-3)
        assert float(row["delta"]) == certificate.budget.delta


def test_a_folder_restores_certificates_with_their_boxes(medians: Path) -> None:
    certificates = CertificationFolder(medians).certificates()
    for row in rows(medians):
        certificate = certificates[int(row["index"])]
        assert isinstance(certificate, MedianCertificate)
        assert certificate.eps_out(float(row["eps_in"])) == float(row["eps_out"])
        low, high = certificate.box(float(row["eps_in"]))
        far = torch.maximum(high - certificate.center, certificate.center - low)
        assert float(row["eps_out"]) == pytest.approx(float(far.max()), rel=1e-5)


def test_a_folder_answers_both_ways_without_sampling(
    medians: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "__call__", None)
    monkeypatch.setattr("center_smoothing.MedianSmoother.__init__", None)
    certify.main([f"--from={medians}", "--eps-in", "0.25", "0.1", "--eps-out", "0.3", f"--out={tmp_path / 'a.csv'}"])
    assert "; it holds for each answer by itself, asked for before any result was seen" in capsys.readouterr().out
    answers = table(tmp_path / "a.csv")
    known = {row["index"]: row["eps_out"] for row in rows(medians) if row["eps_in"] == "0.25"}
    assert {row["index"]: row["eps_out"] for row in answers if row["eps_in"] == "0.25"} == known
    assert all(0.0 <= float(row["eps_in"]) < 0.5 for row in answers if row["asked"] == "eps_out")


def test_the_same_command_goes_on(
    medians: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("center_smoothing.MedianSmoother.certify", None)
    before = rows(medians)
    certify.main([f"--ckpt={checkpoint}", f"--out={medians}", *TINY, *MEDIANS])
    assert "1 of 1 examples are there already and kept" in capsys.readouterr().out
    assert rows(medians) == before


def pictures(page: str) -> list[tuple[str, Any, str]]:
    """Caption, pixels and the second line of the caption of each picture."""
    pattern = r'<img src="data:image/\w+;base64,([^"]+)".*?<figcaption>([^<]*)(?:<span>([^<]*)</span>)?</figcaption>'
    return [
        (caption, np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert("L")), note)
        for source, caption, note in re.findall(pattern, page, flags=re.DOTALL)
    ]


def test_the_report_shows_how_far_each_pixel_can_move(medians: Path) -> None:
    shown = pictures((medians / "report.html").read_text())
    moves = [(pixels, note) for caption, pixels, note in shown if caption == "how far each pixel can move"]
    certificates = list(CertificationFolder(medians).certificates().values())
    assert len(moves) == len(certificates) == 1
    for (pixels, note), certificate in zip(moves, certificates, strict=True):
        low, high = (end.double() for end in certificate.box(0.25) or ())
        width = (high - low)[0]
        np.testing.assert_array_equal(pixels, np.rint(255 * (width / width.max()).numpy()).astype(np.uint8))
        found = re.fullmatch(r"certified at eps_in = 0\.25, white = ([\d.]+)", note)
        assert found is not None
        assert float(width.max()) <= float(found[1]) < float(width.max()) + 0.01


def test_the_report_says_what_was_smoothed(medians: Path) -> None:
    page = (medians / "report.html").read_text()
    assert "The smoothed output holds the medians of 101 outputs under noise, number by number." in page
    assert "is the median of the base model&#39;s outputs under noise" in page


def test_the_plan_knows_how_many_numbers_an_output_has(done: Done) -> None:
    lines = done.lines
    plan = named.budget("standard", "median", n=101, m=400, numbers=784).plan(1.0)
    assert "method=median, n=101, m=400, numbers=784, alpha=0.01" in lines[0]
    assert lines[2].split() == [
        *("0.25", "1", "0.25", f"{plan.margin:.5f}", f"{plan.p:.6f}", f"{plan.rank}/400", f"{plan.least_m:.0f}")
    ]
    assert "abstains where a median is not finite" in lines[4]


def test_too_few_samples_for_the_numbers_of_an_output_are_refused_before_sampling(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("center_smoothing.MedianSmoother.certify", None)
    one, all_of_them = (
        named.budget("standard", "median", n=101, numbers=numbers).plan(2.0).least_m for numbers in (1, 784)
    )
    line = refused(
        capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", "--smoother=median", "--n=101", f"--m={one:.0f}", "--h=2"
    )
    assert f"--m must be at least {all_of_them:.0f} to certify eps_in=0.5 (h=2)" in line
