import json
import math
import re
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
from certification.arguments import noise_levels, parse
from certification.subject import draw_examples
from datamodules import MNIST
from results import numbers
from results.folder import CertificationFolder
from tests.scripts.running import CENTERS, Done, radii, refused, rows, run, shown, summary, table

TINY = [*CENTERS, "--num-examples=3"]
SWEEP = ["--h", "0.5", "1", "--eps-in", "0.2", "0.4"]
GOLDEN = [4.57, 4.53, 4.83]
BOTH = pytest.mark.parametrize(
    ("fixture", "smoother", "given"),
    [("certified", "CenterSmoother", []), ("means", "MeanSmoother", ["--smoother=mean", "--clip-norm=20"])],
)
COLUMNS = "index,sigma,eps_in,eps_out,smoothing_loss,abstained,n,m,delta,method,theorem,seconds"


def test_the_folder_holds_everything(certified: Path) -> None:
    assert {path.name for path in certified.iterdir()} == {
        ".lock", "certificates.csv", "certificates.png", "certified_fraction.csv", "certified_fraction.png",
        "distances", "outputs", "report.html", "summary.json", "wandb",
    }  # fmt: skip
    assert (certified / "certificates.csv").read_text().splitlines()[0] == COLUMNS
    indices = list(dict.fromkeys(row["index"] for row in rows(certified)))
    assert len(indices) == 3
    assert len(rows(certified)) == 6
    for index in indices:
        distances = np.load(certified / "distances" / f"{index}.npy")
        assert distances.dtype == np.float64
        assert distances.shape == (400,)
        assert np.all(np.diff(distances) >= 0)
    for name in ("certificates.png", "certified_fraction.png"):
        assert (certified / name).read_bytes().startswith(b"\x89PNG")


def test_the_certified_fraction_is_that_of_the_rows(certified: Path) -> None:
    steps = table(certified / "certified_fraction.csv")
    assert list(steps[0]) == ["sigma", "eps_in", "eps_out", "fraction"]
    for eps_in in (0.0, 0.25):
        ordered = sorted(float(row["eps_out"]) for row in rows(certified) if float(row["eps_in"]) == eps_in)
        own = [(float(step["eps_out"]), float(step["fraction"])) for step in steps if float(step["eps_in"]) == eps_in]
        assert own == [(0.0, 0.0), *((radius, (rank + 1) / 3) for rank, radius in enumerate(ordered))]
    assert {step["sigma"] for step in steps} == {"0.25"}


@pytest.mark.parametrize(("fixture", "of_kind"), [("certified", "center"), ("means", "mean")])
def test_the_summary_says_what_was_done(fixture: str, of_kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture)
    found = summary(folder)
    assert set(found) == {
        "config", "checkpoint_sha256", "versions", "device", "origin", "samples_per_second", "results",
    }  # fmt: skip
    assert [set(result) for result in found["results"]] == 2 * [
        {
            *("eps_in", "h", "median_eps_out", "median_smoothing_loss", "abstention_rate", "num_examples"),
            *("relative_eps_out", "median_to_blank", "median_between_examples"),
        }
    ]
    assert found["config"]["smoother"] == of_kind
    assert found["samples_per_second"] > 0
    middle = sorted(float(row["eps_out"]) for row in rows(folder) if float(row["eps_in"]) == 0.25)[1]
    assert found["results"][1]["median_eps_out"] == middle
    assert (found["results"][1]["h"], found["results"][1]["num_examples"]) == (1.0, 3)


def test_golden_rows(certified: Path) -> None:
    found = [(row["index"], float(row["eps_out"])) for row in rows(certified) if float(row["eps_in"]) == 0.25]
    assert [index for index, _ in found] == ["540", "4585", "1536"]
    assert [radius for _, radius in found] == pytest.approx(GOLDEN, rel=0.06)  # processors train a little differently


def test_the_offline_wandb_run_has_the_table_the_curve_and_the_images(
    certified: Path, wandb_history: Callable[[Path], list[dict[str, object]]]
) -> None:
    history, results = wandb_history(certified), summary(certified)["results"]
    curve = [row for row in history if "median_eps_out" in row]
    assert [{key: row[key] for key in result} for row, result in zip(curve, results, strict=True)] == results
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
    """A digit at two h and two radii: the noise grows with the radius."""
    with shown():
        return run(checkpoint, tmp_path_factory.mktemp("sweep"), *SWEEP)


def test_with_h_and_eps_in_the_noise_level_is_their_ratio(swept: Path) -> None:
    pairs = [(float(row["sigma"]), float(row["eps_in"])) for row in rows(swept)]
    assert pairs == [(0.2, 0.2), (0.4, 0.2), (0.4, 0.4), (0.8, 0.4)]
    found = summary(swept)
    assert [(result["h"], result["eps_in"]) for result in found["results"]] == [
        (0.5, 0.2), (0.5, 0.4), (1, 0.2), (1, 0.4),
    ]  # fmt: skip
    assert found["config"]["sigma"] == [0.2, 0.4, 0.8]
    first, second, third, fourth = [result["median_eps_out"] for result in found["results"]]
    assert first < second
    assert third < fourth
    assert {
        "certificates.png", "certified_fraction.png", "report.html", "sigma=0.2", "sigma=0.4", "sigma=0.8",
    } <= {path.name for path in swept.iterdir()}  # fmt: skip
    levels = [(float(step["sigma"]), float(step["eps_in"])) for step in table(swept / "certified_fraction.csv")]
    assert list(dict.fromkeys(levels)) == pairs
    report = (swept / "report.html").read_text()
    assert "Certified fraction for each eps_in at h = 0.5" in report
    assert "Certified fraction for each eps_in at h = 1" in report


def test_each_noise_level_is_what_a_certification_at_that_sigma_gives(
    swept: Path, checkpoint: Path, tmp_path: Path
) -> None:
    alone = run(checkpoint, tmp_path, "--sigma=0.4", "--eps-in", "0.2", "0.4")
    assert rows(alone) == rows(swept / "sigma=0.4")
    assert rows(alone) == [row for row in rows(swept) if row["sigma"] == "0.4"]


def test_a_sweep_goes_on_where_it_was_interrupted(
    swept: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(swept, tmp_path / "half")
    part = tmp_path / "half" / "sigma=0.4" / "certificates.csv"
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:2]))
    assert rows(run(checkpoint, tmp_path / "half", *SWEEP)) == rows(swept)
    printed = capsys.readouterr().out.splitlines()
    assert "sigma=0.4:" in printed
    assert "sigma=0.2:" not in printed


def test_a_sweep_and_a_single_noise_level_do_not_share_a_folder(
    swept: Path, certified: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, f"--ckpt={checkpoint}", f"--out={certified}", *TINY, "--h", "0", "1", "--distance=l2")
    assert "--out must be another folder" in line
    assert "distance='TotalVariation(p=1)', not 'Lp(p=2.0)'" in line
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


def test_fewer_examples_are_the_first_of_more(certified: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert rows(run(checkpoint, tmp_path, "--h", "0", "1")) == rows(certified)[:2]
    digits = MNIST()
    digits.setup("test")
    drawn = [draw_examples(digits, 3, seed)[1] for seed in (0, 1)]
    assert drawn[0] == [540, 4585, 1536]
    assert not set(drawn[0]) & set(drawn[1])


def test_the_plan_comes_first_and_the_promise_last(finished: Done) -> None:
    lines, folder = finished.lines, finished.folder
    assert lines[0].startswith("plan: 3 examples, TotalVariation(p=1), sigma=0.25")
    assert any("508 evaluations per example" in line for line in lines)
    (estimate,) = (line for line in lines if line.startswith("  about "))
    took, speed = re.fullmatch(r"  about (.*) for 3 examples at ([\d,]+) samples/s.*", estimate).groups()
    rate = int(speed.replace(",", ""))
    assert took in {numbers.duration(3 * 508 / (rate + rounded)) for rounded in (-0.5, 0.0, 0.5)}
    assert any(line.startswith("3 of 3 examples") and "samples/s" in line for line in lines)
    certificates = CertificationFolder(folder).certificates()
    promise = promise_line(next(iter(certificates.values())).budget, "TotalVariation(p=1)", coverage="pointwise")
    assert promise.removeprefix("promise (pointwise): f") in (folder / "report.html").read_text()
    assert lines[-3] == promise
    assert lines[-2].startswith("W&B ran offline")
    assert lines[-1] == f"report: {folder / 'report.html'}"
    assert str(folder) not in " ".join(lines[:-2])


@BOTH
def test_a_finished_folder_is_kept_without_sampling(
    fixture: str, smoother: str, given: list[str], checkpoint: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = request.getfixturevalue(fixture)
    before, text = ((folder / name).read_bytes() for name in ("certificates.csv", "summary.json"))
    older = json.loads(text)
    identity = older["config"].pop("distance_identity")
    assert identity == {"class": "center_smoothing.TotalVariation", "settings": {"p": 1}}
    (folder / "summary.json").write_text(json.dumps(older))  # as it was before distances had an identity
    monkeypatch.setattr(f"center_smoothing.{smoother}.certify", None)
    run(checkpoint, folder, "--num-examples=3", "--h", "0", "1", *given)
    assert (folder / "certificates.csv").read_bytes() == before
    assert summary(folder) == json.loads(text)
    assert older["samples_per_second"] > 0


@BOTH
def test_the_same_command_goes_on_after_a_torn_line(
    fixture: str, smoother: str, given: list[str], checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder, half, asked = request.getfixturevalue(fixture), tmp_path / "half", []
    kind = getattr(center_smoothing, smoother)
    certify_once = kind.certify

    def counted(self: object, x: torch.Tensor, *, example: int, **options: None) -> Certificate:
        asked.append(str(example))
        return certify_once(self, x, example=example, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(kind, "certify", counted)
    shutil.copytree(folder, half, ignore=shutil.ignore_patterns("wandb"))
    part = half / "certificates.csv"
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:5]) + "1536,0.25,0.0,12")
    assert rows(run(checkpoint, half, "--num-examples=3", "--h", "0", "1", *given)) == rows(folder)
    assert asked == [rows(folder)[4]["index"]]


@pytest.mark.parametrize(
    "typed",
    [
        ["--ckpt=other.ckpt", "--n", "300", "--coverage=dkw", "--seed", "4", "--out=there", "--batch-size=8"],
        ["--h", "0.25", "0.75"], ["--eps-in", "1"], ["--distance=l2", "--budget=standard"], ["--m", "700", "800"],
        ["--smoother=mean", "--clip-norm=5"], ["--noise=discrete", "--fold-batch-norm=false", "--devices=2"],
        ["--num-examples=2"], ["--data=CIFAR10"], ["--data.variant=mnist"],
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


def test_a_run_folder_is_its_best_checkpoint_and_results_lie_beside(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run_folder / "checkpoints" / "best.ckpt"
    first = certify.main([f"--ckpt={run_folder}", *CENTERS, "--h=0"])
    assert f"checkpoint: {best}" in capsys.readouterr().out.splitlines()
    assert first is not None
    assert first.resolve().parent == run_folder.resolve() / "certification"
    assert certify.main([f"--ckpt={best}", *CENTERS, "--h=0"]) == first
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
    exact = {row["index"]: float(row["eps_out"]) for row in rows(certified) if float(row["eps_in"]) == 0.25}
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
        for rounded, radius in zip(map(float, found[str(index)]), np.atleast_1d(exact), strict=True):
            assert 0.99 * radius <= rounded <= radius
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
    answers = table(out)
    assert list(answers[0]) == ["index", "asked", "eps_in", "eps_out", "coverage"]
    exact = {row["index"]: row["eps_out"] for row in rows(certified) if float(row["eps_in"]) == 0.25}
    assert {row["index"]: row["eps_out"] for row in answers if row["asked"] == "eps_in"} == exact
    back = {row["index"]: float(row["eps_in"]) for row in answers if row["asked"] == "eps_out"}
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
    lines = (tmp_path / "half" / "certificates.csv").read_text().splitlines(keepends=True)
    for kept, words in ((3, "1 of 3 examples are certified; run the same command"), (1, "no finished example")):
        (tmp_path / "half" / "certificates.csv").write_text("".join(lines[:kept]))
        assert words in refused(capsys, f"--from={tmp_path / 'half'}", "--eps-out", "40")
    for out in (certified / "certificates.csv", certified, "/dev/null/answers.csv"):
        assert "--out must be a" in refused(capsys, f"--from={certified}", "--eps-out=40", f"--out={out}")
    assert capsys.readouterr().out == ""


def test_paper_mode_and_simultaneous_coverage(checkpoint: Path, tmp_path: Path) -> None:
    common = ["--h", "0", "0.2", "--delta=0.3", "--distance=tv-l2"]
    paper = run(checkpoint, tmp_path / "paper", *common, "--method=paper")
    assert {row["method"] for row in rows(paper)} == {"paper"}
    everywhere = run(checkpoint, tmp_path / "dkw", *common, "--coverage=dkw")
    (certificate,) = CertificationFolder(everywhere).certificates().values()
    assert radii(everywhere) == [certificate.eps_out(eps_in, coverage="dkw") for eps_in in (0.0, 0.05)]
    assert all(0.0 < certificate.eps_out(eps_in) < radius < math.inf
               for eps_in, radius in zip((0.0, 0.05), radii(everywhere), strict=True))  # fmt: skip


def test_sampling_stops_where_more_samples_would_change_little(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--h", "0", "0.5", "--m=1600", "--num-examples=2"]
    folder = run(checkpoint, tmp_path, *asked, "--rtol=0.3")
    printed = capsys.readouterr().out
    assert "may stop an example at 100, 200, 400, 800, 1,600 certification outputs, each with alpha_2 / 5" in printed
    drawn = {row["index"]: int(row["m"]) for row in rows(folder)}
    assert min(drawn.values()) < 1600
    assert all(len(np.load(folder / "distances" / f"{index}.npy")) == m for index, m in drawn.items())
    config = summary(folder)["config"]
    assert (config["rtol"], config["budget"]["looks"]) == (0.3, 5)
    for index, certificate in CertificationFolder(folder).certificates().items():
        there = [row for row in rows(folder) if row["index"] == str(index)]
        assert [certificate.eps_out(float(row["eps_in"])) for row in there] == [float(row["eps_out"]) for row in there]
    line = refused(capsys, f"--ckpt={checkpoint}", f"--out={folder}", *CENTERS, *asked, "--rtol=0.2")
    assert "--out must be another folder" in line
    assert "rtol=0.3, not 0.2" in line


@pytest.mark.parametrize(("at_most", "met"), [(50.0, True), (0.5, False)])  # eps_out is about 4.5
def test_sampling_stops_where_a_question_is_decided(
    at_most: float, met: bool, checkpoint: Path, tmp_path: Path
) -> None:
    (row,) = rows(run(checkpoint, tmp_path, "--h=0.5", "--m=1600", f"--eps-out-at-most={at_most}"))
    assert (float(row["eps_out"]) <= at_most) is met
    assert int(row["m"]) < 1600


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
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, f"--ckpt={checkpoint}", *TINY, "--data.variant=mnist", f"--data.root={tmp_path / 'none'}",
                   "--data.download=false")  # fmt: skip
    assert f"--data.root must hold MNIST, got {tmp_path / 'none'}" in line
    assert "nonsense is no argument of MNIST" in refused(capsys, f"--ckpt={checkpoint}", "--data.nonsense=1")
    data = summary(run(checkpoint, tmp_path / "out", "--h=0", "--data.root=elsewhere"))["config"]["data"]
    assert (data["class"], data["variant"], data["root"]) == ("MNIST", "digits", "elsewhere")


def test_a_checkpoint_whose_images_are_gone_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["data"] = {"class": "ImageFolder", "init_args": {"root": str(tmp_path / "gone"), "mode": "grey"}}
    torch.save(content, tmp_path / "moved.ckpt")
    line = refused(capsys, f"--ckpt={tmp_path / 'moved.ckpt'}", *TINY, "--h=0")
    assert "--data.root" in line
    assert str(tmp_path / "gone") in line


def test_a_summary_of_something_else_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text('{"config": {}}')
    assert "--out must be another folder" in refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, *SWEEP)
    assert "holds no finished example" in refused(capsys, f"--from={tmp_path}", "--h=1")
    (tmp_path / "summary.json").unlink()
    (tmp_path / "certificates.csv").write_text("mine")
    for asked in (["--h=0"], SWEEP):
        assert "no summary.json" in refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", *TINY, *asked)
    assert (tmp_path / "certificates.csv").read_text() == "mine"


def test_very_small_radii_and_radii_close_to_each_other_have_noise_levels_of_their_own() -> None:
    eps_in = [1e-10, 2e-10, 0.2, 0.2000001]
    levels = noise_levels(parse(["--plan", "--h=0.5", "--eps-in", *map(str, eps_in)]), None)
    assert [*levels] == pytest.approx([2 * radius for radius in eps_in], rel=1e-8)
    assert [*levels.values()] == [[radius] for radius in eps_in]


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
    assert len(rows(run(checkpoint, tmp_path, "--h=0"))) == 1
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
    found = rows(run(checkpoint, tmp_path, "--h=0", "--sigma=0.05", "--num-examples=3"))
    assert sorted((row["abstained"], row["eps_out"] == "inf") for row in found) == [
        ("False", False),
        ("False", False),
        ("True", True),
    ]


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda self, x: x.mean(), "model must return one output per input, shape (64, *out), got ()"),
        (lambda self, x: x.flatten(1), "total variation compares images"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    forward: Callable[..., torch.Tensor], words: str, checkpoint: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("lightning_modules.NoisyAutoencoder.forward", forward)
    assert words in refused(capsys, f"--ckpt={checkpoint}", f"--out={tmp_path}", *CENTERS, "--h=0")


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
    assert len(rows(tmp_path)) == 1
