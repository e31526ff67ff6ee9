"""How often a rounding attack makes certificates false, and what exact noise costs.

Usage: ``python benchmarks/rounding_attack.py --ckpt runs/latest/checkpoints/best.ckpt``.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import rounding
from center_smoothing.discrete_gaussian import DiscreteGaussian
from center_smoothing.sampling import NoisyOutputs, Stage
from lightning_modules import fold_batch_norm, load_checkpoint


def main(args: Sequence[str] | None = None) -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", help="checkpoint of an image model, to measure the cost; default: only the attack")
    parser.add_argument("--runs", type=int, default=200, help="of the attack, each with noise of its own")
    parser.add_argument("--repetitions", type=int, default=15, help="of both kinds of noise, in turn")
    parser.add_argument("--count", type=int, default=2048, help="noisy evaluations in each")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    for name, grid in (("float32", None), (f"discrete, grid {rounding.GRID}", rounding.GRID)):
        false = rounding.false_certificates(options.runs, grid=grid)
        print(f"{name}: {false} of {options.runs} certificates are false")
    if options.ckpt is not None:
        print(*cost(options.ckpt, options.repetitions, options.count), sep="\n")


def cost(checkpoint: str, repetitions: int, count: int) -> list[str]:
    """Measure evaluations with either noise, and making the tables, in CPU time of one thread."""
    model = fold_batch_norm(load_checkpoint(checkpoint).model).to(memory_format=torch.channels_last)
    x = torch.rand(model.example_shape() or (1, 28, 28), generator=torch.Generator().manual_seed(0))
    seconds: dict[int | None, list[float]] = {None: [], rounding.GRID: []}
    for repetition in range(repetitions + 1):
        for grid, taken in seconds.items():
            outputs = NoisyOutputs(model, sigma=rounding.SIGMA, grid=grid, batch_size=128)
            began = time.process_time()
            for _ in outputs.draw(x, example=repetition, stage=Stage.RANKING, count=count):
                pass
            taken.append(time.process_time() - began)
    plain, discrete = (statistics.median(taken[1:]) / count for taken in seconds.values())
    ratios = [b / a for a, b in zip(seconds[None][1:], seconds[rounding.GRID][1:], strict=True)]
    lines = [
        f"float32 noise {1e6 * plain:.0f} us an evaluation, discrete {1e6 * discrete:.0f} us: "
        f"{statistics.median(ratios):.3f} times (median of {repetitions} pairs, {min(ratios):.3f} to {max(ratios):.3f})"
    ]
    for sigma in (0.25, 1.0):
        began = time.process_time()
        law = DiscreteGaussian(Fraction(sigma) * rounding.GRID)
        lines.append(f"table for sigma {sigma:g}: {len(law.thresholds):,} entries, {time.process_time() - began:.1f} s")
    return lines


if __name__ == "__main__":
    main()
