"""How many samples, which margins and which failure probabilities: fixed before any sample is drawn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, Protocol, Self

from torch import Tensor

from center_smoothing import bounds, margins
from center_smoothing.noise_kinds import NoiseKind, noise_kind
from center_smoothing.scalars import make_plain, plain, rounded_up

Coverage = Literal["pointwise", "bonferroni", "dkw"]
COVERAGES: tuple[Coverage, ...] = ("pointwise", "bonferroni", "dkw")

# Each noise level is certified by itself, and no failure probability is shared between them.
_SCOPES = {
    "pointwise": "each answer by itself, asked for before any result was seen",
    "bonferroni": "all answers of an example at one sigma that are asked for together, before any result was seen",
    "dkw": "all answers of an example at one sigma together, also to what is asked later with coverage dkw",
}
# Candidates that the pilot's mean and coordinate-wise median add to those of its outputs and tuples (theory T2).
_EXTRA_CANDIDATES = 2
# The defaults below keep ranking and probes, comparisons all, at a tenth of the time of a small convolutional network.
_TUPLE_SIZES = (1, 3)
# Probes of a tuple size: of a small budget as many as T7 needs at h = 2, of a large one ever more, up to a limit.
_MIN_PROBES, _OUTPUTS_PER_PROBE, _MAX_PROBES = 32, 64, 128
# Comparisons with probes per certification output, on average, where that is enough for each probe.
_COMPARISONS = 24
_ENOUGH_COMPARED = 1500
# More outputs than these are not compared with the probes, so that memory does not grow with m.
_MAX_COMPARED = 1 << 14
# Bounds are computed in float64.
_MAX_DRAWS = 1 << 53


class PlanBase(Protocol):
    """What plans of all budgets say of one h, see :class:`Plan`."""

    @property
    def h(self) -> float: ...  # noqa: D102
    @property
    def evaluations(self) -> int: ...  # noqa: D102
    @property
    def certifiable(self) -> bool: ...  # noqa: D102
    @property
    def least_m(self) -> float: ...  # noqa: D102


class Budget(ABC):
    """What budgets of all smoothed functions share: sample sizes, failure probabilities, and the words for them.

    Attributes:
        methods: what rows of results may be labelled with.
        presets: arguments of budgets that have a name, see :meth:`preset`.
        depends_on_outputs: whether what can be certified depends on what outputs are like, see :meth:`for_output`.
        n: outputs that the smoothed function is made of.
        m: certification outputs, at most.
        group: so many noisy outputs are aggregated into one (theory T13).
        looks: how often they are looked at; sampling may stop at each look.
        noise: the kind of noise by name, one of ``NOISES``: ranks follow from its shift (theory T15).
        alpha_1: failure probability of the smoothed output.
        alpha_2: failure probability of the certificate.
    """

    methods: ClassVar[tuple[str, ...]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    depends_on_outputs: ClassVar[bool] = False
    n: int
    m: int
    group: int = 1
    looks: int = 1
    noise: str = "gaussian"
    alpha_1: float
    alpha_2: float

    @property
    @abstractmethod
    def method(self) -> str:
        """One of :attr:`methods`."""

    @property
    @abstractmethod
    def delta(self) -> float:
        """The margin around one half; 0 where there is none."""

    @property
    def alpha(self) -> float:
        """Failure probability of the whole promise: alpha_1 + alpha_2."""
        return self.alpha_1 + self.alpha_2

    @property
    def noise_kind(self) -> NoiseKind:
        """The kind of noise."""
        return noise_kind(self.noise)

    def shift(self, h: float) -> float:
        """Return how far the noise of a group moves, in units of sigma: sqrt(group) h for Gaussians (theory T13)."""
        return self.noise_kind.of_copies(h, self.group)

    @property
    def evaluations(self) -> int:
        """Noisy copies that the base function is evaluated on per certificate, at most (theory T8).

        The base output f(x), for the smoothing loss, is one evaluation more.
        """
        return self.n + self.m

    @property
    def evaluations_to_smooth(self) -> int:
        """Noisy copies that the base function is evaluated on per smoothed output."""
        return self.n

    def abstention_probability(self) -> float:
        """Return an upper bound on the chance of abstaining at one input, for every f with finite outputs."""
        return 0.0

    @abstractmethod
    def certifies(self, h: float, *, m: int, coverage: Coverage, answers: int) -> bool:
        """Return whether m outputs, if they are finite, give a finite radius at h as one of so many answers."""

    @abstractmethod
    def plan(self, h: float) -> PlanBase:
        """Return what this budget can certify at h = eps_in / sigma, before any sampling.

        Raises:
            ValueError: if h is negative or NaN.
        """

    def scope(self, coverage: Coverage) -> tuple[str, str]:
        """Return a label and words for what holds together, of answers with that coverage."""
        return coverage, _SCOPES[coverage]

    @property
    @abstractmethod
    def settings(self) -> str:
        """What a plan says of it besides n, m and alpha, such as "k=256, delta=0.04"; may be empty."""

    @property
    def stops(self) -> str:
        """At how many certification outputs sampling may stop, in words."""
        return f"{self.m:,} certification outputs"

    @property
    @abstractmethod
    def abstains(self) -> str:
        """When the smoothed function abstains, in words."""

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know of the smoothed output, sentences."""
        return []

    def widest(self, coverage: Coverage) -> Coverage:
        """Return the coverage that answers have if that one was asked for."""
        return coverage

    def without_averages(self) -> Self:
        """Return the same budget for outputs that cannot be averaged."""
        return self

    @classmethod
    def count_in_groups(cls, outputs: int, group: int) -> int:
        """Return n or m for about so many outputs of the base function in groups: here how many groups there are."""
        return max(1, outputs // group)

    @classmethod
    def quick(cls, **given: Any) -> Self:  # noqa: ANN401  # as the class takes
        """Return a budget that is enough to compare models and settings, but for the arguments given.

        Example:
            >>> from center_smoothing import MeanBudget, SmoothingBudget
            >>> SmoothingBudget.quick().evaluations, SmoothingBudget.quick(group=4).evaluations
            (3125, 3128)
            >>> SmoothingBudget.standard().evaluations, MeanBudget.standard(m=200_000).evaluations
            (30256, 230000)
        """
        return cls.preset("quick", **given)

    @classmethod
    def standard(cls, **given: Any) -> Self:  # noqa: ANN401  # as the class takes
        """Return a budget that certifies close to what any number of samples can, but for the arguments given."""
        return cls.preset("standard", **given)

    @classmethod
    def preset(cls, name: str, **given: Any) -> Self:  # noqa: ANN401  # as the class takes
        """Return the budget of a name, but for the arguments given; arguments and errors as :meth:`preset_values`."""
        make: Callable[..., Self] = cls
        return make(**cls.preset_values(name, **given))

    @classmethod
    def preset_values(cls, name: str, **given: Any) -> dict[str, Any]:  # noqa: ANN401  # as the class takes
        """Return the arguments of the budget of a name, one of :attr:`presets`, and those given in place of them.

        With a group n and m shrink unless given, so that as much is evaluated. ValueError is raised for another name.
        """
        if name not in cls.presets:
            raise ValueError(f"name must be one of {', '.join(cls.presets)}, got {name!r}")
        values = dict(cls.presets[name])
        if "group" in given:
            values.update({size: cls.count_in_groups(values[size], given["group"]) for size in ("n", "m")})
        return {**values, **given}

    @classmethod
    def for_validation(cls, *, n: int, m: int, **given: Any) -> Self:  # noqa: ANN401  # as the class takes
        """Return a small budget of about n and m outputs, for certificates that a training makes again and again."""
        make: Callable[..., Self] = cls
        return make(n=n, m=m, **given)

    def for_output(self, output: Tensor) -> Self:
        """Return the same budget for a function with such outputs (*out)."""
        return self

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Return plain values, from which :meth:`from_dict` makes an equal budget."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the budget of :meth:`as_dict`, also of a file from an earlier version."""
        make: Callable[..., Self] = cls
        return make(**values)

    def _check(self, *counts: str) -> None:
        """Make all fields numbers of Python, and raise ValueError unless counts and failure probabilities are such."""
        make_plain(self)
        noise_kind(self.noise)
        for name in counts:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
            if value > _MAX_DRAWS:
                raise ValueError(
                    f"{name} must be at most 2^53, up to where float64 counts, got {len(str(value))} digits"
                )
        for name in ("alpha_1", "alpha_2"):
            bounds.check_alpha(getattr(self, name), name)


@dataclass(frozen=True)
class Ranks:
    """Which order statistics make a certificate at one h (theory T5 and T7). Ranks are 1-based.

    Attributes:
        distances: R is this one among the certification distances; more than there are: no certificate.
        probes: by tuple size J, the rank among the probes, and the rank among each probe's distances. J is missing
            where the sample is too small for it.
    """

    distances: int
    probes: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a budget can certify at one h, known before sampling.

    Attributes:
        h: eps_in / sigma.
        p: mass that the ball B(z, R) must hold (theory T3), of groups at the shift of theirs.
        rank: R is the rank-th smallest of m distances; m + 1 where m is too small.
        least_m: least m with a certificate at this h; inf where float64 cannot tell p from 1.
        evaluations: noisy copies that the base function f is evaluated on per example.
        abstention_probability: upper bound on the chance of abstaining, for every f with finite distances.
        certifiable: whether rank <= m, that is m >= least_m.
        tuple_sizes: the J whose probes bound the radius of the other ball (theory T7), where outputs are floating-point
            numbers; without any, only T3 does.
    """

    h: float
    p: float
    rank: int
    least_m: float
    evaluations: int
    abstention_probability: float
    certifiable: bool
    tuple_sizes: tuple[int, ...] = ()

    @property
    def theorem(self) -> str:
        """Which statement of docs/theory.md gives eps_out."""
        return theorem(self.tuple_sizes)


def theorem(tuple_sizes: Sequence[int]) -> str:
    """Return which statement of docs/theory.md bounds the other ball, from the tuple sizes whose probes do.

    Example:
        >>> theorem([1, 3]), theorem([])
        ('T7 J=1+3', 'T3')
    """
    return f"T7 J={'+'.join(map(str, tuple_sizes))}" if tuple_sizes else "T3"


@dataclass(frozen=True, kw_only=True)
class SmoothingBudget(Budget):
    """Sample sizes, margin and failure probabilities of a smoothed function and of its certificate.

    ``n``, ``k``, ``group``, ``candidates``, ``tuple_sizes``, ``n_check``, ``delta``, ``alpha_1`` and ``method`` are
    part of the smoothed function: a certificate speaks of the outputs at x and at x' computed with the same values
    (theory T1). An output is one of the base function, or with ``group`` an aggregate of so many.

    Args:
        n: ranked outputs.
        m: certification outputs, at most.
        k: pilot outputs, of which candidate centers are made. Default: n / 8, but 32 to 256. Paper mode has no pilot:
            its candidates are the n ranked outputs.
        delta: margin Delta in (0, 1/2) around one half. Default: the least one at which the chance of abstaining is
            at most 1%, whatever the base function, as long as its outputs are at finite distances from each other.
        alpha_1: failure probability of the smoothed output, in (0, 1/2]; half of it is spent on the check.
        alpha_2: failure probability of the certificate, in (0, 1/2].
        n_check: outputs that check the center's mass. Default: n. They are shared with the certification outputs
            (theory T8), so that any n_check <= m costs nothing more.
        candidates: at most so many candidates for each tuple size.
        group: J, outputs of the base function that are aggregated into one (:meth:`Distance.aggregate`, theory T13),
            each of which takes J evaluations. Certified radii fall about like 1 / sqrt(J) up to sqrt(J) h = 2. 1 is
            the paper's function.
        tuple_sizes: J, ascending: averages of J pilot outputs are candidates, and probes of the certificate (theory
            T7). Pilot outputs themselves are candidates in any case. () leaves T7 out.
        looks: how often the certification outputs are looked at, each time at twice as many, the last time at all m;
            alpha_2 is shared by the looks, so that sampling may stop at any of them, for whatever reason.
        method: ``"exact"`` (theory T1, T2, T5, T7) or ``"paper"`` (Algorithms 1 and 2 to the letter, theory T4).
        noise: ``"gaussian"`` for changes in l2 norm, or ``"uniform"`` for changes in l1 norm (theory T15).

    Raises:
        ValueError: for values out of range, and for a delta that n, k and alpha_1 do not admit, with the least one.

    Example:
        >>> budget = SmoothingBudget(n=1_000, m=2_000, delta=0.13)
        >>> plan = budget.plan(h=2.0)
        >>> plan.evaluations, plan.rank, plan.least_m, plan.theorem
        (3125, 1992, 536.0, 'T7 J=1')
    """

    methods: ClassVar[tuple[str, ...]] = margins.METHODS
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The paper's own procedure and sample sizes (its section 5): about 35 times the cost of standard.
        "paper": {"method": "paper", "n": 10_000, "m": 1_000_000, "delta": 0.05, "alpha_1": 0.005, "alpha_2": 0.005},
        "quick": {"n": 1_000, "m": 2_000},  # about 1 s per digit on two cores
        "standard": {"n": 10_000, "m": 20_000},
    }

    n: int = 10_000
    m: int = 20_000
    k: int = None  # type: ignore[assignment]  # None is resolved in __post_init__, readers see a number
    delta: float = None  # type: ignore[assignment]  # likewise
    alpha_1: float = 0.005
    alpha_2: float = 0.005
    n_check: int = None  # type: ignore[assignment]  # likewise
    group: int = 1
    candidates: int = 56
    tuple_sizes: tuple[int, ...] = None  # type: ignore[assignment]  # likewise
    looks: int = 1
    method: margins.Method = "exact"
    noise: str = "gaussian"

    def __post_init__(self) -> None:
        """Validate, and fill in the defaults that depend on other fields."""
        given = [name for name in ("n_check", "k") if getattr(self, name) is not None]
        self._check("n", "m", "group", "candidates", "looks", *given)
        if self.method not in margins.METHODS:
            raise ValueError(f"method must be one of {', '.join(margins.METHODS)}, got {self.method!r}")
        if self.noise != "gaussian" and self.method == "paper":
            raise ValueError(f"noise must be gaussian for method='paper', whose algorithms have it, got {self.noise!r}")
        for name, default in {"n_check": self.n, "k": min(256, max(32, self.n // 8))}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        object.__setattr__(self, "tuple_sizes", _check_tuple_sizes(self.tuple_sizes, self.method))
        if self.method == "paper" and self.n_check != self.n:
            raise ValueError(f"n_check must equal n={self.n} for method='paper', got {self.n_check}")
        for name in ("group", "looks"):
            if self.method == "paper" and getattr(self, name) != 1:
                raise ValueError(f"{name} must be 1 for method='paper', got {getattr(self, name)}")
        if self.looks > 1 and self.look_sizes[0] < self.n_check:
            raise ValueError(
                f"looks must be such that the first of them, at {self.look_sizes[0]} outputs, has the "
                f"n_check={self.n_check} of the check, got {self.looks}; take fewer looks, a larger m or a smaller n"
            )
        least = self.least_delta
        if math.isinf(least):
            raise ValueError(
                f"n={self.n} with k={self.k} admits no delta below 0.5 at alpha_1={self.alpha_1}; "
                f"n={margins.least_n(self.tuples(1), self.alpha_1, self.method)} does"
            )
        if self.delta is None:
            object.__setattr__(self, "delta", self._default_delta(least))
        if not (isinstance(self.delta, int | float) and least <= self.delta < 0.5):
            raise ValueError(
                f"delta must lie in [{margins.round_up(least, 4)}, 0.5) for n={self.n}, k={self.k}, "
                f"alpha_1={self.alpha_1}, method={self.method!r}, got {self.delta!r}"
            )

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
        """Noisy copies that the base function is evaluated on per certificate (theory T8), at most."""
        if self.method == "paper":
            return self.evaluations_to_smooth + self.certification_outputs
        return self.group * (self.k + self.n + self.certification_outputs)

    @property
    def evaluations_to_smooth(self) -> int:
        """Noisy copies that the base function is evaluated on per smoothed output (theory T1)."""
        return self.group * ((0 if self.method == "paper" else self.k) + self.n + self.n_check)

    @property
    def certification_outputs(self) -> int:
        """How many outputs are drawn after the center is chosen, at most: of m < n_check, the check needs more (T8)."""
        return self.m if self.method == "paper" else max(self.m, self.n_check)

    @property
    def look_sizes(self) -> tuple[int, ...]:
        """Numbers of certification outputs at which they are looked at, ascending."""
        return tuple(-(-self.m // 2**later) for later in reversed(range(self.looks)))

    @property
    def least_delta(self) -> float:
        """The least admissible delta (theory T1); inf where there is none below 1/2."""
        return margins.least_delta(self.n, self.tuples(1), self.alpha_1, self.method)

    @cached_property  # plans and certificates ask for it many times
    def probes(self) -> int:
        """How many probes of each tuple size a certificate has (theory T7); 0 for none."""
        if not self.tuple_sizes or self._alpha_hit() <= 0.0:
            return 0
        wanted = min(_MAX_PROBES, max(_MIN_PROBES, self.m // _OUTPUTS_PER_PROBE))
        number = min(wanted, self.look_sizes[0] // (2 * self.tuple_sizes[-1]))
        return number if number >= 8 else 0

    @property
    def outputs_in_probes(self) -> int:
        """How many of the certification outputs, the first ones, the probes are made of."""
        return self.probes * self.tuple_sizes[-1] if self.probes else 0

    def compared(self, m: int) -> int:
        """How many of m certification outputs are compared with the probes: those after :attr:`outputs_in_probes`."""
        if not self.probes:
            return 0
        affordable = max(_ENOUGH_COMPARED, _COMPARISONS * m // (self.probes * len(self.tuple_sizes)))
        return max(1, min(m - self.outputs_in_probes, affordable, _MAX_COMPARED))

    def tuples(self, size: int) -> int:
        """How many candidates are averages of ``size`` pilot outputs: disjoint tuples, in the order of the draws."""
        return min(self.candidates, self.k // size)

    @property
    def most_candidates(self) -> int:
        """How many candidates each of the n ranked outputs is compared with, at most (theory T2 and T7)."""
        if self.method == "paper":
            return self.n
        return sum(self.tuples(size) for size in {1, *self.tuple_sizes}) + _EXTRA_CANDIDATES

    def without_averages(self) -> Self:
        """Return the same budget for outputs that cannot be averaged: as many candidates, all of them pilot outputs."""
        if self.method == "paper" or self.tuple_sizes in ((), (1,)):
            return self
        return replace(self, tuple_sizes=(1,), candidates=self.most_candidates - _EXTRA_CANDIDATES)

    def with_sizes(self, sizes: Sequence[int]) -> SmoothingBudget:
        """Return the same budget with these tuple sizes alone: no failure probability is spent on others (T7)."""
        return self if tuple(sizes) == self.tuple_sizes else replace(self, tuple_sizes=tuple(sizes))

    def mass_lower_bound(self, inside: int) -> float:
        """Lower confidence bound on the mass of a ball that held ``inside`` of n_check fresh outputs (T1.3)."""
        if self.method == "paper":
            return inside / self.n_check - bounds.hoeffding_margin(self.n_check, self.alpha_check)
        return bounds.clopper_pearson_lower(inside, self.n_check, self.alpha_check)

    def least_inside(self) -> int:
        """How many of the n_check outputs the ball must hold for the smoothed function not to abstain."""
        return margins.least_inside(self.n_check, self.delta, self.alpha_check, self.method)

    def ranks(self, h: float, *, m: int | None = None, coverage: Coverage = "pointwise", answers: int = 1) -> Ranks:
        """Which order statistics make the certificate at h >= 0: a function of the budget, never of a sample.

        ``m`` is one of :attr:`look_sizes`; default: all. Other arguments as in :meth:`CertificateBase.theorem`.
        """
        alpha_2 = self.alpha_2 / self.looks / (answers if coverage == "bonferroni" else 1)
        return _ranks(self, self.shift(float(h)), self.m if m is None else plain(m), coverage == "dkw", alpha_2)

    def certifies(self, h: float, *, m: int, coverage: Coverage, answers: int) -> bool:
        """Return whether R is one of m distances at h."""
        return self.ranks(h, m=m, coverage=coverage, answers=answers).distances <= m

    @property
    def settings(self) -> str:
        """What a plan says of it besides n, m and alpha."""
        pilot = "" if self.method == "paper" else f"k={self.k}, "
        noise = "" if self.noise == "gaussian" else f"noise={self.noise}, "
        return f"{pilot}{noise}{'' if self.group == 1 else f'group={self.group}, '}delta={self.delta:g}"

    @property
    def stops(self) -> str:
        """At how many certification outputs sampling may stop, in words."""
        looks = ", ".join(f"{m:,}" for m in self.look_sizes)
        return f"{looks} certification outputs, each with alpha_2 / {self.looks}"

    @property
    def abstains(self) -> str:
        """When the smoothed function abstains, in words."""
        return f"on at most {rounded_up(100 * self.abstention_probability(), 1)}% of inputs"

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know of the smoothed output, sentences."""
        told = f"The smoothed output is the center of aggregates of {self.group} outputs under noise each."
        return [told] if self.group > 1 else []

    def abstention_probability(self) -> float:
        """Return an upper bound on the chance of abstaining for every f whose outputs are at finite distances."""
        return margins.abstention_probability(*self._selection(), self.n_check, self.least_inside())

    def plan(self, h: float) -> Plan:
        """Return what this budget can certify at h, see :meth:`Budget.plan`."""
        h = plain(h)
        p = self.noise_kind.mass_needed(0.5 + self.delta, self.shift(h))
        ranks = self.ranks(h)
        least = bounds.dkw_least_m if self.method == "paper" else bounds.order_statistic_least_m
        return Plan(
            h=float(h),
            p=p,
            rank=ranks.distances,
            least_m=least(p, self.alpha_2 / self.looks),
            evaluations=self.evaluations,
            abstention_probability=self.abstention_probability(),
            certifiable=ranks.distances <= self.m,
            tuple_sizes=tuple(size for size, _, _ in ranks.probes),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, without a group of 1 and Gaussian noise: as before there was anything else."""
        values = {**asdict(self), "tuple_sizes": list(self.tuple_sizes)}
        usual = {"group": 1, "noise": "gaussian"}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}

    @classmethod
    def for_validation(cls, *, n: int, m: int, **given: Any) -> Self:  # noqa: ANN401  # as the class takes
        """Return a small budget, see :meth:`Budget.for_validation`; the check has all m outputs."""
        return cls(**{"n": n, "m": m, "n_check": m, "k": 32, **given})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the budget of :meth:`as_dict`; files without ``tuple_sizes`` are from before there were any.

        Raises:
            KeyError: if k or delta is missing, by which a budget of centers is told from one of means.
        """
        return cls(**{"tuple_sizes": (), **values, "k": values["k"], "delta": values["delta"]})

    def _alpha_hit(self) -> float:
        """Return what of alpha_1 is left at x' for each tuple size: that no candidate of it is good (theory T7)."""
        theta = 0.5 + self.delta
        spent = (1.0 - theta) ** self.tuples(1)
        spent += (1 + len(self.tuple_sizes)) * bounds.binomial_shortfall(self.n, theta, self.half)
        return (self.alpha_1 / 2.0 * (1.0 - 1e-9) - spent) / len(self.tuple_sizes)

    def _selection(self) -> tuple[int, int, int]:
        """Draws, rank and candidates, as in :func:`center_smoothing.bounds.mass_selected_by_minimum`."""
        if self.method == "paper":  # a candidate is one of the n: it has n - 1 others, and itself at distance 0
            return max(1, self.n - 1), self.half - 1, self.most_candidates
        return self.n, self.half, self.most_candidates

    def _default_delta(self, low: float) -> float:
        most = margins.most_inside(*self._selection(), self.n_check)

        def abstains_rarely(delta: float) -> bool:
            return margins.least_inside(self.n_check, delta, self.alpha_check, self.method) <= most

        high = 0.4999
        if low <= high and abstains_rarely(low):
            return margins.round_up(low, 4)
        if low > high or not abstains_rarely(high):
            raise ValueError(
                f"n={self.n} with n_check={self.n_check} is too small for a default delta: at every delta below 0.5 a "
                "function may abstain on more than 1% of inputs; give delta, or a larger n"
            )
        while high - low > 1e-5:
            middle = (low + high) / 2.0
            low, high = (low, middle) if abstains_rarely(middle) else (middle, high)
        return margins.round_up(high, 4)


@lru_cache(maxsize=65536)
def _ranks(budget: SmoothingBudget, h: float, m: int, whole_curve: bool, alpha_2: float) -> Ranks:
    """Return the ranks at a shift h, see :meth:`Budget.shift`.

    Half of alpha_2 goes to R and half to the probes, shared by their sizes; all to R where no probe can help.
    """
    find = bounds.dkw_rank if whole_curve or budget.method == "paper" else bounds.order_statistic_rank
    p, sizes = budget.noise_kind.mass_needed(0.5 + budget.delta, h), budget.tuple_sizes
    if whole_curve:  # the split must be the same at every h, as all of them count
        sizes = tuple(size for size, _, _ in _probe_ranks(budget, 0.0, m, sizes, True, alpha_2 / 2.0))
    probes = _probe_ranks(budget, h, m, sizes, whole_curve, alpha_2 / 2.0)
    if probes or (whole_curve and sizes):
        rank = find(m, p, alpha_2 / 2.0)
        if rank <= m or whole_curve:
            return Ranks(rank, probes)
    return Ranks(find(m, p, alpha_2))


def _probe_ranks(
    budget: SmoothingBudget, h: float, m: int, sizes: tuple[int, ...], whole_curve: bool, alpha: float
) -> tuple[tuple[int, int, int], ...]:
    """Return the tuple sizes that m outputs are enough for at h, each with its two ranks (theory T7)."""
    number, compared = budget.probes, budget.compared(m)
    if not (sizes and number and compared):
        return ()
    share, noise = alpha / len(sizes), budget.noise_kind
    if whole_curve:
        step, end = noise.curve
        if h > end:
            return ()
        h = step * math.ceil(h / step)  # the h at which probes bound the whole curve at once
        share /= 1.0 + end / step
    p = noise.mass_needed(0.5 + budget.delta, h)
    within = bounds.order_statistic_rank(compared, p, share / 2.0 / number)
    found = []
    for size in sizes:
        mass = bounds.mass_hit(budget.tuples(size), budget._alpha_hit()) if budget.tuples(size) else 1.0
        if mass < 1.0 and within <= compared:
            among = bounds.order_statistic_rank(number, noise.mass_needed(mass, noise.of_copies(h, size)), share / 2.0)
            if among <= number:
                found.append((size, among, within))
    return tuple(found)


def _check_tuple_sizes(sizes: object, method: margins.Method) -> tuple[int, ...]:
    if sizes is None:
        return () if method == "paper" else _TUPLE_SIZES
    listed = list(sizes) if isinstance(sizes, tuple | list) else [0]
    counts = all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in listed)
    if not counts or sorted(set(listed)) != listed:
        raise ValueError(f"tuple_sizes must be ascending whole numbers of at least 1, such as (1, 3), got {sizes!r}")
    if listed and method == "paper":
        raise ValueError(f"tuple_sizes must be () for method='paper', which has T3 alone, got {sizes!r}")
    return tuple(listed)
