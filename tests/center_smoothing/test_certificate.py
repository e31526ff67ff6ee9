import dataclasses
import json
import math
import os
import pickle
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from center_smoothing import Certificate, SmoothedOutput, SmoothingBudget, bounds
from center_smoothing.budget import Coverage
from center_smoothing.margins import Method

METHODS: tuple[Method, ...] = ("exact", "paper")


def budget_of(m: int, method: Method = "exact", *, delta: float = 0.1, alpha_2: float = 0.05) -> SmoothingBudget:
    return SmoothingBudget(n=1000, m=m, k=32, delta=delta, alpha_1=0.05, alpha_2=alpha_2, method=method)


def certificate(
    distances: Any,  # noqa: ANN401
    *,
    method: Method = "exact",
    sigma: float = 0.5,
    relaxation: float = 1.0,
    abstained: bool = False,
    delta: float = 0.1,
    alpha_2: float = 0.05,
) -> Certificate:
    distances = np.sort(np.asarray(distances, dtype=np.float64))
    return Certificate(
        distances=distances,
        sigma=sigma,
        relaxation=relaxation,
        budget=budget_of(len(distances), method, delta=delta, alpha_2=alpha_2),
        output=SmoothedOutput(torch.tensor([[1.5, -2.0]]), 0.75, 0.47, abstained),
        smoothing_loss=0.3,
    )


def ranks(m: int) -> Certificate:
    """The distance of each rank is the rank, so that eps_out / 3 tells which one was taken."""
    return certificate(np.arange(1.0, m + 1.0))


RADII = st.floats(0.0, 2.0)
SAMPLES = hnp.arrays(np.float64, st.integers(5, 400), elements=st.one_of(st.floats(0.0, 1e3), st.just(math.inf)))
SETTINGS = {"method": st.sampled_from(METHODS), "sigma": st.sampled_from([0.1, 0.5, 3.0])}


@pytest.mark.parametrize("h", [0.0, 0.5, 1.0, 1.5])
def test_eps_out_by_hand_with_the_exact_rank(h: float) -> None:
    p = stats.norm.cdf(stats.norm.ppf(0.6) + h)
    rank = int(stats.binom.isf(0.05, 1000, p)) + 1
    assert stats.binom.sf(rank - 1, 1000, p) <= 0.05 < stats.binom.sf(rank - 2, 1000, p)
    assert ranks(1000).eps_out(0.5 * h) == pytest.approx(3 * rank, rel=1e-8)


@pytest.mark.parametrize("h", [0.0, 0.5, 1.0, 1.5])
def test_eps_out_by_hand_with_the_papers_rank(h: float) -> None:
    p = stats.norm.cdf(stats.norm.ppf(0.6) + h)
    rank = math.ceil((p + math.sqrt(math.log(1 / 0.05) / 2000)) * 1000)
    paper = certificate(np.arange(1.0, 1001.0), method="paper")
    expected = 3 * rank if rank <= 1000 else math.inf
    assert paper.eps_out(0.5 * h) == pytest.approx(expected, rel=1e-8)
    assert ranks(1000).eps_out(0.5 * h, coverage="dkw") == paper.eps_out(0.5 * h)


@pytest.mark.parametrize("method", METHODS)
def test_the_rank_counts_from_one(method: Method) -> None:
    h = 1.2
    m = int(budget_of(1, method).plan(h).least_m)
    assert certificate(np.arange(1.0, m + 1.0), method=method).eps_out(0.5 * h) == pytest.approx(3 * m, rel=1e-8)
    assert certificate(np.arange(1.0, float(m)), method=method).eps_out(0.5 * h) == math.inf


def test_eps_in_by_hand() -> None:
    mass = stats.beta.ppf(0.05, 900, 101)
    expected = 0.5 * (stats.norm.ppf(mass) - stats.norm.ppf(0.6))
    assert ranks(1000).eps_in(3 * 900.5) == pytest.approx(expected, rel=1e-7)
    # a radius of exactly 3 R is not above the rounded 3 R, so that distance does not count as covered
    assert ranks(1000).eps_in(3 * 900.0) < ranks(1000).eps_in(3 * 900.001) == ranks(1000).eps_in(3 * 900.9)


def test_eps_in_by_hand_with_the_papers_margin() -> None:
    mass = 0.9 - math.sqrt(math.log(1 / 0.05) / 2000)
    expected = 0.5 * (stats.norm.ppf(mass) - stats.norm.ppf(0.6))
    paper = certificate(np.arange(1.0, 1001.0), method="paper")
    assert paper.eps_in(3 * 900.5) == pytest.approx(expected, rel=1e-9)
    assert ranks(1000).eps_in(3 * 900.5, coverage="dkw") == paper.eps_in(3 * 900.5)


@pytest.mark.parametrize(("relaxation", "factor"), [(1.0, 3.0), (2.0, 10.0), (1.5, 6.0)])
def test_factor_of_a_relaxed_distance(relaxation: float, factor: float) -> None:
    relaxed = certificate(np.full(200, 0.25), relaxation=relaxation)
    assert relaxed.factor == factor
    assert relaxed.eps_out(0.1) == pytest.approx(factor * 0.25, rel=1e-8)
    assert relaxed.eps_in(factor * 0.25 * (1 + 1e-8)) > 0.0
    assert relaxed.eps_in(factor * 0.25 * (1 - 1e-8)) == 0.0


@given(distances=SAMPLES, radii=st.lists(RADII, min_size=2, max_size=6), **SETTINGS)
def test_eps_out_does_not_decrease_with_eps_in(
    distances: np.ndarray, radii: list[float], method: Method, sigma: float
) -> None:
    made = certificate(distances, method=method, sigma=sigma)
    for coverage in ("pointwise", "bonferroni", "dkw"):
        curve = made.eps_out(sorted(radii), coverage=coverage)
        assert all(a <= b for a, b in pairwise(curve))


@given(distances=SAMPLES, eps_in=st.floats(1e-3, 2.0), coverage=st.sampled_from(["pointwise", "dkw"]), **SETTINGS)
def test_eps_in_inverts_eps_out(
    distances: np.ndarray, eps_in: float, coverage: Coverage, method: Method, sigma: float
) -> None:
    made = certificate(distances, method=method, sigma=sigma)
    eps_out = made.eps_out(eps_in, coverage=coverage)
    assume(math.isfinite(eps_out))
    back = made.eps_in(eps_out, coverage=coverage)
    assert back >= eps_in * (1 - 1e-9)
    assert made.eps_out(back * (1 - 1e-9), coverage=coverage) <= eps_out


def test_bonferroni_divides_alpha_2_among_distinct_arguments() -> None:
    made, stricter = ranks(1000), certificate(np.arange(1.0, 1001.0), alpha_2=0.05 / 4)
    grid = [0.1, 0.2, 0.3, 0.4]
    assert np.array_equal(made.eps_out(grid, coverage="bonferroni"), stricter.eps_out(grid))
    assert np.array_equal(made.eps_out([*grid, 0.2], coverage="bonferroni")[:4], stricter.eps_out(grid))
    assert np.array_equal(
        made.eps_in([2700.0, 2800.0, 2900.0, 2950.0], coverage="bonferroni"),
        stricter.eps_in([2700.0, 2800.0, 2900.0, 2950.0]),
    )
    assert made.eps_out(0.1, coverage="bonferroni") == made.eps_out(0.1)


@pytest.mark.parametrize("coverage", ["pointwise", "dkw"])
@pytest.mark.parametrize("method", METHODS)
def test_a_grid_gives_what_its_points_give(method: Method, coverage: Coverage) -> None:
    made = certificate(np.random.default_rng(0).exponential(size=300), method=method)
    inner, outer = np.linspace(0.0, 1.0, 7), np.linspace(0.0, 20.0, 7)
    assert made.eps_out(inner, coverage=coverage).tolist() == [made.eps_out(e, coverage=coverage) for e in inner]
    assert made.eps_in(outer, coverage=coverage).tolist() == [made.eps_in(e, coverage=coverage) for e in outer]


def test_a_number_gives_a_float_and_a_sequence_an_array() -> None:
    made = ranks(50)
    for number in (0, 0.25, np.float32(0.25), np.array(0.25)):
        assert type(made.eps_out(number)) is float
        assert type(made.eps_in(number)) is float
    for sequence in ([0.25], (0.25, 0.5), np.array([0.25])):
        assert isinstance(made.eps_out(sequence), np.ndarray)
        assert made.eps_out(sequence).dtype == np.float64
        assert made.eps_in(sequence).shape == (len(sequence),)


@settings(max_examples=60)
@given(radius=st.floats(0.0, 1e300), relaxation=st.sampled_from([1.0, 1.3, 2.0]))
def test_eps_out_is_rounded_up_in_exact_arithmetic(radius: float, relaxation: float) -> None:
    made = certificate(np.full(50, radius), relaxation=relaxation)
    gamma = Fraction(relaxation)
    exact, written = gamma * (1 + 2 * gamma) * Fraction(radius), Fraction(made.eps_out(0.1))
    assert exact < written
    assert written <= exact * (1 + Fraction(1, 10**8)) + Fraction(1e-300)
    assert made.eps_in(made.eps_out(0.1)) > 0.0
    if radius > 1e-300:
        assert made.eps_in(float(exact)) == 0.0


@pytest.mark.parametrize("covered", [140, 150, 190, 199, 200])
def test_eps_in_is_rounded_down(covered: int) -> None:
    eps_in = ranks(200).eps_in(3 * covered + 1.0)
    # the shift that this eps_in needs is covered by the mass that the samples prove
    needed = bounds.gaussian_shift_up(0.6, eps_in / 0.5)
    tail = stats.binom.sf(covered - 1, 200, needed)
    assert eps_in > 0.0
    assert 0.05 * (1 - 1e-6) < tail <= 0.05


def test_an_abstention_certifies_nothing() -> None:
    made = certificate(np.zeros(100), abstained=True)
    assert made.abstained
    assert made.eps_out(0.0) == math.inf
    assert made.eps_in(math.inf) == 0.0
    assert made.eps_out([0.0, 0.1]).tolist() == [math.inf, math.inf]
    assert made.eps_in([0.0, 0.1]).tolist() == [0.0, 0.0]


def test_non_finite_outputs_lie_outside_every_ball() -> None:
    made = certificate([*np.arange(1.0, 181.0), *[math.inf] * 20])
    assert made.non_finite == 20
    assert made.eps_in(math.inf) == made.eps_in(1e9) > 0.0
    assert made.eps_in(math.inf) < certificate(np.arange(1.0, 201.0)).eps_in(1e9)
    assert math.isfinite(made.eps_out(0.0))
    assert made.eps_out(0.5) == math.inf


@pytest.mark.parametrize("bad", [-1.0, -1e-300, math.nan, [0.1, -0.1], [math.nan], -math.inf])
@pytest.mark.parametrize("name", ["eps_in", "eps_out"])
def test_negative_or_nan_arguments_are_refused(name: str, bad: float) -> None:
    ask = ranks(50).eps_out if name == "eps_in" else ranks(50).eps_in
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got"):
        ask(bad)


@pytest.mark.parametrize("bad", ["wide", None, [0.1, "x"], [[0.1]], [], {"eps": 1}])
@pytest.mark.parametrize("name", ["eps_in", "eps_out"])
def test_arguments_that_are_no_numbers_are_refused(name: str, bad: Any) -> None:  # noqa: ANN401
    ask = ranks(50).eps_out if name == "eps_in" else ranks(50).eps_in
    with pytest.raises(ValueError, match=f"{name} must be"):
        ask(bad)


def test_an_unknown_coverage_is_refused() -> None:
    for ask in (ranks(50).eps_out, ranks(50).eps_in):
        with pytest.raises(ValueError, match="coverage must be one of pointwise, bonferroni, dkw, got 'all'"):
            ask(0.1, coverage="all")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distances": np.arange(3.0)}, r"distances must have shape \(50,\) for this budget, got \(3,\)"),
        ({"distances": np.arange(50.0)[::-1]}, "distances must be at least 0, free of NaN and in ascending order"),
        ({"distances": np.full(50, math.nan)}, "distances must be"),
        ({"distances": np.arange(50.0) - 1}, "distances must be"),
        ({"sigma": 0.0}, "sigma must be a positive finite number, got 0.0"),
        ({"sigma": math.nan}, "sigma must be .* got nan"),
        ({"relaxation": 0.5}, r"relaxation must lie in \[1, inf\), got 0.5"),
        ({"relaxation": math.inf}, "relaxation must lie .* got inf"),
    ],
)
def test_a_certificate_checks_its_fields(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ranks(50), **changes)


@pytest.mark.parametrize("abstained", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_saving_and_loading_keeps_every_answer(tmp_path: Path, method: Method, abstained: bool) -> None:
    distances = [*np.random.default_rng(0).exponential(size=95) / 3, *[math.inf] * 5]
    made = certificate(distances, method=method, sigma=0.3, relaxation=2.0, abstained=abstained)
    made = dataclasses.replace(made, smoothing_loss=math.inf, output=dataclasses.replace(made.output, radius=math.inf))
    made.output.center.requires_grad_()
    made.save(tmp_path / "without_suffix")
    loaded = Certificate.load(str(tmp_path / "without_suffix"))
    for field in ("sigma", "relaxation", "budget", "smoothing_loss", "abstained", "non_finite", "factor"):
        assert getattr(loaded, field) == getattr(made, field)
    assert (loaded.output.radius, loaded.output.mass) == (made.output.radius, made.output.mass)
    assert torch.equal(loaded.center, made.center.double())
    assert np.array_equal(loaded.distances, made.distances)
    for coverage in ("pointwise", "bonferroni", "dkw"):
        grid = [0.0, 0.1, 0.2, 0.5]
        assert np.array_equal(loaded.eps_out(grid, coverage=coverage), made.eps_out(grid, coverage=coverage))
        assert np.array_equal(loaded.eps_in(grid, coverage=coverage), made.eps_in(grid, coverage=coverage))


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    described = '{"sigma": 1.0, "relaxation": 1.0, "budget": {"samples": 3}}'
    contents: list[dict[str, Any]] = [
        {"distances": np.zeros(3)},
        {"certificate": np.array("no json"), "distances": np.zeros(3), "center": np.zeros(2)},
        {"certificate": np.array("[1, 2]"), "distances": np.zeros(3), "center": np.zeros(2)},
        {"certificate": np.array(described), "distances": np.zeros(3), "center": np.zeros(2)},
        {"certificate": np.array(described), "distances": np.array(["x"]), "center": np.zeros(2)},
    ]
    for content in contents:
        np.savez(path, **content)
        with pytest.raises(ValueError, match=r"path must be a file written by Certificate\.save"):
            Certificate.load(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    path.write_text("distances,center\n1,2\n")
    torch.save({"distances": torch.zeros(3)}, tmp_path / "one.pt")
    for foreign in (tmp_path / "one.npy", path, tmp_path / "one.pt", tmp_path):
        with pytest.raises(ValueError, match=r"path must be a file written by Certificate\.save"):
            Certificate.load(foreign)


def test_a_file_from_before_there_were_probes_answers_by_t3(tmp_path: Path) -> None:
    path = tmp_path / "old.npz"
    made = ranks(500)
    made.save(path)
    with np.load(path) as arrays:
        content = dict(arrays)
    described = json.loads(str(content["certificate"]))
    for name in ("candidates", "tuple_sizes", "looks"):
        del described["budget"][name]
    del content["probe_sizes"]
    np.savez(path, **{**content, "certificate": np.array(json.dumps(described))})
    assert Certificate.load(path).eps_out([0.0, 0.1]).tolist() == made.eps_out([0.0, 0.1]).tolist()


class Trap:
    """Leaves a folder behind if it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / "one.npz"
    path.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(ValueError, match=r"path must be a file written by Certificate\.save"):
        Certificate.load(path)
    ranks(50).save(path)
    with np.load(path) as arrays:
        content = dict(arrays)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        Certificate.load(tmp_path / "nowhere.npz")
    for name in content:
        np.savez(path, **{**content, name: np.array([Trap(sprung)], dtype=object)})
        with pytest.raises(ValueError, match=r"path must be a file written by Certificate\.save"):
            Certificate.load(path)
    assert not sprung.exists()
    np.load(path, allow_pickle=True)[name]
    assert sprung.exists()  # the trap works
