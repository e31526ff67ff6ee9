"""What certificates of all kinds share: answers in both directions, checks, and the way to disk and back."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from center_smoothing.budget import COVERAGES, Budget, Coverage
from center_smoothing.files import atomic_write
from center_smoothing.safe_arrays import read_npz
from center_smoothing.scalars import format_up
from center_smoothing.threats import NORMS

# Covers three times the relative error of a float64 sum of up to 2^23 non-negative terms (docs/theory.md, T10):
# distances are rounded in R, in the radius of the ball around the other center, and where the two balls meet.
ROUNDING = 1.0 + 2.0**-28
# Largest h of which eps_in is asked, far beyond what samples can certify.
LARGEST_H = 64.0
# The h of the table that a notebook shows, and up to where the curve is drawn, with so many steps.
_ROWS = (0.5, 1.0, 1.5, 2.0)
_END, _STEPS = 3.0, 60


class Output(Protocol):
    """The smoothed function at one input: its output (*out), and whether it abstained."""

    @property
    def center(self) -> Tensor: ...  # noqa: D102
    @property
    def abstained(self) -> bool: ...  # noqa: D102


class CertificateBase(ABC):
    """One sampling run around one input, and every answer that it holds.

    Attributes:
        distances: float64, ascending: of the certification outputs from the center; inf where one was not finite.
        sigma: noise level, in units of x.
        budget: the sample sizes and failure probabilities that were used.
        output: the smoothed output at x.
        smoothing_loss: d(f(x), center); inf where the smoothed function abstained.
        threat: the norm that eps_in is measured in, one of ``center_smoothing.threats.NORMS``.
        conversion: how many times larger changes may be in the norm of the noise: h is conversion * eps_in / sigma.
        non_finite_count_as: how NaN and infinite outputs count, in words.
    """

    distances: NDArray[np.float64]
    sigma: float
    budget: Budget
    output: Output
    smoothing_loss: float
    threat: str
    conversion: float

    non_finite_count_as: ClassVar[str]
    _BUDGET: ClassVar[str] = "budget"  # its name in a file, by which kinds are told apart

    @property
    @abstractmethod
    def m(self) -> int:
        """How many certification outputs were drawn."""

    @property
    def abstained(self) -> bool:
        """Whether the smoothed function abstained; then there is no certificate at any radius."""
        return self.output.abstained

    @property
    def center(self) -> Tensor:
        """The smoothed output, (*out)."""
        return self.output.center

    @property
    def non_finite(self) -> int:
        """How many of the distances are those of NaN or infinite outputs."""
        return int(np.isinf(self.distances).sum())

    @overload
    def eps_out(self, eps_in: float, *, coverage: Coverage = ...) -> float: ...
    @overload
    def eps_out(self, *, h: float, coverage: Coverage = ...) -> float: ...
    @overload
    def eps_out(self, eps_in: ArrayLike, *, coverage: Coverage = ...) -> NDArray[np.float64] | float: ...
    @overload
    def eps_out(self, *, h: ArrayLike, coverage: Coverage = ...) -> NDArray[np.float64] | float: ...
    def eps_out(
        self, eps_in: ArrayLike | None = None, *, h: ArrayLike | None = None, coverage: Coverage = "pointwise"
    ) -> NDArray[np.float64] | float:
        """Return the certified output radius for an input radius, rounded up; inf where there is none.

        Args:
            eps_in: input radius or radii, at least 0, in units of x. Fixed before the distances were seen.
            h: the same in units of sigma and in the norm of the noise: conversion * eps_in / sigma, eps_in / sigma if
                nothing was said of a threat. One of the two is given.
            coverage: ``"pointwise"``, each answer by itself fails with probability at most alpha;
                ``"bonferroni"``, all J answers of this call together do (alpha_2 / J each); ``"dkw"``, all answers
                of all calls with this coverage together do. Of a mean all answers hold together in any case.

        Returns:
            A float for a number, else float64 (J,).

        Raises:
            ValueError: if an eps_in or h is negative or NaN, if both or none are given, or the coverage is unknown.

        Example:
            >>> from center_smoothing import CenterSmoother, SmoothingBudget
            >>> smoother = CenterSmoother(lambda z: 2 * z, "l2", sigma=0.25, budget=SmoothingBudget.quick())
            >>> certificate = smoother.certify(torch.zeros(3))
            >>> certificate.eps_out(h=2) == certificate.eps_out(0.5) > certificate.eps_out(h=1)
            True
        """
        if (eps_in is None) == (h is None):
            raise ValueError(
                f"eps_in must be given, in units of x, or h in its place, in units of sigma={self.sigma:g}, got "
                f"eps_in={eps_in!r} and h={h!r}"
            )
        name, asked, to_h = ("eps_in", eps_in, self.h_of) if h is None else ("h", h, float)
        assert asked is not None
        return self._answer(name, asked, coverage, lambda value, answers: self._eps_out(to_h(value), coverage, answers))

    @overload
    def eps_in(self, eps_out: float, *, coverage: Coverage = ...) -> float: ...
    @overload
    def eps_in(self, eps_out: ArrayLike, *, coverage: Coverage = ...) -> NDArray[np.float64] | float: ...
    def eps_in(self, eps_out: ArrayLike, *, coverage: Coverage = "pointwise") -> NDArray[np.float64] | float:
        """Return the input radius up to which the certified output radius stays within that (theory T6).

        Output radii, errors and the coverage are as in :meth:`eps_out`.

        Returns:
            A float for a number, else float64 (J,). Rounded down, 0 where there is none; inf where the smoothed output
            never moves by more than eps_out, as the bound of a mean may tell.
        """
        return self._answer("eps_out", eps_out, coverage, lambda value, answers: self._eps_in(value, coverage, answers))

    def box(self, eps_in: float, *, coverage: Coverage = "pointwise", answers: int = 1) -> tuple[Tensor, Tensor] | None:
        """Return between which numbers each coordinate of the smoothed output stays; None where no box is certified.

        Arguments are those of :meth:`theorem`. Lower and upper ends are (*out) each, infinite where there are none. All
        coordinates hold together.
        """
        return None

    def h_of(self, eps_in: float) -> float:
        """Return an input radius, in units of x and the norm of the threat, in units of sigma and that of the noise."""
        return self.conversion * float(eps_in) / self.sigma

    @abstractmethod
    def theorem(self, eps_in: float, *, coverage: Coverage = "pointwise", answers: int = 1) -> str:
        """Return which statement of docs/theory.md gives eps_out(eps_in): "T3", say.

        Args:
            eps_in: input radius, at least 0, in units of x.
            coverage: of the answer, as in :meth:`eps_out`.
            answers: how many distinct eps_in are asked together, counted for ``"bonferroni"``.
        """

    def kept_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what besides the distances and the output answers questions, by name, for :meth:`from_kept`."""
        usual = self.threat == self.budget.noise_kind.norm and self.conversion == 1.0
        return {} if usual else {"conversion": np.array(self.conversion)}

    @classmethod
    def from_kept(
        cls,
        distances: NDArray[np.float64],
        kept: Mapping[str, Any],
        described: Mapping[str, Any],
        *,
        center: Tensor,
    ) -> Self:
        """Return a certificate from what was kept of it.

        Args:
            distances: of the certificate.
            kept: :meth:`kept_arrays`; arrays of other names are passed over.
            described: plain values: sigma, budget, abstained, smoothing_loss and, of centers, relaxation.
            center: the smoothed output, (*out).

        Raises:
            KeyError: if an array or a value is missing.
            ValueError: as the class does.
        """
        own = cls._own(kept, described, center)
        usual = own["budget"].noise_kind.norm  # where nothing was kept of a norm
        threat = str(described.get("threat", usual))
        conversion = kept.get("conversion", 1.0) if threat == usual else kept["conversion"]
        make: Callable[..., Self] = cls
        return make(
            distances=distances,
            sigma=float(described["sigma"]),
            smoothing_loss=float(described["smoothing_loss"]),
            threat=threat,
            conversion=float(conversion),
            **own,
        )

    @classmethod
    @abstractmethod
    def _own(cls, kept: Mapping[str, Any], described: Mapping[str, Any], center: Tensor) -> dict[str, Any]:
        """Return the other arguments of the class from what was kept, budget and output among them."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to one ``.npz`` file, free of pickles; an existing file is replaced as a whole."""
        described = {
            "sigma": self.sigma,
            self._BUDGET: self.budget.as_dict(),
            "abstained": self.abstained,
            "smoothing_loss": self.smoothing_loss,
            **({} if self.threat == self.budget.noise_kind.norm else {"threat": self.threat}),
            **self._described(),
        }
        arrays: dict[str, Any] = {name: array for name, array in self.kept_arrays().items() if name not in described}
        arrays |= {"distances": self.distances, "center": self.center.detach().cpu().double().numpy()}
        atomic_write(path, lambda file: np.savez(file, certificate=np.array(json.dumps(described)), **arrays))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote. The center comes back in float64.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it does not hold a certificate of this kind.
        """
        try:
            arrays = read_npz(path)
            described: dict[str, Any] = json.loads(str(arrays["certificate"]))
            distances = np.asarray(arrays["distances"], dtype=np.float64)
            center = torch.from_numpy(np.asarray(arrays["center"], dtype=np.float64))
            described["budget"] = described.pop(cls._BUDGET)
            return cls.from_kept(distances, {**described, **arrays}, described, center=center)
        except FileNotFoundError:
            raise
        except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
            raise ValueError(
                f"path must be a file written by {cls.__name__}.save, got {os.fspath(path)}: {error}"
            ) from error

    def __repr__(self) -> str:
        """Return the radius at h = 1, the smoothing loss, and whether it abstained."""
        radius = format_up(self._eps_out(1.0, "pointwise", 1))
        return (
            f"{type(self).__name__}(eps_out(h=1)={radius}, smoothing_loss={self.smoothing_loss:.3g}, "
            f"abstained={self.abstained}, sigma={self.sigma:g}, n={self.budget.n}, m={self.m})"
        )

    def _repr_html_(self) -> str:
        """Return the same as a table with some more radii, which notebooks show."""
        rows = "".join(
            f"<tr><td>{h:g}</td><td>{h * (self.sigma / self.conversion):g}</td>"
            f"<td>{format_up(self._eps_out(h, 'pointwise', 1))}</td></tr>"
            for h in _ROWS
        )
        answer = "abstained" if self.abstained else f"smoothing loss {self.smoothing_loss:.3g}"
        return (
            f"<table><caption>{type(self).__name__}: {answer}, sigma = {self.sigma:g}, n = {self.budget.n}, "
            f"m = {self.m}; each radius holds by itself</caption>"
            f"<thead><tr><th>h</th><th>eps_in</th><th>eps_out</th></tr></thead><tbody>{rows}</tbody></table>"
        )

    def plot(self, axes: Any = None, *, coverage: Coverage = "pointwise") -> Any:  # noqa: ANN401  # of matplotlib
        """Draw eps_out against eps_in up to 3 sigma, as far as there are certificates. Needs the package matplotlib.

        Args:
            axes: of matplotlib, to draw on; default: those of a new figure.
            coverage: as in :meth:`eps_out`; all points of the curve hold together with ``"dkw"`` alone.

        Returns:
            The axes. ValueError is raised if matplotlib is not installed.

        Example:
            >>> from center_smoothing import CenterSmoother, SmoothingBudget
            >>> smoother = CenterSmoother(lambda z: 2 * z, "l2", sigma=0.25, budget=SmoothingBudget.quick())
            >>> axes = smoother.certify(torch.zeros(3)).plot()
            >>> axes.get_xlabel(), axes.get_ylabel()
            ('eps_in', 'certified eps_out')
        """
        if axes is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ValueError("matplotlib must be installed to plot: pip install matplotlib") from error
            _, axes = pyplot.subplots()
        h = np.linspace(0.0, _END, _STEPS + 1)
        radii = np.array([self._eps_out(each, coverage, len(h)) for each in h.tolist()])
        # between two points the radius is at most that of the right one
        unit = self.sigma / self.conversion
        axes.plot(h * unit, np.where(np.isfinite(radii), radii, np.nan), drawstyle="steps-pre")
        axes.set(xlabel="eps_in", ylabel="certified eps_out", xlim=(0.0, _END * unit))
        if self.abstained:
            axes.set_title("abstained: no certificate")
        return axes

    def _described(self) -> dict[str, float]:
        """Return what a file says of this kind besides."""
        return {}

    @abstractmethod
    def _eps_out(self, h: float, coverage: Coverage, answers: int) -> float:
        """Return the certified output radius at an h, one of so many answers."""

    def _eps_in(self, eps_out: float, coverage: Coverage, answers: int) -> float:
        """Return the certified input radius, in units of x, one of so many answers."""

        def within(h: float) -> bool:
            certified = self._eps_out(h, coverage, answers)
            return certified <= eps_out and certified < math.inf

        return self.sigma * self._last_h(within, coverage, answers) / self.conversion * (1.0 - 1e-15)

    def _last_h(self, within: Callable[[float], bool], coverage: Coverage, answers: int) -> float:
        """Return the h at which the curve first leaves what is asked, rounded down (theory T6); 0 if at once."""
        return last_where(within, 0.0, LARGEST_H)

    @staticmethod
    def _answer(
        name: str, asked: ArrayLike, coverage: Coverage, answer: Callable[[float, int], float]
    ) -> NDArray[np.float64] | float:
        """Return the answer to a number, or answers (J,) to several, given how many distinct ones there are."""
        radii = _as_radii(name, asked)
        if coverage not in COVERAGES:
            raise ValueError(f"coverage must be one of {', '.join(COVERAGES)}, got {coverage!r}")
        answers = len(np.unique(radii))
        certified = np.array([answer(value, answers) for value in radii.tolist()])
        return float(certified[0]) if np.ndim(asked) == 0 else certified

    def _check_arguments(self, sizes: Sequence[int], positive: Sequence[str] = ("sigma",)) -> None:
        """Raise ValueError for what a file may have got wrong, of distances in one of these sizes."""
        if self.distances.ndim != 1 or len(self.distances) not in sizes:
            wanted = " or ".join(f"({size},)" for size in sizes)
            raise ValueError(f"distances must have shape {wanted} for this budget, got {self.distances.shape}")
        if not is_ascending(self.distances):
            raise ValueError("distances must be at least 0, free of NaN and in ascending order")
        if self.threat not in NORMS:
            raise ValueError(f"threat must be one of {', '.join(NORMS)}, got {self.threat!r}")
        if self.budget.noise_kind.norm not in ("l2", self.threat):
            raise ValueError(f"threat must be that of {self.budget.noise} noise, got {self.threat!r}")
        for name in (*positive, "conversion"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive finite number, got {getattr(self, name)!r}")


def is_ascending(values: NDArray[Any]) -> bool:
    """Return whether values ascend along the first axis, are at least 0 and free of NaN."""
    return bool(np.all(values >= 0.0) and np.all(values[1:] >= values[:-1]))


def last_where(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the largest h from low >= 0 to high up to which it holds, rounded down; ``low`` where it holds nowhere."""
    if not holds(low):
        return low
    if holds(high):
        return high
    while high - low > 1e-12 * max(high, 1e-3):
        middle = (low + high) / 2.0
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _as_radii(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return a number or a sequence of numbers as float64 (J,)."""
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
