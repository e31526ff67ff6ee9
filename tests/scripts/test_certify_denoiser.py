"""certify.py --denoiser: what is certified, what is recorded, and what is refused."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import certify
import train
from center_smoothing import Denoised
from lightning_modules import NoisyDenoiser, load_checkpoint
from results import files

TINY = ["--n=100", "--m=300", "--k=8", "--num-examples=2", "--batch-size=64", "--accelerator=cpu", "--h", "0.5"]
PACKAGE = """
import torch
from torch import nn

from lightning_modules import NoisyDenoiser


class Scale(nn.Module):
    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Mine(NoisyDenoiser):
    pass


def half(x):
    return x / 2


def crop(x):
    return x[..., :14, :14]


def broken(x):
    raise RuntimeError("no such image")


def downsized(x):
    return nn.functional.avg_pool2d(x, 2).flatten(1)
"""


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory, tiny_training: list[str]) -> Path:
    """The run folder of a denoiser, trained for a few steps with the configuration that comes with the project."""
    words = [word for word in tiny_training if "latent_dim" not in word and "channels" not in word]
    root = Path(train.__file__).parent
    return train.main(
        [
            *(f"--config={root / 'configs' / 'mnist_digits_denoiser.yaml'}", "--model.init_args.channels=4"),
            *("--model.init_args.dilations=[1, 2, 1]", *words, f"--runs={tmp_path_factory.mktemp('runs')}"),
        ]
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's in the current folder, under a name that no other test has used."""
    name = f"own_{abs(hash(str(tmp_path))):x}"
    (tmp_path / f"{name}.py").write_text(PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield name
    sys.modules.pop(name, None)


def summary_of(folder: Path | None) -> dict[str, Any]:
    assert folder is not None
    return json.loads((folder / "summary.json").read_text())


def test_the_configuration_trains_what_reloads(denoiser: Path) -> None:
    loaded = load_checkpoint(denoiser)
    assert isinstance(loaded.model, NoisyDenoiser)
    assert loaded.model.hparams["noise_range"] == [0.1, 0.5]
    assert loaded.model.hparams["image_shape"] == [1, 28, 28]
    header, *rows = (denoiser / "metrics.csv").read_text().splitlines()
    assert {"val/loss", "val/certified_radius"} <= set(header.split(","))
    assert rows


def test_a_checkpoint_in_front_of_a_checkpoint(
    checkpoint: Path, denoiser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, command = denoiser / "checkpoints" / "best.ckpt", [f"--ckpt={checkpoint}", *TINY]
    folder = certify.main([*command, f"--denoiser={denoiser}", f"--out={tmp_path / 'out'}"])
    summary, printed = summary_of(folder), capsys.readouterr().out
    sha256 = files.sha256(best)
    named = {"name": f"NoisyDenoiser of run {denoiser.name}", "sha256": sha256}
    assert summary["config"]["denoiser"] == named
    assert summary["config"]["model"] == "NoisyAutoencoder"
    assert summary["checkpoint_sha256"] == files.sha256(checkpoint)
    line = f"  denoiser: {named['name']}, sha256 {sha256[:12]}\n"
    assert line in printed
    assert f"of NoisyAutoencoder behind the denoiser {named['name']}" in (folder / "report.html").read_text()
    # the same command, with the denoiser at another place, goes on, and a finished folder still answers
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(best.read_bytes())
    certify.main([*command, f"--denoiser={moved}", f"--out={tmp_path / 'out'}"])
    assert "2 of 2 examples are there already and kept" in capsys.readouterr().out
    before = (folder / "certificates.csv").read_text()
    certify.main([f"--from={folder}", "--h", "0.25"])
    assert "median" in capsys.readouterr().out
    assert (folder / "certificates.csv").read_text() == before


def test_what_is_certified_is_the_composition(checkpoint: Path, denoiser: Path, tmp_path: Path) -> None:
    network = Denoised(load_checkpoint(checkpoint).model, load_checkpoint(denoiser).model)
    example = torch.export.export(
        network.eval(), (torch.rand(2, 1, 28, 28),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    torch.export.save(example, tmp_path / "both.pt2")
    one = certify.main([f"--ckpt={checkpoint}", f"--denoiser={denoiser}", f"--out={tmp_path / 'one'}", *TINY])
    other = certify.main(
        ["--trust", f"--model={tmp_path / 'both.pt2'}", "--data=MNIST", "--sigma=0.25", f"--out={tmp_path / 'other'}",
         *TINY]
    )  # fmt: skip
    found = [summary_of(folder)["results"][0]["median_eps_out"] for folder in (one, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    alone = certify.main([f"--ckpt={checkpoint}", f"--out={tmp_path / 'alone'}", *TINY])
    assert summary_of(alone)["results"][0]["median_eps_out"] != pytest.approx(found[0], rel=1e-2)
    assert "denoiser" not in summary_of(alone)["config"]


def test_another_denoiser_is_another_certification(
    checkpoint: Path, package: str, refusal: Callable[[list[str]], str]
) -> None:
    command = [f"--ckpt={checkpoint}", *TINY]
    given = [*command, f"--denoiser={package}.Scale", "--denoiser.factor=0.9"]
    first = certify.main([*given, "--out=out"])
    assert summary_of(first)["config"]["denoiser"]["arguments"] == {"factor": 0.9}
    assert "denoiser.arguments={'factor': 0.9}" in refusal([*given[:-1], "--denoiser.factor=0.8", "--out=out"])
    assert "denoiser.name=" in refusal([*command, f"--denoiser={package}.half", "--out=out"])
    assert "with denoiser={'name':" in refusal([*command, "--out=out"])
    code = Path(f"{package}.py")
    code.write_text(code.read_text() + "\n")
    assert "denoiser.sha256=" in refusal([*given, "--out=out"])
    folders = {certify.main([*command, *more]) for more in ([], [f"--denoiser={package}.half"], given[-2:])}
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--denoiser={}.crop"], "denoiser must return the shape that it is given, (1, 1, 28, 28), got (1, 1, 14, 14)"),
        (["--denoiser={}.downsized"], "denoiser must return the shape that it is given, (1, 1, 28, 28), got (1, 196)"),
        (["--denoiser={}.broken"], "--denoiser must take inputs of shape (1, 1, 28, 28), and return that shape: Runt"),
        (["--denoiser={}.nothing"], "--denoiser must be the name of something that can be imported from here"),
        (["--denoiser=none.ckpt"], "--denoiser must be a checkpoint file that train.py wrote, got none.ckpt"),
        (["--denoiser=runs/none"], "--denoiser must be a checkpoint file that train.py wrote, got runs/none"),
        (["--denoiser=none.onnx"], "--denoiser must be a file of a model, got none.onnx: there is no such file"),
        (["--denoiser=damaged.pt"], "--trust must be given for damaged.pt"),
        (["--denoiser=damaged.pt", "--trust"], "--denoiser must be a file that torch.jit.save"),
        (["--denoiser={}.Scale", "--denoiser.colour=red"], "--denoiser must be a class that takes its --denoiser.*"),
        (["--denoiser={}.half", "--denoiser.factor=2"], "--denoiser.factor must be left out"),
        (["--denoiser=none.ckpt", "--denoiser.factor=2"], "--denoiser.factor must be left out"),
        (["--denoiser.factor=2"], "--denoiser must name a class to go with --denoiser.factor, got none"),
    ],
)  # fmt: skip
def test_what_is_no_denoiser_is_refused_before_sampling(
    arguments: list[str], said: str, checkpoint: Path, package: str, refusal: Callable[[list[str]], str]
) -> None:
    words = [argument.format(package) for argument in arguments]
    Path("damaged.pt").write_bytes(b"no program")
    assert said in refusal([f"--ckpt={checkpoint}", *TINY, "--out=refused", *words])
    assert not Path("refused").exists()


def test_a_denoiser_for_other_channels_is_refused(
    checkpoint: Path, tmp_path: Path, package: str, refusal: Callable[[list[str]], str]
) -> None:
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1).eval()), "colours.pt")
    line = refusal([f"--ckpt={checkpoint}", *TINY, "--trust", "--denoiser=colours.pt", "--out=refused"])
    assert "--denoiser must take inputs of shape (1, 1, 28, 28), and return that shape: RuntimeError" in line


def test_it_goes_with_models_by_name_and_the_flags_for_speed(package: str, denoiser: Path) -> None:
    command = [f"--model={package}.half", f"--denoiser={denoiser}", "--data=MNIST", "--sigma=0.25", *TINY]
    plain = ["--fold-batch-norm=false", "--channels-last=false"]
    found = [
        summary_of(certify.main([*command, *more, f"--out=out{number}"]))["results"][0]["median_eps_out"]
        for number, more in enumerate(([], plain, ["--audit"]))
    ]
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)


def test_the_same_weights_in_a_class_of_ones_own(package: str, denoiser: Path, checkpoint: Path) -> None:
    command, best = [f"--ckpt={checkpoint}", *TINY], denoiser / "checkpoints" / "best.ckpt"
    ours = certify.main([*command, f"--denoiser={best}", "--out=ours"])
    own = certify.main([*command, f"--denoiser={package}.Mine", f"--denoiser.weights={best}", "--out=own"])
    assert summary_of(own)["config"]["denoiser"] == {"name": f"{package}.Mine", "sha256": files.sha256(best)}
    assert summary_of(own)["results"] == summary_of(ours)["results"]


def test_plans_and_attacks(
    checkpoint: Path, denoiser: Path, package: str, capsys: pytest.CaptureFixture[str], refusal: Callable[..., str]
) -> None:
    command = [f"--ckpt={checkpoint}", f"--denoiser={denoiser}", *TINY]
    certify.main([*command, "--plan"])
    assert "samples/s in batches of" in capsys.readouterr().out
    assert "denoiser must return the shape" in refusal([*command[:1], f"--denoiser={package}.crop", *TINY, "--plan"])
    attack = ["--attack=pgd", "--attack-steps=2", "--attack-starts=1", "--attack-samples=4", "--num-examples=1"]
    folder = certify.main([*command, *attack, "--out=attacked"])
    assert folder is not None
    header, row = ((folder / "certificates.csv").read_text()).splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert found["attack_gradient_free"] == "False"
    assert float(found["base_attack_eps"]) > 0.0


def test_a_file_may_not_name_a_denoiser_of_its_own(
    checkpoint: Path, denoiser: Path, package: str, refusal: Callable[[list[str]], str]
) -> None:
    command = [f"--ckpt={checkpoint}", *TINY, "--config=given.yaml"]
    Path("given.yaml").write_text(f"denoiser: {package}.half\n")
    assert f"--trust must be given for a configuration file that names the denoiser {package}.half" in refusal(command)
    certify.main([*command, "--trust", "--out=trusted"])
    Path("given.yaml").write_text(f"denoiser: {denoiser}\n")
    named = summary_of(certify.main([*command, "--out=checkpoint"]))["config"]["denoiser"]["name"]
    assert named.startswith("NoisyDenoiser")


def test_a_finished_folder_has_its_own(denoiser: Path, refusal: Callable[[list[str]], str]) -> None:
    assert "--denoiser must be left out with --from" in refusal(["--from=somewhere", f"--denoiser={denoiser}"])


def test_an_onnx_file_in_front_certifies_what_the_same_function_does(
    checkpoint: Path, package: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, number, shape = onnx.helper, onnx.TensorProto.FLOAT, ["N", 1, 28, 28]
    two = onnx.numpy_helper.from_array(torch.tensor(2.0).numpy(), "two")
    ends = [helper.make_tensor_value_info(name, number, shape) for name in ("x", "y")]
    nodes = [helper.make_node("Div", ["x", "two"], ["y"])]
    graph = helper.make_graph(nodes, "half", ends[:1], ends[1:], [two])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "half.onnx")

    command = [f"--ckpt={checkpoint}", *TINY]
    by_file = certify.main([*command, "--denoiser=half.onnx", "--out=by_file"])
    by_name = certify.main([*command, f"--denoiser={package}.half", "--out=by_name"])
    rows = [
        [line.split(",")[:-1] for line in (folder / "certificates.csv").read_text().splitlines()]
        for folder in (by_file, by_name)
        if folder is not None
    ]
    assert rows[0][0] == rows[1][0]
    radii = [[float(row[rows[0][0].index("eps_out")]) for row in found[1:]] for found in rows]
    assert radii[0] == pytest.approx(radii[1], rel=1e-5)
    assert summary_of(by_file)["config"]["denoiser"] == {
        "name": "half.onnx",
        "sha256": files.sha256(tmp_path / "half.onnx"),
    }
