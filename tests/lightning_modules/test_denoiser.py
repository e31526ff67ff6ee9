"""The denoiser that train.py trains."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules import CompiledModel, DenoisedModel, NoisyDenoiser, fold_batch_norm
from tests.lightning_modules.parts import bars, fitted


def tiny(**given: Any) -> NoisyDenoiser:  # noqa: ANN401  # whatever the class takes
    return NoisyDenoiser(**{"sigma": 0.25, "image_shape": (1, 8, 8), "channels": 4, "dilations": (1, 2, 1), **given})


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 5, 13)])
def test_images_of_any_size_keep_it(shape: tuple[int, ...]) -> None:
    model, x = tiny().eval(), torch.randn(3, *shape)
    folded = fold_batch_norm(model)
    assert model(x).shape == x.shape
    assert torch.allclose(model(x), torch.cat([model(row[None]) for row in x]), atol=1e-6)
    assert torch.allclose(folded(x), model(x), atol=1e-6)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())


def test_behind_it_a_model_is_compiled_as_one() -> None:
    model, x = DenoisedModel(tiny(dilations=(1, 1)), tiny(dilations=(1, 1))).eval(), torch.rand(20, 1, 8, 8)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # of other tests in this process
    with torch.no_grad():
        compiled = CompiledModel(model, backend="eager")
        for count in (20, 17, 3):
            assert torch.equal(compiled(x[:count]), model.model(model.denoiser(x[:count])))
    assert sum(torch._dynamo.utils.counters["graph_break"].values()) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"channels": 0}, "channels must be at least 1, got 1 of images and 0 inside"),
        ({"dilations": [1]}, r"dilations must be at least two positive numbers, got \[1\]"),
        ({"dilations": [1, 0]}, "dilations must be at least two positive numbers"),
    ],
)
def test_impossible_networks_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny(**given)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images must be \(N, 1, H, W\), got \(2, 3, 8, 8\)"):
        tiny()(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("noise_range", [None, (0.1, 0.5)])
def test_the_validation_loss_is_that_of_denoising_and_repeats_itself(noise_range: tuple[float, float] | None) -> None:
    model, logged = tiny(noise_range=noise_range).eval(), list[float]()
    model.log = lambda name, value, **_: logged.append(value.item())  # type: ignore[method-assign,assignment]
    nn.init.zeros_(model.network.noise[-1].weight)  # so that nothing is taken off
    nn.init.zeros_(model.network.noise[-1].bias)  # type: ignore[arg-type]
    images, state = torch.rand(500, 1, 8, 8), torch.random.get_rng_state()
    for _ in range(2):
        model.validation_step({"image": images, "index": torch.arange(500)}, 0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert logged[0] == logged[1]
    # the mean of sigma^2 over the levels
    assert logged[0] == pytest.approx(0.25**2 if noise_range is None else (0.5**3 - 0.1**3) / 3 / 0.4, rel=0.05)


def test_training_takes_noise_off() -> None:
    model = tiny(learning_rate=0.02)
    fitted(model, epochs=20)
    images = bars(train=False)
    noisy = images + 0.25 * torch.randn(images.shape)
    assert functional.mse_loss(model.eval()(noisy), images) < 0.5 * 0.25**2
