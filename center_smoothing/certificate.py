"""What one sampling run proves: from input radius to output radius and back, to and from disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from center_smoothing.budget import COVERAGES, Coverage, Ranks, SmoothingBudget
from center_smoothing.certification_sample import ProbeDistances, kept_ranks
from center_smoothing.files import atomic_write
from center_smoothing.safe_arrays import read_npz

# Covers three times the relative error of a float64 sum of up to 2^23 non-negative terms (docs/theory.md, T10):
# distances are rounded in R, in the radius of the ball around the other center, and where the two balls meet.
ROUNDING = 1.0 + 2.0**-28
# Largest h of which eps_in is asked, far beyond what samples can certify.
_LARGEST_H = 64.0


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

    The promise, for one ``eps_in`` and one x' with ||x - x'||_2 <= eps_in, fixed beforehand: with probability at least
    1 - alpha over the noise of both runs, d(center(x), center(x')) <= eps_out(eps_in), unless one of the two abstains.

    Attributes:
        distances: (m,) float64, ascending: d(center, f(x + noise)) of the certification outputs; m is one of the
            budget's ``look_sizes``.
        sigma: noise level, in units of x.
        relaxation: gamma of the distance.
        budget: the sample sizes, margin and failure probabilities that were used.
        output: the smoothed output at x.
        smoothing_loss: d(f(x), center); inf where the smoothed function abstained.
        probes: distances of the probes by tuple size (theory T7); may be empty.
    """

    distances: NDArray[np.float64] = field(repr=False)
    sigma: float
    relaxation: float
    budget: SmoothingBudget
    output: SmoothedOutput
    smoothing_loss: float
    probes: ProbeDistances = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check what a file may have got wrong."""
        sizes = self.budget.look_sizes
        if self.distances.ndim != 1 or len(self.distances) not in sizes:
            wanted = " or ".join(f"({size},)" for size in sizes)
            raise ValueError(f"distances must have shape {wanted} for this budget, got {self.distances.shape}")
        if not _is_ascending(self.distances):
            raise ValueError("distances must be at least 0, free of NaN and in ascending order")
        if not 0.0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be a positive finite number, got {self.sigma!r}")
        if not 1.0 <= self.relaxation < math.inf:
            raise ValueError(f"relaxation must lie in [1, inf), got {self.relaxation!r}")
        if not set(self.probes) <= set(self.budget.tuple_sizes):
            raise ValueError(f"probes must be of tuple sizes {self.budget.tuple_sizes}, got {tuple(self.probes)}")
        for size, kept in self.probes.items():
            shape = (self.used_budget.probes, len(kept_ranks(self.used_budget.compared(self.m))))
            if kept.shape != shape or not _is_ascending(kept):
                raise ValueError(f"probes[{size}] must have shape {shape} and ascend along its columns")

    @cached_property
    def used_budget(self) -> SmoothingBudget:
        """The budget with the tuple sizes that there are probes of."""
        return self.budget.with_sizes(sorted(self.probes))

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
        return len(self.distances)

    @property
    def factor(self) -> float:
        """The factor gamma (1 + 2 gamma) of theory T3: eps_out is at most factor * R. 3 R for a metric."""
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
        radii = as_radii("eps_in", eps_in)
        answers = _answers(radii, coverage)
        certified = np.array([self._eps_out(value / self.sigma, coverage, answers) for value in radii])
        return float(certified[0]) if np.ndim(eps_in) == 0 else certified

    @overload
    def eps_in(self, eps_out: float, *, coverage: Coverage = ...) -> float: ...
    @overload
    def eps_in(self, eps_out: ArrayLike, *, coverage: Coverage = ...) -> NDArray[np.float64] | float: ...
    def eps_in(self, eps_out: ArrayLike, *, coverage: Coverage = "pointwise") -> NDArray[np.float64] | float:
        """Input radius up to which the certified output radius stays within that, rounded down; 0 for none (T6).

        Args:
            eps_out: output radius or radii, at least 0. Fixed before the distances were seen.
            coverage: as in :meth:`eps_out`.

        Returns:
            A float for a number, else float64 (J,).

        Raises:
            ValueError: if an eps_out is negative or NaN, or the coverage unknown.
        """
        radii = as_radii("eps_out", eps_out)
        answers = _answers(radii, coverage)
        certified = np.array([self._eps_in(value, coverage, answers) for value in radii])
        return float(certified[0]) if np.ndim(eps_out) == 0 else certified

    def theorem(self, eps_in: float) -> str:
        """Which statement of docs/theory.md gives the pointwise eps_out(eps_in): "T7, J=1,2", say, or "T3"."""
        used = [str(size) for size, _, _ in self._ranks(float(eps_in) / self.sigma, "pointwise", 1).probes]
        return f"T7, J={','.join(used)}" if used else "T3"

    def kept_arrays(self) -> dict[str, NDArray[Any]]:
        """What besides the distances and the output answers questions, by name; :meth:`from_kept` takes it back."""
        kept = {f"probes_{size}": rows for size, rows in self.probes.items()}
        return {"probe_sizes": np.array(sorted(self.probes), dtype=np.int64), **kept}

    @classmethod
    def from_kept(
        cls,
        distances: NDArray[np.float64],
        kept: Mapping[str, NDArray[Any]],
        *,
        sigma: float,
        relaxation: float,
        budget: SmoothingBudget,
        output: SmoothedOutput,
        smoothing_loss: float,
    ) -> Certificate:
        """A certificate from its distances and :meth:`kept_arrays`; arrays of other names are passed over.

        Raises:
            KeyError: if an array is missing.
            ValueError: as the class does.
        """
        sizes = [int(size) for size in kept["probe_sizes"]]
        return cls(
            distances=distances,
            sigma=sigma,
            relaxation=relaxation,
            budget=budget,
            output=output,
            smoothing_loss=smoothing_loss,
            probes={size: np.asarray(kept[f"probes_{size}"], dtype=np.float32) for size in sizes},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to one ``.npz`` file, free of pickles; an existing file is replaced as a whole."""
        described = {
            "sigma": self.sigma,
            "relaxation": self.relaxation,
            "budget": self.budget.as_dict(),
            "radius": self.output.radius,
            "mass": self.output.mass,
            "abstained": self.abstained,
            "smoothing_loss": self.smoothing_loss,
        }
        write_npz(path, described, {**self.kept_arrays(), "distances": self.distances, "center": self.center})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """Read what :meth:`save` wrote. The center comes back in float64.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it does not hold a certificate.
        """
        try:
            arrays = read_npz(path)
            values: dict[str, Any] = json.loads(str(arrays["certificate"]))
            distances = np.asarray(arrays["distances"], dtype=np.float64)
            center = torch.from_numpy(np.asarray(arrays["center"], dtype=np.float64))
            kept = {name: array for name, array in arrays.items() if name.startswith("probe")}
            return cls.from_kept(
                distances,
                kept_with(kept, values["budget"]),
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

    def _ranks(self, h: float, coverage: Coverage, answers: int) -> Ranks:
        return self.used_budget.ranks(h, m=self.m, coverage=coverage, answers=answers)

    def _eps_out(self, h: float, coverage: Coverage, answers: int) -> float:
        if self.abstained:
            return math.inf
        return self.radius_at(self._ranks(h, coverage, answers))

    def radius_at(self, ranks: Ranks, *, upwards: bool = True) -> float:
        """eps_out = gamma (R + min(2 gamma R, t)), rounded up, from the order statistics of these ranks (T3, T7).

        Args:
            ranks: one beyond the sample stands for inf, one below 1 for 0.
            upwards: of the probes' distances only some ranks are kept; whether to take the next one above, as a
                certificate has to, or below.
        """
        if ranks.distances > self.m:
            return math.inf
        gamma, radius = self.relaxation, _at_rank(self.distances, ranks.distances)
        other = min((self._probe_distance(*found, upwards=upwards) for found in ranks.probes), default=math.inf)
        return math.nextafter(gamma * (radius + min(2.0 * gamma * radius, other)) * ROUNDING, math.inf)

    def _probe_distance(self, size: int, among: int, within: int, *, upwards: bool) -> float:
        """The t of theory T7: the among-th smallest over the probes of their within-th smallest distances."""
        kept = kept_ranks(self.used_budget.compared(self.m))
        if upwards:
            column = int(np.searchsorted(kept, within))
        else:
            column = int(np.searchsorted(kept, within, side="right")) - 1
        return _at_rank(self.probes[size][:, column], among) if column >= 0 else 0.0

    def _eps_in(self, eps_out: float, coverage: Coverage, answers: int) -> float:
        """Sigma times the h at which the curve first exceeds eps_out (theory T6)."""

        def within(h: float) -> bool:
            certified = self._eps_out(h, coverage, answers)
            return certified <= eps_out and certified < math.inf

        if not within(0.0):
            return 0.0
        # where probes stop to help, R takes all of alpha_2: the curve ascends on either side, but perhaps not across
        end = _last(lambda h: bool(self._ranks(h, coverage, answers).probes), 0.0, _LARGEST_H)
        certified = _last(within, 0.0, end)
        if certified == end:
            certified = _last(within, end, _LARGEST_H)
        return self.sigma * certified * (1.0 - 1e-15)


def write_npz(path: str | os.PathLike[str], described: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write arrays and plain values to one file without pickles; an existing file is replaced as a whole.

    Args:
        path: of the file.
        described: values for JSON, kept as the array "certificate".
        arrays: of any shapes by name; tensors are written in float64.
    """
    plain: dict[str, Any] = {
        name: array.detach().cpu().double().numpy() if isinstance(array, Tensor) else array
        for name, array in arrays.items()
    }
    atomic_write(path, lambda file: np.savez(file, certificate=np.array(json.dumps(described)), **plain))


def kept_with(kept: Mapping[str, NDArray[Any]], budget: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
    """Kept arrays for :meth:`Certificate.from_kept`, of a file with this budget; old files have no probes.

    Args:
        kept: arrays of the file by name.
        budget: plain values, as the file has them.
    """
    return kept if "tuple_sizes" in budget else {"probe_sizes": np.zeros(0)}


def _is_ascending(values: NDArray[Any]) -> bool:
    """Along the first axis; at least 0, and without NaN."""
    return bool(np.all(values >= 0.0) and np.all(values[1:] >= values[:-1]))


def _at_rank(ascending: NDArray[Any], rank: int) -> float:
    return float(ascending[rank - 1]) if rank >= 1 else 0.0


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest h between the two at which it holds, rounded down, if it holds from ``low`` to there and not beyond.

    ``low`` where it holds nowhere.
    """
    if not holds(low):
        return low
    if holds(high):
        return high
    while high - low > 1e-12 * max(high, 1e-3):
        middle = (low + high) / 2.0
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _answers(arguments: NDArray[np.float64], coverage: Coverage) -> int:
    """How many distinct arguments there are; checks the coverage."""
    if coverage not in COVERAGES:
        raise ValueError(f"coverage must be one of {', '.join(COVERAGES)}, got {coverage!r}")
    return len(np.unique(arguments))


def as_radii(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """A number or a sequence of numbers as float64 (J,)."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
    try:
        radii = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number or a sequence of numbers, got {values!r}") from None
    if radii.ndim != 1 or radii.size == 0:
        raise ValueError(f"{name} must be a number or a non-empty sequence of numbers, got shape {radii.shape}")
    if not np.all(radii >= 0.0):
        raise ValueError(f"{name} must be at least 0, got {values!r}")
    return radii
