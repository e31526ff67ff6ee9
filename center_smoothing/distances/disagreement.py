"""The share of labels that differ."""

from __future__ import annotations

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance


class Disagreement(Distance):
    """The share of elements in which two outputs differ, in [0, 1]: the normalised Hamming distance, a metric.

    Outputs are labels (N, 1), or maps of labels (N, *shape) of any shape: the classes of an image's pixels, say. Labels
    are whole or floating-point numbers; how far apart different ones are does not matter. Elements are counted exactly.
    Outputs are aggregated by majority vote in each element. The distance changes in steps: attacks have to search
    without gradients.

    Example:
        >>> Disagreement()(torch.tensor([[3, 1, 2, 2]]), torch.tensor([[3, 1, 0, 2]]))
        tensor([0.2500], dtype=torch.float64)
    """

    averages = False

    def box_radius(self, center: Tensor, low: Tensor, high: Tensor) -> float:
        """Return the share of elements that can leave the center's label."""
        return float(((low != center) | (high != center)).double().mean())

    def averages_of(self, outputs: Tensor) -> Tensor:
        """Return the majority vote (1, *shape) of outputs (N, *shape): the map nearest to them on average."""
        return self._aggregate(outputs.unsqueeze(0))

    def _aggregate(self, outputs: Tensor) -> Tensor:
        """Return the most frequent label of each element, (N, J, *shape) -> (N, *shape); of several the smallest."""
        ordered = outputs.sort(dim=1).values
        places = torch.arange(outputs.shape[1], device=outputs.device).reshape(-1, *[1] * (outputs.ndim - 2))
        first = torch.zeros_like(ordered, dtype=torch.int64)  # the place at which the run of equal labels begins
        first[:, 1:] = torch.where(ordered[:, 1:] != ordered[:, :-1], places[1:], 0)
        lengths = places - first.cummax(dim=1).values
        # the first one of the longest: equally long runs come to their ends by ascending label
        return ordered.gather(1, lengths.argmax(dim=1, keepdim=True))[:, 0]

    def _embed(self, z: Tensor) -> Tensor:
        return z.detach().flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, p=0.0) / a.shape[1]  # the number of elements that differ: exact

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        return (a != b).sum(dim=1).double() / a.shape[1]
