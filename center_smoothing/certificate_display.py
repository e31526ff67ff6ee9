"""How certificates show themselves: in one line, as a table of a notebook, as a curve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from center_smoothing.budget import Budget, Coverage
from center_smoothing.scalars import format_up

# The h of the table, and up to where the curve is drawn, with so many steps.
_ROWS = (0.5, 1.0, 1.5, 2.0)
_END, _STEPS = 3.0, 60


class Displayed(ABC):
    """What a certificate shows of itself. Radii are rounded up."""

    sigma: float
    budget: Budget
    smoothing_loss: float
    conversion: float

    @property
    @abstractmethod
    def abstained(self) -> bool:
        """Whether the smoothed function abstained."""

    @property
    @abstractmethod
    def m(self) -> int:
        """How many certification outputs were drawn."""

    @abstractmethod
    def _eps_out(self, h: float, coverage: Coverage, answers: int) -> float:
        """Return the certified output radius at an h, one of so many answers."""

    def __repr__(self) -> str:
        """Return the radius at h = 1, the smoothing loss, and whether it abstained."""
        radius = format_up(self._eps_out(1.0, "pointwise", 1))
        return (
            f"{type(self).__name__}(eps_out(h=1)={radius}, smoothing_loss={self.smoothing_loss:.3g}, "
            f"abstained={self.abstained}, sigma={self.sigma:g}, n={self.budget.n}, m={self.m})"
        )

    def _repr_html_(self) -> str:
        """Return the same as a table with some more radii, which notebooks show."""
        unit = self.sigma / self.conversion
        radii = [(h, h * unit, format_up(self._eps_out(h, "pointwise", 1))) for h in _ROWS]
        rows = "".join(f"<tr><td>{h:g}</td><td>{eps_in:g}</td><td>{radius}</td></tr>" for h, eps_in, radius in radii)
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
            The axes.

        Raises:
            ValueError: if matplotlib is not installed.

        Example:
            >>> import torch
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
