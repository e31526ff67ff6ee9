"""How time and memory of a certification grow with its sample sizes, candidates and outputs.

``python benchmarks/growth.py`` needs nothing. The base function is a matrix product with small outputs, so that nothing
hides behind it. Times are those of the CPU, with one thread and in one run, so that other programs hardly change
them. The peak of the memory is that of fresh processes, as Linux tells it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import seconds
from center_smoothing import CenterSmoother, Lp, SmoothingBudget
from command_line import process

_INPUT = 8
# Sizes of what does not vary.
_LITTLE = {"n": 2_000, "m": 2_000, "k": 16, "size": 16}


def main(args: Sequence[str] | None = None) -> None:
    """Print a table for each size that grows, and the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[20_000, 40_000, 80_000, 160_000], help="ranked outputs")
    parser.add_argument("--m", type=int, nargs="+", default=[250_000, 500_000, 1_000_000], help="certification outputs")
    parser.add_argument("--k", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="candidates")
    parser.add_argument("--size", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="numbers of an output")
    parser.add_argument("--memory-n", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--memory-m", type=int, nargs="+", default=[1_000_000, 2_000_000, 4_000_000])
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    process.keep_freed_memory()
    if options.measure is not None:
        print(peak_bytes(**json.loads(options.measure)))
        return
    torch.set_num_threads(1)
    certify(**_LITTLE)
    for name in _LITTLE:
        growth(name, getattr(options, name))
    for name, values in (("n", options.memory_n), ("m", options.memory_m)):
        memory(name, values)


def growth(name: str, values: Sequence[int]) -> None:
    """Measure seconds against one size, with the others small."""
    others = ", ".join(f"{key}={value:,}" for key, value in _LITTLE.items() if key != name)
    print(f"\n{name:>10}   seconds   per doubling   ({others})")
    times: list[float] = []
    for value in values:
        call = lambda value=value: certify(**{**_LITTLE, name: value})  # noqa: E731
        times.append(min(seconds(call, time.process_time) for _ in range(2)))
        doubled = "" if len(times) == 1 else f"{2 ** exponent(values[: len(times)][-2:], times[-2:]):14.2f}"
        print(f"{value:>10,} {times[-1]:>9.2f} {doubled}")
    print(f"  fitted: time grows as {name} to the power {exponent(values, times):.2f}")


def memory(name: str, values: Sequence[int]) -> None:
    """Measure the peak of the memory against one size, above that of small samples, in fresh processes."""
    k, least = _LITTLE["k"] + 2, in_fresh_process(**_LITTLE)
    more = f"   numbers per sample and candidate ({k})" if name == "n" else ""
    print(f"\n{name:>10}   peak MB   bytes per sample{more}")
    for value in values:
        peak = in_fresh_process(**{**_LITTLE, name: value}) - least
        each = peak / (value - _LITTLE[name])
        print(f"{value:>10,} {peak / 1e6:>9.1f} {each:>18.1f}" + (f"   {each / 8 / k:.2f}" if name == "n" else ""))


def certify(*, n: int, m: int, k: int, size: int) -> None:
    """Certify a matrix product; candidates are the k outputs of the pilot, their mean and their median."""
    weights = torch.randn(_INPUT, size, generator=torch.Generator().manual_seed(0)) / math.sqrt(_INPUT)
    budget = SmoothingBudget(n=n, m=m, k=k, candidates=k, tuple_sizes=(1,), n_check=min(n, m), delta=0.4)
    smoother = CenterSmoother(lambda x: x @ weights, Lp(1), sigma=0.25, budget=budget, batch_size=4096)
    smoother.certify(torch.zeros(_INPUT))


def in_fresh_process(**sizes: int) -> int:
    """Measure the peak memory of a certificate in a process of its own, in bytes."""
    command = [sys.executable, __file__, f"--measure={json.dumps(sizes)}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_bytes(**sizes: int) -> int:
    """Return by how much a certificate raises this process's memory at its peak; Linux and glibc tell it."""
    certify(**_LITTLE)
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what is needed
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before = resident("VmRSS")
    certify(**sizes)
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Read the bytes of this process in memory: now (VmRSS), or at the peak (VmHWM)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def exponent(values: Sequence[int], times: Sequence[float]) -> float:
    """Fit a line of least squares to the logarithms, and return its slope."""
    return statistics.linear_regression(*([math.log(value) for value in column] for column in (values, times))).slope


if __name__ == "__main__":
    main()
