"""Each check fails on what it is there for, and passes on what is well."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from center_smoothing import Angular, BoxJaccard, Distance, Lp, MaskJaccard, TotalVariation
from center_smoothing.audit import (
    audit,
    check_axioms,
    check_determinism,
    check_independence,
    check_mode,
    check_noise,
    check_outputs,
    check_units,
)
from center_smoothing.sampling import NoisyOutputs

X = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
POINTS = torch.rand(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def outputs_of(model: Callable[[Tensor], Tensor], **given: Any) -> NoisyOutputs:  # noqa: ANN401  # passed on
    return NoisyOutputs(model, sigma=0.25, batch_size=64, **given)


def good() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(), nn.Conv2d(3, 1, 3))


class Squared(Lp):
    """The square of l2, which needs gamma = 2."""

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return super()._compare(a, b) ** 2


class Relaxed(Squared):
    relaxation = 2.0


class Wrong(Lp):
    """l2 distances, changed in some way, of all pairs or only of those compared pair by pair."""

    def __init__(self, change: Callable[[Tensor, Tensor, Tensor], Tensor], *, paired: bool = False) -> None:
        super().__init__(2)
        self.change, self.paired_alone = change, paired

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        d = super()._compare(a, b)
        return d if self.paired_alone else self.change(d, a[:, None, 0], b[None, :, 0])

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        d = super()._compare_paired(a, b)
        return self.change(d, a[:, 0], b[:, 0]) if self.paired_alone else d


LOPSIDED = Wrong(lambda d, a, b: d * (1.0 + (a > b)))


class EveryCopyTwice(NoisyOutputs):
    """Its noise has each second copy from the one before."""

    def _blocks(self, *given: Any) -> Iterator[Tensor]:  # noqa: ANN401  # passed on
        for block in super()._blocks(*given):
            yield block[::2].repeat_interleave(2, dim=0)


class StaysInTraining(nn.Module):
    @property
    def training(self) -> bool:
        return True

    @training.setter
    def training(self, value: bool) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_usual_model_passes_everything() -> None:
    findings = audit(outputs_of(good()), TotalVariation(), [X, X + 0.1], examples=[0, 7])
    assert [finding.check for finding in findings] == [
        "eval mode", "determinism", "batch independence", "units", "duplicate noise", "finite outputs", "distance",
    ]  # fmt: skip
    assert [finding for finding in findings if not finding.passed or finding.advice] == []


def test_a_module_that_stays_in_training_mode_fails() -> None:
    found = check_mode(nn.Sequential(StaysInTraining()))
    assert not found.passed
    assert found.fatal
    assert "training mode in 0" in found.seen


def test_batch_norm_without_running_statistics_fails() -> None:
    assert not check_mode(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False))).passed
    assert check_mode(nn.Sequential(nn.BatchNorm2d(1))).passed
    assert check_mode(good().forward).passed
    assert check_mode(torch.tanh).seen == "a function without modules that could be looked at"


def test_random_outputs_fail() -> None:
    found = check_determinism(outputs_of(lambda x: x + torch.rand_like(x)), X, example=0)
    assert (found.passed, found.fatal) == (False, True)
    assert "dropout" in found.advice


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x - x.mean(dim=0),
        lambda x: x / x.abs().amax(),
        lambda x: x * torch.arange(len(x)).reshape(-1, 1, 1, 1),
        nn.BatchNorm2d(1, track_running_stats=False),
        lambda x: x.roll(1, 0),
        lambda x: x * len(x),
        lambda x: x + (len(x) == 1),
        lambda x: x.where(x.amax() < 2.5, torch.nan),
        lambda x: nn.BatchNorm1d(36, track_running_stats=False)(x.flatten(1)),  # which refuses a single input
    ],
)
def test_outputs_that_depend_on_the_batch_fail(model: Callable[[Tensor], Tensor]) -> None:
    found = check_independence(outputs_of(model), X, example=0)
    assert (found.passed, found.fatal) == (False, True)
    assert check_determinism(outputs_of(model), X, example=0).passed


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_in_one_of_two_calls_fails(value: float) -> None:
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.full_like(x, value) if len(calls) % 2 else torch.zeros_like(x)

    found = check_determinism(outputs_of(model), X, example=0)
    assert (found.passed, found.seen.split(": ")[1]) == (False, "NaN or inf in one of the two")
    assert check_determinism(outputs_of(lambda x: x * value), X, example=0).passed


def test_one_flip_among_sixteen_is_no_failure_and_two_are() -> None:
    def flips(number: int) -> NoisyOutputs:
        calls = []

        def model(x: Tensor) -> Tensor:
            calls.append(len(x))
            y = torch.ones_like(x)
            y[:number] += len(calls) % 2
            return y * (1.0 + 1e-6 * (len(calls) % 2))  # and all of them are rounded in another way

        return outputs_of(model)

    assert [check_determinism(flips(number), X, example=0).passed for number in (1, 2)] == [True, False]


def test_little_memory_is_no_failure() -> None:
    def model(x: Tensor) -> Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError
        return x

    found = audit(outputs_of(model), Lp(2), [X], examples=[0])
    assert all(finding.passed for finding in found)


@pytest.mark.parametrize(
    ("x", "sigma", "passed"),
    [
        (X, 0.25, True),
        (255.0 * X, 0.25, False),
        ((255.0 * X).round(), 12.0, False),
        (X - 0.5, 0.25, True),
        (30.0 * torch.randn(8), 5.0, True),
        (X, 64.0, False),
    ],
)
def test_units(x: Tensor, sigma: float, passed: bool) -> None:
    found = check_units([x], sigma)
    assert found.passed == passed
    assert bool(found.advice) == (not passed)


def test_negative_pixels_are_pointed_out() -> None:
    assert "some are negative" in check_units([4.0 * X - 2.0], 0.25).seen
    assert "negative" not in check_units([X], 0.25).seen
    assert "negative" not in check_units([30.0 * torch.randn(8)], 5.0).seen  # measurements


def test_the_same_noise_within_a_block_fails() -> None:
    found = check_noise(EveryCopyTwice(torch.tanh, sigma=0.25), [X], [1])
    assert (found.passed, found.fatal) == (False, True)


def test_the_same_noise_twice_fails() -> None:
    assert check_noise(outputs_of(torch.tanh), [X, X], [1, 2]).passed
    found = check_noise(outputs_of(torch.tanh), [X, X], [1, 1])
    assert (found.passed, found.fatal) == (False, True)


@pytest.mark.parametrize(
    ("x", "grid", "compared"),
    [
        (X, None, "noise of 1,792 copies and"),
        (X, 255, "noise of 1,792 copies and"),
        (X[0, 0, :1], None, "noise of 28 blocks of 64 copies and"),
        (X[0, 0, :1], 255, "noise of 28 blocks of 64 copies and"),
        (X, 1, "noise of 28 blocks of 64 copies and"),
        (X[0, 0, :1], 1, "noise of 0 copies, as few values are possible, and"),
    ],
)
def test_noise_that_is_equal_by_chance_passes(x: Tensor, grid: int | None, compared: str) -> None:
    found = check_noise(outputs_of(torch.tanh, grid=grid), [x], [1])
    assert found.passed
    assert found.seen.startswith(compared)


def test_outputs_that_are_not_finite_fail_but_are_no_end() -> None:
    found, axioms = check_outputs(outputs_of(lambda x: x.where(x > -0.5, torch.nan)), Lp(2), [X], [0])
    assert (found.passed, found.fatal) == (False, False)
    assert axioms.passed


def test_no_finite_output_at_all_is_the_end() -> None:
    (none,) = check_outputs(outputs_of(lambda x: x * torch.nan), Lp(2), [X], [0])
    assert (none.seen, none.fatal) == ("0 of 24 outputs are finite", True)


def test_an_example_without_finite_outputs_is_no_end() -> None:
    model = outputs_of(lambda x: x.where(x.mean((1, 2, 3), keepdim=True) < 1.0, torch.nan))
    found, axioms = check_outputs(model, Lp(2), [X + 2.0, X], [0, 1])
    assert (found.seen, found.passed, found.fatal) == ("8 of 32 outputs are finite", False, False)
    assert axioms.passed


@pytest.mark.parametrize("distance", [Lp(1), Lp(2), Lp(float("inf")), Angular(), Relaxed(2)])
def test_true_distances_pass(distance: Distance) -> None:
    assert check_axioms(distance, POINTS).passed


def test_boxes_and_masks_pass() -> None:
    assert check_axioms(BoxJaccard(), torch.cat([POINTS[:, :2], POINTS[:, :2] + POINTS[:, 2:4]], dim=1)).passed
    assert check_axioms(MaskJaccard(), POINTS > 0.5).passed


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        (Squared(2), "with relaxation 1"),
        (LOPSIDED, "not symmetric"),
        (Wrong(lambda d, a, b: d + 1e-6), "from an output to itself"),
        (Wrong(lambda d, a, b: -d), "negative"),
        (Wrong(lambda d, a, b: 2.0 * d, paired=True), "pair by pair"),
        (Wrong(lambda d, a, b: d * torch.nan), "not finite between finite outputs"),
        (Wrong(lambda d, a, b: d * torch.nan, paired=True), "not finite between finite outputs"),
    ],
)
def test_false_distances_fail_with_what_is_wrong(distance: Distance, said: str) -> None:
    found = check_axioms(distance, POINTS)
    assert (found.passed, found.fatal) == (False, True)
    assert said in found.seen
    assert found.advice.startswith(
        "mend the distance, or declare" if isinstance(distance, Squared) else "mend the dist"
    )
