"""Attacks: they find what is known to be there, and stay inside their ball."""

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from center_smoothing import (
    NO_BOX,
    Angular,
    BoxJaccard,
    CenterSmoother,
    Distance,
    Lp,
    MeanBudget,
    MeanSmoother,
    MedianBudget,
    MedianSmoother,
    Smoother,
    SmoothingBudget,
    TotalVariation,
)
from center_smoothing.attack import Attack, AttackBudget, attack, has_gradient, project
from center_smoothing.noise import to_grid
from center_smoothing.threats import Threat

BUDGET = SmoothingBudget(n=400, m=800)
QUICK = AttackBudget(steps=12, starts=1, samples=16)


def attacked(model: Callable[[Tensor], Tensor], distance: Distance, x: Tensor, eps_in: float, **given: int) -> Attack:
    smoother = CenterSmoother(model, distance, sigma=0.25, budget=BUDGET, batch_size=64, **given)
    return attack(smoother, x, smoother.certify(x), eps_in=eps_in, budget=QUICK)


def linear() -> tuple[Tensor, float]:
    """A map of singular values 3, 1, 1, ... from 20 to 12 dimensions, and its largest."""
    generator = torch.Generator().manual_seed(1)
    left, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(20, 12, generator=generator))
    return left @ torch.diag(torch.tensor([3.0] + [1.0] * 11)) @ right.T, 3.0


@pytest.mark.parametrize("grid", [None, 1020])
def test_of_a_linear_map_it_finds_the_largest_singular_direction(grid: int | None) -> None:
    matrix, largest = linear()
    x, eps_in = torch.linspace(-1.0, 1.0, 20), 0.4
    found = attacked(lambda z: z @ matrix.T, Lp(2), x, eps_in, **({} if grid is None else {"grid": grid}))
    assert float((matrix @ (found.perturbed - x)).norm()) > 0.97 * largest * eps_in
    assert found.base_eps == pytest.approx(largest * eps_in, rel=0.03)
    assert found.base_eps <= largest * eps_in * (1.0 + 1e-5)
    assert found.eps == pytest.approx(largest * eps_in, rel=0.25)  # centers are random
    assert not found.gradient_free


def test_it_depends_on_seed_example_and_radius_alone() -> None:
    matrix, _ = linear()
    x = torch.zeros(20)

    def found(example: int = 0, eps_in: float = 0.4, **given: int) -> Attack:
        smoother = CenterSmoother(lambda z: z @ matrix.T, Lp(2), sigma=0.25, budget=BUDGET, **given)
        certificate, budget = smoother.certify(x, example=example), AttackBudget(steps=3, starts=2, samples=4)
        return attack(smoother, x, certificate, eps_in=eps_in, budget=budget, example=example)

    first, again = found(batch_size=64), found(batch_size=31)
    others = [found(seed=1, batch_size=64), found(example=1, batch_size=64), found(eps_in=0.41, batch_size=64)]
    assert torch.equal(first.perturbed, again.perturbed)
    assert first.eps == pytest.approx(again.eps, rel=1e-6)
    assert not any(torch.equal(first.perturbed, other.perturbed) for other in others)


def test_the_noise_at_the_attacked_input_is_its_own() -> None:
    x = torch.zeros(6)
    found = attacked(lambda z: z, Lp(2), x, 0.0)
    assert torch.equal(found.perturbed, x)
    assert found.eps > 0.0  # with the noise of the run at x the centers would be the same
    assert found.base_eps == found.shift == 0.0
    assert attacked(lambda z: z, Lp(2), x, 0.1).shift == pytest.approx(0.1, rel=0.5)


class Step(nn.Module):
    """1 where the first coordinates sum to more than a threshold, else 0, twice: without a useful gradient."""

    def __init__(self, *, trainable: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2), requires_grad=trainable)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :2].sum(dim=1, keepdim=True) > 0.5).float() * self.scale


@pytest.mark.parametrize("trainable", [True, False])
def test_a_step_function_is_attacked_without_gradients(trainable: bool) -> None:
    model, x = Step(trainable=trainable), torch.zeros(4)
    smoother = CenterSmoother(model, Lp(2), sigma=0.25, budget=BUDGET, batch_size=64)
    assert not has_gradient(smoother, x)
    found = attack(smoother, x, smoother.certify(x), eps_in=0.6, budget=QUICK)
    assert found.gradient_free
    assert found.eps == pytest.approx(math.sqrt(2.0))
    assert found.base_eps == pytest.approx(math.sqrt(2.0))


@torch.no_grad()
def detector(images: Tensor) -> Tensor:
    """The box of pixels above a half, as a detector would have it."""
    boxes = []
    for image in images:
        rows, columns = (image > 0.5).nonzero(as_tuple=True)
        some = len(rows) > 0
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if some else NO_BOX
        boxes.append(torch.tensor(box, dtype=torch.float32))
    return torch.stack(boxes)


def test_a_detector_of_boxes_is_attacked_without_gradients() -> None:
    image = torch.full((6, 6), -1.0)
    image[1:4, 1:4], image[1:4, 4] = 2.0, 0.2
    smoother = CenterSmoother(detector, BoxJaccard(), sigma=0.15, budget=BUDGET, batch_size=64)
    assert not has_gradient(smoother, image)
    found = attack(
        smoother, image, smoother.certify(image), eps_in=0.5, budget=AttackBudget(steps=25, starts=1, samples=16)
    )
    assert found.gradient_free
    assert found.eps == pytest.approx(0.25)  # the column that is nearly there
    assert found.base_eps >= 0.25


DISTANCES = [TotalVariation(), TotalVariation(2), Angular(), Lp(1), Lp(2), Lp(3), Lp(math.inf), BoxJaccard()]


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_the_gradient_of_a_distance_is_its_slope_and_finite_at_zero(distance: Distance) -> None:
    boxes, generator = isinstance(distance, BoxJaccard), torch.Generator().manual_seed(3)
    z = torch.randn(5, *((4,) if boxes else (3, 4, 4)), generator=generator, dtype=torch.float64)
    z = torch.tensor([0.0, 0.0, 3.0, 3.0]) + 0.2 * z if boxes else z
    center, direction = z[:1].clone(), torch.randn(z.shape, generator=generator, dtype=torch.float64)
    embedded, z = distance.embed(center), z.requires_grad_()
    for compare in (
        lambda outputs: distance.compare(distance.embed(outputs), embedded)[:, 0],
        lambda outputs: distance.paired(distance.embed(outputs), embedded.expand(5, *embedded.shape[1:]).contiguous()),
    ):
        values = compare(z)
        torch.testing.assert_close(values.detach(), compare(z.detach()), rtol=1e-12, atol=1e-12)
        (slope,) = torch.autograd.grad(values.sum(), z)
        assert torch.isfinite(slope).all()
        with torch.no_grad():
            differences = (compare(z + 1e-5 * direction) - compare(z - 1e-5 * direction)) / 2e-5
        expected = (slope * direction).flatten(1).sum(dim=1)
        torch.testing.assert_close(differences[1:], expected[1:], rtol=1e-3, atol=1e-6)


def smoothers_of_means(model: Callable[[Tensor], Tensor], distance: Distance) -> list[Smoother]:
    return [
        MeanSmoother(model, distance, sigma=0.25, budget=MeanBudget(n=64, m=64), bound=1e3, batch_size=64),
        MedianSmoother(model, distance, sigma=0.25, budget=MedianBudget(n=65, m=65), batch_size=65),
    ]


@pytest.mark.parametrize("place", [0, 1])
def test_means_and_medians_are_attacked_as_what_they_are(place: int) -> None:
    matrix, largest = linear()
    smoother, x = smoothers_of_means(lambda z: z @ matrix.T, Lp(2))[place], torch.linspace(-1.0, 1.0, 20)
    certificate, budget = smoother.certify(x), AttackBudget(steps=12, starts=1, samples=2)
    found = attack(smoother, x, certificate, eps_in=0.4, budget=budget)
    assert 0.7 * largest * 0.4 < found.eps <= certificate.eps_out(0.4)
    assert float((matrix @ (found.perturbed - x)).norm()) > 0.99 * largest * 0.4  # single outputs would take many more


@pytest.mark.parametrize("place", [0, 1])
def test_the_shift_is_without_the_noise_of_two_runs(place: int) -> None:
    matrix, _ = linear()
    smoother, x = smoothers_of_means(lambda z: z @ matrix.T, Lp(2))[place], torch.linspace(-1.0, 1.0, 20)
    found = attack(smoother, x, smoother.certify(x), eps_in=0.05, budget=QUICK)
    assert found.shift == pytest.approx(float((matrix @ (found.perturbed - x)).norm()), rel=1e-4)
    assert found.eps > 1.5 * found.shift
    assert attack(smoother, x, smoother.certify(x), eps_in=0.0, budget=QUICK).shift == 0.0


def test_an_attack_on_means_takes_memory_and_missing_outputs_as_they_come() -> None:
    def model(x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(x) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return torch.where(x[:, :1] > 0.4, torch.nan, 3.0 * x)

    for smoother in smoothers_of_means(model, Lp(2))[1:]:
        found = attack(smoother, torch.zeros(3), smoother.certify(torch.zeros(3)), eps_in=0.2, budget=QUICK)
        assert not found.gradient_free
        assert found.shift > 0.9 * 0.6


def test_means_without_a_gradient_are_attacked_by_single_outputs() -> None:
    x = torch.full((2,), -0.1)
    for smoother in smoothers_of_means(lambda z: (z > 0.0).to(z.dtype), Lp(1)):
        found = attack(smoother, x, smoother.certify(x), eps_in=0.3, budget=QUICK)
        assert found.gradient_free
        assert found.shift > 0.3


def test_what_abstains_is_no_contradiction() -> None:
    def scattered(x: Tensor) -> Tensor:
        """Far apart, whatever one adds."""
        return 1e6 * torch.sin(1e6 * x)

    budget = SmoothingBudget(n=400, m=800, delta=0.2)
    smoother = CenterSmoother(lambda x: scattered(x).where(x > 1.0, torch.nan), Lp(2), sigma=0.25, budget=budget)
    certificate = smoother.certify(torch.zeros(3))
    assert certificate.abstained
    found = attack(smoother, torch.zeros(3), certificate, eps_in=0.25, budget=QUICK)
    assert found.eps == 0.0
    assert torch.equal(found.perturbed, torch.zeros(3))


def test_the_model_is_as_before_and_gets_no_gradients() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 3)).train()
    smoother = CenterSmoother(model, Lp(2), sigma=0.25, budget=BUDGET, batch_size=64)
    with torch.no_grad():  # as Lightning predicts
        found = attack(smoother, torch.zeros(4), smoother.certify(torch.zeros(4)), eps_in=0.3, budget=QUICK)
    assert not found.gradient_free
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not found.perturbed.requires_grad


def test_the_projection_uses_the_radius_up() -> None:
    x, point = torch.rand(784), torch.rand(784) + 5.0
    assert float((project(x, point, 0.25) - x).double().norm()) > 0.25 * (1 - 1e-5)
    assert float((project(x, point, 0.25, grid=4080) - x).double().norm()) > 0.25 * (1 - 1e-2)
    assert torch.equal(project(x, x + 1e-4, 0.25), x + 1e-4)
    assert torch.equal(project(x, torch.full((784,), torch.nan), 0.25), x)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: AttackBudget(steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda: AttackBudget(starts=True), "starts must be"),
        (lambda: attacked(torch.tanh, Lp(2), torch.zeros(3), -1.0), "eps_in must be a finite number of at least 0"),
        (lambda: attacked(torch.tanh, Lp(2), torch.zeros(3), math.inf), "eps_in must be"),
    ],
)
def test_bad_arguments_are_named(wrong: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        wrong()


# --- other norms --------------------------------------------------------------------------------------------------

MAP = torch.tensor([2.0, 0.5, 1.0, 0.25, 3.0, 1.0])
THREATS = {norm: Threat(norm, MAP if norm == "scaled-l2" else None) for norm in ("l2", "l1", "linf", "scaled-l2")}


def exact_length(norm: str, change: list[Fraction]) -> Fraction:
    """The norm, squared where it has a root, in exact arithmetic."""
    if norm == "l1":
        return sum(map(abs, change), Fraction(0))
    if norm == "linf":
        return max(map(abs, change))
    scales = map(Fraction, MAP.tolist()) if norm == "scaled-l2" else [Fraction(1)] * len(change)
    return sum(((each / scale) ** 2 for each, scale in zip(change, scales, strict=True)), Fraction(0))


@given(
    numbers=st.lists(st.floats(-8.0, 8.0, width=32), min_size=6, max_size=6),
    origin=st.lists(st.floats(-2.0, 2.0, width=32), min_size=6, max_size=6),
    eps_in=st.floats(1e-4, 9.0),
    norm=st.sampled_from(sorted(THREATS)),
    grid=st.sampled_from([None, 7, 4080]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16]),
)
@settings(max_examples=60)
def test_projections_are_inside_every_ball_in_exact_arithmetic(
    numbers: list[float], origin: list[float], eps_in: float, norm: str, grid: int | None, dtype: torch.dtype
) -> None:
    grid = None if norm == "scaled-l2" else grid
    dtype = dtype if grid is None else torch.float32
    x, point = torch.tensor(origin).to(dtype), torch.tensor(numbers).to(dtype)
    found = project(x, point, eps_in, grid=grid, threat=THREATS[norm])
    assert found.dtype == dtype
    assert THREATS[norm].length(found.double() - x.double()) <= eps_in or grid is not None
    if grid is not None:
        assert torch.equal((to_grid(found, grid).double() / grid).float(), found)
    if grid is None:
        change = [Fraction(a) - Fraction(b) for a, b in zip(found.tolist(), x.tolist(), strict=True)]
    else:
        change = [Fraction(step, grid) for step in (to_grid(found, grid) - to_grid(x, grid)).tolist()]
    power = 2 if norm.endswith("l2") else 1
    assert exact_length(norm, change) <= Fraction(eps_in) ** power
    inside = float(THREATS[norm].length(point.double() - x.double())) <= 0.99 * eps_in
    if inside and grid is None:
        assert torch.equal(found, point)
    elif grid is None and dtype is not torch.float16:
        assert THREATS[norm].length(found.double() - x.double()) > 0.99 * eps_in - 1e-5


def test_the_nearest_change_in_l1_norm_keeps_the_largest_numbers() -> None:
    change = torch.tensor([3.0, -1.0, 0.25, 0.0], dtype=torch.float64)
    assert Threat("l1").nearest(change, 2.0).tolist() == [2.0, 0.0, 0.0, 0.0]
    assert Threat("l1").nearest(change, 3.0).tolist() == [2.5, -0.5, 0.0, 0.0]
    assert Threat("linf").nearest(change, 0.5).tolist() == [0.5, -0.5, 0.25, 0.0]
    assert Threat("l1").nearest(change, 9.0) is change


GRADIENT = torch.tensor([0.3, -2.0, 1.0, 1.5, 0.2, -0.9])


@pytest.mark.parametrize(
    ("norm", "reached"),
    [
        ("l2", float(GRADIENT.norm())),
        ("l1", 2.0),
        ("linf", float(GRADIENT.abs().sum())),
        ("scaled-l2", float((GRADIENT * MAP).norm())),
    ],
)
def test_of_a_linear_function_it_finds_the_worst_change_in_each_norm(norm: str, reached: float) -> None:
    given = {"sigma_map": MAP} if norm == "scaled-l2" else {}
    matrix = torch.stack([GRADIENT, 0.1 * torch.eye(6)[0]], dim=1)  # of one number alone slopes are signs, which cancel
    smoother = CenterSmoother(
        lambda z: z @ matrix, Lp(2), sigma=0.25, budget=BUDGET, batch_size=64, threat=norm, **given
    )
    x = torch.linspace(-1.0, 1.0, 6)
    certificate = smoother.certify(x)
    found = attack(smoother, x, certificate, eps_in=0.1, budget=QUICK)
    for point in (found.perturbed, found.base_perturbed):
        assert smoother.outputs.threat.length(point.double() - x.double()) <= 0.1
    assert found.base_eps == pytest.approx(0.1 * reached, rel=0.03)  # without noise the slope is exact
    assert found.eps <= certificate.eps_out(0.1)
    assert not found.gradient_free


def test_under_uniform_noise_it_stays_in_the_l1_ball_without_gradients_too() -> None:
    budget = SmoothingBudget(n=400, m=800, noise="uniform")
    smoother = CenterSmoother(
        lambda z: ((z @ GRADIENT[:, None]) * 4.0).round(), Lp(2), sigma=0.5, budget=budget, batch_size=64
    )
    x = torch.zeros(6)
    found = attack(smoother, x, smoother.certify(x), eps_in=0.2, budget=QUICK)
    assert found.gradient_free
    change = found.perturbed.double() - x.double()
    assert float(change.abs().sum()) <= 0.2
    assert float(GRADIENT.double() @ change) > 0.5 * 0.2 * 2.0
