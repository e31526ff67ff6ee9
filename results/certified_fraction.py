"""The certified fraction: which share of the examples is certified to move little, as a step function of eps_out."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from results import files
from results.rows import Row

COLUMNS = ("sigma", "eps_in", "eps_out", "fraction")
# Of curves of several folders.
COLUMNS_OF_SEVERAL = ("folder", *COLUMNS)


@dataclass(frozen=True)
class FractionCurve:
    """The share of the examples that are certified to ``eps_out`` at most, at one eps_in and one noise level.

    From each step on, its own place included, the share is ``counts / num_examples``; beyond the last step it stays.
    The whole curve comes from one certified radius per example, so all eps_out share one promise.
    """

    sigma: float  # noise level, in units of x
    eps_in: float  # input radius, in units of x
    eps_out: tuple[float, ...]  # (S,) the steps, ascending and finite. The first is 0, where the curve begins
    counts: tuple[int, ...]  # (S,) ascending: how many examples are certified to at most that
    num_examples: int  # all of them, also those that abstained or have no certificate
    label: str = ""  # of the folder, where several are compared; else empty
    conversion: float = 1.0  # h is conversion * eps_in / sigma (theory T15)

    @classmethod
    def of(
        cls, radii: Iterable[float], *, sigma: float, eps_in: float, label: str = "", conversion: float = 1.0
    ) -> FractionCurve:
        """Make the curve of certified output radii (N,), N >= 1, one for each example.

        inf, where there is no certificate, and NaN count as never certified. The other arguments are the attributes.

        Raises:
            ValueError: if there is no radius.
        """
        values = list(radii)
        if not values:
            raise ValueError("radii must hold at least one certified output radius, got none")
        at = Counter(value for value in values if value < math.inf)
        steps = tuple(sorted({0.0, *at}))
        counts = tuple(accumulate(at[step] for step in steps))
        return cls(sigma, eps_in, steps, counts, len(values), label, conversion)

    @property
    def h(self) -> float:
        """The input radius in units of the noise, the same number for all noise levels of one h."""
        return round(self.conversion * self.eps_in / self.sigma, 6)

    @property
    def fraction(self) -> tuple[float, ...]:
        """(S,) the shares in [0, 1], ascending."""
        return tuple(count / self.num_examples for count in self.counts)

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The (eps_out, fraction) at which the line of steps turns, for charts that join points by straight lines.

        Example:
            >>> FractionCurve.of([3.0, 1.0], sigma=0.25, eps_in=0.5).corners
            [(0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (3.0, 0.5), (3.0, 1.0)]
        """
        ups = zip(self.eps_out[1:], self.fraction, self.fraction[1:], strict=False)
        return [(0.0, self.fraction[0]), *((step, share) for step, *shares in ups for share in shares)]

    def count_at(self, eps_out: float) -> int:
        """Count the examples that are certified to at most ``eps_out``, which is at least 0; inf: at all."""
        return self.counts[bisect_right(self.eps_out, eps_out) - 1]

    def radius_of(self, percent: int) -> float:
        """Return the least eps_out to which that many percent of the examples are certified; inf where fewer are."""
        return self._radius_of_count(-(-percent * self.num_examples // 100))

    @property
    def median(self) -> float:
        """Median eps_out; of an even number of examples the larger one of the two in the middle (theory T9)."""
        return self._radius_of_count(self.num_examples // 2 + 1)

    def thinned(self, most: int) -> FractionCurve:
        """Return a curve of so many of the steps, the first and the last among them, that is nowhere above this one."""
        last, count = len(self.eps_out) - 1, min(most, len(self.eps_out))
        places = [last * place // max(1, count - 1) for place in range(count)]
        steps, counts = tuple(self.eps_out[place] for place in places), tuple(self.counts[place] for place in places)
        return replace(self, eps_out=steps, counts=counts)

    def _radius_of_count(self, count: int) -> float:
        reached = (step for step, there in zip(self.eps_out, self.counts, strict=True) if there >= count)
        return next(reached, math.inf)


def certified_fractions(rows: Iterable[Row], *, label: str = "", conversion: float = 1.0) -> list[FractionCurve]:
    """Return the curves of all eps_in, and of all noise levels where there are several, by sigma and eps_in.

    Of rows of one example, sigma and eps_in the first counts. Label and conversion are those of :class:`FractionCurve`.
    """
    groups: dict[tuple[float, float], dict[int, float]] = {}
    for row in rows:
        groups.setdefault((row.sigma, row.eps_in), {}).setdefault(row.index, row.eps_out)
    return [
        FractionCurve.of(radii.values(), sigma=sigma, eps_in=eps_in, label=label, conversion=conversion)
        for (sigma, eps_in), radii in sorted(groups.items())
    ]


def panels(curves: Sequence[FractionCurve]) -> list[tuple[str, list[FractionCurve]]]:
    """Return curves to be drawn together, with what they share: those of each h for a sweep of noise levels."""
    if len({curve.sigma for curve in curves}) <= 1 or any(curve.label for curve in curves):
        return [("", list(curves))] if curves else []
    return [
        (f"h = {h:g}", sorted((curve for curve in curves if curve.h == h), key=lambda curve: curve.eps_in))
        for h in sorted({curve.h for curve in curves})
    ]


def columns(curves: Sequence[FractionCurve]) -> tuple[str, ...]:
    """Return the columns of the table of the steps of these curves."""
    return COLUMNS_OF_SEVERAL if any(curve.label for curve in curves) else COLUMNS


def steps(curves: Sequence[FractionCurve]) -> list[tuple[str | float, ...]]:
    """Return a row for each step of each curve, in the order of their ``columns``."""
    first = len(COLUMNS_OF_SEVERAL) - len(columns(curves))
    return [
        (curve.label, curve.sigma, curve.eps_in, step, share)[first:]
        for curve in curves
        for step, share in zip(curve.eps_out, curve.fraction, strict=True)
    ]


def as_csv(curves: Sequence[FractionCurve]) -> str:
    """Return what certified_fraction.csv holds: all digits, so that the curves can be drawn again exactly."""
    return files.as_csv([columns(curves), *steps(curves)])
