import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from center_smoothing import CenterSmoother, SmoothingBudget, TotalVariation
from lightning_modules import Certifier, NoisyReconstructor, load_checkpoint
from lightning_modules.reconstructor import MAX_CONDITION_NUMBER, gaussian_matrix, pseudo_inverse
from tests.lightning_modules.parts import fitted, images


def tiny(sigma: float = 0.25, **kwargs: Any) -> NoisyReconstructor:  # noqa: ANN401  # whatever the class takes
    return NoisyReconstructor(sigma, **{"image_shape": (1, 8, 8), "num_measurements": 24, "latent_dim": 4, **kwargs})


def rank_deficient(matrix: Tensor) -> Tensor:
    return torch.cat([matrix[:-1], matrix[:1] + matrix[1:2]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "best.ckpt"
    fitted(tiny(measurement_seed=5, learning_rate=0.01), limit_train_batches=1).save_checkpoint(path)
    return path


@pytest.fixture
def content(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, weights_only=True)


def assert_refused(content: dict[str, Any], folder: Path, match: str) -> None:
    path = folder / "changed.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=match) as refused:
        load_checkpoint(path)
    message = str(refused.value)
    assert message.startswith("--ckpt must hold the weights of the NoisyReconstructor that it describes, got ")
    assert "\n" not in message


def test_matrix_entries_are_gaussian_with_variance_one_over_the_number_of_measurements() -> None:
    entries = gaussian_matrix(256, 784, seed=0).double().flatten()
    count = len(entries)
    assert abs(entries.mean()) < 4 / math.sqrt(256 * count)
    assert 256 * float(entries.var()) == pytest.approx(1.0, abs=4 * math.sqrt(2 / count))
    assert stats.kstest(entries[:20_000] * 16, "norm").pvalue > 1e-3


def test_matrix_depends_on_its_own_seed_alone() -> None:
    first, state = tiny().measurement.matrix, torch.get_rng_state()
    assert torch.equal(first, gaussian_matrix(24, 64, seed=0))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, tiny(measurement_seed=1).measurement.matrix)


def test_point_is_the_matrix_times_the_flat_image() -> None:
    model, x = tiny(image_shape=(3, 8, 8)), images(5, 3, 8, 8)
    expected = torch.stack([model.measurement.matrix @ image.reshape(-1) for image in x])
    torch.testing.assert_close(model.point(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.point(x), model.measurement(x))
    assert model.point(x).dtype == torch.float32


def test_the_size_is_that_of_the_paper_and_only_the_autoencoder_is_trained() -> None:
    model, x = NoisyReconstructor(0.25, image_shape=(3, 32, 32)).eval(), images(2, 3, 32, 32)
    measured = model.point(x)
    assert measured.shape == (2, 256)
    assert model(measured).shape == x.shape
    assert all(name.startswith("network.") for name, _ in model.named_parameters())
    assert {"measurement.matrix", "measurement.pseudo_inverse"} <= set(model.state_dict())


def test_hyperparameters_are_plain_values() -> None:
    model = tiny(image_shape=torch.Size((3, 8, 8)), noise_range=(0, 1), measurement_seed=3)
    assert repr(dict(sorted(model.hparams.items()))) == repr(
        {
            "channels": [32, 64, 128], "consistency_distance": "tv", "consistency_weight": 0.0,
            "image_shape": [3, 8, 8], "latent_dim": 4, "learning_rate": 0.001, "measurement_seed": 3,
            "noise_range": [0.0, 1.0], "num_measurements": 24, "sigma": 0.25,
        }
    )  # fmt: skip


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (24, 64), (40, 64)])
def test_reverted_measurements_measure_the_same(rows: int, columns: int) -> None:
    matrix = gaussian_matrix(rows, columns, seed=3).double()
    inverse = pseudo_inverse(matrix)
    assert inverse.shape == (columns, rows)
    assert inverse.dtype == torch.float64
    torch.testing.assert_close(matrix @ inverse @ matrix, matrix, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(inverse @ matrix @ inverse, inverse, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(inverse @ matrix, (inverse @ matrix).mT, atol=1e-12, rtol=1e-9)


def test_forward_reverts_and_then_runs_the_autoencoder() -> None:
    model = tiny().eval()
    measured = model.point(images(3, 1, 8, 8))
    reverted = torch.linalg.lstsq(model.measurement.matrix.double(), measured.double().mT, driver="gelsd").solution.mT
    with torch.no_grad():
        expected = model.network(reverted.float().reshape(3, 1, 8, 8))
        torch.testing.assert_close(model(measured), expected)


def test_smoothing_happens_in_measurement_space() -> None:
    model = tiny().eval()
    budget = SmoothingBudget(n=60, m=120, k=8, delta=0.4)
    smoother = CenterSmoother(model, TotalVariation(), sigma=0.25, budget=budget, batch_size=64)
    seen: list[torch.Size] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1:]))
    (example,) = Certifier(model, smoother).predict_step({"image": images(1, 1, 8, 8), "index": torch.tensor([7])}, 0)
    assert set(seen) == {torch.Size([24])}
    assert example.base_output.shape == example.certificate.center.shape == (1, 8, 8)
    assert 0.0 < example.certificate.eps_out(0.1) < math.inf


def test_stored_matrix_wins_over_that_of_the_seed(content: dict[str, Any], tmp_path: Path) -> None:
    matrix = gaussian_matrix(24, 64, seed=99)
    content["state_dict"]["measurement.matrix"] = matrix
    content["state_dict"]["measurement.pseudo_inverse"] = pseudo_inverse(matrix).float()
    torch.save(content, tmp_path / "other.ckpt")
    model = load_checkpoint(tmp_path / "other.ckpt").model
    assert model.hparams["measurement_seed"] == 5
    x = images(2, 1, 8, 8)
    torch.testing.assert_close(model.point(x), x.flatten(1) @ matrix.mT)
    reverted = model.point(x) @ pseudo_inverse(matrix).float().mT
    with torch.no_grad():
        torch.testing.assert_close(model(model.point(x)), model.network(reverted.reshape(2, 1, 8, 8)))


def test_checkpoint_in_bfloat16_loads(content: dict[str, Any], tmp_path: Path) -> None:
    state = content["state_dict"]
    content["state_dict"] = {
        key: value.bfloat16() if value.is_floating_point() else value for key, value in state.items()
    }
    torch.save(content, tmp_path / "coarse.ckpt")
    assert load_checkpoint(tmp_path / "coarse.ckpt").model.dtype == torch.float32


PSEUDO = "measurement.pseudo_inverse"
OTHER = "stored pseudo-inverse must be that of the stored measurement matrix, got one"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (PSEUDO, lambda stored: pseudo_inverse(gaussian_matrix(24, 64, seed=6)).float(), OTHER),
        (PSEUDO, lambda stored: 0.0 * stored, OTHER),
        (PSEUDO, lambda stored: 1.05 * stored, OTHER),
        (PSEUDO, lambda stored: stored.index_fill(0, torch.tensor([3]), math.nan), OTHER),
        (PSEUDO, lambda stored: None, "Missing key"),
        ("measurement.matrix", lambda stored: None, "Missing key"),
        ("measurement.matrix", lambda stored: gaussian_matrix(25, 64, seed=0), "size mismatch"),
        ("measurement.matrix", rank_deficient, "condition number of at most 10000, .*got"),
    ],
)
def test_a_changed_matrix_is_refused(
    name: str, change: Callable[[Tensor], Tensor | None], said: str, content: dict[str, Any], tmp_path: Path
) -> None:
    changed = change(content["state_dict"].pop(name))
    if changed is not None:
        content["state_dict"][name] = changed
    assert_refused(content, tmp_path, said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(
            ({"num_measurements": number}, rf"num_measurements must lie in 1\.\.64, .*got {number}$")
            for number in (0, 65)
        ),
        *(({"measurement_seed": seed}, rf"must lie in 0\.\.4294967295, got {seed}") for seed in (-1, 1 << 32)),
    ],
)
def test_impossible_measurements_are_refused(given: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny(**given)


def test_a_copy_checks_what_it_loads_too() -> None:
    model = copy.deepcopy(tiny())
    state = model.state_dict()
    with pytest.raises(ValueError, match="stored pseudo-inverse must"):
        model.load_state_dict({**state, "measurement.pseudo_inverse": -state["measurement.pseudo_inverse"]})


def with_condition_number(condition: float) -> Tensor:
    left, _, right = torch.linalg.svd(gaussian_matrix(6, 10, seed=0).double(), full_matrices=False)
    return left @ torch.diag(torch.logspace(0, -math.log10(condition), 6, dtype=torch.float64)) @ right


def test_float32_reverts_a_matrix_at_the_limit_to_less_than_half_a_grey_level() -> None:
    matrix = with_condition_number(0.99 * MAX_CONDITION_NUMBER)
    exact, x = pseudo_inverse(matrix), images(100, 10).double()
    torch.testing.assert_close(matrix @ exact, torch.eye(6, dtype=torch.float64))
    reverted = (x.float() @ matrix.float().mT @ exact.float().mT).double()
    assert float((reverted - x @ matrix.mT @ exact.mT).abs().max()) < 0.5 / 255


@pytest.mark.parametrize(
    "matrix",
    [
        rank_deficient(gaussian_matrix(24, 64, seed=0)),
        with_condition_number(1.01 * MAX_CONDITION_NUMBER),
        torch.zeros(2, 3),
        torch.ones(2, 3),
        torch.full((2, 3), math.nan),
        torch.tensor([[1.0, math.inf, 0.0]]),
    ],
    ids=["a row is a sum", "above the limit", "zeros", "ones", "NaN", "inf"],
)
def test_matrix_that_cannot_be_reverted_is_refused(matrix: Tensor) -> None:
    with pytest.raises(ValueError, match=r"condition number of at most 10000, .*got .* use another measurement_seed"):
        pseudo_inverse(matrix)
