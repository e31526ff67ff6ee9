"""What one sampling run proves of a mean: from input radius to output radius and back, to and from disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from center_smoothing import bounds
from center_smoothing.budget import COVERAGES, Coverage
from center_smoothing.certificate import ROUNDING, as_radii, write_npz
from center_smoothing.means.budget import MeanBudget
from center_smoothing.safe_arrays import read_npz

# Covers the rounding of a mean of up to 2^16 outputs, relative to their norms (docs/theory.md, T11).
_MEAN_ROUNDING = 2.0**-36
# Halvings of an interval of h: after these it is narrower than float64 can tell.
_HALVINGS = 60


@dataclass(frozen=True, eq=False)
class MeanOutput:
    """The mean smoothed function at one input (theory T11).

    Attributes:
        center: (*out) float64, the mean of n outputs; zeros where it abstained.
        abstained: whether one of the n outputs was not finite, or their sum overflowed.
    """

    center: Tensor = field(repr=False)
    abstained: bool


@dataclass(frozen=True, eq=False)
class MeanCertificate:
    """One sampling run around one input, and every answer that it holds (theory T11).

    The promise, for one x' fixed beforehand: with probability at least 1 - alpha over the noise of both runs,
    d(center(x), center(x')) <= eps_out(eps_in) for all eps_in >= ||x - x'||_2 together, unless one of the two abstains.

    Attributes:
        distances: (m / group,) float64, ascending: d(center, f(x + noise)) of the certification outputs, or of means of
            ``group`` of them each; inf where one was not finite.
        sigma: noise level, in units of x.
        bound: B, which no distance from the center exceeds. Non-finite outputs count as if at B.
        budget: the sample sizes and failure probabilities that were used.
        output: the smoothed output at x.
        smoothing_loss: d(f(x), center); inf where the smoothed function abstained.
    """

    distances: NDArray[np.float64] = field(repr=False)
    sigma: float
    bound: float
    budget: MeanBudget
    output: MeanOutput
    smoothing_loss: float

    def __post_init__(self) -> None:
        """Check what a file may have got wrong."""
        count = self.budget.num_distances
        if self.distances.shape != (count,):
            raise ValueError(f"distances must have shape ({count},) for this budget, got {self.distances.shape}")
        if not (np.all(self.distances >= 0.0) and np.all(self.distances[1:] >= self.distances[:-1])):
            raise ValueError("distances must be at least 0, free of NaN and in ascending order")
        for name in ("sigma", "bound"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive finite number, got {getattr(self, name)!r}")

    @property
    def abstained(self) -> bool:
        """Whether the smoothed function abstained; then there is no certificate at any radius."""
        return self.output.abstained

    @property
    def center(self) -> Tensor:
        """The smoothed output, (*out)."""
        return self.output.center

    @property
    def m(self) -> int:
        """How many certification outputs were drawn."""
        return self.budget.m

    @property
    def non_finite(self) -> int:
        """How many of the distances are those of NaN or infinite outputs. They count as if at the bound."""
        return int(np.isinf(self.distances).sum())

    @overload
    def eps_out(self, eps_in: float, *, coverage: Coverage = ...) -> float: ...
    @overload
    def eps_out(self, eps_in: ArrayLike, *, coverage: Coverage = ...) -> NDArray[np.float64] | float: ...
    def eps_out(self, eps_in: ArrayLike, *, coverage: Coverage = "pointwise") -> NDArray[np.float64] | float:
        """Certified output radius for an input radius, rounded up (theory T11); inf where the function abstained.

        Args:
            eps_in: input radius or radii, at least 0, in units of x.
            coverage: ``"pointwise"``, ``"bonferroni"`` or ``"dkw"``, for the same answers: all answers of all calls
                hold together in any case.

        Returns:
            A float for a number, else float64 (J,).

        Raises:
            ValueError: if an eps_in is negative or NaN, or the coverage unknown.
        """
        radii = as_radii("eps_in", eps_in)
        _check_coverage(coverage)
        certified = np.array([self._eps_out(value / self.sigma) for value in radii.tolist()])
        return float(certified[0]) if np.ndim(eps_in) == 0 else certified

    @overload
    def eps_in(self, eps_out: float, *, coverage: Coverage = ...) -> float: ...
    @overload
    def eps_in(self, eps_out: ArrayLike, *, coverage: Coverage = ...) -> NDArray[np.float64] | float: ...
    def eps_in(self, eps_out: ArrayLike, *, coverage: Coverage = "pointwise") -> NDArray[np.float64] | float:
        """Largest input radius with that certified output radius, rounded down; 0 where there is none.

        Where no two outputs are further apart than eps_out, as the bound tells, it is inf.

        Args:
            eps_out: output radius or radii, at least 0.
            coverage: as in :meth:`eps_out`.

        Returns:
            A float for a number, else float64 (J,).

        Raises:
            ValueError: if an eps_out is negative or NaN, or the coverage unknown.
        """
        radii = as_radii("eps_out", eps_out)
        _check_coverage(coverage)
        certified = np.array([self._eps_in(value) for value in radii.tolist()])
        return float(certified[0]) if np.ndim(eps_out) == 0 else certified

    def kept_arrays(self) -> dict[str, NDArray[Any]]:
        """What besides the distances and the output answers questions, by name; :meth:`from_kept` takes it back."""
        return {"bound": np.array(self.bound, dtype=np.float64)}

    @classmethod
    def from_kept(
        cls,
        distances: NDArray[np.float64],
        kept: Mapping[str, NDArray[Any]],
        *,
        sigma: float,
        budget: MeanBudget,
        output: MeanOutput,
        smoothing_loss: float,
    ) -> MeanCertificate:
        """A certificate from its distances and :meth:`kept_arrays`; arrays of other names are passed over.

        Raises:
            KeyError: if an array is missing.
            ValueError: as the class does.
        """
        return cls(
            distances=distances,
            sigma=sigma,
            bound=float(kept["bound"]),
            budget=budget,
            output=output,
            smoothing_loss=smoothing_loss,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to one ``.npz`` file, free of pickles; an existing file is replaced as a whole."""
        described = {
            "sigma": self.sigma,
            "bound": self.bound,
            "mean_budget": self.budget.as_dict(),
            "abstained": self.abstained,
            "smoothing_loss": self.smoothing_loss,
        }
        write_npz(path, described, {"distances": self.distances, "center": self.center})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MeanCertificate:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it does not hold a certificate of a mean.
        """
        try:
            arrays = read_npz(path)
            values: dict[str, Any] = json.loads(str(arrays["certificate"]))
            distances = np.asarray(arrays["distances"], dtype=np.float64)
            center = torch.from_numpy(np.asarray(arrays["center"], dtype=np.float64))
            return cls(
                distances=distances,
                sigma=float(values["sigma"]),
                bound=float(values["bound"]),
                budget=MeanBudget(**values["mean_budget"]),
                output=MeanOutput(center, bool(values["abstained"])),
                smoothing_loss=float(values["smoothing_loss"]),
            )
        except FileNotFoundError:
            raise
        except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
            raise ValueError(
                f"path must be a file written by MeanCertificate.save, got {os.fspath(path)}: {error}"
            ) from error

    @cached_property
    def _steps(self) -> tuple[NDArray[np.float64], bounds.MeanBound]:
        """The tails at x, and what bounds a mean of distances that have these tails after their shift."""
        edges, tails = tail_steps(self.distances, self.bound, self.budget)
        return tails, bounds.MeanBound(edges, self.budget.num_terms, self.budget.alpha_1)

    def _eps_out(self, h: float) -> float:
        if self.abstained:
            return math.inf
        tails, mean_bound = self._steps
        mean = mean_bound(bounds.gaussian_shifts_up(tails, self.budget.shift(h)))
        rounded = max(_MEAN_ROUNDING, self.budget.n * 2.0**-52) * self.bound
        return math.nextafter((mean + rounded) * ROUNDING, math.inf)

    def _eps_in(self, eps_out: float) -> float:
        if self.abstained or self._eps_out(0.0) > eps_out:
            return 0.0
        if self._eps_out(math.inf) <= eps_out:
            return math.inf
        low, high = 0.0, 1.0
        while self._eps_out(high) <= eps_out:
            low, high = high, 2.0 * high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self._eps_out(middle) <= eps_out else (low, middle)
        return self.sigma * low * (1.0 - 1e-15)


def tail_steps(
    distances: NDArray[np.float64], bound: float, budget: MeanBudget
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A step function that lies above t -> P[distance > t] on [0, bound), except with probability at most alpha_2.

    Args:
        distances: (m / group,), ascending.
        bound: what no distance exceeds, save for those of non-finite outputs.
        budget: which ranks are used, and the bounds there.

    Returns:
        Edges (J + 2,) from 0 to the bound, and the heights (J + 1,) between them. Up to the first sample the height
        is 1, beyond the largest it is the last one.
    """
    ranks, tails = budget.tails()
    samples = np.minimum(distances[ranks - 1], bound)
    return np.array([0.0, *samples, bound]), np.array([1.0, *tails])


def _check_coverage(coverage: Coverage) -> None:
    if coverage not in COVERAGES:
        raise ValueError(f"coverage must be one of {', '.join(COVERAGES)}, got {coverage!r}")
