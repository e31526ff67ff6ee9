"""Symmetric distances from directed ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance
from center_smoothing.distances.custom import FunctionDistance, relaxation_of
from center_smoothing.distances.naming import name_of


class Symmetrised(Distance):
    """The maximum, or the sum, of both directions of a directed distance; it keeps gamma.

    A directed distance d is at least 0, 0 from each output to itself, and d(a, c) <= gamma (d(a, b) + d(b, c)), but
    d(a, b) and d(b, a) may differ. *Proof* for D(a, b) = max(d(a, b), d(b, a)): d(a, c) <= gamma (d(a, b) + d(b, c))
    <= gamma (D(a, b) + D(b, c)), and d(c, a) <= gamma (d(c, b) + d(b, a)) likewise. For the sum, add both. ∎

    Args:
        directed: a :class:`Distance` but for its symmetry; or a function (N, *out), (N, *out) -> (N,) of paired outputs
            in float64. That is called once for each of the K outputs that all are compared with, in each direction.
        mode: "max" or "sum".
        relaxation: gamma of the directed distance, at least its attribute of this name; default: that. Functions
            without the attribute declare nothing: say it.
        averages: whether outputs have averages; default: as a Distance says, and not for a function.
        convex: whether both d(c, z) and d(z, c) are convex in z.

    Raises:
        ValueError: for another mode, for a function without a relaxation, and for a smaller one than is declared.

    Example:
        >>> uphill = lambda a, b: (b - a).flatten(1).clamp_min(0.0).sum(dim=1)
        >>> a, b = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 0.0]])
        >>> [Symmetrised(uphill, mode, relaxation=1).pairwise(a, b).item() for mode in ("max", "sum")]
        [3.0, 4.0]
    """

    def __init__(
        self,
        directed: Distance | Callable[[Tensor, Tensor], Tensor],
        mode: Literal["max", "sum"] = "max",
        *,
        relaxation: float | None = None,
        averages: bool | None = None,
        convex: bool = False,
    ) -> None:
        if not callable(directed):
            raise ValueError(f"directed must be a Distance or a callable (a, b) -> (N,), got {directed!r}")
        if mode not in ("max", "sum"):
            raise ValueError(f"mode must be 'max' or 'sum', got {mode!r}")
        relaxation = relaxation_of(directed, relaxation)
        if relaxation is None:
            raise ValueError(
                f"relaxation must be given for the function {name_of(directed)}, got None: the gamma of its "
                "triangle inequality, 1 if it keeps the usual one"
            )
        if not isinstance(directed, Distance):
            directed = FunctionDistance(directed, relaxation=relaxation, averages=bool(averages))
        self.directed = directed
        self.mode = mode
        self.relaxation = relaxation
        self.averages = self.directed.averages if averages is None else averages
        self.convex = convex

    def encoded(self, model: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        """Encode as the directed distance does."""
        return self.directed.encoded(model)

    def averages_of(self, outputs: Tensor) -> Tensor:
        """Average as the directed distance does."""
        if self.averages and not self.directed.averages:
            return super().averages_of(outputs)
        return self.directed.averages_of(outputs)

    def averages_of_tuples(self, outputs: Tensor) -> Tensor:
        """Average as the directed distance does."""
        if self.averages and not self.directed.averages:
            return super().averages_of_tuples(outputs)
        self._check_tuples(outputs)
        return self.directed.averages_of_tuples(outputs)

    def _embed(self, z: Tensor) -> Tensor:
        return self.directed.embed(z)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return self._both(self.directed.compare(a, b), self.directed.compare(b, a).T)

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        return self._both(self.directed.paired(a, b), self.directed.paired(b, a))

    def _both(self, there: Tensor, back: Tensor) -> Tensor:
        return torch.maximum(there, back) if self.mode == "max" else there + back
