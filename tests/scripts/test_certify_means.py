import math
from pathlib import Path

import numpy as np
import pytest
import torch

import certify
from center_smoothing import DISTANCES, MeanCertificate, MeanSmoother, TotalVariation
from center_smoothing.means.smoother import clip
from command_line import named
from datamodules import MNIST
from lightning_modules import load_checkpoint
from results.folder import CertificationFolder
from tests.scripts.running import TINY, refused, rows, run, summary, table

MEANS = ["--smoother=mean", "--clip-norm=20"]


def test_rows_of_means_say_so(means: Path) -> None:
    found = rows(means)
    assert len(found) == 6
    assert {row["theorem"] for row in found} <= {"T11", "T12"}
    assert {(row["method"], row["delta"], row["n"], row["m"]) for row in found} == {("mean", "0.0", "100", "400")}
    assert all(0.0 < float(row["eps_out"]) < 40.0 for row in found)
    config = summary(means)["config"]
    assert config["clip_norm"] == 20.0
    assert config["budget"] == {"n": 100, "m": 400, "group": 1, "alpha_1": 0.005, "alpha_2": 0.005}
    assert not {"output_bound", "rtol", "eps_out_at_most"} & set(config)


def test_a_row_is_what_the_smoother_of_the_library_certifies(means: Path, checkpoint: Path) -> None:
    model, digits = load_checkpoint(checkpoint).model.eval(), MNIST()
    digits.setup()
    budget = named.budget("standard", "mean", n=100, m=400)
    smoother = MeanSmoother(model, TotalVariation(), sigma=0.25, budget=budget, clip_norm=20.0, batch_size=64)
    images = {int(example["index"]): example["image"] for example in map(digits.test_set.__getitem__, range(500))}
    row = rows(means)[1]
    certificate = smoother.certify(images[int(row["index"])], example=int(row["index"]))
    assert float(row["eps_out"]) == pytest.approx(certificate.eps_out(0.25), rel=1e-4)
    assert float(row["smoothing_loss"]) == pytest.approx(certificate.smoothing_loss, rel=1e-3)


def test_base_output_and_smoothing_loss_are_those_of_the_clipped_model_and_the_plan_says_what_it_costs(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    norm = 2.0
    folder = run(checkpoint, tmp_path, "--smoother=mean", f"--clip-norm={norm}", "--h", "1", "2")
    row = rows(folder)[0]
    with np.load(folder / "outputs" / f"{row['index']}.npz") as arrays:
        image, base, smoothed = (torch.from_numpy(arrays[name])[None] for name in ("image", "base", "smoothed"))
    distance, model = TotalVariation(), load_checkpoint(checkpoint).model.eval()
    with torch.no_grad():
        output = model(image)
    assert float(distance(torch.zeros_like(output), output)) > 1.5 * norm
    torch.testing.assert_close(base.double(), clip(output, distance, norm), rtol=1e-4, atol=1e-5)
    assert float(row["smoothing_loss"]) == pytest.approx(float(distance(base, smoothed)), rel=1e-3)
    page = (folder / "report.html").read_text()
    assert "base output and smoothing loss are those of the clipped model" in page
    assert "clipped base output" in page
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "plan: 1 examples, TotalVariation(p=1), sigma=0.25, method=mean, n=100, m=400, clip_norm=2"
    )
    budget = named.budget("standard", "mean", n=100, m=400)
    for line, h in zip(lines[2:4], (1.0, 2.0), strict=True):
        tail = budget.shared().plan(h).tail_at_bound
        sigma, shown_h, eps_in, shown_tail, product, *unseen = map(float, line.replace(" b", "").split())
        moments, spread, outside = budget.unseen(h)
        assert unseen == pytest.approx([4.0 * outside, moments, spread], abs=0.02)
        assert (sigma, shown_h, eps_in) == (0.25, h, h * 0.25)
        assert tail <= shown_tail <= tail + 1e-6
        assert 4.0 * tail <= product <= 4.0 * tail + 0.02
    assert "500 evaluations per example and sigma, 500 in all" in lines[4]
    assert any(line.startswith("promise (mean): ") for line in lines)


def test_a_folder_of_means_answers_both_ways_without_sampling(
    means: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "certification.subject.load_checkpoint",
        "center_smoothing.MeanSmoother.__init__",
        "torch.nn.Module.__call__",
    ):
        monkeypatch.setattr(name, None)
    out = tmp_path / "answers.csv"
    certify.main([f"--from={means}", "--eps-in", "0.25", "0.7", "--eps-out", "5", "100", f"--out={out}"])
    printed = capsys.readouterr().out
    assert "; it holds for all answers of an example at one sigma together, also to what is asked later\n" in printed
    found, exact = table(out), {row["index"]: row["eps_out"] for row in rows(means) if row["eps_in"] == "0.25"}
    at_025 = {row["index"]: row["eps_out"] for row in found if (row["asked"], row["eps_in"]) == ("eps_in", "0.25")}
    assert at_025 == exact
    certificates = CertificationFolder(means).certificates()
    assert all(isinstance(each, MeanCertificate) and 20.0 < each.bound < 40.0001 for each in certificates.values())
    back = {row["index"]: float(row["eps_in"]) for row in found if (row["asked"], row["eps_out"]) == ("eps_out", "5.0")}
    assert back == {str(index): certificate.eps_in(5.0) for index, certificate in certificates.items()}
    assert {row["eps_in"] for row in found if (row["asked"], row["eps_out"]) == ("eps_out", "100.0")} == {"inf"}


def test_another_norm_is_another_certification(
    means: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--ckpt={checkpoint}", f"--out={means}", *TINY, "--num-examples=3", "--h", "0", "1"]
    assert "clip_norm=20.0, not 30.0" in refused(capsys, *given, "--smoother=mean", "--clip-norm=30")
    assert "output_bound=None, not 99.0" in refused(capsys, *given, "--smoother=mean", "--output-bound=99")
    assert "smoother='mean', not 'center'" in refused(capsys, *given, "--k=8")


def test_a_norm_from_training_images_is_recorded_and_taken_again(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("certification.clip_norm._IMAGES", 8)
    command = [f"--ckpt={checkpoint}", *TINY, "--smoother=mean", "--clip-norm=auto", "--h=1"]
    folder = certify.main(command)
    assert folder is not None
    assert folder.name.rsplit("-", 1)[0] == "tv-mean-clip_norm=auto"
    norm = summary(folder)["config"]["clip_norm"]
    assert f"clip norm: {norm:g}, from training images" in capsys.readouterr().out.splitlines()
    (certificate,) = CertificationFolder(folder).certificates().values()
    assert isinstance(certificate, MeanCertificate)
    assert norm < certificate.bound < 2.0001 * norm
    monkeypatch.setattr("certification.jobs.clip_norm_of_training", None)
    monkeypatch.setattr("center_smoothing.MeanSmoother.certify", None)
    assert certify.main(command) == folder


def test_means_of_directions_need_no_norm_to_clip_to(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--smoother=mean", "--distance=angular", "--h=1"]
    asked += ["--attack=pgd", "--attack-steps=2", "--attack-starts=1", "--attack-samples=4"]
    folder = run(checkpoint, tmp_path, *asked)
    printed = capsys.readouterr().out
    assert "n=100, m=400, outputs of norm 1, alpha" in printed
    assert summary(folder)["config"]["normalised"] is True
    (row,) = rows(folder)
    assert 0.0 < float(row["attack_eps"]) < float(row["eps_out"]) < 1.0
    with np.load(folder / "outputs" / f"{row['index']}.npz") as arrays:
        base, smoothed = arrays["base"], arrays["smoothed"]
        assert np.linalg.norm(base) == pytest.approx(1.0)
        assert arrays["center_norm"] == pytest.approx(np.linalg.norm(smoothed), rel=1e-6)
    loss = DISTANCES["angular"](*(torch.from_numpy(each)[None] for each in (base, smoothed))).item()
    assert float(row["smoothing_loss"]) == pytest.approx(loss, rel=1e-4)
    page = (folder / "report.html").read_text()
    assert "Outputs are scaled to norm 1." in page
    assert "of norm 1, white = " in page
    certify.main([f"--from={folder}", "--h=1"])
    assert f"eps_in={row['eps_in']}" in capsys.readouterr().out


def test_a_promised_bound_is_recorded_and_one_that_does_not_hold_is_an_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    largest = 2.0 * 2 * 28 * 27
    folder = run(checkpoint, tmp_path / "a", "--smoother=mean", f"--output-bound={largest}", "--h=1")
    assert summary(folder)["config"]["output_bound"] == largest
    (certificate,) = CertificationFolder(folder).certificates().values()
    assert isinstance(certificate, MeanCertificate)
    assert certificate.bound == pytest.approx(largest)
    assert "clipped" not in (folder / "report.html").read_text().split("<footer>")[0].split("<body>")[1]
    capsys.readouterr()
    arguments = [f"--ckpt={checkpoint}", f"--out={tmp_path / 'b'}", *TINY, "--smoother=mean", "--output-bound=0.01"]
    line = refused(capsys, *arguments, "--h=1")
    assert "bound must be at least every distance between two outputs, got 0.01" in line
    assert "0 of 1 examples are finished and kept" in line


@pytest.mark.parametrize(("name", "n", "m"), [("quick", 1_000, 10_000), ("standard", 30_000, 90_000)])
def test_budgets_of_means(name: str, n: int, m: int) -> None:
    budget = named.budget(name, "mean")
    assert (budget.n, budget.m, budget.group) == (n, m, 1)
    assert named.budget(name, "mean", n=7, m=None, alpha1=0.1, alpha2=0.2).as_dict() == {
        "n": 7, "m": m, "group": 1, "alpha_1": 0.1, "alpha_2": 0.2,
    }  # fmt: skip


def test_a_mean_abstains_where_an_output_is_not_finite(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes_nan(self: object, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.mean(dim=(1, 2, 3), keepdim=True) > x.mean() + 0.02, math.nan, x)

    monkeypatch.setattr("lightning_modules.NoisyAutoencoder.forward", sometimes_nan)
    folder = run(checkpoint, tmp_path, *MEANS, "--h", "0")
    assert [(row["abstained"], row["eps_out"]) for row in rows(folder)] == [("True", "inf")]
    assert "count as at the bound on distances" in capsys.readouterr().out
    (certificate,) = CertificationFolder(folder).certificates().values()
    assert certificate.eps_out(0.0) == math.inf
