import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from center_smoothing import (
    Angular,
    CenterSmoother,
    Cosine,
    Distance,
    FeatureDistance,
    Lp,
    MaskJaccard,
    MeanBudget,
    MeanSmoother,
    Perceptual,
    SmoothingBudget,
    SquaredL2,
    TotalVariation,
    check_distance,
)
from center_smoothing.distances.features import normalised


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 4, 3),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )


def slow_perceptual(net: nn.Sequential, layers: list[int], a: Tensor, b: Tensor) -> float:
    """Of two images (C, H, W), by loops over layers and positions."""
    net = copy.deepcopy(net).eval()
    total = 0.0
    for layer in layers:
        with torch.no_grad():
            x, y = net[: layer + 1](a[None].clone())[0].double(), net[: layer + 1](b[None].clone())[0].double()
        height, width = x.shape[1:]
        for i in range(height):
            for j in range(width):
                u, v = x[:, i, j], y[:, i, j]
                u, v = u / math.sqrt(1e-8 + float(u @ u)), v / math.sqrt(1e-8 + float(v @ v))
                total += float((u - v) @ (u - v)) / (height * width)
    return total


@pytest.mark.parametrize("layers", [[0, 5], [1], [5, 3, 2], [6]])
def test_perceptual_equals_loops_over_layers_and_positions(layers: list[int]) -> None:
    net, z = network(), noise(3, 3, 8, 8)
    expected = [[slow_perceptual(net, layers, a, b) for b in z] for a in z]
    distance = Perceptual(net, None if layers == [6] else [str(layer) for layer in layers])  # the module itself
    np.testing.assert_allclose(distance.pairwise(z, z), expected, rtol=1e-4, atol=1e-9)
    assert distance.relaxation == 2.0


@pytest.mark.parametrize("distance", [Lp(1), SquaredL2(), Cosine(), Angular(), TotalVariation()], ids=repr)
def test_a_map_in_front_is_a_map_in_front(distance: Distance) -> None:
    net, z = network().eval(), noise(5, 3, 8, 8)
    of_features = FeatureDistance(net, distance, batch_size=5)
    with torch.no_grad():
        features = net(z.clone())
    torch.testing.assert_close(of_features.pairwise(z, z), distance.pairwise(features, features), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(of_features(z, z.flip(0)), of_features.pairwise(z, z.flip(0)).diagonal())
    assert of_features.relaxation == distance.relaxation
    assert check_distance(of_features, noise(20, 3, 8, 8)).passed


@pytest.mark.usefixtures("threads")
def test_equal_outputs_are_at_distance_zero_in_whatever_batches_they_come() -> None:
    z, distance = noise(40, 3, 16, 16), Perceptual(network(), ["1", "5"])
    whole = distance.embed(z)
    for count in (1, 7, 33):
        parts = torch.cat([distance.embed(part) for part in z.split(count)])
        assert distance.paired(whole, parts).tolist() == [0.0] * 40


def test_the_users_module_is_left_alone_and_later_training_changes_nothing() -> None:
    net, z = network().train(), noise(4, 3, 8, 8)
    distance = Perceptual(net, ["1", "5"])
    before = distance.pairwise(z, z)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    assert torch.equal(distance.pairwise(z, z), before)
    assert not any(module._forward_hooks for module in distance.phi.modules())  # type: ignore[attr-defined]  # a module


def test_dropout_and_batch_statistics_play_no_part() -> None:
    net, z = network().train(), noise(4, 3, 8, 8)
    distance = FeatureDistance(net, Lp(2))
    assert torch.equal(distance.pairwise(z, z), distance.pairwise(z, z))
    assert torch.equal(distance.embed(torch.cat([z, 9 * z]))[:4], distance.embed(z))
    with pytest.raises(ValueError, match="batch norm without running statistics in '0'"):
        FeatureDistance(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), Lp(2))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def encode(self, z: Tensor) -> Tensor:
        return self.net(z)


def test_a_bound_method_is_called_of_a_copy_of_its_module() -> None:
    encoder, z = Encoder().train(), noise(4, 3, 8, 8)
    distance = FeatureDistance(encoder.encode, Lp(2))
    torch.testing.assert_close(distance.pairwise(z, z), FeatureDistance(encoder.net, Lp(2)).pairwise(z, z))
    assert encoder.training


def test_mixed_precision_does_not_reach_the_features() -> None:
    z = noise(4, 3, 8, 8)
    distance = Perceptual(network(), ["1", "5"])
    expected = distance.pairwise(z, z)
    assert not expected.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance.pairwise(z, z), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_outputs_of_any_type_are_seen_in_float32(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def phi(z: Tensor) -> Tensor:
        seen.append(z.dtype)
        return z.flatten(1)

    z = (255 * noise(3, 2, 2)).to(dtype)
    torch.testing.assert_close(FeatureDistance(phi, Lp(2)).pairwise(z, z), Lp(2).pairwise(z, z), rtol=1e-6, atol=1e-6)
    assert set(seen) == {torch.float32}
    assert Perceptual(network(), dtype=torch.float64).embed(noise(2, 3, 8, 8)).dtype == torch.float64


def test_features_that_are_not_finite_are_outside_of_every_ball() -> None:
    distance = FeatureDistance(lambda z: z.log(), Lp(2))
    z = torch.tensor([[1.0, 2.0], [1.0, 0.0], [-1.0, 1.0], [3.0, 1.0], [math.nan, 1.0]])
    finite = torch.isfinite(distance.pairwise(z, z))
    assert finite.any(dim=1).tolist() == [True, False, False, True, False]
    assert finite.sum() == 4


def test_phi_never_sees_what_is_not_finite() -> None:
    def phi(z: Tensor) -> Tensor:
        assert bool(torch.isfinite(z).all())
        z.mul_(2.0)
        return z

    z = torch.tensor([[1.0, 2.0], [math.nan, 1.0], [1e300, -math.inf]], dtype=torch.float64)
    copied = z.clone()
    assert FeatureDistance(phi, Lp(1), dtype=torch.float64)(z, z).tolist() == [0.0, math.inf, math.inf]
    torch.testing.assert_close(z, copied, equal_nan=True)


def test_averages_are_those_of_outputs() -> None:
    z = noise(6, 3, 8, 8)
    of_masks = FeatureDistance(network(), MaskJaccard())
    assert of_masks.averages
    assert torch.equal(of_masks.averages_of(z), Lp().averages_of(z))
    assert not FeatureDistance(network(), Lp(), averages=False).averages
    assert not Perceptual(network(), averages=False).averages


def test_only_an_affine_map_leaves_a_distance_convex() -> None:
    def bent(z: Tensor) -> Tensor:
        return z.abs()

    assert not FeatureDistance(bent, Lp(1)).convex
    assert FeatureDistance(nn.Linear(2, 3), Lp(1), affine=True).convex
    assert FeatureDistance(nn.Linear(2, 3), SquaredL2(), affine=True).degree == 2.0
    assert not FeatureDistance(nn.Linear(2, 3), Angular(), affine=True).convex
    assert not Perceptual(nn.Linear(2, 3)).convex
    # the mean of 1 and -1 has another feature than both
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    assert FeatureDistance(bent, Lp(1))(one, -one).item() == 0.0
    assert FeatureDistance(bent, Lp(1))(one, zero).item() == 1.0


def test_means_are_certified_by_features_of_an_affine_map_alone() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        phi = nn.Linear(2, 3)
    budget, x = MeanBudget(n=500, m=1000), torch.tensor([0.3, -0.2])
    distance = FeatureDistance(phi, SquaredL2(), affine=True)
    assert distance.embed(x[None]).dtype == distance.features(x[None]).dtype == torch.float64
    smoother = MeanSmoother(torch.tanh, distance, sigma=0.25, budget=budget, clip_norm=2.0, batch_size=64)
    assert 0.0 < smoother.certify(x).eps_out(0.25) < smoother.largest_bound
    with pytest.raises(ValueError, match="distance must be one that is convex in the output"):
        MeanSmoother(torch.tanh, FeatureDistance(phi, SquaredL2()), sigma=0.25, clip_norm=2.0)


def test_a_perceptual_certificate_has_the_factor_of_gamma_two() -> None:
    net = network()
    smoother = CenterSmoother(
        torch.sigmoid,
        Perceptual(net, ["1"]),
        sigma=0.1,
        budget=SmoothingBudget(n=100, m=200, k=16, delta=0.3),
        batch_size=64,
    )
    certificate = smoother.certify(noise(3, 8, 8))
    assert (certificate.abstained, certificate.factor) == (False, 10.0)
    assert 0.0 < certificate.eps_out(0.05) <= 10.0 * certificate.distances[-1] * (1 + 1e-8)


def test_a_name_tells_networks_apart_and_is_the_same_in_every_process() -> None:
    names = [repr(Perceptual(network(seed), ["1"])) for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("Perceptual(backbone=Sequential-")
    assert names[0].endswith(", layers=['1'])")
    of_half = FeatureDistance(network().half(), Lp(2))
    assert repr(of_half) == repr(FeatureDistance(network().half(), Lp(2)))
    assert "0x" not in repr(FeatureDistance(lambda z: z, Lp(2)))
    assert "phi=Encoder.encode-" in repr(FeatureDistance(Encoder().encode, Lp(2)))


def test_normalised_features_have_length_one_at_each_position() -> None:
    features = noise(2, 5, 3, 4) + 1.0
    assert normalised(features).square().sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0])
    a, b = normalised(features, weights)
    unit = torch.nn.functional.normalize(features, dim=1)
    expected = ((unit[0] - unit[1]).square() * weights[:, None, None]).sum(dim=0).mean()
    assert float((a - b).square().sum()) == pytest.approx(float(expected), rel=1e-5)
    assert bool(torch.isfinite(normalised(torch.zeros(1, 3, 2, 2))).all())


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.ReLU()
            self.idle = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    z = noise(3, 4)
    torch.testing.assert_close(Perceptual(Twice(), ["layer"]).pairwise(z, z), 2 * Perceptual(Twice()).pairwise(z, z))
    with pytest.raises(ValueError, match="layers must be called by the backbone, got 'idle'"):
        Perceptual(Twice(), ["idle"]).embed(z)


def test_bad_arguments() -> None:
    net = network()
    with pytest.raises(ValueError, match="phi must be a callable"):
        FeatureDistance(3, Lp())  # type: ignore[arg-type]  # it is wrong
    with pytest.raises(ValueError, match="distance must be a Distance such as"):
        FeatureDistance(net, 3)  # type: ignore[arg-type]  # it is wrong
    for size in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got"):
            FeatureDistance(net, Lp(), batch_size=size)  # type: ignore[arg-type]  # it is wrong
    with pytest.raises(ValueError, match=r"dtype must be a floating-point type, got torch\.int64"):
        FeatureDistance(net, Lp(), dtype=torch.int64)
    for wrong, message in (
        (lambda z: z.sum(dim=0), r"phi must return one output per input, shape \(32, \*out\), got \(2,\)"),
        (lambda z: [z], "phi must return a tensor, got list"),
        (lambda z: torch.complex(z, z), "phi must return numbers that float64 holds, got complex ones"),
    ):
        with pytest.raises(ValueError, match=message):
            FeatureDistance(wrong, Lp()).embed(torch.zeros(4, 2))
    columns = [FeatureDistance(phi, Lp()) for phi in (lambda z: z.sum(dim=1), lambda z: z.numpy().sum(axis=1))]
    assert [distance(torch.ones(1, 2), torch.zeros(1, 2)).tolist() for distance in columns] == [[2.0], [2.0]]
    with pytest.raises(ValueError, match=r"backbone must be a torch.nn.Module, got function"):
        Perceptual(lambda z: z)  # type: ignore[arg-type]  # it is wrong
    with pytest.raises(ValueError, match=r"layers must be names of submodules such as .*, got 'relu'"):
        Perceptual(net, ["1", "relu"])
    for layers in ([], "1", ["1", "1"]):
        with pytest.raises(ValueError, match="layers must be a list of different names of submodules, got"):
            Perceptual(net, layers)
    with pytest.raises(ValueError, match=r"layers must have outputs \(32, channels, \.\.\.\), got \(32,\) of"):
        Perceptual(nn.Flatten(0), [""]).embed(torch.zeros(4, 1))


OF_FEATURES = [
    Perceptual(network(), ["1", "5"], dtype=torch.float64),
    FeatureDistance(network(), Angular(), dtype=torch.float64),
]


@pytest.mark.parametrize("distance", OF_FEATURES, ids=repr)
def test_gradients_pass_through_the_features(distance: FeatureDistance) -> None:
    z, center = noise(4, 3, 8, 8).double(), noise(1, 3, 8, 8).double() + 0.5
    z, embedded = z.requires_grad_(), distance.embed(center)
    values = distance.compare(distance.embed(z), embedded)[:, 0]
    (slope,) = torch.autograd.grad(values.sum(), z)
    with torch.no_grad():
        step = 1e-6 * slope / slope.flatten(1).norm(dim=1)[:, None, None, None]
        risen = distance.compare(distance.embed(z + step), embedded)[:, 0]
    expected = (slope * step).flatten(1).sum(dim=1).double()
    torch.testing.assert_close(risen - values, expected, rtol=1e-2, atol=1e-12)
    assert bool((expected > 0.0).all())
