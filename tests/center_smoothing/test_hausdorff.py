import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import directed_hausdorff
from torch import Tensor

from center_smoothing import CenterSmoother, Hausdorff, SmoothingBudget, check_distance
from center_smoothing.distances import hausdorff
from center_smoothing.distances.axioms import needed_relaxation

NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-50, 50))


@st.composite
def sets(draw: st.DrawFn, count: int = 3) -> Tensor:
    """Point sets (count, points, coordinates + 1), some of them perhaps empty."""
    points, dimension = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    z = draw(hnp.arrays(np.float64, (count, points, dimension + 1), elements=NUMBERS))
    z[..., -1] = draw(hnp.arrays(np.bool_, (count, points)))
    return torch.from_numpy(z)


def points_of(z: Tensor) -> np.ndarray:
    return z[z[:, -1] > 0.5, :-1].numpy()


def slow(a: Tensor, b: Tensor, largest: float = math.inf) -> float:
    x, y = points_of(a), points_of(b)
    if len(x) == 0 or len(y) == 0:
        return 0.0 if len(x) == len(y) else largest
    return min(largest, max(directed_hausdorff(x, y)[0], directed_hausdorff(y, x)[0]))


@given(z=sets(), largest=st.sampled_from([math.inf, 10.0, 1e-3]))
def test_it_is_that_of_scipy(z: Tensor, largest: float) -> None:
    expected = [[slow(a, b, largest) for b in z] for a in z]
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


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(20, 5, 3, generator=torch.Generator().manual_seed(0))
    whole, paired = Hausdorff().pairwise(z, z), Hausdorff()(z, z.flip(0))
    monkeypatch.setattr(hausdorff, "_BLOCK_NUMBERS", 60)
    assert torch.equal(Hausdorff().pairwise(z, z), whole)
    assert torch.equal(Hausdorff()(z, z.flip(0)), paired)


def test_sets_are_certified_by_outputs_and_not_by_averages() -> None:
    def corners(x: Tensor) -> Tensor:
        """Up to two points on a line, each present where its coordinate is not too low."""
        return torch.stack([x, (x > -2.5).to(x.dtype)], dim=2)

    smoother = CenterSmoother(corners, Hausdorff(20.0), sigma=0.5, budget=SmoothingBudget(n=300, m=600), batch_size=64)
    certificate = smoother.certify(torch.tensor([0.0, 4.0]))
    assert not certificate.abstained
    assert 0.0 < certificate.eps_out(0.2) < 20.0
    assert tuple(certificate.probes) == (1,)
    outputs = corners(torch.randn(80, 2, generator=torch.Generator().manual_seed(0)) * 3)
    assert check_distance(Hausdorff(20.0), outputs).passed
