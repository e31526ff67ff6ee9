"""The attack that reads low bits: it breaks certificates of noise in float32, and none of exact noise."""

import torch

from benchmarks.rounding_attack import GRID, SIGMA, H, false_certificates, points, reads_low_bits
from center_smoothing import CenterSmoother, Lp, SmoothingBudget
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs

BUDGET = SmoothingBudget(n=200, m=600, k=16, delta=0.25)


def share_of_ones(x: torch.Tensor, grid: int | None) -> float:
    outputs = NoisyOutputs(reads_low_bits, sigma=SIGMA, grid=grid, batch_size=256)
    return float(torch.cat(list(outputs.draw(x, example=1, stage=Stage.RANKING, count=1024))).mean())


def test_noise_in_float32_shows_where_it_was_added_and_exact_noise_does_not() -> None:
    x, attacked = points()
    assert share_of_ones(x, None) > 0.95
    assert share_of_ones(attacked, None) == 0.0
    assert abs(share_of_ones(x, GRID) - share_of_ones(attacked, GRID)) < 0.03


def test_every_certificate_of_noise_in_float32_is_false_and_none_of_exact_noise() -> None:
    assert false_certificates(6, grid=None, budget=BUDGET) == 6
    assert false_certificates(6, grid=GRID, budget=BUDGET) == 0


def test_exact_noise_certifies_the_attacked_input_all_the_same() -> None:
    x, attacked = points()
    smoother = CenterSmoother(reads_low_bits, Lp(2), sigma=SIGMA, budget=BUDGET, grid=GRID, batch_size=256)
    certificate = smoother.certify(x)
    assert not certificate.abstained
    assert certificate.eps_out(0.5 * SIGMA) < 1.0
    assert H * SIGMA > float((attacked - x).norm())
