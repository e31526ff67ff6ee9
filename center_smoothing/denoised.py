"""A denoiser in front of any model, as one base function."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from center_smoothing.base_functions import as_base_function, as_numbers
from center_smoothing.distances.naming import owner_of


class Denoised(nn.Module):
    """A model that sees what a denoiser makes of its input: f(x) = model(denoiser(x)).

    A network that was never trained with noise gives scattered outputs at noisy copies. A denoiser in front brings the
    copies back to what the network knows (Salman et al. 2020), and it may be trained without the network. It is part of
    the base function: certificates are those of the composition, whatever the denoiser does.

    Args:
        model: see :func:`center_smoothing.base_functions.as_base_function`.
        denoiser: of any such kind too, (N, *in) -> (N, *in), each output of its own input alone.

    Shapes: (N, *in) -> whatever the model returns.

    Raises:
        ValueError: if a part is no base function, and when called, if the denoiser returns another shape than that of
            its input, or anything but numbers. NaN, inf and numbers of another type go to the model as they are.

    Example:
        >>> import torch
        >>> from center_smoothing import CenterSmoother, SmoothingBudget
        >>> f = Denoised(lambda x: 8 * x, lambda x: x.round())
        >>> f(torch.tensor([[0.1, 0.9]]))
        tensor([[0., 8.]])
        >>> smoother = CenterSmoother(f, "l2", sigma=0.05, budget=SmoothingBudget.quick())
        >>> smoother.certify(torch.ones(2)).center
        tensor([8., 8.])
    """

    def __init__(self, model: object, denoiser: object) -> None:
        super().__init__()
        self.denoiser = as_base_function(denoiser, "denoiser")
        self.model = as_base_function(model)
        owners = (owner_of(part) for part in (self.denoiser, self.model) if not isinstance(part, nn.Module))
        # so that eval mode and a move to a device reach the module behind a bound method
        self.owners = nn.ModuleList(owner for owner in owners if owner is not None)

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401  # outputs may be of any kind
        """Compute the base function."""
        return self.model(self.denoise(x))

    def denoise(self, x: Tensor) -> Tensor:
        """Return what the model sees: (N, *in) -> (N, *in)."""
        shape = x.shape
        denoised = as_numbers(self.denoiser(x), x, "denoiser")
        if denoised.shape != shape:
            raise ValueError(
                f"denoiser must return the shape that it is given, {tuple(shape)}, got {tuple(denoised.shape)}"
            )
        return denoised
