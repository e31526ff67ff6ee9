"""A user's own models and distances, by name, with nothing registered anywhere."""

from pathlib import Path

import pytest
import torch

import certify
from results.folder import CertificationFolder
from tests.scripts import running
from tests.scripts.running import CENTERS

PACKAGE = '''
import torch
from torch import nn

from center_smoothing import ObjectDistance


class Blur(nn.Module):
    def __init__(self, width: int = 3, name: str = "blur"):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 1, width, padding=width // 2), nn.BatchNorm2d(1))

    def forward(self, x):
        return self.layers(x)


class Rows(ObjectDistance):
    """Of texts of one length: how many letters differ."""

    def between(self, a, b):
        return float(sum(p != q for p, q in zip(a, b, strict=True)))


class Estimator:
    def predict(self, features):
        return features[:, 350:360]


def halves(x):
    return x / 2


def texts(x):
    return ["".join("#" if value > 0.5 else "." for value in row) for row in x.flatten(1)[:, 350:360].tolist()]


def shy(x):
    """A text, and none at all for most images."""
    dark = x.flatten(1).mean(dim=1) < 0.1
    return [None if none else text for none, text in zip(dark.tolist(), texts(x), strict=True)]


def largest(a, b):
    return (a - b).abs().flatten(1).amax(dim=1)


def squared(a, b):
    return (a - b).square().flatten(1).sum(dim=1)


def declared(a, b):
    return squared(a, b)


declared.relaxation = 2.0
rows = Rows()
blur = Blur(5)
estimator = Estimator()
number = 3
'''
COMMAND = [*CENTERS, "--m=300", "--data=MNIST", "--sigma=0.25", "--h", "0", "0.5"]
pytestmark = pytest.mark.usefixtures("package")


def certified(*arguments: str, out: str = "out") -> CertificationFolder:
    folder = certify.main([*COMMAND, *arguments, f"--out={out}"])
    assert folder is not None
    return CertificationFolder(folder)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return running.refused(capsys, *COMMAND, *arguments, "--out=refused")


@pytest.mark.parametrize("model", ["blur", "estimator"])
def test_models_of_every_kind(model: str, package: str) -> None:
    rows = certified(f"--model={package}.{model}", "--distance=l2").rows()
    assert len(rows) == 2
    assert all(0.0 < row.eps_out < 50.0 for row in rows)


def test_a_distance_of_ones_own_is_that_which_it_computes(package: str) -> None:
    own = certified(f"--model={package}.halves", f"--distance={package}.largest").rows()
    known = certified(f"--model={package}.halves", "--distance=linf", out="known").rows()
    assert [row.eps_out for row in own] == pytest.approx([row.eps_out for row in known], rel=1e-9)


def test_arguments_of_a_class(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = certified(f"--model={package}.Blur", "--model.width=5", "--model.init_args.name", "wide")
    found = running.summary(folder.path)
    assert found["config"]["model_settings"]["arguments"] == {"width": 5, "name": "wide"}
    assert found["checkpoint_sha256"]
    certified(f"--model={package}.Blur", "--model.width=5", "--model.init_args.name", "wide")
    assert "1 of 1 examples are there already and kept" in capsys.readouterr().out
    assert "takes its --model.* arguments" in refused(capsys, f"--model={package}.Blur", "--model.colour=red")
    assert "--model.width must be left out" in refused(capsys, f"--model={package}.halves", "--model.width=5")


def test_another_code_is_another_model(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [f"--model={package}.halves", f"--distance={package}.largest"]
    certified(*command, out="refused")
    path = Path(f"{package}.py")
    path.write_text(path.read_text() + "\n")
    assert "distance_identity.sha256" in refused(capsys, *command)


def test_texts_are_certified_and_can_be_read(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [f"--model={package}.texts", f"--distance={package}.rows"]
    folder = certified(*command)
    (index,) = {row.index for row in folder.rows()}
    base, center = folder.description(index).read_text().splitlines()
    assert base.startswith("base output: '")
    assert center.startswith("smoothed: '")
    assert set(center.removeprefix("smoothed: ")) <= set("'#.")
    before = {path: path.read_bytes() for path in (folder.outputs(index), folder.description(index))}
    folder.table.unlink()
    certified(*command)
    assert {path: path.read_bytes() for path in before} == before


def test_an_example_without_any_text_holds_up_nothing(package: str) -> None:
    folder = certified(f"--model={package}.shy", f"--distance={package}.rows", "--num-examples=4")
    said = {row.index: (row.abstained, folder.description(row.index).read_text()) for row in folder.rows()}
    assert len(said) == 4
    assert {abstained for abstained, _ in said.values()} == {True, False}
    assert all(("smoothed: None" in text) == abstained for abstained, text in said.values())


def test_a_false_relaxation_is_named_before_anything_is_certified(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, f"--model={package}.halves", f"--distance={package}.squared")
    assert "keep its triangle inequality" in line
    assert "declare a relaxation of" in line
    assert not list(Path("refused").glob("*.csv"))
    rows = certified(f"--model={package}.halves", f"--distance={package}.declared").rows()
    assert rows[0].eps_out < float("inf")


def test_files_of_models(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 4)).eval()
    inputs, batch = torch.rand(2, 1, 28, 28), {0: torch.export.Dim("batch", min=1)}
    torch.export.save(torch.export.export(network, (inputs,), dynamic_shapes=(batch,)), "network.pt2")
    torch.jit.save(torch.jit.trace(network, inputs), "network.pt")
    assert "--trust must be given for network.pt2" in refused(capsys, "--model=network.pt2")
    assert "--trust must be given for network.pt:" in refused(capsys, "--model=network.pt")
    found = [
        certified("--trust", f"--model=network.{kind}", "--distance=l2", out=kind).rows() for kind in ("pt", "pt2")
    ]
    assert found[0][1].eps_out == pytest.approx(found[1][1].eps_out, rel=1e-5)
    Path("damaged.pt2").write_bytes(b"no program")
    assert "--model must be a file that" in refused(capsys, "--trust", "--model=damaged.pt2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model=no_such_package.Thing"], "--model must be the name of something that can be imported from here"),
        (["--model={}.nothing"], "has no attribute 'nothing'"),
        (["--model={}.number"], "model must be callable, got int"),
        (["--model={}.halves", "--distance={}.number"], "--distance: distance must be a Distance such as"),
        (["--model={}.halves", "--distance={}.nothing"], "--distance must be the name of something"),
        (["--model={}.halves", "--distance=euclid"], "--distance must be one of tv, tv-l2"),
        (["--model={}.texts"], "model must return a tensor, got list; other outputs need an ObjectDistance"),
        (["--model={}.halves", "--distance={}.rows"], "model must return a sequence"),
    ],
)  # fmt: skip
def test_what_is_no_model_or_distance(
    arguments: list[str], said: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *(argument.format(package) for argument in arguments))


def test_a_file_may_not_name_a_distance_of_its_own(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("stranger.yaml").write_text(f"distance: {package}.largest\n")
    assert "--trust must be given" in refused(capsys, f"--model={package}.halves", "--config=stranger.yaml")
    certified(f"--model={package}.halves", "--config=stranger.yaml", "--trust")
