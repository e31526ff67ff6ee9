"""The certification sample: distances from the center, and from probes (theory T3 and T7).

Probes are outputs, or averages of a few, that stand at x for what the candidates are at an attacked x'.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from center_smoothing.budget import SmoothingBudget
from center_smoothing.distances.base import Distance

# By tuple size J: (T, G) float32, of T probes the distances at the G ranks of `kept_ranks`, each column ascending.
ProbeDistances = Mapping[int, NDArray[np.float32]]

# Distances of the far tail are kept one by one, towards the middle ever fewer: each rank is this much further from the
# last than the one before.
_TAIL, _RATIO = 16, 1.1


@lru_cache(maxsize=64)
def kept_ranks(compared: int) -> NDArray[np.int64]:
    """Return the ranks among a probe's distances that a certificate keeps: a fixed grid, dense where certificates lie.

    They are (G,) ascending and 1-based, the last one ``compared``, the first one at most half of it.
    """
    beyond = [0]
    while beyond[-1] < compared // 2:
        beyond.append(beyond[-1] + (1 if beyond[-1] < _TAIL else int(np.ceil(beyond[-1] * (_RATIO - 1.0)))))
    return compared - np.array([count for count in beyond if count < compared], dtype=np.int64)[::-1]


def tuples_of(outputs: Tensor, size: int, number: int, distance: Distance) -> Tensor:
    """Average disjoint tuples of outputs, in the order of the draws.

    The candidates at every input and the probes are made by this one function: theory T7 needs that a probe at x is
    to x what a candidate at x' is to x'.

    Args:
        outputs: (N, *out), in the order in which they were drawn, those too that are none for the distance.
        size: J; 1 takes the outputs themselves.
        number: of tuples, at most N / J.
        distance: says how outputs are averaged.

    Returns:
        (number, *out); not finite where one of a tuple is no output.
    """
    used = outputs[: size * number]
    if size == 1:
        return used
    return distance.averages_of_tuples(distance.only_outputs(used).reshape(number, size, *used.shape[1:]))


def averaged_sizes(budget: SmoothingBudget, outputs: Tensor) -> tuple[int, ...]:
    """Return the tuple sizes that outputs of this type have: whole numbers and truth values have no averages.

    The type is that of the base function, the same at every input, so that no sample decides about the sizes.
    """
    return tuple(size for size in budget.tuple_sizes if size == 1 or outputs.is_floating_point())


class CertificationSample:
    """Fresh outputs, of which distances are kept: from the center, and from probes (theory T3 and T7).

    The first ``budget.outputs_in_probes`` outputs become the probes; later ones are compared with them. No output is
    ever compared with a probe that it is a part of. Memory: 8 bytes an output, and 4 for each comparison, of which
    there are at most 2^14 for each probe. The budget has the tuple sizes of :func:`averaged_sizes`; the center is
    (*out); ``drawn`` counts the outputs so far.
    """

    def __init__(self, budget: SmoothingBudget, distance: Distance, center: Tensor) -> None:
        self.budget = budget
        self.distance = distance
        self.drawn = 0
        self._center = distance.embed(center.unsqueeze(0))
        self._distances = torch.zeros(budget.certification_outputs, dtype=torch.float64, device=self._center.device)
        self._material: list[Tensor] = []
        self._probes: Tensor | None = None
        self._rows = self._distances.new_zeros((0, 0), dtype=torch.float32)

    def add(self, outputs: Tensor) -> None:
        """Take the next outputs (N, *out), in the order of the draws."""
        material, start = self.budget.outputs_in_probes, self.drawn
        self.drawn += len(outputs)
        embedded = self.distance.embed(outputs)
        self._distances[start : self.drawn] = self.distance.compare(embedded, self._center)[:, 0]
        if start < material:
            self._material.append(outputs[: material - start])
            if self.drawn >= material:
                self._make_probes()
        first = max(0, start - material)
        used = embedded[max(0, material - start) :][: max(0, self._rows.shape[1] - first)]
        if self._probes is not None and len(used) > 0:
            self._rows[:, first : first + len(used)] = _float32_up(self.distance.compare(used, self._probes).T)

    def first(self, count: int) -> Tensor:
        """Return distances (count,) of the first outputs, in the order of the draws: before :meth:`ascending`.

        A batch for the check: it is independent of the center (theory T8).
        """
        return self._distances[:count]

    def ascending(self, m: int) -> NDArray[np.float64]:
        """Return the distances (m,) of the first m outputs from the center. They lose their order in here too."""
        distances = self._distances[:m].cpu().numpy()
        distances.sort()
        return distances if m == self.budget.m else distances.copy()

    def probe_distances(self, m: int) -> ProbeDistances:
        """Return what a certificate of the first m outputs keeps of distances from the probes; empty without any."""
        if self._probes is None:
            return {}
        compared, number = self.budget.compared(m), self.budget.probes
        ranks = kept_ranks(compared) - 1
        rows = self._rows[:, :compared].cpu().numpy()
        kept = np.concatenate([np.partition(row, ranks)[None, ranks] for row in rows])
        blocks = kept.reshape(-1, number, len(ranks))
        return {size: np.sort(block, axis=0) for size, block in zip(self.budget.tuple_sizes, blocks, strict=True)}

    def _make_probes(self) -> None:
        outputs, number = torch.cat(self._material), self.budget.probes
        self._material.clear()
        made = [tuples_of(outputs, size, number, self.distance) for size in self.budget.tuple_sizes]
        self._probes = self.distance.embed(torch.cat(made))
        shape = (len(self._probes), self.budget.compared(self.budget.m))
        self._rows = torch.zeros(shape, dtype=torch.float32, device=self._distances.device)


def _float32_up(distances: Tensor) -> Tensor:
    """Return the least float32 numbers that are not below distances, of any shape; may be inf."""
    nearest = distances.to(torch.float32)
    above = torch.nextafter(nearest, nearest.new_tensor(torch.inf))
    return torch.where(nearest.to(torch.float64) < distances, above, nearest)
