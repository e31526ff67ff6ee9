"""How often a rounding attack makes certificates false, and what exact noise costs.

Usage: ``python benchmarks/rounding_attack.py --ckpt runs/latest/checkpoints/best.ckpt``.

The base function reads from the last bits of its input where the noise was added. What float32 leaves of x + noise
depends on x (arXiv 2207.07209, arXiv 2205.10159). Noise around 0 has values with bits far below 2^-31; where the same
noise is added to a number between 2^-7 and 2^-6, sums near 0 are multiples of 2^-31. Sums of real numbers would be such
multiples with probability 0, at 0 and elsewhere.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import median_ratio, seconds
from center_smoothing import CenterSmoother, Lp, SmoothingBudget
from center_smoothing.discrete_gaussian import DiscreteGaussian
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs
from lightning_modules import fold_batch_norm, load_checkpoint

SIGMA, GRID, SIZE = 0.25, 4080, 784
H = 1.05
# On the grid of 1/4080, and close to h = 1 away from 0.
_STEPS = 36
_NEAR, _COARSE = 2.0**-9, 2.0**31


def main(args: Sequence[str] | None = None) -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", help="checkpoint of an image model, to measure the cost; default: only the attack")
    parser.add_argument("--runs", type=int, default=200, help="of the attack, each with noise of its own")
    parser.add_argument("--repetitions", type=int, default=15, help="of both kinds of noise, in turn")
    parser.add_argument("--count", type=int, default=2048, help="noisy evaluations in each")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    for name, grid in (("float32", None), (f"discrete, grid {GRID}", GRID)):
        print(f"{name}: {false_certificates(options.runs, grid=grid)} of {options.runs} certificates are false")
    if options.ckpt is not None:
        cost(options.ckpt, options.repetitions, options.count)


def cost(checkpoint: str, repetitions: int, count: int) -> None:
    """Measure evaluations with either noise, and making the tables, in CPU time of one thread."""
    model = fold_batch_norm(load_checkpoint(checkpoint).model).to(memory_format=torch.channels_last)
    x = torch.rand(model.example_shape() or (1, 28, 28), generator=torch.Generator().manual_seed(0))

    def evaluate(grid: int | None, example: int) -> None:
        outputs = NoisyOutputs(model, sigma=SIGMA, grid=grid, batch_size=128)
        for _ in outputs.draw(x, example=example, stage=Stage.RANKING, count=count):
            pass

    taken = [
        [seconds(lambda grid=grid, each=each: evaluate(grid, each), time.process_time) for grid in (None, GRID)]
        for each in range(repetitions + 1)
    ][1:]
    plain, discrete = zip(*taken, strict=True)
    ratios = [b / a for a, b in taken]
    print(
        f"float32 noise {1e6 * statistics.median(plain) / count:.0f} us an evaluation, discrete "
        f"{1e6 * statistics.median(discrete) / count:.0f} us: {median_ratio(discrete, plain):.3f} times (median of "
        f"{repetitions} pairs, {min(ratios):.3f} to {max(ratios):.3f})"
    )
    for sigma in (0.25, 1.0):
        began = time.process_time()
        law = DiscreteGaussian(Fraction(sigma) * GRID)
        print(f"table for sigma {sigma:g}: {len(law.thresholds):,} entries, {time.process_time() - began:.1f} s")


def reads_low_bits(z: Tensor) -> Tensor:
    """Return 1 where a value near 0 is no multiple of 2^-31, else 0: (N, 784) -> (N, 1)."""
    fine = (z.double() * _COARSE).frac() != 0.0
    return ((z.abs() < _NEAR) & fine).any(dim=1, keepdim=True).to(z.dtype)


def points() -> tuple[Tensor, Tensor]:
    """Return the point x and the attacked x', both on the grid, less than h sigma apart."""
    x, attacked = torch.zeros(SIZE), torch.full((SIZE,), _STEPS / GRID)
    assert float((attacked - x).double().norm()) < H * SIGMA
    return x, attacked


def false_certificates(runs: int, *, grid: int | None, budget: SmoothingBudget | None = None) -> int:
    """Count the runs, with seeds of their own, in which the attacked center moves further than was certified."""
    budget = SmoothingBudget(n=1000, m=2000) if budget is None else budget
    (x, attacked), failures = points(), 0
    for run in range(runs):
        known = {"sigma": SIGMA, "budget": budget, "grid": grid, "batch_size": 256}
        here, other = (CenterSmoother(reads_low_bits, Lp(2), seed=seed, **known) for seed in (2 * run, 2 * run + 1))
        certificate, there = here.certify(x), other.smooth(attacked)
        moved = float(torch.linalg.vector_norm((certificate.center - there.center).double()))
        failures += not certificate.abstained and not there.abstained and moved > certificate.eps_out(H * SIGMA)
    return failures


if __name__ == "__main__":
    main()
