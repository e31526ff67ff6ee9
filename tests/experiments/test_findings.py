import math

import pytest

from experiments.findings import findings
from experiments.medians import Median
from experiments.plan import Point


def point(h: float, eps_in: float, eps_out: float, loss: float = 1.0) -> Point:
    return Point(
        h=h,
        eps_in=eps_in,
        sigma=eps_in / h,
        training_sigma=0.1,
        eps_out=Median(eps_out, eps_out, eps_out),
        smoothing_loss=Median(loss, loss, loss),
        abstention_rate=0.0,
        num_examples=1,
    )


AS_IN_THE_PAPER = [point(1, 0.2, 20.0), point(1, 0.4, 30.0), point(2, 0.2, 10.0), point(2, 0.4, 15.0)]


def test_what_holds_everywhere_is_said() -> None:
    assert all(line.endswith(": everywhere") for line in findings(AS_IN_THE_PAPER))


@pytest.mark.parametrize(
    ("number", "changed", "named"),
    [
        (0, point(2, 0.4, 10.0), "h=2"),
        (0, point(2, 0.4, 9.0), "eps_in=0.4"),
        (1, point(2, 0.2, 20.0), "eps_in=0.2"),
        (1, point(2, 0.2, 25.0), "25.0000"),
        (2, point(2, 0.4, 15.0, loss=15.0), "loss 15"),
        (2, point(2, 0.4, math.inf), "inf"),
    ],
)
def test_what_does_not_hold_is_said_with_its_place_and_figures(number: int, changed: Point, named: str) -> None:
    points = [changed if (p.h, p.eps_in) == (changed.h, changed.eps_in) else p for p in AS_IN_THE_PAPER]
    line = findings(points)[number]
    assert ": not at " in line
    assert named in line


def test_one_point_alone_has_nothing_to_compare() -> None:
    said = [line.rsplit(": ", 1)[1] for line in findings([point(1, 0.2, 5.0)])]
    assert said == ["nothing to compare", "nothing to compare", "everywhere"]
