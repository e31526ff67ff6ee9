"""Outputs at noisy copies, f(x + noise), in batches whose numbers do not depend on the batch size."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from center_smoothing.base_functions import as_base_function, as_outputs
from center_smoothing.noise import BLOCK, Noise, NoisyCopies, NoisyInputs, Stage, check_point
from center_smoothing.scalars import plain

_CALIBRATION_SECONDS = 1.0
# Of the messages that are no torch.OutOfMemoryError: of the CPU's allocator, also on Windows, of MPS, cuBLAS and cuDNN.
_NO_MEMORY = ("allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")
_BATCH_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)

BaseFunction = Callable[[Tensor], Tensor]
BatchSize = int | Literal["auto"]


class Sampling(Noise, total=False):
    """How outputs are drawn, as :class:`NoisyOutputs` takes it; of the kind of noise budgets know."""

    batch_size: BatchSize
    progress: Callable[[int], None] | None


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


class NoisyOutputs(NoisyInputs):
    """Draw f(x + noise) in batches whose numbers do not depend on the batch size; Gaussian noise, if nothing is said.

    Args:
        model: callable (N, *in) -> (N, *out), tensors or arrays, or what can be made one.
        sigma: noise level, in units of x.
        batch_size: noisy copies per call of the model, or ``"auto"``: measured once on the first x, in about a
            second, and kept.
        progress: called with the number of copies after each call of the model.
        after: a function of outputs (N, *out), of each by itself, that belongs to the base function, such as clipping.
        group: how many values of f, at consecutive noisy copies, an output is made of.
        aggregate: what makes it, (N, group, *out) -> (N, *out), each group by itself; without use for a group of 1.
        noise: the kind of noise.
        given: all else that :class:`NoisyInputs` takes, with its errors.

    Raises:
        ValueError: for another batch_size, and for a larger group without an aggregate (theory T13).

    Attributes:
        most_at_once: noisy copies that the memory of the device allows for in a call, once it ran out; else None.
    """

    def __init__(
        self,
        model: BaseFunction,
        *,
        sigma: float,
        batch_size: BatchSize = "auto",
        progress: Callable[[int], None] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
        group: int = 1,
        aggregate: Callable[[Tensor], Tensor] | None = None,
        noise: str = "gaussian",
        **given: Unpack[Noise],
    ) -> None:
        super().__init__(sigma=sigma, noise=noise, **given)
        if group > 1 and aggregate is None:
            raise ValueError(f"aggregate must be given for group={group}, got None")
        batch_size = plain(batch_size)
        if batch_size != "auto" and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size must be 'auto' or a whole number of at least 1, got {batch_size!r}")
        self.model = as_base_function(model)
        self.batch_size = batch_size
        self.progress = progress
        self.after = after
        self.group, self.aggregate = group, aggregate
        self.most_at_once: int | None = None
        self._works = False  # whether a call of the model came to an end

    def base_output(self, x: Tensor) -> Tensor:
        """Return f(x), without noise, for x rounded to the grid if there is one: (*in) -> (*out)."""
        check_point(x)
        with evaluating(self.model):
            return self._call(self.rounded(x).unsqueeze(0).clone())[0].clone()  # as in draw

    def draw(self, x: Tensor, *, example: int, stage: Stage, count: int) -> Iterator[Tensor]:
        """Yield ``count`` outputs at x (*in) in batches (N, *out), of groups the aggregates.

        The noise of the i-th output depends on (seed, example, stage, i) alone, of groups of J that of copies i J to
        i J + J - 1: a smaller count gives a prefix of a larger one.

        Raises:
            ValueError: if x is not finite and floating-point, or the model returns anything but a tensor (N, *out).
        """
        values = self.draw_values(x, example=example, stage=stage, count=count * self.group)
        if self.aggregate is None or self.group == 1:
            yield from values
            return
        for rows in regrouped(values, self.group * BLOCK):
            yield self.aggregate(rows.reshape(-1, self.group, *rows.shape[1:]))

    def draw_values(self, x: Tensor, *, example: int, stage: Stage, count: int) -> Iterator[Tensor]:
        """Yield ``count`` values of f itself in batches (N, *out), whatever the group; otherwise as :meth:`draw`."""
        check_point(x)
        self.check_map(x)
        if self.batch_size == "auto":
            self.batch_size = self._fastest_batch_size(x)
        size = max(1, min(self.batch_size, count))
        copies = NoisyCopies(self, x.detach(), example, stage, size)
        for first in range(0, count, size):
            yield self.evaluated(partial(copies.at, slice(first, min(first + size, count))))

    def evaluated(self, inputs: Callable[[], Tensor]) -> Tensor:
        """Return outputs (N, *out) of a batch that ``inputs`` makes, see :meth:`_call_in_parts`, and tell of it."""
        with evaluating(self.model):
            outputs = self._call_in_parts(inputs)
        if self.progress is not None:
            self.progress(len(outputs))
        return outputs

    def _call_in_parts(self, inputs: Callable[[], Tensor]) -> Tensor:
        """Return outputs (N, *out) of a batch, in as many calls as the memory of the device makes necessary.

        ``inputs`` makes the batch (N, *in), again for each attempt: the model may have written on the last one.
        ValueError is raised if there is not enough for one noisy copy.
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

    def _call(self, batch: Tensor) -> Tensor:
        """Return outputs (N, *out) of a batch, which belongs to the model from here on: it may write on it."""
        outputs = as_outputs(self.model(batch), batch) if self._works else self._first_outputs(batch)
        return outputs if self.after is None else self.after(outputs)

    def _first_outputs(self, batch: Tensor) -> Tensor:
        """Return outputs (N, *out) of the first call of all, which shows whether x itself was a batch."""
        point = batch[0].clone()
        try:
            outputs = as_outputs(self.model(batch), batch).clone()  # the next call may fill them again
        except Exception as error:
            if point.ndim > 1 and not is_out_of_memory(error) and self._outputs_of_rows(point) is not None:
                raise ValueError(
                    f"x must be one input, got shape {tuple(point.shape)}: the model takes it for a batch of "
                    f"{len(point)}, and no batch of such; smooth each x[i] by itself ({_first_line(error)})"
                ) from error
            shape = tuple(batch.shape)
            error.add_note(f"the model was called with {batch.dtype} of shape {shape}, copies of an x of {shape[1:]}")
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
        """Return whether the output (*out) at a point (*in) is the model's for the point's rows, taken as a batch.

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
        """Return outputs (B, *out) of rows (B, *in); None where the model takes no such batch."""
        try:
            return as_outputs(self.model(rows.clone()), rows)
        except Exception:  # whatever a model raises for inputs that do not fit
            return None

    def _fastest_batch_size(self, x: Tensor) -> int:
        """Return the batch size with the most evaluations a second, measured here, on this x, in about a second."""
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
        """Return something to measure on: ``size`` noisy copies, one block of noise over and over."""
        copies = self.noisy_copies(x, example=0, stage=Stage.CALIBRATION, count=BLOCK)
        return copies.repeat(-(-size // BLOCK), *[1] * x.ndim)[:size]

    def _rate(self, x: Tensor, size: int) -> float:
        """Return evaluations a second, from the faster of two calls after one that does not count."""
        seconds = []
        with evaluating(self.model):
            for _ in range(3):
                batch, began = self._noisy_batch(x, size), time.perf_counter()
                self._call(batch).flatten()[0].item()  # reading one number waits for the device
                seconds.append(time.perf_counter() - began)
        return size / max(min(seconds[1:]), 1e-9)


def regrouped(batches: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the same rows in tensors of ``size`` rows, the last perhaps smaller, whatever the batches were."""
    rest: Tensor | None = None
    for batch in batches:
        rows = batch if rest is None or len(rest) == 0 else torch.cat([rest, batch])
        whole = len(rows) - len(rows) % size
        yield from torch.split(rows[:whole], size) if whole else ()
        rest = rows[whole:]
    if rest is not None and len(rest):
        yield rest


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device, or the CPU's allocator, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in _NO_MEMORY)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def free_caches(device: torch.device) -> None:
    """Give memory back that PyTorch keeps on a device for later."""
    empty_cache = getattr(torch.get_device_module(device), "empty_cache", None)  # the CPU has none
    if empty_cache is not None:
        empty_cache()
