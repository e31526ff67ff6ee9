"""How fast a model makes noisy outputs here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from center_smoothing import Distance
from center_smoothing.noise import Stage
from center_smoothing.sampling import BaseFunction, NoisyOutputs
from certification.request import Arguments, Request
from certification.trainer import make_trainer
from command_line.errors import value_errors
from lightning_modules import BaseModel, point_of

# How long the speed is measured after the batch size is found.
_SECONDS = 1.0
# With so many others an output is compared, on average: when it is ranked with up to 114 candidates, in the
# certification sample, which is larger, with 24 probes and the center.
_COMPARISONS = 56
# More outputs than are drawn in that time.
_MANY = 1 << 30


@dataclass(frozen=True)
class Speed:
    """How fast a model makes noisy outputs.

    Attributes:
        samples_per_second: of one process: noise, evaluations and distances together.
        batch_size: at which that is so.
        processes: that share the examples.
        images: on which it was measured.
    """

    samples_per_second: float
    batch_size: int
    processes: int
    images: str

    def __str__(self) -> str:
        return f"{self.samples_per_second:,.0f} samples/s in batches of {self.batch_size}"


def example_image(options: Arguments, model: BaseModel) -> Tensor | None:
    """Return a random image (C, H, W), or the first of the data where the model does not say which images it takes."""
    shape = model.example_shape()
    if shape is not None:
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if options.data is None:
        return None
    options.data.prepare_data()
    options.data.setup("test")
    image: Tensor = options.data.test_set[0]["image"]
    return image


def measure(request: Request, model: BaseModel, function: BaseFunction | None) -> Speed | None:
    """Measure on noisy copies of an image, in about two seconds or a few batches; None without one.

    Args:
        request: whose noise, distance and batch size are taken.
        model: moved to the device.
        function: what evaluates the model; default: itself.

    Raises:
        ValueError: if the model or the distance cannot do with the image, or this machine is not as the arguments say.
    """
    options, image = request.options, example_image(request.options, model)
    if image is None:
        return None
    trainer, size = make_trainer(options.computing), "x".join(map(str, image.shape))
    given: dict[str, Any] = {"sigma": max(request.levels), "batch_size": options.batch_size, **options.noise_settings}
    outputs = NoisyOutputs(model if function is None else function, **given)
    model.to(trainer.strategy.root_device)
    with value_errors(f"--data must hold examples that the model takes, got {tuple(image.shape)}"):
        with trainer.precision_plugin.forward_context():
            rate = samples_per_second(outputs, point_of(model, image), request.distance, seconds=_SECONDS)
    images = f"the first test image, {size}" if model.example_shape() is None else f"random images {size}"
    return Speed(rate, int(outputs.batch_size), trainer.world_size, images)


def samples_per_second(outputs: NoisyOutputs, x: Tensor, distance: Distance, *, seconds: float) -> float:
    """Measure how many noisy outputs are drawn and compared a second, by this process.

    Args:
        outputs: whose batch size is chosen first if it is still to be.
        x: (*in), around which they are drawn.
        distance: between them.
        seconds: to measure for; 0 is one batch.
    """
    given: dict[str, Any] = {"example": 0, "stage": Stage.CALIBRATION}
    next(outputs.draw(x, **given, count=1))  # finds the batch size
    drawn, began, took = 0, 0.0, 0.0
    for number, batch in enumerate(outputs.draw(x, **given, count=_MANY)):
        if number == 0:  # the first call of a shape does not count
            began = time.perf_counter()
            continue
        embedded = distance.embed(batch)
        others = embedded.repeat(-(-_COMPARISONS // len(embedded)), *[1] * (embedded.ndim - 1))[:_COMPARISONS]
        distance.compare(embedded, others).flatten()[0].item()  # reading one number waits for the device
        drawn, took = drawn + len(batch), time.perf_counter() - began
        if took >= seconds:
            break
    return drawn / max(took, 1e-9)
