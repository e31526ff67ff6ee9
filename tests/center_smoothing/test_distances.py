import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from center_smoothing import (
    Angular,
    BoxJaccard,
    Cosine,
    Distance,
    FeatureDistance,
    Lp,
    MaskJaccard,
    SquaredL2,
    Symmetrised,
    TotalVariation,
)
from center_smoothing.distances import base

VECTOR_DISTANCES = [Lp(1), Lp(1.5), Lp(2), Lp(3), Lp(math.inf), Angular(), MaskJaccard(), Cosine(), SquaredL2()]
IMAGE_DISTANCES = [TotalVariation(1), TotalVariation(2)]


class Plain(Distance):
    """The l1 distance as a user may write it: all with all, and nothing else."""

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] - b[None]).abs().sum(dim=2)


def halved(z: Tensor) -> Tensor:
    return z.flatten(1) / 2.0


OF_FEATURES = FeatureDistance(halved, Cosine(), dtype=torch.float64)
OF_BOTH_WAYS = Symmetrised(SquaredL2(), "sum")
DISTANCES = [*VECTOR_DISTANCES, *IMAGE_DISTANCES, Plain(), OF_BOTH_WAYS]


@pytest.fixture(params=["at once", "later"])
def known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are known at once, as on the CPU, or are not waited for, as elsewhere."""
    monkeypatch.setattr(base, "_known_at_once", lambda mask: request.param == "at once")


def names(distance: object) -> str:
    return repr(distance)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pair(x: float, y: float) -> Tensor:
    return torch.tensor([[x, y]], dtype=torch.float64)


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
@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 1, 5), (1, 5, 1), (1, 6, 4), (3, 5, 7), (3, 2, 3)])
def test_total_variation_equals_a_loop_over_pixels(p: int, shape: tuple[int, ...]) -> None:
    a, b = noise(4, *shape, seed=1), noise(3, *shape, seed=2)
    expected = [[naive_total_variation(x.numpy(), y.numpy(), p) for y in b] for x in a]
    np.testing.assert_allclose(TotalVariation(p).pairwise(a, b).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize(("p", "expected"), [(1, 14.0), (2, 10.0)])
def test_total_variation_by_hand(p: int, expected: float) -> None:
    image = torch.zeros(1, 2, 2, 2)
    image[0, 0, 0, 0], image[0, 1, 0, 0] = 3.0, 4.0  # two pairs of neighbours differ by (3, 4)
    assert TotalVariation(p)(image, torch.zeros_like(image)).item() == expected


@pytest.mark.parametrize(("pixel", "pairs"), [((0, 0), 2), ((0, 2), 3), ((3, 4), 2), ((3, 2), 3), ((1, 4), 3)])
def test_total_variation_counts_the_last_row_and_column(pixel: tuple[int, int], pairs: int) -> None:
    image = torch.zeros(1, 1, 4, 5)
    image[0, 0, pixel[0], pixel[1]] = 1.0
    assert TotalVariation()(image, torch.zeros_like(image)).item() == pairs


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_checkerboard_and_its_inverse_are_two_per_pair_and_channel_apart(channels: int, size: int) -> None:
    board = (torch.arange(size)[:, None] + torch.arange(size)) % 2
    board = board.expand(1, channels, size, size).float()
    pairs = 2 * size * (size - 1)
    assert TotalVariation(1)(board, 1 - board).item() == 2 * pairs * channels
    assert TotalVariation(2)(board, 1 - board).item() == pytest.approx(2 * pairs * math.sqrt(channels), rel=1e-13)


def test_total_variation_ignores_a_constant() -> None:
    image = noise(1, 3, 4, 4).round()
    assert TotalVariation(1)(image, image + 7.0).item() == 0.0


def test_grey_images_may_leave_out_the_channel() -> None:
    a, b = noise(2, 1, 4, 5, seed=1), noise(2, 1, 4, 5, seed=2)
    for p in (1, 2):
        assert torch.equal(TotalVariation(p)(a[:, 0], b[:, 0]), TotalVariation(1)(a, b))


def test_total_variation_of_many_images_at_once() -> None:
    a, b = noise(300, 3, 9, 9, seed=1), noise(5, 3, 9, 9, seed=2)
    expected = torch.stack([TotalVariation(2)(a, y.expand_as(a)) for y in b], dim=1)
    torch.testing.assert_close(TotalVariation(2).pairwise(a, b), expected, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, math.inf])
@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30])
def test_lp_equals_the_vector_norm_at_every_scale(p: float, scale: float) -> None:
    a, b = noise(4, 2, 3, seed=1), noise(5, 2, 3, seed=2)
    difference = (a[:, None] - b[None]).flatten(2)
    expected = torch.linalg.vector_norm(difference, ord=p, dim=2) * scale
    torch.testing.assert_close(Lp(p).pairwise(a * scale, b * scale), expected, rtol=1e-12, atol=0.0)


def test_lp_by_hand() -> None:
    a, b = torch.tensor([[1.0, -2.0, 2.0]]), torch.zeros(1, 3)
    assert [Lp(p)(a, b).item() for p in (1, 2, math.inf)] == [5.0, 3.0, 2.0]
    assert Lp(3)(a, b).item() == pytest.approx(17 ** (1 / 3), rel=1e-14)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0])
def test_angular_of_known_angles(degrees: float) -> None:
    radians = math.radians(degrees)
    a, b = pair(2.0, 0.0), pair(5 * math.cos(radians), 5 * math.sin(radians))
    assert Angular()(a, b).item() == pytest.approx(degrees / 180, abs=1e-15)


def test_angular_of_outputs_with_several_dimensions() -> None:
    a, b = noise(6, 2, 3, seed=1), noise(6, 2, 3, seed=2)
    expected = torch.cosine_similarity(a.flatten(1), b.flatten(1)).acos() / math.pi
    torch.testing.assert_close(Angular()(a, b), expected, rtol=1e-12, atol=0.0)


def test_angular_of_zero_vectors() -> None:
    outputs = torch.stack([torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1e-30, 0.0, 0.0])])
    distances = Angular().pairwise(torch.zeros(1, 3), outputs)
    np.testing.assert_allclose(distances.numpy(), [[0.0, 0.5, 0.5]], atol=1e-15)
    assert distances[0, 0] == 0.0


def test_angular_keeps_its_digits_for_nearly_parallel_and_nearly_opposite_vectors() -> None:
    for angle in (10.0**log_angle for log_angle in range(-15, -1)):
        a, b = pair(1.0, 0.0), pair(math.cos(angle), math.sin(angle))
        assert Angular()(a, b).item() == pytest.approx(angle / math.pi, rel=1e-12)
        assert Angular()(-a, b).item() == pytest.approx(1.0 - angle / math.pi, rel=1e-12)


def test_angular_triangle_inequality_for_nearly_opposite_vectors() -> None:
    a = noise(5000, 5)
    b = -3.0 * a
    c = b + 1e-7 * noise(5000, 5, seed=1)
    assert float((Angular()(a, b) - Angular()(a, c) - Angular()(c, b)).max()) <= 1e-9


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-38, 1.0, 1e38, 1e300, 1e307])
def test_angular_does_not_depend_on_the_scale(scale: float) -> None:
    a, b = noise(4, 3, seed=1), noise(4, 3, seed=2)
    expected = Angular()(a, b)
    rtol = 1e-2 if scale < 1e-307 else 1e-12  # numbers that small have few digits
    torch.testing.assert_close(Angular()(a * scale, b), expected, rtol=rtol, atol=0.0)
    torch.testing.assert_close(Angular().pairwise(b, a * scale).diagonal(), expected, rtol=rtol, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@given(data=st.data())
def test_angular_is_never_nan_for_parallel_and_opposite_vectors(dtype: torch.dtype, data: st.DataObject) -> None:
    vector = data.draw(hnp.arrays(np.float64, 4, elements=st.floats(-100, 100)))
    a = torch.tensor(vector).to(dtype)[None]
    for factor in (1.0, -1.0, 1.0 + 1e-7, -3.0, 1e-3):
        distance = Angular()(a, (a * factor).to(dtype)).item()
        assert 0.0 <= distance <= 1.0


def three(shape: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    """Three outputs (3, *shape), often alike, of very different sizes."""
    numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.floats(-1e-6, 1e-6))
    return hnp.arrays(np.float64, (3, *shape), elements=numbers).map(torch.from_numpy)


def outputs_of(distance: Distance) -> st.SearchStrategy[Tensor]:
    if isinstance(distance, TotalVariation):
        return st.sampled_from([(1, 3, 2), (2, 2, 2), (3, 1, 3)]).flatmap(three)
    return st.sampled_from([(1,), (3,), (2, 2)]).flatmap(three)


@pytest.mark.parametrize("distance", [*DISTANCES, OF_FEATURES], ids=names)
@settings(max_examples=60)
@given(data=st.data())
def test_axioms_of_a_distance(distance: Distance, data: st.DataObject) -> None:
    z = data.draw(outputs_of(distance))
    d = distance.pairwise(z, z)
    assert bool((d >= 0.0).all())
    assert bool(torch.isfinite(d).all())
    assert d.diagonal().tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(d, d.T, rtol=1e-12, atol=0.0)
    through = (d[:, :, None] + d[None, :, :]).amin(dim=1)
    assert bool((d <= distance.relaxation * through * (1 + 1e-9)).all())
    assert_paired_and_pairwise_distances_agree(distance, z)


def assert_paired_and_pairwise_distances_agree(distance: Distance, z: Tensor) -> None:
    pairwise, embedded = distance.pairwise(z, z.flip(0)), distance.embed(z)
    assert torch.equal(pairwise, distance.compare(embedded, distance.embed(z.flip(0))))
    torch.testing.assert_close(distance(z, z.flip(0)), pairwise.diagonal(), rtol=1e-14, atol=0.0)
    assert distance.paired(embedded, embedded).tolist() == [0.0, 0.0, 0.0]
    for shift in (1, 2):
        other = embedded.roll(shift, 0)
        paired = distance.paired(embedded, other)
        assert paired.dtype == torch.float64
        torch.testing.assert_close(paired, distance.compare(embedded, other).diagonal(), rtol=1e-14, atol=0.0)
        torch.testing.assert_close(paired, distance.paired(other, embedded), rtol=1e-12, atol=0.0)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("distance", DISTANCES, ids=names)
@pytest.mark.parametrize(("threads", "shape"), [(1, (1, 2, 3)), (2, (3, 5, 7)), (2, (3, 40, 40))], indirect=["threads"])
def test_a_distance_does_not_depend_on_its_neighbours_in_a_batch(distance: Distance, shape: tuple[int, ...]) -> None:
    first, second = noise(37, *shape, seed=1), noise(3, *shape, seed=2)
    first[3], first[20], first[30] = second[0], second[1], 0.0
    second[2] = 1e-160
    a, b = distance.embed(first), distance.embed(second)
    whole = distance.compare(a, b)
    for step in (1, 7, 32):
        assert torch.equal(torch.cat([distance.compare(part, b) for part in a.split(step)]), whole)
    assert torch.equal(torch.cat([distance.compare(a, part) for part in b.split(1)], dim=1), whole)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("distance", DISTANCES, ids=names)
@pytest.mark.parametrize(
    ("threads", "shape"), [(1, (1, 2, 3)), (2, (3, 5, 7)), (2, (3, 150, 150))], indirect=["threads"]
)
def test_a_paired_distance_does_not_depend_on_its_neighbours_in_a_batch(
    distance: Distance, shape: tuple[int, ...]
) -> None:
    first, second = noise(37, *shape, seed=1), noise(37, *shape, seed=2)
    first[[3, 20, 36]] = second[[3, 20, 36]]
    second[5], second[6], second[7] = first[5] * (1 + 1e-15), 1e-160, -first[7]
    first[9] = torch.nan
    a, b = distance.embed(first), distance.embed(second)
    whole = distance.paired(a, b)
    assert whole[[3, 20, 36]].tolist() == [0.0, 0.0, 0.0]
    assert whole[9] == math.inf
    for step in (1, 7, 8, 32) if shape[-1] < 100 else (1, 8):
        parts = [distance.paired(x, y) for x, y in zip(a.split(step), b.split(step), strict=True)]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("distance", DISTANCES, ids=names)
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


@pytest.mark.parametrize("distance", DISTANCES, ids=names)
def test_paired_embedded_outputs_must_have_one_shape(distance: Distance) -> None:
    a, b = (distance.embed(torch.zeros(count, 1, 2, 2)) for count in (2, 1))
    with pytest.raises(ValueError, match=r"a and b must have the same shape, got \(2, "):
        distance.paired(a, b)


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
@pytest.mark.parametrize("distance", [Lp(2), Angular()], ids=names)
def test_digits_are_the_same_where_nothing_is_waited_for(distance: Distance, monkeypatch: pytest.MonkeyPatch) -> None:
    z = distance.embed(far_and_near())
    d, paired = distance.compare(z, z), torch.stack([distance.paired(z, z.roll(-shift, 0)) for shift in range(len(z))])
    assert d.diagonal().tolist() == [0.0] * len(z)
    monkeypatch.setattr(base, "_known_at_once", lambda mask: mask.is_cpu)
    assert torch.equal(d, distance.compare(z, z))
    rows = torch.arange(len(z))
    assert torch.equal(paired, torch.stack([d[rows, (rows + shift) % len(z)] for shift in range(len(z))]))


@pytest.mark.parametrize("distance", [*DISTANCES, BoxJaccard()], ids=names)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
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
@pytest.mark.parametrize("distance", [*DISTANCES, BoxJaccard()], ids=names)
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


@pytest.mark.parametrize("distance", DISTANCES, ids=names)
def test_a_non_finite_output_is_infinitely_far_from_everything(distance: Distance) -> None:
    for bad, position in ((math.nan, 0), (math.nan, 11), (math.inf, 5), (-math.inf, 11)):
        z = noise(3, 3, 2, 2)
        z[1].view(-1)[position] = bad
        d = distance.pairwise(z, z)
        assert bool(torch.isinf(d[1]).all())
        assert bool(torch.isinf(d[:, 1]).all())
        assert torch.equal(torch.isinf(distance(z, z)), torch.tensor([False, True, False]))
        assert bool(torch.isfinite(d[::2, ::2]).all())
        assert not bool(torch.isnan(distance(z, z.roll(1, 0))).any())


@pytest.mark.parametrize("distance", DISTANCES, ids=names)
def test_overflow_is_far_away_and_not_nan(distance: Distance) -> None:
    z = torch.tensor([1e308, -1e308, 1e308, -1e308]).double().reshape(1, 1, 2, 2)
    assert not bool(torch.isnan(distance.pairwise(torch.cat([z, -z]), torch.cat([z, -z]))).any())


@pytest.mark.parametrize("distance", DISTANCES, ids=names)
def test_short_floats_are_compared_in_float64(distance: Distance) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        a, b = noise(3, 3, 4, 4, seed=1, dtype=dtype), noise(2, 3, 4, 4, seed=2, dtype=dtype)
        d = distance.pairwise(a, b)
        assert d.dtype == torch.float64
        assert torch.equal(d, distance.pairwise(a.double(), b.double()))
        assert distance(a, a).dtype == torch.float64


@pytest.mark.parametrize("distance", DISTANCES, ids=names)
def test_mixed_precision_does_not_reach_the_distances(distance: Distance) -> None:
    a, b = noise(9, 3, 4, 4, seed=1, dtype=torch.bfloat16), noise(9, 3, 4, 4, seed=2, dtype=torch.bfloat16)
    pairwise, paired = distance.pairwise(a, b), distance(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance.pairwise(a, b), pairwise)
        assert torch.equal(distance(a, b), paired)


@pytest.mark.parametrize("distance", DISTANCES, ids=names)
def test_no_outputs_at_all_and_inputs_that_are_left_as_they_were(distance: Distance) -> None:
    none, z = torch.empty(0, 3, 2, 2), noise(3, 3, 2, 2)
    assert distance(none, none).shape == (0,)
    assert distance(none, none).dtype == torch.float64
    z[1] = torch.nan
    copy = z.clone()
    distance.pairwise(z, z)
    torch.testing.assert_close(z, copy, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("distance", DISTANCES, ids=names)
def test_a_distance_prints_as_one_would_type_it(distance: Distance) -> None:
    named = (Angular, Cosine, Lp, MaskJaccard, Plain, SquaredL2, Symmetrised, TotalVariation)
    again = eval(repr(distance), {**{c.__name__: c for c in named}, "inf": math.inf})
    assert type(again) is type(distance)
    assert repr(again) == repr(distance)


@pytest.mark.parametrize("distance", [Lp(), Angular(), *IMAGE_DISTANCES], ids=names)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_outputs_average_to_their_mean_and_median(distance: Distance, dtype: torch.dtype, count: int) -> None:
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


@pytest.mark.parametrize("distance", [Lp(), Angular(), *IMAGE_DISTANCES], ids=names)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_tuples_average_to_their_mean(distance: Distance, dtype: torch.dtype, members: int) -> None:
    z = noise(5, members, 2, 3, 4, dtype=dtype)
    means = distance.averages_of_tuples(z)
    assert means.dtype == dtype
    expected = z[:, 0].clone()
    for member in range(1, members):
        expected = expected + z[:, member]
    assert torch.equal(means, expected / members)
    rtol = {torch.float16: 1e-2, torch.bfloat16: 1e-1, torch.float32: 1e-5}.get(dtype, 1e-13)
    np.testing.assert_allclose(means.double(), z.double().mean(dim=1), rtol=rtol, atol=rtol)


def tuples_alone(average: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Each tuple's average, computed in a tensor of its own."""
    return torch.cat([average(one.clone()) for one in z.split(1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(33, 5, 3), (17, 9, 1, 28, 28), (257, 31, 2), (40, 64, 1)])
def test_the_average_of_a_tuple_does_not_depend_on_other_tuples(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    z = noise(*shape, dtype=dtype)
    z[1, 0], z[2, 1] = math.nan, math.inf
    means = Lp().averages_of_tuples(z)
    torch.testing.assert_close(means, tuples_alone(Lp().averages_of_tuples, z), rtol=0.0, atol=0.0, equal_nan=True)
    transposed = z.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(means, Lp().averages_of_tuples(transposed), rtol=0.0, atol=0.0, equal_nan=True)
    assert torch.isfinite(means).flatten(1).all(dim=1).tolist() == [i not in (1, 2) for i in range(len(z))]
    assert bool(torch.isnan(z[1, 0]).all())


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


@pytest.mark.parametrize("shape", [(2, 5), (2, 1, 1, 1), (2, 1, 1), (2, 1, 1, 2, 2)])
def test_total_variation_refuses_what_is_no_image(shape: tuple[int, ...]) -> None:
    z = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"compares images, outputs \(N, C, H, W\) or \(N, H, W\).* got outputs of"):
        TotalVariation()(z, z)


@pytest.mark.parametrize("distance", DISTANCES, ids=names)
def test_paired_outputs_must_have_one_shape(distance: Distance) -> None:
    with pytest.raises(ValueError, match=r"a and b must have the same shape, got \(2, 1, 2, 2\) and \(3, 1, 2, 2\)"):
        distance(torch.zeros(2, 1, 2, 2), torch.zeros(3, 1, 2, 2))


@pytest.mark.parametrize("distance", VECTOR_DISTANCES, ids=names)
def test_empty_outputs_are_refused(distance: Distance) -> None:
    with pytest.raises(ValueError, match="outputs must not be empty, got"):
        distance(torch.zeros(3, 0), torch.zeros(3, 0))


@pytest.mark.parametrize("p", [0.5, 0.0, -1.0, math.nan])
def test_lp_refuses_a_p_below_one(p: float) -> None:
    with pytest.raises(ValueError, match=r"p must lie in \[1, inf\], got"):
        Lp(p)


@pytest.mark.parametrize("p", [0, 3, 1.5, "1"])
def test_total_variation_refuses_another_norm(p: int) -> None:
    with pytest.raises(ValueError, match="p must be 1 or 2, got"):
        TotalVariation(p)


class Halved(Lp):
    """Another comparison of all with all, and none of its own for pairs."""

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return super()._compare(a, b) / 2.0


def test_pairs_follow_a_new_comparison_of_all_with_all() -> None:
    a, b = torch.zeros(20, 2), torch.ones(20, 2)
    assert Halved(1)(a, b).tolist() == [1.0] * 20
    assert Lp(1)(a, b).tolist() == [2.0] * 20
