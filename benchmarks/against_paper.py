"""Wall time and certified radius against the paper's procedure, on the same digit at equal alpha.

``python benchmarks/against_paper.py --ckpt runs/latest/checkpoints/best.ckpt``; without a checkpoint an untrained
autoencoder of the same architecture is timed, whose forward passes cost the same. All ratios come from one run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

import entrypoint
from center_smoothing import CenterSmoother, Certificate, SmoothingBudget, TotalVariation
from center_smoothing.sampling import evaluating
from datamodules import MNIST
from lightning_modules import NoisyAutoencoder, NoisyModule, load_checkpoint

_BATCH_SIZES = (32, 64, 128, 256, 512)


def main(args: Sequence[str] | None = None) -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", help="checkpoint of train.py; default: an untrained autoencoder")
    parser.add_argument("--n", type=int, default=2_000, help="ranked outputs of the paper's procedure")
    parser.add_argument("--m", type=int, default=100_000, help="certification outputs of the paper's procedure")
    options = parser.parse_args(args)
    torch.manual_seed(0)
    model = NoisyAutoencoder(sigma=0.25) if options.ckpt is None else load_checkpoint(options.ckpt).model
    model.eval()
    data = MNIST()
    data.setup()
    x = data.test_set[0]["image"]
    entrypoint.keep_freed_memory()
    against_paper(model, x, n=options.n, m=options.m)


def against_paper(model: NoisyModule, x: Tensor, *, n: int, m: int) -> None:
    """Print the seconds and radii of both."""
    paper = SmoothingBudget(n=n, m=m, delta=max(0.05, _up(SmoothingBudget(n=n, m=m, method="paper").least_delta)),
                            method="paper")  # fmt: skip
    size = min(_BATCH_SIZES, key=lambda size: bare(model, x, 2048, size))
    slow, slow_seconds = certified(model, x, paper, size)
    print(f"against the paper's procedure, n={n:,}, m={m:,}, delta={paper.delta}: {slow_seconds:.1f} s")
    print(f"  {'n':>7} {'m':>7} {'seconds':>8} {'times faster':>13}   eps_out, exact / paper, at h = 1, 1.5, 2")
    for draws in (500, 1_000, 2_500, 10_000):
        fast, fast_seconds = certified(model, x, SmoothingBudget(n=draws, m=draws), size)
        radii = [(fast.eps_out(h * model.sigma), slow.eps_out(h * model.sigma)) for h in (1.0, 1.5, 2.0)]
        shown = "  ".join(f"{ours:.2f}/{theirs:.2f}" for ours, theirs in radii)
        print(f"  {draws:>7,} {draws:>7,} {fast_seconds:>8.2f} {slow_seconds / fast_seconds:>13.0f}   {shown}")


def certified(model: NoisyModule, x: Tensor, budget: SmoothingBudget, size: int) -> tuple[Certificate, float]:
    """A certificate and the seconds that it took."""
    smoother = CenterSmoother(model, TotalVariation(), sigma=model.sigma, budget=budget, batch_size=size)
    began = time.perf_counter()
    certificate = smoother.certify(x)
    return certificate, time.perf_counter() - began


def bare(model: NoisyModule, x: Tensor, images: int, size: int) -> float:
    """Seconds of the forward passes of so many noisy images, which are there already."""
    noisy = x + model.sigma * torch.randn(size, *x.shape)

    def forward() -> None:
        with evaluating(model):
            for start in range(0, images, size):
                model(noisy[: min(size, images - start)])

    return seconds(forward)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _up(value: float) -> float:
    return -(-value * 10_000 // 1) / 10_000


if __name__ == "__main__":
    main()
