import gc
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import center_smoothing
from center_smoothing import (
    BoxJaccard,
    Distance,
    Lp,
    MaskJaccard,
    MeanBudget,
    MeanCertificate,
    MeanSmoother,
    TotalVariation,
)
from center_smoothing.means import directions
from center_smoothing.means.smoother import clip
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs

BUDGET = MeanBudget(n=100, m=150, alpha_1=0.1, alpha_2=0.1)
GROUPED = MeanBudget(n=99, m=150, group=3, alpha_1=0.1, alpha_2=0.1)
BUDGETS = [BUDGET, GROUPED]
CONVEX = [Lp(1), Lp(1.5), Lp(2), Lp(math.inf)]


class SquaredL2(Lp):
    """Convex in the output, with gamma = 2."""

    relaxation = 2.0

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return super()._compare(a, b) ** 2

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        return super()._compare_paired(a, b) ** 2


def group(budget: object) -> str:
    return f"group{budget.group}" if isinstance(budget, MeanBudget) else repr(budget)


def smoother(
    model: Callable[[Tensor], Tensor],
    distance: Distance | None = None,
    budget: MeanBudget = BUDGET,
    **options: Any,  # noqa: ANN401
) -> MeanSmoother:
    if "bound" not in options:
        options = {"clip_norm": 2.0, **options}
    return MeanSmoother(model, distance or Lp(2), sigma=0.5, budget=budget, **{"batch_size": 64, **options})


def curved(z: Tensor) -> Tensor:
    return torch.stack([z[:, 0].sin() + z[:, 1] ** 2, z[:, 0] * z[:, 1], z[:, 1].exp()], dim=1)


def point() -> Tensor:
    return torch.tensor([0.3, -0.7], dtype=torch.float64)


Draws = list[tuple[Stage, Tensor]]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    """Every stage that is drawn, with its outputs, in order."""
    recorded: Draws = []
    original = NoisyOutputs.draw

    def draw(self: NoisyOutputs, x: Tensor, *, example: int, stage: Stage, count: int) -> Iterator[Tensor]:
        batches = list(original(self, x, example=example, stage=stage, count=count))
        recorded.append((stage, torch.cat(batches)))
        yield from batches

    monkeypatch.setattr(NoisyOutputs, "draw", draw)
    return recorded


@pytest.mark.parametrize("budget", BUDGETS, ids=group)
def test_stages_and_counts(draws: Draws, budget: MeanBudget) -> None:
    smoother(curved, budget=budget).smooth(point())
    assert [(stage, len(outputs)) for stage, outputs in draws] == [(Stage.MEAN, budget.n)]
    draws.clear()
    smoother(curved, budget=budget).certify(point())
    assert [(stage, len(outputs)) for stage, outputs in draws] == [
        (Stage.MEAN, budget.n),
        (Stage.CERTIFICATION, budget.m),
    ]
    assert sum(len(outputs) for _, outputs in draws) == budget.evaluations


def test_the_batches_of_a_certificate_share_no_draw(draws: Draws) -> None:
    smoother(lambda z: z, bound=1e3).certify(point())
    everything = torch.cat([outputs for _, outputs in draws])
    assert len(everything.unique()) == everything.numel()


def test_noise_differs_between_points_of_one_example(draws: Draws) -> None:
    made = smoother(lambda z: z, bound=1e3)
    for x in (point(), point() + 1e-9, point().float(), point()):
        made.smooth(x)
    noise = [outputs - x for (_, outputs), x in zip(draws, (point(), point() + 1e-9, point(), point()), strict=True)]
    assert torch.equal(noise[0], noise[3])
    for other in noise[1:3]:
        correlation = np.corrcoef(noise[0].flatten().numpy(), other.flatten().numpy())[0, 1]
        assert abs(correlation) < 0.3


def clipped_by_hand(outputs: np.ndarray, norm: float, p: float) -> np.ndarray:
    lengths = np.linalg.norm(outputs, ord=p, axis=1, keepdims=True)
    return outputs * np.minimum(1.0, norm / lengths)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("budget", BUDGETS, ids=group)
def test_a_certificate_equals_one_by_hand(draws: Draws, budget: MeanBudget, p: float) -> None:
    for example in range(2):
        draws.clear()
        certificate = smoother(curved, Lp(p), budget).certify(point(), example=example)
        drawn = {stage: outputs.numpy() for stage, outputs in draws}
        center = drawn[Stage.MEAN].mean(axis=0)
        np.testing.assert_allclose(certificate.center.numpy(), center, rtol=1e-13)
        means = drawn[Stage.CERTIFICATION].reshape(-1, budget.group, 3).mean(axis=1)
        distances = np.sort(np.linalg.norm(means - center, ord=p, axis=1))
        np.testing.assert_allclose(certificate.distances, distances, rtol=1e-12)
        assert certificate.bound == pytest.approx(2.0 + np.linalg.norm(center, ord=p), rel=1e-8)
        base = clipped_by_hand(curved(point()[None]).numpy(), 2.0, p)[0]
        assert certificate.smoothing_loss == pytest.approx(np.linalg.norm(base - center, ord=p), rel=1e-8)
        smoothed = smoother(curved, Lp(p), budget).smooth(point(), example=example)
        assert torch.equal(smoothed.center, certificate.center)
        assert (smoothed.abstained, certificate.abstained) == (False, False)


@pytest.mark.parametrize("p", [1.0, 3.0, math.inf])
def test_what_is_smoothed_is_the_clipped_function(draws: Draws, p: float) -> None:
    made = smoother(curved, Lp(p), clip_norm=1.5)
    certificate = made.certify(point())
    norms = torch.cat([torch.linalg.vector_norm(outputs, ord=p, dim=1) for _, outputs in draws])
    assert 0.1 < float((norms > 1.499).double().mean()) < 0.9
    assert float(norms.max()) <= 1.5
    assert float(torch.linalg.vector_norm(certificate.center, ord=p)) <= 1.5
    assert float(torch.linalg.vector_norm(made.outputs.base_output(point()), ord=p)) <= 1.5
    assert 1.5 < certificate.bound < 3.0 * (1 + 1e-8)
    assert certificate.distances[-1] <= certificate.bound


@pytest.mark.parametrize("relaxed", [False, True])
def test_bounds_on_distances(relaxed: bool) -> None:
    distance = SquaredL2() if relaxed else Lp(2)
    certificate = smoother(curved, distance).certify(point())
    norm = float((certificate.center**2).sum()) if relaxed else float(certificate.center.norm())
    assert certificate.bound == pytest.approx((2.0 if relaxed else 1.0) * (norm + 2.0), rel=1e-8)
    assert smoother(lambda z: z.clamp(-1, 1), distance, bound=8.0).certify(point()).bound == pytest.approx(8.0)


def test_without_clipping_outputs_stay_as_they_are(draws: Draws) -> None:
    model = lambda z: z.clamp(-1, 1)  # noqa: E731
    made = smoother(model, bound=3.0)
    certificate = made.certify(point())
    assert made.outputs.model is model
    assert torch.equal(made.outputs.base_output(point()), point())
    torch.testing.assert_close(certificate.center, draws[0][1].mean(dim=0))
    assert certificate.bound == pytest.approx(3.0)
    assert certificate.bound > 3.0


@pytest.mark.parametrize(
    "distance", [*CONVEX, center_smoothing.SquaredL2(), TotalVariation(1), TotalVariation(2)], ids=repr
)
def test_no_clipped_output_lies_beyond_the_norm_and_hardly_within(distance: Distance) -> None:
    rng = np.random.default_rng(0)
    sizes = np.choose(rng.integers(3, size=(300, 6)), [10.0, 1e300, 1e-300])
    z = torch.from_numpy(sizes * rng.uniform(-1, 1, (300, 6))).reshape(-1, 1, 2, 3)
    z[0], z[0, 0, 1, 1:] = 0.0, 1e-320
    zero = torch.zeros_like(z[:1])
    before = distance.pairwise(z, zero)[:, 0]
    for norm in (1e-320, 1e-300, 1e-3, 1.0, 20.0, 1e300, float(before[torch.isfinite(before)].median())):
        clipped = clip(z, distance, norm)
        after = distance.pairwise(clipped, zero)[:, 0]
        assert bool((after <= norm).all())
        assert torch.equal(clipped[before <= norm], z[before <= norm])
        assert bool((clipped * z >= 0.0).all())
        assert bool((clipped.abs() <= z.abs()).all())
    plain = torch.randn(50, 1, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = distance.pairwise(plain, torch.zeros_like(plain[:1]))[:, 0]
    clipped, norm = clip(plain, distance, float(before.median())), float(before.median())
    after = distance.pairwise(clipped, torch.zeros_like(plain[:1]))[:, 0]
    torch.testing.assert_close(after, before.clamp(max=norm), rtol=1e-8, atol=0.0)
    assert bool((after[before > norm] < norm).all())
    torch.testing.assert_close(*(torch.nn.functional.normalize(z.flatten(1), dim=1) for z in (plain, clipped)))


def test_clipping_keeps_what_is_not_finite_and_drops_what_overflows() -> None:
    z = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [1e308, 1e308], [3.0, 4.0]], dtype=torch.float64)
    clipped = clip(z, Lp(1), 1.0)
    assert torch.isfinite(clipped).all(dim=1).tolist() == [False, False, True, True]
    assert clipped[2].tolist() == [0.0, 0.0]
    assert clip(torch.tensor([[3, 4]]), Lp(1), 1.0).dtype == torch.float64
    assert z[3].tolist() == [3.0, 4.0]


@pytest.mark.parametrize("options", [{"clip_norm": 5.0}, {"bound": 10.0}])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16])
def test_outputs_of_every_type_are_averaged_in_float64(dtype: torch.dtype, options: dict[str, float]) -> None:
    certificate = smoother(lambda z: (z > -0.1).to(dtype), **options).certify(torch.zeros(3))
    assert certificate.center.dtype == torch.float64
    assert 0.3 < float(certificate.center.min()) <= float(certificate.center.max()) < 0.9
    assert float(certificate.center[0] * 100) == pytest.approx(round(float(certificate.center[0] * 100)))
    assert certificate.smoothing_loss > 0.0


def test_a_mean_of_float32_outputs_is_more_accurate_than_float32() -> None:
    budget = MeanBudget(n=3000, m=1)
    center = smoother(lambda z: torch.full((len(z), 1), 0.1), budget=budget).smooth(torch.zeros(1)).center
    assert float(center) == pytest.approx(float(torch.tensor(0.1).double()), rel=1e-14)


def same(a: MeanCertificate, b: MeanCertificate) -> bool:
    return (
        torch.equal(a.center, b.center)
        and np.array_equal(a.distances, b.distances)
        and (a.bound, a.abstained, a.smoothing_loss) == (b.bound, b.abstained, b.smoothing_loss)
    )


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("threads", "budget", "distance", "options"),
    [
        (1, BUDGET, Lp(1), {"clip_norm": 6.0}),
        (2, BUDGET, Lp(3), {"bound": 1e4}),
        (2, GROUPED, TotalVariation(2), {"clip_norm": 6.0}),
    ],
    ids=str,
    indirect=["threads"],
)
def test_the_certificate_does_not_depend_on_the_batch_size(
    distance: Distance, budget: MeanBudget, options: dict[str, float]
) -> None:
    x = torch.linspace(-1, 1, 36).reshape(3, 3, 4)
    first, *others = [
        smoother(lambda z: z * z.abs(), distance, budget, batch_size=size, **options).certify(x)
        for size in (1, 7, 1000)
    ]
    assert all(same(first, other) for other in others)


def test_an_example_is_repeatable_and_examples_and_seeds_differ() -> None:
    first = smoother(curved).certify(point(), example=3)
    assert same(first, smoother(curved).certify(point(), example=3))
    assert not same(first, smoother(curved).certify(point(), example=4))
    assert not same(first, smoother(curved, seed=1).certify(point(), example=3))


def nan_beyond(threshold: float, value: float = math.nan) -> Callable[[Tensor], Tensor]:
    """The identity, except for NaN where the first coordinate exceeds the threshold in units of sigma = 1/2."""
    return lambda z: torch.where(z[:, :1] > threshold * 0.5, value, z)


@pytest.mark.parametrize("options", [{"clip_norm": 5.0}, {"bound": 20.0}])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_mean_with_a_non_finite_output_abstains(bad: float, options: dict[str, float]) -> None:
    made = smoother(nan_beyond(1.3, bad), **options)
    output, certificate = made.smooth(torch.zeros(2)), made.certify(torch.zeros(2))
    for abstained in (output, certificate):
        assert abstained.abstained
        assert torch.equal(abstained.center, torch.zeros(2, dtype=torch.float64))
    assert certificate.eps_out(0.0) == math.inf
    assert certificate.eps_in(1e9) == 0.0
    assert certificate.smoothing_loss == math.inf


def test_sums_that_overflow_abstain() -> None:
    output = smoother(lambda z: torch.full((len(z), 1), 1e308, dtype=torch.float64), bound=1.0).smooth(torch.zeros(1))
    assert output.abstained
    assert bool(torch.isfinite(output.center).all())


def test_a_base_output_that_is_not_finite_has_an_infinite_loss() -> None:
    certificate = smoother(lambda z: torch.where(z == 0.0, torch.nan, z)).certify(torch.zeros(2))
    assert not certificate.abstained
    assert certificate.smoothing_loss == math.inf


def test_a_broken_promise_is_reported() -> None:
    message = r"bound must be at least every distance between two outputs, got 1.0, .*Lp\(p=2.0\).*clip_norm"
    with pytest.raises(ValueError, match=message):
        smoother(lambda z: z, bound=1.0).certify(point())
    with pytest.raises(ValueError, match="bound must be at least"):  # finite outputs at a distance that overflows
        smoother(lambda z: z.sign() * 1e306, Lp(1), bound=1e307).certify(torch.zeros(200, dtype=torch.float64))


def test_a_promise_that_holds_with_equality_is_kept() -> None:
    model = lambda z: torch.where(z > 0.0, 0.3, 0.0)  # noqa: E731
    distances = smoother(model, Lp(1), bound=0.3).certify(torch.full((1,), 5.0, dtype=torch.float64)).distances
    assert distances.max() <= 0.3


def live_bytes() -> int:
    """Bytes of all storages behind tensors that Python can reach and that are not frozen."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is Tensor and thing.layout is torch.strided:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_memory_does_not_grow_with_n_or_m(monkeypatch: pytest.MonkeyPatch) -> None:
    size, batch, peaks = 5000, 16, list[int]()
    monkeypatch.setattr(directions, "_NUMBERS_AT_ONCE", 100 * size)

    def large(z: Tensor) -> Tensor:
        peaks.append(live_bytes())
        return z.expand(len(z), size) + torch.arange(size)

    budget = MeanBudget(n=600, m=600, group=3)  # outputs of 24 MB each
    gc.collect()
    gc.freeze()  # what there is already is not looked at
    try:
        smoother(large, Lp(1), budget, batch_size=batch, clip_norm=1e9).certify(torch.zeros(1))
    finally:
        gc.unfreeze()
    assert 64 * size * 8 < max(peaks) < 7 * (64 + batch) * size * 8 < 600 * size * 8


@pytest.mark.parametrize("distance", [BoxJaccard(), MaskJaccard()], ids=repr)
def test_distances_that_are_not_convex_are_refused(distance: Distance) -> None:
    with pytest.raises(
        ValueError, match=rf"as TotalVariation\(\) and Lp\(\) are, got {type(distance).__name__}\(\): by"
    ):
        MeanSmoother(curved, distance, sigma=1.0, bound=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either clip_norm.*or bound.*got clip_norm=None and bound=None"),
        ({"clip_norm": 1.0, "bound": 2.0}, "give either clip_norm.*got clip_norm=1.0 and bound=2.0"),
        ({"clip_norm": 0.0}, "clip_norm must be a positive finite number, got 0.0"),
        ({"clip_norm": math.inf}, "clip_norm must be .* got inf"),
        ({"bound": math.nan}, "bound must be a positive finite number, got nan"),
        ({"bound": "3"}, "bound must be .* got '3'"),
        ({"bound": True}, "bound must be .* got True"),
        ({"clip_norm": 1.0, "model": 3}, "model must be callable, got int"),
    ],
)
def test_impossible_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"model": curved, "distance": Lp(), "sigma": 1.0, **options}
    with pytest.raises(ValueError, match=message):
        MeanSmoother(arguments.pop("model"), arguments.pop("distance"), **arguments)


def test_golden() -> None:
    certificate = smoother(curved, seed=7).certify(point(), example=11)
    np.testing.assert_allclose(certificate.center.numpy(), [0.8755931562, -0.1685938540, 0.5319792040], rtol=1e-6)
    radii = [1.07037117, 1.17759175, 1.29274981]
    np.testing.assert_allclose(certificate.eps_out([0.0, 0.1, 0.2]), radii, rtol=1e-6)


@pytest.mark.parametrize("relaxed", [False, True])
def test_the_largest_bound_is_never_below_that_of_a_certificate(relaxed: bool) -> None:
    distance = center_smoothing.SquaredL2() if relaxed else Lp(2)
    made = smoother(lambda z: 100.0 * torch.ones_like(z), distance, clip_norm=1.5)
    assert made.largest_bound == pytest.approx(2.0 * 1.5**0.5 if relaxed else 3.0)  # of l2 distances
    assert 0.99 * made.largest_bound <= made.certify(point()).bound <= made.largest_bound
    assert smoother(curved, Lp(2), clip_norm=None, bound=8.0).largest_bound == pytest.approx(8.0)


class Squared(Lp):
    """Declared a metric, which it is not."""

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return super()._compare(a, b).square()


def test_distances_beyond_the_bound_that_clipping_makes_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"distance must be convex .* from the mean to an output .* beyond B=1\.\d+"):
        smoother(lambda z: (z + 0.3).sign(), Squared(), clip_norm=1.0).certify(torch.zeros(1))
