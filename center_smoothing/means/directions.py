"""Means, seen along each direction: how far a mean moves, from the moments of single directions (theory T12)."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special
from scipy.sparse import linalg as sparse_linalg
from torch import Tensor

from center_smoothing import bounds
from center_smoothing.distances.base import Distance

# Where the integral over the known noise is cut into cells, and where its tails begin.
_LEFT, _RIGHT, _CELLS_LEFT, _CELLS_RIGHT = -9.0, 20.0, 4000, 800
# The largest h of which a shift is computed: the right tail beyond _RIGHT is then still nothing.
_LARGEST_H = 8.0
# A and C of the dual problem are optimised on a grid of h and of the logarithm of rho_4 / rho_2, in these steps.
_STEP_H, _STEP_RATIO = 1.0 / 32.0, 1.0 / 16.0
# Covers the rounding of sums of a few thousand positive terms, and of the functions in them.
_QUADRATURE = 1.0 + 1e-9
# How alpha_2 is shared: what lies outside of A, second moments, fourth moments of two directions, first moments.
_SHARES = (0.3, 0.2, 0.2, 0.1, 0.2)
# How far beyond the largest output of the pilot the set A reaches, and the least weight as a part of the largest.
_BEYOND_PILOT, _LEAST_WEIGHT = 1.35, 1e-2
# Outputs that are taken in together, those of a pilot and of a Gram matrix: at most so many, with so many numbers.
_MAX_AT_ONCE, _NUMBERS_AT_ONCE = 2048, 1 << 21
# Beyond so many numbers an output, a Gram matrix of outputs takes the place of the matrix of second moments.
_LARGEST_MATRIX = 4096
# Eigenvectors of matrices up to this size are computed in full.
_SMALL = 256


def hoeffding_mean_upper(mean: float, largest: float, count: int, alpha: float) -> float:
    """Return an upper confidence bound on the expectation of draws in [0, ``largest``] (Hoeffding 1963, theorem 1).

    Args:
        mean: of ``count`` independent draws, at least 0, or a number above it, with which the bound increases.
        largest: what no draw exceeds, above 0.
        count: number of draws, at least 1.
        alpha: failure probability in (0, 1/2].

    Returns:
        The largest t in [mean, largest] with count * kl(mean / largest, t / largest) <= ln(1 / alpha), rounded up.

    Example:
        >>> round(hoeffding_mean_upper(0.1, 1.0, 1000, 0.01), 4)
        0.1312
    """
    limit = -math.log(bounds.check_alpha(alpha)) / count * (1.0 + 1e-12)
    if mean >= largest * (1.0 - 1e-15):
        return largest
    share = mean / largest * (1.0 + 1e-15)

    def is_beyond(t: float) -> bool:
        return float(special.rel_entr(share, t) + special.rel_entr(1.0 - share, 1.0 - t)) > limit

    low, high = share, 1.0
    while high - low > 1e-14 * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return min(largest, high * (1.0 + 1e-12) * largest)


@lru_cache(maxsize=4096)
def largest_shift(h: float, second: float, fourth: float) -> float:
    """Return how far E g(X) moves at most when X moves by h sigma (theory T12, step 3).

    Args:
        h: at least 0; may be inf.
        second: rho_2, the square root of a bound on E g(X)^2; at least 0.
        fourth: rho_4, the fourth root of a bound on E g(X)^4; values below rho_2 count as rho_2.

    Returns:
        What |E g(X') - E g(X)| does not exceed: the value of the dual problem at a feasible point, by a quadrature
        from above; inf for h above 8.

    Example:
        >>> round(largest_shift(1.0, 1.0, 3.0**0.25), 2)
        1.12
    """
    if h == 0.0 or second == 0.0:
        return 0.0
    if h > _LARGEST_H:
        return math.inf
    cauchy = math.sqrt(math.expm1(h * h)) * (1.0 + 1e-12)
    logarithm = math.log(max(1.0, fourth / second))
    h_step = max(1, round(h / _STEP_H))
    a, c = _dual_point(h_step, round(logarithm / _STEP_RATIO))
    scale = cauchy / math.sqrt(math.expm1((h_step * _STEP_H) ** 2))  # the best A and C grow about like this
    return second * min(cauchy, _dual_value(h, math.exp(logarithm) * (1.0 + 1e-14), scale * a, scale * c))


@lru_cache(maxsize=4096)
def _dual_point(h_step: int, ratio_step: int) -> tuple[float, float]:
    """Return the A and C that are about the best for rho_2 = 1 at a point of the grid; any others are right too."""
    h, ratio = h_step * _STEP_H, math.exp(ratio_step * _STEP_RATIO)
    edges = np.linspace(_LEFT, _RIGHT, 401)
    y = np.abs(np.expm1(h * (edges[1:] + edges[:-1]) / 2.0 - h * h / 2.0))
    masses = _masses(edges)

    def value(logarithms: NDArray[np.float64]) -> float:
        a, c = np.exp(np.clip(logarithms, -60.0, 60.0))
        return float(masses @ _conjugate(y, a, c) + a / 2.0 + c * ratio**4 / 4.0)

    start = math.log(math.expm1(h * h)) / 2.0
    starts = ((start, start - 4.0), (start - 0.5, start - 1.5 - 4.0 * math.log(ratio)))
    found = min((optimize.minimize(value, x, method="Nelder-Mead") for x in starts), key=lambda result: result.fun)
    a, c = np.exp(np.clip(found.x, -60.0, 60.0))
    return float(a), float(c)


def _dual_value(h: float, ratio: float, a: float, c: float) -> float:
    """Bound E psi(|l - 1|) + A / 2 + C ratio^4 / 4 from above, for l(xi) = exp(h xi - h^2 / 2) and any A > 0, C > 0."""
    left, right = np.linspace(_LEFT, h / 2.0, _CELLS_LEFT + 1), np.linspace(h / 2.0, _RIGHT, _CELLS_RIGHT + 1)
    # left of h / 2, where l = 1, |l - 1| falls: the left end of each cell bounds it
    falling = _conjugate(-np.expm1(h * left - h * h / 2.0), a, c)
    integral = float(_masses(left) @ falling[:-1])
    # right of it, psi(l - 1) is convex in xi: each chord lies above it, and has its integral in closed form
    rising = _conjugate(np.expm1(h * right - h * h / 2.0), a, c)
    masses, density = _masses(right), np.exp(-right * right / 2.0) / math.sqrt(2.0 * math.pi)
    slopes = np.diff(rising) / np.diff(right)
    integral += float(masses @ rising[:-1] + slopes @ np.maximum(0.0, -np.diff(density) - right[:-1] * masses))
    # |l - 1| <= 1 on the far left; |l - 1| <= l and psi(y) <= 3/4 C^(-1/3) y^(4/3) on the far right
    far_left = float(special.ndtr(_LEFT)) * float(_conjugate(np.ones(1), a, c)[0])
    far_right = (
        0.75 * math.exp(-math.log(c) / 3.0) * math.exp(2.0 * h * h / 9.0) * float(special.ndtr(4.0 * h / 3.0 - _RIGHT))
    )
    return (integral + far_left + far_right + a / 2.0 + c * ratio**4 / 4.0) * _QUADRATURE


def _conjugate(y: NDArray[np.float64], a: float, c: float) -> NDArray[np.float64]:
    """Bound psi(y) = sup over g of y g - A g^2 / 2 - C g^4 / 4 from above, for y >= 0."""
    scale = math.sqrt(a / (3.0 * c))
    g = 2.0 * scale * np.sinh(np.arcsinh(1.5 * y / (a * scale)) / 3.0)
    residual = y - a * g - c * g**3
    # the objective is concave, so that its maximum lies below its tangent at g; it is less than g away
    found: NDArray[np.float64] = y * g - a * g**2 / 2.0 - c * g**4 / 4.0 + np.abs(residual) * g
    return found


def _masses(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard normal masses of the cells between ascending edges, without cancellation in the tails."""
    masses: NDArray[np.float64] = np.where(
        edges[:-1] > 0.0, -np.diff(special.ndtr(-edges)), np.diff(special.ndtr(edges))
    )
    return masses


def largest_eigenvalue_upper(matrix: Tensor, rounding: float = 0.0) -> float:
    """Return an upper bound on the largest eigenvalue of a symmetric positive semidefinite matrix.

    An estimate t is raised until t I - matrix, (D, D) float64, has a Cholesky factor; then no eigenvalue exceeds t by
    more than the rounding of the factorisation (Rump 2006, lemma 2.1), which is added, as is ``rounding``: by how much,
    in the spectral norm, the matrix as computed may differ from the exact one.

    Example:
        >>> round(largest_eigenvalue_upper(torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))), 4)
        3.0
    """
    size, trace = len(matrix), float(matrix.diagonal().sum())
    if trace <= 0.0:
        return rounding
    estimate = max(_largest_eigenvalue(matrix), trace / size)
    for slack in (1e-6, 1e-4, 1e-2):
        top = estimate * (1.0 + slack)
        shifted = matrix.neg()
        shifted.diagonal().add_(top)
        if int(torch.linalg.cholesky_ex(shifted).info) == 0:
            unit = 2.0**-53 * (size + 2)
            return top * (1.0 + 2.0 * unit * size) + rounding
    return trace * (1.0 + size * 2.0**-52) + rounding


def _largest_eigenvalue(matrix: Tensor) -> float:
    """Estimate the largest eigenvalue."""
    if len(matrix) <= _SMALL:
        return float(torch.linalg.eigvalsh(matrix)[-1])
    array = matrix.cpu().numpy()
    start = np.random.default_rng(0).standard_normal(len(array))
    return float(sparse_linalg.eigsh(array, k=1, which="LA", v0=start, tol=1e-6, return_eigenvectors=False)[0])


@dataclass(frozen=True)
class DirectionalMoments:
    """What bounds a mean along each direction: all that is kept of the certification sample (theory T12).

    Attributes:
        count: m, how many outputs were drawn.
        second_count: over how many of them, the first ones, the second moments are taken: all, or as the fourth.
        fourth_count: of how many, the first ones, the fourth moments are.
        outside: how many of the m lie outside of A.
        largest: b, which no norm of an output in A exceeds.
        spread: C_w R, which no weighted norm of an output in A exceeds, as a bound on its norm.
        offset: the norm of the sample's mean of V.
        second: an upper bound on the sample's mean of <s, V>^2, for every direction s.
        fourth: an upper bound on that of <s, V>^4, over the first ``fourth_count``.
    """

    count: int
    second_count: int
    fourth_count: int
    outside: int
    largest: float
    spread: float
    offset: float
    second: float
    fourth: float

    def __post_init__(self) -> None:
        """Check what a file may have got wrong."""
        if not all(0.0 <= value < math.inf for value in astuple(self)):
            raise ValueError(f"directions must be finite and at least 0, got {self}")
        if not (1 <= self.fourth_count <= self.second_count <= self.count and 0 <= self.outside <= self.count):
            raise ValueError(
                "directions must have counts 0 <= outside <= count and 1 <= fourth_count <= second_count <= count, "
                f"got {self}"
            )

    def as_array(self) -> NDArray[np.float64]:
        """Return the numbers in their order, float64 (9,)."""
        return np.array(astuple(self), dtype=np.float64)

    @classmethod
    def from_array(cls, values: NDArray[np.float64]) -> DirectionalMoments:
        """Return what :meth:`as_array` gave; ValueError if it did not."""
        if values.shape != (len(fields(cls)),):
            raise ValueError(f"directions must have shape ({len(fields(cls))},), got {values.shape}")
        if not np.all(np.isfinite(values)):
            raise ValueError(f"directions must be finite, got {values}")
        return cls(*(int(value) for value in values[:4]), *(float(value) for value in values[4:]))

    def radius(self, h: float, *, n: int, bound: float, alpha_1: float, alpha_2: float) -> float:
        """Return how far the mean of n outputs moves at most when x moves by h sigma, inf too (theory T12).

        No distance from the center exceeds ``bound``. It fails with probability at most alpha_1 at x', and alpha_2 of
        the certification sample, both in (0, 1/2].
        """
        moved, deviation, outside = self.parts(h, n=n, alpha_1=alpha_1, alpha_2=alpha_2)
        return min(bound, (moved + deviation + bound * outside) * (1.0 + 1e-12))

    def parts(self, h: float, *, n: int, alpha_1: float, alpha_2: float) -> tuple[float, float, float]:
        """Return what :meth:`radius` adds up.

        How far the expectation moves at most (steps 2 to 4), what the mean of n outputs is off from it (5), and the
        share of outputs that count as at the bound B (6).
        """
        tail, second, fourth, weak, first = (alpha_2 * share for share in _SHARES)
        outside = bounds.clopper_pearson_upper(self.outside, self.count, tail)
        rho_2 = math.sqrt(hoeffding_mean_upper(self.second, self.largest**2, self.second_count, second))
        rho_4, weak_rho_4 = (
            hoeffding_mean_upper(self.fourth, self.largest**4, self.fourth_count, level) ** 0.25
            for level in (fourth, weak)
        )
        expectation = min(self.largest, largest_shift(h, rho_2, rho_4) + self._first_moment(rho_2, first))
        deviation = self._deviation(h, n, expectation, weak_rho_4, alpha_1 / 2.0)
        there = float(bounds.gaussian_shifts_up(np.array([outside]), h)[0])
        return expectation, deviation, min(n, bounds.order_statistic_rank(n, there, alpha_1 / 2.0) - 1) / n

    def _first_moment(self, rho_2: float, alpha: float) -> float:
        """Bound E <s, V> for one direction s from above: the sample's mean and Bernstein's inequality (step 4)."""
        level = -math.log(alpha) / self.count
        return self.offset + rho_2 * math.sqrt(2.0 * level) + 2.0 * self.largest * level / 3.0

    def _deviation(self, h: float, n: int, expectation: float, rho_4: float, alpha: float) -> float:
        """Bound the norm of (mean of n V' - E V') from above: Bousquet's inequality (step 5)."""
        if h > _LARGEST_H:
            return math.inf
        mean, level = self.spread / math.sqrt(n), -math.log(alpha) / n
        variance = math.exp(h * h / 2.0) * rho_4**2
        largest = self.largest + expectation
        return mean + math.sqrt(2.0 * level * (variance + 2.0 * largest * mean)) + largest * level / 3.0


def outputs_at_once(numbers: int) -> int:
    """Return how many outputs of so many numbers each :class:`Directions` takes in together."""
    return max(64, min(_MAX_AT_ONCE, _NUMBERS_AT_ONCE // numbers))


class Directions:
    """Gathers the moments of outputs along each direction while they are drawn (theory T12).

    Args:
        distance: with a ``norm`` of differences.
        center: c, (*out) float64.
        pilot: (N, *out) outputs independent of those to come, N at least 2, one of them finite: for weights and A.
        fourth_count: over how many outputs, the first ones, the fourth moments are taken; at least 1.
    """

    def __init__(self, distance: Distance, center: Tensor, pilot: Tensor, *, fourth_count: int) -> None:
        self._distance, self._center, self._fourth_count = distance, center, fourth_count
        self._embedded = distance.embed  # a linear map: (N, *out) -> (N, *embedded)
        deviations = self._embedded(pilot.to(center) - center)
        deviations = deviations[torch.isfinite(deviations).flatten(1).all(dim=1)]
        self._weights = _weights(distance.norm, deviations)
        self._factor = 1.0 if distance.norm in ("l2", "linf") else math.sqrt(float(self._weights.sum()))
        self._largest = _BEYOND_PILOT * float(self._norms(deviations).max())
        self._radius = _BEYOND_PILOT * float(self._weighted(deviations).flatten(1).norm(dim=1).max())
        self._by_matrix = distance.norm != "linf" and center.numel() <= _LARGEST_MATRIX
        self._count = self._outside = self._fourths = 0
        self._sum = torch.zeros_like(center.flatten())
        self._second = self._sum.new_zeros((center.numel(),) * 2) if self._by_matrix else self._sum.new_zeros(())
        self._fourth = self._sum.new_zeros(())

    def add(self, outputs: Tensor) -> None:
        """Take further outputs (N, *out) in, at most :func:`outputs_at_once`; non-finite ones lie outside of A.

        The sums depend on how outputs are divided into batches, by their rounding.
        """
        differences = outputs.to(self._center) - self._center
        embedded = self._embedded(differences)
        weighted = self._weighted(embedded)
        inside = (self._norms(embedded) <= self._largest) & (weighted.flatten(1).norm(dim=1) <= self._radius)
        keep = inside[:, None]
        rows = torch.where(keep, differences.flatten(1), 0.0)
        weighted = torch.where(keep, weighted.flatten(1), 0.0)
        self._count, self._outside = self._count + len(outputs), self._outside + int((~inside).sum())
        self._sum += rows.sum(dim=0)
        if self._by_matrix:
            self._second.addmm_(rows.T, rows)
        elif self._distance.norm == "linf":
            self._second = self._second + weighted.square().sum(dim=0)
        if self._fourths < self._fourth_count:
            self._add_fourth(weighted[: self._fourth_count - self._fourths])

    def _add_fourth(self, weighted: Tensor) -> None:
        """Take (N, D) rows of W^(-1/2) V in; a supremum of a mean is at most the mean of the suprema of its parts."""
        count = len(weighted)
        if self._distance.norm == "linf":
            self._fourth = self._fourth + weighted.square().square().sum(dim=0)
        else:
            products = weighted @ weighted.T
            rounding = 4.0 * (weighted.shape[1] + count) * 2.0**-53
            second = largest_eigenvalue_upper(products / count, rounding * float(products.diagonal().mean()))
            squares = products.square_() / count
            trace = float(squares.diagonal().sum())
            squares -= squares.mean(dim=0)
            squares -= squares.mean(dim=1, keepdim=True)
            spread = largest_eigenvalue_upper((squares + squares.T) / 2.0, 4.0 * rounding * trace)
            self._fourth += count * (second**2 + spread)
            if not self._by_matrix:
                self._second += count * second
        self._fourths += count

    def moments(self) -> DirectionalMoments:
        """Return what the outputs so far say."""
        second_count = self._fourths if self._second.ndim == 0 else self._count
        if self._distance.norm == "linf":
            second, fourth = (float(sums.max()) for sums in (self._second / self._count, self._fourth / self._fourths))
        else:
            if self._by_matrix:
                matrix = self._of_weighted(self._second / self._count)
                rounding = 4.0 * (self._count + len(matrix)) * 2.0**-53 * float(matrix.diagonal().sum())
                second = largest_eigenvalue_upper(matrix, rounding)
            else:
                second = float(self._second) / self._fourths
            second, fourth = self._factor**2 * second, self._factor**4 * float(self._fourth) / self._fourths
        mean = (self._sum / self._count).reshape(1, *self._center.shape)
        return DirectionalMoments(
            count=self._count,
            second_count=second_count,
            fourth_count=self._fourths,
            outside=self._outside,
            largest=min(self._largest, self._factor * self._radius),
            spread=self._factor * self._radius,
            offset=float(self._norms(self._embedded(mean))[0]),
            second=second * (1.0 + 1e-12),
            fourth=fourth * (1.0 + 1e-12),
        )

    def _norms(self, embedded: Tensor) -> Tensor:
        return self._distance.paired(embedded, torch.zeros_like(embedded))

    def _weighted(self, embedded: Tensor) -> Tensor:
        return embedded / self._weights.sqrt()

    def _of_weighted(self, second: Tensor) -> Tensor:
        """Return W^(-1/2) L M L^T W^(-1/2) of second moments M of the outputs: (P, P) -> (D, D)."""
        half = self._weighted(self._embedded(second.reshape(-1, *self._center.shape))).flatten(1)
        whole = self._weighted(self._embedded(half.T.reshape(-1, *self._center.shape))).flatten(1)
        return (whole + whole.T) / 2.0


def _weights(norm: str | None, deviations: Tensor) -> Tensor:
    """Return weights w of the coordinates of embedded outputs: their standard deviations, for sums of them, or 1."""
    if norm in ("l2", "linf"):
        return deviations.new_ones(())
    squares = deviations.square().mean(dim=0)
    if norm == "l1 of l2":
        squares = squares.sum(dim=0)  # one weight for all channels of a pair of pixels
    weights = squares.sqrt()
    least = _LEAST_WEIGHT * weights.max()
    return weights.clamp_min(float(least) if float(least) > 0.0 else 1.0)
