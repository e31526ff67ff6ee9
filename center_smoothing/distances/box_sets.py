"""A matching distance between sets of boxes."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from center_smoothing.distances.base import Distance
from center_smoothing.distances.jaccard import BoxJaccard, compare_boxes

# Pairs of boxes that are compared at a time.
_BLOCK_PAIRS = 1 << 16
# Up to so many boxes a set, matchings of many pairs of sets are found at once; beyond, pair by pair.
_MAX_AT_ONCE = 6
_BOXES = BoxJaccard()


class BoxSetMatching(Distance):
    """1 - the mean overlap of two sets of boxes, best matched, in [0, 1]; a pseudometric.

    Outputs are (N, K, 4): up to K boxes (x1, y1, x2, y2) each. Absent ones are empty boxes, ``NO_BOX``, see
    :class:`BoxJaccard`. The order of boxes does not matter; equal boxes count as often as they are there. Each box is
    matched with at most one of the other set. A matched pair has the overlap |A ∩ B| / |A ∪ B|, a box that is left
    over has none, and their mean over the boxes of the larger set is the largest that a matching has: the OSPA
    distance of order 1 and cut-off 1. Two sets without boxes are at 0 from each other, and at 1 from all others. One
    box each are as far apart as in :class:`BoxJaccard`. Sets have no averages: centers are outputs.

    Example:
        >>> from center_smoothing import NO_BOX
        >>> a = torch.tensor([[[0.0, 0.0, 2.0, 1.0], [5.0, 5.0, 6.0, 6.0]]])
        >>> b = torch.tensor([[NO_BOX, [1.0, 0.0, 2.0, 1.0]]])
        >>> BoxSetMatching()(a, a.flip(1)), BoxSetMatching()(a, b)
        (tensor([0.], dtype=torch.float64), tensor([0.7500], dtype=torch.float64))
    """

    averages = False

    def _embed(self, z: Tensor) -> Tensor:
        if z.ndim != 3 or z.shape[2] != 4:
            raise ValueError(
                f"sets of boxes must be outputs (N, boxes, 4) of (x1, y1, x2, y2), got shape {tuple(z.shape)}"
            )
        return _BOXES.embed(z.flatten(0, 1)).reshape(z.shape)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        rows = max(1, _BLOCK_PAIRS // (len(b) * a.shape[1] ** 2))
        return torch.cat([_compare_sets(part[:, None], b[None]) for part in torch.split(a, rows)])

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        rows = max(1, _BLOCK_PAIRS // a.shape[1] ** 2)
        return torch.cat(
            [_compare_sets(*parts) for parts in zip(torch.split(a, rows), torch.split(b, rows), strict=True)]
        )


def _compare_sets(a: Tensor, b: Tensor) -> Tensor:
    """Return distances of sets in which absent boxes are ``NO_BOX``: (..., K, 4), (..., K, 4) -> (...).

    ``NO_BOX`` is at 1 from each box and at 0 from itself, so that matching all K of both leaves over what is left over.
    """
    costs = compare_boxes(a[..., :, None, :], b[..., None, :, :])
    larger = torch.maximum(*((z[..., 2] > z[..., 0]).sum(dim=-1) for z in (a, b)))
    return _least_sums(costs) / larger.clamp_min(1)


def _least_sums(costs: Tensor) -> Tensor:
    """Return the least sum of a matching of rows with columns: (..., K, K), at least 0, -> (...).

    The relative error is below K 2^-53: no digits cancel.
    """
    size = costs.shape[-1]
    if size > _MAX_AT_ONCE:
        each = costs.detach().nan_to_num(nan=1.0).reshape(-1, size, size).cpu().numpy()  # NaN is no output: inf later
        sums = [float(matrix[linear_sum_assignment(matrix)].sum()) for matrix in each]
        return costs.new_tensor(sums).reshape(costs.shape[:-2])
    # of the first rows with each set of as many columns, a bit for each
    least = {0: costs.new_zeros(costs.shape[:-2])}
    for columns in range(1, 1 << size):
        row = columns.bit_count() - 1
        through = [least[columns ^ 1 << j] + costs[..., row, j] for j in range(size) if columns >> j & 1]
        least[columns] = torch.stack(through).amin(dim=0)
    return least[(1 << size) - 1]
