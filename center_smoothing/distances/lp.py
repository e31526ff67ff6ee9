"""The l_p distance of flattened outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance


class Lp(Distance):
    """||a - b||_p of flattened outputs, a metric for p >= 1.

    Args:
        p: in [1, inf].

    Example:
        >>> import torch
        >>> Lp(2)(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([5.], dtype=torch.float64)
    """

    def __init__(self, p: float = 2.0) -> None:
        if not p >= 1.0:
            raise ValueError(f"p must lie in [1, inf], got {p!r}")
        self.p = float(p)

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, p=self.p, compute_mode="donot_use_mm_for_euclid_dist")
