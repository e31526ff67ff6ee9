"""What one sampling run proves: from input radius to output radius and back, to and from disk."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from center_smoothing import bounds
from center_smoothing.budget import SmoothingBudget

Coverage = Literal["pointwise", "bonferroni", "dkw"]
COVERAGES: tuple[Coverage, ...] = ("pointwise", "bonferroni", "dkw")

# Covers three times the relative error of a float64 sum of up to 2^23 non-negative terms (docs/theory.md, T10):
# distances are rounded in R, in the radius of the ball around the other center, and where the two balls meet.
_ROUNDING = 1.0 + 2.0**-28


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


@dataclass(frozen=True, eq=False)
class Certificate:
    """One sampling run around one input, and every answer that it holds (theory T3 to T6).

    The promise, for an ``eps_in`` fixed beforehand: for each x' with ||x - x'||_2 <= eps_in, with probability at
    least 1 - alpha over both sampling runs, if neither abstains,
    d(center(x), center(x')) <= eps_out(eps_in).

    Attributes:
        distances: (m,) float64, ascending: d(center, f(x + noise)) of the certification outputs.
        sigma: noise level, in units of x.
        relaxation: gamma of the distance.
        budget: the sample sizes, margin and failure probabilities that were used.
        output: the smoothed output at x.
        smoothing_loss: d(f(x), center); inf where the smoothed function abstained.
    """

    distances: NDArray[np.float64] = field(repr=False)
    sigma: float
    relaxation: float
    budget: SmoothingBudget
    output: SmoothedOutput
    smoothing_loss: float

    def __post_init__(self) -> None:
        """Check what a file may have got wrong."""
        if self.distances.shape != (self.budget.m,):
            raise ValueError(
                f"distances must have shape ({self.budget.m},) for this budget, got {self.distances.shape}"
            )
        if not (np.all(self.distances >= 0.0) and np.all(self.distances[1:] >= self.distances[:-1])):
            raise ValueError("distances must be at least 0, free of NaN and in ascending order")
        if not 0.0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be a positive finite number, got {self.sigma!r}")
        if not 1.0 <= self.relaxation < math.inf:
            raise ValueError(f"relaxation must lie in [1, inf), got {self.relaxation!r}")

    @property
    def abstained(self) -> bool:
        """Whether the smoothed function abstained; then there is no certificate at any radius."""
        return self.output.abstained

    @property
    def center(self) -> Tensor:
        """The smoothed output, (*out)."""
        return self.output.center

    @property
    def factor(self) -> float:
        """The factor gamma (1 + 2 gamma): eps_out = factor * R (theory T3). 3 for a metric."""
        return self.relaxation * (1.0 + 2.0 * self.relaxation)

    @property
    def non_finite(self) -> int:
        """How many certification outputs were NaN or infinite. They count as outside every ball."""
        return int(np.isinf(self.distances).sum())

    @overload
    def eps_out(self, eps_in: float, *, coverage: Coverage = ...) -> float: ...
    @overload
    def eps_out(self, eps_in: ArrayLike, *, coverage: Coverage = ...) -> NDArray[np.float64] | float: ...
    def eps_out(self, eps_in: ArrayLike, *, coverage: Coverage = "pointwise") -> NDArray[np.float64] | float:
        """Certified output radius for an input radius, rounded up; inf where there is none (theory T3, T5).

        Args:
            eps_in: input radius or radii, at least 0, in units of x. Fixed before the distances were seen.
            coverage: ``"pointwise"``, each answer by itself fails with probability at most alpha;
                ``"bonferroni"``, all J answers of this call together do (alpha_2 / J each); ``"dkw"``, all answers
                of all calls with this coverage together do.

        Returns:
            A float for a number, else float64 (J,).

        Raises:
            ValueError: if an eps_in is negative or NaN, or the coverage unknown.
        """
        radii = _arguments("eps_in", eps_in)
        certified = np.array([self._eps_out(value, self._alpha(radii, coverage), coverage) for value in radii])
        return float(certified[0]) if np.ndim(eps_in) == 0 else certified

    @overload
    def eps_in(self, eps_out: float, *, coverage: Coverage = ...) -> float: ...
    @overload
    def eps_in(self, eps_out: ArrayLike, *, coverage: Coverage = ...) -> NDArray[np.float64] | float: ...
    def eps_in(self, eps_out: ArrayLike, *, coverage: Coverage = "pointwise") -> NDArray[np.float64] | float:
        """Largest input radius with that certified output radius, rounded down; 0 where there is none (T6).

        Args:
            eps_out: output radius or radii, at least 0. Fixed before the distances were seen.
            coverage: as in :meth:`eps_out`.

        Returns:
            A float for a number, else float64 (J,).

        Raises:
            ValueError: if an eps_out is negative or NaN, or the coverage unknown.
        """
        radii = _arguments("eps_out", eps_out)
        certified = np.array([self._eps_in(value, self._alpha(radii, coverage), coverage) for value in radii])
        return float(certified[0]) if np.ndim(eps_out) == 0 else certified

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to one ``.npz`` file, free of pickles; an existing file is replaced as a whole."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.partial")
        described = {
            "sigma": self.sigma,
            "relaxation": self.relaxation,
            "budget": self.budget.as_dict(),
            "radius": self.output.radius,
            "mass": self.output.mass,
            "abstained": self.abstained,
            "smoothing_loss": self.smoothing_loss,
        }
        with temporary.open("wb") as file:
            np.savez(
                file,
                distances=self.distances,
                center=self.center.detach().cpu().double().numpy(),
                certificate=np.array(json.dumps(described)),
            )
        os.replace(temporary, target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """Read what :meth:`save` wrote. The center comes back in float64.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it does not hold a certificate.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values: dict[str, Any] = json.loads(str(arrays["certificate"]))
                distances = np.asarray(arrays["distances"], dtype=np.float64)
                center = torch.from_numpy(np.asarray(arrays["center"], dtype=np.float64))
            return cls(
                distances=distances,
                sigma=float(values["sigma"]),
                relaxation=float(values["relaxation"]),
                budget=SmoothingBudget(**values["budget"]),
                output=SmoothedOutput(
                    center, float(values["radius"]), float(values["mass"]), bool(values["abstained"])
                ),
                smoothing_loss=float(values["smoothing_loss"]),
            )
        except FileNotFoundError:
            raise
        except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
            raise ValueError(
                f"path must be a file written by Certificate.save, got {os.fspath(path)}: {error}"
            ) from error

    def _alpha(self, arguments: NDArray[np.float64], coverage: Coverage) -> float:
        if coverage not in COVERAGES:
            raise ValueError(f"coverage must be one of {', '.join(COVERAGES)}, got {coverage!r}")
        alpha_2 = self.budget.alpha_2
        return alpha_2 / len(np.unique(arguments)) if coverage == "bonferroni" else alpha_2

    def _eps_out(self, eps_in: float, alpha_2: float, coverage: Coverage) -> float:
        p = bounds.gaussian_shift_up(0.5 + self.budget.delta, eps_in / self.sigma)
        rank = bounds.dkw_rank(self.budget.m, p, alpha_2) if coverage == "dkw" else self.budget.rank(p, alpha_2)
        if self.abstained or rank > self.budget.m:
            return math.inf
        return float(self._certified(self.distances[rank - 1]))

    def _eps_in(self, eps_out: float, alpha_2: float, coverage: Coverage) -> float:
        m = self.budget.m
        covered = int(np.searchsorted(self._certified(self.distances), eps_out, side="right"))
        covered = min(covered, m - self.non_finite)
        if self.abstained:
            return 0.0
        if coverage == "dkw" or self.budget.method == "paper":
            mass = max(0.0, covered / m - bounds.hoeffding_margin(m, alpha_2))
        else:
            mass = bounds.clopper_pearson_lower(covered, m, alpha_2)
        return self.sigma * bounds.gaussian_shift_between(0.5 + self.budget.delta, mass) * (1.0 - 1e-15)

    def _certified(self, radius: NDArray[np.float64] | np.float64) -> NDArray[np.float64] | np.float64:
        """Certified output radii factor * R, rounded up."""
        certified: NDArray[np.float64] | np.float64 = np.nextafter(radius * (self.factor * _ROUNDING), np.inf)
        return certified


def _arguments(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """A number or a sequence of numbers as float64 (J,)."""
    try:
        radii = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number or a sequence of numbers, got {values!r}") from None
    if radii.ndim != 1 or radii.size == 0:
        raise ValueError(f"{name} must be a number or a non-empty sequence of numbers, got shape {radii.shape}")
    if not np.all(radii >= 0.0):
        raise ValueError(f"{name} must be at least 0, got {values!r}")
    return radii
