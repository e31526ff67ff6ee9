"""How many samples and which failure probabilities medians take: fixed before any sample is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from center_smoothing import bounds
from center_smoothing.budget import Budget, Coverage
from center_smoothing.scalars import plain

# The h whose ranks are kept are multiples of this: an answer between two of them is the one at the larger one.
_STEP = 0.05
# More order statistics than these are not kept: h beyond 12.8 would take more samples than can be drawn.
_MAX_RANKS = 256


@dataclass(frozen=True)
class MedianPlan:
    """What a budget of medians can certify at one h, known before sampling.

    Attributes:
        h: eps_in / sigma.
        margin: D: medians at x' lie between the quantiles 1/2 - D and 1/2 + D of the outputs there (theory T14).
        p: the mass at x that bounds the quantile 1/2 + D at x'.
        rank: the box reaches up to the rank-th smallest of m numbers, and down to the rank-th largest; m + 1 where m
            is too small.
        least_m: least m with a certificate at this h; inf where float64 cannot tell p from 1.
        evaluations: noisy copies that the base function f is evaluated on per example.
        abstention_probability: 0, for every f with finite outputs.
        certifiable: whether rank <= m, that is m >= least_m.
    """

    h: float
    margin: float
    p: float
    rank: int
    least_m: float
    evaluations: int
    abstention_probability: float
    certifiable: bool


@dataclass(frozen=True, kw_only=True)
class MedianBudget(Budget):
    """Sample sizes and failure probabilities of medians and of their certificate (theory T14).

    ``n`` is part of the smoothed function: a certificate speaks of the medians of n outputs at x and at x'.

    Args:
        n: outputs whose median is taken in each coordinate, an odd number.
        m: certification outputs.
        alpha_1: failure probability of the medians at x', in (0, 1/2].
        alpha_2: failure probability of the certificate at x, in (0, 1/2].
        numbers: N, of how many numbers an output consists. They share alpha_1 and alpha_2, and each has two sides.
            A smoother takes it from the outputs (:meth:`for_output`); for plans before any output is seen.
        noise: ``"gaussian"`` for changes in l2 norm, or ``"uniform"`` for changes in l1 norm (theory T15).

    Raises:
        ValueError: for values out of range.

    Example:
        >>> plan = MedianBudget(n=10_001, m=20_000, numbers=784).plan(h=1.0)
        >>> plan.evaluations, plan.rank, plan.least_m
        (30001, 17317, 81.0)
    """

    methods: ClassVar[tuple[str, ...]] = ("median",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"n": 1_001, "m": 3_000},  # about 2 s per digit on two cores
        "standard": {"n": 10_001, "m": 20_000},
    }
    depends_on_outputs: ClassVar[bool] = True

    method = "median"
    abstains = "where a median is not finite"

    n: int = 10_001
    m: int = 20_000
    alpha_1: float = 0.005
    alpha_2: float = 0.005
    numbers: int = 1
    noise: str = "gaussian"

    def __post_init__(self) -> None:
        """Validate."""
        self._check("n", "m", "numbers")
        if self.n % 2 == 0:
            raise ValueError(f"n must be odd, so that there is a middle one, got {self.n}; {self.n + 1} does")

    @property
    def delta(self) -> float:
        """D, how far from one half the quantiles are between which medians lie."""
        return _upper_mass(self) - 0.5

    @classmethod
    def for_validation(cls, *, n: int, m: int, **given: Any) -> Self:  # noqa: ANN401  # as the class takes
        """Return a small budget; an even n becomes the next odd number. As :meth:`Budget.for_validation`."""
        return cls(n=n + (n % 2 == 0), m=m, **given)

    def for_output(self, output: Tensor) -> MedianBudget:
        """Return the same budget, shared by the numbers of such an output (*out)."""
        return replace(self, numbers=output.numel())

    def rank(self, h: float, *, coverage: Coverage = "pointwise", answers: int = 1) -> int:
        """Return which order statistic bounds a coordinate at h from above, and from below counted from the largest.

        It is 1-based; m + 1 where m outputs cannot bound it. h = eps_in / sigma is at least 0, ``answers`` are counted
        for the coverage ``"bonferroni"``.
        """
        alpha = self.alpha_2 / (2 * self.numbers) / (answers if coverage == "bonferroni" else 1)
        find = bounds.dkw_rank if coverage == "dkw" else bounds.order_statistic_rank
        return find(self.m, self.noise_kind.mass_needed(_upper_mass(self), h), alpha)

    def kept_ranks(self) -> NDArray[np.int64]:
        """Return the ranks whose order statistics a certificate keeps: (G,) ascending, the last one m.

        They are those of pointwise answers at h = 0, 0.05, 0.1, ..., as far as m is enough.
        """
        return _kept_ranks(self)

    def certifies(self, h: float, *, m: int, coverage: Coverage, answers: int) -> bool:
        """Return whether m outputs, if they are finite, give a finite radius at h as one of so many answers."""
        return replace(self, m=m).rank(h, coverage=coverage, answers=answers) <= m

    @property
    def settings(self) -> str:
        """What a plan says of it besides n, m and alpha."""
        return f"{'' if self.noise == 'gaussian' else f'noise={self.noise}, '}numbers={self.numbers}"

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know of the smoothed output, sentences."""
        return [f"The smoothed output holds the medians of {self.n:,} outputs under noise, number by number."]

    def plan(self, h: float) -> MedianPlan:
        """Return what this budget can certify at h = eps_in / sigma; ValueError if h is negative or NaN."""
        h = plain(h)
        p, rank = self.noise_kind.mass_needed(_upper_mass(self), h), self.rank(h)
        return MedianPlan(
            h=float(h),
            margin=self.delta,
            p=p,
            rank=rank,
            least_m=bounds.order_statistic_least_m(p, self.alpha_2 / (2 * self.numbers)),
            evaluations=self.evaluations,
            abstention_probability=self.abstention_probability(),
            certifiable=rank <= self.m,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; without ``numbers``, which an output tells, and without noise where it is Gaussian."""
        left_out = {"numbers", *(["noise"] if self.noise == "gaussian" else [])}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@lru_cache(maxsize=256)
def _upper_mass(budget: MedianBudget) -> float:
    """Return 1/2 + D with P[Bin(n, 1/2 + D) < (n + 1) / 2] <= alpha_1 / (2 N), rounded up (theory T14)."""
    return bounds.clopper_pearson_upper(budget.n // 2, budget.n, budget.alpha_1 / (2 * budget.numbers))


@lru_cache(maxsize=256)
def _kept_ranks(budget: MedianBudget) -> NDArray[np.int64]:
    ranks = (budget.rank(_STEP * step) for step in range(_MAX_RANKS))
    return np.unique([*takewhile(lambda rank: rank <= budget.m, ranks), budget.m])
