"""What a certified radius is compared with: how far outputs are from a blank one, and from each other."""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress
from statistics import median_low
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from center_smoothing import (
    Angular,
    BoxJaccard,
    BoxSetMatching,
    Cosine,
    Disagreement,
    Distance,
    MaskJaccard,
    ObjectDistance,
)

# Distances up to 1, which most pairs of outputs reach: they need no yardstick.
_SHARES = (BoxJaccard, BoxSetMatching, MaskJaccard)
# Distances for which zeros are as far from everything, or stand for something else.
_NO_BLANK = (Angular, Cosine, Disagreement, ObjectDistance)
# Each of so many first examples, which were drawn at random, is compared with so many before it.
_COMPARED, _BEFORE = 300, 8


class Yardstick:
    """Distances of smoothed outputs from zeros, and from those of other examples. None of them is certified.

    Args:
        distance: between outputs; None where it is not known, and then nothing is measured.

    Attributes:
        to_blank: distance from zeros by index, where zeros are an output that says something.
    """

    def __init__(self, distance: Distance | None) -> None:
        self._distance = None if isinstance(distance, _SHARES) else distance
        self._before: deque[Tensor] = deque(maxlen=_BEFORE)
        self._between: list[float] = []
        self._count = 0
        self.to_blank: dict[int, float] = {}

    def add(self, index: int, output: NDArray[Any]) -> None:
        """Measure the smoothed output (*out) of an example. What the distance does not take is left out."""
        if self._distance is None:
            return
        with suppress(Exception):  # a user's own distance may raise anything
            self._measure(self._distance, index, torch.from_numpy(output)[None])

    def _measure(self, distance: Distance, index: int, output: Tensor) -> None:
        embedded = distance.embed(output)
        self._count += 1
        if self._count <= _COMPARED:
            others = [each for each in self._before if each.shape == embedded.shape]
            if others:
                self._between += _finite(distance.compare(embedded, torch.cat(others)))
            self._before.append(embedded)
        if not isinstance(distance, _NO_BLANK):
            for to_blank in _finite(distance.paired(embedded, distance.embed(torch.zeros_like(output)))):
                self.to_blank[index] = to_blank

    @property
    def between(self) -> float | None:
        """Median distance between the smoothed outputs of two examples; None where there is none above 0."""
        return median_low(self._between) or None if self._between else None

    @property
    def median_to_blank(self) -> float | None:
        """Median of ``to_blank``; None without any."""
        return median_low(self.to_blank.values()) if self.to_blank else None

    def results(self, median_eps_out: float) -> dict[str, float]:
        """Return what stands beside a median in ``summary.json``, as far as there is something."""
        found = {
            "relative_eps_out": None if self.between is None else median_eps_out / self.between,
            "median_to_blank": self.median_to_blank,
            "median_between_examples": self.between,
        }
        return {name: value for name, value in found.items() if value is not None}


def _finite(distances: Tensor) -> list[float]:
    return [value for value in distances.flatten().tolist() if math.isfinite(value)]
