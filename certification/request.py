"""What of the command line a budget depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import Namespace

from center_smoothing import Budget, Distance
from center_smoothing.margins import METHODS
from center_smoothing.planner import Demand
from center_smoothing.stopping import with_looks
from command_line import named

# Flags of the budget; --m goes its own way.
_FLAGS = ("n", "k", "delta", "alpha1", "alpha2", "method")


@dataclass(frozen=True)
class Request:
    """What of the command line a budget depends on.

    Attributes:
        options: of certify.py.
        levels: the eps_in that are answered at each sigma, in units of x.
        stops: whether there is a rule for when to stop sampling an example early.
    """

    options: Namespace
    levels: Mapping[float, Sequence[float]]
    stops: bool

    @property
    def distance(self) -> Distance:
        """Of --distance."""
        return named.distance_by_name(self.options.distance)

    @property
    def ratios(self) -> list[float]:
        """The h that are asked, ascending; of those that nine digits do not tell apart the largest."""
        ratios = sorted(radius / sigma for sigma, radii in self.levels.items() for radius in radii)
        return list({f"{h:.9g}": h for h in ratios}.values())

    @property
    def answers(self) -> int:
        """How many eps_in are answered at a noise level, at most: each level is certified by itself."""
        return max(map(len, self.levels.values()))

    @property
    def fixed(self) -> dict[str, Any]:
        """What of the budget --time-limit does not choose, under the names of :class:`SmoothingBudget`."""
        flags = {name: self.options[name] for name in _FLAGS}
        values = {"method": METHODS[0], **named.budget_values(self.options.budget, **flags), "n": self.options.n}
        return {name: value for name, value in values.items() if name != "m" and value is not None}

    @property
    def demand(self) -> Demand:
        """What --time-limit chooses a budget for."""
        return Demand(
            h=tuple(self.ratios),
            averages=self.distance.averages,
            coverage=self.options.coverage,
            answers=self.answers,
            stops=self.stops,
            fixed=self.fixed,
        )

    def budget(self, m: int | None) -> Budget:
        """Return the one of --budget and the flags, at this m or the file's.

        Raises:
            ValueError: as :class:`SmoothingBudget` does, and where sampling could never stop early.
        """
        flags = {name: self.options[name] for name in _FLAGS}
        budget = named.budget(self.options.budget, self.options.smoother, m=m, **flags)
        budget = budget if self.distance.averages else budget.without_averages()
        return with_looks(budget, self.ratios[-1]) if self.stops else budget
