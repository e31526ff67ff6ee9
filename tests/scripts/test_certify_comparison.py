"""``certify.py --from A B``: finished folders side by side."""

from pathlib import Path

import pytest

import certify
from results.comparison import TWO_FUNCTIONS
from results.folder import CertificationFolder
from tests.scripts.running import refused, rows, run

Folders = dict[str, Path]
NAMES = {"report.html", "certificates.png", "certified_fraction.csv", "certified_fraction.png"}


@pytest.fixture(scope="module")
def folders(certified: Path, means: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Centers at two noise levels, and means, of the same three digits; and centers by another distance."""
    root = tmp_path_factory.mktemp("compared")
    louder = run(checkpoint, root / "louder", "--sigma=0.5", "--h", "0", "0.5", "--num-examples=3")
    angular = run(checkpoint, root / "angular", "--distance=angular", "--h=1")
    return {"center": certified, "mean": means, "louder": louder, "angular": angular, "none": root / "none"}


def compared(folders: Folders, *names: str) -> list[str]:
    return ["--from", *(str(folders[name]) for name in names)]


def test_medians_stand_side_by_side_at_the_radii_of_all(
    folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.Module.__call__", None)
    assert certify.main(compared(folders, "center", "mean", "louder")) is None
    lines = capsys.readouterr().out.splitlines()
    assert "  differ in sigma: center 0.25, mean 0.25, louder 0.5" in lines
    table = [line.split() for line in lines if line.startswith(("center  ", "mean  ", "louder  "))]
    radii = {float(row["eps_in"]) for row in rows(folders["center"])}
    assert [(line[0], float(line[2])) for line in table] == [
        (name, radius) for radius in sorted(radii) for name in ("center", "mean", "louder")
    ]
    for number, radius in enumerate(sorted(radii)):
        found = [row.eps_out for row in CertificationFolder(folders["center"]).rows() if row.eps_in == radius]
        assert sorted(found)[1] <= float(table[3 * number][3]) <= sorted(found)[1] + 0.01
    assert lines[-1] == TWO_FUNCTIONS


def test_the_report_of_several_folders_is_written_and_says_which_is_which(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    questions = ["--eps-in", "0.1", "--eps-out", "30"]
    assert certify.main([*compared(folders, "center", "louder"), *questions, f"--out={out}"]) == out
    assert {path.name for path in out.iterdir()} == NAMES
    page = (out / "report.html").read_text()
    assert "center, eps_in = 0.1 (h = 0.4)" in page
    assert "louder, eps_in = 0.1 (h = 0.2)" in page
    assert TWO_FUNCTIONS not in page
    assert "median of the largest certified input radii" in capsys.readouterr().out


def test_one_folder_in_a_configuration_file_is_as_good_as_a_list(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "ask.yaml"
    config.write_text(f"from: {folders['mean']}\nh: [1]\n")
    assert certify.main([f"--config={config}"]) == folders["mean"]
    config.write_text(f"from: [{folders['mean']}, {folders['center']}]\nh: [1]\n")
    certify.main([f"--config={config}"])
    assert "2 folders side by side" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "arguments", "words"),
    [
        (["center", "angular"], [], "got distance TotalVariation(p=1) and Angular(): their radii are in different"),
        (["center", "center"], [], "--from must name different folders"),
        (["center", "none"], [], "--from must be a folder that certify.py wrote"),
        (["center", "mean"], ["--out={mean}"], "--out must be a folder without a certification"),
        (["center", "mean"], ["--out=answers.csv"], "--out must be a folder without a certification"),
        (["center", "mean"], ["--eps-out=3", "--out={none}"], "needs --eps-in"),
        (["center", "mean"], ["--sigma=1"], "the folder has its own"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    folders: Folders, names: list[str], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [*compared(folders, *names), *(each.format(**folders) for each in arguments)]
    assert words in refused(capsys, *typed)
    assert not (folders["none"]).exists()
