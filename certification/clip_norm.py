"""A norm to clip the outputs of means to, from training images alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from center_smoothing import Distance
from center_smoothing.means.smoother import distances_from_zero
from center_smoothing.noise import Stage
from center_smoothing.sampling import BaseFunction, NoisyOutputs
from certification.request import Arguments
from certification.trainer import make_trainer
from command_line.errors import value_errors
from datamodules import ImageDataModule
from lightning_modules import BaseModel, point_of
from results.folder import CertificationFolder

# So many training images, drawn with a fixed seed, each with noise. More copies of each changed the norm by 0.6% on the
# digits, other images by 5%.
_IMAGES = 512
# The share of the outputs that are not clipped. The largest of all is 14 to 22% more, and for other data anything.
_QUANTILE = 0.99
# The norm is rounded up to so many digits, so that it does not depend on how a machine rounds.
_DIGITS = 3


def recorded_clip_norm(folder: CertificationFolder) -> float | None:
    """Return the norm that a certification in a folder has; None where there is none."""
    norm = (folder.read_summary() or {}).get("config", {}).get("clip_norm")
    return norm if isinstance(norm, float) else None  # a file may hold anything


def clip_norm_of_training(
    options: Arguments,
    data: ImageDataModule,
    model: BaseModel,
    function: BaseFunction,
    distance: Distance,
    *,
    sigma: float,
) -> float:
    """Return :func:`clip_norm_at` for training images, always the same ones; nothing that is certified is looked at.

    The model is moved to the device; function evaluates it. sigma is the noise level, in units of x.

    Raises:
        ValueError: for data without training images, a distance that takes no output of zeros, and a model that does
            not take the images or is constant or infinite on them.
    """
    trainer = make_trainer(options.computing)
    precision = trainer.precision_plugin
    precision.convert_module(model.to(trainer.strategy.root_device))
    points = (point_of(model, precision.convert_input(image)) for image in training_images(data))
    with value_errors("--clip-norm must be a number: auto does not work with this model and its training images"):
        with precision.predict_step_context():
            settings = {name: value for name, value in options.noise_settings.items() if name != "threat"}
            return clip_norm_at(points, function, distance, sigma=sigma, **settings)


def clip_norm_at(
    points: Iterable[Tensor],
    function: BaseFunction,
    distance: Distance,
    *,
    sigma: float,
    **noise: Any,  # noqa: ANN401  # as NoisyOutputs takes it
) -> float:
    """Return a high quantile of d(0, f(x + noise)) over points (*in), one noisy copy each, rounded up.

    Raises:
        ValueError: for a distance that takes no output of zeros, and a function that is constant or infinite there.
    """
    outputs = NoisyOutputs(distance.encoded(function), sigma=sigma, batch_size=1, **noise)
    norms = [
        distances_from_zero(distance.only_outputs(batch), distance).cpu()
        for number, x in enumerate(points)
        for batch in outputs.draw(x, example=number, stage=Stage.CALIBRATION, count=1)
    ]
    found = torch.cat(norms)
    found = found[torch.isfinite(found)].double()
    norm = float(torch.quantile(found, _QUANTILE, interpolation="higher")) if len(found) else math.inf
    if not 0.0 < norm < math.inf:
        raise ValueError(
            f"--clip-norm must be a number: by {distance!r} the outputs at noisy training images are at no positive "
            f"finite distance from zero, of which auto takes a quantile, got {norm}"
        )
    step = 10.0 ** (math.floor(math.log10(norm)) - _DIGITS + 1)
    return float(f"{math.ceil(norm / step) * step:.{_DIGITS}g}")


def training_images(data: ImageDataModule) -> list[Tensor]:
    """Return some of the training images (C, H, W), drawn with a fixed seed."""
    if not hasattr(data, "train_set"):
        data.setup("fit")
    if not hasattr(data, "train_set"):
        raise ValueError(
            f"--clip-norm must be a number with --data {type(data).__name__}, which has no training images for auto"
        )
    order = torch.randperm(len(data.train_set), generator=torch.Generator().manual_seed(0))[:_IMAGES]
    return [data.train_set[int(position)]["image"] for position in order]
