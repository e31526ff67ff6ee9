"""Monte Carlo: what theory T12 says of means fails no more often than it may, and broken variants are refuted."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from center_smoothing import Distance, Lp, MeanBudget, MeanSmoother, TotalVariation
from center_smoothing.means import directions
from center_smoothing.means.directions import DirectionalMoments
from tests.center_smoothing.refutation import Pairs, failures_of, pairs, refuted

H, RATIO = 1.0, 1.5


def hardest(xi: np.ndarray) -> np.ndarray:
    """The function of the noise that moves most of all with its second and fourth moments (step 3 of T12)."""
    a, c = directions._dual_point(round(H / directions._STEP_H), round(math.log(RATIO) / directions._STEP_RATIO))
    y = np.expm1(H * xi - H * H / 2)
    scale = math.sqrt(a / (3 * c))
    return np.sign(y) * 2.0 * scale * np.sinh(np.arcsinh(1.5 * np.abs(y) / (a * scale)) / 3)


def failures_of_expectation(runs: int, *, trusting: bool = False, m: int = 500) -> int:
    """How often the bound on E' g of the hardest function is too small; trusting: with the sample's own moments."""
    largest = float(hardest(np.array([4.0]))[0])

    def cut(xi: np.ndarray) -> np.ndarray:
        return np.where(np.abs(xi) <= 4.0, hardest(xi), 0.0)

    truth = integrate.quad(lambda xi: float(cut(np.array([xi]))[0]) * stats.norm.pdf(xi - H), -4, 4, limit=200)[0]
    rng, failures, alpha = np.random.default_rng(0), 0, 0.5
    for _ in range(runs):
        g = cut(rng.standard_normal(m))
        moments = DirectionalMoments(
            count=m, second_count=m, fourth_count=m, outside=0, largest=largest, spread=largest,
            offset=max(0.0, float(g.mean())), second=float((g**2).mean()), fourth=float((g**4).mean()),
        )  # fmt: skip
        offset = float(g.mean())
        if trusting:
            bound = offset + directions.largest_shift(H, moments.second**0.5, moments.fourth**0.25)
        else:
            _, second, fourth, _, first = (alpha * share for share in directions._SHARES)
            rho_2 = directions.hoeffding_mean_upper(moments.second, largest**2, m, second) ** 0.5
            rho_4 = directions.hoeffding_mean_upper(moments.fourth, largest**4, m, fourth) ** 0.25
            confidence = moments._first_moment(rho_2, first) - moments.offset
            bound = offset + confidence + directions.largest_shift(H, rho_2, rho_4)
        failures += bound < truth
    return failures


def test_the_hardest_function_moves_no_further_than_its_bound() -> None:
    assert not refuted(failures_of_expectation(100), 100, 0.5 * 0.6)


def test_moments_without_their_confidence_would_be_noticed() -> None:
    assert refuted(failures_of_expectation(100, trusting=True), 100, 0.2)


def line(z: Tensor) -> Tensor:
    """A linear map whose top singular vector is the first coordinate's; small scatter everywhere else."""
    return torch.cat([z[:, :1], 0.2 * z[:, 1:]], dim=1)


def rare_direction(z: Tensor) -> Tensor:
    """Outputs that leave their usual place in a direction that a sample sees rarely, up to the clipping norm."""
    far = (z[:, :1] > 3.0).to(z.dtype)
    return torch.cat([0.1 * z[:, 1:], 20.0 * far], dim=1)


def just_outside(z: Tensor) -> Tensor:
    """A second shell a little beyond what a pilot usually shows, where the first coordinate is large."""
    return z * torch.where(z[:, :1] > 2.2, 1.6, 1.0)


def image(z: Tensor) -> Tensor:
    """Grey images 4 x 4 that move as a whole with the first coordinate."""
    pattern = torch.linspace(0.0, 1.0, 16, dtype=z.dtype).reshape(1, 1, 4, 4)
    return z[:, 0].reshape(-1, 1, 1, 1) * pattern + 0.1 * z.reshape(-1, 1, 4, 4)


CASES: list[tuple[Distance, Callable[[Tensor], Tensor], float]] = [
    *((Lp(p), line, 1.0) for p in (1, 2, math.inf)),
    *((Lp(p), rare_direction, 2.0) for p in (1, 2, math.inf)),
    *((Lp(p), just_outside, 1.0) for p in (1, 2, math.inf)),
    (TotalVariation(1), image, 0.5),
    (TotalVariation(2), image, 1.0),
]


def pairs_along_the_first(
    distance: Distance, model: Callable[[Tensor], Tensor], h: float, *, m: int = 512, clip: float = 25.0, n: int = 512
) -> Pairs:
    """Means that move along the first coordinate, and what is certified; sigma = 1. Three of three refute 0.02."""
    budget = MeanBudget(n=n, m=m, alpha_1=0.01, alpha_2=0.01)
    smoother = MeanSmoother(model, distance, sigma=1.0, budget=budget, clip_norm=clip, batch_size=1024)
    x = torch.zeros(16, dtype=torch.float64)
    return pairs(smoother, smoother, x, torch.eye(16, dtype=torch.float64)[0], h, 3)


@pytest.mark.parametrize(("distance", "model", "h"), CASES)
def test_the_promise_of_means_holds(distance: Distance, model: Callable[[Tensor], Tensor], h: float) -> None:
    found = pairs_along_the_first(distance, model, h)
    assert not refuted(failures_of(found, h), 3, 0.02)
    assert max(apart for _, apart in found) > 0.1 * h  # it is an attack


def test_a_mean_without_its_shift_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In many dimensions T11 pays for the whole shell, T12 for one direction: it certifies a linear function."""
    found, h = pairs_along_the_first(Lp(2), line, 1.0, n=8192, m=1024, clip=8.0), 1.0
    assert {certificate.theorem(0.5) for certificate, _ in found} == {"T12"}
    assert all(0.8 < apart < certificate.eps_out(h) < 3.0 for certificate, apart in found)
    monkeypatch.setattr(directions, "largest_shift", lambda h, second, fourth: 0.0)
    assert refuted(failures_of(found, h), 3, 0.02)


def test_a_tail_without_its_shift_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions.bounds, "gaussian_shifts_up", lambda masses, h: masses)
    assert refuted(failures_of(pairs_along_the_first(Lp(2), rare_direction, 2.5), 2.5), 3, 0.02)


def test_certificates_do_not_depend_on_the_batch_size_and_come_back_from_disk(tmp_path: object) -> None:
    budget = MeanBudget(n=200, m=600)
    x = torch.zeros(16, dtype=torch.float64)
    one, other = (
        MeanSmoother(line, Lp(2), sigma=1.0, budget=budget, clip_norm=10.0, batch_size=size).certify(x)
        for size in (7, 300)
    )
    assert one.moments == other.moments
    assert one.eps_out([0.0, 0.5, 2.0]).tolist() == other.eps_out([0.0, 0.5, 2.0]).tolist()
    one.save(f"{tmp_path}/certificate.npz")
    back = type(one).load(f"{tmp_path}/certificate.npz")
    assert back.moments == one.moments
    assert back.eps_out(0.5) == one.eps_out(0.5)
