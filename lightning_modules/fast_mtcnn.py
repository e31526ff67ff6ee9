"""facenet-pytorch's MTCNN over a batch of images: the same cascade, with the work of all images done together.

Networks, weights, thresholds and box arithmetic are facenet-pytorch's. What differs is the order of the work: networks
run in the channels-last layout on chunks that stay in the caches, and all crops of a chunk are averaged at once. The
last bits of the networks' outputs differ by that. It shows where the cascade jumps: where the edge of a crop, cut off
to whole pixels, a probability or an overlap is that close.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import bbreg, generateBoundingBox, nms_numpy, pad, rerec
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou, nms

# Sides in pixels of what the networks see: P-Net slides over the image, the others see crops.
_PNET_SIDE, _RNET_SIDE, _ONET_SIDE = 12, 24, 48
# Overlaps above which a box is suppressed, within a scale and within an image: constants of detect_face.
_OVERLAP_IN_SCALE, _OVERLAP_IN_IMAGE = 0.5, 0.7
# Overlap above which candidates are of the same face, where their boxes are averaged.
_OVERLAP_OF_A_FACE = 0.5
# Work at a time, in pixels of images, pixels that P-Net sees, and crops: intermediate results stay in the caches and in
# memory that malloc uses again.
_IMAGE_PIXELS, _PNET_PIXELS, _RNET_CROPS, _ONET_CROPS = 32 * 178 * 218, 8 * 107 * 131, 128, 32


class Faces(NamedTuple):
    """The most probable faces of each image."""

    boxes: (
        Tensor  # float32 (N, K, 4), x1, y1, x2, y2 in pixels, by descending probability; zeros where there is no face
    )
    probabilities: Tensor  # float32 (N, K); 0 where there is no face


class Candidates(NamedTuple):
    """What the last network takes for faces, several boxes for each: of one image after the other."""

    boxes: Tensor  # float32 (C, 4), x1, y1, x2, y2 in pixels
    probabilities: Tensor  # float32 (C,)
    owners: Tensor  # int64 (C,), ascending: the image of each


class FastMTCNN(nn.Module):
    """The first boxes of ``MTCNN(select_largest=False).detect`` for each image of a batch.

    Shapes: images float32 (N, 3, H, W) in 0..255, or beyond where there is noise -> :class:`Faces`.
    """

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers draw initial weights before the trained ones are loaded
            mtcnn = MTCNN()
        self.pnet, self.rnet, self.onet = mtcnn.pnet, mtcnn.rnet, mtcnn.onet
        self.pnet.prelu1 = _RowwisePReLU(mtcnn.pnet.prelu1)
        self.pnet.pool1, self.rnet.pool1 = _SlicedMaxPool(2), _SlicedMaxPool(3)
        self.thresholds: tuple[float, ...] = tuple(mtcnn.thresholds)
        self.min_face_size: int = mtcnn.min_face_size
        self.factor: float = mtcnn.factor
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, count: int = 1, *, average: bool = False) -> Faces:
        """Return the ``count`` most probable faces of each image; other arguments as for :func:`most_probable`."""
        return most_probable(self.candidates(images), len(images), count, average=average)

    @torch.no_grad()
    def candidates(self, images: Tensor) -> Candidates:
        """Return all that the cascade takes for faces, before suppression."""
        chunk = max(1, _IMAGE_PIXELS // max(1, images.shape[2] * images.shape[3]))
        nothing = Candidates(images.new_empty(0, 4), images.new_empty(0), torch.arange(0, device=images.device))
        found = [nothing]
        for start in range(0, len(images), chunk):
            part = _Images(images[start : start + chunk])
            squares = self._proposed(part)
            if len(squares.owners):
                squares = self._refined(part, squares)
            if len(squares.owners):
                boxes, probabilities, owners = self._judged(part, squares)
                found.append(Candidates(boxes, probabilities, owners + start))
        return Candidates(*map(torch.cat, zip(*found, strict=True)))

    def _proposed(self, images: _Images) -> _Squares:
        """Propose squares in which P-Net sees a face at some scale: the first stage."""
        # from the smallest face on P-Net's side to the whole image on it
        scales, scale = [], _PNET_SIDE / self.min_face_size
        side = min(images.height, images.width) * scale
        while side >= _PNET_SIDE:
            scales.append(scale)
            scale, side = scale * self.factor, side * self.factor
        zeros = torch.zeros_like(images.numbers)
        whole = _Windows(images.numbers, zeros, zeros + images.height, zeros, zeros + images.width)
        boxes, owners, groups = [images.rows.new_empty(0, 9)], [images.numbers[:0]], [images.numbers[:0]]
        for number, scale in enumerate(scales):
            rows, columns = size = int(images.height * scale + 1), int(images.width * scale + 1)
            at_a_time = max(1, _PNET_PIXELS // (rows * columns))
            offsets, probabilities = images.seen_by(self.pnet, whole, size, at_a_time=at_a_time)
            box, owner = generateBoundingBox(offsets, probabilities[:, 1], scale, self.thresholds[0])
            boxes.append(box)
            owners.append(owner)
            groups.append(owner * len(scales) + number)
        box, owner, group = map(torch.cat, (boxes, owners, groups))
        kept = _suppress(box[:, :4], box[:, 4], group, _OVERLAP_IN_SCALE)
        box, owner = box[kept], owner[kept]
        kept = _suppress(box[:, :4], box[:, 4], owner, _OVERLAP_IN_IMAGE)
        box, owner = box[kept], owner[kept]
        sides = (box[:, 2:4] - box[:, :2]).repeat(1, 2)
        return images.inside(_Squares(rerec(box[:, :4] + box[:, 5:9] * sides), owner))

    def _refined(self, images: _Images, squares: _Squares) -> _Squares:
        """Drop most squares with R-Net and correct the others: the second stage."""
        size = _RNET_SIDE, _RNET_SIDE
        offsets, probabilities = images.seen_by(self.rnet, images.windows(squares), size, at_a_time=_RNET_CROPS)
        passed = probabilities[:, 1] > self.thresholds[1]
        boxes, owners = squares.boxes[passed], squares.owners[passed]
        kept = _suppress(boxes, probabilities[passed, 1], owners, _OVERLAP_IN_IMAGE)
        return images.inside(_Squares(rerec(bbreg(boxes[kept], offsets[passed][kept])), owners[kept]))

    def _judged(self, images: _Images, squares: _Squares) -> Candidates:
        """Keep what O-Net takes for faces, with its boxes: the third stage, before suppression."""
        size = _ONET_SIDE, _ONET_SIDE
        offsets, _, probabilities = images.seen_by(self.onet, images.windows(squares), size, at_a_time=_ONET_CROPS)
        passed = probabilities[:, 1] > self.thresholds[2]
        boxes = bbreg(squares.boxes[passed], offsets[passed])
        return Candidates(boxes, probabilities[passed, 1], squares.owners[passed])


def most_probable(candidates: Candidates, images: int, count: int = 1, *, average: bool = False) -> Faces:
    """Return the most probable faces of each image, after suppression of those that overlap with a more probable one.

    Of each of N images it returns K faces at most. With ``average`` a face's box is the mean of all candidates whose
    overlap with it, intersection over union, is above one half, weighted by their probabilities. Without it the one
    candidate counts that is most probable, and as probabilities saturate at 1, which one that is may be chance.
    """
    faces = Faces(candidates.boxes.new_zeros(images, count, 4), candidates.boxes.new_zeros(images, count))
    owners, sizes = torch.unique_consecutive(candidates.owners, return_counts=True)
    parts = (each.split(sizes.tolist()) for each in (candidates.boxes, candidates.probabilities))
    for owner, boxes, probabilities in zip(owners.tolist(), *parts, strict=True):
        # Several probabilities may be equal: their order is then that of facenet-pytorch.
        picked = nms_numpy(boxes.cpu().numpy(), probabilities.cpu().numpy(), _OVERLAP_IN_IMAGE, "Min")[:count]
        first = torch.from_numpy(picked.astype(np.int64)).to(boxes.device)
        found = boxes[first]
        if average:
            weights = (box_iou(found, boxes) > _OVERLAP_OF_A_FACE) * probabilities
            found = weights @ boxes / weights.sum(dim=1, keepdim=True)
        faces.boxes[owner, : len(first)], faces.probabilities[owner, : len(first)] = found, probabilities[first]
    return faces


class _Squares(NamedTuple):
    """Boxes (K, 4), and int64 (K,), ascending: the image of each."""

    boxes: Tensor
    owners: Tensor


class _Windows(NamedTuple):
    """Parts of images, all int64 (K,): the number of the image, and the edges, of which the second are exclusive."""

    owners: Tensor
    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor


class _Images:
    """Images (N, 3, H, W), laid out for averages over any of their windows."""

    def __init__(self, images: Tensor) -> None:
        count, self.channels, self.height, self.width = images.shape
        # (N H, 3 W): the rows of all images with their channels side by side
        self.rows = images.transpose(1, 2).reshape(count * self.height, self.channels * self.width)
        self.numbers = torch.arange(count, device=images.device)

    def windows(self, squares: _Squares) -> _Windows:
        """Return what the boxes cover of their images; empty where a box lies beside its image."""
        edges = np.stack(pad(squares.boxes, self.width, self.height))
        first_row, bottom, first_column, right = torch.from_numpy(edges).to(self.rows.device, torch.int64)
        return _Windows(squares.owners, first_row - 1, bottom, first_column - 1, right)

    def inside(self, squares: _Squares) -> _Squares:
        """Return the squares that cover something of their images."""
        windows = self.windows(squares)
        some = (windows.bottom > windows.top) & (windows.right > windows.left)
        return _Squares(squares.boxes[some], squares.owners[some])

    def seen_by(self, network: nn.Module, windows: _Windows, size: tuple[int, int], *, at_a_time: int) -> list[Tensor]:
        """Return a network's outputs, each (K, ...), for windows resized to ``size`` normalised as in its training."""
        parts = []
        for part in zip(*(edges.split(at_a_time) for edges in windows), strict=True):
            averages = self.averages(_Windows(*part), size).sub_(127.5).mul_(0.0078125)
            parts.append(network(averages.contiguous(memory_format=torch.channels_last)))
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def averages(self, windows: _Windows, size: tuple[int, int]) -> Tensor:
        """Resize windows as ``interpolate(mode="area")`` does, (K, 3, *size).

        Rows are summed as bags of rows, which is one call for windows of all sizes; columns by a matrix product.
        """
        count, (rows, columns) = len(windows.owners), size
        first, heights = _bins(windows.top, windows.bottom, rows)
        first += windows.owners[:, None] * self.height
        members = _runs(first.flatten(), heights.flatten())
        bags = heights.flatten().cumsum(0) - heights.flatten()
        summed = functional.embedding_bag(members, self.rows, bags, mode="sum")
        first, widths = _bins(windows.left, windows.right, columns)
        first += torch.arange(count * columns, device=first.device).view(count, columns) * self.width
        weights = summed.new_zeros(count, columns, self.width)
        weights.view(-1)[_runs(first.flatten(), widths.flatten())] = 1.0
        sums = summed.view(count, rows * self.channels, self.width) @ weights.transpose(1, 2)
        areas = (heights[:, :, None, None] * widths[:, None, None]).to(sums.dtype)
        return sums.view(count, rows, self.channels, columns).div_(areas).transpose(1, 2)


class _SlicedMaxPool(nn.Module):
    """``MaxPool2d(kernel_size, 2, ceil_mode=True)`` by maxima of slices, without indices: faster on CPUs."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, H, W) -> (N, C, ceil((H - kernel_size) / 2) + 1, ceil((W - kernel_size) / 2) + 1)."""
        return self._along(self._along(x, axis=2), axis=3)

    def _along(self, x: Tensor, *, axis: int) -> Tensor:
        """Return the largest of each ``kernel_size`` neighbours along an axis, of fewer at its end."""
        length = -(-(x.shape[axis] - self.kernel_size) // 2) + 1
        every_second = (slice(None),) * axis
        first, second, *others = (
            x[(*every_second, slice(start, start + 2 * length - 1, 2))] for start in range(self.kernel_size)
        )
        pooled = torch.empty_like(first, memory_format=torch.channels_last)
        shared = second.shape[axis]
        torch.maximum(first.narrow(axis, 0, shared), second, out=pooled.narrow(axis, 0, shared))
        pooled.narrow(axis, shared, length - shared).copy_(first.narrow(axis, shared, length - shared))
        for other in others:
            part = pooled.narrow(axis, 0, other.shape[axis])
            torch.maximum(part, other, out=part)
        return pooled


class _RowwisePReLU(nn.Module):
    """A PReLU in the channels-last layout, where PyTorch's vectorises over channels alone, however few there are."""

    def __init__(self, prelu: nn.PReLU) -> None:
        super().__init__()
        self.weight = prelu.weight

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (N, C, H, W) -> (N, C, H, W)."""
        channels_last = x.permute(0, 2, 3, 1)
        rows = channels_last.reshape(-1, x.shape[3] * x.shape[1])
        activated = functional.prelu(rows, self.weight.repeat(x.shape[3]))
        return activated.view(channels_last.shape).permute(0, 3, 1, 2)


def _bins(start: Tensor, stop: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return adaptive pooling's bins, which may overlap: first members and sizes, (K, count), for int64 (K,) spans."""
    steps = torch.arange(count, device=start.device)
    length = (stop - start)[:, None]
    first = steps * length // count
    beyond = -(-(steps + 1) * length // count)
    return start[:, None] + first, beyond - first


def _runs(first: Tensor, lengths: Tensor) -> Tensor:
    """Return runs of consecutive numbers, one after the other: (K,) and (K,) -> (sum of lengths,)."""
    ends = lengths.cumsum(0)
    shifts = (first - ends + lengths).repeat_interleave(lengths)
    return shifts.add_(torch.arange(len(shifts), device=first.device))


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float) -> Tensor:
    """Suppress non-maxima of boxes (K, 4) with scores (K,) in each group, numbered by int64 (K,), by itself.

    Where the intersection over union is above ``overlap``, the lower score goes. Returns the positions of the boxes
    that stay, by ascending group and then descending score.
    """
    order = groups.argsort(stable=True)
    sizes = torch.unique_consecutive(groups[order], return_counts=True)[1].tolist()
    if not sizes:
        return order
    parts = zip(boxes[order].split(sizes), scores[order].split(sizes), order.split(sizes), strict=True)
    return torch.cat([members[nms(box, score, overlap)] for box, score, members in parts])
