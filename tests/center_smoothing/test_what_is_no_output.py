"""What is no output is outside every ball, whatever the distance; and distances take care of what they are given."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from center_smoothing import (
    Angular,
    BoxJaccard,
    BoxSetMatching,
    CenterSmoother,
    Cosine,
    Disagreement,
    Distance,
    FeatureDistance,
    FunctionDistance,
    Hausdorff,
    Lp,
    MaskJaccard,
    MeanBudget,
    MeanSmoother,
    ObjectDistance,
    Perceptual,
    ProbabilityTV,
    SmoothingBudget,
    SquaredL2,
    Symmetrised,
    TotalVariation,
    Wasserstein1,
    check_distance,
)

X = torch.zeros(1)
BUDGETS = [SmoothingBudget(n=40, m=60, k=8, delta=0.45), SmoothingBudget(n=40, m=60, delta=0.45, method="paper")]
MEANS = MeanBudget(n=60, m=120, group=3)


class HalfLine(Distance):
    """A user's own: numbers below 0 are no outputs."""

    convex = True

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1).sqrt().square_()

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([(a - row).abs().sum(dim=1) for row in b], dim=1)


class Lists(ObjectDistance):
    """Of lists, which it uses up."""

    def key(self, output: list[int]) -> tuple[int, ...]:
        return tuple(output)

    def between(self, a: list[int], b: list[int]) -> float:
        return float(sum(abs(a.pop() - b.pop()) for _ in range(len(a))))


def largest(a: Tensor, b: Tensor) -> Tensor:
    return a.sub_(b).abs_().flatten(1).amax(dim=1)


def moved_in_place(z: Tensor) -> Tensor:
    return z.mul_(2.0).flatten(1)


SHAPES: list[tuple[Distance, tuple[int, ...]]] = [
    *((distance, (3,)) for distance in (Lp(1), Lp(1.5), Lp(2), Lp(3), Lp(math.inf), Angular(), Cosine(), SquaredL2())),
    *((distance, (2, 2, 2)) for distance in (TotalVariation(1), TotalVariation(2), MaskJaccard())),
    *((distance, (4,)) for distance in (BoxJaccard(), Wasserstein1(), ProbabilityTV(), HalfLine())),
    (Hausdorff(), (2, 3)),
    (BoxSetMatching(), (2, 4)),
    (Disagreement(), (2, 3)),
    (FeatureDistance(moved_in_place, Lp(2)), (3,)),
    (FeatureDistance(moved_in_place, Lp(3), affine=True), (3,)),
    (FeatureDistance(nn.Softmax(dim=1), ProbabilityTV()), (3,)),
    (Perceptual(nn.Identity()), (3,)),
    (FunctionDistance(largest, relaxation=1), (3,)),
    (Symmetrised(SquaredL2()), (3,)),
    (Symmetrised(largest, relaxation=1, averages=True), (3,)),
    (Symmetrised(Wasserstein1(), convex=True), (3,)),
]


@pytest.mark.parametrize(("distance", "shape"), SHAPES, ids=[repr(distance) for distance, _ in SHAPES])
def test_without_one_output_every_smoother_abstains(distance: Distance, shape: tuple[int, ...]) -> None:
    def model(x: Tensor) -> Tensor:
        bad = torch.tensor([math.nan, math.inf, -math.inf])[torch.arange(len(x)) % 3]
        return bad.reshape(-1, *[1] * len(shape)).expand(-1, *shape)

    for budget in BUDGETS:
        smoother = CenterSmoother(model, distance, sigma=1.0, budget=budget, batch_size=64)
        for output in (smoother.smooth(X), smoother.certify(X)):
            assert output.abstained
            assert bool(torch.isfinite(output.center).all())
    if distance.convex:
        certificate = MeanSmoother(model, distance, sigma=1.0, budget=MEANS, bound=1.0, batch_size=64).certify(X)
        assert (certificate.abstained, certificate.eps_out(0.1)) == (True, math.inf)


def test_a_model_without_objects_abstains_and_its_center_can_be_decoded() -> None:
    distance = Lists()
    distance.encode([[1, 2]])  # of another input
    for budget in BUDGETS:
        output = CenterSmoother(lambda x: [None] * len(x), distance, sigma=1.0, budget=budget).smooth(X)
        assert output.abstained
        assert distance.decode(output.center) is None


def uniform_or(other: list[float]) -> Callable[[Tensor], Tensor]:
    """(1/2, 1/2), and something else at a quarter of the noisy inputs."""

    def model(x: Tensor) -> Tensor:
        return torch.where(x < 0.67, torch.tensor([0.5, 0.5]), torch.tensor(other))

    return model


NONE = [
    (ProbabilityTV(), [0.0, 0.0]),
    (Wasserstein1(), [0.0, 0.0]),
    (Symmetrised(ProbabilityTV(), convex=True), [0.0, 0.0]),
    (FeatureDistance(lambda z: z.double(), Wasserstein1(), affine=True), [0.0, 0.0]),
    (FeatureDistance(lambda z: z, Lp(2), affine=True, dtype=torch.float16), [7e4, 0.0]),
    (HalfLine(), [-1.0, 0.5]),
]


@pytest.mark.parametrize(("distance", "none"), NONE, ids=[repr(distance) for distance, _ in NONE])
def test_finite_numbers_that_are_no_output_are_counted_as_none(distance: Distance, none: list[float]) -> None:
    z = torch.tensor([[0.5, 0.5], none])
    assert distance.are_outputs(z).tolist() == [True, False]
    assert distance.pairwise(z, z).tolist() == [[0.0, math.inf], [math.inf, math.inf]]
    assert check_distance(distance, z.repeat(4, 1)).num_outputs == 4
    model = uniform_or(none)
    for budget in (SmoothingBudget(n=200, m=400, k=16), SmoothingBudget(n=200, m=400, delta=0.3, method="paper")):
        certificate = CenterSmoother(model, distance, sigma=1.0, budget=budget, batch_size=64).certify(X)
        assert certificate.center.tolist() == [0.5, 0.5]
        assert math.isinf(certificate.distances[-1])
        assert certificate.distances[len(certificate.distances) // 2] < 1e-15
    for group in (1, 3):
        means = MeanSmoother(model, distance, sigma=1.0, budget=MeanBudget(n=60, m=600, group=group), bound=2.0)
        assert means.smooth(X).abstained
        rarely = MeanSmoother(model, distance, sigma=0.2, budget=MeanBudget(n=60, m=12_000, group=group), bound=2.0)
        certificate_of_mean = rarely.certify(X)
        assert not certificate_of_mean.abstained
        assert math.isinf(certificate_of_mean.distances[-1]) or certificate_of_mean.distances[-1] == 2.0


def test_a_broken_bound_is_not_answered_by_what_the_distance_refuses() -> None:
    model = uniform_or([1.0, 0.0])
    for distance, advised in [(ProbabilityTV(), False), (Wasserstein1(), False), (Lp(1), True)]:
        with pytest.raises(ValueError, match=r"bound must be at least every distance .* give a bound") as found:
            MeanSmoother(model, distance, sigma=1.0, budget=MEANS, bound=1e-3).certify(X)
        assert ("clip_norm" in str(found.value)) == advised


@pytest.mark.parametrize(("dtype", "large"), [(torch.float16, 7e4), (torch.float32, 1e39), (torch.bfloat16, 3.5e38)])
@pytest.mark.parametrize("inner", [Lp(2), Lp(1), Angular(), SquaredL2(), MaskJaccard()], ids=repr)
def test_features_of_what_overflows_are_far_away(dtype: torch.dtype, large: float, inner: Distance) -> None:
    distance = FeatureDistance(lambda z: z, inner, dtype=dtype)
    z = torch.tensor([[large], [-large], [0.0], [1.0]], dtype=torch.float64)
    assert torch.isfinite(distance.pairwise(z, z)).any(dim=1).tolist() == [False, False, True, True]
    assert bool(distance.features(z)[:2].isnan().all())


def test_weights_that_overflow_are_refused() -> None:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 1e6)
    with pytest.raises(ValueError, match=r"dtype must hold the weights of phi, got torch\.float16"):
        FeatureDistance(layer, Lp(2), dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_large_features_keep_their_direction(dtype: torch.dtype) -> None:
    large = {torch.float16: 3e4, torch.float32: 1e30, torch.float64: 1e300}[dtype]
    z = torch.tensor([[large, 0.0], [0.0, large], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 2.0, 0.0, 1.0], [2.0, 0.0, 2.0, 1.0]], dtype=torch.float64)
    found = Perceptual(nn.Identity(), dtype=dtype).pairwise(z[:2], z)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("outputs", [torch.ones(2, 2, dtype=torch.complex64), torch.tensor([[2**53 + 1], [0]])])
def test_numbers_that_float64_does_not_hold_are_refused(outputs: Tensor) -> None:
    with pytest.raises(ValueError, match=r"outputs must be (real numbers|numbers that float64 holds), got torch"):
        Lp(2)(outputs, outputs)
    with pytest.raises(ValueError, match="phi must return numbers that float64 holds"):
        FeatureDistance(lambda z: outputs[:1].expand(len(z), -1), Lp(2)).embed(torch.ones(1, 1))


IN_PLACE = [
    FunctionDistance(largest, relaxation=1),
    Symmetrised(largest, relaxation=1),
    FeatureDistance(moved_in_place, Lp(2)),
]


@pytest.mark.parametrize("distance", IN_PLACE, ids=repr)
def test_a_function_may_work_in_place(distance: Distance) -> None:
    known = Lp(2) if isinstance(distance, FeatureDistance) else Lp(math.inf)
    factor = 2.0 if isinstance(distance, FeatureDistance) else 1.0
    z = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = z.clone()
    torch.testing.assert_close(distance.pairwise(z, z), factor * known.pairwise(z, z))
    torch.testing.assert_close(distance(z, z.flip(0)), factor * known(z, z.flip(0)))
    assert check_distance(distance, z).passed
    assert torch.equal(z, before)


def test_objects_may_be_used_up() -> None:
    distance, lists = Lists(), [[1, 2], [3, 5], [9, 9]]
    numbers = distance.encode(lists)
    lists[0].append(7)
    expected = [[0.0, 5.0, 15.0], [5.0, 0.0, 10.0], [15.0, 10.0, 0.0]]
    assert distance.pairwise(numbers, numbers).tolist() == expected
    distance.decode(numbers[0]).clear()
    assert distance.decode(numbers[0]) == [1, 2]


def test_a_class_that_changes_what_it_compares_is_refused() -> None:
    class InPlace(Distance):
        def _embed(self, z: Tensor) -> Tensor:
            return z.mul_(3.0)

        def _compare(self, a: Tensor, b: Tensor) -> Tensor:
            return a.sub_(b[:1]).abs().sum(dim=1, keepdim=True)

    z = torch.ones(2, 3, dtype=torch.float64)
    assert InPlace().embed(z).tolist() == [[3.0] * 3] * 2
    assert z.tolist() == [[1.0] * 3] * 2  # embedded in a tensor of its own
    with pytest.raises(ValueError, match=r"InPlace\(\) must leave the outputs that it compares as they are"):
        InPlace().pairwise(z, z[:1])
    with torch.inference_mode():
        assert Lp(1).pairwise(torch.ones(1, 2), torch.zeros(1, 2)).tolist() == [[2.0]]


SMALL = [1.0, 1e-100, 1e-150, 1e-158, 1e-170, 1e-200, 1e-300, 1e100, 1e150, 1e200, 1e300]


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 7, math.inf])
def test_norms_of_any_size(p: float) -> None:
    a = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    for size in SMALL:
        b = torch.tensor([[3 * size, -4 * size, 1.0]], dtype=torch.float64)
        expected = 4.0 * size if math.isinf(p) else (3.0**p + 4.0**p) ** (1.0 / p) * size
        never_too_small(Lp(p), a, b, expected)


@pytest.mark.parametrize("size", SMALL)
def test_other_roots_of_squares_of_any_size(size: float) -> None:
    image = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    image[0, :, 0, 0] = torch.tensor([3 * size, 4 * size], dtype=torch.float64)
    never_too_small(TotalVariation(2), image, torch.zeros_like(image), 5 * size)
    points = torch.tensor([[[0.0, 0.0, 1.0], [7.0, 0.0, 0.0]], [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]).double()
    points[1, 0, :2] = torch.tensor([3 * size, 4 * size], dtype=torch.float64)
    never_too_small(Hausdorff(), points[:1], points[1:], 5 * size)
    beside = torch.tensor([[1.0, size]], dtype=torch.float64)
    along = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    never_too_small(Angular(), along, beside, math.atan(size) / math.pi)
    for squared, expected in ((SquaredL2(), size**2 if size < 1e151 else math.inf), (Cosine(), cosine(size))):
        if expected >= 2.0**-1022:
            never_too_small(squared, along, beside, expected)


def cosine(slope: float) -> float:
    """1 - cos(atan(slope)) without cancellation."""
    return 2.0 * math.sin(math.atan(slope) / 2.0) ** 2


def never_too_small(distance: Distance, a: Tensor, b: Tensor, expected: float) -> None:
    """As expected; overflow gives inf, which promises nothing."""
    for found in (distance(a, b).item(), distance.pairwise(a, b).item(), distance.pairwise(b, a).item()):
        assert found == pytest.approx(expected, rel=1e-12, abs=0.0) or (math.isinf(found) and expected > 1e150)


def test_a_function_that_declares_nothing_is_named_once() -> None:
    def undeclared(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().sum(dim=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            CenterSmoother(torch.relu, undeclared, sigma=1.0)
            FeatureDistance(torch.relu, undeclared)
    assert [warning.category for warning in caught] == [UserWarning]
    assert "undeclared declares no relaxation and is taken for a metric, gamma = 1" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FunctionDistance(undeclared, relaxation=1)
        Symmetrised(undeclared, relaxation=1)
        check_distance(undeclared, torch.arange(3.0)[:, None])
        undeclared.relaxation = 1  # type: ignore[attr-defined]
        CenterSmoother(torch.relu, undeclared, sigma=1.0)


def test_less_than_is_declared_is_refused() -> None:
    def squares(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().sum(dim=1)

    squares.relaxation = 2.0  # type: ignore[attr-defined]
    for make in (
        lambda: Symmetrised(SquaredL2(), relaxation=1.0),
        lambda: Symmetrised(FeatureDistance(torch.relu, Cosine()), "sum", relaxation=1.9),
        lambda: Symmetrised(squares, relaxation=1),
        lambda: FunctionDistance(squares, relaxation=1.5),
        lambda: FunctionDistance(SquaredL2(), relaxation=1.0),
    ):
        with pytest.raises(ValueError, match=r"relaxation must be at least 2, which .* declares, got 1"):
            make()
    assert Symmetrised(SquaredL2(), relaxation=3.0).relaxation == 3.0
