"""What the algorithm needs to know of a distance between outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import prod
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from center_smoothing.distances.l2_form import L2Form

# Pairs of a block that are compared all with all: 8 comparisons for one that counts, and an eighth of the calls.
_BLOCK_PAIRED = 8
# Below it all integers are float64 numbers, from it on some become others.
_INTEGERS_END = 2.0**53


Comparison = TypeVar("Comparison", bound=Callable[..., Tensor])
Norm = Literal["l1", "l2", "linf", "l1 of l2"]
# What a class must not change where it keeps what another knows of its distance.
_OF_THE_DISTANCE = {"_embed", "_compare", "_compare_paired", "embed", "compare", "paired", "pairwise", "__call__"}


class Distance(ABC):
    """A symmetric distance with d(z, z) = 0 and d(a, c) <= relaxation * (d(a, b) + d(b, c)).

    A subclass says how an output is embedded (once, in float64) and how embedded outputs are compared, all with all
    and, if that is faster than on a diagonal, pair by pair. What is no output, see :meth:`are_outputs`, is at distance
    inf from everything, itself included (theory T9).

    Attributes:
        relaxation: gamma, at least 1; 1 for metrics and pseudometrics.
        averages: whether means and coordinate-wise medians of outputs are outputs too. :meth:`averages_of` may know
            another way to average.
        convex: whether z -> d(c, z) is convex for every c, outputs being vectors: every norm or seminorm of a
            difference is. Then a mean of outputs is no further from c than they are on average (theory T11).
        degree: of convex distances, with d(c, c + s (z - c)) <= s^degree d(c, z) for 0 <= s <= 1: 1, which follows
            from convexity, or more, such as 2 for squares. Clipping scales outputs by it.
        l2_form: how it follows from the l2 distance of outputs, or of their directions; None where it does not. Means
            are then certified in l2, and the radius is converted (theory T12).
    """

    relaxation: float = 1.0
    averages: bool = True
    convex: bool = False
    degree: float = 1.0
    l2_form: L2Form | None = None

    @property
    def norm(self) -> Norm | None:
        """Which norm of L(a - b) it is, where outputs are embedded by a linear map L; None where by none.

        "l1", "l2" and "linf" are of all numbers, "l1 of l2" is the sum over the last axis of the l2 norms over the
        others. Means have sharper certificates with one (theory T12).
        """
        return None

    def box_radius(self, center: Tensor, low: Tensor, high: Tensor) -> float:
        """Bound d(center, y) for low <= y <= high, up to rounding as of distances; medians need it (theory T14).

        Args:
            center: (*out) float64, finite.
            low: the same, nowhere above the center.
            high: the same, nowhere below the center.

        Raises:
            ValueError: for a distance that has no such bound, see :attr:`bounds_boxes`.
        """
        raise ValueError(f"distance must be one that is bounded over boxes, got {self!r}")

    @property
    def bounds_boxes(self) -> bool:
        """Whether :meth:`box_radius` has a bound."""
        return type(self).box_radius is not Distance.box_radius

    def __init_subclass__(cls) -> None:
        """Drop what is inherited and need not hold where a subclass embeds or compares anew."""
        super().__init_subclass__()
        if "_compare" in vars(cls) and "_compare_paired" not in vars(cls):
            cls._compare_paired = Distance._compare_paired  # type: ignore[method-assign]  # chosen by class
        if not _OF_THE_DISTANCE.isdisjoint(vars(cls)):
            for name in {"norm", "l2_form", "box_radius"} - set(vars(cls)):
                setattr(cls, name, getattr(Distance, name))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return distances of paired outputs: (N, *out), (N, *out) -> (N,) float64."""
        _check_paired(a, b)
        return self.paired(self.embed(a), self.embed(b))

    def pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """Return all distances: (N, *out), (K, *out) -> (N, K) float64."""
        return self.compare(self.embed(a), self.embed(b))

    def embed(self, z: Tensor) -> Tensor:
        """Map outputs (N, *out) to what :meth:`compare` takes, (N, *embedded) in float64.

        What is no output becomes NaN. In float64 the difference of two float32 numbers is exact unless one is more
        than 2^28 times the other. ValueError for outputs without numbers, and for those that float64 does not hold.
        """
        if prod(z.shape[1:]) == 0:
            raise ValueError(f"outputs must not be empty, got shape {tuple(z.shape)}")
        if len(z) == 0:
            return self.embed(z.new_zeros((1, *z.shape[1:])))[:0]
        wide = to_float64(z)
        finite = _rows_are_finite(wide.flatten(1))
        embedded = self._embed(wide.clone() if wide is z else wide)  # it may work in place
        finite = finite & _rows_are_finite(embedded.flatten(1))
        if _known_at_once(finite) and bool(finite.all()):
            return embedded
        return embedded.masked_fill(~finite.reshape(-1, *[1] * (embedded.ndim - 1)), torch.nan)

    def are_outputs(self, z: Tensor) -> Tensor:
        """Say which of (N, *out) are outputs, (N,) bool: those that are finite, and finite when embedded.

        So a distance whose :meth:`_embed` maps finite numbers to NaN says that they are none.
        """
        return ~_is_nan(self.embed(z))

    def only_outputs(self, z: Tensor) -> Tensor:
        """Set rows of (N, *out) that are no outputs to NaN, so that averages of them are not finite either."""
        rows = self.are_outputs(z).to(z.device).reshape(-1, *[1] * (z.ndim - 1))
        if _known_at_once(rows) and bool(rows.all()):
            return z
        return (z if z.is_floating_point() else to_float64(z)).masked_fill(~rows, torch.nan)

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """Return all distances of embedded outputs: (N, *embedded), (K, *embedded) -> (N, K) float64."""
        if len(a) == 0 or len(b) == 0:
            return a.new_empty((len(a), len(b)), dtype=torch.float64)
        return self._finished(self._compare, a, b, _is_nan(a)[:, None] | _is_nan(b)[None, :])

    def paired(self, a: Tensor, b: Tensor) -> Tensor:
        """Return distances of paired embedded outputs: (N, *embedded), (N, *embedded) -> (N,) float64.

        The diagonal of :meth:`compare`, up to rounding. ValueError if a and b differ in shape.
        """
        _check_paired(a, b)
        if len(a) == 0:
            return a.new_empty(0, dtype=torch.float64)
        return self._finished(self._compare_paired, a, b, _is_nan(a) | _is_nan(b))

    def _finished(
        self, compare: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, not_finite: Tensor
    ) -> Tensor:
        """Compare embedded outputs, which others are compared with afterwards; inf where one is no output."""
        before = _version(a), _version(b)
        distances = compare(a, b)
        if (_version(a), _version(b)) != before:
            raise ValueError(f"{self!r} must leave the outputs that it compares as they are: a - b, and not a.sub_(b)")
        return distances.masked_fill(not_finite, torch.inf).nan_to_num(torch.inf, torch.inf, torch.inf)

    def encoded(self, model: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        """Return a model whose outputs are tensors that this distance takes; here the model itself."""
        return model

    def averages_of(self, outputs: Tensor) -> Tensor:
        """Return points likely to lie in the middle of outputs: further candidates for the center (theory T2).

        Here the mean and the coordinate-wise median of floating-point outputs, where ``averages`` is true. From
        (k, *out), k at least 1, all of them outputs, to (A, *out) of the same dtype; A at most 2, as the bound on
        abstentions assumes. Overflow is permitted.
        """
        if not self.averages or not outputs.is_floating_point():
            return outputs[:0]
        ordered = outputs.sort(dim=0).values
        median = (ordered[(len(outputs) - 1) // 2] + ordered[len(outputs) // 2]) / 2
        return torch.stack([outputs.mean(dim=0), median])

    def averages_of_tuples(self, outputs: Tensor) -> Tensor:
        """Return one output in the middle of each tuple of outputs: further candidates for the center (theory T7).

        Here the mean, added up in the tuple's order and the outputs' own type: it depends on nothing else in the
        tensor, as theory T7 needs.

        Args:
            outputs: (T, J, *out) floating-point, J at least 1, with NaN for what is no output. A tuple that is not
                finite has an average that is not.

        Returns:
            (T, *out) of the same dtype. Overflow is permitted.

        Raises:
            ValueError: where ``averages`` is false, or for outputs that are no such tuples.
        """
        self._check_tuples(outputs)
        return sum_over_tuples(outputs) / outputs.shape[1]

    def aggregate(self, outputs: Tensor) -> Tensor:
        """Return one output for each group: what a smoothed function of groups is made of (theory T13).

        The mean (:meth:`averages_of_tuples`) where floating-point outputs can be averaged, else the medoid: the output
        with the least sum of distances to the others, of several the first. :meth:`_aggregate` may know another way.
        From (N, J, *out), J at least 1, to (N, *out) of the same dtype. A group depends on nothing else in the tensor.
        Of one that holds what is no output, it is the first such (theory T9).

        Example:
            >>> from center_smoothing import Lp
            >>> Lp(2).aggregate(torch.tensor([[[0.0], [1.0], [5.0]]])), Lp(2).aggregate(torch.tensor([[[0], [1], [5]]]))
            (tensor([[2.]]), tensor([[1]]))
        """
        valid = self.are_outputs(outputs.flatten(0, 1)).reshape(outputs.shape[:2]).to(outputs.device)
        if _known_at_once(valid) and bool(valid.all()):
            return self._aggregate(outputs)
        rows, first = torch.arange(len(outputs), device=outputs.device), valid.to(torch.uint8).argmin(dim=1)
        shape = (-1, *[1] * (outputs.ndim - 2))
        return torch.where(valid.all(dim=1).reshape(shape), self._aggregate(outputs), outputs[rows, first])

    def _aggregate(self, outputs: Tensor) -> Tensor:
        """Aggregate (N, J, *out) -> (N, *out) of the same dtype; groups with what is no output are overwritten."""
        if self.averages and outputs.is_floating_point():
            return self.averages_of_tuples(outputs)
        members = self.embed(outputs.flatten(0, 1))
        members = members.reshape(*outputs.shape[:2], *members.shape[1:])
        sums = members.new_zeros(outputs.shape[:2])
        for j in range(outputs.shape[1]):
            others = members[:, [j]].expand_as(members)
            sums += self.paired(members.flatten(0, 1), others.flatten(0, 1)).reshape(sums.shape)
        medoids = sums.argmin(dim=1).to(outputs.device)
        return outputs[torch.arange(len(outputs), device=outputs.device), medoids]

    def _check_tuples(self, outputs: Tensor) -> None:
        if not self.averages:
            raise ValueError(f"distance must be one whose outputs can be averaged, got {self!r}")
        if not outputs.is_floating_point() or outputs.ndim < 3 or outputs.shape[1] < 1:
            raise ValueError(
                "outputs must be floating-point tuples (T, J, *out) with J at least 1, "
                f"got {outputs.dtype} of shape {tuple(outputs.shape)}"
            )

    @abstractmethod
    def _embed(self, z: Tensor) -> Tensor:
        """Embed (N, *out) float64 -> (N, *embedded) float64, not finite for what is no output; that is overwritten."""

    @abstractmethod
    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare all with all: (N, *embedded), (K, *embedded) -> (N, K)."""

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare pairs: (N, *embedded), (N, *embedded) -> (N,). Override it with its ``_compare``."""
        blocks = zip(_full_blocks(a), _full_blocks(b), strict=True)
        return torch.cat([self._compare(first, second).diagonal() for first, second in blocks])[: len(a)]

    def __repr__(self) -> str:
        """Return the class name and parameters, as one would type them."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def to_float64(z: Tensor) -> Tensor:
    """Return the same numbers in float64; ValueError for complex numbers, and for integers of 2^53 or more."""
    if z.is_complex():
        raise ValueError(f"outputs must be real numbers, got {z.dtype}; torch.view_as_real makes two of each")
    try:
        wide = z.to(torch.float64)
    except TypeError:  # a device without float64
        wide = z.cpu().to(torch.float64)
    if z.dtype in (torch.int64, torch.uint64) and bool((wide.abs() >= _INTEGERS_END).any()):
        raise ValueError(f"outputs must be numbers that float64 holds, got {z.dtype} of 2^53 or more")
    return wide


def radius_at_corner(self: Distance, center: Tensor, low: Tensor, high: Tensor) -> float:
    """Return the distance to the corner furthest in each coordinate, for distances that grow with each |a_i - b_i|."""
    return float(self(center[None], torch.where(high - center > center - low, high, low)[None]))


def one_with_one(compare: Comparison) -> Comparison:
    """Make a ``_compare_paired`` of a ``_compare`` by ``torch.cdist``: N batches of one with one.

    Without an intermediate result, and with the digits of all with all.
    """
    return cast(Comparison, lambda self, a, b: compare(self, a.unsqueeze(1), b.unsqueeze(1))[:, 0, 0])


def replace_where(values: Tensor, mask: Tensor, better: Callable[[Tensor | slice], Tensor]) -> Tensor:
    """Replace, perhaps in place, the values (N, ...) that a mask of the same shape marks.

    ``better`` maps a choice of some of the N rows to better values (chosen, ...). Rows that the mask leaves alone are
    left out if they are known without waiting for a device.
    """
    if not _known_at_once(mask):
        return torch.where(mask, better(slice(None)), values)
    rows = mask.reshape(len(mask), -1).any(dim=1).nonzero()[:, 0]
    if len(rows) > 0:
        if values.requires_grad:
            values = values.clone()  # what made them may need them for its gradient
        values[rows] = torch.where(mask[rows], better(rows), values[rows])
    return values


def _known_at_once(mask: Tensor) -> bool:
    """Return whether a number can be read without waiting for all that a device still has to do."""
    return mask.is_cpu


def _rows_are_finite(z: Tensor) -> Tensor:
    """Ask if rows are finite: (N, D) -> (N,). Both extremes are NaN where one number is; faster than to ask each."""
    finite = torch.isfinite(z.sum(dim=1))  # faster still, but sums of finite numbers may overflow
    if _known_at_once(finite) and bool(finite.all()):
        return finite
    return torch.isfinite(z.amin(dim=1)) & torch.isfinite(z.amax(dim=1))


def _version(z: Tensor) -> int:
    """Count how often a tensor was changed in place; 0 where PyTorch does not count."""
    return 0 if z.is_inference() else z._version


def _check_paired(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")


def _is_nan(embedded: Tensor) -> Tensor:
    """Return which rows are NaN, from one coordinate of each: (N, *embedded) -> (N,)."""
    return torch.isnan(embedded.flatten(1)[:, 0])


def _full_blocks(embedded: Tensor) -> tuple[Tensor, ...]:
    """Split (N, *embedded) into blocks (8, *embedded), the last filled up with its own first row.

    Threads add up one long row in another order than many: in blocks of one size it does not matter how many there are.
    """
    blocks = torch.split(embedded, _BLOCK_PAIRED)
    last = blocks[-1]
    filling = last[:1].expand(-len(last) % _BLOCK_PAIRED, *last.shape[1:])
    return (*blocks[:-1], torch.cat([last, filling]))


def sum_over_tuples(outputs: Tensor) -> Tensor:
    """Add (T, J, *out) -> (T, *out) in the order of the tuple: sum() may add in another order in another tensor."""
    total = outputs[:, 0].clone()
    for output in outputs.unbind(dim=1)[1:]:
        total += output
    return total
