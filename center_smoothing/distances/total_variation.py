"""The total variation distance of the paper's section 5.2."""

from __future__ import annotations

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance, Norm, replace_where
from center_smoothing.distances.lp import SQUARES_VANISH, ZOOM, zoomed

# Positions that one block of comparisons holds: few enough for the cache, enough for PyTorch to use two threads.
_BLOCK_NUMBERS = 1 << 16


class TotalVariation(Distance):
    """TV(a - b) of images: the sum of the l_p norms of all differences between neighbouring pixels.

    Every pair of neighbours counts, those of the last row and column included, which the formula in the paper
    leaves out. A pseudometric: images that differ by a constant are at distance 0. Between images in [0, 1] it is
    at most 2 per pair and channel for p = 1.

    Args:
        p: norm over the channels of a difference, 1 (the paper's) or 2. The same for grey images.

    Outputs are images (N, C, H, W), or (N, H, W) for one channel.

    Example:
        >>> a, b = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
        >>> TotalVariation()(a, b)
        tensor([2.], dtype=torch.float64)
    """

    convex = True

    def __init__(self, p: int = 1) -> None:
        if p not in (1, 2):
            raise ValueError(f"p must be 1 or 2, got {p!r}")
        self.p = int(p)

    @property
    def norm(self) -> Norm:
        """Which norm of a difference of embedded outputs it is."""
        return "l1" if self.p == 1 else "l1 of l2"

    def box_radius(self, center: Tensor, low: Tensor, high: Tensor) -> float:
        """Add up how far the difference of each pair of neighbours changes at most, which may be in different boxes."""
        up, down = ((z - center).reshape(-1, *center.shape[-2:]) for z in (high, low))
        gaps = torch.cat([_gaps(up, down), _gaps(up.mT, down.mT)], dim=1)
        largest = gaps.max()  # squares of what is small beside it may vanish
        norms = torch.linalg.vector_norm(gaps / torch.where(largest > 0.0, largest, 1.0), ord=self.p, dim=0)
        return float(largest * norms.sum())

    def _embed(self, z: Tensor) -> Tensor:
        """Return the differences of the P pairs of neighbours: (N, C, H, W) -> (N, C, P)."""
        if z.ndim == 3:
            z = z.unsqueeze(1)
        if z.ndim != 4 or z.shape[2] * z.shape[3] < 2:
            raise ValueError(
                "total variation compares images, outputs (N, C, H, W) or (N, H, W) of at least two pixels, "
                f"got outputs of shape {tuple(z.shape)}"
            )
        count, channels, height, width = z.shape
        if z.requires_grad:  # functions that write to an output have no gradient
            return torch.cat([z.diff(dim=2).flatten(2), z.diff(dim=3).flatten(2)], dim=2)
        below, right = (height - 1) * width, height * (width - 1)
        pairs = z.new_empty((count, channels, below + right))
        torch.sub(z[:, :, 1:], z[:, :, :-1], out=pairs[..., :below].view(count, channels, height - 1, width))
        torch.sub(z[..., 1:], z[..., :-1], out=pairs[..., below:].view(count, channels, height, width - 1))
        return pairs

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        if self.p == 1 or a.shape[1] == 1:
            return torch.cdist(a.flatten(1), b.flatten(1), p=1.0)
        distances = _sums_of_norms(a, b)
        mask = distances < SQUARES_VANISH
        return replace_where(distances, mask, lambda rows: _sums_of_norms(zoomed(a[rows]), zoomed(b)) / ZOOM)

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        if self.p == 1 or a.shape[1] == 1:  # one with one, as one_with_one
            return torch.cdist(a.flatten(1).unsqueeze(1), b.flatten(1).unsqueeze(1), p=1.0)[:, 0, 0]
        found = _paired_sums_of_norms(a, b)
        zoom = lambda rows: _paired_sums_of_norms(zoomed(a[rows]), zoomed(b[rows])) / ZOOM  # noqa: E731
        return replace_where(found, found < SQUARES_VANISH, zoom)


def _gaps(up: Tensor, down: Tensor) -> Tensor:
    """Bound the changes of z[:, i + 1] - z[:, i] where z changes by ``down`` to ``up``: (C, H, W) -> (C, (H - 1) W)."""
    return torch.maximum(up[:, 1:] - down[:, :-1], up[:, :-1] - down[:, 1:]).flatten(1)


def _sums_of_norms(a: Tensor, b: Tensor) -> Tensor:
    """Add the l2 norms over channels at all positions: (N, C, P), (K, C, P) -> (N, K)."""
    if a.requires_grad or b.requires_grad:  # unlike that of sqrt(), the gradient of this norm is finite at 0
        return torch.stack([torch.linalg.vector_norm(a - z, dim=1).sum(dim=1) for z in b], dim=1)
    rows = max(1, _BLOCK_NUMBERS // a.shape[2])
    return torch.cat([_block_of_sums(block, b) for block in torch.split(a, rows)])


def _paired_sums_of_norms(a: Tensor, b: Tensor) -> Tensor:
    """Add the l2 norms of pairs: (N, C, P), (N, C, P) -> (N,)."""
    if a.requires_grad or b.requires_grad:
        norms: Tensor = torch.linalg.vector_norm(a - b, dim=1)
        return norms.sum(dim=1)
    rows = max(1, _BLOCK_NUMBERS // a.shape[2])
    blocks = zip(torch.split(a, rows), torch.split(b, rows), strict=True)
    return torch.cat([(first - second).square_().sum(dim=1).sqrt_().sum(dim=1) for first, second in blocks])


def _block_of_sums(a: Tensor, b: Tensor) -> Tensor:
    """Compute one block of :func:`_sums_of_norms`. Two buffers serve for all."""
    channels = [channel.contiguous() for channel in a.unbind(dim=1)]
    squares, difference = torch.empty_like(channels[0]), torch.empty_like(channels[0])
    sums = a.new_empty((len(a), len(b)))
    for column, z in enumerate(b):
        torch.sub(channels[0], z[0], out=difference)
        torch.mul(difference, difference, out=squares)
        for channel, value in zip(channels[1:], z[1:], strict=True):
            torch.sub(channel, value, out=difference)
            squares.addcmul_(difference, difference)
        sums[:, column] = squares.sqrt_().sum(dim=1)
    return sums
