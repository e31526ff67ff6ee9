import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
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


def fitted(estimator: Any, dtype: type = np.float64, **options: Any) -> Any:  # noqa: ANN401
    """The estimator, fitted on features of that type and three labels."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 12)).astype(dtype), rng.integers(0, 3, size=60)
    return estimator.fit(options.get("frame", lambda z: z)(features), options.get("labels", lambda y: y)(labels))


def outputs_of(estimator: object, answer: str | None = None) -> Tensor:
    return Estimator(estimator, answer)(torch.rand(7, 3, 4, generator=torch.Generator().manual_seed(0)))


def test_estimators_get_float64() -> None:
    class Types:
        def predict(self, features: np.ndarray) -> np.ndarray:
            assert features.dtype == np.float64
            return features.sum(axis=1)

    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.rand(7, 3).to(dtype)
        assert torch.equal(Estimator(Types())(x), torch.from_numpy(x.double().numpy().sum(axis=1))[:, None])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scaled", [False, True])
def test_k_means_of_both_types(dtype: type, scaled: bool) -> None:
    means = KMeans(3, n_init=1, random_state=0)
    found = outputs_of(fitted(make_pipeline(StandardScaler(), means) if scaled else means, dtype))
    assert found.shape == (7, 1)
    assert set(found.flatten().tolist()) <= {0.0, 1.0, 2.0}


@pytest.mark.filterwarnings("error")
def test_features_keep_the_names_that_an_estimator_was_fitted_with() -> None:
    names = [f"feature {number}" for number in range(12)]
    by_name = ColumnTransformer([("few", StandardScaler(), names[3:5])])
    estimator = make_pipeline(by_name, LinearRegression())
    with_names = fitted(estimator, frame=lambda z: pandas.DataFrame(z, columns=names))
    plain = fitted(make_pipeline(StandardScaler(), LinearRegression()), frame=lambda z: z[:, 3:5])
    x = torch.rand(7, 12, dtype=torch.float64)
    torch.testing.assert_close(Estimator(with_names)(x), Estimator(plain)(x[:, 3:5]))
    scaler = StandardScaler().set_output(transform="pandas")
    scaler = fitted(scaler, frame=lambda z: pandas.DataFrame(z, columns=names))
    np.testing.assert_array_equal(Estimator(scaler)(x), scaler.transform(pandas.DataFrame(x.numpy(), columns=names)))


def test_lists_and_sparse_answers_of_estimators_are_joined() -> None:
    trees = fitted(ExtraTreesClassifier(5, random_state=0), labels=lambda y: np.stack([y, y > 0], axis=1))
    x = torch.rand(7, 12)
    expected = np.concatenate(trees.predict_proba(x.double().numpy()), axis=1)
    np.testing.assert_array_equal(Estimator(trees, "predict_proba")(x), expected)
    bins = fitted(KBinsDiscretizer(3, encode="onehot", strategy="uniform"))
    np.testing.assert_array_equal(Estimator(bins)(x), bins.transform(x.double().numpy()).toarray())


class Answering:
    def __init__(self, answer: Any) -> None:  # noqa: ANN401
        self.answer = answer

    def predict(self, features: np.ndarray) -> Any:  # noqa: ANN401
        return self.answer(features)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z: list(z), r"Answering.predict must return an array, or .* got a list of ndarray: return np.array"),
        (lambda z: z[:, 0].tolist(), "Answering.predict must return an array, or .* got a list of float"),
        (lambda z: [], "Answering.predict must return an array, or .* got a list of nothing"),
        (
            lambda z: [z, z[:3]],
            r"Answering.predict must return one output per input, shape \(7, \*out\), got \(3, 12\)",
        ),
        (lambda z: np.array(["a"] * len(z)), "Answering.predict must return numbers .* an array of type <U1"),
        (lambda z: z * 1j, "Answering.predict must return numbers .* complex"),
    ],
)
def test_other_answers_of_estimators_are_refused_by_name(answer: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=message):
        outputs_of(Answering(answer))


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
