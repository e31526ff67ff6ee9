"""Order statistics of each coordinate of many outputs, in memory that does not grow with their number."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

# Numbers that are sorted together; sorting takes 8 bytes more for each.
_SORTED_AT_ONCE = 1 << 22
# Outputs that are counted together.
_COUNTED_AT_ONCE = 256


def sorted_coordinates(outputs: Tensor) -> Tensor:
    """Return the numbers of each coordinate in ascending order, NaN after all others: (n, *out) -> (N, n)."""
    columns = outputs.flatten(1).T.contiguous()
    for rows in torch.split(columns, max(1, _SORTED_AT_ONCE // len(outputs))):
        rows.copy_(rows.sort(dim=1).values)
    return columns


class OrderStatistics:
    """Bounds order statistics of each coordinate from both sides, by counting numbers between edges.

    The edges of a coordinate are its first numbers. A number is rounded away from the middle to the next edge, or
    beyond the last edge to the extreme number of all: bounds are wider by that, and never narrower. Of no more outputs
    than there are edges they are the order statistics themselves. NaN and infinite numbers count as inf above and as
    -inf below.

    Memory: a number of the outputs' own type and a count of 4 bytes for each edge.

    Args:
        edges: how many outputs become edges, at least 1.
    """

    def __init__(self, edges: int) -> None:
        self._edges = edges
        self._first: list[Tensor] = []
        self._tails: tuple[_UpperTail, _UpperTail] | None = None  # from below, of the numbers' negatives; from above

    def add(self, outputs: Tensor) -> None:
        """Take outputs (B, *out) of one floating-point type."""
        if self._tails is None:
            self._first.append(outputs)
            if sum(map(len, self._first)) >= self._edges:
                self._make_tails()
        else:
            self._count(outputs)

    def bounds(self, ranks: NDArray[Any]) -> tuple[Tensor, Tensor]:
        """Return numbers not above the rank-th largest, and not below the rank-th smallest, of each coordinate.

        Ranks (G,) ascend from 1, in the upper half of those there are. Returned are (G, N) and (G, N); -inf and inf
        where there are fewer finite numbers.
        """
        below, above = self._tails or self._make_tails()
        asked = torch.from_numpy(ranks)
        return below.bounds(asked).neg(), above.bounds(asked)

    def _make_tails(self) -> tuple[_UpperTail, _UpperTail]:
        outputs, self._first = torch.cat(self._first), []
        edges = sorted_coordinates(outputs[: self._edges])
        edges.masked_fill_(torch.isnan(edges), torch.inf)
        half = edges.shape[1] // 2
        self._tails = _UpperTail(edges[:, : half + 1].flip(1).neg()), _UpperTail(edges[:, half:].contiguous())
        for part in torch.split(outputs, _COUNTED_AT_ONCE):
            self._count(part)
        return self._tails

    def _count(self, outputs: Tensor) -> None:
        assert self._tails is not None  # there are edges
        numbers = outputs.flatten(1).T.contiguous()
        for tail, signed in zip(self._tails, (numbers.neg(), numbers), strict=True):
            tail.add(signed)


class _UpperTail:
    """Bounds order statistics from above, by edges (N, G) in ascending order."""

    def __init__(self, edges: Tensor) -> None:
        self.edges = edges
        self.counts = torch.zeros((len(edges), edges.shape[1] + 1), dtype=torch.int32, device=edges.device)
        self.largest = edges.new_full((len(edges), 1), -torch.inf)  # of the finite numbers
        self.finite = torch.zeros((len(edges), 1), dtype=torch.int64, device=edges.device)

    def add(self, numbers: Tensor) -> None:
        """Take numbers (N, B) of each coordinate."""
        finite = torch.isfinite(numbers)
        self.finite += finite.sum(dim=1, keepdim=True)
        largest = numbers.masked_fill(~finite, -torch.inf).amax(dim=1, keepdim=True)
        self.largest = torch.maximum(self.largest, largest)
        # the first edge that is not below the number
        places = torch.searchsorted(self.edges, numbers.masked_fill(~finite, torch.inf))
        self.counts.scatter_add_(1, places, torch.ones_like(places, dtype=torch.int32))

    def bounds(self, ranks: Tensor) -> Tensor:
        """Return numbers (G, N) that are not below the order statistics of ranks (G,)."""
        up_to = self.counts[:, :-1].cumsum(dim=1, dtype=torch.int32)
        ranks = ranks.to(up_to).expand(len(up_to), -1).contiguous()
        places = torch.searchsorted(up_to, ranks)
        found = self.edges.gather(1, places.clamp(max=up_to.shape[1] - 1))
        found = torch.where(places < up_to.shape[1], found, torch.inf)
        return torch.minimum(found, torch.where(ranks <= self.finite, self.largest, torch.inf)).T
