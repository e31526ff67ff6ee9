"""How long a call takes, and on what."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def seconds(call: Callable[[], object], clock: Callable[[], float] | None = None) -> float:
    """Time one call; default: by the clock with an accelerator or more than one thread, else by the CPU."""
    has_accelerator = torch.accelerator.is_available()
    if clock is None:
        clock = time.process_time if torch.get_num_threads() == 1 and not has_accelerator else time.perf_counter
    if has_accelerator:
        torch.accelerator.synchronize()
    began = clock()
    call()
    if has_accelerator:
        torch.accelerator.synchronize()
    return clock() - began


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios of pairs measured one after the other."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def processor() -> str:
    """Return the processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
