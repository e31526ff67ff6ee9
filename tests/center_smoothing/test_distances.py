"""What every distance keeps to, and total variation, l_p and angular distances against other ways to compute them."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import directed_hausdorff
from torch import Tensor

from center_smoothing import (
    Angular,
    BoxJaccard,
    BoxSetMatching,
    Cosine,
    Disagreement,
    Distance,
    FeatureDistance,
    FunctionDistance,
    Hausdorff,
    Lp,
    MaskJaccard,
    ProbabilityTV,
    SquaredL2,
    Symmetrised,
    TotalVariation,
    Wasserstein1,
)
from center_smoothing.distances import base, hausdorff
from center_smoothing.distances.axioms import needed_relaxation

Rng = np.random.Generator


class Plain(Distance):
    """The l1 distance as a user may write it: all with all, and nothing else."""

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] - b[None]).abs().sum(dim=2)


def halved(z: Tensor) -> Tensor:
    return z.flatten(1) / 2.0


def largest(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().flatten(1).amax(dim=1)


VECTOR_DISTANCES = [Lp(1), Lp(1.5), Lp(2), Lp(3), Lp(math.inf), Angular(), MaskJaccard(), Cosine(), SquaredL2()]
IMAGE_DISTANCES = [TotalVariation(1), TotalVariation(2)]
DISTANCES = [*VECTOR_DISTANCES, *IMAGE_DISTANCES, Plain(), Symmetrised(SquaredL2(), "sum"), Disagreement()]
OF_FEATURES = FeatureDistance(halved, Cosine(), dtype=torch.float64)
OF_A_FUNCTION = FunctionDistance(largest, relaxation=1)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pair(x: float, y: float) -> Tensor:
    return torch.tensor([[x, y]], dtype=torch.float64)


def numbers(rng: Rng, *shape: int) -> np.ndarray:
    """Whole numbers, large ones and small ones."""
    kinds = [rng.integers(-3, 4, shape), rng.uniform(-1e6, 1e6, shape), rng.uniform(-1e-6, 1e-6, shape)]
    return np.choose(rng.integers(3, size=shape), kinds)


def of_vectors(rng: Rng, count: int) -> np.ndarray:
    return numbers(rng, count, *[(1,), (3,), (2, 2)][rng.integers(3)])


def of_images(rng: Rng, count: int) -> np.ndarray:
    return numbers(rng, count, *[(1, 3, 2), (2, 2, 2), (3, 1, 3)][rng.integers(3)])


def of_boxes(rng: Rng, *shape: int) -> np.ndarray:
    """Mostly true boxes, that touch, are nested or are equal more often than by chance; some are none."""
    kinds = [rng.integers(-3, 4, (*shape, 4)), 1.0 + rng.integers(4, size=(*shape, 4)) * 2.0**-52]
    z = np.choose(rng.integers(2, size=(*shape, 1)), kinds)
    true = np.concatenate([np.minimum(z[..., :2], z[..., 2:]), np.maximum(z[..., :2], z[..., 2:])], axis=-1)
    return np.where(rng.random((*shape, 1)) < 0.8, true, z)


def of_box_sets(rng: Rng, count: int) -> np.ndarray:
    return of_boxes(rng, count, int(rng.integers(1, 5)))


def of_large_box_sets(rng: Rng, count: int) -> np.ndarray:
    return of_boxes(rng, count, 7)


def of_points(rng: Rng, count: int) -> np.ndarray:
    z = numbers(rng, count, int(rng.integers(1, 5)), int(rng.integers(2, 5)))
    z[..., -1] = rng.random(z.shape[:2]) < 0.5
    return z


def of_labels(rng: Rng, count: int) -> np.ndarray:
    return rng.choice([0.0, -0.0, 0.1, 0.1 + 2.0**-55, 5e-324, 1e300, -1e300], (count, 2, 3))


def of_masses(rng: Rng, count: int) -> np.ndarray:
    masses = rng.random((count, 5)) * (rng.random((count, 5)) < 0.5) + 1e-3
    return masses / masses.sum(axis=1, keepdims=True)


# Every distance with the outputs that are its own: (N, *out) of a random shape.
OUTPUTS: list[tuple[Distance, Callable[[Rng, int], np.ndarray]]] = [
    *((distance, of_vectors) for distance in (*VECTOR_DISTANCES, Plain(), DISTANCES[-2], OF_FEATURES, OF_A_FUNCTION)),
    *((distance, of_images) for distance in IMAGE_DISTANCES),
    (BoxJaccard(), of_boxes),
    *((BoxSetMatching(), make) for make in (of_box_sets, of_large_box_sets)),
    *((Hausdorff(largest), of_points) for largest in (math.inf, 10.0)),
    (Disagreement(), of_labels),
    *((distance, of_masses) for distance in (ProbabilityTV(), Wasserstein1(0.25))),
]
each_distance = pytest.mark.parametrize("distance", DISTANCES, ids=repr)
name = lambda value: repr(value) if isinstance(value, Distance) else value.__name__  # noqa: E731
each_with_outputs = pytest.mark.parametrize(("distance", "make"), OUTPUTS, ids=name)


@pytest.fixture(params=["at once", "later"])
def known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are known at once, as on the CPU, or are not waited for, as elsewhere."""
    monkeypatch.setattr(base, "_known_at_once", lambda mask: request.param == "at once")


@each_with_outputs
def test_axioms(distance: Distance, make: Callable[[Rng, int], np.ndarray]) -> None:
    for seed in range(8):
        z = torch.from_numpy(make(np.random.default_rng(seed), 12))
        z[1] = z[0]
        if make in (of_vectors, of_images):
            z[2], z[3], z[4], z[5] = z[0] * (1 + 1e-12), -3.0 * z[0], (z[0] + z[6]) / 2.0, 0.0
        d, other = distance.pairwise(z, z), z.flip(0)
        assert bool((d >= 0.0).all())
        assert bool(torch.isfinite(d).all()) or distance.__dict__.get("largest") == math.inf
        assert d.diagonal().tolist() == [0.0] * 12
        torch.testing.assert_close(d, d.T, rtol=1e-12, atol=0.0)
        assert needed_relaxation(d)[0] <= distance.relaxation * (1 + 1e-9)
        pairwise, embedded = distance.pairwise(z, other), distance.embed(z)
        assert torch.equal(pairwise, distance.compare(embedded, distance.embed(other)))
        torch.testing.assert_close(distance(z, other), pairwise.diagonal(), rtol=1e-14, atol=0.0)
        torch.testing.assert_close(distance(other, z), distance(z, other), rtol=1e-12, atol=0.0)
        assert distance.paired(embedded, embedded).tolist() == [0.0] * 12
        assert distance.paired(embedded, embedded).dtype == d.dtype == torch.float64


@each_with_outputs
def test_an_output_depends_on_no_other_and_one_that_is_not_finite_is_infinitely_far_from_all(
    distance: Distance, make: Callable[[Rng, int], np.ndarray]
) -> None:
    z = torch.from_numpy(make(np.random.default_rng(0), 20))
    whole, paired, left = distance.pairwise(z, z), distance(z, z.flip(0)), z.clone()
    for step in (1, 7):
        assert torch.equal(torch.cat([distance.pairwise(part, z) for part in z.split(step)]), whole)
        assert torch.equal(torch.cat([distance.pairwise(z, part) for part in z.split(step)], dim=1), whole)
        pairs = zip(z.split(step), z.flip(0).split(step), strict=True)
        assert torch.equal(torch.cat([distance(*parts) for parts in pairs]), paired)
    for bad, position in ((math.nan, 0), (math.inf, -1), (-math.inf, z[0].numel() // 2)):
        z = left.clone()
        z[1].view(-1)[position] = bad
        rows = torch.arange(20) == 1
        assert torch.equal(distance.pairwise(z, z), whole.masked_fill(rows | rows[:, None], torch.inf))
        assert torch.equal(distance(z, z.flip(0)), paired.masked_fill(rows | rows.flip(0), torch.inf))
        assert distance.are_outputs(z).tolist() == (~rows).tolist()
        torch.testing.assert_close(z[~rows], left[~rows], rtol=0.0, atol=0.0)  # nothing is done in place
    assert distance.pairwise(z[:0], z).shape == (0, 20)
    assert distance.pairwise(z, z[:0]).shape == (20, 0)
    assert distance(z[:0], z[:0]).shape == (0,)


CONVEX = [(distance, make) for distance, make in OUTPUTS if distance.convex]


@pytest.mark.parametrize(("distance", "make"), CONVEX, ids=name)
def test_convex_distances_are_convex_of_their_degree(
    distance: Distance, make: Callable[[Rng, int], np.ndarray]
) -> None:
    assert {type(each).__name__ for each, _ in CONVEX} == set(
        ["Lp", "SquaredL2", "TotalVariation", "ProbabilityTV", "Wasserstein1"]
    )
    for seed in range(5):
        a, b, c = torch.from_numpy(make(np.random.default_rng(seed), 30)).chunk(3)
        share = torch.linspace(0.0, 1.0, 10, dtype=torch.float64)
        s = share.reshape(-1, *[1] * (a.ndim - 1))
        to_a, to_b, slack = distance(c, a), distance(c, b), 1e-12
        most = share * to_a + (1 - share) * to_b
        assert bool((distance(c, s * a + (1 - s) * b) <= most + slack * (to_a + to_b)).all())
        assert bool((distance(c, c + s * (a - c)) <= share**distance.degree * to_a + slack * to_a).all())
        mean = distance(torch.cat([a, b]).mean(dim=0, keepdim=True), c[:1])
        assert float(mean) <= float(distance.pairwise(torch.cat([a, b]), c[:1]).mean()) * (1 + slack)


def points_of(z: Tensor) -> np.ndarray:
    return z[z[:, -1] > 0.5, :-1].numpy()


def slow_hausdorff(a: Tensor, b: Tensor, largest: float = math.inf) -> float:
    x, y = points_of(a), points_of(b)
    if len(x) == 0 or len(y) == 0:
        return 0.0 if len(x) == len(y) else largest
    return min(largest, max(directed_hausdorff(x, y)[0], directed_hausdorff(y, x)[0]))


@pytest.mark.parametrize("largest", [math.inf, 10.0, 1e-3])
def test_hausdorff_is_that_of_scipy(largest: float) -> None:
    for seed in range(10):
        z = torch.from_numpy(of_points(np.random.default_rng(seed), 8))
        expected = [[slow_hausdorff(a, b, largest) for b in z] for a in z]
        np.testing.assert_allclose(Hausdorff(largest).pairwise(z, z), expected, rtol=1e-12, atol=1e-12)


def test_an_empty_set_nearer_than_half_of_the_largest_would_break_it() -> None:
    z = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]], [[9.0, 1.0]]])
    d = Hausdorff(8.0).pairwise(z, z)
    assert d.tolist() == [[0.0, 8.0, 8.0], [8.0, 0.0, 8.0], [8.0, 8.0, 0.0]]
    d[1, ::2] = d[::2, 1] = 3.0
    assert needed_relaxation(d)[0] > 1.0


def test_filling_order_and_repetitions_do_not_matter() -> None:
    a = torch.tensor([[[1.0, 2.0, 1.0], [3.0, 4.0, 1.0], [9.0, 9.0, 0.0]]])
    b = torch.tensor([[[3.0, 4.0, 1.0], [1.0, 2.0, 1.0], [3.0, 4.0, 1.0]]])
    assert Hausdorff()(a, b).item() == 0.0
    assert Hausdorff()(a, a + torch.tensor([0.0, 5.0, 0.0])).item() == 5.0


def test_blocks_of_sets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(20, 5, 3, generator=torch.Generator().manual_seed(0))
    whole, paired = Hausdorff().pairwise(z, z), Hausdorff()(z, z.flip(0))
    monkeypatch.setattr(hausdorff, "_BLOCK_NUMBERS", 60)
    assert torch.equal(Hausdorff().pairwise(z, z), whole)
    assert torch.equal(Hausdorff()(z, z.flip(0)), paired)


def naive_total_variation(a: np.ndarray, b: np.ndarray, p: int) -> float:
    """Loops over the pixels of two (C, H, W) images, with one norm per pair of neighbours."""
    v = a - b
    _, height, width = v.shape
    total = 0.0
    for i in range(height):
        for j in range(width):
            for below, right in ((1, 0), (0, 1)):
                if i + below < height and j + right < width:
                    pair = [abs(float(c[i, j] - c[i + below, j + right])) for c in v]
                    total += sum(pair) if p == 1 else math.sqrt(sum(x * x for x in pair))
    return total


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 5, 1), (1, 6, 4), (3, 5, 7)])
def test_total_variation_equals_a_loop_over_pixels(p: int, shape: tuple[int, ...]) -> None:
    a, b = noise(4, *shape, seed=1), noise(3, *shape, seed=2)
    expected = [[naive_total_variation(x.numpy(), y.numpy(), p) for y in b] for x in a]
    np.testing.assert_allclose(TotalVariation(p).pairwise(a, b).numpy(), expected, rtol=1e-13)


def test_total_variation_by_hand() -> None:
    image = torch.zeros(1, 2, 2, 2)
    image[0, 0, 0, 0], image[0, 1, 0, 0] = 3.0, 4.0  # two pairs of neighbours differ by (3, 4)
    assert [TotalVariation(p)(image, torch.zeros_like(image)).item() for p in (1, 2)] == [14.0, 10.0]
    assert TotalVariation(1)(image, image + 7.0).item() == 0.0
    grey, other = noise(2, 1, 4, 5, seed=1), noise(2, 1, 4, 5, seed=2)
    for p in (1, 2):
        assert torch.equal(TotalVariation(p)(grey[:, 0], other[:, 0]), TotalVariation(1)(grey, other))


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
def test_lp_equals_the_vector_norm_at_every_scale(p: float) -> None:
    a, b = noise(4, 2, 3, seed=1), noise(5, 2, 3, seed=2)
    difference = (a[:, None] - b[None]).flatten(2)
    for scale in (1e-200, 1.0, 1e30):
        expected = torch.linalg.vector_norm(difference, ord=p, dim=2) * scale
        torch.testing.assert_close(Lp(p).pairwise(a * scale, b * scale), expected, rtol=1e-12, atol=0.0)


def test_lp_by_hand() -> None:
    a, b = torch.tensor([[1.0, -2.0, 2.0]]), torch.zeros(1, 3)
    assert [Lp(p)(a, b).item() for p in (1, 2, math.inf)] == [5.0, 3.0, 2.0]
    assert Lp(3)(a, b).item() == pytest.approx(17 ** (1 / 3), rel=1e-14)
    assert SquaredL2()(a, b).item() == pytest.approx(9.0, rel=1e-14)


@pytest.mark.parametrize("distance", [SquaredL2(), Cosine()], ids=repr)
def test_no_smaller_relaxation_would_do(distance: Distance) -> None:
    line = torch.tensor([[1.0, -1e-3], [1.0, 0.0], [1.0, 1e-3]], dtype=torch.float64)
    assert needed_relaxation(distance.pairwise(line, line))[0] == pytest.approx(2.0, rel=1e-5)
    assert distance.relaxation == 2.0


def test_known_angles() -> None:
    for degrees in (0.0, 30.0, 60.0, 90.0, 120.0, 180.0):
        radians = math.radians(degrees)
        a, b = pair(2.0, 0.0), pair(5 * math.cos(radians), 5 * math.sin(radians))
        assert Angular()(a, b).item() == pytest.approx(degrees / 180, abs=1e-15)
        assert Cosine()(a, b).item() == pytest.approx(1.0 - math.cos(radians), rel=1e-13, abs=1e-30)
    first, second = noise(6, 2, 3, seed=1), noise(6, 2, 3, seed=2)
    expected = torch.cosine_similarity(first.flatten(1), second.flatten(1)).acos() / math.pi
    torch.testing.assert_close(Angular()(first, second), expected, rtol=1e-12, atol=0.0)
    for distance, right_angle in ((Angular(), 0.5), (Cosine(), 1.0)):
        found = distance.pairwise(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [1.0, 2.0], [-1e-30, 0.0]]))
        assert found.tolist() == [[0.0, pytest.approx(right_angle), pytest.approx(right_angle)]]


def test_angles_keep_their_digits_for_nearly_parallel_and_nearly_opposite_vectors() -> None:
    for angle in (10.0**log_angle for log_angle in range(-15, -1)):
        a, b = pair(1.0, 0.0), pair(math.cos(angle), math.sin(angle))
        assert Angular()(a, b).item() == pytest.approx(angle / math.pi, rel=1e-12)
        assert Angular()(-a, b).item() == pytest.approx(1.0 - angle / math.pi, rel=1e-12)
        assert Cosine()(a, b).item() == pytest.approx(2.0 * math.sin(angle / 2.0) ** 2, rel=1e-12)
    first = noise(5000, 5)
    second = -3.0 * first
    third = second + 1e-7 * noise(5000, 5, seed=1)
    assert float((Angular()(first, second) - Angular()(first, third) - Angular()(third, second)).max()) <= 1e-9


def test_angular_does_not_depend_on_the_scale() -> None:
    a, b = noise(4, 3, seed=1), noise(4, 3, seed=2)
    expected = Angular()(a, b)
    for scale in (1e-320, 1e-300, 1e-38, 1e38, 1e300, 1e307):
        rtol = 1e-2 if scale < 1e-307 else 1e-12  # numbers that small have few digits
        torch.testing.assert_close(Angular()(a * scale, b), expected, rtol=rtol, atol=0.0)
        torch.testing.assert_close(Angular().pairwise(b, a * scale).diagonal(), expected, rtol=rtol, atol=0.0)


@pytest.mark.usefixtures("threads")
@each_distance
@pytest.mark.parametrize(
    ("threads", "shape"), [(1, (37, 1, 2, 3)), (2, (37, 3, 5, 7)), (2, (9, 3, 110, 110))], indirect=["threads"]
)
def test_a_distance_does_not_depend_on_its_neighbours_in_a_batch(distance: Distance, shape: tuple[int, ...]) -> None:
    first, second = noise(*shape, seed=1), noise(*shape, seed=2)
    last = len(first) - 1  # enough numbers for both threads to add up one output
    first[[3, 4, last]] = second[[3, 4, last]]
    second[5], second[6], second[7] = first[5] * (1 + 1e-15), 1e-160, -first[7]
    first[2] = torch.nan
    a, b = distance.embed(first), distance.embed(second)
    whole, some = distance.paired(a, b), distance.compare(a, b[:3])
    assert whole[[3, 4, last]].tolist() == [0.0, 0.0, 0.0]
    assert whole[2] == math.inf
    for step in (1, 7, 8, 32) if len(first) > 9 else (1, 8):
        parts = [distance.paired(x, y) for x, y in zip(a.split(step), b.split(step), strict=True)]
        assert torch.equal(torch.cat(parts), whole)
        assert torch.equal(torch.cat([distance.compare(part, b[:3]) for part in a.split(step)]), some)
    assert torch.equal(torch.cat([distance.compare(a, part) for part in b[:3].split(1)], dim=1), some)


@each_distance
def test_calls_for_paired_distances_are_fewer_than_the_pairs(
    distance: Distance, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = type(distance)._compare

    def compare(self: Distance, a: Tensor, b: Tensor) -> Tensor:
        calls.append(len(a))
        return original(self, a, b)

    monkeypatch.setattr(type(distance), "_compare", compare)
    z = noise(800, 1, 2, 2)
    assert distance(z, z + 1.0).shape == (800,)
    assert len(calls) <= 100


def far_and_near() -> Tensor:
    """Equal, nearly equal, nearly opposite, tiny and huge vectors."""
    z = noise(9, 4, seed=3)
    z[1] = z[0]
    z[2] = z[0] * (1 + 1e-12)
    z[3], z[4] = -z[0] * 3.0, -z[0] + 1e-9 * z[5]
    z[6], z[7] = z[6] * 1e-200, z[6] * 2e-200
    z[8] = torch.tensor([1e30, 1e-200, 0.0, 0.0], dtype=torch.float64)
    return torch.cat([z, z[8:] + torch.tensor([[0.0, 1e-200, 5e-200, -5e-324]], dtype=torch.float64)])


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("distance", [Lp(2), Angular()], ids=repr)
def test_digits_are_the_same_where_nothing_is_waited_for(distance: Distance, monkeypatch: pytest.MonkeyPatch) -> None:
    z = distance.embed(far_and_near())
    d, paired = distance.compare(z, z), torch.stack([distance.paired(z, z.roll(-shift, 0)) for shift in range(len(z))])
    assert d.diagonal().tolist() == [0.0] * len(z)
    monkeypatch.setattr(base, "_known_at_once", lambda mask: mask.is_cpu)
    assert torch.equal(d, distance.compare(z, z))
    rows = torch.arange(len(z))
    assert torch.equal(paired, torch.stack([d[rows, (rows + shift) % len(z)] for shift in range(len(z))]))


@pytest.mark.parametrize("distance", [*DISTANCES[:-1], BoxJaccard()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_nothing_waits_for_a_device(distance: Distance, dtype: torch.dtype) -> None:
    # on the device "meta" there are shapes and no numbers: whoever asks for one gets an error
    shape = (4,) if isinstance(distance, BoxJaccard) else (3, 4, 4)
    a, b = (distance.embed(torch.empty(count, *shape, dtype=dtype, device="meta")) for count in (20, 7))
    assert distance.compare(a, b).shape == (20, 7)
    assert distance.paired(a, a).shape == (20,)
    if distance.averages:
        assert distance.averages_of_tuples(torch.empty(5, 3, *shape, dtype=dtype, device="meta")).shape == (5, *shape)


def test_waiting_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_known_at_once", lambda mask: True)
    with pytest.raises((RuntimeError, NotImplementedError)):
        Lp(2).embed(torch.empty(3, 4, device="meta"))


@pytest.mark.usefixtures("known")
def test_l2_keeps_its_digits_beside_large_coordinates() -> None:
    z = far_and_near()
    expected = 1e-200 * math.sqrt(1 + 25)
    assert Lp(2).pairwise(z[8:9], z[9:]).item() == pytest.approx(expected, rel=1e-15)
    assert Lp(2)(z[8:9], z[9:]).item() == pytest.approx(expected, rel=1e-15)
    assert Lp(2)(pair(0.0, 0.0), pair(3 * 5e-324, 4 * 5e-324)).item() == 5 * 5e-324


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("distance", [*DISTANCES, BoxJaccard()], ids=repr)
def test_a_non_finite_output_is_marked_where_nothing_is_waited_for(distance: Distance) -> None:
    z = noise(3, 4) if isinstance(distance, BoxJaccard) else noise(3, 1, 2, 2)
    copy = z.clone()
    assert not bool(torch.isnan(distance.embed(z)).any())
    z[1].view(-1)[2] = math.inf
    embedded = distance.embed(z)
    assert torch.isnan(embedded.flatten(1)).all(dim=1).tolist() == [False, True, False]
    assert torch.equal(embedded[::2], distance.embed(copy)[::2])
    assert torch.equal(z[::2], copy[::2])
    assert distance.paired(embedded, embedded).tolist() == [0.0, math.inf, 0.0]


@each_distance
def test_overflow_is_far_away_and_not_nan(distance: Distance) -> None:
    z = torch.tensor([1e308, -1e308, 1e308, -1e308]).double().reshape(1, 1, 2, 2)
    assert not bool(torch.isnan(distance.pairwise(torch.cat([z, -z]), torch.cat([z, -z]))).any())


@each_distance
def test_short_floats_are_compared_in_float64_and_mixed_precision_does_not_reach_them(distance: Distance) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        a, b = noise(9, 3, 4, 4, seed=1, dtype=dtype), noise(9, 3, 4, 4, seed=2, dtype=dtype)
        pairwise, paired = distance.pairwise(a, b), distance(a, b)
        assert pairwise.dtype == paired.dtype == torch.float64
        assert torch.equal(pairwise, distance.pairwise(a.double(), b.double()))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(distance.pairwise(a, b), pairwise)
            assert torch.equal(distance(a, b), paired)


@each_with_outputs
def test_a_distance_prints_as_one_would_type_it(distance: Distance, make: object) -> None:
    named = {type(distance).__name__: type(distance) for distance, _ in OUTPUTS}
    if not isinstance(distance, FeatureDistance | FunctionDistance):
        again = eval(repr(distance), {**named, "inf": math.inf})
        assert type(again) is type(distance)
        assert repr(again) == repr(distance)
    assert "0x" not in repr(distance)


@pytest.mark.parametrize("distance", [Lp(), Angular(), *IMAGE_DISTANCES], ids=repr)
def test_outputs_average_to_their_mean_and_median(distance: Distance) -> None:
    for dtype, count in ((torch.float16, 5), (torch.float32, 1), (torch.float64, 2), (torch.float64, 6)):
        z = noise(count, 2, 3, 4, dtype=dtype)
        mean, median = distance.averages_of(z)
        assert mean.dtype == median.dtype == dtype
        rtol = 1e-2 if dtype == torch.float16 else 1e-5
        np.testing.assert_allclose(mean.double(), z.double().numpy().mean(axis=0), rtol=rtol, atol=1e-3 * rtol)
        np.testing.assert_allclose(median.double(), np.median(z.double().numpy(), axis=0), rtol=rtol, atol=1e-3 * rtol)


class Samples(Lp):
    """Lp of outputs that cannot be averaged."""

    averages = False


def test_outputs_that_cannot_be_averaged_have_no_averages() -> None:
    z = noise(3, 2, 2)
    for distance, outputs in ((Samples(), z), (Lp(), z.long()), (Lp(), z > 0.0)):
        assert distance.averages_of(outputs).shape == (0, 2, 2)
        assert distance.averages_of(outputs).dtype == outputs.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(33, 5, 3), (17, 9, 1, 28, 28), (40, 64, 1)])
def test_tuples_average_to_their_mean_whatever_other_tuples_are(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    z = noise(*shape, dtype=dtype)
    z[1, 0], z[2, 1] = math.nan, math.inf
    means = Lp().averages_of_tuples(z)
    expected = z[:, 0].clone()
    for member in z.unbind(dim=1)[1:]:
        expected = expected + member
    for same in (
        expected / shape[1],
        tuples_alone(Lp().averages_of_tuples, z),
        Lp().averages_of_tuples(z.transpose(0, 1).contiguous().transpose(0, 1)),
        TotalVariation().averages_of_tuples(z),
    ):
        torch.testing.assert_close(means, same, rtol=0.0, atol=0.0, equal_nan=True)
    assert means.dtype == dtype
    assert torch.isfinite(means).flatten(1).all(dim=1).tolist() == [i not in (1, 2) for i in range(len(z))]
    assert bool(torch.isnan(z[1, 0]).all())


def tuples_alone(average: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Each tuple's average, computed in a tensor of its own."""
    return torch.cat([average(one.clone()) for one in z.split(1)])


def test_a_mean_of_the_whole_tensor_would_depend_on_other_tuples() -> None:
    z = noise(40, 64, 1, dtype=torch.float32)
    mean = lambda outputs: outputs.mean(dim=1)  # noqa: E731
    assert not torch.equal(mean(z.transpose(0, 1).contiguous().transpose(0, 1)), tuples_alone(mean, z))


def test_tuples_that_cannot_be_averaged_are_refused() -> None:
    z = noise(2, 3, 4)
    for distance in (Samples(), MaskJaccard()):
        message = re.escape(f"distance must be one whose outputs can be averaged, got {distance!r}")
        with pytest.raises(ValueError, match=message):
            distance.averages_of_tuples(z)
    message = r"outputs must be floating-point tuples \(T, J, \*out\) with J at least 1, got"
    for outputs in (z.long(), z > 0.0, z[:, :0], z[0]):
        with pytest.raises(ValueError, match=message):
            Lp().averages_of_tuples(outputs)
    assert Lp().averages_of_tuples(z[:0]).shape == (0, 4)


# Outputs that are none for a distance, by their shape, and what is said of them.
SHAPES: list[tuple[Distance, tuple[int, ...], str]] = [
    *((TotalVariation(), shape, r"compares images, outputs \(N, C, H, W\) or \(N, H, W\).* got outputs of shape \(2, ")
      for shape in ((2, 5), (2, 1, 1, 1), (2, 1, 1), (2, 1, 1, 2, 2))),
    *((BoxJaccard(), shape, r"boxes must be outputs \(N, 4\) of \(x1, y1, x2, y2\), got shape \(2, .* is box-sets")
      for shape in ((2, 3), (2, 5), (2, 1, 4))),
    *((BoxSetMatching(), shape, r"sets of boxes must be outputs \(N, boxes, 4\) .*, got shape \(2, ")
      for shape in ((2, 4), (2, 3, 5), (2, 3, 4, 1))),
    *((Hausdorff(), shape, r"point sets must be outputs \(N, points, coordinates \+ 1\)")
      for shape in ((2, 3), (2, 3, 1), (2, 3, 2, 2))),
    *((distance, shape, r"outputs must be probability vectors \(N, K\) of at least two")
      for distance in (ProbabilityTV(), Wasserstein1()) for shape in ((2, 1), (2, 3, 4))),
    *((distance, (2, 0), "outputs must not be empty, got") for distance in VECTOR_DISTANCES),
]  # fmt: skip


@pytest.mark.parametrize(("distance", "shape", "message"), SHAPES, ids=repr)
def test_outputs_of_other_shapes_are_refused(distance: Distance, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distance(torch.zeros(shape), torch.zeros(shape))


@each_distance
def test_paired_outputs_must_have_one_shape(distance: Distance) -> None:
    with pytest.raises(ValueError, match=r"a and b must have the same shape, got \(2, 1, 2, 2\) and \(3, 1, 2, 2\)"):
        distance(torch.zeros(2, 1, 2, 2), torch.zeros(3, 1, 2, 2))
    with pytest.raises(ValueError, match=r"a and b must have the same shape, got \(2, "):
        distance.paired(*(distance.embed(torch.zeros(count, 1, 2, 2)) for count in (2, 1)))


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (Lp, [0.5, 0.0, -1.0, math.nan], r"p must lie in \[1, inf\], got"),
        (TotalVariation, [0, 3, 1.5, "1"], "p must be 1 or 2, got"),
        (Hausdorff, [0.0, -1.0, math.nan], "largest must be a positive number or inf, got"),
        (Wasserstein1, [0.0, -1.0, math.inf, math.nan], "spacing must be a positive finite number, got"),
        (lambda value: ProbabilityTV(tolerance=value), [-0.1, 1.0, math.nan], r"tolerance must lie in \[0, 1\), got"),
    ],
    ids=["p of Lp", "p of TotalVariation", "largest", "spacing", "tolerance"],
)
def test_parameters_out_of_range_are_refused(make: Callable, values: list, message: str) -> None:
    for value in values:
        with pytest.raises(ValueError, match=message):
            make(value)


class Halved(Lp):
    """Another comparison of all with all, and none of its own for pairs."""

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return super()._compare(a, b) / 2.0


def test_pairs_follow_a_new_comparison_of_all_with_all() -> None:
    a, b = torch.zeros(20, 2), torch.ones(20, 2)
    assert Halved(1)(a, b).tolist() == [1.0] * 20
    assert Lp(1)(a, b).tolist() == [2.0] * 20
