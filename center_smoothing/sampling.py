"""The stream of noisy outputs f(x + noise): seeded per (seed, example, stage, block), batched, on x's device."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from center_smoothing.base_functions import as_base_function, as_outputs
from center_smoothing.discrete_gaussian import discrete_gaussian
from center_smoothing.scalars import plain

# Draws per block. The numbers depend on it: another block size is another random stream.
BLOCK = 64
_CALIBRATION_SECONDS = 1.0
_MAX_STEPS = 2.0**51
# Of the messages that are no torch.OutOfMemoryError: of the CPU's allocator, also on Windows, of MPS, cuBLAS and cuDNN.
_NO_MEMORY = ("allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")
_BATCH_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)

BaseFunction = Callable[[Tensor], Tensor]
BatchSize = int | Literal["auto"]


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
    """64-bit seed of one block of noise.

    PyTorch's CPU generator uses only the low 32 bits of a seed. Hashing alone would let two blocks of one example
    collide with a chance of about blocks^2 / 2^33, and their draws would not be independent. Here the low half is a
    bijection of (block, stage), offset by a hash of (seed, example): within an example no two blocks share it.

    Args:
        seed: any integer.
        example: any integer, e.g. the index in the data set.
        stage: what the block is for.
        block: 0..2^29 - 1.
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


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put every module behind ``model`` in eval mode without gradients, and restore both afterwards.

    In training mode batch norm makes an output depend on its batch, so that samples are not independent.
    A bound method counts as the module that it belongs to.
    """
    owner = getattr(model, "__self__", model)
    modules = list(owner.modules()) if isinstance(owner, nn.Module) else []
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


class NoisyOutputs:
    """Draws f(x + delta), delta ~ N(0, sigma^2 I), in batches whose numbers do not depend on the batch size.

    With a grid it draws f(round(x + delta)) for x rounded to the grid: noise and sum are exact (theory T10).

    Args:
        model: callable (N, *in) -> (N, *out), tensors or arrays, or what can be made one.
        sigma: noise level, in units of x.
        seed: with the example's number, the stage and the block it determines the noise.
        grid: steps per unit of x; default: none, and noise in floating point.
        batch_size: noisy copies per call of the model, or ``"auto"``: measured once on the first x, in about a
            second, and kept.
        progress: called with the number of copies after each call of the model.
        after: a function of outputs (N, *out), of each by itself, that belongs to the base function, such as clipping.

    Attributes:
        most_at_once: noisy copies that the memory of the device allows for in a call, once it ran out; else None.
    """

    def __init__(
        self,
        model: BaseFunction,
        *,
        sigma: float,
        seed: int = 0,
        grid: int | None = None,
        batch_size: BatchSize = "auto",
        progress: Callable[[int], None] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        sigma, grid, batch_size = plain(sigma), plain(grid), plain(batch_size)
        if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0.0 < sigma < float("inf"):
            raise ValueError(f"sigma must be a positive finite number, got {sigma!r}")
        if batch_size != "auto" and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size must be 'auto' or a whole number of at least 1, got {batch_size!r}")
        if grid is not None and (isinstance(grid, bool) or not isinstance(grid, int) or grid < 1):
            raise ValueError(f"grid must be a whole number of at least 1, such as 4080, got {grid!r}")
        self.model = as_base_function(model)
        self.sigma = float(sigma)
        self.grid = grid
        self.law = None if grid is None else discrete_gaussian(self.sigma, grid)
        self.seed = int(seed)
        self.batch_size = batch_size
        self.progress = progress
        self.after = after
        self.most_at_once: int | None = None
        self._works = False  # whether a call of the model came to an end

    def base_output(self, x: Tensor) -> Tensor:
        """f(x), without noise, for x rounded to the grid if there is one: (*in) -> (*out)."""
        check_point(x)
        x = x.detach() if self.grid is None else from_grid(to_grid(x, self.grid), self.grid, x.dtype)
        with evaluating(self.model):
            return self._call(x.unsqueeze(0).clone())[0].clone()  # as in draw

    def draw(self, x: Tensor, *, example: int, stage: Stage, count: int) -> Iterator[Tensor]:
        """Yield ``count`` outputs in batches (N, *out).

        The noise of the i-th output depends on (seed, example, stage, i) alone.

        Args:
            x: (*in), a floating-point tensor without NaN or inf.
            example: number of the example.
            stage: what the outputs are for.
            count: how many; a smaller count gives a prefix of a larger one.

        Raises:
            ValueError: if x is not finite, or the model returns anything but a tensor (N, *out).
        """
        check_point(x)
        if self.batch_size == "auto":
            self.batch_size = self._fastest_batch_size(x)
        size = max(1, min(self.batch_size, count))
        copies = _NoisyCopies(self, x.detach(), example, stage, size)
        for first in range(0, count, size):
            yield self._evaluated(copies, slice(first, min(first + size, count)))

    def _evaluated(self, copies: _NoisyCopies, place: slice) -> Tensor:
        with evaluating(self.model):
            outputs = self._call_in_parts(partial(copies.at, place))
        if self.progress is not None:
            self.progress(len(outputs))
        return outputs

    def _call_in_parts(self, inputs: Callable[[], Tensor]) -> Tensor:
        """Outputs (N, *out) of a batch, in as many calls as the memory of the device makes necessary.

        Args:
            inputs: makes the batch (N, *in), again for each attempt: the model may have written on the last one.

        Raises:
            ValueError: if there is not enough for one noisy copy.
        """
        while True:
            batch = inputs()
            size = min(len(batch), self.most_at_once or len(batch))
            try:
                # an output may be a view of the input, or a buffer that the model fills again
                outputs = [self._call(part).clone() for part in torch.split(batch, size)]
                return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise ValueError(
                        "model must fit into the memory of the device with one noisy copy at least, got an input of "
                        f"shape {tuple(batch.shape[1:])}: {_first_line(error)}"
                    ) from error
                self.most_at_once = size // 2
            device = batch.device
            del batch  # before another is made; only here nothing holds on to the tensors of the failed call
            free_caches(device)

    def noisy_copies(self, x: Tensor, *, example: int, stage: Stage, count: int) -> Tensor:
        """The first ``count`` noisy copies (count, *in) themselves. Arguments are those of :meth:`draw`."""
        check_point(x)
        return _NoisyCopies(self, x.detach(), example, stage, count).at(slice(0, count))

    def _blocks(self, x: Tensor, example: int, stage: Stage, number: int = 0) -> Iterator[Tensor]:
        """Noise (64, *in), block by block, from the block of that number on; in steps of the grid if there is one."""
        generator = torch.Generator(device=x.device)
        noise = x.new_empty((BLOCK, *x.shape))
        while True:
            generator.manual_seed(block_seed(self.seed, example, stage, number))
            if self.law is None:
                yield noise.normal_(generator=generator)
            else:
                yield self.law.sample((BLOCK, *x.shape), generator)
            number += 1

    def _add(self, x: Tensor, noise: Tensor, out: Tensor) -> None:
        """Noisy copies (N, *in) of x: of (*in), or with a grid of its coordinates."""
        if self.grid is None:
            torch.add(x, noise, alpha=self.sigma, out=out)
        else:
            out.copy_(from_grid(x + noise, self.grid, out.dtype))

    def _call(self, batch: Tensor) -> Tensor:
        """Outputs (N, *out) of a batch, which belongs to the model from here on: it may write on it."""
        outputs = as_outputs(self.model(batch), batch) if self._works else self._first_outputs(batch)
        return outputs if self.after is None else self.after(outputs)

    def _first_outputs(self, batch: Tensor) -> Tensor:
        """Outputs (N, *out) of the first call of all, which shows whether x itself was a batch."""
        point = batch[0].clone()
        try:
            outputs = as_outputs(self.model(batch), batch).clone()  # the next call may fill them again
        except Exception as error:
            if point.ndim > 1 and not is_out_of_memory(error) and self._outputs_of_rows(point) is not None:
                raise ValueError(
                    f"x must be one input, got shape {tuple(point.shape)}: the model takes it for a batch of "
                    f"{len(point)}, and no batch of such; smooth each x[i] by itself ({_first_line(error)})"
                ) from error
            raise
        self._works = True
        if self._is_like_a_batch(point, outputs[0]):
            warnings.warn(
                f"x of shape {tuple(point.shape)} looks like a batch of {len(point)} inputs: the model gives an output "
                "for each row alone; together they get one certificate, larger than that of each x[i] by itself",
                stacklevel=2,
            )
        return outputs

    def _is_like_a_batch(self, point: Tensor, output: Tensor) -> bool:
        """Whether the output (*out) at a point (*in) is the model's for the point's rows, taken as a batch.

        Of an image, functions of each pixel give the same for each channel alone; it is one input nevertheless.
        """
        is_image = point.ndim == 3 and len(point) in (1, 3, 4)
        if point.ndim < 2 or len(point) < 2 or is_image or len(output) != len(point):
            return False
        alone, together = self._outputs_of_rows(point[-1:]), output[-1:].reshape(1, -1)
        if alone is None or alone.flatten(1).shape != together.shape:
            return False
        a, b = (z.cpu().double() for z in (alone.flatten(1), together))
        return torch.allclose(a, b, rtol=1e-4, equal_nan=True)

    def _outputs_of_rows(self, rows: Tensor) -> Tensor | None:
        """Outputs (B, *out) of rows (B, *in); None where the model takes no such batch."""
        try:
            return as_outputs(self.model(rows.clone()), rows)
        except Exception:  # whatever a model raises for inputs that do not fit
            return None

    def _fastest_batch_size(self, x: Tensor) -> int:
        """The batch size with the most evaluations a second: measured here, on this x, in about a second."""
        with evaluating(self.model):
            self._call_in_parts(partial(self._noisy_batch, x, BLOCK))  # the first call of all may compile the model
        best, best_rate, began = BLOCK, 0.0, time.perf_counter()
        for size in _BATCH_SIZES:
            try:
                rate = self._rate(x, size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                rate = 0.0
            if rate == 0.0:
                free_caches(x.device)
                break
            if rate > 1.03 * best_rate:
                best, best_rate = size, rate
            if rate < 0.8 * best_rate or time.perf_counter() - began > _CALIBRATION_SECONDS:
                break
        return best

    def _noisy_batch(self, x: Tensor, size: int) -> Tensor:
        """Something to measure on: ``size`` noisy copies, one block of noise over and over."""
        copies = self.noisy_copies(x, example=0, stage=Stage.CALIBRATION, count=BLOCK)
        return copies.repeat(-(-size // BLOCK), *[1] * x.ndim)[:size]

    def _rate(self, x: Tensor, size: int) -> float:
        """Evaluations a second, from the faster of two calls after one that does not count."""
        with evaluating(self.model):
            seconds = [self._seconds(self._noisy_batch(x, size)) for _ in range(3)]
        return size / max(min(seconds[1:]), 1e-9)

    def _seconds(self, batch: Tensor) -> float:
        began = time.perf_counter()
        self._call(batch).flatten()[0].item()  # reading one number waits for the device
        return time.perf_counter() - began


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the CPU's allocator, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in _NO_MEMORY)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def free_caches(device: torch.device) -> None:
    """Give memory back that PyTorch keeps on a device for later."""
    empty_cache = getattr(torch.get_device_module(device), "empty_cache", None)  # the CPU has none
    if empty_cache is not None:
        empty_cache()


class _NoisyCopies:
    """Noisy copies of x, in a buffer that the next batch fills again.

    Args:
        outputs: knows the noise.
        x: (*in).
        example: number of the example.
        stage: what the copies are for.
        size: of the largest batch.
    """

    def __init__(self, outputs: NoisyOutputs, x: Tensor, example: int, stage: Stage, size: int) -> None:
        self._x = x if outputs.grid is None else to_grid(x, outputs.grid)
        self._add, self._buffer = outputs._add, x.new_empty((size, *x.shape))
        self._blocks_from = partial(outputs._blocks, x, example, stage)
        self._blocks, self._next = self._blocks_from(), 0
        self._block = self._buffer[:0]

    def at(self, place: slice) -> Tensor:
        """The copies (N, *in) of a place among all; fastest where it begins where the last one ended."""
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
    """The nearest point of a grid, in steps: (*in) floating-point -> (*in) int64.

    Args:
        x: finite.
        grid: steps per unit.

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
    """What the base function sees of a point of a grid: a function of integers, whatever they came from.

    Args:
        coordinates: int64 of any shape.
        grid: steps per unit.
        dtype: of the result.
    """
    return (coordinates.to(torch.float64) / grid).to(dtype)


def grid_change(x: Tensor, grid: int) -> tuple[float, float]:
    """How far rounding to a grid moves a point (*in): the largest change of a coordinate, and the l2 norm."""
    change = x.detach().to(torch.float64) - from_grid(to_grid(x, grid), grid, torch.float64)
    return float(change.abs().max()), float(torch.linalg.vector_norm(change))


def check_point(x: Tensor) -> None:
    """Raise ValueError unless x is a finite floating-point tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.layout is not torch.strided:
        kind = type(x).__name__ if not isinstance(x, Tensor) else x.dtype if x.layout is torch.strided else x.layout
        raise ValueError(f"x must be a floating-point tensor in the units of sigma, got {kind}")
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise ValueError(f"x must be finite, got {bad} NaN or infinite of {x.numel()} values")
