"""Certification of a pretrained face detector on folders of photos."""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos

import center_smoothing
import certify
from center_smoothing import Certificate
from results.folder import CertificationFolder
from tests.scripts.refusals import refused

CONFIG = Path(certify.__file__).parent / "configs" / "face_detection.yaml"
# The least that certifies h = 1 and rarely abstains, at failure probabilities that nobody would ask for.
TINY = ["--n=60", "--m=100", "--k=8", "--delta=0.3", "--alpha1=0.1", "--alpha2=0.1"]
TINY += ["--batch-size=64", "--accelerator=cpu"]
NAMES = {1: "b_face.png", 2: "c_grey.png", 3: "d_rgba.png", 4: "e_small.png", 5: "f_noise.png"}
FACES, EMPTY = (1, 2, 3), (4, 5)


@dataclass(frozen=True)
class Done:
    """A finished run: its folder, and what it said."""

    folder: Path
    lines: list[str]


def run(root: Path, out: Path, *arguments: str) -> Done:
    with redirect_stdout(io.StringIO()) as said:
        folder = certify.main([f"--config={CONFIG}", f"--data.root={root}", f"--out={out}", *TINY, *arguments])
    return Done(folder, said.getvalue().splitlines())


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "certificates.csv").open() as file:
        return list(csv.DictReader(file))


def without_seconds(folder: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in table(folder)]


def radii(folder: Path) -> dict[int, float]:
    return {int(row["index"]): float(row["eps_out"]) for row in table(folder)}


def summary(folder: Path) -> dict[str, object]:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """A photo of 90x110 pixels with one face."""
    return Image.fromarray(photos.astronaut()[:294, 100:340]).resize((90, 110), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def one_face(face: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one photo."""
    root = tmp_path_factory.mktemp("one_face")
    face.save(root / "face.png")
    return root


@pytest.fixture(scope="module")
def one_small(face: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one photo that is too small for any face, so that it takes no time."""
    root = tmp_path_factory.mktemp("one_small")
    face.resize((10, 10)).save(root / "small.png")
    return root


@pytest.fixture(scope="module")
def all_sorts(face: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have them: photos of several kinds and sizes, and a file that is cut off."""
    root = tmp_path_factory.mktemp("all_sorts")
    face.save(root / "a_cut_off.jpg")
    (root / "a_cut_off.jpg").write_bytes((root / "a_cut_off.jpg").read_bytes()[:1000])
    face.save(root / NAMES[1])
    face.convert("L").save(root / NAMES[2])
    opacity = np.full((110, 90), 255, np.uint8)
    opacity[:5] = 0
    transparent = face.copy()
    transparent.putalpha(Image.fromarray(opacity))
    transparent.save(root / NAMES[3])
    face.resize((10, 10)).save(root / NAMES[4])
    Image.fromarray(np.random.default_rng(0).integers(256, size=(50, 60, 3), dtype=np.uint8)).save(root / NAMES[5])
    return root


@pytest.fixture(scope="module")
def certified(all_sorts: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """All photos of that folder, at one noise level; W&B runs offline."""
    return run(all_sorts, tmp_path_factory.mktemp("certified"), "--h=1", "--eps-in=0.1", "--num-examples=all")


@pytest.fixture(scope="module")
def swept(one_face: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A face at two h and two radii."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        return run(one_face, tmp_path_factory.mktemp("swept"), "--h", "0.5", "1", "--eps-in", "0.05", "0.2")


def test_the_folder_holds_everything(certified: Done) -> None:
    assert {path.name for path in certified.folder.iterdir()} >= {
        "certificates.csv", "certificates.png", "certified_fraction.csv", "certified_fraction.png", "distances",
        "outputs", "report.html", "summary.json",
    }  # fmt: skip
    assert (certified.folder / "certificates.png").read_bytes().startswith(b"\x89PNG")
    report = (certified.folder / "report.html").read_text()
    assert "At eps_in = 0.1: IoU of at least 0." in report
    for index, name in NAMES.items():
        assert f"{index} ({name})" in report


def test_every_photo_that_can_be_read_is_certified(certified: Done) -> None:
    found = radii(certified.folder)
    assert found.keys() == NAMES.keys()
    assert all(math.isfinite(radius) for radius in found.values())
    assert {row["sigma"] for row in table(certified.folder)} == {"0.1"}
    assert not any(row["abstained"] == "True" for row in table(certified.folder))


def test_the_summary_names_the_photos_and_the_settings(certified: Done, all_sorts: Path) -> None:
    found = summary(certified.folder)
    assert found["names"] == {str(index): name for index, name in NAMES.items()}
    assert found["checkpoint_sha256"] is None
    config = found["config"]
    assert (config["model"], config["model_settings"]) == ("FaceDetector", {"clip": False})
    assert config["data"] == {"class": "PhotoFolder", "root": str(all_sorts), "max_side": 400}
    assert (config["distance"], config["num_examples"], config["sigma"]) == ("BoxJaccard()", 5, 0.1)
    (result,) = found["results"]
    assert (result["h"], result["eps_in"], result["num_examples"]) == (1.0, 0.1, 5)
    assert result["median_eps_out"] == sorted(radii(certified.folder).values())[2]


def test_what_was_left_out_is_said_at_the_end(certified: Done) -> None:
    (line,) = [line for line in certified.lines if line.startswith("left out: ")]
    assert line.startswith("left out: 'a_cut_off.jpg', image file is truncated")
    positions = [
        next(position for position, text in enumerate(certified.lines) if start in text)
        for start in ("5 of 5 examples", "left out", "promise", "report: ")
    ]
    assert positions == sorted(positions)


@pytest.mark.parametrize("index", FACES)
def test_a_face_has_a_box_before_and_after_smoothing(certified: Done, index: int) -> None:
    with np.load(certified.folder / "outputs" / f"{index}.npz") as outputs:
        assert outputs["image"].shape == (3, 110, 90)
        for box in (outputs["base"], outputs["smoothed"]):
            assert np.all(box[:2] < (40, 40))
            assert np.all(box[2:] > (52, 52))
            assert np.all((box[2:] - box[:2] > 20) & (box[2:] - box[:2] < 60))
    (row,) = [row for row in table(certified.folder) if row["index"] == str(index)]
    assert 0 < float(row["smoothing_loss"]) < 0.3
    assert 0 < float(row["eps_out"]) < 1


@pytest.mark.parametrize("index", EMPTY)
def test_no_box_that_noise_does_not_change_is_certified_not_to_move(certified: Done, index: int) -> None:
    with np.load(certified.folder / "outputs" / f"{index}.npz") as outputs:
        assert not outputs["base"].any()
        assert not outputs["smoothed"].any()
    assert not np.load(certified.folder / "distances" / f"{index}.npy").any()
    # rounded up, from 0 to the next number
    assert radii(certified.folder)[index] <= math.nextafter(0.0, 1.0)
    assert (certified.folder / "report.html").read_text().count("Base output: no box") == len(EMPTY)


def test_eps_out_is_the_certificate_of_the_saved_distances(certified: Done) -> None:
    certificates = CertificationFolder(certified.folder).certificates()
    assert {index: certificate.eps_out(0.1) for index, certificate in certificates.items()} == radii(certified.folder)


def test_the_folder_answers_other_radii_without_sampling(
    certified: Done, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("center_smoothing.CenterSmoother.certify", None)
    certify.main([f"--from={certified.folder}", "--eps-in", "0.05", "0.1"])
    shown = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:]}
    for index, radius in radii(certified.folder).items():
        smaller, same = map(float, shown[str(index)])
        assert smaller <= same
        assert radius <= same <= radius + 0.0101


def test_certification_goes_on_where_it_was_interrupted(
    certified: Done, all_sorts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, certify_once, asked = tmp_path / "half", center_smoothing.CenterSmoother.certify, []

    def counted(
        self: center_smoothing.CenterSmoother, x: torch.Tensor, *, example: int, **options: None
    ) -> Certificate:
        asked.append(example)
        return certify_once(self, x, example=example, **options)

    monkeypatch.setattr(center_smoothing.CenterSmoother, "certify", counted)
    shutil.copytree(certified.folder, half)
    lines = (half / "certificates.csv").read_text().splitlines(keepends=True)
    (half / "certificates.csv").write_text("".join(lines[:4]) + lines[4][:9])
    again = run(all_sorts, half, "--h=1", "--eps-in=0.1")
    assert without_seconds(half) == without_seconds(certified.folder)
    assert asked == [int(row["index"]) for row in table(certified.folder)[3:]]
    assert any("3 of 5 examples are there already and kept" in line for line in again.lines)
    assert any(line.startswith("left out: 'a_cut_off.jpg'") for line in again.lines)


def test_other_photos_under_the_same_numbers_are_another_certification(
    face: Image.Image, all_sorts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(all_sorts, tmp_path / "photos")
    done = run(tmp_path / "photos", tmp_path / "out", "--h=1", "--eps-in=0.1", "--num-examples=1")
    (index,) = radii(done.folder)
    name = summary(done.folder)["names"][str(index)]
    face.rotate(180).save(tmp_path / "photos" / name)
    line = refused(capsys, f"--config={CONFIG}", f"--data.root={tmp_path / 'photos'}", f"--out={done.folder}", *TINY,
                   "--h=1", "--eps-in=0.1", "--num-examples=1")  # fmt: skip
    assert "it holds a certification with examples_sha256=" in line


def test_noise_levels_do_not_go_into_the_folder_of_a_single_one(
    certified: Done, all_sorts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = without_seconds(certified.folder)
    line = refused(capsys, f"--config={CONFIG}", f"--data.root={all_sorts}", f"--out={certified.folder}", *TINY,
                   "--h=1", "--eps-in", "0.2", "0.3")  # fmt: skip
    assert f"--out must be another folder, got {certified.folder}" in line
    assert without_seconds(certified.folder) == before


def test_fewer_photos_are_drawn_with_the_seed(certified: Done, all_sorts: Path, tmp_path: Path) -> None:
    fewer = run(all_sorts, tmp_path, "--h=1", "--eps-in=0.1", "--num-examples=1")
    assert without_seconds(fewer.folder) == without_seconds(certified.folder)[:1]
    (index,) = radii(fewer.folder)
    assert summary(fewer.folder)["names"] == {str(index): NAMES[index]}


def test_more_photos_than_there_are_are_refused(
    all_sorts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, f"--config={CONFIG}", f"--data.root={all_sorts}", f"--out={tmp_path}", *TINY, "--sigma=0.1",
                   "--h=1", "--num-examples=6")  # fmt: skip
    assert "--num-examples must be all or at most 5, the size of the test set, got 6" in line


def test_wandb_has_the_photos(certified: Done, wandb_history: Callable[[Path], list[dict[str, object]]]) -> None:
    keys = {key for row in wandb_history(certified.folder) for key in row}
    for index in radii(certified.folder):  # of different sizes: one by one
        assert f"examples/{index}/path" in keys


def test_all_noise_levels_are_planned_before_sampling(swept: Done) -> None:
    first_sampled = next(position for position, line in enumerate(swept.lines) if line.startswith("sigma="))
    assert swept.lines[0].startswith("plan: 1 examples, BoxJaccard(), sigma=0.05, 0.1, 0.2, 0.4, method=exact, n=60")
    planned = [tuple(map(float, line.split()[:3])) for line in swept.lines[2:6]]
    assert planned == [(0.05, 1.0, 0.05), (0.1, 0.5, 0.05), (0.2, 1.0, 0.2), (0.4, 0.5, 0.2)]
    assert "672 in all" in swept.lines[6]
    assert first_sampled > 6
    assert [line for line in swept.lines if line.startswith("sigma=")] == [
        f"sigma={sigma}:" for sigma in ("0.05", "0.1", "0.2", "0.4")
    ]


def test_with_h_and_eps_in_the_noise_level_is_their_ratio(swept: Done) -> None:
    rows = [(float(row["sigma"]), float(row["eps_in"])) for row in table(swept.folder)]
    assert rows == [(0.05, 0.05), (0.1, 0.05), (0.2, 0.2), (0.4, 0.2)]
    found = summary(swept.folder)
    assert found["config"]["sigma"] == [0.05, 0.1, 0.2, 0.4]
    assert found["names"] == {"0": "face.png"}
    assert "IoU of at least" in (swept.folder / "report.html").read_text()
    for sigma in ("0.05", "0.1", "0.2", "0.4"):
        assert len(table(swept.folder / f"sigma={sigma}")) == 1


def test_other_radii_are_asked_of_one_noise_level(swept: Done, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, f"--from={swept.folder}", "--eps-in=0.1")
    assert "--from must be the folder of one noise level" in line
    assert str(swept.folder / "sigma=0.05") in line


def test_a_radius_beyond_1_is_told_as_it_is(swept: Done) -> None:
    rows = [float(row["eps_out"]) for row in table(swept.folder)]
    assert max(rows) > 1
    assert max(rows) == pytest.approx(3)
    distances = np.load(swept.folder / "sigma=0.4" / "distances" / "0.npy")
    assert distances.max() == 1
    assert ": nothing is guaranteed<" in (swept.folder / "report.html").read_text()


def test_the_command_of_the_readme_plans_what_the_config_says(one_small: Path, tmp_path: Path) -> None:
    with redirect_stdout(io.StringIO()) as said:
        folder = certify.main([f"--config={CONFIG}", f"--data.root={one_small}", f"--out={tmp_path}",
                               "--accelerator=cpu", "--h", "1", "2", "--eps-in", "0.1", "0.2"])  # fmt: skip
    plan = said.getvalue().splitlines()[0]
    assert "BoxJaccard()" in plan
    assert "n=1000, m=1000" in plan
    assert summary(folder)["config"]["sigma"] == [0.05, 0.1, 0.2]
    assert summary(folder)["config"]["num_examples"] == 1
    assert {row["eps_out"] for row in table(folder)} == {str(math.nextafter(0.0, 1.0))}


def test_the_model_and_the_data_may_be_named_without_a_config(one_small: Path, tmp_path: Path) -> None:
    alone = certify.main(["--model=FaceDetector", "--data=PhotoFolder", f"--data.root={one_small}", f"--out={tmp_path}",
                          "--data.max_side=8", "--distance=jaccard", "--num-examples=all", "--sigma=0.25", "--h=1",
                          *TINY])  # fmt: skip
    (row,) = table(alone)
    assert (row["sigma"], row["eps_in"]) == ("0.25", "0.25")
    assert summary(alone)["config"]["data"]["max_side"] == 8
    with np.load(alone / "outputs" / "0.npz") as outputs:
        assert outputs["image"].shape == (3, 8, 8)


def test_clipping_is_another_certification(
    one_small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [f"--config={CONFIG}", f"--data.root={one_small}", *TINY, "--h=1", "--eps-in=0.1"]
    folders = [certify.main([*command, f"--model.clip={clip}"]) for clip in ("false", "true")]
    assert folders[0] != folders[1]
    assert {folder.parent for folder in folders} == {Path("runs/FaceDetector/certification")}
    assert [summary(folder)["config"]["model_settings"] for folder in folders] == [{"clip": False}, {"clip": True}]
    assert certify.main(command) == folders[0]
    capsys.readouterr()
    line = refused(capsys, *command, "--model.clip=true", f"--out={folders[0]}")
    assert "--out must be another folder" in line
    assert "model_settings.clip=False, not True" in line


def test_clipping_changes_what_is_certified(one_face: Path, swept: Done, tmp_path: Path) -> None:
    clipped = run(one_face, tmp_path, "--h=1", "--eps-in=0.05", "--model.clip=true")
    ours, theirs = (np.load(folder / "distances" / "0.npy") for folder in (clipped.folder, swept.folder / "sigma=0.05"))
    assert not np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--sigma must be given for a pretrained model, or both --h and --eps-in"]),
        (["--h=1"], ["--sigma must be given for a pretrained model, or both --h and --eps-in"]),
        (["--eps-in=0.1"], ["--sigma must be given for a pretrained model, or both --h and --eps-in"]),
        (["--h=1", "--eps-in=0.1", "--sigma=0.1"], ["--sigma must be left out where --h and --eps-in are both given"]),
        (["--h=0", "--eps-in=0.1"], ["--h and --eps-in must be above 0 where both are given"]),
        (["--h=1", "--eps-in=0"], ["--h and --eps-in must be above 0 where both are given"]),
        (["--h=3", "--eps-in=0.1"], ["--m must be at least", "eps_in=0.1 (h=3)", "got 100"]),
        (["--sigma=0.1", "--h=1", "--distance=tv"], ["total variation compares images", "(64, 4)"]),
        (["--sigma=0.1", "--h=1", "--data.max_side=0"], ["max_side must be a whole number of at least 1, got 0"]),
        (["--sigma=0.1", "--h=1", "--data.max_side=a"], ["max_side", "got a"]),
        (["--sigma=0.1", "--h=1", "--model.clip=perhaps"], ["clip", "perhaps"]),
        (["--sigma=0.1", "--h=1", "--model.colour=red"], ["colour"]),
        (["--sigma=0.1", "--h=1", "--model.faces=0"], ["faces must be a whole number of at least 1", "got 0"]),
        (["--sigma=0.1", "--h=1", "--model.faces=2"], ["sets of boxes (N, K, 4) is box-sets"]),
        (["--sigma=0.1", "--h=1", "--distance=box-sets"], ["sets of boxes must be outputs (N, boxes, 4)"]),
    ],
)
def test_bad_arguments_give_one_line_and_exit_code_2(
    one_small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    line = refused(capsys, f"--config={CONFIG}", f"--data.root={one_small}", f"--out={tmp_path}", *TINY, *arguments)
    assert all(word in line for word in words), line


def test_two_faces_are_certified_as_a_set(face: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    pair, small = Image.new("RGB", (96, 58)), face.resize((48, 58))
    for left in (0, 48):
        pair.paste(small, (left, 0))
    (tmp_path / "photos").mkdir()
    pair.save(tmp_path / "photos" / "twice.png")
    sets = ["--model.faces=3", "--model.average=true", "--distance=box-sets"]
    done = run(tmp_path / "photos", tmp_path / "sets", "--h=1", "--eps-in=0.02", *sets)
    (eps_out,) = radii(done.folder).values()
    assert eps_out < 1.0
    config = summary(done.folder)["config"]
    assert config["model_settings"] == {"clip": False, "faces": 3, "average": True}
    assert config["distance"] == "BoxSetMatching()"
    with np.load(CertificationFolder(done.folder).outputs(0)) as outputs:
        assert (outputs["smoothed"] != 0).any(axis=1).tolist() == [True, True, False]
    assert "At eps_in = 0.02: mean IoU of at least 0." in (done.folder / "report.html").read_text()
    assert certify.main(["--from", str(done.folder), "--eps-in", "0.01"]) == done.folder


def test_a_map_of_labels_is_certified(face: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "photos").mkdir()
    face.resize((20, 24)).save(tmp_path / "photos" / "face.png")
    command = ["--model=examples.label_maps.ColourSegmentation", "--model.labels=4", "--distance=disagreement"]
    command += ["--data=PhotoFolder", f"--data.root={tmp_path / 'photos'}", "--sigma=0.1", "--h=1", *TINY]
    with redirect_stdout(io.StringIO()):
        folder = certify.main([*command, f"--out={tmp_path / 'out'}", "--num-examples=all"])
    (eps_out,) = radii(folder).values()
    assert 0.0 < eps_out < 1.0
    with np.load(CertificationFolder(folder).outputs(0)) as outputs:
        assert outputs["smoothed"].shape == (24, 20)
        assert set(outputs["smoothed"].flat) <= {0, 1, 2, 3}
    report = (folder / "report.html").read_text()
    assert "a colour for each label" in report
    assert "where labels differ" in report


def test_a_pretrained_model_without_data_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "--model=FaceDetector", "--distance=jaccard", "--sigma=0.1", "--h=1", *TINY)
    assert "--data must name a data module, e.g. PhotoFolder, for a pretrained model, got none" in line


def test_a_model_and_a_checkpoint_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "--model=FaceDetector", "--ckpt=some.ckpt", "--data=PhotoFolder", "--sigma=0.1", *TINY)
    assert "--ckpt must name a checkpoint that train.py wrote, or --model a pretrained model" in line
    assert "got --ckpt and --model" in line


def test_neither_model_nor_checkpoint_is_refused(one_small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "--data=PhotoFolder", f"--data.root={one_small}", "--sigma=0.1", "--h=1", *TINY)
    assert "or --model a pretrained model" in line
    assert "got none of them" in line


def test_a_folder_without_photos_gives_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [f"--config={CONFIG}", *TINY, "--h=1", "--eps-in=0.1"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_text("no image")
    said = {name: refused(capsys, *command, f"--data.root={tmp_path / name}") for name in ("empty", "gone", "broken")}
    for name, line in said.items():
        assert f"--data.root must be a folder of photos, got {tmp_path / name}" in line
    assert "it holds no image file" in said["empty"]
    assert "no folder" in said["gone"]
    assert "none of its 1 image files can be read" in said["broken"]
    assert f"--data.root must be a folder of photos, got {tmp_path / 'photos'}" in refused(capsys, *command)
    assert not (tmp_path / "runs").exists()
