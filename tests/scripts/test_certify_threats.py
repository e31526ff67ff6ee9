"""certify.py with other noises and threats (theory T15)."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

import certify
from certification.arguments import parse
from certification.jobs import _conversion
from certification.sigma_map import read_sigma_map
from lightning_modules import BaseModel
from tests.scripts.running import CENTERS, rows, run, summary


@pytest.fixture(scope="module")
def sigma_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the noise in the middle of a digit."""
    values, path = np.ones((1, 28, 28)), tmp_path_factory.mktemp("map") / "map.npy"
    values[:, 7:21, 7:21] = 0.5
    np.save(path, values)
    return path


# arguments, the norm in words, eps_in of h = 1 at sigma = 0.25
CASES: dict[str, tuple[list[str], str, float]] = {
    "uniform": (["--noise=uniform"], "l1 norm", 0.25),
    "linf": (["--threat=linf"], "linf norm", 0.25 / 28),
    "map": (["--sigma-map=MAP"], "l2 norm scaled by the sigma map", 0.25),
    "map, linf": (["--sigma-map=MAP", "--threat=linf"], "linf norm", 0.25 / math.sqrt(588 + 4 * 196)),
}


@pytest.fixture(scope="module", params=CASES)
def certified(
    request: pytest.FixtureRequest, checkpoint: Path, sigma_map: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, float]:
    arguments, words, unit = CASES[request.param]
    out = tmp_path_factory.mktemp("threat")
    given = [argument.replace("MAP", str(sigma_map)) for argument in arguments]
    return run(checkpoint, out, "--h=0.2", *given), words, unit


def test_every_place_speaks_of_the_norm(certified: tuple[Path, str, float], capsys: pytest.CaptureFixture[str]) -> None:
    out, words, unit = certified
    config, (result,) = summary(out)["config"], summary(out)["results"]
    assert result["h"] == pytest.approx(0.2)
    assert result["eps_in"] == pytest.approx(0.2 * unit, rel=1e-9)
    assert 0.0 < result["median_eps_out"] < math.inf
    assert "threat" in config
    page = (out / "report.html").read_text()
    assert f"by at most eps_in ({words}), fixed beforehand" in page
    assert f"({words}), fixed beforehand, the smoothed output of the median example" in page
    assert f"eps_in ({words} of the change)" in page
    assert {float(row["eps_in"]) for row in rows(out)} == {result["eps_in"]}
    if words != "l2 norm":
        assert "l2 norm)" not in page
    certify.main([f"--from={out}", f"--eps-in={result['eps_in']!r}", f"--eps-out={result['median_eps_out']!r}"])
    said = capsys.readouterr().out
    assert f"by at most eps_in ({words}), fixed beforehand" in said
    (line,) = [line for line in said.splitlines() if line.startswith("   median") and "inf" not in line][:1]
    assert float(line.split()[-1]) >= result["median_eps_out"]
    certified_in = [line for line in said.splitlines() if line.startswith("   median")][1]
    assert float(certified_in.split()[-1]) >= 0.99 * result["eps_in"]
    certify.main([f"--from={out}"])  # the h that are usual for the noise, in the norm of the folder
    radii = re.findall(r"eps_in=([\d.e-]+)", capsys.readouterr().out)
    usual = (0.2, 0.4, 0.6) if config["budget"].get("noise") == "uniform" else (1.0, 1.5, 2.0)
    assert [float(radius) for radius in radii] == pytest.approx([h * unit for h in usual], rel=1e-4)


def test_the_folder_says_what_was_smoothed(certified: tuple[Path, str, float], sigma_map: Path) -> None:
    config = summary(certified[0])["config"]
    assert (config["threat"] == "l1" and "conversion" not in config) or config["threat"] in ("linf", "scaled-l2")
    if "sigma_map" in config:
        assert config["sigma_map"] == {"sha256": read_sigma_map(str(sigma_map)).sha256, "shape": [1, 28, 28]}
    if config["threat"] == "linf":
        assert config["conversion"] == pytest.approx(0.25 / certified[2])


def test_another_noise_is_another_certification(
    certified: tuple[Path, str, float], checkpoint: Path, refusal: Callable[[list[str]], str]
) -> None:
    line = refusal([f"--ckpt={checkpoint}", f"--out={certified[0]}", *CENTERS, "--h=0.2"])
    assert "holds a certification with" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--noise=uniform"], "eps_in in l1 norm"),
        (["--threat=linf", "--smoother=mean", "--clip-norm=9"], "eps_in in linf norm"),
        (["--sigma-map=MAP", "--smoother=median"], "eps_in in l2 norm scaled by the sigma map"),
    ],
)
def test_the_plan_knows_noise_and_norm(
    arguments: list[str], said: str, checkpoint: Path, sigma_map: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.replace("MAP", str(sigma_map)) for argument in arguments]
    certify.main([f"--ckpt={checkpoint}", "--budget=quick", *CENTERS[3:5], "--plan", "--h=0.5", *given])
    lines = capsys.readouterr().out.splitlines()
    assert said in lines[0]
    eps_in = 0.125 / (28 if "--threat=linf" in arguments else 1)
    assert any(f"{eps_in:.4g}" in line.split() for line in lines)
    assert any(line.startswith("recommended for tv at h=0.5: ") for line in lines)


def test_the_plan_needs_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    certify.main(["--plan", "--noise=uniform", "--n=1000", "--m=2000", "--h", "0.5", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert any("m >= 40" in line for line in lines)
    assert any("more than any m" in line for line in lines)
    for norm in ("linf", "l1"):
        certify.main(["--plan", f"--threat={norm}", "--n=1000", "--m=2000", "--h=1"])
        assert f"in {norm} norm" in capsys.readouterr().out


def test_a_map_of_another_shape_is_one_line(
    checkpoint: Path, tmp_path: Path, refusal: Callable[[list[str]], str]
) -> None:
    np.save(tmp_path / "map.npy", np.ones((3, 28, 28)))
    given = [f"--ckpt={checkpoint}", f"--out={tmp_path / 'out'}", *CENTERS]
    said = refusal([*given, f"--sigma-map={tmp_path / 'map.npy'}"])
    assert "--sigma-map must fit the inputs: sigma_map must have the shape of x, (1, 28, 28)" in said


class Identity(BaseModel):
    """A model of images of any size."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def test_inputs_of_several_sizes_have_an_eps_in_and_no_h(checkpoint: Path) -> None:
    examples: Any = Subset([{"image": torch.zeros(1, size, 8)} for size in (2, 8, 4)], [0, 1, 2])
    given = [f"--ckpt={checkpoint}", "--threat=linf"]
    assert _conversion(parse([*given, "--eps-in=0.01"]), Identity(), examples) == 8.0
    for asked in ([], ["--h=1"], ["--h=1", "--eps-in=0.01"]):
        with pytest.raises(ValueError, match=r"--eps-in must be given in place of --h with --threat linf .* 4 to 8"):
            _conversion(parse([*given, *asked]), Identity(), examples)
    assert _conversion(parse([*given, "--h=1"]), Identity(), Subset(examples, [1])) == 8.0
    assert _conversion(parse([f"--ckpt={checkpoint}", "--h=1"]), Identity(), examples) == 1.0


def written(folder: Path, name: str, content: Any) -> str:  # noqa: ANN401  # of any kind of file
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, content)
    elif name.endswith(".pt"):
        torch.save(content, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    return str(path)


GREY = np.full((4, 6), 51, dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "shape", "first"),
    [
        ("a.npy", np.full((3, 1, 1), 0.2, dtype=np.float32), (3, 1, 1), 0.2),
        ("a.pt", torch.full((4, 6), 0.2), (4, 6), 0.2),
        ("a.png", GREY, (1, 4, 6), 0.2),
        ("b.png", np.stack([GREY, 2 * GREY, 3 * GREY], axis=-1), (3, 4, 6), 0.2),
        ("c.png", np.full((4, 6), 13107, dtype=np.uint16), (1, 4, 6), 0.2),
    ],
)
def test_maps_are_tensors_or_images(
    name: str,
    content: Any,  # noqa: ANN401  # of any kind of file
    shape: tuple[int, ...],
    first: float,
    tmp_path: Path,
) -> None:
    found = read_sigma_map(written(tmp_path, name, content)).values
    assert found.dtype == torch.float64
    assert tuple(found.shape) == shape
    assert float(found.flatten()[0]) == pytest.approx(first, rel=1e-6)
    if shape == (3, 4, 6):
        assert found[:, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.npy", np.array([1.0, 0.0, -1.0, np.nan]), "with 3 of 4 that are none"),
        ("b.npy", np.array(["a"]), "could not convert"),
        ("a.png", 0 * GREY, "with 24 of 24 that are none"),
        ("c.png", b"no image", "cannot identify image file"),
        ("a.pt", {"a": torch.ones(2)}, "it holds a dict, not a tensor"),
        ("a.txt", b"1", "it ends in .txt"),
    ],
)
def test_what_is_no_map_is_refused(name: str, content: Any, said: str, tmp_path: Path) -> None:  # noqa: ANN401  # likewise
    with pytest.raises(ValueError, match=r"--sigma-map must") as error:
        read_sigma_map(written(tmp_path, name, content))
    assert said in str(error.value)
