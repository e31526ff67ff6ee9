"""Certification of a pretrained face detector on folders of photos."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

import certify
from results.folder import CertificationFolder
from tests.scripts.running import Done, listened, radii, refused, rows, shown, summary

CONFIG = Path(certify.__file__).parent / "configs" / "face_detection.yaml"
# The least that certifies h = 1 and rarely abstains, at failure probabilities that nobody would ask for.
TINY = ["--n=60", "--m=100", "--k=8", "--delta=0.3", "--alpha1=0.1", "--alpha2=0.1"]
TINY += ["--batch-size=16", "--accelerator=cpu"]
AT = ["--h=1", "--eps-in=0.02"]
NAMES = {1: "b_rgba.png", 2: "c_grey.png", 3: "d_small.png"}
FACES, EMPTY = (1, 2), (3,)


def run(root: Path, out: Path, *arguments: str) -> Done:
    return listened(f"--config={CONFIG}", f"--data.root={root}", f"--out={out}", *TINY, *arguments)


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """A photo of 48x58 pixels with one face."""
    return Image.fromarray(photos.astronaut()[:294, 100:340]).resize((48, 58), Image.Resampling.BICUBIC)


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
    (root / "a_cut_off.jpg").write_bytes((root / "a_cut_off.jpg").read_bytes()[:800])
    transparent = face.copy()
    transparent.putalpha(Image.fromarray(np.repeat(np.uint8([0, 255]), [3 * 48, 55 * 48]).reshape(58, 48)))
    transparent.save(root / NAMES[1])
    face.convert("L").save(root / NAMES[2])
    face.resize((10, 10)).save(root / NAMES[3])
    return root


@pytest.fixture(scope="module")
def certified(all_sorts: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """All photos of that folder, at one noise level."""
    with shown():
        return run(all_sorts, tmp_path_factory.mktemp("certified"), *AT, "--num-examples=all")


@pytest.fixture(scope="module")
def swept(face: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A face that the louder noise hides, and the quieter one nearly."""
    root = tmp_path_factory.mktemp("swept")
    (root / "photos").mkdir()
    face.save(root / "photos" / "face.png")
    return run(root / "photos", root / "out", "--h=1", "--eps-in", "0.2", "0.4")


def test_the_report_names_the_photos_and_their_boxes(certified: Done) -> None:
    assert (certified.folder / "certificates.png").read_bytes().startswith(b"\x89PNG")
    report = (certified.folder / "report.html").read_text()
    assert "At eps_in = 0.02: IoU of at least 0." in report
    for index, name in NAMES.items():
        assert f"{index} ({name})" in report


def test_every_photo_that_can_be_read_is_certified_and_named(certified: Done, all_sorts: Path) -> None:
    assert all(math.isfinite(radius) for radius in radii(certified.folder))
    assert {(row["sigma"], row["abstained"]) for row in rows(certified.folder)} == {("0.02", "False")}
    found = summary(certified.folder)
    assert found["names"] == {str(index): name for index, name in NAMES.items()}
    assert found["checkpoint_sha256"] is None
    config = found["config"]
    assert (config["model"], config["model_settings"]) == ("FaceDetector", {"clip": False})
    assert config["data"] == {"class": "PhotoFolder", "root": str(all_sorts), "max_side": 400}
    assert (config["distance"], config["num_examples"], config["sigma"]) == ("BoxJaccard()", 3, 0.02)
    (result,) = found["results"]
    assert (result["h"], result["eps_in"], result["num_examples"]) == (1.0, 0.02, 3)
    assert result["median_eps_out"] == sorted(radii(certified.folder))[1]


def test_what_was_left_out_is_said_at_the_end(certified: Done) -> None:
    (line,) = [line for line in certified.lines if line.startswith("left out: ")]
    assert line.startswith("left out: 'a_cut_off.jpg', image file is truncated")
    positions = [
        next(position for position, text in enumerate(certified.lines) if start in text)
        for start in ("3 of 3 examples", "left out", "promise", "report: ")
    ]
    assert positions == sorted(positions)


@pytest.mark.parametrize("index", FACES)
def test_a_face_has_a_box_before_and_after_smoothing(certified: Done, index: int) -> None:
    with np.load(certified.folder / "outputs" / f"{index}.npz") as outputs:
        assert outputs["image"].shape == (3, 58, 48)
        for box in (outputs["base"], outputs["smoothed"]):
            assert np.all(np.abs(box - (17, 14, 33, 34)) < 4)
    (row,) = [row for row in rows(certified.folder) if row["index"] == str(index)]
    assert 0 < float(row["smoothing_loss"]) < 0.3
    assert 0 < float(row["eps_out"]) < 1


@pytest.mark.parametrize("index", EMPTY)
def test_no_box_that_noise_does_not_change_is_certified_not_to_move(certified: Done, index: int) -> None:
    with np.load(certified.folder / "outputs" / f"{index}.npz") as outputs:
        assert not outputs["base"].any()
        assert not outputs["smoothed"].any()
    assert not np.load(certified.folder / "distances" / f"{index}.npy").any()
    # rounded up, from 0 to the next number
    assert {float(row["eps_out"]) for row in rows(certified.folder) if row["index"] == str(index)} == {5e-324}
    assert (certified.folder / "report.html").read_text().count("Base output: no box") == len(EMPTY)


def test_fewer_photos_are_drawn_with_the_seed_and_others_under_their_numbers_are_refused(
    certified: Done, face: Image.Image, all_sorts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(all_sorts, tmp_path / "photos")
    asked = [*AT, "--num-examples=1"]
    fewer = run(tmp_path / "photos", tmp_path / "out", *asked).folder
    assert rows(fewer) == rows(certified.folder)[:1]
    (row,) = rows(fewer)
    name = NAMES[int(row["index"])]
    assert summary(fewer)["names"] == {row["index"]: name}
    face.rotate(180).save(tmp_path / "photos" / name)
    given = [f"--config={CONFIG}", f"--data.root={tmp_path / 'photos'}", f"--out={fewer}", *TINY]
    assert "it holds a certification with examples_sha256=" in refused(capsys, *given, *asked)
    assert f"--out must be another folder, got {fewer}" in refused(capsys, *given, "--h=1", "--eps-in", "0.2", "0.3")


def test_wandb_has_the_photos(certified: Done, wandb_history: Callable[[Path], list[dict[str, object]]]) -> None:
    keys = {key for row in wandb_history(certified.folder) for key in row}
    for index in NAMES:  # of different sizes: one by one
        assert f"examples/{index}/path" in keys


def test_all_noise_levels_are_planned_before_sampling(swept: Done) -> None:
    first_sampled = next(position for position, line in enumerate(swept.lines) if line.startswith("sigma="))
    assert swept.lines[0].startswith("plan: 1 examples, BoxJaccard(), sigma=0.2, 0.4, method=exact, n=60")
    planned = [tuple(map(float, line.split()[:3])) for line in swept.lines[2:4]]
    assert planned == [(0.2, 1.0, 0.2), (0.4, 1.0, 0.4)]
    assert "336 in all" in swept.lines[4]
    assert first_sampled > 4
    assert [line for line in swept.lines if line.startswith("sigma=")] == ["sigma=0.2:", "sigma=0.4:"]
    assert [(float(row["sigma"]), float(row["eps_in"])) for row in rows(swept.folder)] == [(0.2, 0.2), (0.4, 0.4)]
    assert summary(swept.folder)["names"] == {"0": "face.png"}


def test_a_radius_beyond_1_is_told_as_it_is(swept: Done) -> None:
    assert max(radii(swept.folder)) == pytest.approx(3)
    assert np.load(swept.folder / "sigma=0.2" / "distances" / "0.npy").max() == 1
    assert ": nothing is guaranteed<" in (swept.folder / "report.html").read_text()


def test_the_command_of_the_readme_plans_what_the_config_says(one_small: Path, tmp_path: Path) -> None:
    asked = ["--accelerator=cpu", "--h", "1", "2", "--eps-in", "0.1", "0.2"]
    done = listened(f"--config={CONFIG}", f"--data.root={one_small}", f"--out={tmp_path}", *asked)
    assert "BoxJaccard()" in done.lines[0]
    assert "n=1000, m=1000" in done.lines[0]
    config = summary(done.folder)["config"]
    assert (config["sigma"], config["num_examples"]) == ([0.05, 0.1, 0.2], 1)
    assert set(radii(done.folder)) == {math.nextafter(0.0, 1.0)}


def test_the_model_and_the_data_may_be_named_without_a_config(one_small: Path, tmp_path: Path) -> None:
    alone = certify.main(["--model=FaceDetector", "--data=PhotoFolder", f"--data.root={one_small}", f"--out={tmp_path}",
                          "--data.max_side=8", "--distance=jaccard", "--num-examples=all", "--sigma=0.25", "--h=1",
                          *TINY])  # fmt: skip
    (row,) = rows(alone)
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


def test_two_faces_are_certified_as_a_set(face: Image.Image, tmp_path: Path) -> None:
    pair = Image.new("RGB", (80, 49))
    for left in (0, 40):
        pair.paste(face.resize((40, 49)), (left, 0))
    (tmp_path / "photos").mkdir()
    pair.save(tmp_path / "photos" / "twice.png")
    sets = ["--model.faces=3", "--model.average=true", "--distance=box-sets"]
    done = run(tmp_path / "photos", tmp_path / "sets", "--h=1", "--eps-in=0.02", *sets)
    (eps_out,) = radii(done.folder)
    assert eps_out < 1.0
    config = summary(done.folder)["config"]
    assert config["model_settings"] == {"clip": False, "faces": 3, "average": True}
    assert config["distance"] == "BoxSetMatching()"
    with np.load(CertificationFolder(done.folder).outputs(0)) as outputs:
        assert (outputs["smoothed"] != 0).any(axis=1).tolist() == [True, True, False]
    assert "At eps_in = 0.02: mean IoU of at least 0." in (done.folder / "report.html").read_text()
    assert certify.main(["--from", str(done.folder), "--eps-in", "0.01"]) == done.folder


def test_a_map_of_labels_is_certified(face: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    face.resize((20, 24)).save(tmp_path / "photos" / "face.png")
    command = ["--model=examples.label_maps.ColourSegmentation", "--model.labels=4", "--distance=disagreement"]
    command += ["--data=PhotoFolder", f"--data.root={tmp_path / 'photos'}", "--sigma=0.1", "--h=1", *TINY]
    folder = listened(*command, f"--out={tmp_path / 'out'}", "--num-examples=all").folder
    (eps_out,) = radii(folder)
    assert 0.0 < eps_out < 1.0
    with np.load(CertificationFolder(folder).outputs(0)) as outputs:
        assert outputs["smoothed"].shape == (24, 20)
        assert set(outputs["smoothed"].flat) <= {0, 1, 2, 3}
    report = (folder / "report.html").read_text()
    assert "a colour for each label" in report
    assert "where labels differ" in report


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
