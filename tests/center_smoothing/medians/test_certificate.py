"""Certificates of medians: answers both ways, boxes that grow, and the way to disk and back."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from center_smoothing import Lp, MedianBudget, MedianCertificate, MedianSmoother
from center_smoothing.budget import Coverage

SIGMA = 0.5
BUDGET = MedianBudget(n=101, m=500)


@pytest.fixture(scope="module")
def certificate() -> MedianCertificate:
    smoother = MedianSmoother(lambda z: z.reshape(-1, 2, 2) ** 3, Lp(1), sigma=SIGMA, budget=BUDGET, batch_size=64)
    return smoother.certify(torch.tensor([0.0, 0.5, 1.0, -1.0]))


def test_radii_and_boxes_grow_with_eps_in(certificate: MedianCertificate) -> None:
    asked = np.linspace(0.0, 0.8, 41)
    radii = certificate.eps_out(asked)
    assert bool(np.all(np.diff(radii) >= 0.0))
    assert radii[0] > 0.0
    boxes = [certificate.box(eps_in) for eps_in in asked.tolist()]
    for (low, high), (lower, higher) in itertools.pairwise(boxes):
        assert bool((lower <= low).all() and (high <= higher).all())


def test_radii_are_those_of_the_boxes(certificate: MedianCertificate) -> None:
    for eps_in in (0.0, 0.21, 0.5):
        low, high = certificate.box(eps_in)
        low, high = torch.minimum(low, certificate.center), torch.maximum(high, certificate.center)
        far = torch.maximum(high - certificate.center, certificate.center - low).double()
        assert certificate.eps_out(eps_in) == pytest.approx(float(far.sum()), rel=1e-6)


def test_between_two_kept_ranks_the_larger_one_answers(certificate: MedianCertificate) -> None:
    assert certificate.eps_out(0.51 * SIGMA) == certificate.eps_out(0.549 * SIGMA) == certificate.eps_out(0.55 * SIGMA)
    assert certificate.eps_out(0.5 * SIGMA) < certificate.eps_out(0.51 * SIGMA)


def test_input_radii_are_the_largest_with_their_output_radius(certificate: MedianCertificate) -> None:
    for eps_out in (certificate.eps_out(0.3), certificate.eps_out(0.5) * 1.001, 1e9):
        eps_in = certificate.eps_in(eps_out)
        assert certificate.eps_out(eps_in) <= eps_out
        assert certificate.eps_out(eps_in * (1 + 1e-9) + 1e-9) > eps_out
    assert certificate.eps_in(0.0) == 0.0


def test_beyond_what_m_outputs_can_bound_there_is_no_certificate(certificate: MedianCertificate) -> None:
    assert certificate.eps_out(5.0 * SIGMA) == math.inf
    assert all(bool(torch.isinf(end).all()) for end in certificate.box(5.0 * SIGMA))


@pytest.mark.parametrize("coverage", ["bonferroni", "dkw"])
def test_wider_coverage_gives_larger_radii(certificate: MedianCertificate, coverage: Coverage) -> None:
    asked = [0.1, 0.2, 0.3]
    assert bool(np.all(certificate.eps_out(asked, coverage=coverage) > certificate.eps_out(asked)))
    low, high = certificate.box(0.2, coverage="dkw")
    narrower = certificate.box(0.2)
    assert bool((low <= narrower[0]).all() and (narrower[1] <= high).all())


def test_a_file_brings_it_back(certificate: MedianCertificate, tmp_path: Path) -> None:
    certificate.save(tmp_path / "certificate.npz")
    read = MedianCertificate.load(tmp_path / "certificate.npz")
    asked = np.linspace(0.0, 1.0, 21)
    assert read.eps_out(asked).tolist() == certificate.eps_out(asked).tolist()
    assert all(torch.equal(a, b) for a, b in zip(read.box(0.3), certificate.box(0.3), strict=True))
    assert (read.budget, read.sigma, read.smoothing_loss) == (
        BUDGET.for_output(read.center),
        SIGMA,
        read.smoothing_loss,
    )
    assert read.theorem(0.3) == "T14"


def test_bfloat16_comes_back_as_the_same_numbers(tmp_path: Path) -> None:
    smoother = MedianSmoother(lambda z: z.bfloat16(), Lp(2), sigma=SIGMA, budget=BUDGET, batch_size=64)
    certificate = smoother.certify(torch.zeros(3))
    certificate.save(tmp_path / "certificate.npz")
    read = MedianCertificate.load(tmp_path / "certificate.npz")
    assert torch.equal(read.high, certificate.high.float())
    assert read.eps_out(0.25) == certificate.eps_out(0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radii": np.zeros(3)}, r"radii must have shape \(\d+,\), be at least 0 and ascend, got \(3,\)"),
        ({"low": torch.zeros(3, 2, 2)}, r"low must have shape \(\d+, 2, 2\), got \(3, 2, 2\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    certificate: MedianCertificate, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(certificate, **changes)
    with pytest.raises(ValueError, match="radii must have"):
        replace(certificate, radii=certificate.radii[::-1])
    with pytest.raises(ValueError, match="low must nowhere be above high"):
        replace(certificate, low=certificate.high + 1.0)
