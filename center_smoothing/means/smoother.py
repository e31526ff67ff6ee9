"""Mean smoothing: the smoothed function and its certificate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from center_smoothing.certificate_base import ROUNDING
from center_smoothing.distances.angular import directions_of
from center_smoothing.distances.base import Distance, to_float64
from center_smoothing.distances.lp import Lp
from center_smoothing.distances.named import DistanceLike, as_distance
from center_smoothing.means.budget import MeanBudget
from center_smoothing.means.certificate import MeanCertificate, MeanOutput
from center_smoothing.means.directions import Directions, outputs_at_once
from center_smoothing.noise import BLOCK, Point, Stage, as_point, check_point
from center_smoothing.sampling import BaseFunction, Sampling, regrouped
from center_smoothing.scalars import format_up, plain, rounded_up
from center_smoothing.smoother_base import Smoother, StoppingRule

# Outputs are scaled to a little less than the clipping norm, or rounding would leave half of them beyond it.
_SHRINK = 1.0 - 2.0**-30


class MeanSmoother(Smoother):
    """Smooths a base function f into the mean of its noisy outputs.

    This is another function than the center that :class:`CenterSmoother` gives, with certificates of its own
    (theory T11 and T12). It takes a distance that is convex in the output and a bound on distances, one of
    ``clip_norm`` and ``bound``; or a distance of the directions of outputs alone, ``Angular()`` or ``Cosine()``: then
    outputs are scaled to l2 norm 1, zero outputs stay zero, and no bound is given.

    Args:
        model: the base function, any callable (N, *in) -> (N, *out). Modules are put in eval mode for each call, and
            back. Outputs of one call must not depend on each other.
        distance: between outputs, or its name such as "l2", one of ``DISTANCES``.
        sigma: noise level, in units of x.
        budget: sample sizes and failure probabilities; default ``MeanBudget()``.
        clip_norm: outputs z with d(0, z) above it are scaled towards zero, down to it. The clipped model is what is
            smoothed, so that x must not be known when it is chosen; the smaller, the better the certificates at
            large h.
        bound: a promise of yours that no two outputs are further apart.
        sampling: how noisy outputs are drawn, see :class:`center_smoothing.Smoother`.
            Here the noise depends on x too.

    Raises:
        ValueError: for a distance that it does not take, for both or none of clip_norm and bound where one is needed,
            for any of them where none is, and for arguments out of range.
    """

    kind = "mean"
    follows_mean = True
    budget_type = MeanBudget
    certificate_type = MeanCertificate
    needs = "that is convex in the output or depends on directions alone"
    why = "by that distance a mean may be further away than each of its outputs"
    budget: MeanBudget

    def __init__(
        self,
        model: BaseFunction,
        distance: DistanceLike,
        *,
        sigma: float,
        budget: MeanBudget | None = None,
        clip_norm: float | None = None,
        bound: float | None = None,
        **sampling: Unpack[Sampling],
    ) -> None:
        distance = as_distance(distance)
        self.check_distance(distance)
        given, needs_bound = sum(value is not None for value in (clip_norm, bound)), self.needs_bound(distance)
        if given > 0 and not needs_bound:
            raise ValueError(
                f"clip_norm and bound must be left out with {distance!r}, whose means are of outputs of norm 1; "
                f"got clip_norm={clip_norm!r} and bound={bound!r}"
            )
        if given != 1 and needs_bound:
            raise ValueError(
                "give either clip_norm, to scale outputs z with d(0, z) > clip_norm towards zero, or bound, if you "
                f"know that no two outputs are further apart; got clip_norm={clip_norm!r} and bound={bound!r}"
            )
        self.budget = MeanBudget() if budget is None else budget
        self.clip_norm = None if clip_norm is None else _positive("clip_norm", clip_norm)
        self.bound = None if bound is None else _positive("bound", bound)
        # what means are certified in, and what no output exceeds in it; None where that is not known
        self._norm: Distance = distance if distance.l2_form is None else Lp(2.0)
        self._reach: float | None = None
        after: Callable[[Tensor], Tensor] | None = None
        if not needs_bound:
            self._reach, after = 1.0, directions_of
        elif self.clip_norm is not None:
            self._reach = _in_norm(self.clip_norm, distance)
            after = partial(clip, distance=distance, norm=self.clip_norm)
        super().__init__(model, distance, after=after, sigma=sigma, **sampling)

    @classmethod
    def takes(cls, distance: Distance) -> bool:
        """Return whether a distance is convex in the output, or depends on the directions of outputs alone."""
        return distance.convex or not cls.needs_bound(distance)

    @classmethod
    def needs_bound(cls, distance: Distance) -> bool:
        """Return whether outputs are taken as they are, and not scaled to norm 1, which bounds them."""
        return distance.l2_form is None or distance.l2_form.inverse is not None

    @property
    def config(self) -> dict[str, Any]:
        """Whether means are of outputs that are scaled to norm 1."""
        return {} if self.needs_bound(self.distance) else {"normalised": True}

    @property
    def largest_bound(self) -> float:
        """What B is at most, at whatever x (theory T11); in l2 where the distance has an ``l2_form``."""
        return self._bound_around(self._reach)

    def smooth(self, x: Point, *, example: int = 0) -> MeanOutput:
        """Return the mean of n outputs at x, see :meth:`Smoother.smooth`; x determines the noise too.

        It abstains where one of the n is no output (T9): not finite, say.
        """
        x = as_point(x)
        return self._mean(x, _key(x, example))[0]

    def smooth_alike(self, x: Point, other: Point, *, example: int = 0) -> MeanOutput:
        """Return the mean at x of outputs under the noise at another point, see :meth:`Smoother.smooth_alike`."""
        return self._mean(as_point(x), _key(as_point(other), example))[0]

    def certify(self, x: Point, *, example: int = 0, stop: StoppingRule | None = None) -> MeanCertificate:
        """Return the smoothed function at x and what holds around it (theory T11, T12), see :meth:`Smoother.certify`.

        A mean has one look, so that ``stop`` is never asked.

        Raises:
            ValueError: as in :meth:`smooth`, and if an output is further away than ``bound``, or than ``clip_norm``
                and a distance that is what it declares permit.
        """
        x = as_point(x)
        output, pilot = self._mean(x, _key(x, example))
        norm = self._norm(torch.zeros_like(output.center)[None], output.center[None]).item()
        bound, directions = self._bound_around(norm), None
        if self._norm.norm is not None and not output.abstained:
            count = self.budget.num_fourth_moments
            directions = Directions(self._norm, output.center, pilot, fourth_count=count)
        return MeanCertificate(
            distances=self._distances(x, example, output, bound, directions),
            sigma=self.sigma,
            bound=bound,
            budget=self.budget,
            output=output,
            smoothing_loss=self._smoothing_loss(x, output),
            moments=None if directions is None else directions.moments(),
            l2_form=self.distance.l2_form,
            center_norm=0.0 if self.distance.l2_form is None else norm,  # by some distances zero is no output
            **self._measures(x),
        )

    @property
    def plan_settings(self) -> str:
        """What bounds the outputs."""
        if not self.needs_bound(self.distance):
            return "outputs of norm 1"
        return f"output_bound={self.bound:g}" if self.clip_norm is None else f"clip_norm={self.clip_norm:g}"

    def plan_table(self, h: Sequence[float]) -> list[str]:
        """Return what T11 and T12 add at each h to what samples show, as text under a heading."""
        bound, has_both = self.largest_bound, self._norm.norm is not None
        heading = f"{'tail':>9} {'tail * B':>9}"
        heading += f" {'K/n * B':>9} {'moments':>9} {'spread':>9}" if has_both else ""
        lines = [f"{heading}  what no sample shows, B <= {rounded_up(bound)}"]
        for each in h:
            tail = (self.budget.shared() if has_both else self.budget).plan(each).tail_at_bound
            line = f"{rounded_up(tail, 6):>9} {format_up(tail * bound):>9}"
            if has_both:
                moments, spread, outside = self.budget.unseen(each)
                line += f" {format_up(outside * bound):>9}"
                line += "".join(f" {f'{rounded_up(part, 4)} b':>9}" for part in (moments, spread))
            lines.append(line)
        return lines

    def _mean(self, x: Tensor, key: int) -> tuple[MeanOutput, Tensor]:
        """Return the mean of n outputs, and the first of these (N, *out)."""
        pilot: list[Tensor] = []
        total = torch.zeros(())
        for block in map(to_float64, regrouped(self._draw(x, key, Stage.MEAN, self.budget.n), BLOCK)):
            if len(pilot) * BLOCK < outputs_at_once(block[0].numel()):
                pilot.append(block)
            total = block.sum(dim=0) + total.to(block.device)
        mean = total / self.budget.n
        abstained = not bool(torch.isfinite(mean).all())
        return MeanOutput(torch.zeros_like(mean) if abstained else mean, abstained), torch.cat(pilot)

    def _draw(self, x: Tensor, key: int, stage: Stage, count: int) -> Iterator[Tensor]:
        """Yield outputs (N, *out) in batches, with NaN for what is none: in a mean it could not be told any more."""
        return map(self.distance.only_outputs, self.outputs.draw(x, example=key, stage=stage, count=count))

    def _bound_around(self, norm: float | None) -> float:
        """Return B, which no computed distance from a center of this norm exceeds, rounded up (theory T11)."""
        if self._reach is None or norm is None:
            assert self.bound is not None  # one of the two is given
            return _in_norm(self.bound, self.distance) * ROUNDING
        return self._norm.relaxation * (norm + self._reach) * ROUNDING

    def _distances(
        self, x: Tensor, example: int, output: MeanOutput, bound: float, directions: Directions | None
    ) -> NDArray[np.float64]:
        """Return distances (m / group,), ascending, from the center to means of groups of fresh outputs."""
        parts = []
        embedded = self._norm.embed(output.center.unsqueeze(0))
        draws = self._draw(x, _key(x, example), Stage.CERTIFICATION, self.budget.m)
        if directions is not None:
            draws = _added(draws, directions, outputs_at_once(output.center.numel()))
        for outputs in _averaged(draws, self.budget.group):
            part = self._norm.compare(self._norm.embed(outputs), embedded)[:, 0]
            if not output.abstained:
                self._check_within(bound, part, outputs)
            parts.append(part.cpu().numpy())
        return np.sort(np.concatenate(parts))

    def _check_within(self, bound: float, distances: Tensor, outputs: Tensor) -> None:
        """Raise ValueError if finite outputs (N, *out) lie further away than B."""
        beyond = distances > bound
        if bool(beyond.any()):
            beyond &= torch.isfinite(outputs).flatten(1).all(dim=1).to(beyond.device)
        if not bool(beyond.any()):
            return
        found = f"the {self._norm!r} from the mean to an output is {float(distances[beyond].max())}"
        if self.bound is not None:
            raise ValueError(
                f"bound must be at least every distance between two outputs, got {self.bound!r}, but {found}; give a "
                "bound that holds"
                + (", or clip_norm instead, which makes one" if _has_zero(self.distance, outputs) else "")
            )
        raise ValueError(
            f"distance must be convex in the output, of the degree and relaxation it declares, got one by which {found}"
            f", beyond B={bound} of outputs clipped to {self.clip_norm}"
        )


def distances_from_zero(outputs: Tensor, distance: Distance) -> Tensor:
    """Return d(0, z) of each output z, what ``clip_norm`` bounds: (N, *out) -> (N,).

    ValueError for a distance that takes no output of zeros, as those of probability vectors.
    """
    if not _has_zero(distance, outputs):
        raise ValueError(
            f"clip_norm must be left out with {distance!r}, by which zero is no output to scale others towards; give "
            "bound instead, the largest distance between two outputs"
        )
    return distance.compare(distance.embed(outputs), distance.embed(torch.zeros_like(outputs[:1])))[:, 0]


def clip(outputs: Tensor, distance: Distance, norm: float) -> Tensor:
    """Scale outputs z with d(0, z) > norm towards zero, so that no computed d(0, z) exceeds the norm (theory T11).

    By convexity d(0, s z) <= s d(0, z) for 0 <= s <= 1, or s^degree d(0, z) for a distance of another degree. What
    rounding leaves beyond the norm becomes zero, and so do finite outputs whose distance overflows.

    From (N, *out) to the same in float64; non-finite outputs stay so. Errors are those of :func:`distances_from_zero`.

    Example:
        >>> clip(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), Lp(2), 1.0).norm(dim=1)
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    outputs = to_float64(outputs)
    lengths = distances_from_zero(outputs, distance).reshape(-1, *[1] * (outputs.ndim - 1))
    far = (lengths > norm).flatten()
    if not bool(far.any()):
        return outputs
    # a number over a tensor is its product with a reciprocal, which may overflow
    factors = lengths.new_tensor(norm) / lengths[far]
    if distance.degree != 1.0:
        factors = factors ** (1.0 / distance.degree)
    scaled = outputs[far] * (factors * _SHRINK)
    kept = distances_from_zero(scaled, distance) <= norm
    scaled = scaled * kept.reshape(-1, *[1] * (scaled.ndim - 1))  # a factor of 0 keeps NaN
    clipped = outputs.clone()
    clipped[far] = scaled
    return clipped


def _in_norm(value: float, distance: Distance) -> float:
    """Return what a value of a distance is in what means are certified in."""
    form = distance.l2_form
    return value if form is None or form.inverse is None else form.inverse(value)


def _has_zero(distance: Distance, outputs: Tensor) -> bool:
    """Return whether zeros, of the shape of outputs (N, *out), are an output of the distance."""
    return bool(distance.are_outputs(outputs.new_zeros((1, *outputs.shape[1:]))))


def _positive(name: str, value: float) -> float:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")
    return float(value)


def _key(x: Tensor, example: int) -> int:
    """Return a number for the noise of this example at this x: the promise needs independent noise at x'."""
    check_point(x)
    digest = hashlib.blake2b(f"{example}/{x.dtype}/{tuple(x.shape)}/".encode(), digest_size=16)
    digest.update(x.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest(), "big")


def _added(batches: Iterator[Tensor], directions: Directions, size: int) -> Iterator[Tensor]:
    """Yield the same rows, each once it is added to the moments."""
    for rows in regrouped(batches, size):
        directions.add(rows)
        yield rows


def _averaged(batches: Iterator[Tensor], group: int) -> Iterator[Tensor]:
    """Yield means of ``group`` consecutive rows each; the rows themselves for 1."""
    if group == 1:
        yield from batches
        return
    for rows in regrouped(batches, group * max(1, BLOCK // group)):
        yield to_float64(rows).reshape(-1, group, *rows.shape[1:]).mean(dim=1)
