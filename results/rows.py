"""The rows of certificates.csv."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from center_smoothing import SMOOTHERS, CertificateBase
from center_smoothing.attack import Attack
from center_smoothing.budget import Coverage

# The smoothed function of each method.
_SMOOTHERS = {method: kind for kind, smoother in SMOOTHERS.items() for method in smoother.budget_type.methods}

# What certificates call the theorems that they answer by; "" in the rows of older folders.
_THEOREM = re.compile(r"(none|T\d+( J=\d+(\+\d+)*)?)?")
# How the cell of each kind of field is read.
_READ: dict[str, Callable[[str], Any]] = {
    **{"int": int, "float": float, "str": str},
    "bool": {"True": True, "False": False}.__getitem__,
}


@dataclass(frozen=True)
class Row:
    """One example at one eps_in, in the order of the columns of certificates.csv."""

    index: int  # of the example in its data set
    sigma: float  # noise level, in units of x
    eps_in: float  # input radius, in units of x
    eps_out: float  # certified output radius; inf where there is none
    smoothing_loss: float  # d(f(x), center); inf where the smoothed function abstained
    abstained: bool  # whether it did
    n: int  # ranked outputs, or those that are averaged
    m: int  # certification outputs that were drawn
    delta: float  # margin of the smoothed function; 0 for means
    method: str  # "exact" or "paper", or "mean"
    # which statement of docs/theory.md gives ``eps_out``, "none" where there is no certificate; empty in folders that
    # were written before there was this column
    theorem: str
    seconds: float  # that the example took, for all its eps_in together, without attacks

    @property
    def smoother(self) -> str:
        """Which of ``SMOOTHERS`` the row is of."""
        return _SMOOTHERS[self.method]

    def _is_valid(self) -> bool:
        """Return whether a certification can have written it."""
        radii = (self.eps_in, self.eps_out, self.smoothing_loss)
        return (
            all(0 <= count < 2**63 for count in (self.index, self.n, self.m))
            and 0.0 < self.sigma < math.inf
            and all(radius >= 0.0 for radius in radii)
            and self.method in _SMOOTHERS
            and _THEOREM.fullmatch(self.theorem) is not None
        )

    def as_text(self) -> list[str]:
        """Format numbers with all their digits, so that none is rounded to the unsafe side."""
        return [f"{value:.3f}" if name == "seconds" else str(value) for name, value in asdict(self).items()]

    @classmethod
    def of(
        cls, index: int, certificate: CertificateBase, *, eps_in: Sequence[float], coverage: Coverage, seconds: float
    ) -> list[Row]:
        """Return the rows of one certified example, one for each of the ``eps_in``, in their order."""
        budget = certificate.budget
        radii = np.atleast_1d(certificate.eps_out(eps_in, coverage=coverage))
        answers = len(set(eps_in))
        return [
            cls(
                index=index,
                sigma=certificate.sigma,
                eps_in=radius_in,
                eps_out=float(radius_out),
                smoothing_loss=certificate.smoothing_loss,
                abstained=certificate.abstained,
                n=budget.n,
                m=certificate.m,
                delta=budget.delta,
                method=budget.method,
                theorem=(
                    certificate.theorem(radius_in, coverage=coverage, answers=answers)
                    if radius_out < math.inf
                    else "none"
                ),
                seconds=seconds,
            )
            for radius_in, radius_out in zip(eps_in, radii, strict=True)
        ]

    @classmethod
    def from_text(cls, cells: Sequence[str]) -> Row | None:
        """Return the row that :meth:`as_text` wrote, also before there were theorems; None for a cut-off line."""
        if len(cells) in (len(COLUMNS) - 1, len(COLUMNS) - 1 + _EARLIER_ATTACK_COLUMNS):
            place = COLUMNS.index("theorem")
            cells = [*cells[:place], "", *cells[place:]]
        elif len(cells) not in (len(COLUMNS), len(COLUMNS + ATTACK_COLUMNS)):
            return None
        kind = AttackedRow if len(cells) > len(COLUMNS) else Row
        try:
            row = kind(*(_READ[str(field.type)](cell) for field, cell in zip(fields(kind), cells, strict=False)))
        except (ValueError, KeyError):
            return None
        return row if "." in cells[len(COLUMNS) - 1] and row._is_valid() else None


@dataclass(frozen=True)
class AttackedRow(Row):
    """A row with what an attack within ``eps_in`` reached: columns after those of other rows."""

    attack_eps: float  # distance between the smoothed outputs at x and at the attacked input; 0 where one abstained
    attack_ratio: float  # of ``attack_shift`` to ``eps_out``, see :func:`attack_ratio`
    base_attack_eps: float  # distance between the base outputs that an attack on the base model alone reached
    # as ``attack_eps``, but of outputs under the same noise; rows from before there was one have that
    attack_shift: float = None  # type: ignore[assignment]  # None is resolved in __post_init__, readers see a number
    attack_gradient_free: bool = False  # whether a search had to do without gradients somewhere

    def __post_init__(self) -> None:
        """Fill in what rows of earlier versions do not tell."""
        if self.attack_shift is None:
            object.__setattr__(self, "attack_shift", self.attack_eps)

    @property
    def contradicts(self) -> bool:
        """Whether the smoothed output moved further than certified."""
        return self.attack_eps > self.eps_out

    def _is_valid(self) -> bool:
        ratio = attack_ratio(self.attack_shift, self.eps_out)
        return (
            super()._is_valid()
            and self.attack_eps >= 0.0
            and self.attack_shift >= 0.0
            and self.base_attack_eps >= 0.0
            and self.attack_ratio == ratio
        )

    @classmethod
    def of_row(cls, row: Row, attack: Attack) -> AttackedRow:
        """Return a row with what an attack reached."""
        return cls(
            **vars(row),
            attack_eps=attack.eps,
            attack_ratio=attack_ratio(attack.shift, row.eps_out),
            base_attack_eps=attack.base_eps,
            attack_shift=attack.shift,
            attack_gradient_free=attack.gradient_free,
        )


COLUMNS = tuple(field.name for field in fields(Row))
ATTACK_COLUMNS = tuple(field.name for field in fields(AttackedRow))[len(COLUMNS) :]
# So many of them had the rows of earlier versions.
_EARLIER_ATTACK_COLUMNS = 3


def attack_ratio(attack_shift: float, eps_out: float) -> float:
    """Return which share of a certified radius an attack reached: above 1 one of the two is wrong.

    0 where nothing is certified, and so nothing contradicted.

    Example:
        >>> attack_ratio(3.0, 12.0), attack_ratio(3.0, math.inf), attack_ratio(0.0, 0.0), attack_ratio(1.0, 0.0)
        (0.25, 0.0, 0.0, inf)
    """
    if attack_shift == 0.0 or math.isinf(eps_out):
        return 0.0
    return attack_shift / eps_out if eps_out > 0.0 else math.inf


def attacked_rows(rows: Iterable[Row]) -> list[AttackedRow]:
    """Return those that an attack belongs to."""
    return [row for row in rows if isinstance(row, AttackedRow)]


def columns_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the columns of a table: those of attacks only where there were any."""
    return COLUMNS + ATTACK_COLUMNS if attacked_rows(rows) else COLUMNS
