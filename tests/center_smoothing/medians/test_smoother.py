"""Median smoothing: the smoothed function, and its certificate from the same draws computed in another way."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from center_smoothing import (
    BoxJaccard,
    Distance,
    FunctionDistance,
    Lp,
    MaskJaccard,
    MedianBudget,
    MedianSmoother,
    ProbabilityTV,
    TotalVariation,
)
from center_smoothing.medians.smoother import _radii
from center_smoothing.noise import Stage

BUDGET = MedianBudget(n=101, m=400, alpha_1=0.01, alpha_2=0.01)
X = torch.tensor([0.5, -1.0])
Model = Callable[[Tensor], Tensor]


def features(z: Tensor) -> Tensor:
    """Three numbers: heavy tails, atoms, and a sum."""
    return torch.stack([torch.tan(z[:, 0]), (2.0 * z[:, 1]).round(), z.sum(dim=1)], dim=1)


def make(model: Model = features, distance: Distance | None = None, *, budget: MedianBudget = BUDGET, **options: int):  # noqa: ANN201
    return MedianSmoother(model, distance or Lp(2), sigma=0.5, budget=budget, batch_size=64, **options)  # type: ignore[arg-type]


def drawn(smoother: MedianSmoother, stage: Stage, count: int, x: Tensor = X) -> Tensor:
    return torch.cat(list(smoother.outputs.draw(x, example=0, stage=stage, count=count)))


def test_the_output_holds_the_middle_of_each_coordinate() -> None:
    smoother = make()
    output = smoother.smooth(X)
    expected = np.median(drawn(smoother, Stage.RANKING, 101).numpy(), axis=0)
    assert output.center.numpy().tolist() == expected.tolist()
    assert not output.abstained


def test_the_box_is_that_of_order_statistics() -> None:
    smoother, h = make(), 1.0
    certificate, rank = smoother.certify(X), BUDGET.for_output(torch.zeros(3)).rank(h)
    ordered = drawn(smoother, Stage.CERTIFICATION, 400).sort(dim=0).values
    low, high = certificate.box(h * 0.5)
    assert torch.equal(low, ordered[400 - rank])
    assert torch.equal(high, ordered[rank - 1])
    low, high, center = low.double(), high.double(), certificate.center.double()
    widest = torch.maximum(high - center, center - low).norm()
    assert certificate.eps_out(h * 0.5) == pytest.approx(float(widest), rel=1e-8)
    assert certificate.eps_out(h * 0.5) >= float(widest)


def test_distances_are_those_of_the_certification_outputs() -> None:
    smoother = make()
    certificate = smoother.certify(X)
    outputs = drawn(smoother, Stage.CERTIFICATION, 400)
    expected = np.sort(Lp(2).pairwise(outputs, certificate.center[None])[:, 0].numpy())
    assert certificate.distances.tolist() == expected.tolist()
    assert certificate.m == 400


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_outputs_keep_their_type(dtype: torch.dtype) -> None:
    certificate = make(lambda z: features(z).to(dtype)).certify(X)
    outputs = drawn(make(lambda z: features(z).to(dtype)), Stage.CERTIFICATION, 400)
    assert certificate.center.dtype == certificate.low.dtype == dtype
    finite = certificate.high[torch.isfinite(certificate.high)]
    known = torch.cat([outputs, drawn(make(lambda z: features(z).to(dtype)), Stage.RANKING, 101)])
    assert bool(torch.isin(finite, known).all())


def test_whole_numbers_and_truth_values_are_taken() -> None:
    whole = make(lambda z: (3.0 * z).round().to(torch.int64)).certify(X)
    assert whole.center.dtype == torch.float64
    assert whole.eps_out(0.25) >= 1.0
    mask = make(lambda z: z > 0.0, MaskJaccard()).certify(torch.tensor([5.0, -5.0, 0.01]))
    assert mask.center.tolist() == [1.0, 0.0, 1.0]
    assert [end.tolist() for end in mask.box(0.25)] == [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    assert mask.eps_out(0.25) == pytest.approx(0.5)


@pytest.mark.parametrize("batch_size", [1, 33, 1000])
def test_the_batch_size_makes_no_difference(batch_size: int) -> None:
    first = make().certify(X)
    second = MedianSmoother(features, Lp(2), sigma=0.5, budget=BUDGET, batch_size=batch_size).certify(X)
    assert torch.equal(first.low, second.low)
    assert torch.equal(first.high, second.high)
    assert first.radii.tolist() == second.radii.tolist()


def test_a_median_that_is_not_finite_abstains() -> None:
    certificate = make(lambda z: torch.where(z > 0.2, torch.nan, z)).certify(X)
    assert certificate.abstained
    assert certificate.center.tolist() == [0.0, 0.0]
    assert math.isinf(certificate.eps_out(0.1))
    assert [end.tolist() for end in certificate.box(0.1)] == [[-math.inf] * 2, [math.inf] * 2]
    assert certificate.eps_in(5.0) == 0.0
    assert math.isinf(certificate.smoothing_loss)


def test_a_few_outputs_that_are_not_finite_end_the_box_and_nothing_else() -> None:
    certificate = make(lambda z: torch.where(z[:, :1] > 1.45, torch.nan, z)).certify(X)  # 3% of all
    assert not certificate.abstained
    assert certificate.non_finite > 0
    assert certificate.eps_out(0.05) < certificate.eps_out(0.25) < math.inf
    assert math.isinf(certificate.eps_out(1.0))


def test_outputs_that_are_far_off_hardly_move_it() -> None:
    def model(z: Tensor) -> Tensor:
        return torch.where(z[:, :1] > 1.45, 1e6 * z, z)

    assert make(model).certify(X).eps_out(0.1) < 2.0 * make(lambda z: z).certify(X).eps_out(0.1)


def test_single_numbers_and_images_are_outputs() -> None:
    number = make(lambda z: z.sum(dim=1)).certify(X)
    assert number.center.shape == (1,)
    assert number.box(0.5)[0].shape == (1,)
    image = make(lambda z: z.repeat(1, 6).reshape(-1, 3, 2, 2), TotalVariation()).certify(X)
    assert image.box(0.5)[1].shape == (3, 2, 2)
    assert 0.0 < image.eps_out(0.5) < math.inf


def test_boxes_move_in_overlap() -> None:
    corners = torch.tensor([0.0, 0.0, 40.0, 30.0])
    certificate = make(lambda z: corners + z.repeat(1, 2), BoxJaccard()).certify(torch.zeros(2))
    low, high = certificate.box(0.5)
    assert 0.02 < certificate.eps_out(0.5) < 0.3
    assert certificate.eps_out(0.5) >= float(BoxJaccard()(certificate.center[None], high[None]))
    assert certificate.eps_out(0.5) >= float(BoxJaccard()(certificate.center[None], low[None]))


def test_a_center_outside_of_a_small_box_is_taken_into_it() -> None:
    class Checked(Lp):
        def box_radius(self, center: Tensor, low: Tensor, high: Tensor) -> float:
            assert bool(((low <= center) & (center <= high)).all())
            return super().box_radius(center, low, high)

    radii = _radii(Checked(1), torch.zeros(2), torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0, -1.0]]))
    assert radii.tolist() == pytest.approx([5.0])


@pytest.mark.parametrize(
    "distance", [ProbabilityTV(), FunctionDistance(lambda a, b: (a - b).norm(dim=1), relaxation=1)]
)
def test_distances_without_a_bound_over_boxes_are_refused(distance: Distance) -> None:
    with pytest.raises(ValueError, match="distance must be one that is bounded over boxes of outputs, as Total"):
        make(features, distance)


def test_what_is_no_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="distance must be a Distance such as"):
        MedianSmoother(features, 3, sigma=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="distance must be one that is bounded over boxes of outputs"):
        MedianSmoother(features, torch.dist, sigma=0.5)


def test_a_look_at_the_outputs_tells_the_budget_their_numbers() -> None:
    smoother = make()
    assert smoother.budget.numbers == 1
    smoother.look_at(X)
    assert smoother.budget.numbers == 3
    assert smoother.certify(X).budget == smoother.budget


def test_the_plan_says_which_ranks_bound_a_number() -> None:
    smoother = make()
    smoother.look_at(X)
    plan = smoother.budget.plan(1.0)
    heading, line = smoother.plan_table([1.0])
    assert heading.split() == ["D", "p", "rank", "of", "m", "least", "m"]
    assert line.split() == [f"{plan.margin:.5f}", f"{plan.p:.6f}", f"{plan.rank}/400", f"{plan.least_m:.0f}"]
    assert smoother.plan_settings == "numbers=3"
