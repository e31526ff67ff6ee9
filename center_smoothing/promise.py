"""What certificates promise, in the words that every place shows it with."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

from center_smoothing.budget import Budget, Coverage
from center_smoothing.threats import NORMS


def promise(distance: object, confidence: str, norm: str = NORMS["l2"]) -> str:
    """Return what holds of one answer: a sentence without a full stop, over one fixed change and not over all.

    Of the distance, also by name, the confidence 1 - alpha, and the norm that eps_in is measured in, in words.
    """
    return (
        f"for one example and one change of it by at most eps_in ({norm}), fixed beforehand, the smoothed output moves "
        f"by at most eps_out ({distance}) with probability at least {confidence} over the noise of both runs, unless "
        "one of the two abstains"
    )


def promise_line(
    budget: Budget, distance: object, *, coverage: Coverage, grid: int | None = None, threat: str | None = None
) -> str:
    """Return what exactly certificates promise, and of how many answers together.

    Those of a mean hold together in any case (theory T11). The distance may be its name, the grid is that of discrete
    noise, and the threat one of ``NORMS``; default: that of the noise.

    Example:
        >>> from center_smoothing import Lp, SmoothingBudget
        >>> promise_line(SmoothingBudget(), Lp(2), coverage="pointwise")[:79]
        'promise (pointwise): for one example and one change of it by at most eps_in (l2'
    """
    label, scope = budget.scope(coverage)
    rounded = "" if grid is None else f"; inputs and changes are those of a grid of 1/{grid}, and rounding is included"
    norm = NORMS[budget.noise_kind.norm if threat is None else threat]
    return f"promise ({label}): {promise(distance, confidence(budget), norm)}; it holds for {scope}{rounded}"


def confidence(budget: Budget) -> str:
    """Return 1 - alpha for the eye, never above the true one."""
    alpha = Decimal(repr(budget.alpha))
    quantum = Decimal(1).scaleb(alpha.adjusted() - 2)
    return f"{(1 - alpha).quantize(quantum, ROUND_FLOOR).normalize():f}"
