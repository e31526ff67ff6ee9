import copy
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from center_smoothing import Lp, TotalVariation
from lightning_modules import NoisyAutoencoder, NoisyModule, NoisyReconstructor, load_checkpoint
from lightning_modules.base import Batch
from lightning_modules.consistency import CONSISTENCY_DISTANCES, consistency
from tests.lightning_modules.parts import bars, fitted


class Linear(NoisyModule):
    """f(x) = W x, on images (N, 1, 1, D) as outputs (N, D) where flat, with what it logs kept."""

    def __init__(self, weights: Tensor, **kwargs: Any) -> None:  # noqa: ANN401  # whatever NoisyModule takes
        super().__init__(sigma=0.5, **kwargs)
        self.weights = nn.Parameter(weights)
        self.seen: list[Tensor] = []
        self.logged: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x @ self.weights.T

    def log(self, name: str, value: Tensor, **_: Any) -> None:  # noqa: ANN401  # Lightning's options
        self.logged[name] = value


SMALL = {"image_shape": (1, 8, 8), "latent_dim": 4, "learning_rate": 0.01, "channels": (8, 8, 16)}


def autoencoder(**kwargs: Any) -> NoisyAutoencoder:  # noqa: ANN401  # whatever the class takes
    return NoisyAutoencoder(0.25, **{**SMALL, **kwargs})


def reconstructor(**kwargs: Any) -> NoisyReconstructor:  # noqa: ANN401  # whatever the class takes
    return NoisyReconstructor(0.25, num_measurements=24, **{**SMALL, **kwargs})


MAKE = {"autoencoder": autoencoder, "reconstructor": reconstructor}


def pairs(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("shape", [(5, 2, 6, 7), (5, 6, 7)])
def test_the_distance_is_that_of_the_certificate_for_each_number_of_an_output(shape: tuple[int, ...]) -> None:
    first, second = pairs(*shape)
    for name, distances in {
        "tv": TotalVariation()(first, second),
        "l1": Lp(1.0)(first, second),
        "mse": Lp(2.0)(first, second).square(),
    }.items():
        expected = float(distances.mean()) / math.prod(shape[1:])
        assert consistency(first, second, distance=name).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distance", CONSISTENCY_DISTANCES)
def test_equal_outputs_are_at_distance_zero_with_gradient_zero(distance: str) -> None:
    first = torch.rand(3, 1, 4, 4, requires_grad=True)
    term = consistency(first, first.detach().clone(), distance=distance)
    term.backward()
    assert term.item() == 0.0
    assert torch.equal(first.grad, torch.zeros_like(first))


def test_total_variation_needs_images() -> None:
    with pytest.raises(ValueError, match=r"must be l1 or mse .* got 'tv' and outputs of shape \(3, 5\)"):
        consistency(*pairs(3, 5), distance="tv")


@pytest.mark.parametrize("distance", CONSISTENCY_DISTANCES)
def test_the_gradient_is_the_closed_form_of_a_linear_model(distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, weights = pairs(6, 1, 3, 5)[0], pairs(5, 5, seed=1)[0]
    noises = list(pairs(6, 1, 3, 5, seed=2))
    remaining = iter(noises)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(remaining))
    model = Linear(weights.clone(), consistency_weight=0.7, consistency_distance=distance)
    model.training_step({"image": images, "index": torch.arange(6)}, 0).backward()
    # rows v of differences of the inputs: f(x + a) - f(x + b) = W (a - b)
    v = 0.5 * (noises[0] - noises[1]).reshape(-1, 5)
    outputs = v @ weights.T
    if distance == "mse":
        term = 2.0 * outputs.T @ v
    elif distance == "l1":
        term = outputs.sign().T @ v
    else:
        step = torch.eye(5)[1:] - torch.eye(5)[:-1]  # of the pixels of a row
        term = step.T @ (outputs @ step.T).sign().T @ v
        below = v.reshape(6, 3, 5).diff(dim=1).reshape(-1, 5)
        term += (below @ weights.T).sign().T @ below
    error = torch.zeros(5, 5)
    for noise in noises:
        x = (images + 0.5 * noise).reshape(-1, 5)
        error += (x @ weights.T - images.reshape(-1, 5)).T @ x
    expected = error / images.numel() + 0.7 * term / images.numel()
    torch.testing.assert_close(model.weights.grad, expected)


def test_two_copies_are_independent_and_logged_apart_from_the_error() -> None:
    images = pairs(64, 1, 8, 8)[0]
    model = Linear(torch.eye(8), consistency_weight=3.0, consistency_distance="mse")
    total = model.training_step({"image": images, "index": torch.arange(64)}, 0)
    (seen,) = model.seen
    first, second = ((copy - images) / 0.5 for copy in seen.chunk(2))
    assert abs((first * second).mean().item()) < 5 / 64  # standard error 1 / 64
    assert set(model.logged) == {"train/loss", "train/consistency"}
    torch.testing.assert_close(model.logged["train/loss"], functional.mse_loss(seen, torch.cat([images, images])))
    torch.testing.assert_close(total, model.logged["train/loss"] + 3.0 * model.logged["train/consistency"])
    # E (a - b)^2 = 2 sigma^2
    assert model.logged["train/consistency"].item() == pytest.approx(2 * 0.25, rel=0.1)


def test_both_copies_of_an_image_have_its_noise_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    model = Linear(torch.eye(8), consistency_weight=1.0, noise_range=[0.1, 0.9])
    model.training_step({"image": torch.zeros(50, 1, 8, 8), "index": torch.arange(50)}, 0)
    first, second = model.seen[0].chunk(2)
    assert torch.equal(first, second)
    assert first[:, 0, 0, 0].unique().numel() > 40


class Before(NoisyAutoencoder):
    """Training as it is without the option."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x = self.point(batch["image"])
        noise = torch.randn_like(x)
        if self.noise_range is None:
            noise = self.sigma * noise
        else:
            noise = x.new_empty(len(x)).uniform_(*self.noise_range).reshape(-1, 1, 1, 1) * noise
        return functional.mse_loss(self(x + noise), batch["image"])


@pytest.mark.parametrize("noise_range", [None, [0.1, 0.5]])
def test_weight_zero_trains_bit_by_bit_as_without_the_option(noise_range: list[float] | None) -> None:
    trained = []
    for kind in (Before, NoisyAutoencoder):
        torch.manual_seed(0)
        model = kind(0.25, noise_range=noise_range, **SMALL)
        fitted(model, epochs=2)
        trained.append({**model.state_dict(), "as many draws": torch.rand(1)})
    before, now = trained
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def error_and_spread(model: NoisyModule) -> tuple[float, float]:
    """The mean squared error on training images, and how far outputs under noise are apart on test images."""
    train, test = (model.eval().point(bars(train=split)) for split in (True, False))
    x = test.repeat(16, *[1] * (test.ndim - 1))
    with torch.no_grad():
        first, second = (model(x + 0.25 * noise) for noise in pairs(*x.shape))
        error = functional.mse_loss(model(train), bars(train=True))
    return float(error), float(TotalVariation()(first, second).mean())


@cache
def after_training(kind: str, weight: float, distance: str) -> tuple[float, float]:
    torch.manual_seed(0)
    model = MAKE[kind](consistency_weight=weight, consistency_distance=distance)
    fitted(model, epochs=10)
    return error_and_spread(model)


@pytest.mark.parametrize("kind", MAKE)
def test_training_reduces_the_loss(kind: str) -> None:
    assert after_training(kind, 0.0, "tv")[0] < 0.5 * error_and_spread(MAKE[kind]())[0]


@pytest.mark.parametrize(
    ("kind", "distance"), [*(("autoencoder", name) for name in CONSISTENCY_DISTANCES), ("reconstructor", "tv")]
)
def test_a_weight_lowers_the_spread_of_the_outputs_under_noise(kind: str, distance: str) -> None:
    assert after_training(kind, 3.0, distance)[1] < 0.8 * after_training(kind, 0.0, "tv")[1]


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("kind", MAKE)
def test_a_weight_that_is_none_is_refused_with_its_value(kind: str, weight: float) -> None:
    with pytest.raises(ValueError, match="consistency_weight must be a finite number of at least 0") as refused:
        MAKE[kind](consistency_weight=weight)
    assert str(refused.value).endswith(f"got {weight!r}")


def test_an_unknown_distance_is_refused_with_those_that_are_known() -> None:
    for call in (lambda: consistency(*pairs(3, 5), distance="l2"), lambda: autoencoder(consistency_distance="l2")):
        with pytest.raises(ValueError, match="consistency_distance must be one of tv, l1, mse, got 'l2'"):
            call()


@pytest.mark.parametrize("kind", MAKE)
def test_a_checkpoint_remembers_the_term_and_older_ones_have_none(kind: str, tmp_path: Path) -> None:
    trainer = fitted(MAKE[kind](consistency_weight=0.5, consistency_distance="l1"), limit_train_batches=1)
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    model = load_checkpoint(tmp_path / "new.ckpt").model
    assert (model.consistency_weight, model.consistency_distance) == (0.5, "l1")
    content = torch.load(tmp_path / "new.ckpt", weights_only=True)
    older = copy.deepcopy(content)
    for name in ("consistency_weight", "consistency_distance"):
        del older["hyper_parameters"][name]
    torch.save(older, tmp_path / "old.ckpt")
    loaded = load_checkpoint(tmp_path / "old.ckpt").model
    assert loaded.consistency_weight == 0.0
    assert type(loaded).load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True).consistency_weight == 0.0
    assert all(torch.equal(tensor, content["state_dict"][name]) for name, tensor in loaded.state_dict().items())
