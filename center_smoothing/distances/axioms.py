"""Whether a distance is one, with the relaxation that it declares, on given outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from center_smoothing.distances.base import Distance
from center_smoothing.distances.named import as_distance

# Outputs of which all triples are looked at.
_MAX_OUTPUTS = 60
# What rounding does to sums of 2^20 terms, and less than any error of a formula.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class DistanceCheck:
    """What :func:`check_distance` found.

    Attributes:
        distance: as it prints.
        relaxation: gamma that was tried.
        needed_relaxation: the least gamma that holds on these outputs; inf if none does. Others may need a larger one.
        triple: which outputs a, b, c need it, d(a, c) <= gamma (d(a, b) + d(b, c)), as places in the tensor.
        num_outputs: how many were compared, all with all.
        wrong: what is wrong, in words.
        broken: whether the relaxed triangle inequality is among it.
    """

    distance: str
    relaxation: float
    needed_relaxation: float
    triple: tuple[int, int, int]
    num_outputs: int
    wrong: tuple[str, ...]
    broken: bool

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    @property
    def seen(self) -> str:
        """What was measured, in a line."""
        found = f"all axioms hold, the relaxation that all triples need is {self.needed_relaxation:.3g}"
        return f"{self.distance} on {self.num_outputs} outputs: {'; '.join(self.wrong) or found}"

    @property
    def advice(self) -> str:
        """What to do about it; empty if nothing is wrong."""
        if self.passed:
            return ""
        if not self.broken or len(self.wrong) > 1 or math.isinf(self.needed_relaxation):
            return "mend the distance"
        return f"mend the distance, or declare a relaxation of {math.ceil(1e3 * self.needed_relaxation) / 1e3:g}"

    def __str__(self) -> str:
        return self.seen if self.passed else f"{self.seen}; {self.advice}"


def check_distance(
    distance: Distance | Callable[[Tensor, Tensor], Tensor], outputs: Tensor, relaxation: float | None = None
) -> DistanceCheck:
    """Try the axioms of a distance on outputs of a model: every certificate takes them for granted.

    These are: finite and at least 0 between finite outputs, exactly 0 from each output to itself, symmetric, the same
    pair by pair as all with all, and d(a, c) <= gamma (d(a, b) + d(b, c)) for all triples. A failure proves that
    certificates with this distance mean nothing. A pass proves nothing: know a proof of the inequality. Of outputs that
    can be averaged, give points between two of them too: there squares need their relaxation of 2.

    Args:
        distance: to be tried, or a function of paired outputs.
        outputs: (N, *out). Those that are not finite, or no outputs for the distance, are passed over; of more than 60
            others, 60 are taken, evenly.
        relaxation: gamma to try; default: what the distance declares.

    Raises:
        ValueError: for fewer than three finite outputs, and for a relaxation below 1.

    Example:
        >>> from center_smoothing import SquaredL2
        >>> print(check_distance(SquaredL2(), torch.tensor([[0.0], [1.0], [2.0]]), relaxation=1.0))
        SquaredL2() on 3 outputs: d(a, c) = 2 (d(a, b) + d(b, c)) for outputs (0, 1, 2), with relaxation 1; mend the distance, or declare a relaxation of 2
    """  # noqa: E501  # what is printed is one line
    distance = as_distance(distance, undeclared=1.0)
    gamma = distance.relaxation if relaxation is None else relaxation
    if not 1.0 <= gamma < math.inf:
        raise ValueError(f"relaxation must lie in [1, inf), got {gamma!r}")
    places = distance.are_outputs(outputs).nonzero()[:, 0].cpu()
    if len(places) < 3:
        raise ValueError(f"outputs must be at least 3 that are finite, got {len(places)} of {len(outputs)}")
    if len(places) > _MAX_OUTPUTS:
        places = places[torch.linspace(0, len(places) - 1, _MAX_OUTPUTS).long()]
    points = outputs[places.to(outputs.device)]
    found, paired = distance.pairwise(points, points), distance(points, points.flip(0))
    wrong = _wrong(found, paired)
    needed, triple = needed_relaxation(found)
    a, b, c = (int(places[index]) for index in triple)
    broken = needed > gamma * (1.0 + _ROUNDING)
    if broken:
        wrong.append(f"d(a, c) = {needed:.4g} (d(a, b) + d(b, c)) for outputs {(a, b, c)}, with relaxation {gamma:g}")
    return DistanceCheck(repr(distance), float(gamma), needed, (a, b, c), len(places), tuple(wrong), broken)


def _wrong(found: Tensor, paired: Tensor) -> list[str]:
    """Say what is wrong with distances (N, N) of all with all, and (N,) of each with the one in the mirrored place."""
    scale = float(found.nan_to_num(posinf=0.0).max()) or 1.0
    wrong = []
    if not bool(torch.isfinite(found).all() & torch.isfinite(paired).all()):
        wrong.append("not finite between finite outputs")
    if bool((found < 0.0).any()):
        wrong.append(f"negative, {float(found.min()):.3g}")
    if float(found.diagonal().abs().max()) > 0.0:
        wrong.append(f"{float(found.diagonal().max()):.3g} from an output to itself")
    if float((found - found.T).abs().max()) > _ROUNDING * scale:
        wrong.append("not symmetric")
    if float((paired - found.flip(1).diagonal()).abs().max()) > _ROUNDING * scale:
        wrong.append("another one pair by pair than all with all")
    return wrong


def needed_relaxation(distances: Tensor) -> tuple[float, tuple[int, int, int]]:
    """Return the least gamma with d(a, c) <= gamma (d(a, b) + d(b, c)) for all triples of (N, N), and one of them."""
    sums = distances[:, :, None] + distances[None, :, :]  # (a, b, c)
    ratios = torch.where(sums > 0.0, distances[:, None, :] / sums, torch.where(distances[:, None, :] > 0, torch.inf, 0))
    ratios = ratios.nan_to_num(nan=0.0, posinf=torch.inf)
    a, b, c = (int(index) for index in torch.unravel_index(ratios.argmax(), ratios.shape))
    return float(ratios[a, b, c]), (a, b, c)
