"""How many samples, which margins and which failure probabilities: fixed before any sample is drawn."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from center_smoothing import bounds

Method = Literal["exact", "paper"]
METHODS: tuple[Method, ...] = ("exact", "paper")

# Candidates that the pilot's mean and coordinate-wise median add to its k outputs (theory T2).
_EXTRA_CANDIDATES = 2
# The default delta is the least one at which a model with finite outputs abstains on at most this share of inputs.
_DEFAULT_ABSTENTION = 0.01


@dataclass(frozen=True)
class Plan:
    """What a budget can certify at one h, known before sampling.

    Attributes:
        h: eps_in / sigma.
        p: mass that the ball B(z, R) must hold (theory T3).
        rank: R is the rank-th smallest of m distances; m + 1 where m is too small.
        least_m: least m with a certificate at this h; inf where float64 cannot tell p from 1.
        evaluations: evaluations of the base function f per example.
        abstention_probability: upper bound on the chance of abstaining, for every f with finite outputs.
        certifiable: whether rank <= m, that is m >= least_m.
    """

    h: float
    p: float
    rank: int
    least_m: float
    evaluations: int
    abstention_probability: float
    certifiable: bool


@dataclass(frozen=True, kw_only=True)
class SmoothingBudget:
    """Sample sizes, margin and failure probabilities of a smoothed function and of its certificate.

    ``n``, ``k``, ``n_check``, ``delta``, ``alpha_1`` and ``method`` are part of the smoothed function: a certificate
    speaks of the outputs at x and at x' computed with the same values (theory T1).

    Args:
        n: ranked outputs.
        m: certification outputs.
        k: pilot outputs, the candidate centers. Paper mode takes the n ranked outputs instead.
        delta: margin Delta in (0, 1/2) around one half. Default: the least one at which the chance of abstaining is
            at most 1%, whatever the base function, as long as its outputs are finite.
        alpha_1: failure probability of the smoothed output, in (0, 1/2]; half of it is spent on the check.
        alpha_2: failure probability of the certificate, in (0, 1/2].
        n_check: outputs that check the center's mass. Default: n. They are shared with the certification outputs
            (theory T8), so that any n_check <= m costs nothing more.
        method: ``"exact"`` (theory T1, T2, T5) or ``"paper"`` (Algorithms 1 and 2 to the letter, theory T4).

    Raises:
        ValueError: for values out of range, and for a delta that n, k and alpha_1 do not admit, with the least one.

    Example:
        >>> budget = SmoothingBudget(n=1_000, m=2_000, delta=0.12)
        >>> plan = budget.plan(h=2.0)
        >>> plan.evaluations, plan.rank, plan.least_m
        (3032, 1991, 499.0)
    """

    n: int = 10_000
    m: int = 20_000
    k: int = 32
    delta: float = None  # type: ignore[assignment]  # None is resolved in __post_init__, readers see a float
    alpha_1: float = 0.005
    alpha_2: float = 0.005
    n_check: int = None  # type: ignore[assignment]  # likewise
    method: Method = "exact"

    def __post_init__(self) -> None:
        """Validate, and fill in the defaults that depend on other fields."""
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        for name in ("n", "m", "k"):
            _check_count(name, getattr(self, name))
        for name in ("alpha_1", "alpha_2"):
            bounds.check_alpha(getattr(self, name), name)
        if self.n_check is None:
            object.__setattr__(self, "n_check", self.n)
        _check_count("n_check", self.n_check)
        if self.method == "paper" and self.n_check != self.n:
            raise ValueError(f"n_check must equal n={self.n} for method='paper', got {self.n_check}")
        least = self.least_delta
        if math.isinf(least):
            raise ValueError(
                f"n={self.n} with k={self.k} admits no delta below 0.5 at alpha_1={self.alpha_1}; "
                f"n={_least_n(self.k, self.alpha_1, self.method)} does"
            )
        if self.delta is None:
            object.__setattr__(self, "delta", self._default_delta())
        if not (isinstance(self.delta, int | float) and least <= self.delta < 0.5):
            raise ValueError(
                f"delta must lie in [{_round_up(least, 4)}, 0.5) for n={self.n}, k={self.k}, "
                f"alpha_1={self.alpha_1}, method={self.method!r}, got {self.delta!r}"
            )

    @property
    def alpha(self) -> float:
        """Failure probability of the whole promise: alpha_1 + alpha_2."""
        return self.alpha_1 + self.alpha_2

    @property
    def alpha_check(self) -> float:
        """The part of alpha_1 that the lower bound on the center's mass may fail with."""
        return self.alpha_1 / 2.0

    @property
    def half(self) -> int:
        """ceil(n/2): the rank of the distance that a candidate is judged by."""
        return (self.n + 1) // 2

    @property
    def evaluations(self) -> int:
        """Evaluations of the base function per certificate (theory T8)."""
        if self.method == "paper":
            return 2 * self.n + self.m
        return self.k + self.n + max(self.m, self.n_check)

    @property
    def least_delta(self) -> float:
        """The least admissible delta (theory T1); inf where there is none below 1/2."""
        return _least_delta(self.n, self.k, self.alpha_1, self.method)

    def mass_lower_bound(self, inside: int) -> float:
        """Lower confidence bound on the mass of a ball that held ``inside`` of n_check fresh outputs (T1.3)."""
        if self.method == "paper":
            return inside / self.n_check - bounds.hoeffding_margin(self.n_check, self.alpha_check)
        return bounds.clopper_pearson_lower(inside, self.n_check, self.alpha_check)

    def least_inside(self) -> int:
        """How many of the n_check outputs the ball must hold for the smoothed function not to abstain."""
        return _least_inside(self.n_check, self.delta, self.alpha_check, self.method)

    def rank(self, p: float, alpha_2: float | None = None) -> int:
        """Rank of the certification distance that bounds the p-quantile (theory T5; T4 in paper mode)."""
        find = bounds.dkw_rank if self.method == "paper" else bounds.order_statistic_rank
        return find(self.m, p, self.alpha_2 if alpha_2 is None else alpha_2)

    def abstention_probability(self) -> float:
        """Upper bound on the chance of abstaining at one input, for every distance and f with finite outputs."""
        return bounds.mean_shortfall(self._selected_masses(), self.n_check, self.least_inside())

    def plan(self, h: float) -> Plan:
        """What this budget can certify at h = eps_in / sigma, before any sampling.

        Raises:
            ValueError: if h is negative or NaN.
        """
        p = bounds.gaussian_shift_up(0.5 + self.delta, h)
        rank = self.rank(p)
        least = bounds.dkw_least_m if self.method == "paper" else bounds.order_statistic_least_m
        return Plan(
            h=float(h),
            p=p,
            rank=rank,
            least_m=least(p, self.alpha_2),
            evaluations=self.evaluations,
            abstention_probability=self.abstention_probability(),
            certifiable=rank <= self.m,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which ``SmoothingBudget(**values)`` makes an equal budget."""
        return asdict(self)

    def _selected_masses(self) -> NDArray[np.float64]:
        if self.method == "paper":  # a candidate is one of the n: it has n - 1 others, and itself at distance 0
            return _selected_masses(max(1, self.n - 1), self.half - 1, self.n)
        return _selected_masses(self.n, self.half, self.k + _EXTRA_CANDIDATES)

    def _default_delta(self) -> float:
        masses = self._selected_masses()

        def abstains_rarely(delta: float) -> bool:
            needed = _least_inside(self.n_check, delta, self.alpha_check, self.method)
            return bounds.mean_shortfall(masses, self.n_check, needed) <= _DEFAULT_ABSTENTION

        low, high = self.least_delta, 0.4999
        if low <= high and abstains_rarely(low):
            return _round_up(low, 4)
        if low > high or not abstains_rarely(high):
            raise ValueError(
                f"n={self.n} with n_check={self.n_check} is too small for a default delta: at every delta below 0.5 a "
                "function may abstain on more than 1% of inputs; give delta, or a larger n"
            )
        while high - low > 1e-5:
            middle = (low + high) / 2.0
            low, high = (low, middle) if abstains_rarely(middle) else (middle, high)
        return _round_up(high, 4)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _round_up(value: float, digits: int) -> float:
    return float(math.ceil(value * 10**digits) / 10**digits)


@lru_cache(maxsize=64)
def _selected_masses(draws: int, rank: int, candidates: int) -> NDArray[np.float64]:
    return bounds.mass_selected_by_minimum(draws, rank, candidates)


@lru_cache(maxsize=1024)
def _least_inside(n_check: int, delta: float, alpha_check: float, method: Method) -> int:
    """Least K whose lower confidence bound is at least 1/2 - delta; n_check + 1 where none is."""
    if method == "paper":
        threshold = 0.5 - delta + bounds.hoeffding_margin(n_check, alpha_check)
        return min(n_check + 1, math.ceil(threshold * n_check))
    return bounds.order_statistic_rank(n_check, 0.5 - delta, alpha_check)


@lru_cache(maxsize=1024)
def _least_delta(n: int, k: int, alpha_1: float, method: Method) -> float:
    if method == "paper":  # sqrt(ln(2 / alpha_1) / (2 n))
        margin = bounds.hoeffding_margin(n, alpha_1 / 2.0)
        return margin if margin < 0.5 else math.inf

    def admissible(delta: float) -> bool:
        no_candidate = (0.5 - delta) ** k
        badly_ranked = bounds.binomial_shortfall(n, 0.5 + delta, (n + 1) // 2)
        return no_candidate + badly_ranked + alpha_1 / 2.0 <= alpha_1 * (1.0 - 1e-9)

    low, high = 0.0, math.nextafter(0.5, 0.0)
    if not admissible(high):
        return math.inf
    while high - low > 1e-12:
        middle = (low + high) / 2.0
        low, high = (low, middle) if admissible(middle) else (middle, high)
    return high


def _least_n(k: int, alpha_1: float, method: Method) -> int:
    n = 1
    while math.isinf(_least_delta(n, k, alpha_1, method)):
        n += 1
    return n
