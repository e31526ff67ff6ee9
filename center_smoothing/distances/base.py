"""What the algorithm needs to know of a distance between outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod

import torch
from torch import Tensor


class Distance(ABC):
    """A symmetric distance with d(z, z) = 0 and d(a, c) <= relaxation * (d(a, b) + d(b, c)).

    A subclass says how an output is embedded (once per output, in float64) and how embedded outputs are compared.
    A non-finite output is at distance inf from everything, itself included (theory T9).

    Attributes:
        relaxation: gamma, at least 1; 1 for metrics and pseudometrics.
        averages: whether means and coordinate-wise medians of outputs are outputs too. :meth:`averages_of` may know
            another way to average.
        convex: whether z -> d(c, z) is convex for every c, outputs being vectors: every norm or seminorm of a
            difference is. Then a mean of outputs is no further from c than they are on average (theory T11).
    """

    relaxation: float = 1.0
    averages: bool = True
    convex: bool = False

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of paired outputs: (N, *out), (N, *out) -> (N,) float64."""
        if a.shape != b.shape:
            raise ValueError(f"a and b must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
        a, b = self.embed(a), self.embed(b)
        rows = [self.compare(a[i : i + 1], b[i : i + 1]) for i in range(len(a))]
        return torch.cat(rows).squeeze(1) if rows else a.new_empty(0, dtype=torch.float64)

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """All distances: (N, *out), (K, *out) -> (N, K) float64."""
        return self.compare(self.embed(a), self.embed(b))

    def embed(self, z: Tensor) -> Tensor:
        """Map outputs (N, *out) to what :meth:`compare` takes, (N, *embedded) in float64.

        Non-finite outputs become NaN. In float64 the difference of two float32 numbers is exact unless one is more
        than 2^28 times the other.
        """
        if prod(z.shape[1:]) == 0:
            raise ValueError(f"outputs must not be empty, got shape {tuple(z.shape)}")
        z = _to_float64(z)
        finite = torch.isfinite(z).flatten(1).all(dim=1)
        embedded = self._embed(z)
        if not bool(finite.all()):
            embedded = embedded.clone()
            embedded[~finite] = torch.nan
        return embedded

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """All distances of embedded outputs: (N, *embedded), (K, *embedded) -> (N, K) float64."""
        distances = self._compare(a, b)
        not_finite = torch.isnan(_first(a))[:, None] | torch.isnan(_first(b))[None, :]
        return distances.masked_fill(not_finite, torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)

    def averages_of(self, outputs: Tensor) -> Tensor:
        """Points that are likely to lie in the middle of outputs: further candidates for the center (theory T2).

        Here the mean and the coordinate-wise median of floating-point outputs, where ``averages`` is true.

        Args:
            outputs: (k, *out) of the pilot, k at least 1, all finite.

        Returns:
            (A, *out) of the same dtype; A at most 2, as the bound on abstentions assumes. Overflow is permitted.
        """
        if not self.averages or not outputs.is_floating_point():
            return outputs[:0]
        ordered = outputs.sort(dim=0).values
        median = (ordered[(len(outputs) - 1) // 2] + ordered[len(outputs) // 2]) / 2
        return torch.stack([outputs.mean(dim=0), median])

    @abstractmethod
    def _embed(self, z: Tensor) -> Tensor:
        """(N, *out) float64 -> (N, *embedded); rows of non-finite outputs are overwritten afterwards."""

    @abstractmethod
    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        """(N, *embedded), (K, *embedded) -> (N, K)."""

    def __repr__(self) -> str:
        """Class name and parameters, as one would type them."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def _to_float64(z: Tensor) -> Tensor:
    try:
        return z.to(torch.float64)
    except TypeError:  # a device without float64
        return z.cpu().to(torch.float64)


def _first(embedded: Tensor) -> Tensor:
    """One coordinate per row: NaN where the whole row is."""
    return embedded.flatten(1)[:, 0]
