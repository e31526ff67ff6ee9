"""How the margin Delta and the chance of abstaining follow from n, k and alpha."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache
from itertools import count
from typing import Literal

from center_smoothing import bounds

Method = Literal["exact", "paper"]
METHODS: tuple[Method, ...] = ("exact", "paper")
# The default delta is the least one at which a model with finite distances abstains on at most this share of inputs.
_DEFAULT_ABSTENTION = 0.01


def round_up(value: float, digits: int) -> float:
    """Return the least number of so many decimals that is not below ``value``."""
    return float(math.ceil(value * 10**digits) / 10**digits)


@lru_cache(maxsize=1024)
def abstention_probability(draws: int, rank: int, candidates: int, n_check: int, least_inside: int) -> float:
    """Return a bound on the chance that the ball that was selected fails the check."""
    return bounds.mean_shortfall(bounds.mass_selected_by_minimum(draws, rank, candidates), n_check, least_inside)


@lru_cache(maxsize=1024)
def most_inside(draws: int, rank: int, candidates: int, n_check: int) -> int:
    """Return the most of n_check outputs that a selected ball may have to hold for the check to fail rarely."""
    masses = bounds.mass_selected_by_minimum(draws, rank, candidates)
    counts, limit = range(1, n_check + 1), _DEFAULT_ABSTENTION
    return bisect_left(counts, True, key=lambda r: not bounds.mean_shortfall_at_most(masses, n_check, r, limit))


@lru_cache(maxsize=1024)
def least_inside(n_check: int, delta: float, alpha_check: float, method: Method) -> int:
    """Return the least K whose lower confidence bound is at least 1/2 - delta; n_check + 1 where none is."""
    if method == "paper":
        threshold = 0.5 - delta + bounds.hoeffding_margin(n_check, alpha_check)
        return min(n_check + 1, math.ceil(threshold * n_check))
    return bounds.order_statistic_rank(n_check, 0.5 - delta, alpha_check)


@lru_cache(maxsize=1024)
def least_delta(n: int, samples: int, alpha_1: float, method: Method) -> float:
    """Return the least admissible delta (theory T1); inf where there is none below 1/2."""
    if method == "paper":  # sqrt(ln(2 / alpha_1) / (2 n))
        margin = bounds.hoeffding_margin(n, alpha_1 / 2.0)
        return margin if margin < 0.5 else math.inf

    def admissible(delta: float) -> bool:
        no_candidate = (0.5 - delta) ** samples
        badly_ranked = bounds.binomial_shortfall(n, 0.5 + delta, (n + 1) // 2)
        return no_candidate + badly_ranked + alpha_1 / 2.0 <= alpha_1 * (1.0 - 1e-9)

    low, high = 0.0, math.nextafter(0.5, 0.0)
    if not admissible(high):
        return math.inf
    while high - low > 1e-12:
        middle = (low + high) / 2.0
        low, high = (low, middle) if admissible(middle) else (middle, high)
    return high


def least_n(samples: int, alpha_1: float, method: Method) -> int:
    """Return the least n that admits a delta below 1/2."""
    return next(n for n in count(1) if least_delta(n, samples, alpha_1, method) < math.inf)
