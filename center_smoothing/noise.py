"""Where noisy copies come from: a stream of noise for each (seed, example, stage, block), on a grid or not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import IntEnum
from functools import partial
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from center_smoothing.discrete_gaussian import discrete_gaussian
from center_smoothing.noise_kinds import noise_kind
from center_smoothing.scalars import plain
from center_smoothing.threats import Threat, threat_of

# An input: a tensor, or an array of numpy, which becomes one of the same type on the CPU.
Point = Tensor | NDArray[Any]

# Draws per block. The numbers depend on it: another block size is another random stream.
BLOCK = 64
_MAX_STEPS = 2.0**51
_FLOATS = (np.float16, np.float32, np.float64)


class Stage(IntEnum):
    """What a batch of noisy outputs is for. Stages are independent of each other (theory T8)."""

    PILOT = 0
    RANKING = 1
    CERTIFICATION = 2
    CHECK = 3
    CALIBRATION = 4
    MEAN = 5
    ATTACK = 6


def block_seed(seed: int, example: int, stage: Stage, block: int) -> int:
    """Return the 64-bit seed of one block of noise, 0..2^29 - 1, for any whole numbers of seed and example.

    PyTorch's CPU generator uses only the low 32 bits of a seed. Hashing alone would let two blocks of one example
    collide with a chance of about blocks^2 / 2^33, and their draws would not be independent. Here the low half is a
    bijection of (block, stage), offset by a hash of (seed, example): within an example no two blocks share it.
    """
    if not 0 <= block < 1 << 29:
        raise ValueError(f"block must lie in 0..{(1 << 29) - 1}, got {block}")
    digest = hashlib.blake2b(f"{seed}/{example}".encode(), digest_size=8).digest()
    high, offset = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")
    low = ((block << 3 | stage) + offset) & 0xFFFFFFFF
    # murmur3's finaliser: each step is invertible on 32 bits, so the whole is a bijection that scatters neighbours
    low = ((low ^ low >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    low = ((low ^ low >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    return high << 32 | (low ^ low >> 16)


class Noise(TypedDict, total=False):
    """What :class:`NoisyInputs` takes besides sigma and the kind of noise."""

    seed: int
    grid: int | None
    sigma_map: Point | None
    threat: str | None


class NoisyInputs:
    """Noisy copies x + sigma delta, on x's device; delta is standard normal if nothing else is said.

    With a grid x is rounded to it, and noise and sum are exact (theory T10). Arguments are those of
    :class:`center_smoothing.Smoother`, and the kind of noise, one of ``NOISES`` (theory T15).

    Raises:
        ValueError: for a sigma that is not positive and finite, a grid that is no whole number of at least 1, a map
            that is not positive and finite, and for what does not go together.
    """

    def __init__(
        self,
        *,
        sigma: float,
        seed: int = 0,
        grid: int | None = None,
        noise: str = "gaussian",
        sigma_map: Point | None = None,
        threat: str | None = None,
    ) -> None:
        sigma, grid = plain(sigma), plain(grid)
        if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0.0 < sigma < float("inf"):
            raise ValueError(f"sigma must be a positive finite number, got {sigma!r}")
        if grid is not None and (isinstance(grid, bool) or not isinstance(grid, int) or grid < 1):
            raise ValueError(f"grid must be a whole number of at least 1, such as 4080, got {grid!r}")
        self.kind = noise_kind(noise)
        self.sigma_map = None if sigma_map is None else _as_map(sigma_map)
        for given, what in ((grid, "a grid"), (self.sigma_map, "a sigma map")):
            if given is not None and noise != "gaussian":
                raise ValueError(f"noise must be gaussian with {what}, got {noise!r}")
        if grid is not None and self.sigma_map is not None:
            raise ValueError(
                f"grid must be left out with a sigma map: exact noise has one standard deviation, got {grid}"
            )
        self.threat: Threat = threat_of(threat, self.kind, self.sigma_map)
        self.sigma = float(sigma)
        self._scales: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.grid = grid
        self.law = None if grid is None else discrete_gaussian(self.sigma, grid)
        self.seed = int(seed)

    def noisy_copies(self, x: Tensor, *, example: int, stage: Stage, count: int) -> Tensor:
        """Return the first ``count`` noisy copies (count, *in) of x (*in). Their noise is that of the draws."""
        check_point(x)
        self.check_map(x)
        return NoisyCopies(self, x.detach(), example, stage, count).at(slice(0, count))

    def check_map(self, x: Tensor) -> None:
        """Raise ValueError unless the map, if there is one, fits x (*in)."""
        shape = x.shape if self.sigma_map is None else self.sigma_map.shape
        sides = zip(reversed(shape), reversed(x.shape), strict=False)
        if len(shape) > x.ndim or not all(side in (1, of) for side, of in sides):
            raise ValueError(
                f"sigma_map must have the shape of x, {tuple(x.shape)}, or one that is broadcast to it, got "
                f"{tuple(shape)}"
            )

    def conversion(self, x: Tensor) -> float:
        """Return how many times larger changes of x (*in) may be in the norm of the noise than in that of the threat.

        A change of length eps_in in the norm of the threat is one of at most h = conversion * eps_in / sigma.
        """
        self.check_map(x)
        return self.threat.conversion(self.kind, x.shape)

    def rounded(self, x: Tensor) -> Tensor:
        """Return x (*in) itself, or rounded to the grid if there is one."""
        return x.detach() if self.grid is None else from_grid(to_grid(x, self.grid), self.grid, x.dtype)

    def _blocks(self, x: Tensor, example: int, stage: Stage, number: int = 0) -> Iterator[Tensor]:
        """Yield noise (64, *in), from the block of that number on; in steps of the grid if there is one."""
        generator = torch.Generator(device=x.device)
        noise = x.new_empty((BLOCK, *x.shape))
        while True:
            generator.manual_seed(block_seed(self.seed, example, stage, number))
            if self.law is None:
                yield self.kind.fill(noise, generator)
            else:
                yield self.law.sample((BLOCK, *x.shape), generator)
            number += 1

    def _add(self, x: Tensor, noise: Tensor, out: Tensor) -> None:
        """Write noisy copies (N, *in) of x (*in), with a grid of its coordinates, to ``out``."""
        if self.grid is not None:
            out.copy_(from_grid(x + noise, self.grid, out.dtype))
        elif self.sigma_map is None:
            torch.add(x, noise, alpha=self.sigma, out=out)
        else:
            torch.addcmul(x, noise, self._scale(self.sigma_map, x), out=out)

    def _scale(self, sigma_map: Tensor, x: Tensor) -> Tensor:
        """Return the standard deviations, of x's type and on its device."""
        key = (x.device, x.dtype)
        if key not in self._scales:
            self._scales[key] = (self.sigma * sigma_map).to(x)
        return self._scales[key]


class NoisyCopies:
    """Noisy copies of x (*in) for a stage, in a buffer for ``size`` of them that the next batch fills again."""

    def __init__(self, inputs: NoisyInputs, x: Tensor, example: int, stage: Stage, size: int) -> None:
        self._x = x if inputs.grid is None else to_grid(x, inputs.grid)
        self._add, self._buffer = inputs._add, x.new_empty((size, *x.shape))
        self._blocks_from = partial(inputs._blocks, x, example, stage)
        self._blocks, self._next = self._blocks_from(), 0
        self._block = self._buffer[:0]

    def at(self, place: slice) -> Tensor:
        """Return the copies (N, *in) of a place among all; fastest where it begins where the last one ended."""
        if place.start != self._next:
            self._blocks = self._blocks_from(place.start // BLOCK)
            self._block = next(self._blocks)[place.start % BLOCK :]
        batch, filled = self._buffer[: place.stop - place.start], 0
        while filled < len(batch):
            if len(self._block) == 0:
                self._block = next(self._blocks)
            take = min(len(self._block), len(batch) - filled)
            self._add(self._x, self._block[:take], batch[filled : filled + take])
            filled, self._block = filled + take, self._block[take:]
        self._next = place.stop
        return batch


def to_grid(x: Tensor, grid: int) -> Tensor:
    """Return the nearest point of a grid, in steps: (*in) finite floating-point -> (*in) int64.

    Raises:
        ValueError: for values beyond 2^51 steps, where float64 has no exact sums left, and on a device without float64.
    """
    try:
        steps = x.detach().to(torch.float64) * grid
    except TypeError as error:
        raise ValueError(f"x must be on a device with float64 for a grid, got {x.device}; take the CPU") from error
    if x.numel() > 0 and float(steps.abs().max()) > _MAX_STEPS:
        raise ValueError(
            f"grid must be such that values of x are at most 2^51 steps, got {float(steps.abs().max()):g} with {grid}"
        )
    return steps.round().to(torch.int64)


def from_grid(coordinates: Tensor, grid: int, dtype: torch.dtype) -> Tensor:
    """Return what the base function sees, of that type, of a point of a grid: of int64 steps, of any shape, alone."""
    return (coordinates.to(torch.float64) / grid).to(dtype)


def grid_change(x: Tensor, grid: int) -> tuple[float, float]:
    """Return how far rounding to a grid moves a point (*in): the largest change of a coordinate, and the l2 norm."""
    change = x.detach().to(torch.float64) - from_grid(to_grid(x, grid), grid, torch.float64)
    return float(change.abs().max()), float(torch.linalg.vector_norm(change))


def as_point(x: Point) -> Tensor:
    """Return an input as a tensor: an array of float16, float32 or float64 as one of the same type.

    Example:
        >>> as_point(np.ones(2)[::-1]).dtype, as_point(np.ones(2, dtype=np.float32)).dtype
        (torch.float64, torch.float32)

    Raises:
        ValueError: for anything but floating-point numbers.
    """
    if isinstance(x, Tensor):
        return x
    if not isinstance(x, np.ndarray) or x.dtype.newbyteorder("=") not in _FLOATS:
        kind = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(f"x must be a floating-point tensor or array in the units of sigma, got {kind}")
    return torch.from_numpy(np.array(x, dtype=x.dtype.newbyteorder("="), order="C"))


def _as_map(sigma_map: Point) -> Tensor:
    """Return a map of standard deviations in float64, on the CPU."""
    found = torch.as_tensor(sigma_map).detach().to("cpu", torch.float64)
    bad = int((~((found > 0.0) & torch.isfinite(found))).sum())
    if found.numel() == 0 or bad > 0:
        raise ValueError(
            f"sigma_map must hold positive finite multiples of sigma, got {bad} of {found.numel()} that are none: "
            "without noise on a number nothing is certified about changes of it"
        )
    return found


def check_point(x: Tensor) -> None:
    """Raise ValueError unless x is a finite floating-point tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.layout is not torch.strided:
        kind = type(x).__name__ if not isinstance(x, Tensor) else x.dtype if x.layout is torch.strided else x.layout
        raise ValueError(f"x must be a floating-point tensor or array in the units of sigma, got {kind}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"x must be finite, got {bad} NaN or infinite of {x.numel()} values")
