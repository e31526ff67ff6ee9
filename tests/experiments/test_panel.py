import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import certify
import train
from center_smoothing import MeanBudget
from experiments import figure4, figure5, steps
from experiments import panel as panels
from results.folder import CertificationFolder

MEANS = ["--smoother=mean", "--clip-norm=40"]
# Small images, a small model and few samples in its training: the panel's own work is what is tested.
SMALL = """
experiment: image-folder-autoencoder
model:
  class_path: lightning_modules.NoisyAutoencoder
  init_args: {image_shape: [3, 8, 8], latent_dim: 16, channels: [4, 8, 16]}
data: {class_path: datamodules.ImageFolder, init_args: {root: images, image_size: [8, 8], mode: rgb}}
center_smoothing: {num_examples: 1, h: [1.0], n: 100, m: 400, k: 8}
"""


@pytest.fixture(autouse=True, scope="module")
def _in_this_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Scripts run in this process, which has imported everything, without pictures; test_steps.py starts processes."""

    def run_one(step: steps.Step, log: Path, *_: object) -> None:
        script, *args = step.command()
        main = {"train.py": train.main, "certify.py": certify.main}[Path(script).name]
        assert Path(script).is_file()
        with log.open("a") as file, redirect_stdout(file), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Figure, "savefig", lambda _, path, **options: Image.new("L", (4, 4)).save(path, "PNG"))
            main(args)
        assert step.finished()

    path = tmp_path_factory.mktemp("configs") / "small.yaml"
    path.write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setattr(steps, "_run_one", run_one)
        patch.setitem(MeanBudget.presets, "quick", {"n": 60, "m": 120})
        patch.setitem(panels.CONFIGS, ("image-folder", "autoencoder"), str(path))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty grey gradients with a bright spot."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = np.linspace(0, generator.uniform(60, 250), 32 * 32).reshape(32, 32)
        row, column = generator.integers(4, 28, size=2)
        pixels[row - 3 : row + 3, column - 3 : column + 3] = 255
        Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(folder / f"{number:02}.png")
    return folder


def arguments(images: Path, runs: Path) -> list[str]:
    quick = ["--budget=quick", "--epochs=1", "--num-examples=2", "--h", "2", "--eps-in", "0.4", "0.2"]
    return ["--data=image-folder", f"--data-root={images}", "--training-sigma=0.15", f"--runs={runs}", *quick]


@pytest.fixture(scope="module")
def panel(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small panel of figure 4."""
    return figure4.main(arguments(images, tmp_path_factory.mktemp("runs")))


def table(folder: Path, name: str = "figure4") -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_panel_is_a_table_a_picture_a_report_and_certifications(panel: Path) -> None:
    rows = table(panel)
    assert tuple(rows[0]) == panels.COLUMNS
    assert [(row["h"], row["eps_in"], row["sigma"]) for row in rows] == [("2.0", "0.2", "0.1"), ("2.0", "0.4", "0.2")]
    assert all(float(row["eps_out_low"]) <= float(row["median_eps_out"]) <= float(row["eps_out_high"]) for row in rows)
    with Image.open(panel / "figure4.png") as picture:
        assert min(picture.size) > 400
    assert "Figure 4" in (panel / "report.html").read_text()
    for row in rows:
        certified = csv.DictReader((panel / "certifications" / f"sigma={row['sigma']}" / "certificates.csv").open())
        radii = sorted(float(certificate["eps_out"]) for certificate in certified)
        assert float(row["median_eps_out"]) == radii[-1]  # the upper of two


def test_what_is_there_is_reused_and_nothing_else(
    panel: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(panel, tmp_path / "panel")
    folder = tmp_path / "panel" / "certifications" / "sigma=0.1"

    def finished(*changes: str, main: Callable[..., Any] = figure4.main) -> list[bool]:
        seen: list[bool] = []

        def run(found: Sequence[steps.Step], log: Path) -> None:
            seen.extend(step.finished() for step in found)
            raise KeyboardInterrupt

        monkeypatch.setattr(panels, "run", run)
        with pytest.raises(SystemExit, match="130"):
            main([*arguments(images, panel.parents[1]), f"--out={tmp_path / 'panel'}", *changes])
        assert capsys.readouterr().out.endswith("interrupted; the same command goes on from there\n")
        return seen

    assert finished() == [True, True, True]
    assert finished(main=figure5.main) == finished("--seed=1") == finished("--num-examples=1") == [True, False, False]
    assert finished("--epochs=2") == [False, False, False]
    summary = json.loads((folder / "summary.json").read_text())
    for change in ({"checkpoint_sha256": "0"}, {"results": []}, {"config": {**summary["config"], "coverage": "dkw"}}):
        (folder / "summary.json").write_text(json.dumps({**summary, **change}))
        assert finished() == [True, False, True]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert finished() == [True, True, True]
    (folder / "certificates.csv").write_text("")
    assert finished() == [True, False, True]


def test_figure_5_takes_the_models_of_figure_4(panel: Path, capsys: pytest.CaptureFixture[str], images: Path) -> None:
    runs = panel.parents[1]
    folder = figure5.main([*arguments(images, runs), "--num-examples=1", "--eps-in=0.2"])
    assert "1 of 2 steps to do" in capsys.readouterr().out
    assert all(0.0 < float(row["median_eps_out"]) <= 1.0 for row in table(folder, "figure5"))


class Killed(BaseException):
    """What nothing that is being killed sees."""


def test_killed_and_started_again_it_gives_the_same_table(
    panel: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*arguments(images, panel.parents[1]), "--eps-in=0.2", f"--out={tmp_path}"]
    append = CertificationFolder.append

    def killed(self: CertificationFolder, *rows: Any, **part: Any) -> None:  # noqa: ANN401  # passed on
        append(self, *rows, **part)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CertificationFolder, "append", killed)
        with pytest.raises(Killed):
            figure4.main(args)
    certificates = tmp_path / "certifications" / "sigma=0.1" / "certificates.csv"
    assert len(certificates.read_text().splitlines()) == 2  # the heading and one example
    assert not (tmp_path / "figure4.csv").exists()
    capsys.readouterr()
    figure4.main(args)
    assert "1 of 2 steps to do" in capsys.readouterr().out
    assert table(tmp_path) == table(panel)[:1]


def test_a_panel_that_another_process_works_on_is_refused(
    panel: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from filelock import FileLock

    with FileLock(panel / ".lock"):
        refused(arguments(images, panel.parents[1]), "another one works there", capsys)


@pytest.mark.parametrize(
    ("main", "change", "named"),
    [
        (figure4.main, "--num-examples=1", "num_examples=2, not 1"),
        (figure5.main, "--num-examples=2", "distance='TotalVariation(p=1)', not 'Angular()'"),
    ],
)
def test_a_certification_of_something_else_in_its_place_is_refused_and_kept(
    main: Callable[..., Any], change: str, named: str, panel: Path, images: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(panel, tmp_path / "panel")
    refused([*arguments(images, panel.parents[1]), f"--out={tmp_path / 'panel'}", change], named, capsys, main)
    assert not (tmp_path / "panel" / "figure5.csv").exists()
    assert (tmp_path / "panel" / "certifications" / "sigma=0.1" / "certificates.csv").is_file()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--data=photos"], "--data must be one of"),
        (["--task=denoiser"], "--task must be one of"),
        (["--eps-in=-0.2"], "--eps-in must be a positive number"),
        (["--eps-in"], "expected at least one argument"),
        (["--h=0"], "--h must be a positive number"),
        (["--h=4"], "to certify"),
        (["--num-examples=9"], "--num-examples must be at most 8"),
        (["--data-root=/nonexistent"], "/nonexistent"),
        (["--data=cifar10", "--data-root=/proc/1/none"], "--data.root must hold CIFAR10, got /proc/1/none"),
        (["--smoother=mean"], "--smoother=mean needs --clip-norm, got none"),
        (["--clip-norm=3"], "--clip-norm bounds the outputs of means"),
        ([*MEANS, "--budget=paper"], "--budget must be one of quick, standard"),
        (["--budget=large"], "--budget must be one of"),
        (["--out=/proc/1/panel"], "--out must be a folder that can be written to"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(
    images: Path, tmp_path: Path, changes: Sequence[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([*arguments(images, tmp_path), *changes], named, capsys)
    assert not list(tmp_path.glob("**/log.txt"))


def test_means_are_certifications_of_their_own_and_another_norm_is_refused(
    panel: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(panel, tmp_path / "panel")
    small = ["--num-examples=1", "--eps-in=0.2", f"--out={tmp_path / 'panel'}"]
    folder = figure4.main([*arguments(images, panel.parents[1]), *small, *MEANS])
    assert "1 of 2 steps to do" in capsys.readouterr().out
    (row,) = table(folder)
    assert (row["smoother"], row["eps_in"]) == ("mean", "0.2")
    (certified,) = csv.DictReader((folder / "certifications" / "mean" / "sigma=0.1" / "certificates.csv").open())
    assert (certified["method"], certified["m"]) == ("mean", "120")
    assert row["median_eps_out"] == certified["eps_out"]
    assert "clipped model" in (folder / "report.html").read_text()
    command = [*arguments(images, panel.parents[1]), *small, "--smoother=mean", "--clip-norm=30"]
    refused(command, "clip_norm=40.0, not 30.0", capsys)
    own = Path("certifications", "sigma=0.1", "certificates.csv")
    assert (folder / own).read_bytes() == (panel / own).read_bytes()


def test_figure_5_takes_means_of_directions_and_no_norm_to_clip_to(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = "--clip-norm must be left out with --distance=angular: means are then of outputs of norm 1"
    refused([*arguments(images, tmp_path), *MEANS], named, capsys, figure5.main)
    assert not list(tmp_path.iterdir())


def refused(
    args: list[str], named: str, capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], Path] = figure4.main
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(args)
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert named in error or re.search(named, error)
