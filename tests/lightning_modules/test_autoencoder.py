import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules import NoisyAutoencoder, NoisyModule
from tests.lightning_modules.parts import Bars, bars, images, silent_trainer


def tiny(sigma: float = 0.25, **given: Any) -> NoisyAutoencoder:  # noqa: ANN401  # whatever the class takes
    return NoisyAutoencoder(sigma, image_shape=(1, 8, 8), latent_dim=4, **given)


@pytest.mark.parametrize("image_shape", [(3, 32, 32), (2, 4, 12)])
@pytest.mark.parametrize("training", [False, True])
def test_output_is_an_image_of_the_same_shape_in_0_to_1(image_shape: tuple[int, ...], training: bool) -> None:
    model = NoisyAutoencoder(0.25, image_shape=image_shape, latent_dim=4).train(training)
    x = torch.randn(3, *image_shape) * 5
    output = model(x).detach()
    assert output.shape == x.shape
    assert output.min() >= 0.0
    assert output.max() <= 1.0
    assert torch.equal(model(x), output)  # no noise


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


def test_latent_dim_must_be_positive_and_channels_three() -> None:
    with pytest.raises(ValueError, match="latent_dim must be at least 1, got 0"):
        NoisyAutoencoder(0.25, latent_dim=0)
    for channels in ([8, 8], [8, 0, 8]):
        with pytest.raises(ValueError, match="channels must be three positive numbers, got"):
            tiny(channels=channels)


def test_hyperparameters_are_plain_values() -> None:
    model = NoisyAutoencoder(
        0.5, image_shape=torch.Size((3, 8, 8)), latent_dim=4, learning_rate=0.01, noise_range=np.array([0, 1])
    )
    assert dict(model.hparams) == {
        "sigma": 0.5, "image_shape": [3, 8, 8], "latent_dim": 4, "learning_rate": 0.01, "noise_range": [0.0, 1.0],
        "consistency_weight": 0.0, "consistency_distance": "tv", "channels": [32, 64, 128],
    }  # fmt: skip
    assert [type(value) for value in dict(model.hparams).values()] == [float, list, int, float, list, float, str, list]
    assert {type(number) for name in ("image_shape", "channels") for number in model.hparams[name]} == {int}
    assert {type(level) for level in model.hparams["noise_range"]} == {float}
    assert dict(NoisyAutoencoder(np.float64(0.5), np.array([1, 8, 8]), np.int64(4)).hparams)["image_shape"] == [1, 8, 8]


def test_the_network_is_that_of_the_paper_with_batch_norm_between_all_layers() -> None:
    network = NoisyAutoencoder(0.25).network
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
    layers: list[Any] = [layer for layer in network.modules() if isinstance(layer, kinds)]
    normalised, weighted = layers[1::2], layers[::2]
    assert [layer.num_features for layer in normalised] == [32, 64, 128, 256, 128, 64, 32]
    convolutions = [layer for layer in weighted if not isinstance(layer, nn.Linear)]
    assert [layer.in_channels for layer in convolutions] == [1, 32, 64, 128, 64, 32]
    assert [layer.out_channels for layer in convolutions] == [32, 64, 128, 64, 32, 1]
    assert [layer.stride[0] for layer in convolutions] == [1, 2, 2, 2, 2, 1]
    assert network.encoder(torch.zeros(2, 1, 28, 28)).shape == (2, 256)


class Spy(NoisyModule):
    def __init__(self, sigma: float, noise_range: Sequence[float] | None = None) -> None:
        super().__init__(sigma=sigma, noise_range=noise_range)
        self.seen: list[Tensor] = []
        self.logged: dict[str, Tensor] = {}

    def point(self, image: Tensor) -> Tensor:
        return 10 * image

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return 0.5 * x

    def log(self, name: str, value: Tensor, **_: Any) -> None:  # noqa: ANN401  # Lightning's options
        self.logged[name] = value


def test_noise_of_level_sigma_is_added_to_the_point_and_the_target_is_the_image() -> None:
    image, module = images(6, 1, 8, 8), Spy(sigma=0.5)
    loss = module.training_step({"image": image, "index": torch.arange(6)}, 0)
    torch.manual_seed(0)
    x = 10 * image + 0.5 * torch.randn(6, 1, 8, 8)
    assert torch.equal(module.seen[0], x)
    torch.testing.assert_close(loss, functional.mse_loss(0.5 * x, image))
    assert module.logged == {"train/loss": loss}


def test_each_image_has_a_noise_level_of_its_own_uniform_in_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    module = Spy(sigma=0.25, noise_range=[0.1, 0.5])
    for _ in range(2):
        module.training_step({"image": torch.zeros(2000, 1, 2, 3), "index": torch.arange(2000)}, 0)
    noise, again = module.seen
    levels = noise[:, 0, 0, 0]
    assert torch.equal(noise, levels.reshape(-1, 1, 1, 1).expand_as(noise))
    assert levels.min() >= 0.1
    assert levels.max() <= 0.5
    assert stats.kstest((levels.double() - 0.1) / 0.4, "uniform").pvalue > 1e-3
    assert (noise - again).abs().mean() > 0.05  # drawn anew for every batch


@pytest.mark.parametrize(
    "noise_range",
    [
        [0.5, 0.1], [-0.1, 0.5], [0.0, 0.0], [0.1], [], [0.1, 0.25, 0.5], [0.1, math.nan], [0.1, math.inf],
        ["low", "high"], 0.25, [None, 0.5],
    ],
)  # fmt: skip
def test_noise_range_that_is_none_is_refused_with_its_value(noise_range: Any) -> None:  # noqa: ANN401  # not its type
    said = r"noise_range must be two finite numbers .* such as \[0.1, 0.5\], got"
    with pytest.raises(ValueError, match=said) as refused:
        tiny(noise_range=noise_range)
    assert str(refused.value).endswith(f"got {noise_range!r}")


@pytest.mark.parametrize("sigma", [0.0999, 0.51])
def test_sigma_outside_the_noise_range_is_refused(sigma: float) -> None:
    said = rf"noise_range must include sigma={sigma}, got \[0.1, 0.5\]; take a sigma in it"
    with pytest.raises(ValueError, match=said):
        tiny(sigma=sigma, noise_range=[0.1, 0.5])


@pytest.mark.parametrize("noise_range", [[0.25, 0.5], (0.1, 0.25), [0.25, 0.25], [0, 1]])
def test_sigma_may_stand_at_the_ends_of_the_noise_range(noise_range: Sequence[float]) -> None:
    assert tiny(sigma=0.25, noise_range=noise_range).noise_range == list(noise_range)


def test_validation_loss_is_the_clean_mse() -> None:
    image, module, state = images(6, 1, 8, 8), Spy(sigma=0.5), torch.get_rng_state()
    module.validation_step({"image": image, "index": torch.arange(6)}, 0)
    torch.testing.assert_close(module.seen, [10 * image])
    torch.testing.assert_close(module.logged["val/loss"], functional.mse_loss(5 * image, image))
    assert torch.equal(state, torch.get_rng_state())


def test_validation_through_the_trainer_logs_the_mean_over_all_images() -> None:
    model = tiny()
    (logged,) = silent_trainer().validate(model, Bars(batch_size=3), verbose=False)
    clean = bars(train=False)
    with torch.no_grad():
        expected = functional.mse_loss(model.eval()(clean), clean).item()
    assert logged == {"val/loss": pytest.approx(expected, rel=1e-5)}


def test_optimiser_is_adam_with_the_learning_rate() -> None:
    optimiser = tiny(learning_rate=0.02).configure_optimizers()
    assert isinstance(optimiser, torch.optim.Adam)
    assert optimiser.param_groups[0]["lr"] == 0.02
