import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from datamodules import ImageDataModule, IndexedImages
from lightning_modules import NoisyAutoencoder, NoisyModule


class Squares(ImageDataModule):
    def __init__(self) -> None:
        super().__init__(batch_size=8, num_workers=0)

    def setup(self, stage: str | None = None) -> None:
        images = torch.zeros(32, 1, 8, 8, dtype=torch.uint8)
        for number in range(32):
            images[number, :, number % 4 : number % 4 + 3, number // 8 : number // 8 + 4] = 255
        self.train_set = IndexedImages(images[:24], torch.arange(24))
        self.test_set = IndexedImages(images[24:], torch.arange(24, 32))


def tiny(sigma: float = 0.25, **kwargs: Any) -> NoisyAutoencoder:  # noqa: ANN401  # whatever the class takes
    return NoisyAutoencoder(sigma, image_shape=(1, 8, 8), latent_dim=4, **kwargs)


def layers(module: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, kinds)]


@pytest.fixture
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (2, 4, 12)])
@pytest.mark.parametrize("training", [False, True])
def test_output_is_an_image_of_the_same_shape_in_0_to_1(image_shape: tuple[int, ...], training: bool) -> None:
    model = NoisyAutoencoder(0.25, image_shape=image_shape, latent_dim=4).train(training)
    x = torch.randn(3, *image_shape, generator=torch.Generator().manual_seed(0)) * 5
    output = model(x).detach()
    assert output.shape == x.shape
    assert output.min() >= 0.0
    assert output.max() <= 1.0


@pytest.mark.parametrize("image_shape", [(1, 27, 28), (1, 28, 30), (28, 28), (1, 1, 28, 28), (0, 28, 28), (1, 0, 28)])
def test_impossible_image_shape_is_refused_with_its_value(image_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image_shape must be \(C, H, W\) .*divisible by 4, got") as refused:
        NoisyAutoencoder(0.25, image_shape=image_shape)
    assert str(tuple(image_shape)) in str(refused.value)


@pytest.mark.parametrize("name", ["sigma", "learning_rate"])
@pytest.mark.parametrize("value", [0.0, -0.25, math.nan, math.inf])
def test_noise_level_and_learning_rate_must_be_positive_and_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive finite number, got {value!r}"):
        NoisyAutoencoder(**{"sigma": 0.25, name: value})


def test_latent_dim_must_be_positive() -> None:
    with pytest.raises(ValueError, match="latent_dim must be at least 1, got 0"):
        NoisyAutoencoder(0.25, latent_dim=0)


def test_hyperparameters_are_plain_values() -> None:
    model = NoisyAutoencoder(
        0.5, image_shape=torch.Size((3, 8, 8)), latent_dim=4, learning_rate=0.01, noise_range=np.array([0, 1])
    )
    assert dict(model.hparams) == {
        "sigma": 0.5, "image_shape": [3, 8, 8], "latent_dim": 4, "learning_rate": 0.01, "noise_range": [0.0, 1.0],
        "consistency_weight": 0.0, "consistency_distance": "tv", "channels": [32, 64, 128],
    }  # fmt: skip
    assert [type(value) for value in dict(model.hparams).values()] == [float, list, int, float, list, float, str, list]
    assert all(type(size) is int for size in model.hparams["image_shape"])
    assert all(type(level) is float for level in model.hparams["noise_range"])


def test_encoder_is_that_of_the_paper() -> None:
    model = NoisyAutoencoder(0.25)
    convolutions = layers(model.network.encoder, nn.Conv2d)
    assert [layer.out_channels for layer in convolutions] == [32, 64, 128]
    assert [layer.stride for layer in convolutions] == [(1, 1), (2, 2), (2, 2)]
    (linear,) = layers(model.network.encoder, nn.Linear)
    assert linear.out_features == 256
    assert model.network.encoder(torch.zeros(2, 1, 28, 28)).shape == (2, 256)


def test_decoder_mirrors_the_encoder() -> None:
    decoder = NoisyAutoencoder(0.25).network.decoder
    convolutions = layers(decoder, nn.Conv2d, nn.ConvTranspose2d)
    assert [layer.in_channels for layer in convolutions] == [128, 64, 32]
    assert [layer.stride for layer in convolutions] == [(2, 2), (2, 2), (1, 1)]


def test_batch_norm_stands_between_all_layers_with_weights() -> None:
    network = NoisyAutoencoder(0.25).network
    weighted = layers(network, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    normalised = layers(network, nn.BatchNorm1d, nn.BatchNorm2d)
    assert [layer.num_features for layer in normalised] == [32, 64, 128, 256, 128, 64, 32]
    assert len(normalised) == len(weighted) - 1


class Spy(NoisyModule):
    def __init__(self, sigma: float, noise_range: Sequence[float] | None = None) -> None:
        super().__init__(sigma=sigma, noise_range=noise_range)
        self.seen: list[Tensor] = []
        self.logged: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return 0.5 * x

    def log(self, name: str, value: Tensor, **_: Any) -> None:  # noqa: ANN401  # Lightning's options
        self.logged[name] = value


def test_training_step_adds_noise_of_level_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "randn_like", lambda x: noise)
    module = Spy(sigma=0.5)
    loss = module.training_step({"image": image, "index": torch.arange(6)}, 0)
    torch.testing.assert_close(module.seen, [image + 0.5 * noise])
    torch.testing.assert_close(loss, functional.mse_loss(0.5 * (image + 0.5 * noise), image))
    assert module.logged == {"train/loss": loss}


def test_noise_is_added_to_the_point_and_the_target_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    module = Spy(sigma=0.5)
    monkeypatch.setattr(module, "point", lambda image: 10 * image)
    image = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = module.training_step({"image": image, "index": torch.arange(6)}, 0)
    torch.testing.assert_close(module.seen, [10 * image + 0.5])
    torch.testing.assert_close(loss, functional.mse_loss(0.5 * (10 * image + 0.5), image))


def training_noise(module: Spy, *shape: int) -> Tensor:
    module.training_step({"image": torch.zeros(shape), "index": torch.arange(shape[0])}, 0)
    return module.seen.pop()


@pytest.mark.usefixtures("seeded")
def test_fixed_noise_takes_one_draw_per_pixel_from_the_global_generator() -> None:
    noise = training_noise(Spy(sigma=0.25), 5, 1, 8, 8)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(noise, 0.25 * torch.randn(5, 1, 8, 8))
    assert torch.equal(after, torch.rand(1))


@pytest.mark.usefixtures("seeded")
def test_each_image_has_a_noise_level_of_its_own_uniform_in_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    noise = training_noise(Spy(sigma=0.25, noise_range=[0.1, 0.5]), 2000, 1, 2, 3)
    levels = noise[:, 0, 0, 0]
    assert torch.equal(noise, levels.reshape(-1, 1, 1, 1).expand_as(noise))
    assert levels.unique().numel() > 1990
    assert levels.min() >= 0.1
    assert levels.max() <= 0.5
    assert stats.kstest((levels.double() - 0.1) / 0.4, "uniform").pvalue > 1e-3


@pytest.mark.usefixtures("seeded")
def test_noise_of_each_image_is_gaussian_at_its_level() -> None:
    noise = training_noise(Spy(sigma=0.25, noise_range=[0.1, 0.5]), 40, 1, 64, 64).flatten(1).double()
    levels = noise.std(1)
    assert 0.09 < levels.min() < 0.2
    assert 0.4 < levels.max() < 0.55
    pvalues = [stats.kstest(row / level, "norm").pvalue for row, level in zip(noise, levels, strict=True)]
    assert min(pvalues) > 1e-4


@pytest.mark.usefixtures("seeded")
def test_levels_are_drawn_anew_for_every_batch() -> None:
    module = Spy(sigma=0.25, noise_range=[0.1, 0.5])
    first, second = (training_noise(module, 40, 1, 64, 64).flatten(1).std(1) for _ in range(2))
    assert (first - second).abs().mean() > 0.05


@pytest.mark.usefixtures("seeded")
def test_range_of_one_level_is_that_of_a_fixed_sigma() -> None:
    fixed = training_noise(Spy(sigma=0.3), 50, 1, 16, 16)
    torch.manual_seed(0)
    ranged = training_noise(Spy(sigma=0.3, noise_range=[0.3, 0.3]), 50, 1, 16, 16)
    torch.testing.assert_close(fixed, ranged)


@pytest.mark.parametrize(
    "noise_range",
    [
        [0.5, 0.1], [-0.1, 0.5], [0.0, 0.0], [0.1], [], [0.1, 0.25, 0.5], [0.1, math.nan], [0.1, math.inf],
        ["low", "high"], 0.25, [None, 0.5],
    ],
)  # fmt: skip
def test_noise_range_that_is_none_is_refused_with_its_value(noise_range: Any) -> None:  # noqa: ANN401  # not its type
    with pytest.raises(
        ValueError, match=r"noise_range must be two finite numbers .* such as \[0.1, 0.5\], got"
    ) as refused:
        tiny(noise_range=noise_range)
    assert str(refused.value).endswith(f"got {noise_range!r}")


@pytest.mark.parametrize("sigma", [0.05, 0.0999, 0.51, 2.0])
def test_sigma_outside_the_noise_range_is_refused(sigma: float) -> None:
    with pytest.raises(
        ValueError, match=rf"noise_range must include sigma={sigma}, got \[0.1, 0.5\]; take a sigma in it"
    ):
        tiny(sigma=sigma, noise_range=[0.1, 0.5])


@pytest.mark.parametrize("noise_range", [[0.25, 0.5], (0.1, 0.25), [0.25, 0.25], [0, 1]])
def test_sigma_may_stand_at_the_ends_of_the_noise_range(noise_range: Sequence[float]) -> None:
    assert tiny(sigma=0.25, noise_range=noise_range).noise_range == list(noise_range)


def test_validation_loss_is_the_clean_mse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda x: pytest.fail("validation draws noise"))
    image = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    module = Spy(sigma=0.5)
    state = torch.get_rng_state()
    module.validation_step({"image": image, "index": torch.arange(6)}, 0)
    torch.testing.assert_close(module.seen, [image])
    torch.testing.assert_close(module.logged["val/loss"], functional.mse_loss(0.5 * image, image))
    assert torch.equal(state, torch.get_rng_state())


def test_prediction_adds_no_noise() -> None:
    model = tiny().eval()
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), model(x))


def test_optimiser_is_adam_with_the_learning_rate() -> None:
    optimiser = tiny(learning_rate=0.02).configure_optimizers()
    assert isinstance(optimiser, torch.optim.Adam)
    assert optimiser.param_groups[0]["lr"] == 0.02


@pytest.mark.usefixtures("seeded")
def test_training_reduces_the_loss() -> None:
    model, data = tiny(sigma=0.1, learning_rate=0.01), Squares()
    data.setup()
    images = data.train_set.images.float() / 255

    def loss() -> float:
        with torch.no_grad():
            return functional.mse_loss(model.eval()(images), images).item()

    before = loss()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=12,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(model.train(), data)
    assert loss() < 0.5 * before


@pytest.mark.usefixtures("seeded")
def test_validation_through_the_trainer_logs_the_mean_over_all_images() -> None:
    model, data = tiny(), Squares()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (logged,) = trainer.validate(model, data, verbose=False)
    images = data.test_set.images.float() / 255
    with torch.no_grad():
        expected = functional.mse_loss(model.eval()(images), images).item()
    assert logged == {"val/loss": pytest.approx(expected, rel=1e-5)}
