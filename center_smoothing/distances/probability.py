"""Distances between probability vectors."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance, one_with_one, to_float64

# By so much bfloat16, which rounds each number by 2^-9 of it, can change a sum of 1, with room to spare.
_TOLERANCE = 0.01


class _OfProbabilities(Distance):
    """What both distances have in common: what an output is, an l1 norm, and how outputs are averaged."""

    convex = True

    def __init__(self, *, tolerance: float = _TOLERANCE) -> None:
        if not 0.0 <= tolerance < 1.0:
            raise ValueError(f"tolerance must lie in [0, 1), got {tolerance!r}")
        self.tolerance = float(tolerance)

    def _checked(self, z: Tensor) -> Tensor:
        """Return outputs (N, K) float64, NaN for those of zeros alone; ValueError for others that are none."""
        if z.ndim != 2 or z.shape[1] < 2:
            raise ValueError(
                f"outputs must be probability vectors (N, K) of at least two classes, got shape {tuple(z.shape)}"
            )
        sums, least = z.sum(dim=1), z.amin(dim=1)
        nothing = (z == 0.0).all(dim=1)  # what stands for a center where there is none
        wrong = ((sums - 1.0).abs() > self.tolerance) | (least < -self.tolerance)
        wrong &= torch.isfinite(z).all(dim=1) & ~nothing
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"outputs must be probability vectors, at least 0 and with sum 1 up to {self.tolerance:g}, got one "
                f"with least number {float(least[row]):.4g} and sum {float(sums[row]):.4g}; softmax makes them of "
                "logits"
            )
        return z.masked_fill(nothing[:, None], torch.nan)

    def averages_of(self, outputs: Tensor) -> Tensor:
        """Return the mean, and what :meth:`_middle` makes of all: coordinate-wise medians do not add up to 1."""
        if not outputs.is_floating_point():
            return outputs[:0]
        return torch.stack([outputs.mean(dim=0), self._middle(to_float64(outputs)).to(outputs)])

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, p=1.0)

    _compare_paired = one_with_one(_compare)

    @abstractmethod
    def _middle(self, outputs: Tensor) -> Tensor:
        """Return the middle of (k, K) float64 -> (K,), with sum 1."""


class Wasserstein1(_OfProbabilities):
    """The earth mover's distance of probability vectors over ordered classes: how far mass has to travel.

    The sum of |F_a(k) - F_b(k)| over k < K times the spacing, where F is the cumulative sum: an l1 norm after a linear
    map, so a metric (gamma = 1), convex in the output, and at most (K - 1) times the spacing.

    Outputs are probability vectors (N, K); others raise ValueError, but for zeros alone, which count as not finite.
    Nothing is normalised: the inequalities hold for whatever the tolerance lets through.

    Args:
        spacing: between neighbouring classes, in units of your choice.
        tolerance: how far sums may be from 1, and numbers below 0.

    Example:
        >>> a, b = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]])
        >>> Wasserstein1()(a, b)
        tensor([1.5000], dtype=torch.float64)
    """

    def __init__(self, spacing: float = 1.0, *, tolerance: float = _TOLERANCE) -> None:
        super().__init__(tolerance=tolerance)
        if not 0.0 < spacing < math.inf:
            raise ValueError(f"spacing must be a positive finite number, got {spacing!r}")
        self.spacing = float(spacing)

    def _embed(self, z: Tensor) -> Tensor:
        return self._checked(z).cumsum(dim=1)[:, :-1] * self.spacing

    def _middle(self, outputs: Tensor) -> Tensor:
        """Return the vector whose cumulative sums are the medians of theirs: the least sum of distances from all."""
        median = _median(outputs.cumsum(dim=1))
        return median.diff(prepend=median.new_zeros(1)).clamp_min(0.0)


class ProbabilityTV(_OfProbabilities):
    """The total variation distance of probability vectors, in [0, 1]: half of the l1 distance.

    No event's probability differs by more. A metric (gamma = 1), convex in the output.

    Outputs are probability vectors (N, K); others raise ValueError, but for zeros alone, which count as not finite.

    Args:
        tolerance: how far sums may be from 1, and numbers below 0.

    Example:
        >>> ProbabilityTV()(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]]))
        tensor([0.5000], dtype=torch.float64)
    """

    def _embed(self, z: Tensor) -> Tensor:
        return self._checked(z) / 2.0

    def _middle(self, outputs: Tensor) -> Tensor:
        """Return the coordinate-wise median, scaled to sum 1; zeros, which are no output, where it is zero."""
        median = _median(outputs)
        total = median.sum()
        return median / torch.where(total > 0.0, total, 1.0)


def _median(values: Tensor) -> Tensor:
    """Return the median of each coordinate: (k, K) -> (K,)."""
    ordered = values.sort(dim=0).values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2.0
