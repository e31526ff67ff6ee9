"""What one sampling run proves of a center: from input radius to output radius and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from center_smoothing.budget import Coverage, Ranks, SmoothingBudget, theorem
from center_smoothing.certificate_base import LARGEST_H, ROUNDING, CertificateBase, is_ascending, last_where
from center_smoothing.certification_sample import ProbeDistances, kept_ranks


@dataclass(frozen=True, eq=False)
class SmoothedOutput:
    """The smoothed function at one input (theory T1).

    Attributes:
        center: (*out), the center of a ball that holds about half of the outputs' mass; always finite.
        radius: radius of that ball; inf where more than half of the ranked outputs were not finite.
        mass: lower confidence bound on the ball's mass.
        abstained: whether the check failed. Nothing is promised of a center that abstained.
    """

    center: Tensor = field(repr=False)
    radius: float
    mass: float
    abstained: bool


def output_radius(radius: float, other: float, gamma: float) -> float:
    """Return eps_out = gamma (R + min(2 gamma R, t)), rounded up (theory T3, T7): 3 R for a metric without probes.

    The ball B(center, R) holds more than half of the outputs at every attacked x', and so does a ball around the center
    at x', whose radius the probes bound by t, inf without any. They meet. For a metric gamma is 1.

    Example:
        >>> round(output_radius(1.0, math.inf, 1.0), 6), round(output_radius(1.0, 1.5, 1.0), 6)
        (3.0, 2.5)
    """
    return math.nextafter(gamma * (radius + min(2.0 * gamma * radius, other)) * ROUNDING, math.inf)


@dataclass(frozen=True, eq=False, repr=False)
class Certificate(CertificateBase):
    """One sampling run around one input, and every answer that it holds (theory T3 to T6).

    The promise, for one ``eps_in`` and one x' with ||x - x'|| <= eps_in in the norm of ``threat``, fixed beforehand:
    with probability at least 1 - alpha over the noise of both runs, d(center(x), center(x')) <= eps_out(eps_in), unless
    one of the two abstains.

    Other attributes are those of every certificate, see :class:`CertificateBase`.

    Attributes:
        distances: (m,) float64, ascending: d(center, f(x + noise)) of the certification outputs; m is one of the
            budget's ``look_sizes``.
        relaxation: gamma of the distance.
        probes: distances of the probes by tuple size (theory T7); may be empty.
    """

    distances: NDArray[np.float64] = field(repr=False)
    sigma: float
    relaxation: float
    budget: SmoothingBudget
    output: SmoothedOutput
    smoothing_loss: float
    probes: ProbeDistances = field(default_factory=dict, repr=False)
    threat: str = "l2"
    conversion: float = 1.0

    non_finite_count_as: ClassVar[str] = "outside every ball"

    def __post_init__(self) -> None:
        """Check what a file may have got wrong."""
        self._check_arguments(self.budget.look_sizes)
        if not 1.0 <= self.relaxation < math.inf:
            raise ValueError(f"relaxation must lie in [1, inf), got {self.relaxation!r}")
        if not set(self.probes) <= set(self.budget.tuple_sizes):
            raise ValueError(f"probes must be of tuple sizes {self.budget.tuple_sizes}, got {tuple(self.probes)}")
        for size, kept in self.probes.items():
            shape = (self.used_budget.probes, len(kept_ranks(self.used_budget.compared(self.m))))
            if kept.shape != shape or not is_ascending(kept):
                raise ValueError(f"probes[{size}] must have shape {shape} and ascend along its columns")

    @cached_property
    def used_budget(self) -> SmoothingBudget:
        """The budget with the tuple sizes that there are probes of."""
        return self.budget.with_sizes(sorted(self.probes))

    @property
    def m(self) -> int:
        """How many certification outputs were drawn."""
        return len(self.distances)

    @property
    def factor(self) -> float:
        """The factor gamma (1 + 2 gamma) of theory T3: eps_out is at most factor * R. 3 R for a metric."""
        return self.relaxation * (1.0 + 2.0 * self.relaxation)

    def theorem(self, eps_in: float, *, coverage: Coverage = "pointwise", answers: int = 1) -> str:
        """Return "T7 J=1+2", say, or "T3"."""
        return theorem([size for size, _, _ in self._ranks(self.h_of(eps_in), coverage, answers).probes])

    def kept_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the probes' distances by name, for :meth:`from_kept`."""
        kept = {f"probes_{size}": rows for size, rows in self.probes.items()}
        return {"probe_sizes": np.array(sorted(self.probes), dtype=np.int64), **kept, **super().kept_arrays()}

    @classmethod
    def _own(cls, kept: Mapping[str, Any], described: Mapping[str, Any], center: Tensor) -> dict[str, Any]:
        budget = SmoothingBudget.from_dict(described["budget"])
        sizes = [int(size) for size in kept["probe_sizes"]] if budget.tuple_sizes else []
        radius, mass = (float(described.get(name, math.nan)) for name in ("radius", "mass"))
        return {
            "relaxation": float(described["relaxation"]),
            "budget": budget,
            "output": SmoothedOutput(center, radius, mass, bool(described["abstained"])),
            "probes": {size: np.asarray(kept[f"probes_{size}"], dtype=np.float32) for size in sizes},
        }

    def _described(self) -> dict[str, float]:
        return {"relaxation": self.relaxation, "radius": self.output.radius, "mass": self.output.mass}

    def _ranks(self, h: float, coverage: Coverage, answers: int) -> Ranks:
        return self.used_budget.ranks(h, m=self.m, coverage=coverage, answers=answers)

    def _eps_out(self, h: float, coverage: Coverage, answers: int) -> float:
        return math.inf if self.abstained else self.radius_at(self._ranks(h, coverage, answers))

    def radius_at(self, ranks: Ranks, *, upwards: bool = True) -> float:
        """Return the :func:`output_radius` that the order statistics of these ranks give (theory T3, T7).

        Args:
            ranks: one beyond the sample stands for inf, one below 1 for 0.
            upwards: of the probes' distances only some ranks are kept; whether to take the next one above, as a
                certificate has to, or below.
        """
        if ranks.distances > self.m:
            return math.inf
        other = min((self._probe_distance(*found, upwards=upwards) for found in ranks.probes), default=math.inf)
        return output_radius(_at_rank(self.distances, ranks.distances), other, self.relaxation)

    def _probe_distance(self, size: int, among: int, within: int, *, upwards: bool) -> float:
        """Return the t of theory T7: the among-th smallest over the probes of their within-th smallest distances."""
        kept = kept_ranks(self.used_budget.compared(self.m))
        column = int(np.searchsorted(kept, within) if upwards else np.searchsorted(kept, within, side="right") - 1)
        return _at_rank(self.probes[size][:, column], among) if column >= 0 else 0.0

    def _last_h(self, within: Callable[[float], bool], coverage: Coverage, answers: int) -> float:
        if not within(0.0):
            return 0.0
        # where probes stop to help, R takes all of alpha_2: the curve ascends on either side, but perhaps not across
        end = last_where(lambda h: bool(self._ranks(h, coverage, answers).probes), 0.0, LARGEST_H)
        certified = last_where(within, 0.0, end)
        return last_where(within, end, LARGEST_H) if certified == end else certified


def _at_rank(ascending: NDArray[Any], rank: int) -> float:
    return float(ascending[rank - 1]) if rank >= 1 else 0.0
