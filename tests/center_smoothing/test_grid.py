"""Smoothing with exact noise on a grid (theory T10)."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from center_smoothing import CenterSmoother, Lp, MeanBudget, MeanSmoother, SmoothingBudget
from center_smoothing.discrete_gaussian import DiscreteGaussian
from center_smoothing.noise import NoisyCopies, Stage, from_grid, grid_change, to_grid
from center_smoothing.sampling import NoisyOutputs
from tests.center_smoothing.refutation import refuted

X = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))


def drawn(x: Tensor, *, batch_size: int = 64, count: int = 200, seed: int = 0) -> Tensor:
    outputs = NoisyOutputs(lambda z: z, sigma=0.25, batch_size=batch_size, grid=1020, seed=seed)
    return torch.cat(list(outputs.draw(x, example=3, stage=Stage.RANKING, count=count)))


def test_eight_bit_images_lie_on_a_grid_that_255_divides() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).float() / 255.0
    assert torch.equal(to_grid(pixels, 4080), 16 * torch.arange(256))
    assert torch.equal(from_grid(to_grid(pixels, 4080), 4080, torch.float32), pixels)
    largest, norm = grid_change(pixels, 4080)
    assert 0.0 < largest < 2.0**-24
    assert largest < norm < 16 * largest


def test_other_inputs_are_rounded_to_it() -> None:
    x = torch.tensor([0.1, -0.3, 7.77], dtype=torch.float64)
    assert to_grid(x, 10).tolist() == [1, -3, 78]
    largest, norm = grid_change(x, 10)
    assert (largest, norm) == pytest.approx((0.03, 0.03))


def test_the_base_function_sees_points_of_the_grid_in_the_type_of_x() -> None:
    for dtype in (torch.float32, torch.float64):
        copies = drawn(X.to(dtype))
        assert copies.dtype == dtype
        assert torch.equal(from_grid(to_grid(copies, 1020), 1020, dtype), copies)


def test_the_base_output_is_that_of_the_rounded_point() -> None:
    outputs = NoisyOutputs(lambda z: z, sigma=0.25, grid=16)
    assert torch.equal(outputs.base_output(X), from_grid(to_grid(X, 16), 16, X.dtype))
    assert not torch.equal(outputs.base_output(X), X)


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_the_numbers_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    assert torch.equal(drawn(X, batch_size=batch_size), drawn(X))
    copies = NoisyCopies(NoisyOutputs(lambda z: z, sigma=0.25, grid=1020), X, 3, Stage.RANKING, 60)
    assert torch.equal(copies.at(slice(100, 160)), drawn(X)[100:160])  # beginning within a block


def test_noise_depends_on_the_seed_and_not_on_what_is_lost_by_rounding() -> None:
    assert not torch.equal(drawn(X, seed=1), drawn(X))
    assert torch.equal(drawn(X + 1e-7), drawn(X))


def test_the_noise_is_the_law_that_the_table_gives() -> None:
    steps = to_grid(drawn(torch.zeros(2000), count=64), 1020).double()
    assert float(steps.std()) == pytest.approx(math.sqrt(255.0**2 + 1.0 / 12.0), rel=0.01)


@pytest.mark.parametrize("grid", [0, -1, 2.5, True])
def test_a_grid_that_is_none_is_refused(grid: int) -> None:
    with pytest.raises(ValueError, match="grid must be a whole number"):
        CenterSmoother(lambda z: z, Lp(2), sigma=0.25, grid=grid)


def test_a_grid_that_is_too_fine_for_x_or_sigma_is_refused() -> None:
    with pytest.raises(ValueError, match="grid must be such that values of x"):
        to_grid(torch.tensor([1e13]), 4080)
    with pytest.raises(ValueError, match="take a coarser grid"):
        NoisyOutputs(lambda z: z, sigma=100.0, grid=4080)


def test_a_device_without_float64_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def to(tensor: Tensor, dtype: torch.dtype) -> Tensor:  # as on an Apple GPU
        raise TypeError(f"Cannot convert a MPS Tensor to {dtype} dtype")

    monkeypatch.setattr(Tensor, "to", to)
    with pytest.raises(ValueError, match=r"^x must be on a device with float64 for a grid, got cpu; take the CPU$"):
        NoisyOutputs(lambda z: z, sigma=0.25, grid=16).noisy_copies(X, example=0, stage=Stage.RANKING, count=1)


# The identity on one coordinate: the mass of any interval at x' is known, and so is whether a certified ball holds.
GRID, SIGMA, H, ALPHA_2 = 8, 0.5, 1.0, 0.1
BUDGET = SmoothingBudget(n=400, m=300, k=16, delta=0.2, alpha_2=ALPHA_2, tuple_sizes=())


def failures_of_balls(runs: int, scale: Fraction | None = None) -> int:
    """How often B(z, R) holds less than 1/2 + Delta at the attacked x', which lies h sigma further out."""
    rank, failures = BUDGET.ranks(H).distances, 0
    attacked = round(H * SIGMA * GRID)
    for seed in range(runs):
        smoother = CenterSmoother(lambda z: z, Lp(2), sigma=SIGMA, budget=BUDGET, seed=seed, grid=GRID, batch_size=512)
        if scale is not None:
            smoother.outputs.law = DiscreteGaussian(scale)
        certificate = smoother.certify(torch.zeros(1))
        center, radius = float(certificate.center) * GRID, certificate.distances[rank - 1] * GRID
        inside = np.arange(math.ceil(center - radius - 1e-9), math.floor(center + radius + 1e-9) + 1) - attacked
        mass = float((stats.norm.cdf((inside + 0.5) / 4.0) - stats.norm.cdf((inside - 0.5) / 4.0)).sum())
        failures += mass < 0.5 + BUDGET.delta
    return failures


def test_certified_balls_fail_with_alpha_2_at_most() -> None:
    assert not refuted(failures_of_balls(80), 80, ALPHA_2)


def test_noise_that_is_too_narrow_would_be_noticed() -> None:
    assert refuted(failures_of_balls(50, Fraction(5, 2)), 50, ALPHA_2)


def test_means_take_a_grid_too() -> None:
    smoother = MeanSmoother(lambda z: z, Lp(2), sigma=0.25, budget=MeanBudget(n=2000, m=500), clip_norm=9.0, grid=16)
    certificate = smoother.certify(torch.full((1,), 0.3))
    assert float(certificate.center) == pytest.approx(5 / 16, abs=0.03)
    assert certificate.eps_out(0.1) < 9.0
