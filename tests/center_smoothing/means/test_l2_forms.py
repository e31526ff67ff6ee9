"""Means by distances that follow from the l2 distance: of outputs scaled to norm 1, and its square (theory T12)."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from center_smoothing import Angular, Cosine, Distance, Lp, MeanBudget, MeanCertificate, MeanSmoother, SquaredL2
from center_smoothing.certificate_base import ROUNDING
from center_smoothing.distances.l2_form import ANGLE, COSINE, L2_FORMS, SQUARED, L2Form
from center_smoothing.means import certificate as mean_certificate
from tests.center_smoothing.refutation import refuted

FORMS: list[tuple[L2Form, Distance]] = [(ANGLE, Angular()), (COSINE, Cosine()), (SQUARED, SquaredL2())]
X = torch.zeros(12, dtype=torch.float64)


def unit(*values: float) -> Tensor:
    made = torch.tensor(values, dtype=torch.float64)
    return made / made.norm()


@pytest.mark.parametrize(("form", "distance"), FORMS)
def test_nothing_within_an_l2_ball_is_beyond_its_radius(form: L2Form, distance: Distance) -> None:
    generator = torch.Generator().manual_seed(0)
    for length in (1e-3, 0.3, 1.0):
        center = length * unit(1.0, 2.0, -1.0, 0.5)
        for share in (0.0, 1e-5, 0.1, 0.7, 0.999, 1.0, 1.5):
            e = share * length
            around = torch.randn(500, 4, generator=generator, dtype=torch.float64)
            around = center + e * around / around.norm(dim=1, keepdim=True) * (1.0 - 1e-15)
            furthest = float(distance.pairwise(around, center[None]).max())
            assert furthest <= form.radius(e, length)


@pytest.mark.parametrize("share", [1e-12, 1e-6, 0.01, 0.5, 0.999, 1.0 - 1e-7])
def test_radii_of_angles_are_exact_from_above(share: float) -> None:
    """The angle to the tangent of the ball, in 40 digits."""
    with mpmath.workdps(40):
        for length in (0.01, 0.97):
            e = share * length
            sine = mpmath.mpf(e) / mpmath.mpf(length)
            angle, cosine = mpmath.asin(sine) / mpmath.pi, 1 - mpmath.sqrt(1 - sine**2)
            for exact, found in ((angle, ANGLE.radius(e, length)), (cosine, COSINE.radius(e, length))):
                assert exact <= found <= exact * (1 + 2e-8) + 1e-4 * (share > 0.99)


def test_radii_grow_and_end_where_any_direction_is_possible() -> None:
    for form, largest in ((ANGLE, 1.0), (COSINE, 2.0)):
        radii = [form.radius(e, 0.5) for e in np.linspace(0.0, 0.499, 100)]
        assert radii == sorted(radii)
        assert radii[0] == 0.0
        assert form.radius(0.5, 0.5) == form.radius(math.inf, 0.5) == form.radius(0.0, 0.0) == largest
    assert SQUARED.radius(0.5, 0.1) == pytest.approx(0.25)
    assert SQUARED.radius(math.inf, 0.1) == math.inf
    assert SQUARED.inverse is not None
    assert SQUARED.inverse(0.25) == 0.5
    assert list(L2_FORMS) == ["squared", "angle", "cosine"]


class Doubled(Angular):
    def _embed(self, z: Tensor) -> Tensor:
        return super()._embed(2.0 * z + 1.0)


def test_which_distances_follow_from_l2() -> None:
    assert [distance.l2_form for _, distance in FORMS] == [form for form, _ in FORMS]
    assert Lp(2).l2_form is None
    assert Doubled().l2_form is None


def directions(z: Tensor) -> Tensor:
    """A line of outputs along which the first coordinate moves, with small scatter everywhere else."""
    return torch.cat([torch.ones_like(z[:, :1]), 0.5 * z[:, :1], 0.02 * z[:, 1:]], dim=1)


def scattered(z: Tensor) -> Tensor:
    """Directions all over a half-plane, so that their mean is short and turns far when it moves."""
    return torch.cat([torch.cos(2.0 * z[:, :1]), torch.sin(2.0 * z[:, :1]), 0.01 * z[:, 1:]], dim=1)


def opposite(z: Tensor) -> Tensor:
    """The opposite of the usual direction, almost at B, where the first coordinate is large, and a little aside."""
    far = (z[:, :1] > 2.6).to(z.dtype)
    return torch.cat([1.0 - 2.0 * far, 0.4 * far, 0.02 * z[:, 1:]], dim=1)


def mostly_zero(z: Tensor) -> Tensor:
    """Zero but for some of the outputs, whose direction depends on how large the first coordinate is."""
    first = z[:, :1]
    return torch.cat([((first > 0.6) & (first < 1.8)).to(z.dtype), (first >= 1.8).to(z.dtype), 0.0 * z[:, 1:]], dim=1)


def moved_and_certified(
    distance: Distance, model: Callable[[Tensor], Tensor], h: float, runs: int = 3, size: int = 512, **options: float
) -> list[tuple[float, float]]:
    """How far the mean moves along the first coordinate, and what is certified; sigma = 1."""
    budget = MeanBudget(n=size, m=size, alpha_1=0.01, alpha_2=0.01)
    smoother = MeanSmoother(model, distance, sigma=1.0, budget=budget, batch_size=1024, **options)
    there = X.clone()
    there[0] = h
    found = []
    for run in range(runs):
        certificate = smoother.certify(X, example=run)
        moved = distance(certificate.center[None], smoother.smooth(there, example=run).center[None]).item()
        found.append((moved, certificate.eps_out(h)))
    return found


def failures(found: list[tuple[float, float]]) -> int:
    return sum(moved > certified for moved, certified in found)


@pytest.mark.parametrize("distance", [Angular(), Cosine()], ids=repr)
@pytest.mark.parametrize(("model", "h"), [(directions, 0.5), (scattered, 0.5), (opposite, 2.5), (mostly_zero, 1.0)])
def test_the_promise_holds_for_means_of_directions(
    distance: Distance, model: Callable[[Tensor], Tensor], h: float
) -> None:
    found = moved_and_certified(distance, model, h)
    assert not refuted(failures(found), 3, 0.02)
    assert max(moved for moved, _ in found) > 0.005  # it is an attack


@pytest.mark.parametrize(("bounds", "h"), [({"clip_norm": 16.0}, 0.5), ({"bound": 400.0}, 1.0)])
def test_the_promise_holds_for_squares(bounds: dict[str, float], h: float) -> None:
    found = moved_and_certified(SquaredL2(), directions, h, **bounds)
    assert not refuted(failures(found), 3, 0.02)
    assert max(moved for moved, _ in found) > 0.2 * h**2


def test_means_are_certified_by_squared_l2() -> None:
    budget, x = MeanBudget(n=500, m=1000), torch.tensor([0.3, -0.2], dtype=torch.float64)
    smoother, in_l2 = (
        MeanSmoother(torch.tanh, distance, sigma=0.25, budget=budget, clip_norm=norm, batch_size=64)
        for distance, norm in ((SquaredL2(), 2.0), (Lp(2), 2.0**0.5))
    )
    certificate = smoother.certify(x)
    assert certificate.bound <= smoother.largest_bound == pytest.approx(2.0 * 2.0**0.5)  # in l2
    assert 0.0 < certificate.eps_out(0.25) < certificate.bound**2
    assert certificate.eps_out(0.25) == pytest.approx(in_l2.certify(x).eps_out(0.25) ** 2, rel=1e-6)


def test_a_linear_function_is_certified_within_a_few_times_of_what_it_moves() -> None:
    for moved, certified in moved_and_certified(Angular(), directions, 0.5, 1, 2048):
        assert 0.05 < moved < certified < 4.0 * moved
    for moved, certified in moved_and_certified(SquaredL2(), directions, 0.5, 1, 2048, clip_norm=16.0):
        assert 0.05 < moved < certified < 12.0 * moved


def test_a_center_of_norm_1_taken_for_granted_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of directions is shorter than 1, the more so the more they scatter."""
    original = MeanSmoother.certify
    made = lambda self, *args, **more: replace(original(self, *args, **more), center_norm=1.0)  # noqa: E731
    monkeypatch.setattr(MeanSmoother, "certify", made)
    assert refuted(failures(moved_and_certified(Angular(), scattered, 0.5, 4, 1024)), 4, 0.02)


def test_half_of_the_squared_radius_taken_for_a_cosine_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would be between outputs that all have norm 1."""
    monkeypatch.setattr(Cosine, "l2_form", replace(COSINE, radius=lambda e, length: e * e / 2.0))
    assert refuted(failures(moved_and_certified(Cosine(), scattered, 0.5, 4, 1024)), 4, 0.02)


def test_a_tail_without_its_shift_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mean_certificate.bounds, "gaussian_shifts_up", lambda masses, h: masses)
    assert refuted(failures(moved_and_certified(Angular(), opposite, 2.5)), 3, 0.02)


def test_outputs_are_scaled_to_norm_1_and_zero_stays_zero() -> None:
    made = MeanSmoother(lambda z: z, Angular(), sigma=1.0)
    for scale in (1e300, 1e-320, 1.0):
        output = made.outputs.base_output(scale * torch.tensor([3.0, 4.0], dtype=torch.float64))
        assert output.tolist() == pytest.approx([0.6, 0.8], rel=1e-3 if scale < 1e-300 else 1e-15)
    assert made.outputs.base_output(torch.zeros(2)).tolist() == [0.0, 0.0]
    zeros = MeanSmoother(torch.zeros_like, Angular(), sigma=1.0, budget=MeanBudget(n=64, m=64)).certify(X)
    assert (zeros.eps_out(0.0), zeros.center_norm, zeros.abstained) == (1.0, 0.0, False)
    assert zeros.bound == ROUNDING


def test_a_non_finite_output_abstains_in_the_mean_and_counts_at_the_bound_in_the_certificate() -> None:
    holes = MeanSmoother(lambda z: z / (z[:, :1] < 1.0), Angular(), sigma=1.0, budget=MeanBudget(n=200, m=200))
    assert holes.smooth(X).abstained
    rare = MeanSmoother(lambda z: z + 9.0 / (z[:, :1] < 2.5), Angular(), sigma=1.0, budget=MeanBudget(n=9, m=500))
    certificate = rare.certify(X)
    assert not certificate.abstained
    assert certificate.non_finite > 0
    assert certificate.eps_out(0.0) <= 1.0


def test_no_bound_is_asked_for_nor_taken() -> None:
    for options in ({"clip_norm": 1.0}, {"bound": 1.0}):
        with pytest.raises(ValueError, match=r"clip_norm and bound must be left out with Angular\(\)"):
            MeanSmoother(directions, Angular(), sigma=1.0, **options)
    made = MeanSmoother(directions, Cosine(), sigma=1.0, budget=MeanBudget(n=100, m=200))
    assert made.largest_bound == pytest.approx(2.0)
    assert made.config == {"normalised": True}
    assert made.plan_settings == "outputs of norm 1"
    assert MeanSmoother(directions, SquaredL2(), sigma=1.0, clip_norm=4.0).config == {}
    certificate = made.certify(X)
    assert certificate.bound == (1.0 + certificate.center_norm) * ROUNDING
    assert math.isclose(certificate.center_norm, float(certificate.center.norm()), rel_tol=1e-12)


@pytest.mark.parametrize("distance", [Angular(), Cosine(), SquaredL2()], ids=repr)
def test_certificates_come_back_from_disk_and_answer_both_ways(distance: Distance, tmp_path: Path) -> None:
    given = {"clip_norm": 30.0} if distance.convex else {}
    made = MeanSmoother(directions, distance, sigma=0.5, budget=MeanBudget(n=200, m=600), **given)
    certificate = made.certify(X)
    certificate.save(tmp_path / "certificate.npz")
    back = MeanCertificate.load(tmp_path / "certificate.npz")
    asked = [0.0, 0.1, 0.5, 5.0]
    assert back.eps_out(asked).tolist() == certificate.eps_out(asked).tolist()
    assert certificate.eps_out(0.1) > 0.0
    radius = 1.5 * certificate.eps_out(0.1)
    assert certificate.eps_out(certificate.eps_in(radius)) <= radius
    assert certificate.eps_in(radius) > 0.1
    assert certificate.eps_in(50.0) == math.inf  # beyond B


def test_a_certificate_of_squares_from_before_l2_forms_is_read_as_it_was(tmp_path: Path) -> None:
    """Their distances and bounds are squares."""
    made = MeanSmoother(directions, SquaredL2(), sigma=0.5, budget=MeanBudget(n=200, m=600), clip_norm=30.0)
    certificate = made.certify(X)
    old = replace(
        certificate, distances=certificate.distances**2, bound=certificate.bound**2, moments=None, l2_form=None
    )
    assert set(old.kept_arrays()) == {"bound"}
    old.save(tmp_path / "old.npz")
    back = MeanCertificate.load(tmp_path / "old.npz")
    assert back.l2_form is None
    assert back.eps_out(0.25) == old.eps_out(0.25) > certificate.eps_out(0.25)


def test_a_damaged_norm_is_refused() -> None:
    made = MeanSmoother(directions, Angular(), sigma=0.5, budget=MeanBudget(n=100, m=200)).certify(X)
    for norm in (math.nan, -1.0, math.inf):
        with pytest.raises(ValueError, match="center_norm must be a finite number of at least 0"):
            replace(made, center_norm=norm)
