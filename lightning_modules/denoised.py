"""A denoiser in front of a base model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from center_smoothing import Denoised
from lightning_modules.base import BaseModel


class DenoisedModel(BaseModel):
    """A base model that sees what a denoiser, (N, *in) -> (N, *in), makes of the point.

    Hyperparameters and points are the model's.
    """

    def __init__(self, model: BaseModel, denoiser: BaseModel) -> None:
        super().__init__()
        self.save_hyperparameters(dict(model.hparams))
        self.model, self.denoiser = model, denoiser
        self.function = Denoised(model, denoiser)

    def example_shape(self) -> tuple[int, ...] | None:
        """Return what the model says of its images, else what the denoiser says of its own."""
        return self.model.example_shape() or self.denoiser.example_shape()

    def point(self, image: Tensor) -> Tensor:
        """Return the model's point."""
        return self.model.point(image)

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401  # outputs may be of any kind
        """Compute the base function."""
        return self.function(x)
