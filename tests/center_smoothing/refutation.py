"""What the Monte Carlo tests count failures of, and against."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from center_smoothing import CenterSmoother, Distance, Lp, Smoother, SmoothingBudget

# Certificates at x, each with how far the smoothed output at x' lies from that at x.
Pairs = list[tuple[Any, float]]


class SampleCenters(Lp):
    """Lp of outputs that cannot be averaged, sets for instance."""

    averages = False


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_hot(z: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(z.argmax(dim=1), z.shape[1]).to(z.dtype)


def refuted(failures: int, runs: int, alpha: float) -> bool:
    """Whether a failure probability of alpha gives at least so many failures with probability below 1e-4."""
    print(f"{failures} failures in {runs} runs: {failures / runs:.4f}, at most {alpha} promised")
    return bool(stats.binom.sf(failures - 1, runs, alpha) < 1e-4)


def pairs(here: Smoother, there: Smoother, x: Tensor, direction: Tensor, eps_in: float, runs: int) -> Pairs:
    """Certify x, and smooth x' in a direction from it, once a run; leave out runs in which one of the two abstains."""
    moved, found = x + eps_in * direction / torch.linalg.vector_norm(direction), []
    for run in range(runs):
        certificate, output = here.certify(x, example=run), there.smooth(moved, example=run)
        if not (certificate.abstained or output.abstained):
            apart = here.distance(certificate.center[None], output.center[None]).item()
            found.append((certificate, apart))
    return found


def failures_of(found: Iterable[tuple[Any, float]], eps_in: float) -> int:
    """How often the two are further apart than certified. Certificates answer anew: a broken bound changes them."""
    return sum(apart > certificate.eps_out(eps_in) for certificate, apart in found)


def pairs_between(
    model: Callable[[Tensor], Tensor],
    distance: Distance,
    budget: SmoothingBudget,
    x: Tensor,
    direction: Tensor,
    eps_in: float,
    runs: int,
    **given: Any,  # noqa: ANN401  # as the class takes
) -> Pairs:
    """Pairs of centers, with sigma = 1."""
    return pairs(*two_centers(model, distance, budget, **given), x, direction, eps_in, runs)


def two_centers(
    model: Callable[[Tensor], Tensor],
    distance: Distance,
    budget: SmoothingBudget,
    **given: Any,  # noqa: ANN401
) -> tuple[CenterSmoother, CenterSmoother]:
    """The same center, with sigma = 1, by noise of two seeds."""
    return tuple(
        CenterSmoother(model, distance, sigma=1.0, budget=budget, batch_size=1024, seed=seed, **given)
        for seed in (1, 2)
    )


def failures_of_radius(
    model: Callable[[Tensor], Tensor], distance: Distance, budget: SmoothingBudget, x: Tensor, change: Tensor, h: float,
    runs: int,
) -> int:  # fmt: skip
    """How often the ball around the center at x + change, h from x, is larger than t: what T7 says of it."""
    here, there = two_centers(model, distance, budget)
    ((size, among, within),) = budget.ranks(h).probes
    failures = 0
    for run in range(runs):
        certificate, output = here.certify(x, example=run), there.smooth(x + change, example=run)
        if not (certificate.abstained or output.abstained):
            failures += output.radius > certificate._probe_distance(size, among, within, upwards=True)
    return failures
