"""What the procedures gave, digit by digit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.versus.paper_procedure import Estimate
from center_smoothing import CertificateBase
from center_smoothing.upper_median import upper_median


@dataclass(frozen=True)
class Row:
    """What one procedure gave for one digit."""

    procedure: str  # what it is called in tables
    n: int  # outputs that it ranked, or averaged
    m: int  # certification outputs, of the full run where only a part was run
    delta: float  # margin of the smoothed function; 0 for a mean
    evaluations: int  # of the base function, with m certification outputs
    seconds: float  # what they and all the rest take
    eps_out: Mapping[float, Estimate]  # certified radius by h
    smoothing_loss: float  # d(f(x), smoothed output); inf where the smoothed function abstained
    # how far an attack moves the smoothed output at least, by h; none where it was not attacked
    attack: Mapping[float, float] = field(default_factory=dict)
    # seconds that parts of the procedure were measured to take; none where it was measured as a whole
    parts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        procedure: str,
        certificate: CertificateBase,
        h: Sequence[float],
        *,
        seconds: float,
        evaluations: int | None = None,
    ) -> Row:
        """Make the row of a certificate; default: all evaluations of its budget."""
        budget = certificate.budget
        evaluations = evaluations or budget.evaluations
        eps_out = {each: Estimate.exactly(certificate.eps_out(each * certificate.sigma)) for each in h}
        loss = certificate.smoothing_loss
        return cls(procedure, budget.n, certificate.m, budget.delta, evaluations, seconds, eps_out, loss)


@dataclass(frozen=True)
class Digit:
    """All rows of one digit."""

    index: int  # in the data set
    # by the distance's name, and within it by the name of the comparison: the same for all digits
    rows: Mapping[str, Mapping[str, Sequence[Row]]]


def over_digits(digits: Sequence[Digit], distance: str, comparison: str) -> list[list[Row]]:
    """Return the rows of each procedure of a comparison, one a digit; nothing for digits without that distance."""
    listed = [digit.rows[distance][comparison] for digit in digits if comparison in digit.rows.get(distance, {})]
    return [list(rows) for rows in zip(*listed, strict=True)]


def median(rows: Sequence[Row], value: Callable[[Row], float]) -> float:
    """Return the upper median over digits."""
    return upper_median([value(row) for row in rows])


def median_eps_out(rows: Sequence[Row], h: float) -> Estimate:
    """Return the upper median over digits of the certified radius, and of either end of its interval."""
    return Estimate.median(row.eps_out[h] for row in rows)
