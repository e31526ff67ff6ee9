"""Gaussian noise rounded to a grid, drawn exactly: a table of integers, and more bits where it leaves a draw open."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from decimal import ROUND_FLOOR, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

# Bits of a random word. A comparison that they leave open has a chance of about 2^-63 for each entry of the table.
_BITS = 63
# Of these the first so many find the place in the table; 2^16 numbers of 4 bytes fit into a cache.
_GUIDE_BITS = 16
# Entries of a table at most: what takes some seconds and 2 MB.
_MAX_ENTRIES = 1 << 18
# Beyond so many sigma a Gaussian lies with a probability below 2^-63; the table ends there, and not the law.
_SIGMAS = 9.2
_DIGITS = 25


class DiscreteGaussian:
    """The law of round(scale Y) for a standard normal Y: P[Z <= j] = Phi((j + 1/2) / scale) (theory T10).

    A draw is the least j with U < P[Z <= j], U uniform in [0, 1) and as long as it takes: its first 63 bits are
    compared with a table of the first 63 bits of these probabilities; where they are equal, further bits decide. So
    the law is exact for ideal random bits.

    Args:
        scale: sigma in steps of the grid, positive.
        bits: of a word, 1 to 63.

    Raises:
        ValueError: for a scale that is not positive, or so large that the table would be absurd.
    """

    def __init__(self, scale: Fraction, bits: int = _BITS) -> None:
        if not 0 < scale:
            raise ValueError(f"scale must be positive, got {scale}")
        last = math.ceil(_SIGMAS * scale) + 1
        if 2 * last > _MAX_ENTRIES:
            most = _MAX_ENTRIES / (2.0 * _SIGMAS)
            raise ValueError(
                f"grid must be such that sigma * grid, the noise level in steps, is at most {most:.0f}, got "
                f"{float(scale):g}; take a coarser grid"
            )
        self.scale = scale
        self.bits = bits
        self.first = -last
        upper = [scaled_cdf(j, scale, bits) for j in range(last)]
        # scaled_cdf has found 2^bits Phi strictly between two integers, so that the floor of 2^bits (1 - Phi) is one
        # less than 2^bits minus that of 2^bits Phi
        lower = [(1 << bits) - 1 - value for value in reversed(upper)]
        self.thresholds = torch.tensor([*lower, *upper, (1 << bits) - 1], dtype=torch.int64)
        self._shift = max(0, bits - _GUIDE_BITS)
        starts = torch.arange(1 << (bits - self._shift), dtype=torch.int64) << self._shift
        below = torch.searchsorted(self.thresholds, starts)
        below_next = torch.cat([below[1:], below.new_tensor([len(self.thresholds)])])
        # where a cell of the guide holds several thresholds it leaves the search to others
        self._guide = torch.where(below_next - below <= 1, below, -1).to(torch.int32)
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw independent numbers, int64 of that shape, on the device of the generator."""
        words = self._words(shape, generator)
        found, open_ = self._look_up(words.flatten())
        for position in open_.tolist():
            word = int(words.flatten()[position])
            found[position] = self._resolved(word, lambda: int(self._words((), generator)))
        return found.reshape(shape)

    def _words(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        words = torch.empty(shape, dtype=torch.int64, device=generator.device).random_(generator=generator)
        return words if self.bits == _BITS else words >> (_BITS - self.bits)

    def _look_up(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws from words (N,), and positions of those that more bits have to decide."""
        if words.device not in self._on:
            self._on[words.device] = self.thresholds.to(words.device), self._guide.to(words.device)
        thresholds, guide = self._on[words.device]
        index = guide[words >> self._shift].to(torch.int64)
        crowded = (index < 0).nonzero()[:, 0]
        if len(crowded) > 0:
            index[crowded] = torch.searchsorted(thresholds, words[crowded])
        next_ = thresholds[index]  # the last one is the largest word
        index += words > next_
        return index + self.first, (words == next_).nonzero()[:, 0]

    def _resolved(self, word: int, more: Callable[[], int]) -> int:
        """Return the least j with U < P[Z <= j], for a U whose first word leaves that open."""
        bits = self.bits
        while True:
            word, bits = word << self.bits | more(), bits + self.bits
            end = math.ceil((2.0 + 1.2 * math.sqrt(bits)) * self.scale) + 1  # exp(-y^2 / 2) < 2^-bits beyond

            def floor(j: int, bits: int = bits) -> int:
                return scaled_cdf(j, self.scale, bits)

            found = bisect_right(range(-end, end), word, key=floor) - end
            if floor(found - 1) != word:
                return found


def scaled_cdf(j: int, scale: Fraction, bits: int) -> int:
    """Return the floor of 2^bits Phi((j + 1/2) / scale), exactly.

    Phi(x) - 1/2 = phi(x) (x + x^3/3 + x^5/(3 5) + ...) for x > 0. All terms are positive: with d digits, T operations
    are off by a factor of at most (1 + 10^(1-d))^T; the rest of the sum is below its last term. To add 1/2 and to scale
    rounds three times more, numbers of at most 1. Where that leaves the floor open, more digits are taken. Far out
    1 - Phi(x) < exp(-x^2 / 2) < 2^-bits tells the floor.
    """
    if j < 0:
        return (1 << bits) - 1 - scaled_cdf(-j - 1, scale, bits)
    x_squared, digits = (Fraction(2 * j + 1) / (2 * scale)) ** 2, _DIGITS + bits // 3
    if x_squared > 2 * bits:
        return (1 << bits) - 1
    while True:
        with localcontext(Context(prec=digits)):
            square = Decimal(x_squared.numerator) / Decimal(x_squared.denominator)
            total = term = square.sqrt()
            smallest, divisor = term.scaleb(-digits), 1
            while term > smallest or 2 * square > divisor:  # then each term is less than half the one before
                divisor += 2
                term = term * square / divisor
                total += term
            value = total * (-square / 2).exp() / (2 * _pi(digits)).sqrt()
            error = (value * (10 * divisor) + 2) * Decimal(10) ** (1 - digits)
            low, high = ((Decimal("0.5") + value + sign * error) * (1 << bits) for sign in (-1, 1))
            floors = {min(int(bound.to_integral_value(ROUND_FLOOR)), (1 << bits) - 1) for bound in (low, high)}
        if len(floors) == 1:
            return floors.pop()
        digits *= 2


@lru_cache
def _pi(digits: int) -> Decimal:
    """Return pi to so many digits, by Machin's formula: pi = 16 arctan(1/5) - 4 arctan(1/239)."""
    one = 10 ** (digits + 10)

    def arctan_of_inverse(n: int) -> int:
        power, total, k = one // n, 0, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power, k = power // (n * n), k + 2
        return total

    return Decimal(16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)).scaleb(-digits - 10)


@lru_cache(maxsize=16)
def discrete_gaussian(sigma: float, grid: int) -> DiscreteGaussian:
    """Return the law of the noise N(0, sigma^2) rounded to a grid, in steps of the grid; its table is kept.

    The exact value of sigma, a float in units of x, counts. ValueError as by :class:`DiscreteGaussian`.
    """
    return DiscreteGaussian(Fraction(sigma) * grid)
