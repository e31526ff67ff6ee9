"""Perceptual distances with networks that others trained: torchvision's, and LPIPS as torchmetrics has it.

Both are imported where they are needed. Outputs are images (N, 1 or 3, H, W) with pixels in [0, 1]. With gamma = 2
certified radii are at most 10 R (docs/distances.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from center_smoothing.distances.features import FeatureDistance, Perceptual, normalised
from center_smoothing.distances.lp import SquaredL2

T = TypeVar("T")

# Of the pixels that torchvision's networks for ImageNet were trained on.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The activations before each pooling, as LPIPS takes them, and the stages of residual networks.
_LAYERS = {
    "alexnet": [f"features.{layer}" for layer in (1, 4, 7, 9, 11)],
    "squeezenet1_1": [f"features.{layer}" for layer in (1, 4, 7, 9, 10, 11, 12)],
    "vgg16": [f"features.{layer}" for layer in (3, 8, 15, 22, 29)],
    **{f"resnet{depth}": [f"layer{stage}" for stage in (1, 2, 3, 4)] for depth in (18, 34, 50, 101, 152)},
}
_BACKBONES = {"alex": "alexnet", "squeeze": "squeezenet1_1", "vgg": "vgg16"}
# Of what PyTorch says of images that a network pools away.
_TOO_SMALL = ("too small", "Kernel size can't be greater than actual input size")


def torchvision_perceptual(
    name: str = "vgg16",
    layers: Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = "DEFAULT",
    *,
    size: int | None = None,
) -> Perceptual:
    """Make the perceptual distance with a network of torchvision; gamma = 2.

    Args:
        name: of the network, as in ``torchvision.models``.
        layers: names of its submodules; default: the activations before each pooling, or the stages of a ResNet.
        weights: "DEFAULT" or another name of torchvision's weights, which are downloaded once; a file of a state dict;
            or None for random ones, drawn from the global generator.
        size: images are first resized to so many pixels in height and width; default: they are taken as they are.

    Raises:
        ValueError: for an unknown network, layer or weights, for layers of a network without default, and if weights
            cannot be downloaded.
    """
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ValueError(f"name must be a network of torchvision.models such as {', '.join(_LAYERS)}, got {name!r}")
    layers = _LAYERS.get(name) if layers is None else list(layers)
    if layers is None:
        raise ValueError(f"layers must be given for {name}: names of submodules; only {', '.join(_LAYERS)} have some")
    network = _network(name, weights)
    if hasattr(network, "features") and all(layer.startswith("features.") for layer in layers):
        network = _Features(network.get_submodule("features"))  # nothing beyond is needed
    return Perceptual(_Images(network, mean=_MEAN, std=_STD, size=size), [f"network.{layer}" for layer in layers])


def lpips(net_type: Literal["alex", "squeeze", "vgg"] = "alex", *, size: int | None = None) -> FeatureDistance:
    """Make LPIPS, the number of ``torchmetrics.image.LearnedPerceptualImagePatchSimilarity(net_type, normalize=True)``.

    It is the squared l2 distance of normalised features, each channel times the root of its learned weight: gamma = 2.

    Args:
        net_type: "alex", "squeeze" or "vgg".
        size: images are first resized to so many pixels in height and width; "alex" needs 63 or more.

    Raises:
        ValueError: for another network, and if its weights cannot be downloaded.
    """
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
    from torchvision import models

    if net_type not in _BACKBONES:
        raise ValueError(f"net_type must be one of {', '.join(_BACKBONES)}, got {net_type!r}")
    url = models.get_model_weights(_BACKBONES[net_type]).DEFAULT.url
    metric = _downloaded(lambda: LearnedPerceptualImagePatchSimilarity(net_type=net_type), f"LPIPS ({net_type})", url)
    return lpips_of(metric.net, size=size)


def lpips_of(network: nn.Module, *, size: int | None = None) -> FeatureDistance:
    """Make LPIPS with a network that is at hand: the ``net`` of ``LearnedPerceptualImagePatchSimilarity``.

    It has a ``scaling_layer``, ``net`` and ``lins``; ``size`` is that of :func:`lpips`. ValueError for learned weights
    below 0, with which it is no distance.
    """
    return FeatureDistance(_LpipsFeatures(network, size), SquaredL2())


class _Features(nn.Module):
    """The convolutional part of a network, under its name there."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401  # whatever they return
        return self.features(x)


class _Images(nn.Module):
    """A network that takes images (N, 1 or 3, H, W) with pixels in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, *, mean: Sequence[float], std: Sequence[float], size: int | None = None
    ) -> None:
        super().__init__()
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(f"size must be a whole number of pixels of at least 1, got {size!r}")
        self.network = network
        self.size = size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def extra_repr(self) -> str:
        return f"size={self.size}"

    def forward(self, images: Tensor) -> Any:  # noqa: ANN401  # whatever the network returns
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"outputs must be grey or RGB images (N, 1 or 3, H, W), got shape {tuple(images.shape)}")
        images = images.expand(-1, 3, -1, -1)
        if self.size is not None:
            images = nn.functional.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        try:
            return self.network((images - self.mean) / self.std)
        except RuntimeError as error:
            if not any(words in str(error) for words in _TOO_SMALL):
                raise
            raise ValueError(
                f"size must be given, such as size=64, or be larger: images of {images.shape[2]} x {images.shape[3]} "
                "pixels are too small for this network"
            ) from error


class _LpipsFeatures(nn.Module):
    """All features of LPIPS, normalised and weighted, in one vector: (N, 1 or 3, H, W) -> (N, features)."""

    def __init__(self, network: nn.Module, size: int | None) -> None:
        super().__init__()
        # pixels in [-1, 1], which the scaling layer takes
        scaled = nn.Sequential(network.get_submodule("scaling_layer"), network.get_submodule("net"))
        self.layers = _Images(scaled, mean=[0.5] * 3, std=[0.5] * 3, size=size)
        for place, linear in enumerate(network.get_submodule("lins").children()):
            weight = [*linear.get_submodule("model").children()][-1].get_parameter("weight").detach().flatten().clone()
            if not bool((weight >= 0.0).all()):
                raise ValueError(f"network must have learned weights of at least 0, got {float(weight.min()):.3g}")
            self.register_buffer(f"weight{place}", weight)

    def forward(self, images: Tensor) -> Tensor:
        layers = self.layers(images)
        return torch.cat([normalised(x, self.get_buffer(f"weight{i}")) for i, x in enumerate(layers)], dim=1)


def _network(name: str, weights: str | os.PathLike[str] | None) -> nn.Module:
    from torchvision import models

    if weights is None or Path(weights).is_file():
        network: nn.Module = models.get_model(name, weights=None)
        try:
            if weights is not None:
                network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load and load_state_dict raise many kinds for a wrong file
            raise ValueError(f"weights must be a file of a state dict of {name}, got {weights}: {error}") from error
        return network
    known = models.get_model_weights(name)
    if weights not in known.__members__:
        names = ", ".join(known.__members__)
        raise ValueError(f"weights must be None, a file, or one of {names} for {name}, got {os.fspath(weights)!r}")
    chosen = known[str(weights)]
    network = _downloaded(lambda: models.get_model(name, weights=chosen), f"{name} ({weights})", chosen.url)
    return network


def _downloaded(make: Callable[[], T], what: str, url: str) -> T:
    """Call a function that may download weights; ValueError if they cannot be had."""
    try:
        return make()
    except (OSError, RuntimeError) as error:  # no network; a file that was cut off
        raise ValueError(
            f"weights of {what} are neither in {torch.hub.get_dir()}/checkpoints nor could they be downloaded from "
            f"{url} ({error}); without a download work Perceptual(backbone, layers) with a network of your own, and "
            "torchvision_perceptual(name, weights=FILE) with a state dict from elsewhere"
        ) from error
