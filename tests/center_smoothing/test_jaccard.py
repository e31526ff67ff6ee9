"""Boxes against exact fractions, masks against sets, and both through the whole algorithm."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from torch import Tensor

from center_smoothing import (
    NO_BOX,
    BoxJaccard,
    CenterSmoother,
    Certificate,
    Distance,
    MaskJaccard,
    SmoothingBudget,
    bounds,
)
from center_smoothing import budget as budget_module
from center_smoothing.margins import Method
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs
from tests.center_smoothing.refutation import Pairs, failures_of, pairs, refuted

Box = tuple[float, float, float, float]

NORMAL = Fraction(2) ** -1022
LARGEST = 2.0**1022  # no side of a box with such corners overflows


def boxes(*rows: Box) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def exact_box_distance(a: Box, b: Box) -> Fraction:
    """From the three areas, in exact arithmetic."""

    def area(x1: Fraction, y1: Fraction, x2: Fraction, y2: Fraction) -> Fraction:
        return (x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else Fraction(0)

    a_exact, b_exact = [Fraction(x) for x in a], [Fraction(x) for x in b]
    sizes = area(*a_exact), area(*b_exact)
    if 0 in sizes:
        return Fraction(int(any(sizes)))
    common = area(*map(max, a_exact[:2], b_exact[:2]), *map(min, a_exact[2:], b_exact[2:]))
    return 1 - common / (sum(sizes) - common)


def set_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boolean masks, as sets of positions."""
    first, second = ({tuple(position) for position in np.argwhere(mask)} for mask in (a, b))
    return 1.0 - len(first & second) / len(first | second) if first | second else 0.0


def close_to(distance: float, exact: Fraction) -> bool:
    """Within a relative error far below the one that certificates allow for, unless the distance underflows."""
    return abs(Fraction(distance) - exact) <= exact * Fraction(2) ** -49 + (exact < NORMAL) * NORMAL


CORNERS = {
    "grid": st.integers(-3, 3).map(float),
    "quarters": st.integers(0, 40).map(lambda i: i / 4),
    "nearly equal": st.sampled_from([x * (1 + i * 2.0**-52) for x in (0.0, 1.0, 1.5, 2.0) for i in range(4)]),
    "numbers": st.floats(-1e6, 1e6),
    "all sizes": st.floats(-LARGEST, LARGEST),
    "tiny": st.floats(-1e-300, 1e-300),
}


def some_boxes(corners: str, count: int) -> st.SearchStrategy[list[Box]]:
    """Mostly true boxes, that touch, are nested or are equal more often than by chance; some are degenerate."""
    corner = CORNERS[corners]
    any_box = st.tuples(corner, corner, corner, corner)
    true_box = any_box.map(lambda z: (min(z[0], z[2]), min(z[1], z[3]), max(z[0], z[2]), max(z[1], z[3])))
    return st.lists(st.one_of(true_box, true_box, any_box, st.just(NO_BOX)), min_size=count, max_size=count)


@pytest.mark.parametrize("corners", CORNERS)
@given(data=st.data())
def test_boxes_equal_the_exact_fraction(corners: str, data: st.DataObject) -> None:
    drawn = data.draw(some_boxes(corners, 4))
    computed = BoxJaccard().pairwise(boxes(*drawn), boxes(*drawn)).tolist()
    for (a, row), (b, j) in itertools.product(zip(drawn, computed, strict=True), zip(drawn, range(4), strict=True)):
        assert close_to(row[j], exact_box_distance(a, b)), (a, b)


UNIT = (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (UNIT, UNIT, 0.0),
        (UNIT, (0.0, 0.0, 2.0, 2.0), 0.75),
        (UNIT, (0.5, 0.0, 1.5, 1.0), 2 / 3),
        ((0.0, 1.0, 3.0, 2.0), (1.0, 0.0, 2.0, 3.0), 0.8),
        (UNIT, (1.0, 0.0, 2.0, 1.0), 1.0),
        (UNIT, NO_BOX, 1.0),
        (UNIT, (0.5, 0.0, 0.5, 1.0), 1.0),
        (NO_BOX, NO_BOX, 0.0),
        (NO_BOX, (7.0, 7.0, 7.0, 9.0), 0.0),
        ((3.0, 3.0, 2.0, 2.0), (2.0, 0.0, 1.0, 1.0), 0.0),
    ],
)
def test_boxes_by_hand(a: Box, b: Box, expected: float) -> None:
    assert BoxJaccard()(boxes(a), boxes(b)).item() == pytest.approx(expected, rel=1e-15, abs=0.0)
    assert BoxJaccard()(boxes(b), boxes(a)).item() == pytest.approx(expected, rel=1e-15, abs=0.0)


def test_boxes_of_every_size_and_nearly_equal_ones_keep_their_digits() -> None:
    for scale, other in itertools.product([5e-324, 1e-300, 1e-160, 1.0, 1e160, 1e300, 5e307], [1.0, 1e-200, 1e200]):
        # areas of most of these are no float64
        a, b = (0.0, 0.0, 3 * scale, 2 * other), (scale, 0.0, 3 * scale, 2 * other)
        assert BoxJaccard()(boxes(a), boxes(b)).item() == pytest.approx(1 / 3, rel=1e-14)
        assert BoxJaccard()(boxes(a), boxes(a)).item() == 0.0
        assert BoxJaccard()(boxes(a), boxes(NO_BOX)).item() == 1.0
    for shift in (10.0**log_shift for log_shift in range(-320, 0, 8)):
        apart = BoxJaccard()(boxes(UNIT), boxes((shift, 0.0, 1.0, 1.0))).item()
        assert apart == pytest.approx(shift, rel=1e-14, abs=0.0)


def test_a_box_whose_side_overflows_is_infinitely_far_from_everything() -> None:
    wide, high = (-1e308, 0.0, 1e308, 1.0), (0.0, -1e308, 1.0, 1e308)
    z = boxes(wide, high, UNIT, NO_BOX, (1e308, 0.0, -1e308, 1.0), (-1e308, 0.0, -0.9e308, 1.0))
    d = BoxJaccard().pairwise(z, z)
    assert bool(torch.isinf(d[:2]).all())
    assert bool(torch.isinf(d[:, :2]).all())
    assert d[2:, 2:].tolist() == [[0, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0]]


def test_boxes_and_masks_of_every_type_are_compared_in_float64() -> None:
    z = torch.rand((9, 4), generator=torch.Generator().manual_seed(0)) * 20
    z[:6, 2:] += 20
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.int32, torch.int64):
        d = BoxJaccard().pairwise(z.to(dtype), z.to(dtype))
        assert d.dtype == torch.float64
        assert torch.equal(d, BoxJaccard().pairwise(z.to(dtype).double(), z.to(dtype).double()))
    masks = z > 20.0
    for dtype in (torch.uint8, torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(
            MaskJaccard().pairwise(masks.to(dtype), masks.to(dtype)), MaskJaccard().pairwise(masks, masks)
        )


def test_many_boxes_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand((count, 4), generator=generator, dtype=torch.float64) for count in (3000, 50))
    whole = BoxJaccard().pairwise(a, b)
    assert torch.equal(torch.cat([BoxJaccard().pairwise(part, b) for part in a.split(300)]), whole)
    assert torch.equal(BoxJaccard()(a[-50:], b), whole[-50:].diagonal())


def test_which_boxes_are_empty() -> None:
    z = boxes(UNIT, NO_BOX, (1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (2.0, 0.0, 1.0, 1.0), (-2.0, -2.0, -1.0, -1.0))
    assert BoxJaccard.is_empty(z).tolist() == [False, True, True, True, True, False]


def test_masks_equal_sets() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1,), (4,), (2, 3), (1, 2, 4), (2, 2, 2)):
        masks = np.concatenate([rng.random((8, *shape)) < 0.5, np.zeros((1, *shape), bool), np.ones((1, *shape), bool)])
        d = MaskJaccard().pairwise(torch.from_numpy(masks), torch.from_numpy(masks))
        np.testing.assert_allclose(d.numpy(), [[set_distance(a, b) for b in masks] for a in masks], rtol=1e-15)


def test_which_pixels_belong_to_a_mask() -> None:
    full = torch.ones(1, 4, dtype=torch.bool)
    assert MaskJaccard()(torch.tensor([[-1, 255, 0, 2]]), torch.tensor([[1, 1, 0, 1]])).item() == 0.0
    for dtype in (torch.float16, torch.float32, torch.float64):
        z = torch.tensor([[0.5, 0.51, 0.49, -1.0]]).to(dtype)
        assert MaskJaccard().embed(z).tolist() == [[0.0, 1.0, 0.0, 0.0]]
        assert MaskJaccard()(z, full.to(dtype)).item() == 0.75


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_averages_of_boxes_leave_out_the_empty_ones(dtype: torch.dtype) -> None:
    true = [(0.0, 0.0, 4.0, 4.0), (1.0, 1.0, 5.0, 5.0), (5.0, 2.0, 9.0, 9.0)]
    z = boxes(true[0], NO_BOX, true[1], (90.0, 90.0, 80.0, 80.0), true[2], NO_BOX, NO_BOX).to(dtype)
    averages = BoxJaccard().averages_of(z)
    assert averages.dtype == dtype
    assert averages.tolist() == [[2.0, 1.0, 6.0, 6.0], [1.0, 1.0, 5.0, 5.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_averages_of_tuples_of_boxes_leave_out_the_empty_ones(dtype: torch.dtype) -> None:
    first, second, nan = (0.0, 0.0, 4.0, 4.0), (1.0, 1.0, 5.0, 6.0), (math.nan, 0.0, 1.0, 1.0)
    tuples = [[first, NO_BOX, second], [NO_BOX, (9.0, 9.0, 8.0, 8.0), NO_BOX], [NO_BOX, first, NO_BOX]]
    tuples += [[first, nan, NO_BOX], [first, (5.0, math.nan, 4.0, 1.0), second]]
    z = torch.tensor(tuples, dtype=dtype)
    averages = BoxJaccard().averages_of_tuples(z)
    assert averages.dtype == dtype
    assert averages[:3].tolist() == [[0.5, 0.5, 4.5, 5.0], list(NO_BOX), list(first)]
    assert BoxJaccard()(averages, averages).tolist() == [0.0, 0.0, 0.0, math.inf, math.inf]
    for i in range(3):
        assert torch.equal(BoxJaccard().averages_of_tuples(z[i : i + 1]), averages[i : i + 1])


def test_boxes_without_averages() -> None:
    for z in (boxes(NO_BOX, NO_BOX), boxes(UNIT, UNIT).long()):
        averages = BoxJaccard().averages_of(z)
        assert averages.shape == (0, 4)
        assert averages.dtype == z.dtype


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64])
def test_masks_average_to_the_majority(dtype: torch.dtype) -> None:
    z = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0]], dtype=dtype).reshape(4, 2, 2)
    averages = MaskJaccard().averages_of(z)  # a tie is no majority
    assert averages.dtype == dtype
    assert averages.tolist() == torch.tensor([[[1, 0], [0, 0]]], dtype=dtype).tolist()
    assert MaskJaccard().averages_of(z[:3]).tolist() == torch.tensor([[[1, 1], [0, 0]]], dtype=dtype).tolist()


EXACT = SmoothingBudget(n=201, m=400, k=16, alpha_1=0.1, alpha_2=0.1, delta=0.2, tuple_sizes=())
PAPER = SmoothingBudget(n=201, m=400, k=16, alpha_1=0.1, alpha_2=0.1, delta=0.3, method="paper")


def certify(
    model: Callable[[Tensor], Tensor],
    distance: Distance,
    x: Tensor,
    *,
    budget: SmoothingBudget = EXACT,
    sigma: float = 1.0,
    example: int = 0,
) -> Certificate:
    return CenterSmoother(model, distance, sigma=sigma, budget=budget, batch_size=128).certify(x, example=example)


def drawn(model: Callable[[Tensor], Tensor], x: Tensor, stage: Stage, count: int) -> Tensor:
    """The outputs that a smoother with sigma = 1 draws in one stage."""
    return torch.cat(list(NoisyOutputs(model, sigma=1.0, batch_size=128).draw(x, example=0, stage=stage, count=count)))


def sliding(z: Tensor) -> Tensor:
    """A box of 20 by 10 that moves to the right with the first coordinate: t apart means 2 t / (20 + t)."""
    return z[:, :1] * z.new_tensor([1.0, 0.0, 1.0, 0.0]) + z.new_tensor([10.0, 10.0, 30.0, 20.0])


def box_beyond(threshold: float, otherwise: Box) -> Callable[[Tensor], Tensor]:
    """A fixed box where the first coordinate exceeds the threshold."""
    return lambda z: torch.where(z[:, :1] > threshold, z.new_tensor(UNIT), z.new_tensor(otherwise))


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_no_box_is_an_answer(share: float) -> None:
    """A box with the given probability, and else none."""
    model = box_beyond(-float(special.ndtri(share)), NO_BOX)
    certificate, budget = certify(model, BoxJaccard(), torch.zeros(1, dtype=torch.float64)), EXACT
    assert not certificate.abstained
    assert certificate.center.tolist() == list(UNIT if share > 0.5 else NO_BOX)
    assert certificate.output.radius == 0.0
    alike = int((certificate.distances == 0.0).sum())
    assert stats.binom.cdf(alike, budget.m, 0.9) > 1e-4
    assert stats.binom.sf(alike, budget.m, 0.9) > 1e-4
    assert bool(np.isin(certificate.distances, [0.0, 1.0]).all())
    for h in (0.1, 0.4, 1.0, 1.4):
        rank = budget.plan(h).rank
        expected = 0.0 if rank <= alike else 3.0 if rank <= budget.m else math.inf
        assert certificate.eps_out(h) == pytest.approx(expected, rel=1e-8, abs=1e-300)
    assert 0.05 < certificate.eps_in(1e-300) < float(special.ndtri(0.9) - special.ndtri(0.5 + budget.delta))
    assert certificate.smoothing_loss == 0.0


def test_nan_for_no_box_abstains_where_boxes_are_rare_and_no_box_at_all_does_not() -> None:
    certificate = certify(box_beyond(1.3, (math.nan,) * 4), BoxJaccard(), torch.zeros(1))
    assert certificate.abstained
    assert certificate.eps_out(0.0) == math.inf
    certificate = certify(lambda z: z.new_zeros(len(z), 4), BoxJaccard(), torch.zeros(1), budget=PAPER)
    assert not certificate.abstained
    assert bool(BoxJaccard.is_empty(certificate.center[None]))
    assert certificate.eps_out(0.5) < 1e-300


def jittered_or_none(z: Tensor) -> Tensor:
    """Corners move with the noise; one time in six there is no box."""
    moved = z.new_tensor([0.0, 0.0, 10.0, 10.0]) + z[:, :4] * 0.5
    return torch.where(z[:, 4:] > 1.0, torch.zeros_like(moved), moved)


def test_the_center_is_an_average_of_the_boxes_that_are_there() -> None:
    x = torch.zeros(5, dtype=torch.float64)
    pilot = drawn(jittered_or_none, x, Stage.PILOT, EXACT.k).numpy()
    found = pilot[pilot.any(axis=1)]
    assert 0 < len(found) < len(pilot)
    center = certify(jittered_or_none, BoxJaccard(), x).center.numpy()
    averages = [found.mean(axis=0), np.median(found, axis=0)]
    assert any(np.allclose(center, average, rtol=1e-12) for average in averages)


def speckled(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Pixel by pixel whether the noisy input is positive: a tenth of the pixels are wrong around +-1.28."""
    return lambda z: (z > 0.0).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_are_smoothed_to_what_the_majority_shows(dtype: torch.dtype) -> None:
    template = torch.zeros(10, 12, dtype=torch.bool)
    template[2:7, 3:9] = True
    x = torch.where(template, 1.28, -1.28).double()
    certificate = certify(speckled(dtype), MaskJaccard(), x)
    assert not certificate.abstained
    assert certificate.center.dtype == dtype
    assert torch.equal(certificate.center, template.to(dtype))
    outputs = drawn(speckled(dtype), x, Stage.CERTIFICATION, EXACT.m).bool().numpy()
    expected = sorted(set_distance(template.numpy(), mask) for mask in outputs)
    np.testing.assert_allclose(certificate.distances, expected, rtol=1e-14)
    assert certificate.smoothing_loss == 0.0


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def swelling(z: Tensor) -> Tensor:
    """A box whose sides grow and shrink with the noise, and sometimes vanish."""
    size = 1.0 + z
    return torch.cat([-size, size], dim=1)


# model, distance, x, direction of x', eps_in in units of sigma
CASES = {
    "swelling box": (swelling, BoxJaccard(), vector(0.6, 0.8), vector(-1.0, -1.0), 0.8),
    "box or none": (box_beyond(0.0, NO_BOX), BoxJaccard(), vector(-0.8), vector(1.0), 1.2),
    "pixels": (speckled(torch.bool), MaskJaccard(), torch.ones(6).double(), -torch.ones(6).double(), 1.2),
}
RUNS, ALPHA = 30, 0.2


@cache
def pairs_of(method: Method, case: str) -> Pairs:
    """Of correct code: tests break what is asked of them."""
    model, distance, x, direction, eps_in = CASES[case]
    budget = SmoothingBudget(n=201, m=120, k=16, alpha_1=ALPHA / 2, alpha_2=ALPHA / 2, delta=0.2, method=method)
    here, there = (
        CenterSmoother(model, distance, sigma=1.0, budget=budget, batch_size=256, seed=seed) for seed in (1, 2)
    )
    return pairs(here, there, x, direction, eps_in, RUNS)


@pytest.mark.parametrize(("method", "case"), [*(("exact", case) for case in CASES), ("paper", "box or none")])
def test_centers_are_no_further_apart_than_certified(method: Method, case: str) -> None:
    found = pairs_of(method, case)
    assert len(found) > RUNS / 2
    assert not refuted(failures_of(found, CASES[case][-1]), RUNS, ALPHA)


def test_a_missing_shift_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    found, eps_in = pairs_of("exact", "box or none"), CASES["box or none"][-1]
    budget_module._ranks.cache_clear()
    monkeypatch.setattr(bounds, "gaussian_shift_up", lambda mass, h: mass)
    assert refuted(failures_of(found, eps_in), RUNS, ALPHA)
