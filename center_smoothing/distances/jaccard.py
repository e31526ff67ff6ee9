"""The Jaccard distance of the paper's section 5.1: between boxes, and between masks."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance, sum_over_tuples

# The empty set among boxes, finite because a detector that finds nothing has given an answer.
NO_BOX = (0.0, 0.0, 0.0, 0.0)

# Pairs of boxes that one block of comparisons holds: few enough for the cache.
_BLOCK_PAIRS = 1 << 16
# 1 / (1 + _FAR) is less than half a unit in the last place of 1: beyond it the distance is 1 in float64.
_FAR = 2.0**60


class BoxJaccard(Distance):
    """1 - |A ∩ B| / |A ∪ B| of axis-aligned boxes, in [0, 1]; a pseudometric.

    Outputs are boxes (N, 4), each (x1, y1, x2, y2) with x1 < x2 and y1 < y2, in units of your choice. All other finite
    outputs are the empty set, "no box": at 0 from each other and at 1 from every box. ``NO_BOX`` is the one to return;
    NaN is no answer at all, outside every ball. The relative error is a few 2^-53, for nearly equal boxes too; only
    distances below 2^-1022 lose digits. A box wider or higher than the largest float64 is at inf from everything.

    Example:
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 2.0, 1.0]])
        >>> BoxJaccard()(a, torch.tensor([[1.0, 0.0, 2.0, 1.0], NO_BOX]))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """

    @staticmethod
    def is_empty(boxes: Tensor) -> Tensor:
        """Return which boxes (N, 4) are the empty set: (N,) bool. ValueError for another shape."""
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(
                f"boxes must be outputs (N, 4) of (x1, y1, x2, y2), got shape {tuple(boxes.shape)}; the distance of "
                "sets of boxes (N, K, 4) is box-sets"
            )
        return (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)

    def box_radius(self, center: Tensor, low: Tensor, high: Tensor) -> float:
        """Return the largest distance to a corner (theory T14): it grows as one number leaves that of the center.

        An empty box is there if any can be, as is a box that is not empty.
        """
        ends = torch.stack([torch.stack(corner) for corner in product(*zip(low, high, strict=True))])
        return float(self.pairwise(center[None], ends).max())

    def averages_of(self, outputs: Tensor) -> Tensor:
        """Return mean and median of the boxes that are not empty: corners of an empty one say nothing."""
        boxes = outputs[~self.is_empty(outputs)]
        return super().averages_of(boxes) if len(boxes) > 0 else boxes

    def averages_of_tuples(self, outputs: Tensor) -> Tensor:
        """Return the mean of each tuple's boxes that are not empty, (T, J, 4) -> (T, 4); ``NO_BOX`` where all are."""
        self._check_tuples(outputs)
        empty = self.is_empty(outputs.flatten(0, 1)).reshape(outputs.shape[:2])
        empty &= torch.isfinite(outputs).all(dim=2)
        others = (~empty).sum(dim=1, keepdim=True).clamp_min(1)
        return sum_over_tuples(outputs.masked_fill(empty[..., None], 0.0)) / others

    def _aggregate(self, outputs: Tensor) -> Tensor:
        """Return medians of boxes that are not empty, ``NO_BOX`` where half or more are; medoids of whole numbers."""
        if not outputs.is_floating_point():
            return super()._aggregate(outputs)
        empty = self.is_empty(outputs.flatten(0, 1)).reshape(outputs.shape[:2])
        boxes = (~empty).sum(dim=1)[:, None, None]
        middle = torch.cat([(boxes - 1).clamp_min(0) // 2, boxes // 2], dim=1).expand(-1, -1, 4)
        ordered = outputs.masked_fill(empty[..., None], torch.inf).sort(dim=1).values
        median = ordered.gather(1, middle).sum(dim=1) / 2
        return median.masked_fill(2 * boxes[:, 0] <= outputs.shape[1], 0.0)  # NO_BOX

    def _embed(self, z: Tensor) -> Tensor:
        boxes = z.masked_fill(self.is_empty(z)[:, None], 0.0)  # NO_BOX
        overflow = torch.isinf(boxes[:, 2:] - boxes[:, :2]).any(dim=1, keepdim=True)
        return boxes.masked_fill(overflow, torch.nan)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        parts = torch.split(a, max(1, _BLOCK_PAIRS // len(b)))
        return torch.cat([compare_boxes(part[:, None], b[None]) for part in parts])

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        return compare_boxes(a, b)


class MaskJaccard(Distance):
    """1 - |A ∩ B| / |A ∪ B| of binary masks, in [0, 1]; a pseudometric.

    Outputs are masks (N, *shape) of any shape. A pixel belongs to the set if it is True, an integer other than 0, or
    a floating-point number above 0.5. The empty mask is at 0 from itself and at 1 from every other. Pixels are
    counted exactly, so that the one rounding is that of the quotient.

    Example:
        >>> MaskJaccard()(torch.tensor([[True, True, False]]), torch.tensor([[False, True, False]]))
        tensor([0.5000], dtype=torch.float64)
    """

    averages = False

    def box_radius(self, center: Tensor, low: Tensor, high: Tensor) -> float:
        """Return the distance to the mask without each pixel that may leave, and with each that may come."""
        return float(self(center[None], torch.where(_pixels(center), low, high)[None]))

    def averages_of(self, outputs: Tensor) -> Tensor:
        """Return the majority vote (1, *shape): 1 where more than half of the masks have the pixel, else 0."""
        return self._aggregate(outputs.unsqueeze(0))

    def _aggregate(self, outputs: Tensor) -> Tensor:
        return (2 * _pixels(outputs).sum(dim=1) > outputs.shape[1]).to(outputs.dtype)

    def embed(self, z: Tensor) -> Tensor:
        """Map masks (N, *shape) to zeros and ones (N, pixels) in float64; non-finite outputs become NaN."""
        return super().embed(z if z.is_floating_point() else _pixels(z))

    def _embed(self, z: Tensor) -> Tensor:
        return _pixels(z).flatten(1).to(z.dtype)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        # sums of zeros and ones are exact in float64 up to 2^53, in whatever order they are added
        common = a @ b.T
        return _compare_counts(common, a.sum(dim=1)[:, None] + b.sum(dim=1))

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        return _compare_counts(torch.linalg.vecdot(a, b), a.sum(dim=1) + b.sum(dim=1))


def _pixels(masks: Tensor) -> Tensor:
    """Return which pixels of masks belong to the set: bool, of the same shape."""
    return masks > 0.5 if masks.is_floating_point() else masks != 0


def _compare_counts(common: Tensor, both: Tensor) -> Tensor:
    """Turn |A ∩ B| and |A| + |B| into |A △ B| / |A ∪ B|."""
    return (both - 2.0 * common) / (both - common).clamp_min(1.0)


def compare_boxes(a: Tensor, b: Tensor) -> Tensor:
    """Return |A △ B| / |A ∪ B|, where empty boxes are ``NO_BOX``: (..., 4), (..., 4) -> (...).

    With s = |A △ B| / |A ∩ B| it is s / (1 + s). s is made of lengths that are at least 0, each the difference of
    two coordinates over a side of the intersection: no digits cancel, and no area overflows or vanishes.
    """
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    ratio = _excess(a, low, high) + _excess(b, low, high)
    disjoint = (high <= low).any(dim=-1)
    some = (a[..., 0] < a[..., 2]) | (b[..., 0] < b[..., 2])
    return torch.where(disjoint, some.to(ratio.dtype), ratio / (1.0 + ratio))


def _excess(boxes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the part of each box outside the intersection, per area of the intersection: |A without B| / |A ∩ B|.

    With x and y what the sides have outside it, per side of the intersection, it is (1 + x) (1 + y) - 1.
    """
    outside = (low - boxes[..., :2]) + (boxes[..., 2:] - high)
    x, y = (outside / (high - low)).clamp(max=_FAR).unbind(dim=-1)
    return x + y + x * y
