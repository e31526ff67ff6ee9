"""Boxes that are drawn once and certified in many ways."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from benchmarks import faces
from center_smoothing import BoxJaccard, CenterSmoother, SmoothingBudget
from center_smoothing.noise import Stage
from lightning_modules import FaceDetector

COUNTS = {Stage.PILOT: 16, Stage.RANKING: 60, Stage.CERTIFICATION: 80}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of a face, 48 pixels a side."""
    folder = tmp_path_factory.mktemp("photos")
    face = Image.fromarray(data.astronaut()).crop((140, 10, 310, 180)).resize((48, 48))
    face.save(folder / "face.png")
    Image.fromarray(np.asarray(face)[:, ::-1]).save(folder / "mirrored.png")
    return folder


def test_a_row_for_each_function_from_boxes_that_are_kept_and_certificates_of_the_detectors(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--photos", str(photos), "--boxes", str(tmp_path), "--sigma", "0.02", "--eps-in", "0.002"]
    command += ["--groups", "1", "2", "--k", "16", "--n", "60", "--m", "80"]
    faces.main(command)
    first = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split(" | ")] for line in first.out.splitlines() if " J = " in line]
    assert [row[1] for row in rows] == 2 * ["center, J = 1", "center, J = 2"]
    assert first.out.count("| median ") == 3  # a row for each base function, and a column
    assert all(float(row[-2]) < 3.0 for row in rows if "J = 1" in row[1])
    assert first.err.count("drawn:") == 2
    faces.main(command)
    second = capsys.readouterr()
    assert (second.out, second.err) == (first.out, "")

    x = torch.from_numpy(np.array(Image.open(photos / "face.png"))).permute(2, 0, 1) / 255
    (kept,) = tmp_path.glob("face-*.pt")
    recordings = faces.recorded(torch.nn.Identity(), x, 0.02, 0, COUNTS, kept)
    budget = SmoothingBudget(n=60, m=80, k=16)
    for recording, average, row in zip(recordings, (False, True), rows[::2], strict=True):
        (_, certificate), *_ = faces.certificates(recording, x, 0.002, [1])
        alone = CenterSmoother(FaceDetector(average=average), BoxJaccard(), sigma=0.02, budget=budget, batch_size=32)
        expected = alone.certify(x, example=0)
        assert certificate is not None
        np.testing.assert_allclose(certificate.distances, expected.distances, atol=1e-5)
        torch.testing.assert_close(certificate.output.center, expected.output.center, rtol=0, atol=1e-3)
        assert row[2] == f"{certificate.eps_out(0.002):.3f}"
