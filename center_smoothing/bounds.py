"""Scalar confidence bounds in float64, each rounded to the side that keeps a guarantee true.

Everything here is about m >= 1 independent trials with a success probability p in [0, 1], or about the order statistics
of m independent draws of a real random variable, with ranks from 1; alpha is a failure probability in (0, 1/2]. Nothing
here knows of smoothing. An argument out of its range raises ValueError with its name and value.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray
from scipy import special

# scipy's incomplete beta function is accurate to about 1e-12; a tail counts as "at most alpha" only if it is so
# by this relative margin. An alpha of .005 becomes .005 (1 - 1e-9), which no one can tell from .005.
_TAIL_MARGIN = 1e-9
# Absolute error, with room to spare, of Phi(Phi^-1(a) + h) in float64.
_PROBABILITY_MARGIN = 2.0**-49
# Neighbours among many masses that are bounded together before each is looked at.
_MASSES_AT_ONCE = 32


def check_alpha(alpha: float, name: str = "alpha") -> float:
    """Return ``alpha`` if it is a usable failure probability.

    Raises:
        ValueError: if it does not lie in (0, 1/2]. The one-sided DKW inequality needs alpha <= 1/2.
    """
    _check(0.0 < alpha <= 0.5, f"{name} must lie in (0, 0.5]", alpha)
    return float(alpha)


def _check_trials(trials: int, name: str) -> int:
    _check(trials >= 1 and int(trials) == trials, f"{name} must be a whole number of at least 1", trials)
    return int(trials)


def _check_probability(p: float) -> float:
    _check(0.0 <= p <= 1.0, "p must lie in [0, 1]", p)
    return float(p)


def _check(holds: bool, wanted: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{wanted}, got {got!r}")


def binomial_tail(m: int, p: float, r: int) -> float:
    """Return P[Bin(m, p) >= r], for any integer r: 1 for r <= 0 and 0 for r > m.

    Example:
        >>> binomial_tail(3, 0.5, 3)
        0.125
    """
    m, p = _check_trials(m, "m"), _check_probability(p)
    return float(special.betainc(r, m - r + 1, p)) if 0 < r <= m else float(r <= 0)


def binomial_shortfall(m: int, p: float, r: int) -> float:
    """Return P[Bin(m, p) < r], computed without cancellation, for any integer r.

    Example:
        >>> binomial_shortfall(3, 0.5, 1)
        0.125
    """
    m, p = _check_trials(m, "m"), _check_probability(p)
    return float(special.betaincc(r, m - r + 1, p)) if 0 < r <= m else float(r > m)


def clopper_pearson_lower(successes: int, trials: int, alpha: float) -> float:
    """Return the lower confidence bound on a success probability (Clopper-Pearson, one-sided), rounded down.

    It is the largest p with P[Bin(m, p) >= K] <= alpha, for K of m = ``trials``; 0 for K = 0. It exceeds or equals a
    true probability above 0 with probability at most ``alpha``: the strict form that theory T6 needs.

    Example:
        >>> round(clopper_pearson_lower(100, 100, 0.005), 6)
        0.948396
    """
    trials, alpha = _check_trials(trials, "trials"), check_alpha(alpha)
    _check(0 <= successes <= trials, f"successes must lie in 0..{trials}", successes)
    if successes == 0:
        return 0.0
    if successes == trials:
        return max(0.0, math.exp(math.log(alpha) / trials) - _PROBABILITY_MARGIN)
    level = alpha * (1.0 - _TAIL_MARGIN)
    bound = float(special.betaincinv(successes, trials - successes + 1, level)) * (1.0 - 1e-15)
    step = 1e-15
    while bound > 0.0 and binomial_tail(trials, bound, successes) > alpha:
        bound, step = max(0.0, bound - step), 4.0 * step
    return bound


def clopper_pearson_upper(successes: int, trials: int, alpha: float) -> float:
    """Return the upper confidence bound on a success probability (Clopper-Pearson, one-sided), rounded up.

    It is the least p with P[Bin(m, p) <= K] <= alpha; 1 for K = m. A true probability below 1 exceeds or equals it with
    probability at most ``alpha``.

    Example:
        >>> round(clopper_pearson_upper(0, 100, 0.005), 6)
        0.051604
    """
    trials = _check_trials(trials, "trials")
    _check(0 <= successes <= trials, f"successes must lie in 0..{trials}", successes)
    bound = 1.0 - clopper_pearson_lower(trials - successes, trials, alpha)
    return min(1.0, math.nextafter(bound, math.inf))


def order_statistic_rank(m: int, p: float, alpha: float) -> int:
    """Rank of the order statistic that exceeds the p-quantile with confidence 1 - alpha (theory T5).

    With R the rank-th smallest of m independent draws of D, P[D <= R] > p except with probability at most
    ``alpha``, whatever the distribution of D, atoms included.

    Returns:
        min { r : P[Bin(m, p) >= r] <= alpha }; ``m + 1`` if m draws cannot bound that quantile.

    Example:
        >>> order_statistic_rank(100, 0.9, 0.005)
        98
        >>> order_statistic_rank(10, 0.9, 0.005)
        11
    """
    m, p, alpha = _check_trials(m, "m"), _check_probability(p), check_alpha(alpha)
    level = alpha * (1.0 - _TAIL_MARGIN)
    return 1 + bisect_left(range(1, m + 1), True, key=lambda r: binomial_tail(m, p, r) <= level)


def order_statistic_least_m(p: float, alpha: float) -> float:
    """Return the least m for which :func:`order_statistic_rank` is at most m: ceil(ln alpha / ln p) (theory T5).

    It is a whole number as a float, or ``inf`` for p = 1.

    Example:
        >>> order_statistic_least_m(0.9, 0.005)
        51.0
    """
    p, alpha = _check_probability(p), check_alpha(alpha)
    if p == 0.0:
        return 1.0
    if p == 1.0:
        return math.inf
    level = math.log(alpha) + math.log1p(-_TAIL_MARGIN)
    return float(max(1, math.ceil(level / math.log(p))))


def order_statistic_rank_below(m: int, p: float, alpha: float) -> int:
    """Rank of the order statistic that does not exceed the p-quantile, with confidence 1 - alpha.

    The counterpart of :func:`order_statistic_rank`: with L the rank-th smallest of m draws of D, P[D < L] <= p
    except with probability at most ``alpha``.

    Returns:
        max { r : P[Bin(m, p) < r] <= alpha }; 0 if m draws say nothing.

    Example:
        >>> order_statistic_rank_below(100, 0.9, 0.005)
        82
    """
    m, p, alpha = _check_trials(m, "m"), _check_probability(p), check_alpha(alpha)
    level = alpha * (1.0 - _TAIL_MARGIN)
    return bisect_left(range(1, m + 1), True, key=lambda r: binomial_shortfall(m, p, r) > level)


def mass_hit(draws: int, alpha: float) -> float:
    """Return the mass w that one of ``draws`` independent draws hits: (1 - w)^draws <= alpha, rounded up (theory T7).

    Example:
        >>> round(mass_hit(64, 0.001), 5)
        0.10231
    """
    draws, alpha = _check_trials(draws, "draws"), check_alpha(alpha)
    return min(1.0, -math.expm1(math.log(alpha) / draws) + _PROBABILITY_MARGIN)


def hoeffding_margin(m: int, alpha: float) -> float:
    """Return sqrt(ln(1/alpha) / (2 m)): how far a mean of m values in [0, 1] may lie above its expectation.

    The same figure is the margin of the one-sided Dvoretzky-Kiefer-Wolfowitz inequality (Massart's constant,
    valid for alpha <= 1/2).

    Example:
        >>> round(hoeffding_margin(10_000, 0.005), 5)
        0.01628
    """
    m, alpha = _check_trials(m, "m"), check_alpha(alpha)
    return math.sqrt(-math.log(alpha) / (2.0 * m)) * (1.0 + 1e-15)


def dkw_rank(m: int, p: float, alpha: float) -> int:
    """Rank ceil(q m) with q = p + sqrt(ln(1/alpha) / (2 m)) (theory T4, the paper's equation 5).

    It covers the p-quantile for all p at once with confidence 1 - alpha; m + 1 where q > 1 and m draws are too few.

    Example:
        >>> dkw_rank(10_000, 0.9, 0.005)
        9163
    """
    q = _check_probability(p) + hoeffding_margin(m, alpha)
    return m + 1 if q > 1.0 else math.ceil(q * m)


def dkw_least_m(p: float, alpha: float) -> float:
    """Return the least m for which :func:`dkw_rank` is at most m: ceil(ln(1/alpha) / (2 (1 - p)^2)); inf for p = 1.

    Example:
        >>> dkw_least_m(0.9, 0.005)
        265.0
    """
    p, alpha = _check_probability(p), check_alpha(alpha)
    if p == 1.0:
        return math.inf
    return float(max(1, math.ceil(-math.log(alpha) / (2.0 * (1.0 - p) ** 2))))


def gaussian_shift_up(mass: float, h: float) -> float:
    """Return the mass p = Phi(Phi^-1(mass) + h), rounded up (the paper's equation 4; h = eps_in / sigma).

    A set that holds more than p of N(x, sigma^2 I) holds more than ``mass`` of N(x', sigma^2 I) for every x'
    within h sigma of x. The mass lies in (0, 1), h is at least 0 and may be inf.

    Example:
        >>> round(gaussian_shift_up(0.55, 2.0), 5)
        0.98323
    """
    _check(0.0 < mass < 1.0, "mass must lie in (0, 1)", mass)
    _check(h >= 0.0, "h must be at least 0", h)
    return min(1.0, float(special.ndtr(special.ndtri(mass) + h)) + _PROBABILITY_MARGIN)


def gaussian_shifts_up(masses: NDArray[np.float64], h: float) -> NDArray[np.float64]:
    """Return Phi(Phi^-1(mass) + h) of several masses, rounded up: the most that sets of these masses may hold at x'.

    A set that holds at most ``mass`` of N(x, sigma^2 I) holds at most that much of N(x', sigma^2 I) for every x'
    within h sigma of x (theory T11). Masses are (J,), each in (0, 1], where 1 stays 1; h is at least 0 and may be inf.

    Example:
        >>> gaussian_shifts_up(np.array([0.01, 0.5, 1.0]), 1.0).round(4)
        array([0.0924, 0.8413, 1.    ])
    """
    _check(bool(np.all((masses > 0.0) & (masses <= 1.0))), "masses must lie in (0, 1]", masses)
    _check(h >= 0.0, "h must be at least 0", h)
    shifted: NDArray[np.float64] = np.minimum(1.0, special.ndtr(special.ndtri(masses) + h) + _PROBABILITY_MARGIN)
    return shifted


def gaussian_shift_between(mass: float, p: float) -> float:
    """Return h = Phi^-1(p) - Phi^-1(mass), rounded down and at least 0: the inverse of :func:`gaussian_shift_up`.

    Example:
        >>> round(gaussian_shift_between(0.55, 0.98323427), 5)
        2.0
    """
    _check(0.0 < mass < 1.0, "mass must lie in (0, 1)", mass)
    _check(0.0 <= p < 1.0, "p must lie in [0, 1)", p)  # a bound from finitely many samples never reaches 1
    below = p - _PROBABILITY_MARGIN
    if below <= mass:
        return 0.0
    return max(0.0, float(special.ndtri(below) - special.ndtri(mass)) - 1e-15)


def total_variation_shift_up(mass: float, tv: float) -> float:
    """Return the mass p = mass + tv, rounded up and at most 1 (theory T15).

    A set that holds more than p of one law holds more than ``mass``, in (0, 1), of another one within the total
    variation tv >= 0, which may be inf.

    Example:
        >>> round(total_variation_shift_up(0.55, 0.25), 5)
        0.8
    """
    _check(0.0 < mass < 1.0, "mass must lie in (0, 1)", mass)
    _check(tv >= 0.0, "tv must be at least 0", tv)
    return min(1.0, mass + tv + _PROBABILITY_MARGIN)


def total_variation_between(mass: float, p: float) -> float:
    """Return p - mass, rounded down and at least 0: the inverse of :func:`total_variation_shift_up`.

    Example:
        >>> round(total_variation_between(0.55, 0.8), 5)
        0.25
    """
    _check(0.0 < mass < 1.0, "mass must lie in (0, 1)", mass)
    _check(0.0 <= p < 1.0, "p must lie in [0, 1)", p)
    return max(0.0, p - mass - _PROBABILITY_MARGIN)


def total_variation_of_copies(tv: float, copies: int) -> float:
    """Return 1 - (1 - tv)^copies, rounded up and at most 1 (theory T15).

    It is the total variation of independent copies of two uniform laws on sets of the same volume, tv that of one.

    Example:
        >>> round(total_variation_of_copies(0.25, 2), 5)
        0.4375
    """
    copies = _check_trials(copies, "copies")
    _check(0.0 <= tv <= 1.0, "tv must lie in [0, 1]", tv)
    if tv in (0.0, 1.0):
        return tv
    return min(1.0, -math.expm1(copies * math.log1p(-tv)) * (1.0 + 1e-14))


def mass_selected_by_minimum(draws: int, rank: int, candidates: int, points: int = 4096) -> NDArray[np.float64]:
    """Return masses that stay below that of a ball chosen among several by its rank-th smallest distance.

    The mass within the rank-th smallest of so many finite distances is at least a Beta(rank, draws + 1 - rank)
    variable; the least of ``candidates`` such masses, however they depend on each other, is stochastically at
    least V with P[V <= v] = min(1, candidates * P[Beta <= v]).

    The rank lies in 0..draws; 0 stands for a ball that need not hold any of them.

    Returns:
        float64 array (points,): V at the levels 0, 1/points, ..., so that the mean of a decreasing function
        over them bounds its expectation from above.
    """
    draws = _check_trials(draws, "draws")
    _check(0 <= rank <= draws, f"rank must lie in 0..{draws}", rank)
    if rank == 0:
        return np.zeros(points)
    levels = np.arange(points) / points / candidates
    masses: NDArray[np.float64] = special.betaincinv(rank, draws + 1 - rank, levels)
    return masses


def mean_shortfall(masses: NDArray[np.float64], m: int, r: int) -> float:
    """Return the mean over ``masses`` (any shape) of P[Bin(m, mass) < r]."""
    m = _check_trials(m, "m")
    return float(np.mean(special.betaincc(r, m - r + 1, masses))) if 0 < r <= m else float(r > m)


def mean_shortfall_at_most(masses: NDArray[np.float64], m: int, r: int, limit: float) -> bool:
    """Return whether :func:`mean_shortfall` of ascending ``masses`` (N,) is at most ``limit``.

    P[Bin(m, mass) < r] decreases in the mass, so that the least and the greatest of each few masses mostly decide.
    """
    step = _MASSES_AT_ONCE
    if len(masses) % step == 0:
        if mean_shortfall(masses[::step], m, r) <= limit:
            return True
        if mean_shortfall(masses[step - 1 :: step], m, r) > limit:
            return False
    return mean_shortfall(masses, m, r) <= limit


class MeanBound:
    """Upper confidence bounds on the mean of n independent draws of Y (Chernoff, theory T11).

    Of Y it is known that 0 <= Y <= B and that P[Y > t] <= tails[j] for edges[j] <= t < edges[j + 1].

    Args:
        edges: (J + 1,), ascending, from 0 to B > 0.
        n: number of draws, at least 1.
        alpha: failure probability in (0, 1/2].

    Example:
        >>> edges, tails = np.array([0.0, 1.0, 9.0]), np.array([1.0, 0.1])
        >>> [round(MeanBound(edges, n=n, alpha=0.01)(tails), 2) for n in (1_000, 1_000_000)]
        [2.04, 1.81]
    """

    def __init__(self, edges: NDArray[np.float64], n: int, alpha: float) -> None:
        self.largest = float(edges[-1])
        self.exponent = -math.log(check_alpha(alpha)) / _check_trials(n, "n")
        # Of Y / B the best rate is about sqrt(2 exponent / variance) where draws are many, and the variance is at most
        # 1/4; rates above 64 matter only for masses below exp(-64). The rates must not depend on the tails.
        least = math.sqrt(2.0 * self.exponent)
        self.rates = np.geomspace(least, least + 64.0, 96)
        lows, widths = edges[:-1] / self.largest, np.diff(edges) / self.largest
        self.rises = np.exp(np.outer(lows, self.rates)) * np.expm1(np.outer(widths, self.rates))

    def __call__(self, tails: NDArray[np.float64]) -> float:
        """Return what the mean exceeds with probability at most alpha.

        Args:
            tails: (J,), in [0, 1].

        Returns:
            The least of B and of (log E exp(a Y) + ln(1/alpha) / n) / a over a fixed grid of rates a, in which
            E exp(a Y) stands for its bound by the tails. It does not decrease with any of the tails.
        """
        # E exp(a Y) - 1 is the integral of a exp(a t) P[Y > t] dt: a sum of positive terms, so that no digits are lost
        logarithms = np.log1p(tails @ self.rises)
        return self.largest * min(1.0, float(np.min((logarithms + self.exponent) / self.rates)))
