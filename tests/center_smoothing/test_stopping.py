"""When sampling stops, and that nothing which stops it is worth more samples."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from center_smoothing import CenterSmoother, Certificate, Decided, Lp, SmoothedOutput, SmoothingBudget, TightEnough
from center_smoothing.certification_sample import kept_ranks
from center_smoothing.stopping import with_looks

BUDGET = SmoothingBudget(n=200, m=3200, k=64, alpha_1=0.05, alpha_2=0.05, delta=0.2, looks=5)
T3_ALONE = dataclasses.replace(BUDGET, tuple_sizes=())


def gaussian(z: Tensor) -> Tensor:
    return z


def certify(stop: object = None, budget: SmoothingBudget = BUDGET, example: int = 0) -> Certificate:
    smoother = CenterSmoother(gaussian, Lp(2), sigma=1.0, budget=budget, batch_size=256)
    return smoother.certify(torch.zeros(8, dtype=torch.float64), example=example, stop=stop)  # type: ignore[arg-type]


def made_of(distances: np.ndarray, budget: SmoothingBudget = T3_ALONE) -> Certificate:
    return Certificate(np.sort(distances), 1.0, 1.0, budget, SmoothedOutput(torch.zeros(1), 1.0, 0.5, False), 0.0)


def test_a_rule_is_asked_at_each_look_but_the_last() -> None:
    asked: list[int] = []
    last = certify(lambda certificate: asked.append(certificate.m))
    assert asked == [200, 400, 800, 1600]
    assert last.m == 3200


@pytest.mark.parametrize("looks", [0, 2, 3])
def test_sampling_ends_where_a_rule_says_so(looks: int) -> None:
    asked: list[Certificate] = []

    def rule(certificate: Certificate) -> bool:
        asked.append(certificate)
        return len(asked) > looks

    stopped = certify(rule)
    assert stopped is asked[-1]
    assert stopped.m == BUDGET.look_sizes[looks]


def test_a_look_sees_what_a_sample_of_its_size_would_be() -> None:
    """The distances of a look are those of the first outputs, whether or not more follow."""
    seen: list[Certificate] = []
    certify(lambda certificate: seen.append(certificate))
    for certificate in seen:
        alone = dataclasses.replace(T3_ALONE, m=certificate.m, looks=1)
        np.testing.assert_array_equal(certificate.distances, certify(budget=alone).distances)


def test_an_abstention_ends_sampling_at_the_first_look() -> None:
    budget = dataclasses.replace(BUDGET, delta=BUDGET.least_delta)
    smoother = CenterSmoother(lambda z: z * torch.inf, Lp(2), sigma=1.0, budget=budget, batch_size=256)
    certificate = smoother.certify(torch.zeros(8))
    assert certificate.abstained
    assert certificate.m == 200


@pytest.mark.parametrize("rtol", [0.05, 0.3])
def test_tight_enough_saves_samples_that_would_have_changed_little(rtol: float) -> None:
    saved = 0
    for example in range(4):
        stopped = certify(TightEnough([0.5, 1.0], rtol), example=example)
        full = certify(example=example)
        saved += full.m - stopped.m
        for eps_in in (0.5, 1.0):
            assert full.eps_out(eps_in) >= (1.0 - rtol) * stopped.eps_out(eps_in) * 0.98
    assert saved > 0


def test_tight_enough_is_strict_about_each_input_radius() -> None:
    spread = np.concatenate([np.full(1500, 1.0), np.linspace(1.0, 100.0, 1700)])
    assert TightEnough([0.0], 0.5)(made_of(np.full(3200, 1.0)))
    assert not TightEnough([0.0], 0.01)(made_of(np.linspace(0.1, 10.0, 200)))
    assert not TightEnough([0.0, 0.9], 0.01)(made_of(spread))
    assert not TightEnough([0.0, 30.0], 0.5)(made_of(np.full(3200, 1.0)))  # no certificate there at all


def test_decided_stops_when_certified_and_when_hopeless() -> None:
    nearly = np.full(200, 1.0)
    assert Decided([0.5], 3.1)(made_of(nearly))
    assert not Decided([0.5], 2.9)(made_of(np.concatenate([np.full(150, 0.5), np.full(50, 1.0)])))
    assert not Decided([0.5], 2.9)(made_of(nearly))  # 3 000 more could still be nearer
    far = made_of(np.concatenate([np.full(1599, 1.0), [1.0]]))
    assert Decided([0.5], 2.9)(far)  # of 3 200 half at least are too far away


@pytest.mark.parametrize("seed", range(5))
def test_hopeless_is_what_the_best_continuation_cannot_mend(seed: int) -> None:
    """Against the certificates of samples in which all that follows is at distance 0."""
    rng = np.random.default_rng(seed)
    distances = rng.gamma(2.0, size=3200)
    for at, m in enumerate(T3_ALONE.look_sizes[:-1]):
        best = []
        for later in T3_ALONE.look_sizes[at + 1 :]:
            best.append(made_of(np.concatenate([distances[:m], np.zeros(later - m)])).eps_out(0.7))
        now = made_of(distances[:m])
        for eps_out in (*best, *(radius * (1 - 1e-9) for radius in best), 0.0, 50.0):
            decided = now.eps_out(0.7) <= eps_out or min(best) > eps_out
            assert Decided([0.7], eps_out)(now) == decided


def test_hopeless_with_probes_is_never_said_too_early() -> None:
    """Whatever the rule calls hopeless, the full run does not certify either."""
    for example in range(5):
        full = certify(example=example)
        for factor in (0.9, 0.97, 1.03):
            eps_out = factor * full.eps_out(0.7)
            stopped = certify(Decided([0.7], eps_out), example=example)
            assert (stopped.eps_out(0.7) <= eps_out) or full.eps_out(0.7) > eps_out


def test_decisions_with_probes_stop_early() -> None:
    full = certify()
    assert certify(Decided([0.7], 2.0 * full.eps_out(0.7))).m < full.m
    assert certify(Decided([0.7], 0.4 * full.eps_out(0.7))).m < full.m
    assert full.probes[1].shape == (BUDGET.probes, len(kept_ranks(BUDGET.compared(3200))))


def test_looks_are_as_many_as_are_of_use() -> None:
    budget = SmoothingBudget(n=1000, m=20_000)
    assert with_looks(budget, 1.0).look_sizes == (1250, 2500, 5000, 10_000, 20_000)
    assert with_looks(budget, 2.5).look_sizes == (5000, 10_000, 20_000)
    assert with_looks(SmoothingBudget(n=10, m=10**6, k=32, delta=0.49, alpha_1=0.5), 0.0).looks == 8
    with pytest.raises(ValueError, match="m must be at least about 20000 to stop early at h=1 with n_check=10000, got"):
        with_looks(SmoothingBudget(m=15_000), 1.0)


@pytest.mark.parametrize(
    ("rule", "arguments", "message"),
    [
        (TightEnough, ([0.5], 0.0), r"rtol must lie in \(0, 1\), got 0.0"),
        (TightEnough, ([0.5], math.nan), r"rtol must lie in \(0, 1\), got nan"),
        (TightEnough, ([], 0.1), "eps_in must name at least one"),
        (TightEnough, ([-1.0], 0.1), r"eps_in must name .* got \[-1.0\]"),
        (Decided, ([0.5], -1.0), "eps_out must be at least 0, got -1.0"),
        (Decided, ([0.5], math.nan), "eps_out must be at least 0, got nan"),
        (Decided, ([], 1.0), "eps_in must name at least one"),
    ],
)
def test_what_is_refused(rule: type, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(*arguments)
