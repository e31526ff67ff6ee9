import csv
import math
import shutil
from pathlib import Path
from typing import Any

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
from tests.scripts.refusals import refused

TINY = ["--n=100", "--m=400", "--num-examples=3", "--batch-size=64", "--accelerator=cpu"]
MEANS = ["--smoother=mean", "--clip-norm=20"]
FILES = {
    "certificates.csv", "certificates.png", "certified_fraction.csv", "certified_fraction.png", "report.html",
    "summary.json",
}  # fmt: skip


def run(checkpoint: Path, out: Path, *arguments: str) -> Path:
    return certify.main([f"--ckpt={checkpoint}", f"--out={out}", *TINY, *arguments])


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def rows(folder: Path) -> list[dict[str, str]]:
    """Of certificates.csv, without the seconds."""
    return [{key: value for key, value in row.items() if key != "seconds"}
            for row in table(folder / "certificates.csv")]  # fmt: skip


def summary(folder: Path) -> dict[str, Any]:
    found = CertificationFolder(folder).read_summary()
    assert found is not None
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def means(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Means of three digits at two radii."""
    return run(checkpoint, tmp_path_factory.mktemp("means"), *MEANS, "--h", "0", "1")


def test_rows_of_means_say_so(means: Path) -> None:
    found = rows(means)
    assert len(found) == 6
    assert {row["theorem"] for row in found} <= {"T11", "T12"}
    assert {(row["method"], row["delta"], row["n"], row["m"]) for row in found} == {("mean", "0.0", "100", "400")}
    assert all(0.0 < float(row["eps_out"]) < 40.0 for row in found)
    assert names(means) == FILES | {".lock", "distances", "outputs", "wandb"}


def test_the_summary_says_what_was_smoothed_and_how(means: Path) -> None:
    found = summary(means)
    assert found["config"]["smoother"] == "mean"
    assert found["config"]["clip_norm"] == 20.0
    assert found["config"]["budget"] == {"n": 100, "m": 400, "group": 1, "alpha_1": 0.005, "alpha_2": 0.005}
    assert not {"output_bound", "rtol", "eps_out_at_most"} & set(found["config"])
    assert [set(result) for result in found["results"]] == 2 * [
        {
            *("eps_in", "h", "median_eps_out", "median_smoothing_loss", "abstention_rate", "num_examples"),
            *("relative_eps_out", "median_to_blank", "median_between_examples"),
        }
    ]


def test_a_row_is_what_the_smoother_of_the_library_certifies(means: Path, checkpoint: Path) -> None:
    model, digits = load_checkpoint(checkpoint).model.eval(), MNIST()
    digits.setup()
    budget = named.budget("standard", "mean", n=100, m=400)
    smoother = MeanSmoother(model, TotalVariation(), sigma=0.25, budget=budget, clip_norm=20.0, batch_size=64)
    images = {int(example["index"]): example["image"] for example in map(digits.test_set.__getitem__, range(500))}
    for row in rows(means):
        certificate = smoother.certify(images[int(row["index"])], example=int(row["index"]))
        assert float(row["eps_out"]) == pytest.approx(certificate.eps_out(float(row["eps_in"])), rel=1e-4)
        assert float(row["smoothing_loss"]) == pytest.approx(certificate.smoothing_loss, rel=1e-3)


def test_base_output_and_smoothing_loss_are_those_of_the_clipped_model(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    norm = 2.0
    folder = run(checkpoint, tmp_path, "--smoother=mean", f"--clip-norm={norm}", "--h=1", "--num-examples=1")
    (row,) = rows(folder)
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


def test_a_folder_of_means_restores_them(means: Path) -> None:
    certificates = CertificationFolder(means).certificates()
    for row in rows(means):
        certificate = certificates[int(row["index"])]
        assert isinstance(certificate, MeanCertificate)
        assert certificate.eps_out(float(row["eps_in"])) == float(row["eps_out"])
        assert 20.0 < certificate.bound < 40.0001
        assert certificate.smoothing_loss == float(row["smoothing_loss"])


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
    back = {row["index"]: float(row["eps_in"]) for row in found if (row["asked"], row["eps_out"]) == ("eps_out", "5.0")}
    assert back == {str(index): certificate.eps_in(5.0) for index, certificate in certificates.items()}
    assert {row["eps_in"] for row in found if (row["asked"], row["eps_out"]) == ("eps_out", "100.0")} == {"inf"}


def test_the_plan_of_means_says_what_it_costs_and_what_no_sample_shows(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run(checkpoint, tmp_path, *MEANS, "--h", "1", "2", "--num-examples=1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "plan: 1 examples, TotalVariation(p=1), sigma=0.25, method=mean, n=100, m=400, clip_norm=20"
    )
    budget = named.budget("standard", "mean", n=100, m=400)
    for line, h in zip(lines[2:4], (1.0, 2.0), strict=True):
        tail = budget.shared().plan(h).tail_at_bound
        sigma, shown_h, eps_in, shown_tail, product, *unseen = map(float, line.replace(" b", "").split())
        moments, spread, outside = budget.unseen(h)
        assert unseen == pytest.approx([40.0 * outside, moments, spread], abs=0.02)
        assert (sigma, shown_h, eps_in) == (0.25, h, h * 0.25)
        assert tail <= shown_tail <= tail + 1e-6
        assert 40.0 * tail <= product <= 40.0 * tail + 0.02
    assert "500 evaluations per example and sigma, 500 in all" in lines[4]
    assert any(line.startswith("promise (mean): ") for line in lines)


def test_the_same_command_keeps_means_and_another_norm_is_refused(
    means: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (means / "certificates.csv").read_bytes()
    monkeypatch.setattr("center_smoothing.MeanSmoother.certify", None)
    run(checkpoint, means, *MEANS, "--h", "0", "1")
    assert (means / "certificates.csv").read_bytes() == before
    capsys.readouterr()
    given = [f"--ckpt={checkpoint}", f"--out={means}", *TINY, "--h", "0", "1"]
    assert "clip_norm=20.0, not 30.0" in refused(capsys, *given, "--smoother=mean", "--clip-norm=30")
    assert "output_bound=None, not 99.0" in refused(capsys, *given, "--smoother=mean", "--output-bound=99")
    assert "smoother='mean', not 'center'" in refused(capsys, *given, "--k=8")


def test_means_go_on_where_they_were_interrupted(
    means: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    shutil.copytree(means, tmp_path / "half", ignore=shutil.ignore_patterns("wandb"))
    part = tmp_path / "half" / "certificates.csv"
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:3]) + "1536,0.25,0.0,1")
    assert rows(run(checkpoint, tmp_path / "half", *MEANS, "--h", "0", "1")) == rows(means)


def test_a_norm_from_training_images_is_recorded_and_taken_again(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("certification.clip_norm._IMAGES", 8)
    asked = ["--smoother=mean", "--clip-norm=auto", "--h=1", "--num-examples=1"]
    folder = run(checkpoint, tmp_path, *asked)
    norm = summary(folder)["config"]["clip_norm"]
    assert f"clip norm: {norm:g}, from training images" in capsys.readouterr().out.splitlines()
    (certificate,) = CertificationFolder(folder).certificates().values()
    assert isinstance(certificate, MeanCertificate)
    assert norm < certificate.bound < 2.0001 * norm
    monkeypatch.setattr("certification.jobs.clip_norm_of_training", None)
    monkeypatch.setattr("center_smoothing.MeanSmoother.certify", None)
    before = (folder / "certificates.csv").read_bytes()
    run(checkpoint, folder, *asked)
    assert (folder / "certificates.csv").read_bytes() == before


@pytest.mark.parametrize("distance", ["angular", "cosine"])
def test_means_of_directions_need_no_norm_to_clip_to(
    distance: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    attack = ["--attack=pgd", "--attack-steps=2", "--attack-starts=1", "--attack-samples=4"]
    asked = ["--smoother=mean", f"--distance={distance}", "--h", "0.5", "1", "--num-examples=1"]
    folder = run(checkpoint, tmp_path, *asked, *attack)
    printed = capsys.readouterr().out
    assert "n=100, m=400, outputs of norm 1, alpha" in printed
    assert summary(folder)["config"]["normalised"] is True
    found = table(folder / "certificates.csv")
    for row in found:
        assert 0.0 < float(row["attack_eps"]) < float(row["eps_out"]) < 1.0
    with np.load(folder / "outputs" / f"{found[0]['index']}.npz") as arrays:
        base, smoothed = arrays["base"], arrays["smoothed"]
        assert np.linalg.norm(base) == pytest.approx(1.0)
        assert arrays["center_norm"] == pytest.approx(np.linalg.norm(smoothed), rel=1e-6)
    loss = DISTANCES[distance](*(torch.from_numpy(each)[None] for each in (base, smoothed))).item()
    assert float(found[0]["smoothing_loss"]) == pytest.approx(loss, rel=1e-4)
    page = (folder / "report.html").read_text()
    assert "Outputs are scaled to norm 1." in page
    assert "of norm 1, white = " in page
    certify.main([f"--from={folder}", "--h", "0.5"])
    assert f"eps_in={found[0]['eps_in']}" in capsys.readouterr().out
    monkeypatch.setattr("center_smoothing.MeanSmoother.certify", None)
    before = (folder / "certificates.csv").read_bytes()
    run(checkpoint, folder, *asked, *attack)
    assert (folder / "certificates.csv").read_bytes() == before


def test_a_promised_bound_is_recorded_and_one_that_does_not_hold_is_an_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    largest = 2.0 * 2 * 28 * 27
    folder = run(
        checkpoint, tmp_path / "a", "--smoother=mean", f"--output-bound={largest}", "--h=1", "--num-examples=1"
    )
    assert summary(folder)["config"]["output_bound"] == largest
    (certificate,) = CertificationFolder(folder).certificates().values()
    assert isinstance(certificate, MeanCertificate)
    assert certificate.bound == pytest.approx(largest)
    assert "clipped" not in (folder / "report.html").read_text().split("<footer>")[0].split("<body>")[1]
    capsys.readouterr()
    arguments = [f"--ckpt={checkpoint}", f"--out={tmp_path / 'b'}", *TINY, "--smoother=mean", "--output-bound=0.01"]
    line = refused(capsys, *arguments, "--h=1")
    assert "bound must be at least every distance between two outputs, got 0.01" in line
    assert "0 of 3 examples are finished and kept" in line


def test_the_default_folder_is_named_after_what_was_smoothed(
    checkpoint: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    given = [f"--ckpt={checkpoint}", *TINY, "--num-examples=1", "--h", "0"]
    folders = [certify.main([*given, *MEANS]).name, certify.main([*given, "--smoother=mean", "--clip-norm=30"]).name]
    assert [name.rsplit("-", 1)[0] for name in folders] == ["tv-mean-clip_norm=20", "tv-mean-clip_norm=30"]


@pytest.mark.parametrize(("name", "n", "m"), [("quick", 1_000, 10_000), ("standard", 30_000, 90_000)])
def test_budgets_of_means(name: str, n: int, m: int) -> None:
    budget = named.budget(name, "mean")
    assert (budget.n, budget.m, budget.group) == (n, m, 1)
    assert named.budget(name, "mean", n=7, m=None, alpha1=0.1, alpha2=0.2).as_dict() == {
        "n": 7, "m": m, "group": 1, "alpha_1": 0.1, "alpha_2": 0.2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--smoother=both"], ["--smoother must be one of center, mean", "'both'"]),
        (
            ["--smoother=mean"],
            ["exactly one of --clip-norm and --output-bound, got none", "part of the model", "who knows"],
        ),
        (
            ["--smoother=mean", "--clip-norm=1", "--output-bound=2"],
            ["exactly one", "got --clip-norm and --output-bound"],
        ),
        (["--clip-norm=1"], ["--clip-norm bounds the outputs of means", "--smoother mean, got center"]),
        (["--output-bound=1"], ["--output-bound bounds the outputs of means", "got center"]),
        (
            [*MEANS, "--distance=angular"],
            ["--clip-norm must be left out with --distance=angular", "of norm 1"],
        ),
        (["--smoother=mean", "--clip-norm=auto", "--distance=cosine"], ["--clip-norm must be left out"]),
        (["--clip-norm=auto"], ["--clip-norm bounds the outputs of means", "got center"]),
        (["--smoother=mean", "--output-bound=1", "--distance=cosine"], ["--output-bound must be left out"]),
        (
            [*MEANS, "--distance=jaccard"],
            [
                "--smoother=mean needs a distance that is convex in the output or depends on directions alone "
                "(tv, tv-l2, angular, l1, l2, linf, cosine, squared-l2, probability-tv, wasserstein1), got jaccard: by"
            ],
        ),
        ([*MEANS, "--distance=mask-jaccard"], ["convex", "got mask-jaccard", "further away than each of its outputs"]),
        ([*MEANS, "--method=paper"], ["--method is of centers alone", "--smoother=mean"]),
        ([*MEANS, "--rtol=0.1"], ["--rtol is of centers alone"]),
        ([*MEANS, "--eps-out-at-most=3"], ["--eps-out-at-most is of centers alone"]),
        ([*MEANS, "--k=8"], ["--k is of centers alone"]),
        ([*MEANS, "--delta=0.1"], ["--delta is of centers alone"]),
        ([*MEANS, "--plan", "--time-limit=1m"], ["--time-limit is of centers alone", "--smoother=mean"]),
        ([*MEANS, "--budget=paper"], ["--budget must be one of quick, standard", "got paper"]),
        (["--smoother=mean", "--clip-norm=0"], ["--clip-norm must be auto or a positive number", "'0'"]),
        (["--smoother=mean", "--output-bound=inf"], ["--output-bound must be a positive number", "'inf'"]),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_loaded(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("certification.subject.load_checkpoint", None)
    line = refused(capsys, "--ckpt=none.ckpt", "--h=1", *arguments)
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


def test_questions_take_no_smoother(means: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--smoother=mean"], ["--clip-norm=20"], ["--output-bound=20"]):
        assert "the folder has its own" in refused(capsys, f"--from={means}", "--h=1", *arguments)


def test_a_mean_abstains_where_an_output_is_not_finite(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes_nan(self: object, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.mean(dim=(1, 2, 3), keepdim=True) > x.mean() + 0.02, math.nan, x)

    monkeypatch.setattr("lightning_modules.NoisyAutoencoder.forward", sometimes_nan)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = run(checkpoint, tmp_path, *MEANS, "--h", "0", "--num-examples=1")
    assert [(row["abstained"], row["eps_out"]) for row in rows(folder)] == [("True", "inf")]
    assert "count as at the bound on distances" in capsys.readouterr().out
    (certificate,) = CertificationFolder(folder).certificates().values()
    assert certificate.eps_out(0.0) == math.inf
