"""Norms that changes of the input are measured in, and what they are in the norm of the noise (theory T15)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from center_smoothing.noise_kinds import NoiseKind

# What the promise says of each norm.
NORMS = {
    "l2": "l2 norm",
    "l1": "l1 norm",
    "linf": "linf norm",
    "scaled-l2": "l2 norm scaled by the sigma map",
}
# Steps of an attack in l1 norm go along so small a part of the coordinates, those that matter most.
_SPARSE = 128


@dataclass(frozen=True, eq=False)
class Threat:
    """A norm of changes of the input.

    Args:
        norm: one of ``NORMS``.
        sigma_map: standard deviations as multiples of sigma, broadcastable to changes; only ``"scaled-l2"`` needs it.
    """

    norm: str
    sigma_map: Tensor | None = None

    def length(self, change: Tensor) -> float:
        """Return the norm of a change (*in), computed in its type; off by less than numel + 3 roundings."""
        return float(torch.linalg.vector_norm(self._scaled(change), ord=_ORDERS[self.norm]))

    def is_within(self, steps: Tensor, radius: Fraction) -> bool:
        """Return whether a change in whole steps (*in), int64, is at most so many steps long, exactly."""
        sizes = [abs(int(step)) for step in steps.flatten().tolist()]
        if self.norm == "linf":
            return max(sizes, default=0) <= radius
        return sum(sizes) <= radius if self.norm == "l1" else sum(size * size for size in sizes) <= radius**2

    def shortened(self, change: Tensor, radius: float) -> Tensor:
        """Return a change (*in) within the ball, up to rounding: the one itself where it is, else one near it."""
        length = self.length(change)
        if length <= radius:
            return change
        return self.nearest(change, radius) if self.norm in ("l1", "linf") else change * (radius / length)

    def nearest(self, change: Tensor, radius: float) -> Tensor:
        """Return the change (*in) in the ball that is nearest in l2 norm, up to rounding; itself for l2 and scaled l2.

        There scaling is enough. In l1 norm all sizes are lowered by the same number, but not below zero.
        """
        if self.norm == "linf":
            return change.clamp(-radius, radius)
        if self.norm == "l1" and self.length(change) > radius > 0.0:
            sizes = change.abs().flatten().sort(descending=True).values
            excess = (sizes.cumsum(0) - radius) / torch.arange(1, len(sizes) + 1, device=sizes.device)
            threshold = excess[max(0, int((sizes > excess).sum()) - 1)]
            return change.sign() * (change.abs() - threshold).clamp_min(0.0)
        return change

    def step(self, direction: Tensor, length: float) -> Tensor:
        """Return a change (*in) of that length that goes as far up along a gradient (*in) as one can, or nearly so.

        In l1 norm that is a change of one number; a 128th of all share it. Zero stays zero.
        """
        largest = float(direction.abs().max()) if direction.numel() else 0.0
        if not 0.0 < largest < math.inf:
            return torch.zeros_like(direction)
        direction = direction / largest  # squares of small numbers vanish
        if self.norm == "linf":
            return direction.sign() * length
        if self.norm == "l1":
            count = max(1, direction.numel() // _SPARSE)
            chosen = direction.abs().flatten().topk(count).indices
            kept = torch.zeros_like(direction).flatten()
            kept[chosen] = direction.flatten()[chosen].sign() * (length / count)
            return kept.reshape(direction.shape)
        if self.norm == "scaled-l2":
            assert self.sigma_map is not None  # without one there is no such threat
            direction = direction * self.sigma_map.to(direction) ** 2
        return direction * (length / self.length(direction))

    def conversion(self, kind: NoiseKind, shape: torch.Size) -> float:
        """Return the greatest length in the norm of the noise of a change of length 1 in this one, rounded up.

        Of a Gaussian with a sigma map s, l2 of the change divided by s is the norm of the noise.

        Args:
            kind: of the noise.
            shape: of inputs (*in): for linf it is the root of how many numbers there are.
        """
        if self.norm in (kind.norm, "scaled-l2") and (self.sigma_map is None or self.norm == "scaled-l2"):
            return 1.0
        if self.sigma_map is None:
            return _root_up(math.prod(shape)) if self.norm == "linf" else 1.0
        inverse = 1.0 / self.sigma_map.double().cpu()
        if self.norm != "linf":
            return math.nextafter(float(inverse.max()), math.inf)
        inverse = inverse.expand(shape)
        return float(torch.linalg.vector_norm(inverse)) * (1.0 + (inverse.numel() + 8) * 2.0**-52)

    def _scaled(self, change: Tensor) -> Tensor:
        if self.norm != "scaled-l2":
            return change
        assert self.sigma_map is not None  # without one there is no such threat
        return change / self.sigma_map.to(change)


_ORDERS = {"l2": 2.0, "scaled-l2": 2.0, "l1": 1.0, "linf": math.inf}


def threat_of(norm: str | None, kind: NoiseKind, sigma_map: Tensor | None) -> Threat:
    """Return the threat of a name, one of ``NORMS``, or for None that which the noise itself answers to.

    Raises:
        ValueError: for another name, and for a norm in which nothing is proved of the noise.
    """
    own = kind.norm if sigma_map is None else "scaled-l2"
    norm = own if norm is None else norm
    if norm not in NORMS:
        raise ValueError(f"threat must be one of {', '.join(NORMS)}, got {norm!r}")
    if norm == "scaled-l2" and sigma_map is None:
        raise ValueError("threat must be l2, l1 or linf without a sigma map, which scaled-l2 divides by, got scaled-l2")
    if norm != own and kind.norm != "l2":
        raise ValueError(
            f"threat must be {own} for {kind.name} noise, got {norm}: in other norms its bounds are larger than "
            "those of Gaussian noise; take Gaussian noise"
        )
    return Threat(norm, sigma_map)


def _root_up(number: int) -> float:
    """Return the square root of a whole number, rounded up.

    Example:
        >>> _root_up(784), _root_up(3) > 3**0.5
        (28.0, True)
    """
    root = math.sqrt(number)
    return root if Fraction(root) ** 2 >= number else math.nextafter(root, math.inf)
