from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_modules import FaceDetector, NoisyAutoencoder, NoisyReconstructor, fold_batch_norm

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def trained(module: nn.Module) -> nn.Module:
    """In eval mode, with statistics and affine maps of batch norm as training might leave them."""
    for norm in module.modules():
        if isinstance(norm, NORMS):
            if norm.running_mean is not None:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.1, 3.0)
            if norm.weight is not None:
                norm.weight.normal_()
                norm.bias.normal_()
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, NORMS) for part in module.modules())


def same_function(module: nn.Module, x: Tensor) -> bool:
    a, b = fold_batch_norm(module.double())(x.double()), module.double()(x.double())
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-12 * b.abs().max())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"bias": False}, {"groups": 2}, {"stride": 2, "padding": 1}, {"dilation": 2}],
    ids=["plain", "no bias", "groups", "stride", "dilation"],
)
def test_convolutions_take_in_the_batch_norm_after_them(
    dimensions: int, transposed: bool, arguments: dict[str, Any]
) -> None:
    layer = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dimensions}d")(4, 6, 3, **arguments)
    module = trained(nn.Sequential(layer, getattr(nn, f"BatchNorm{dimensions}d")(6), nn.Tanh()))
    taken_in = not (transposed and "groups" in arguments)
    assert norms(fold_batch_norm(module)) == (0 if taken_in else 1)
    assert type(fold_batch_norm(module)[1]) is (nn.Identity if taken_in else type(module[1]))
    assert [type(part) for part in fold_batch_norm(module)][::2] == [type(layer), nn.Tanh]
    assert same_function(module, torch.randn(3, 4, *[8] * dimensions))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("affine", [True, False])
def test_padding_and_batch_norm_without_weights(padding_mode: str, affine: bool) -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode=padding_mode)
    module = trained(nn.Sequential(layer, nn.BatchNorm2d(3, affine=affine)))
    assert norms(fold_batch_norm(module)) == 0
    assert same_function(module, torch.randn(4, 2, 5, 5))


@pytest.mark.parametrize(
    ("before", "left"),
    [([nn.Flatten()], 0), ([], 1), ([nn.Flatten(2)], 1), ([nn.Flatten(), nn.Unflatten(1, (5, 5))], 1)],
)
def test_a_linear_layer_takes_it_in_only_where_its_input_is_flat(before: list[nn.Module], left: int) -> None:
    module = trained(nn.Sequential(*before, nn.Linear(5 if left else 25, 5), nn.BatchNorm1d(5)))
    assert norms(fold_batch_norm(module)) == left
    assert same_function(module, torch.randn(7, 5, 5))


class Twice(nn.Module):
    """Calls one sequence after the other, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 2, 1)))
        self.second = nn.ModuleDict({"block": nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(2, 2, 1), nn.BatchNorm2d(2))})

    def forward(self, x: Tensor) -> Tensor:
        return self.second["block"](self.first(self.first(x)))


SHARED = nn.Conv2d(2, 2, 1)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(Twice(), nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)))),
        nn.Sequential(SHARED, nn.BatchNorm2d(2), SHARED, nn.BatchNorm2d(2), SHARED),
    ],
    ids=["anywhere in a module", "one layer in two places"],
)
def test_all_sequences_are_folded(module: nn.Module) -> None:
    assert norms(fold_batch_norm(trained(module))) == 0
    assert same_function(module, torch.randn(5, 2, 3, 3))


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).abs()


class Backwards(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for part in reversed(self):
            x = part(x)
        return x


def with_hook(module: nn.Module, number: int) -> nn.Module:
    module[number].register_forward_hook(lambda *arguments: arguments[2].abs())
    return module


UNFOLDABLE: dict[str, Callable[[], nn.Module]] = {
    "training": lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).train(),
    "no statistics": lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
    "not adjacent": lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)),
    "batch norm first": lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)),
    "another class": lambda: nn.Sequential(Doubled(2, 2, 1), nn.BatchNorm2d(2)),
    "parametrised": lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 2, 1)), nn.BatchNorm2d(2)),
    "another order": lambda: Backwards(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)),
    "hook of the layer": lambda: with_hook(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), 0),
    "hook of the norm": lambda: with_hook(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), 1),
    "a list": lambda: nn.Sequential(nn.ModuleList([nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)])),
}


@pytest.mark.parametrize("kind", UNFOLDABLE)
def test_what_is_another_function_is_left_alone(kind: str) -> None:
    module = UNFOLDABLE[kind]()
    training = module.training
    trained(module).train(training)
    if kind == "training":
        module[0].eval()
    assert norms(fold_batch_norm(module)) == norms(module)
    assert [part.training for part in fold_batch_norm(module).modules()] == [part.training for part in module.modules()]
    if kind not in ("a list", "training"):
        assert same_function(module, torch.randn(5, 2, 3, 3))


def test_the_module_itself_stays_as_it_was() -> None:
    module = trained(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    copy = fold_batch_norm(module)
    for parameter in copy.parameters():
        parameter.zero_()
    assert norms(module) == 1
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def some_layers(kinds: list[str]) -> nn.Sequential:
    make: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: nn.Conv2d(3, 3, 3, padding=1),
        "transposed": lambda: nn.ConvTranspose2d(3, 3, 3, padding=1, bias=False),
        "norm": lambda: nn.BatchNorm2d(3),
        "relu": lambda: nn.ReLU(inplace=True),
        "nested": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        "nothing": nn.Identity,
    }
    return nn.Sequential(*(make[kind]() for kind in kinds))


@given(kinds=st.lists(st.sampled_from(["conv", "transposed", "norm", "norm", "relu", "nested", "nothing"]), max_size=8))
def test_any_sequence_stays_the_same_function(kinds: list[str]) -> None:
    module = trained(some_layers(["conv", *kinds]))
    pairs = sum(a in ("conv", "transposed") and b == "norm" for a, b in zip(["conv", *kinds], kinds, strict=False))
    assert norms(fold_batch_norm(module)) == norms(module) - pairs - kinds.count("nested")
    assert same_function(module, torch.randn(2, 3, 4, 4))


@pytest.mark.parametrize(
    "model", [NoisyAutoencoder(0.25, (1, 8, 8), 4), NoisyReconstructor(0.25, (3, 8, 8), 16, latent_dim=4)]
)
def test_base_models_stay_what_they_are(model: NoisyAutoencoder) -> None:
    model = trained(model)
    fast = fold_batch_norm(model)
    assert type(fast) is type(model)
    assert (fast.sigma, dict(fast.hparams)) == (model.sigma, dict(model.hparams))
    assert norms(model) - norms(fast) == 5
    images = torch.rand(9, *model.hparams["image_shape"])
    x = model.point(images)
    assert torch.equal(fast.point(images), x)
    for laid_out in (fast, fast.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(laid_out(x), model(x), rtol=1e-4, atol=1e-6)


def test_a_model_without_batch_norm_is_copied() -> None:
    detector = FaceDetector().eval()
    images = torch.rand(1, 3, 40, 40)
    assert torch.equal(fold_batch_norm(detector)(images), detector(images))
    assert {id(p) for p in fold_batch_norm(detector).parameters()}.isdisjoint({id(p) for p in detector.parameters()})
