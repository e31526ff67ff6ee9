"""What makes certify.py faster: folded batch norm, memory layout, compilation, precision."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx

from center_smoothing import CenterSmoother, SmoothingBudget, TotalVariation
from certification import subject
from lightning_modules import CompiledModel, NoisyAutoencoder, fold_batch_norm, load_checkpoint
from tests.scripts import running
from tests.scripts.running import radii, refused, summary

BUDGET = SmoothingBudget(n=100, m=400, k=8)
PLAIN = ["--fold-batch-norm=false", "--channels-last=false"]


def run(checkpoint: Path, out: Path, *arguments: str) -> Path:
    return running.run(checkpoint, out, "--h", "0", "1", *arguments)


@pytest.fixture(scope="module")
def plain(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing that makes it faster."""
    return run(checkpoint, tmp_path_factory.mktemp("plain"), *PLAIN)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize(
    "arguments", [[], ["--fold-batch-norm=false"], ["--channels-last=false", "--batch-size=37"]], ids=str
)
def test_the_certificates_stay_the_same_up_to_rounding(
    plain: Path, checkpoint: Path, tmp_path: Path, arguments: list[str]
) -> None:
    assert radii(run(checkpoint, tmp_path, *arguments)) == pytest.approx(radii(plain), rel=1e-4)


def test_results_with_and_without_do_not_share_a_folder(
    plain: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = summary(plain)["config"]
    assert (config["fold_batch_norm"], config["channels_last"], config["compile"]) == (False, False, "off")
    for arguments, words in (
        (["--channels-last=false"], "fold_batch_norm=False, not True"),
        (["--fold-batch-norm=false"], "channels_last=False, not True"),
        ([*PLAIN, "--compile=default"], "compile='off', not 'default'"),
        ([*PLAIN, "--precision=bf16-mixed"], "precision='32-true', not 'bf16-mixed'"),
    ):
        assert words in refused(capsys, *arguments, main=lambda typed: run(checkpoint, plain, *typed))


def test_the_model_is_folded_and_laid_out_by_default(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    original = NoisyAutoencoder.forward

    def forward(self: NoisyAutoencoder, x: Tensor) -> Tensor:
        norms = sum(isinstance(part, torch.nn.BatchNorm2d) for part in self.modules())
        weight = self.network.encoder[3].weight
        seen.append((norms, weight.is_contiguous(memory_format=torch.channels_last)))
        return original(self, x)

    monkeypatch.setattr(NoisyAutoencoder, "forward", forward)
    run(checkpoint, tmp_path / "a")
    assert seen[-1] == (1, True)
    run(checkpoint, tmp_path / "b", *PLAIN)
    assert seen[-1] == (6, False)


def autocast_seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, torch.dtype]]:
    """At each call of the model: whether there is autocast, and the type of its outputs."""
    seen: list[tuple[bool, torch.dtype]] = []
    original = NoisyAutoencoder.forward

    def forward(self: NoisyAutoencoder, x: Tensor) -> Tensor:
        outputs = original(self, x)
        seen.append((torch.is_autocast_enabled("cpu"), outputs.dtype))
        return outputs

    monkeypatch.setattr(NoisyAutoencoder, "forward", forward)
    return seen


def test_bfloat16_goes_through_all_of_it(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fold_batch_norm(load_checkpoint(checkpoint).model).to(memory_format=torch.channels_last)
    seen = autocast_seen(monkeypatch)
    folder = run(checkpoint, tmp_path, "--precision=bf16-mixed")
    assert set(seen) == {(True, torch.bfloat16)}  # at preflight too
    ((stored,), (distances,)) = (list((folder / part).iterdir()) for part in ("outputs", "distances"))
    with np.load(stored) as arrays:
        image, base, smoothed = (torch.from_numpy(arrays[name]) for name in ("image", "base", "smoothed"))
    for values in (base, smoothed):
        assert torch.equal(values.bfloat16().float(), values)
    assert not torch.equal(image.bfloat16().float(), image)
    with torch.autocast("cpu", torch.bfloat16):
        smoother = CenterSmoother(model, TotalVariation(), sigma=0.25, budget=BUDGET, batch_size=64)
        certificate = smoother.certify(image, example=int(stored.stem))
    assert certificate.center.dtype == torch.bfloat16
    assert torch.equal(certificate.center.float(), smoothed)
    np.testing.assert_array_equal(np.load(distances), certificate.distances)
    assert radii(folder) == [certificate.eps_out(0.0), certificate.eps_out(0.25)]
    assert 0.0 < radii(folder)[0] < radii(folder)[1] < math.inf


def test_preflight_has_the_precision_of_the_run(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = autocast_seen(monkeypatch)
    run(checkpoint, tmp_path, "--precision=bf16-true")
    assert {dtype for _, dtype in seen} == {torch.bfloat16}


class Counting:
    """A backend of torch.compile that counts what it compiles and compiles nothing."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
def test_the_model_is_compiled_once_before_the_time_is_estimated(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Counting()
    monkeypatch.setattr(subject, "CompiledModel", partial(CompiledModel, backend=backend))
    arguments = ["--precision=bf16-mixed", "--batch-size=auto"]
    folder = run(checkpoint, tmp_path / "compiled", *arguments, "--compile=default")
    assert backend.graphs == 1
    assert radii(folder) == pytest.approx(radii(run(checkpoint, tmp_path / "plain", *arguments)), rel=0.01)
    assert summary(folder)["config"]["compile"] == "default"


@pytest.mark.usefixtures("compiler")
def test_what_does_not_compile_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        raise RuntimeError("there is no compiler")

    monkeypatch.setattr(subject, "CompiledModel", partial(CompiledModel, backend=fails))
    line = refused(capsys, "--compile=default", main=lambda typed: run(checkpoint, tmp_path, *typed))
    assert "--compile=default does not work with this model here" in line
    assert "there is no compiler" in line
    said = "--compile must be one of off, default, reduce-overhead, max-autotune"
    assert said in refused(capsys, "--plan", "--compile=fast")


def test_a_model_that_becomes_another_function_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrongly_folded(model: NoisyAutoencoder) -> NoisyAutoencoder:
        model = fold_batch_norm(model)
        with torch.no_grad():
            model.network.decoder[-2].bias += 3.0
        return model

    monkeypatch.setattr(subject, "fold_batch_norm", wrongly_folded)
    line = refused(capsys, main=lambda typed: run(checkpoint, tmp_path, *typed))
    assert "--fold-batch-norm=true --channels-last=true --compile=off must not be used with this model" in line
    assert "outputs on 64 noisy copies of test image 540 become others" in line
