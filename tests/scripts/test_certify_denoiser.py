"""certify.py --denoiser: what is certified, what is recorded, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import certify
import train
from center_smoothing import Denoised
from lightning_modules import NoisyDenoiser, load_checkpoint
from results import files
from tests.scripts.running import CENTERS, radii, rows, run, summary

TINY = [*CENTERS, "--m=300", "--h=0.5"]
HALF = ["--m=300", "--h=0.5"]
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


def test_the_configuration_trains_what_reloads(denoiser: Path) -> None:
    loaded = load_checkpoint(denoiser)
    assert isinstance(loaded.model, NoisyDenoiser)
    assert loaded.model.hparams["noise_range"] == [0.1, 0.5]
    assert loaded.model.hparams["image_shape"] == [1, 28, 28]
    header, *rows = (denoiser / "metrics.csv").read_text().splitlines()
    assert {"val/loss", "val/certified_radius"} <= set(header.split(","))
    assert rows


@pytest.fixture(scope="module")
def composed(checkpoint: Path, denoiser: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(checkpoint, tmp_path_factory.mktemp("composed"), *HALF, f"--denoiser={denoiser}")


def test_a_checkpoint_in_front_of_a_checkpoint(
    composed: Path, checkpoint: Path, denoiser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, config = denoiser / "checkpoints" / "best.ckpt", summary(composed)["config"]
    sha256 = files.sha256(best)
    named = {"name": f"NoisyDenoiser of run {denoiser.name}", "sha256": sha256}
    assert (config["denoiser"], config["model"]) == (named, "NoisyAutoencoder")
    assert summary(composed)["checkpoint_sha256"] == files.sha256(checkpoint)
    assert f"of NoisyAutoencoder behind the denoiser {named['name']}" in (composed / "report.html").read_text()
    # the same command, with the denoiser at another place, goes on, and a finished folder still answers
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(best.read_bytes())
    run(checkpoint, composed, *HALF, f"--denoiser={moved}")
    printed = capsys.readouterr().out
    assert "1 of 1 examples are there already and kept" in printed
    assert f"  denoiser: {named['name']}, sha256 {sha256[:12]}\n" in printed
    before = (composed / "certificates.csv").read_text()
    certify.main([f"--from={composed}", "--h", "0.25"])
    assert "median" in capsys.readouterr().out
    assert (composed / "certificates.csv").read_text() == before


def test_what_is_certified_is_the_composition(composed: Path, checkpoint: Path, denoiser: Path, tmp_path: Path) -> None:
    network = Denoised(load_checkpoint(checkpoint).model, load_checkpoint(denoiser).model)
    example = torch.export.export(
        network.eval(), (torch.rand(2, 1, 28, 28),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    torch.export.save(example, tmp_path / "both.pt2")
    command = ["--trust", f"--model={tmp_path / 'both.pt2'}", "--data=MNIST", "--sigma=0.25", *TINY]
    other = certify.main([*command, f"--out={tmp_path / 'other'}"])
    assert other is not None
    assert radii(composed) == pytest.approx(radii(other), rel=1e-4)
    alone = run(checkpoint, tmp_path / "alone", *HALF)
    assert radii(alone) != pytest.approx(radii(composed), rel=1e-2)
    assert "denoiser" not in summary(alone)["config"]


def test_another_denoiser_is_another_certification(
    checkpoint: Path, package: str, refusal: Callable[[list[str]], str]
) -> None:
    command = [f"--ckpt={checkpoint}", *TINY]
    given = [*command, f"--denoiser={package}.Scale", "--denoiser.factor=0.9"]
    first = certify.main([*given, "--out=out"])
    assert first is not None
    assert summary(first)["config"]["denoiser"]["arguments"] == {"factor": 0.9}
    assert "denoiser.arguments={'factor': 0.9}" in refusal([*given[:-1], "--denoiser.factor=0.8", "--out=out"])
    assert "denoiser.name=" in refusal([*command, f"--denoiser={package}.half", "--out=out"])
    assert "with denoiser={'name':" in refusal([*command, "--out=out"])
    code = Path(f"{package}.py")
    code.write_text(code.read_text() + "\n")
    assert "denoiser.sha256=" in refusal([*given, "--out=out"])
    assert certify.main([*command, "--m=250"]) != certify.main([*command, "--m=250", *given[-2:]])


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


def test_it_goes_with_models_by_name_and_the_flags_for_speed(package: str, denoiser: Path, tmp_path: Path) -> None:
    command = [f"--model={package}.half", f"--denoiser={denoiser}", "--data=MNIST", "--sigma=0.25", *TINY]
    plain = ["--fold-batch-norm=false", "--channels-last=false"]
    folders = [certify.main([*command, "--audit", "--out=fast"]), certify.main([*command, *plain, "--out=plain"])]
    assert radii(tmp_path / "fast") == pytest.approx(radii(tmp_path / "plain"), rel=1e-4)
    assert [str(folder) for folder in folders] == ["fast", "plain"]


def test_the_same_weights_in_a_class_of_ones_own(
    composed: Path, package: str, denoiser: Path, checkpoint: Path
) -> None:
    best = denoiser / "checkpoints" / "best.ckpt"
    own = run(checkpoint, Path("own"), *HALF, f"--denoiser={package}.Mine", f"--denoiser.weights={best}")
    assert summary(own)["config"]["denoiser"] == {"name": f"{package}.Mine", "sha256": files.sha256(best)}
    assert summary(own)["results"] == summary(composed)["results"]


def test_plans_and_attacks(
    checkpoint: Path, denoiser: Path, package: str, capsys: pytest.CaptureFixture[str], refusal: Callable[..., str]
) -> None:
    command = [f"--ckpt={checkpoint}", f"--denoiser={denoiser}", *TINY]
    certify.main([*command, "--plan"])
    assert "samples/s in batches of" in capsys.readouterr().out
    assert "denoiser must return the shape" in refusal([*command[:1], f"--denoiser={package}.crop", *TINY, "--plan"])
    attack = ["--attack=pgd", "--attack-steps=2", "--attack-starts=1", "--attack-samples=4"]
    (row,) = rows(run(checkpoint, Path("attacked"), *HALF, f"--denoiser={denoiser}", *attack))
    assert row["attack_gradient_free"] == "False"
    assert float(row["base_attack_eps"]) > 0.0


def test_a_file_may_not_name_a_denoiser_of_its_own(
    checkpoint: Path, denoiser: Path, package: str, refusal: Callable[[list[str]], str]
) -> None:
    command = [f"--ckpt={checkpoint}", *TINY, "--config=given.yaml"]
    Path("given.yaml").write_text(f"denoiser: {package}.half\n")
    assert f"--trust must be given for a configuration file that names the denoiser {package}.half" in refusal(command)
    assert certify.main([*command, "--trust", "--plan"]) is None
    Path("given.yaml").write_text(f"denoiser: {denoiser}\n")
    assert certify.main([*command, "--plan"]) is None


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

    by_file = run(checkpoint, Path("by_file"), *HALF, "--denoiser=half.onnx")
    by_name = run(checkpoint, Path("by_name"), *HALF, f"--denoiser={package}.half")
    assert radii(by_file) == pytest.approx(radii(by_name), rel=1e-5)
    sha256 = files.sha256(tmp_path / "half.onnx")
    assert summary(by_file)["config"]["denoiser"] == {"name": "half.onnx", "sha256": sha256}
