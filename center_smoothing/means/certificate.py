"""What one sampling run proves of a mean: from input radius to output radius and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from center_smoothing import bounds
from center_smoothing.budget import Coverage
from center_smoothing.certificate_base import ROUNDING, CertificateBase, last_where
from center_smoothing.distances.l2_form import L2_FORMS, L2Form
from center_smoothing.means.budget import MeanBudget
from center_smoothing.means.directions import DirectionalMoments

# Covers the rounding of a mean of up to 2^16 outputs, relative to their norms (docs/theory.md, T11).
_MEAN_ROUNDING = 2.0**-36


@dataclass(frozen=True, eq=False)
class MeanOutput:
    """The mean smoothed function at one input (theory T11).

    Attributes:
        center: (*out) float64, the mean of n outputs; zeros where it abstained.
        abstained: whether one of the n outputs was not finite, or their sum overflowed.
    """

    center: Tensor = field(repr=False)
    abstained: bool


@dataclass(frozen=True, eq=False, repr=False)
class MeanCertificate(CertificateBase):
    """One sampling run around one input, and every answer that it holds (theory T11 and T12).

    The promise, for one x' fixed beforehand: with probability at least 1 - alpha over the noise of both runs,
    d(center(x), center(x')) <= eps_out(eps_in) for all eps_in >= ||x - x'|| together, in the norm of the ``threat``,
    unless one of the two abstains.

    Further attributes are those of :class:`center_smoothing.CertificateBase`.

    Attributes:
        distances: (m / group,), of the certification outputs or of means of ``group`` of them each. In l2, as the bound
            and the moments are, with an ``l2_form``.
        bound: B, which no distance from the center exceeds. Non-finite outputs count as if at B.
        moments: of the certification outputs along each direction (theory T12); None where the distance is no norm.
        l2_form: how the distance follows from the l2 distance; None where everything is in the distance itself.
        center_norm: ||center||, on which radii depend with an ``l2_form``.
    """

    distances: NDArray[np.float64] = field(repr=False)
    sigma: float
    bound: float
    budget: MeanBudget
    output: MeanOutput
    smoothing_loss: float
    moments: DirectionalMoments | None = None
    l2_form: L2Form | None = None
    center_norm: float = 0.0
    threat: str = "l2"
    conversion: float = 1.0

    non_finite_count_as: ClassVar[str] = "at the bound on distances"
    _BUDGET: ClassVar[str] = "mean_budget"

    def __post_init__(self) -> None:
        """Check what a file may have got wrong."""
        self._check_arguments((self.budget.num_distances,), positive=("sigma", "bound"))
        if not 0.0 <= self.center_norm < math.inf:
            raise ValueError(f"center_norm must be a finite number of at least 0, got {self.center_norm!r}")

    @property
    def m(self) -> int:
        """How many certification outputs were drawn."""
        return self.budget.m

    def theorem(self, eps_in: float, *, coverage: Coverage = "pointwise", answers: int = 1) -> str:
        """Return which statement of docs/theory.md gives eps_out(eps_in): "T11" or "T12"."""
        h = self.h_of(eps_in)
        return "T12" if self._by_directions(h) < self._by_distances(h) else "T11"

    def kept_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the bound, the moments and what converts radii by name."""
        kept: dict[str, NDArray[Any]] = {"bound": np.array(self.bound, dtype=np.float64)}
        if self.moments is not None:
            kept["moments"] = self.moments.as_array()
        if self.l2_form is not None:
            kept |= {"l2_form": np.array(self.l2_form.name), "center_norm": np.array(self.center_norm)}
        return {**kept, **super().kept_arrays()}

    @classmethod
    def _own(cls, kept: Mapping[str, Any], described: Mapping[str, Any], center: Tensor) -> dict[str, Any]:
        return {
            "bound": float(kept["bound"]),
            "budget": MeanBudget.from_dict(described["budget"]),
            "output": MeanOutput(center, bool(described["abstained"])),
            "moments": DirectionalMoments.from_array(kept["moments"]) if "moments" in kept else None,
            "l2_form": L2_FORMS[str(kept["l2_form"])] if "l2_form" in kept else None,
            "center_norm": float(kept.get("center_norm", 0.0)),
        }

    def _described(self) -> dict[str, float]:
        return {"bound": self.bound}

    @cached_property
    def _steps(self) -> tuple[NDArray[np.float64], bounds.MeanBound]:
        """The tails at x, and what bounds a mean of distances that have these tails after their shift."""
        budget = self._part
        edges, tails = tail_steps(self.distances, self.bound, budget)
        return tails, bounds.MeanBound(edges, budget.num_terms, budget.alpha_1)

    @property
    def _part(self) -> MeanBudget:
        """The budget that each of the two theorems has for itself."""
        return self.budget if self.moments is None else self.budget.shared()

    def _eps_out(self, h: float, coverage: Coverage = "dkw", answers: int = 1) -> float:
        """Return the certified output radius at h; all answers hold together, whatever was asked for."""
        if self.abstained:
            return math.inf
        moved = min(self._by_distances(h), self._by_directions(h))
        rounded = max(_MEAN_ROUNDING, self.budget.n * 2.0**-52) * self.bound
        radius = math.nextafter((moved + rounded) * ROUNDING, math.inf)
        return radius if self.l2_form is None else self.l2_form.radius(radius, self.center_norm)

    def _by_distances(self, h: float) -> float:
        """Return how far the mean moves at most, by the distances from it (T11)."""
        tails, mean_bound = self._steps
        return mean_bound(bounds.gaussian_shifts_up(tails, self.budget.shift(h)))

    def _by_directions(self, h: float) -> float:
        """Return how far the mean moves at most, by the moments along each direction (T12)."""
        if self.moments is None:
            return math.inf
        part = self._part
        return self.moments.radius(h, n=part.n, bound=self.bound, alpha_1=part.alpha_1, alpha_2=part.alpha_2)

    def _last_h(self, within: Callable[[float], bool], coverage: Coverage, answers: int) -> float:
        if within(math.inf):
            return math.inf
        high = 1.0
        while within(high):
            high *= 2.0
        return last_where(within, 0.0 if high == 1.0 else high / 2.0, high)


def tail_steps(
    distances: NDArray[np.float64], bound: float, budget: MeanBudget
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a step function that lies above t -> P[distance > t] on [0, bound), but with probability alpha_2.

    From distances (m / group,), ascending, to edges (J + 2,) from 0 to the bound and heights (J + 1,) between them. Up
    to the first sample the height is 1, beyond the largest it is the last one.
    """
    ranks, tails = budget.tails()
    samples = np.minimum(distances[ranks - 1], bound)
    return np.array([0.0, *samples, bound]), np.array([1.0, *tails])
