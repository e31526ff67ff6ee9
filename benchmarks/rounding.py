"""A base function that reads from the last bits of its input where the noise was added, and breaks certificates.

What float32 leaves of x + noise depends on x (arXiv 2207.07209, arXiv 2205.10159). Noise around 0 has values with bits
far below 2^-31; where the same noise is added to a number between 2^-7 and 2^-6, sums near 0 are multiples of 2^-31.
Sums of real numbers would be such multiples with probability 0, at 0 and elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from center_smoothing import CenterSmoother, Lp, SmoothingBudget

SIGMA, GRID, SIZE = 0.25, 4080, 784
H = 1.05
# On the grid of 1/4080, and close to h = 1 away from 0.
_STEPS = 36
_NEAR, _COARSE = 2.0**-9, 2.0**31


def reads_low_bits(z: Tensor) -> Tensor:
    """Return 1 where a value near 0 is no multiple of 2^-31, else 0: (N, 784) -> (N, 1)."""
    fine = (z.double() * _COARSE).frac() != 0.0
    return ((z.abs() < _NEAR) & fine).any(dim=1, keepdim=True).to(z.dtype)


def points() -> tuple[Tensor, Tensor]:
    """Return the point x and the attacked x', both on the grid, less than h sigma apart."""
    x = torch.zeros(SIZE)
    attacked = torch.full((SIZE,), _STEPS / GRID)
    assert float((attacked - x).double().norm()) < H * SIGMA
    return x, attacked


def false_certificates(runs: int, *, grid: int | None, budget: SmoothingBudget | None = None) -> int:
    """Count the runs, with seeds of their own, in which the attacked center moves further than was certified."""
    budget = SmoothingBudget(n=1000, m=2000) if budget is None else budget
    (x, attacked), failures = points(), 0
    for run in range(runs):
        smoothers = [
            CenterSmoother(reads_low_bits, Lp(2), sigma=SIGMA, budget=budget, seed=seed, grid=grid, batch_size=256)
            for seed in (2 * run, 2 * run + 1)
        ]
        certificate, there = smoothers[0].certify(x), smoothers[1].smooth(attacked)
        moved = float(torch.linalg.vector_norm((certificate.center - there.center).double()))
        failures += not certificate.abstained and not there.abstained and moved > certificate.eps_out(H * SIGMA)
    return failures
