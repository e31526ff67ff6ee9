import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import Tensor, nn

from center_smoothing import CenterSmoother, Estimator, Lp, MeanBudget, MeanSmoother, OnnxModel, SmoothingBudget
from center_smoothing.base_functions import as_base_function

BUDGET = SmoothingBudget(n=200, m=400, k=16, delta=0.3)
X = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Dropout and batch norm: another function unless it is put in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def radius(model: object) -> float:
    return CenterSmoother(model, Lp(2.0), sigma=0.25, budget=BUDGET).certify(X).eps_out(eps_in=0.25)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.fixture(scope="module")
def expected(network: Network) -> float:
    found = radius(network)
    assert 0.0 < found < np.inf
    return found


def test_a_function_of_arrays(network: Network, expected: float) -> None:
    network.eval()
    assert radius(lambda x: network(x).detach().numpy()) == pytest.approx(expected, rel=1e-9)


def test_torchscript_in_training_mode(network: Network, expected: float) -> None:
    script = torch.jit.trace(network.eval(), torch.rand(2, 3, 4)).train()
    assert radius(script) == pytest.approx(expected, rel=1e-5)
    script = torch.jit.script(network.train())
    assert radius(script) == pytest.approx(expected, rel=1e-5)
    assert script.training


def test_an_exported_program(network: Network, expected: float) -> None:
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(network.eval(), (torch.rand(2, 3, 4),), dynamic_shapes=(batch,))
    assert radius(program) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("answer", ["predict", "predict_proba"])
def test_an_estimator_with_one_and_with_several_outputs(answer: str) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 12)), rng.integers(0, 3, size=60)
    estimator = LogisticRegression().fit(features, labels)
    outputs = Estimator(estimator, answer)(torch.from_numpy(features).reshape(60, 3, 4))
    expected = getattr(estimator, answer)(features).reshape(60, -1)
    assert outputs.shape == expected.shape
    np.testing.assert_array_equal(outputs.numpy(), expected)


def test_an_estimator_is_smoothed_as_its_own_linear_map(expected: float) -> None:
    rng = np.random.default_rng(0)
    estimator = LinearRegression().fit(rng.normal(size=(60, 12)), rng.normal(size=(60, 2)))
    weight, bias = (torch.from_numpy(part).float() for part in (estimator.coef_, estimator.intercept_))
    assert radius(estimator) == pytest.approx(radius(lambda x: x.flatten(1) @ weight.T + bias), rel=1e-4)
    means = MeanSmoother(estimator, Lp(2.0), sigma=0.25, clip_norm=9.0, budget=MeanBudget(n=50, m=60))  # type: ignore[arg-type]
    assert means.smooth(X).center.shape == (2,)


def test_an_onnx_file(network: Network, expected: float, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "linear.onnx"
    linear = network.layers[1].eval()
    onnx.save(linear_onnx(onnx, linear, batch="N"), path)
    assert radius(OnnxModel(path)) == pytest.approx(radius(lambda x: linear(x.flatten(1))), rel=1e-5)
    with pytest.raises(ValueError, match="output must be one of z, got 'logits'"):
        OnnxModel(path, output="logits")
    onnx.save(linear_onnx(onnx, linear, batch=1), path)
    with pytest.raises(ValueError, match=r"dynamic batch dimension.*takes 1 inputs at a time"):
        OnnxModel(path)


def linear_onnx(onnx: Any, linear: nn.Linear, *, batch: str | int) -> Any:  # noqa: ANN401  # of an optional package
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    weight, bias = (onnx.numpy_helper.from_array(part.detach().numpy(), name)
                    for part, name in ((linear.weight.T.contiguous(), "weight"), (linear.bias, "bias")))  # fmt: skip
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Gemm", ["flat", "weight", "bias"], ["z"])]
    inputs = [helper.make_tensor_value_info("x", number, [batch, 3, 4])]
    outputs = [helper.make_tensor_value_info("z", number, [batch, 8])]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, initializer=[weight, bias])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"model must be callable, got int: .* or an estimator with one of predict"):
        as_base_function(3)
    with pytest.raises(ValueError, match="estimator must have one of transform, got LinearRegression"):
        Estimator(LinearRegression(), "transform")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r'pip install "center-smoothing\[onnx\]"'):
        OnnxModel(tmp_path / "none.onnx")
    monkeypatch.undo()


def test_files_that_are_no_onnx_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="there is no such file"):
        OnnxModel(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x00 no model")
    with pytest.raises(ValueError, match="that onnxruntime can run"):
        OnnxModel(tmp_path / "bad.onnx")
