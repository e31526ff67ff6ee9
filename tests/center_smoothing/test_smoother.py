import gc
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from center_smoothing import Angular, CenterSmoother, Certificate, Distance, Lp, SmoothingBudget, TotalVariation
from center_smoothing.margins import Method
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs
from tests.center_smoothing.refutation import SampleCenters

EXACT = SmoothingBudget(n=101, m=150, k=16, alpha_1=0.1, alpha_2=0.1, delta=0.2, tuple_sizes=(1, 2, 4))
PAPER = SmoothingBudget(n=101, m=150, k=16, alpha_1=0.1, alpha_2=0.1, delta=0.3, method="paper")
BUDGETS = [EXACT, PAPER]


def method(budget: object) -> str:
    return budget.method if isinstance(budget, SmoothingBudget) else repr(budget)


def smoother(
    model: Callable[[Tensor], Tensor], distance: Distance | None = None, budget: SmoothingBudget = EXACT, **options: int
) -> CenterSmoother:
    return CenterSmoother(model, distance or Lp(2), sigma=0.5, budget=budget, **{"batch_size": 64, **options})


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


@pytest.mark.parametrize(
    ("budget", "stages"),
    [
        (EXACT, [(Stage.PILOT, 16), (Stage.RANKING, 101), (Stage.CERTIFICATION, 150)]),
        (
            SmoothingBudget(n=101, m=50, k=16, alpha_1=0.1, alpha_2=0.1, delta=0.2, n_check=120),
            [(Stage.PILOT, 16), (Stage.RANKING, 101), (Stage.CERTIFICATION, 120)],
        ),
        (PAPER, [(Stage.RANKING, 101), (Stage.CHECK, 101), (Stage.CERTIFICATION, 150)]),
    ],
)
def test_stages_and_counts_of_a_certificate(
    draws: Draws, budget: SmoothingBudget, stages: list[tuple[Stage, int]]
) -> None:
    smoother(lambda z: z, budget=budget).certify(point())
    assert sorted((stage, len(outputs)) for stage, outputs in draws) == sorted(stages)
    everything = torch.cat([outputs for _, outputs in draws])
    assert len(everything.unique()) == everything.numel() == 2 * budget.evaluations  # no draw is shared


def lp(a: np.ndarray, b: np.ndarray, p: float) -> float:
    return float(np.linalg.norm((a - b).ravel(), ord=p))


def algorithm_1(
    candidates: list[np.ndarray], ranking: np.ndarray, check: np.ndarray, budget: SmoothingBudget, p: float
) -> tuple[np.ndarray, float, float, bool]:
    """Selection and check, one candidate at a time: center, radius, mass and whether it abstains."""
    radii = [sorted(lp(c, z, p) for z in ranking)[math.ceil(len(ranking) / 2) - 1] for c in candidates]
    best = min(range(len(candidates)), key=radii.__getitem__)
    center, radius = candidates[best], radii[best]
    inside, count = sum(lp(center, z, p) <= radius for z in check), len(check)
    if budget.method == "paper":
        mass = inside / count - math.sqrt(math.log(2 / budget.alpha_1) / (2 * count))
    else:
        mass = stats.beta.ppf(budget.alpha_1 / 2, inside, count - inside + 1)
    return center, radius, mass, 0.5 - mass > budget.delta


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("distance_type", [Lp, SampleCenters])
@pytest.mark.parametrize("budget", BUDGETS, ids=method)
def test_center_and_radius_equal_an_independent_algorithm_1(
    draws: Draws, budget: SmoothingBudget, distance_type: type[Lp], p: float
) -> None:
    for example in range(3):
        draws.clear()
        certificate = smoother(curved, distance_type(p), budget).certify(point(), example=example)
        outputs = {stage: drawn.numpy() for stage, drawn in draws}
        if budget.method == "paper":
            candidates, check = list(outputs[Stage.RANKING]), outputs[Stage.CHECK]
        else:
            pilot, check = outputs[Stage.PILOT], outputs[Stage.CERTIFICATION][: budget.n_check]
            candidates = list(pilot)
            if distance_type.averages:
                tuples = [np.mean(pilot[at : at + size], axis=0) for size in (2, 4) for at in range(0, 16, size)]
                candidates += [*tuples, np.mean(pilot, axis=0), np.median(pilot, axis=0)]
        center, radius, mass, abstained = algorithm_1(candidates, outputs[Stage.RANKING], check, budget, p)
        np.testing.assert_allclose(certificate.center.numpy(), center, rtol=1e-12)
        assert certificate.output.radius == pytest.approx(radius, rel=1e-12)
        assert certificate.output.mass == pytest.approx(mass, rel=1e-8)
        assert certificate.abstained == abstained
        distances = sorted(lp(center, z, p) for z in outputs[Stage.CERTIFICATION][: budget.m])
        np.testing.assert_allclose(certificate.distances, distances, rtol=1e-12)
        base = curved(point()[None])[0].numpy()
        assert certificate.smoothing_loss == pytest.approx(math.inf if abstained else lp(base, center, p), rel=1e-12)


@pytest.mark.parametrize("distance", [Lp(), SampleCenters()], ids=["averages", "samples"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_outputs_may_be_whole_numbers(distance: Distance, dtype: torch.dtype) -> None:
    certificate = smoother(lambda z: (z > -1.0).to(dtype), distance).certify(torch.zeros(1))
    assert certificate.center.tolist() == [1]
    assert certificate.eps_out(0.1) < 1e-300


@pytest.mark.parametrize("n_check", [60, 101, 170])
@pytest.mark.parametrize("method", ["exact", "paper"])
def test_smooth_and_certify_agree(method: Method, n_check: int) -> None:
    n = n_check if method == "paper" else 101
    budget = SmoothingBudget(
        n=n, m=150, k=16, alpha_1=0.2, alpha_2=0.1, delta=0.31 if n == 60 else 0.26, n_check=n_check, method=method
    )
    for example in range(5):
        smoothed = smoother(curved, budget=budget).smooth(point(), example=example)
        certified = smoother(curved, budget=budget).certify(point(), example=example).output
        assert torch.equal(smoothed.center, certified.center)
        assert (smoothed.radius, smoothed.mass) == (certified.radius, certified.mass)
        assert smoothed.abstained == certified.abstained


def same(a: Certificate, b: Certificate) -> bool:
    return (
        torch.equal(a.center, b.center)
        and np.array_equal(a.distances, b.distances)
        and (a.output.radius, a.output.mass, a.abstained) == (b.output.radius, b.output.mass, b.abstained)
        and a.smoothing_loss == b.smoothing_loss
    )


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("threads", "budget", "distance"),
    [
        *((1, EXACT, Lp(1)), (2, PAPER, Lp(2)), (2, EXACT, Lp(3)), (2, PAPER, Angular())),
        *((2, EXACT, TotalVariation(1)), (2, PAPER, TotalVariation(2))),
    ],
    ids=str,
    indirect=["threads"],
)
def test_the_certificate_does_not_depend_on_the_batch_size(distance: Distance, budget: SmoothingBudget) -> None:
    x = torch.linspace(-1, 1, 36).reshape(3, 3, 4)
    first, *others = [
        smoother(lambda z: z * z.abs(), distance, budget, batch_size=size).certify(x) for size in (7, 64, 1000)
    ]
    assert all(same(first, other) for other in others)


@pytest.mark.parametrize("budget", BUDGETS, ids=method)
def test_an_example_is_repeatable_and_examples_and_seeds_differ(budget: SmoothingBudget) -> None:
    first = smoother(curved, budget=budget).certify(point(), example=3)
    assert same(first, smoother(curved, budget=budget).certify(point(), example=3))
    assert not same(first, smoother(curved, budget=budget).certify(point(), example=4))
    assert not same(first, smoother(curved, budget=budget, seed=1).certify(point(), example=3))


def nan_beyond(threshold: float, value: float = math.nan) -> Callable[[Tensor], Tensor]:
    """The identity, except for NaN where the first coordinate exceeds the threshold in units of sigma = 1/2."""
    return lambda z: torch.where(z[:, :1] > threshold * 0.5, value, z)


@pytest.mark.parametrize("budget", BUDGETS, ids=method)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_some_non_finite_outputs_count_as_outside(draws: Draws, budget: SmoothingBudget, bad: float) -> None:
    for example in range(5):
        draws.clear()
        certificate = smoother(nan_beyond(1.3, bad), budget=budget).certify(torch.zeros(2), example=example)
        outputs = dict(draws)[Stage.CERTIFICATION][: budget.m]
        missing = int((~torch.isfinite(outputs).all(dim=1)).sum())
        assert missing > 0
        assert certificate.non_finite == missing
        assert np.isinf(certificate.distances[budget.m - missing :]).all()
        assert np.isfinite(certificate.distances[: budget.m - missing]).all()
        assert bool(torch.isfinite(certificate.center).all())
        assert not certificate.abstained
        for h in (0.0, 0.1, 0.5, 1.0):
            finite = budget.plan(h).rank <= budget.m - missing
            assert math.isfinite(certificate.eps_out(h * 0.5)) == finite
        assert math.isfinite(certificate.eps_out(0.0))
        assert certificate.eps_in(math.inf) < math.inf
        assert math.isfinite(certificate.smoothing_loss)


@pytest.mark.parametrize("budget", BUDGETS, ids=method)
def test_mostly_non_finite_outputs_abstain(budget: SmoothingBudget) -> None:
    certificate = smoother(nan_beyond(-1.0), budget=budget).certify(torch.zeros(2))
    assert certificate.abstained
    assert certificate.output.radius == math.inf
    assert certificate.smoothing_loss == math.inf
    assert bool(torch.isfinite(certificate.center).all())


def test_a_non_finite_pilot_does_not_hide_finite_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    original = NoisyOutputs.draw

    def draw(self: NoisyOutputs, x: Tensor, *, example: int, stage: Stage, count: int) -> Iterator[Tensor]:
        for outputs in original(self, x, example=example, stage=stage, count=count):
            if stage == Stage.PILOT:
                outputs[::2] = torch.nan
            yield outputs

    monkeypatch.setattr(NoisyOutputs, "draw", draw)
    certificate = smoother(lambda z: z).certify(torch.zeros(2))
    assert not certificate.abstained
    assert bool(torch.isfinite(certificate.center).all())


def test_a_mean_that_overflows_is_no_center() -> None:
    model = lambda z: torch.where(z > 0.0, 3e38, 2e38)  # noqa: E731  # sums of two exceed float32
    center = smoother(model, Lp(math.inf)).smooth(torch.zeros(3)).center
    assert bool(torch.isfinite(center).all())


def test_a_base_output_that_is_not_finite_has_an_infinite_loss() -> None:
    certificate = smoother(lambda z: torch.where(z == 0.0, torch.nan, z)).certify(torch.zeros(2))
    assert not certificate.abstained
    assert certificate.smoothing_loss == math.inf


@pytest.fixture
def peaks() -> Iterator[list[int]]:
    """How many bytes the tensors had, made since, at each call of :func:`noting_memory`."""
    gc.collect()
    gc.freeze()  # leaves out what there is already, or looking would take far longer
    yield []
    gc.unfreeze()


def noting_memory(size: int, peaks: list[int]) -> Callable[[Tensor], Tensor]:
    """A base function with outputs of so many numbers."""

    def large(z: Tensor) -> Tensor:
        tensors = (thing for thing in gc.get_objects() if type(thing) is Tensor and thing.layout is torch.strided)
        storages = {thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes() for thing in tensors}
        peaks.append(sum(storages.values()))
        return z.expand(len(z), size) + torch.arange(size)

    return large


@pytest.mark.parametrize("n_check", [300, 600])
def test_memory_does_not_grow_with_n_or_m(n_check: int, peaks: list[int]) -> None:
    size, batch, k = 5_000, 20, 10
    budget = SmoothingBudget(n=300, m=300, k=k, alpha_1=0.1, alpha_2=0.1, delta=0.15, n_check=n_check)
    smoother(noting_memory(size, peaks), Lp(1), budget, batch_size=batch).certify(torch.zeros(1))
    held = (k + 2) * size * (4 + 8)  # candidates and what they are embedded to
    flowing = 4 * batch * size * (4 + 8)
    assert k * size * 4 < max(peaks) < held + flowing < 300 * size * 4


def test_memory_of_the_paper_does_not_grow_with_m(peaks: list[int]) -> None:
    size, batch = 5_000, 20
    budget = SmoothingBudget(n=50, m=1500, alpha_1=0.1, alpha_2=0.1, delta=0.3, method="paper")
    smoother(noting_memory(size, peaks), Lp(1), budget, batch_size=batch).certify(torch.zeros(1))
    assert max(peaks[-1500 // batch :]) < 4 * batch * size * (4 + 8) + 50 * size * 4 < 1500 * size * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_center_has_the_type_of_the_outputs(dtype: torch.dtype) -> None:
    for budget in BUDGETS:
        certificate = smoother(lambda z: z, budget=budget).certify(torch.zeros(2, dtype=dtype))
        assert certificate.center.dtype == dtype
        assert certificate.distances.dtype == np.float64


def test_a_certificate_carries_what_it_was_made_with() -> None:
    certificate = smoother(curved, Angular()).certify(point())
    assert (certificate.sigma, certificate.relaxation, certificate.budget) == (0.5, 1.0, EXACT)
    assert CenterSmoother(curved, Lp(), sigma=1.0).budget == SmoothingBudget()


GOLDEN = {
    "exact": (
        [0.6952260080, -0.1241261841, 0.8434704137],
        0.7522793121,
        0.4579375699,
        [3.0652982794, 3.4629097468, 4.3368365945],
    ),
    "paper": (
        [0.5657590286, -0.1656763113, 0.6814419019],
        0.7276645969,
        0.4029725188,
        [5.5910362610, 7.0617755283, 9.7740973446],
    ),
}


@pytest.mark.parametrize("budget", BUDGETS, ids=method)
def test_golden(budget: SmoothingBudget) -> None:
    certificate = smoother(curved, budget=budget, seed=7).certify(point(), example=11)
    center, radius, mass, radii = GOLDEN[budget.method]
    np.testing.assert_allclose(certificate.center.numpy(), center, rtol=1e-6)
    assert certificate.output.radius == pytest.approx(radius, rel=1e-6)
    assert certificate.output.mass == pytest.approx(mass, rel=1e-6)
    np.testing.assert_allclose(certificate.eps_out([0.0, 0.1, 0.2]), radii, rtol=1e-6)


@pytest.mark.parametrize("budget", BUDGETS, ids=method)
def test_the_check_abstains_where_one_output_too_few_is_in_the_ball(budget: SmoothingBudget) -> None:
    made, least = smoother(curved, budget=budget), budget.least_inside()
    for inside, abstained in ((least, False), (least - 1, True)):  # outputs on the ball's edge are in it
        distances = torch.where(torch.arange(budget.n_check) < inside, 1.0, 9.0)
        assert made._check(torch.zeros(3), 1.0, distances).abstained is abstained
