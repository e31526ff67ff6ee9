import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import center_smoothing
import certify
from center_smoothing import Certificate
from center_smoothing.budget import Coverage
from center_smoothing.promise import promise_line
from certification.arguments import parse
from datamodules import MNIST
from results.folder import CertificationFolder
from tests.scripts.refusals import refused

TINY = ["--n=100", "--m=400", "--k=8", "--num-examples=3", "--batch-size=64", "--accelerator=cpu"]
SWEEP = ["--h", "0.5", "1", "--eps-in", "0.2", "0.4"]
GOLDEN = [4.57, 4.53, 4.83]
COLUMNS = "index,sigma,eps_in,eps_out,smoothing_loss,abstained,n,m,delta,method,theorem,seconds"


def run(checkpoint: Path, out: Path, *arguments: str) -> Path:
    return certify.main([f"--ckpt={checkpoint}", f"--out={out}", *TINY, *arguments])


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "certificates.csv").open() as file:
        return list(csv.DictReader(file))


def without_seconds(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table(folder)]


@pytest.fixture(scope="module")
def certified(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certification of three digits at two radii."""
    return run(checkpoint, tmp_path_factory.mktemp("certification"), "--h", "0", "1")


def test_the_folder_holds_everything(certified: Path) -> None:
    assert {path.name for path in certified.iterdir()} == {
        ".lock", "certificates.csv", "certificates.png", "certified_fraction.csv", "certified_fraction.png",
        "distances", "outputs", "report.html", "summary.json", "wandb",
    }  # fmt: skip
    assert (certified / "certificates.csv").read_text().splitlines()[0] == COLUMNS
    indices = list(dict.fromkeys(row["index"] for row in table(certified)))
    assert len(indices) == 3
    assert len(table(certified)) == 6
    for index in indices:
        distances = np.load(certified / "distances" / f"{index}.npy")
        assert distances.dtype == np.float64
        assert distances.shape == (400,)
        assert np.all(np.diff(distances) >= 0)
    for name in ("certificates.png", "certified_fraction.png"):
        assert (certified / name).read_bytes().startswith(b"\x89PNG")


def test_the_certified_fraction_is_that_of_the_rows(certified: Path) -> None:
    with (certified / "certified_fraction.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert list(steps[0]) == ["sigma", "eps_in", "eps_out", "fraction"]
    for eps_in in (0.0, 0.25):
        radii = sorted(float(row["eps_out"]) for row in table(certified) if float(row["eps_in"]) == eps_in)
        own = [(float(step["eps_out"]), float(step["fraction"])) for step in steps if float(step["eps_in"]) == eps_in]
        assert own == [(0.0, 0.0), *((radius, (rank + 1) / 3) for rank, radius in enumerate(radii))]
    assert {step["sigma"] for step in steps} == {"0.25"}


def test_the_summary_says_what_was_done(certified: Path, checkpoint: Path) -> None:
    summary = json.loads((certified / "summary.json").read_text())
    assert set(summary) == {
        "config", "checkpoint_sha256", "versions", "device", "origin", "samples_per_second", "results",
    }  # fmt: skip
    assert [set(result) for result in summary["results"]] == 2 * [
        {
            *("eps_in", "h", "median_eps_out", "median_smoothing_loss", "abstention_rate", "num_examples"),
            *("relative_eps_out", "median_to_blank", "median_between_examples"),
        }
    ]
    assert summary["samples_per_second"] > 0
    radii = sorted(float(row["eps_out"]) for row in table(certified) if float(row["eps_in"]) == 0.25)
    assert summary["results"][1]["median_eps_out"] == radii[1]
    assert summary["results"][1]["h"] == 1.0
    assert summary["results"][1]["num_examples"] == 3


def test_golden_rows(certified: Path) -> None:
    rows = [(row["index"], float(row["eps_out"])) for row in table(certified) if float(row["eps_in"]) == 0.25]
    assert [index for index, _ in rows] == ["540", "4585", "1536"]
    assert [radius for _, radius in rows] == pytest.approx(GOLDEN, rel=0.06)  # processors train a little differently


def test_eps_out_is_the_certificate_of_the_saved_distances(certified: Path) -> None:
    certificates = CertificationFolder(certified).certificates()
    for row in table(certified):
        certificate = certificates[int(row["index"])]
        assert isinstance(certificate, Certificate)
        assert certificate.eps_out(float(row["eps_in"])) == float(row["eps_out"])


def test_the_offline_wandb_run_has_the_table_the_curve_and_the_images(
    certified: Path, wandb_history: Callable[[Path], list[dict[str, object]]]
) -> None:
    history = wandb_history(certified)
    summary = json.loads((certified / "summary.json").read_text())
    curve = [row for row in history if "median_eps_out" in row]
    assert [{key: row[key] for key in result} for row, result in zip(curve, summary["results"], strict=True)] == (
        summary["results"]
    )
    keys = set().union(*history)
    assert {"certificates/nrows", "examples/count", "curve/path", "fraction_curve/path"} <= keys
    (logged,) = (row for row in history if "certified_fraction/nrows" in row)
    steps = (certified / "certified_fraction.csv").read_text().splitlines()
    assert logged["certified_fraction/nrows"] == len(steps) - 1
    (run,) = certified.glob("wandb/offline-run-*")
    written = json.loads((run / "files" / str(logged["certified_fraction/path"])).read_text())
    assert written["columns"] == steps[0].split(",")
    assert written["data"] == [[float(cell) for cell in step.split(",")] for step in steps[1:]]


@pytest.fixture(scope="module")
def swept(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two digits at two h and two radii: the noise grows with the radius."""
    return run(checkpoint, tmp_path_factory.mktemp("sweep"), *SWEEP, "--num-examples=2")


def test_with_h_and_eps_in_the_noise_level_is_their_ratio(swept: Path) -> None:
    rows = [(float(row["sigma"]), float(row["eps_in"])) for row in table(swept)]
    assert rows == [(0.2, 0.2)] * 2 + [(0.4, 0.2), (0.4, 0.4)] * 2 + [(0.8, 0.4)] * 2
    summary = json.loads((swept / "summary.json").read_text())
    places = [(result["h"], result["eps_in"]) for result in summary["results"]]
    assert places == [(0.5, 0.2), (0.5, 0.4), (1, 0.2), (1, 0.4)]
    assert summary["config"]["sigma"] == [0.2, 0.4, 0.8]
    radii = [result["median_eps_out"] for result in summary["results"]]
    assert radii[0] < radii[1]
    assert radii[2] < radii[3]
    assert {
        "certificates.png", "certified_fraction.png", "report.html", "sigma=0.2", "sigma=0.4", "sigma=0.8",
    } <= {path.name for path in swept.iterdir()}  # fmt: skip
    with (swept / "certified_fraction.csv").open() as file:
        levels = [(float(step["sigma"]), float(step["eps_in"])) for step in csv.DictReader(file)]
    assert list(dict.fromkeys(levels)) == [(0.2, 0.2), (0.4, 0.2), (0.4, 0.4), (0.8, 0.4)]
    report = (swept / "report.html").read_text()
    assert "Certified fraction for each eps_in at h = 0.5" in report
    assert "Certified fraction for each eps_in at h = 1" in report


def test_each_noise_level_is_what_a_certification_at_that_sigma_gives(
    swept: Path, checkpoint: Path, tmp_path: Path
) -> None:
    alone = run(checkpoint, tmp_path, "--sigma=0.4", "--eps-in", "0.2", "0.4", "--num-examples=2")
    assert without_seconds(alone) == without_seconds(swept / "sigma=0.4")
    assert without_seconds(alone) == [row for row in without_seconds(swept) if row["sigma"] == "0.4"]


def test_a_sweep_goes_on_where_it_was_interrupted(
    swept: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    shutil.copytree(swept, tmp_path / "half")
    part = tmp_path / "half" / "sigma=0.4" / "certificates.csv"
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:3]))
    again = run(checkpoint, tmp_path / "half", *SWEEP, "--num-examples=2")
    assert without_seconds(again) == without_seconds(swept)
    printed = capsys.readouterr().out.splitlines()
    assert "sigma=0.4:" in printed
    assert "sigma=0.2:" not in printed


def test_a_sweep_and_a_single_noise_level_do_not_share_a_folder(
    swept: Path, certified: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, f"--ckpt={checkpoint}", f"--out={certified}", *TINY, *SWEEP)
    assert "it holds a certification with sigma=0.25, not [0.2, 0.4, 0.8]" in line
    assert "--out must be another folder" in refused(capsys, f"--ckpt={checkpoint}", f"--out={swept}", *TINY, "--h=1")
    assert f"take one of {swept / 'sigma=0.2'}" in refused(capsys, f"--from={swept}", "--h=1")
    assert certify.main([f"--from={swept / 'sigma=0.4'}", "--eps-in", "0.1"]) == swept / "sigma=0.4"


def test_a_sweep_is_one_run_of_wandb_with_a_line_for_each_h(
    swept: Path, wandb_history: Callable[[Path], list[dict[str, object]]]
) -> None:
    history = wandb_history(swept)
    for h in (0.5, 1):
        assert [row["eps_in"] for row in history if f"median_eps_out/h={h:g}" in row] == [0.2, 0.4]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_another_batch_size_gives_the_same_radii(certified: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = run(checkpoint, tmp_path, "--h", "0", "1", "--batch-size=37")
    ours, theirs = ([float(row["eps_out"]) for row in table(folder)] for folder in (certified, other))
    assert theirs == pytest.approx(ours, rel=1e-4)


def test_fewer_examples_are_the_first_of_more(certified: Path, checkpoint: Path, tmp_path: Path) -> None:
    fewer = run(checkpoint, tmp_path, "--h", "0", "1", "--num-examples=1")
    assert without_seconds(fewer) == without_seconds(certified)[:2]


@pytest.mark.usefixtures("logs_to_wandb")
def test_the_plan_comes_first_and_the_promise_last(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(checkpoint, tmp_path, "--h", "1", "--num-examples=1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("plan: 1 examples, TotalVariation(p=1), sigma=0.25")
    assert any("508 evaluations per example" in line for line in lines)
    assert any(line.startswith("1 of 1 examples") and "samples/s" in line for line in lines)
    certificates = CertificationFolder(tmp_path).certificates()
    promise = promise_line(next(iter(certificates.values())).budget, "TotalVariation(p=1)", coverage="pointwise")
    assert promise.removeprefix("promise (pointwise): f") in (tmp_path / "report.html").read_text()
    assert lines[-2].startswith("W&B ran offline")
    assert lines[-1] == f"report: {tmp_path / 'report.html'}"
    assert lines[-3] == promise
    assert str(tmp_path) not in " ".join(lines[:-2])


def test_a_finished_folder_is_kept_without_sampling(
    certified: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, summary = ((certified / name).read_bytes() for name in ("certificates.csv", "summary.json"))
    older = json.loads(summary)
    assert older["config"].pop("distance_identity") == {
        "class": "center_smoothing.TotalVariation",
        "settings": {"p": 1},
    }
    (certified / "summary.json").write_text(json.dumps(older))  # as it was before distances had an identity
    monkeypatch.setattr("center_smoothing.CenterSmoother.certify", None)
    run(checkpoint, certified, "--h", "0", "1")
    assert (certified / "certificates.csv").read_bytes() == before
    assert json.loads((certified / "summary.json").read_text()) == json.loads(summary)
    assert older["samples_per_second"] > 0


def test_the_same_command_goes_on_after_a_torn_line(certified: Path, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(certified, tmp_path / "half", ignore=shutil.ignore_patterns("wandb"))
    part = tmp_path / "half" / "certificates.csv"
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:3]) + "1536,0.25,0.0,12")
    assert without_seconds(run(checkpoint, tmp_path / "half", "--h", "0", "1")) == without_seconds(certified)


def test_a_folder_of_another_configuration_is_refused(
    certified: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--ckpt={checkpoint}", f"--out={certified}", *TINY, "--h", "0", "1", "--distance=l2"]
    line = refused(capsys, *arguments)
    assert "--out must be another folder" in line
    assert "distance='TotalVariation(p=1)', not 'Lp(p=2.0)'" in line


@pytest.mark.parametrize(
    "typed",
    [
        ["--ckpt=other.ckpt"], ["--n", "300"], ["--h", "0.25", "0.75"], ["--eps-in", "1"], ["--distance=l2"],
        ["--coverage=dkw"], ["--budget=standard"], ["--seed", "4"], ["--num-examples=2"], ["--m", "700", "800"],
        ["--smoother=mean", "--clip-norm=5"], ["--noise=discrete"], ["--fold-batch-norm=false"], ["--out=there"],
        ["--data=CIFAR10"], ["--data.variant=mnist"], ["--batch-size=8"], ["--devices=2"],
    ],
)  # fmt: skip
def test_what_is_typed_wins_over_a_file_wherever_it_stands(typed: list[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "{ckpt: one.ckpt, n: 100, h: [1.0], eps_in: [0.5], distance: tv, coverage: pointwise, budget: quick, seed: 1, "
        "num_examples: all, smoother: center, noise: gaussian, grid: null, fold_batch_norm: true, out: here, "
        "batch_size: 4, devices: '1', clip_norm: null, data: {class_path: MNIST, init_args: {variant: digits}}"
        + ("}" if "mean" in typed[0] else ", m: [200], plan: true}")
    )
    commands = [f"--config={file}"], [f"--config={file}", *typed], [*typed, "--config", str(file)]
    before, first, last = (vars(parse(command)) for command in commands)
    for options in (before, first, last):
        del options["command"]  # as it was typed
        options["data"] = type(options["data"]), dict(options["data"].hparams)
    assert first == last
    assert first != before


def test_a_run_folder_is_its_best_checkpoint(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run_folder / "checkpoints" / "best.ckpt"
    run(run_folder, tmp_path, "--h=1", "--num-examples=1")
    assert f"checkpoint: {best}" in capsys.readouterr().out.splitlines()
    run(best, tmp_path, "--h=1", "--num-examples=1")
    said = capsys.readouterr().out
    assert "1 of 1 examples are there already and kept" in said
    assert "checkpoint:" not in said


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model cannot be loaded, called or sampled."""
    for name in (
        "certification.subject.load_checkpoint",
        "center_smoothing.CenterSmoother.__init__",
        "torch.nn.Module.__call__",
    ):
        monkeypatch.setattr(name, None)


def answered(lines: list[str], heading: str) -> dict[str, list[str]]:
    """The cells of the table below a heading by the first one of their line."""
    first = next(number for number, line in enumerate(lines) if line.startswith(heading)) + 1
    return {line.split()[0]: line.split()[1:] for line in lines[first:] if line.split()[0] != heading}


@pytest.mark.usefixtures("no_evaluation")
def test_a_folder_answers_other_radii_without_sampling(certified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certify.main([f"--from={certified}", "--eps-in", "0.1", "0.25"])
    lines = capsys.readouterr().out.splitlines()
    assert not any("eps_out=" in line for line in lines)
    found = answered(lines, "certified output radius eps_out, rounded up")
    assert found["index"] == ["eps_in=0.1", "eps_in=0.25"]
    exact = {row["index"]: float(row["eps_out"]) for row in table(certified) if float(row["eps_in"]) == 0.25}
    assert all(exact[index] <= float(found[index][1]) <= exact[index] + 0.0101 for index in exact)
    shares = answered(lines, "least eps_out to which that share")
    assert shares["eps_in"] == ["25%", "median", "75%", "90%", "certified"]
    first, middle, last = sorted((found[index][1] for index in exact), key=float)
    assert shares["0.25"] == [first, middle, last, last, "100%"]
    assert lines[-1].startswith("promise (pointwise): ")


@pytest.mark.usefixtures("no_evaluation")
@pytest.mark.parametrize("coverage", ["pointwise", "bonferroni", "dkw"])
def test_a_folder_answers_how_large_a_change_may_be(
    certified: Path, coverage: Coverage, capsys: pytest.CaptureFixture[str]
) -> None:
    certify.main([f"--from={certified}", "--eps-out", "2.5", "40", "1", "40", f"--coverage={coverage}"])
    lines = capsys.readouterr().out.splitlines()
    assert not any("eps_in=" in line for line in lines)
    found = answered(lines, "largest certified input radius eps_in, rounded down")
    assert found["index"] == ["eps_out=2.5", "eps_out=40", "eps_out=1"]
    certificates = CertificationFolder(certified).certificates()
    radii = [certificate.eps_in([2.5, 40.0, 1.0], coverage=coverage) for certificate in certificates.values()]
    for index, exact in zip(certificates, radii, strict=True):
        for shown, radius in zip(map(float, found[str(index)]), np.atleast_1d(exact), strict=True):
            assert 0.99 * radius <= shown <= radius
    for position, cell in enumerate(found["median"]):
        column = sorted((found[str(index)][position] for index in certificates), key=float)
        assert cell == column[1]
        assert (
            found["certified"][position]
            == {0: "0%", 1: "33.3%", 2: "66.6%", 3: "100%"}[
                sum(float(np.atleast_1d(exact)[position]) > 0.0 for exact in radii)
            ]
        )
    budget = next(iter(certificates.values())).budget
    assert lines[-1] == promise_line(budget, "TotalVariation(p=1)", coverage=coverage)


@pytest.mark.usefixtures("no_evaluation")
def test_both_questions_make_two_tables_and_a_file(
    certified: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.csv"
    before = {path: path.read_bytes() for path in certified.glob("*.*")}
    assert certify.main([f"--from={certified}", "--h", "1", "--eps-out", "2.5", f"--out={out}"]) == certified
    lines = capsys.readouterr().out.splitlines()
    assert answered(lines, "certified output radius")["index"]
    assert lines[-1] == f"written: {out}"
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "asked", "eps_in", "eps_out", "coverage"]
    exact = {row["index"]: row["eps_out"] for row in table(certified) if float(row["eps_in"]) == 0.25}
    assert {row["index"]: row["eps_out"] for row in rows if row["asked"] == "eps_in"} == exact
    back = {row["index"]: float(row["eps_in"]) for row in rows if row["asked"] == "eps_out"}
    certificates = CertificationFolder(certified).certificates()
    assert back == {str(index): certificate.eps_in(2.5) for index, certificate in certificates.items()}
    assert {path: path.read_bytes() for path in certified.glob("*.*")} == before


def test_questions_that_cannot_be_answered_are_one_line(
    certified: Path, swept: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("-1", "nan", "inf", "far"):
        line = refused(capsys, f"--from={certified}", "--eps-out", "40", value)
        assert line == f"error: --eps-out must be a number of at least 0 such as 0.5, got '{value}'"
    line = refused(capsys, f"--ckpt={checkpoint}", "--eps-out", "40", "60")
    assert "--eps-out must be asked of a finished folder, got it with --ckpt" in line
    assert line.endswith("--from FOLDER --eps-out 40")
    assert f"take one of {swept / 'sigma=0.2'}" in refused(capsys, f"--from={swept}", "--eps-out", "40")
    assert "it has no summary.json" in refused(capsys, f"--from={tmp_path}", "--eps-out", "40")
    shutil.copytree(certified, tmp_path / "half", ignore=shutil.ignore_patterns("wandb"))
    rows = (tmp_path / "half" / "certificates.csv").read_text().splitlines(keepends=True)
    for kept, words in ((3, "1 of 3 examples are certified; run the same command"), (1, "no finished example")):
        (tmp_path / "half" / "certificates.csv").write_text("".join(rows[:kept]))
        assert words in refused(capsys, f"--from={tmp_path / 'half'}", "--eps-out", "40")
    for out in (certified / "certificates.csv", certified, "/dev/null/answers.csv"):
        assert "--out must be a" in refused(capsys, f"--from={certified}", "--eps-out=40", f"--out={out}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("distance", ["tv-l2", "angular", "linf"])
def test_all_distances(checkpoint: Path, tmp_path: Path, distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = run(checkpoint, tmp_path, "--h", "1", "--num-examples=1", f"--distance={distance}")
    (row,) = table(folder)
    assert 0 < float(row["eps_out"]) < math.inf
    assert 0 < float(row["smoothing_loss"]) < float(row["eps_out"])


def test_paper_mode_and_simultaneous_coverage(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    common = ["--h", "0", "0.2", "--num-examples=1", "--delta=0.3"]
    pointwise = run(checkpoint, tmp_path / "a", *common)
    everywhere = run(checkpoint, tmp_path / "b", *common, "--coverage=dkw")
    paper = run(checkpoint, tmp_path / "c", *common, "--method=paper")
    ours, theirs = ([float(row["eps_out"]) for row in table(folder)] for folder in (pointwise, everywhere))
    assert all(a <= b for a, b in zip(ours, theirs, strict=True))
    assert {row["method"] for row in table(paper)} == {"paper"}


def test_sampling_stops_where_more_samples_would_change_little(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = run(checkpoint, tmp_path / "a", "--h", "0", "0.5", "--m=1600", "--rtol=0.3")
    printed = capsys.readouterr().out
    assert "may stop an example at 100, 200, 400, 800, 1,600 certification outputs, each with alpha_2 / 5" in printed
    rows = table(folder)
    drawn = {row["index"]: int(row["m"]) for row in rows}
    assert min(drawn.values()) < 1600
    assert all(len(np.load(folder / "distances" / f"{index}.npy")) == m for index, m in drawn.items())
    config = json.loads((folder / "summary.json").read_text())["config"]
    assert (config["rtol"], config["budget"]["looks"]) == (0.3, 5)
    for index, certificate in CertificationFolder(folder).certificates().items():
        there = [row for row in rows if row["index"] == str(index)]
        assert [certificate.eps_out(float(row["eps_in"])) for row in there] == [float(row["eps_out"]) for row in there]
    line = refused(
        capsys, f"--ckpt={checkpoint}", f"--out={folder}", *TINY, "--h", "0", "0.5", "--m=1600", "--rtol=0.2"
    )
    assert "--out must be another folder" in line
    assert "rtol=0.3, not 0.2" in line


def test_sampling_stops_where_a_question_is_decided(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    common = ["--h", "0.5", "--m=1600", "--num-examples=2"]
    full = [float(row["eps_out"]) for row in table(run(checkpoint, tmp_path / "full", *common))]
    easy = table(run(checkpoint, tmp_path / "easy", *common, f"--eps-out-at-most={3 * max(full)}"))
    hard = table(run(checkpoint, tmp_path / "hard", *common, f"--eps-out-at-most={min(full) / 3}"))
    assert all(float(row["eps_out"]) <= 3 * max(full) for row in easy)
    assert all(float(row["eps_out"]) > min(full) / 3 for row in hard)
    assert all(int(row["m"]) < 1600 for row in (*easy, *hard))


def test_default_folder_lies_beside_the_checkpoints(
    checkpoint: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = certify.main([f"--ckpt={checkpoint}", *TINY, "--num-examples=1", "--h", "0"])
    assert folder.resolve().parent == run_folder.resolve() / "certification"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sigma=0"], ["--sigma must be a positive number", "'0'"]),
        (["--sigma=nan"], ["--sigma must be a positive number", "'nan'"]),
        (["--sigma=loud"], ["--sigma must be a positive number", "'loud'"]),
        (["--h", "9"], ["no number of samples certifies", "(h=9)"]),
        (["--h", "x"], ["--h must be a number", "'x'"]),
        (["--eps-in", "-1"], ["--eps-in must be a number of at least 0", "-1"]),
        (["--h", "1", "--eps-in", "0.2", "--sigma=0.1"], ["--sigma must be left out", "eps_in / h, got 0.1"]),
        (["--h", "0", "--eps-in", "0.2"], ["--h and --eps-in must be above 0 where both are given"]),
        (["--h", "1", "9", "--eps-in", "0.2"], ["no number of samples certifies eps_in=0.2 (h=9)"]),
        (["--model=FaceDetector"], ["--ckpt", "--model"]),
        (["--model=Foo"], ["--model", "Foo"]),
        (["--num-examples=some"], ["--num-examples must be all or a whole number of at least 1", "'some'"]),
        (["--delta=0.01"], ["delta must lie in [0.", "n=100", "got 0.01"]),
        (["--alpha1=0.7"], ["alpha_1 must lie in (0, 0.5], got 0.7"]),
        (["--out=/dev/null/x"], ["--out must be a folder that can be written to", "/dev/null/x"]),
        (["--distance=hamming"], ["--distance must be one of tv", "'hamming'"]),
        (["--budget=huge"], ["--budget must be one of paper, quick, standard", "'huge'"]),
        (["--method=magic"], ["--method must be one of exact, paper", "'magic'"]),
        (["--rtol=1"], ["--rtol must lie in (0, 1), such as 0.02, got 1"]),
        (["--rtol=0.1", "--eps-out-at-most=40"], ["--rtol and --eps-out-at-most are two rules"]),
        (["--h", "0", "--m=150", "--rtol=0.1"], ["m must be at least about 200 to stop early at h=0", "got 150"]),
        (["--rtol=0.1", "--method=paper", "--delta=0.3", "--h", "0"], ["looks must be 1 for method='paper'"]),
        (["--n=0"], ["--n must be a whole number of at least 1", "'0'"]),
        (["--m=many"], ["--m must be a whole number of at least 1", "'many'"]),
        (["--batch-size=0"], ["--batch-size must be auto or a whole number", "'0'"]),
        (["--num-examples=501"], ["--num-examples must be all or at most 500", "got 501"]),
        (["--accelerator=abacus"], ["--accelerator=abacus"]),
        (["--data=Foo"], ["--data", "Foo"]),
    ],
)
def test_bad_arguments_give_one_line_and_exit_code_2(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    radii = [] if {"--h", "--eps-in"} & set(arguments) else ["--h=0"]
    line = refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path / 'out'}", *TINY, *radii, *arguments)
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


def test_bad_checkpoints_give_one_line_and_exit_code_2(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    (tmp_path / "truncated").write_bytes(checkpoint.read_bytes()[:5000])
    (tmp_path / "foreign").write_text("not a checkpoint")
    torch.save(content | {"base_model": "SomethingElse"}, tmp_path / "other")
    weights = {
        key: value * math.nan if value.is_floating_point() else value for key, value in content["state_dict"].items()
    }
    torch.save(content | {"state_dict": weights}, tmp_path / "diverged")
    said = {name: refused(capsys, f"--ckpt={tmp_path / name}", *TINY, "--h=0", f"--out={tmp_path / 'out'}")
            for name in ("missing", "truncated", "foreign", "other", "diverged")}  # fmt: skip
    assert "no such file" in said["missing"]
    assert "damaged or of another format" in said["truncated"]
    assert "damaged or of another format" in said["foreign"]
    assert "must hold one of NoisyAutoencoder" in said["other"]
    assert "'SomethingElse'" in said["other"]
    assert "finite outputs" in said["diverged"]
    assert "--ckpt must name a checkpoint" in refused(capsys, *TINY)


def test_the_data_of_the_checkpoint_may_be_at_another_place(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(capsys, f"--ckpt={checkpoint}", *TINY, "--data.variant=mnist", f"--data.root={tmp_path / 'none'}",
                   "--data.download=false")  # fmt: skip
    assert f"--data.root must hold MNIST, got {tmp_path / 'none'}" in line
    assert "nonsense is no argument of MNIST" in refused(capsys, f"--ckpt={checkpoint}", "--data.nonsense=1")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = run(checkpoint, tmp_path / "out", "--h=0", "--num-examples=1", "--data.root=elsewhere")
    data = json.loads((folder / "summary.json").read_text())["config"]["data"]
    assert data["root"] == "elsewhere"
    assert (data["class"], data["variant"]) == ("MNIST", "digits")


def test_a_checkpoint_whose_images_are_gone_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["data"] = {"class": "ImageFolder", "init_args": {"root": str(tmp_path / "gone"), "mode": "grey"}}
    torch.save(content, tmp_path / "moved.ckpt")
    line = refused(capsys, f"--ckpt={tmp_path / 'moved.ckpt'}", *TINY, "--h=0")
    assert "--data.root" in line
    assert str(tmp_path / "gone") in line


def test_answers_without_sampling_take_no_noise_level(certified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--sigma=0.1"], ["--h=1", "--eps-in=0.1"]):
        assert "the folder has its own" in refused(capsys, f"--from={certified}", *arguments)


def test_a_summary_of_something_else_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text('{"config": {}}')
    assert "--out must be another folder" in refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, *SWEEP)
    assert "holds no finished example" in refused(capsys, f"--from={tmp_path}", "--h=1")
    (tmp_path / "summary.json").unlink()
    (tmp_path / "certificates.csv").write_text("mine")
    for radii in (["--h=0"], SWEEP):
        assert "no summary.json" in refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, *radii)
    assert (tmp_path / "certificates.csv").read_text() == "mine"


def test_very_small_radii_and_radii_close_to_each_other_have_noise_levels_of_their_own(
    checkpoint: Path, tmp_path: Path
) -> None:
    pairs = ["--h", "0.5", "--eps-in", "1e-10", "2e-10", "0.2", "0.2000001", "--num-examples=1"]
    folder = run(checkpoint, tmp_path, *pairs)
    assert len({row["sigma"] for row in table(folder)}) == 4
    assert {round(float(row["eps_in"]) / float(row["sigma"]), 6) for row in table(folder)} == {0.5}


def test_a_model_that_does_not_take_the_data_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((28, 28, 3), dtype=np.uint8)).save(tmp_path / "colour.png")
    data = ["--data=PhotoFolder", f"--data.root={tmp_path}", "--num-examples=1", f"--out={tmp_path / 'out'}"]
    assert "--data must hold examples that the model takes, got (3, 28, 28)" in refused(
        capsys, f"--ckpt={checkpoint}", *TINY, "--h=0", *data
    )


def test_an_image_with_nan_is_refused_before_sampling(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, position: int) -> dict[str, torch.Tensor]:
        return {"image": torch.full((1, 28, 28), math.nan), "index": torch.tensor(position)}

    monkeypatch.setattr("datamodules.base.IndexedImages.__getitem__", broken)
    line = refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, "--h=0")
    assert "--data: image" in line
    assert "x must be finite, got 784 NaN" in line


def test_a_model_with_nan_for_some_inputs_is_certified_with_a_note(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes_nan(self: object, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.mean(dim=(1, 2, 3), keepdim=True) > x.mean() + 0.02, math.nan, x)

    monkeypatch.setattr("lightning_modules.NoisyAutoencoder.forward", sometimes_nan)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = run(checkpoint, tmp_path, "--h", "0", "--num-examples=2")
    assert len(table(folder)) == 2
    assert "note: the model returned NaN or inf" in capsys.readouterr().out


def test_an_example_around_which_all_outputs_are_nan_abstains_and_stops_no_other(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = MNIST()
    digits.setup()
    positions = {int(index): position for position, index in enumerate(digits.test_set.indices)}
    means = sorted(float(digits.test_set[positions[index]]["image"].mean()) for index in (540, 4585, 1536))
    threshold = (means[1] + means[2]) / 2
    assert means[2] - means[1] > 8 * 0.05 / 28  # standard deviations of the mean of the noise

    def nan_for_the_brightest(self: object, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.mean(dim=(1, 2, 3), keepdim=True) > threshold, math.nan, x)

    monkeypatch.setattr("lightning_modules.NoisyAutoencoder.forward", nan_for_the_brightest)
    rows = table(run(checkpoint, tmp_path, "--h=0", "--sigma=0.05"))
    assert sorted((row["abstained"], row["eps_out"] == "inf") for row in rows) == [
        ("False", False),
        ("False", False),
        ("True", True),
    ]


def test_a_model_of_another_output_shape_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.NoisyAutoencoder.forward", lambda self, x: x.mean())
    line = refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, "--h=0")
    assert "model must return one output per input, shape (64, *out), got ()" in line


def test_a_distance_that_does_not_fit_the_outputs_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.NoisyAutoencoder.forward", lambda self, x: x.flatten(1))
    line = refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, "--h=0")
    assert "total variation compares images" in line


def test_what_is_finished_survives_an_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    certify_once, calls = center_smoothing.CenterSmoother.certify, []

    def fails_at_the_second(
        self: center_smoothing.CenterSmoother, x: torch.Tensor, *, example: int, **options: None
    ) -> Certificate:
        calls.append(example)
        if len(calls) == 2:
            raise ValueError("model must return a tensor, got NoneType")
        return certify_once(self, x, example=example, **options)

    monkeypatch.setattr(center_smoothing.CenterSmoother, "certify", fails_at_the_second)
    line = refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, "--h=0")
    assert "model must return a tensor" in line
    assert "1 of 3 examples are finished and kept" in line
    assert len(table(tmp_path)) == 1
