"""What certified radii are compared with: distances of outputs from zeros, and from each other."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from center_smoothing import Angular, BoxJaccard, Distance, FunctionDistance, Lp, TotalVariation
from results.finished import FinishedCertification
from results.folder import CertificationFolder
from results.identity import distance_config, known_distance
from results.terminal import result_lines
from results.yardstick import Yardstick

OUTPUTS = np.array([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, 0.0]])


def measured(distance: Distance | None, outputs: np.ndarray = OUTPUTS) -> Yardstick:
    yardstick = Yardstick(distance)
    for index, output in enumerate(outputs):
        yardstick.add(index, output)
    return yardstick


def test_outputs_are_compared_with_zeros_and_with_each_other() -> None:
    yardstick = measured(Lp(2.0))
    assert yardstick.to_blank == {0: 5.0, 1: 1.0, 2: 10.0, 3: 0.0}
    assert yardstick.median_to_blank == 1.0  # the lower one: a share of it is never too small
    between = sorted(math.dist(one, other) for one, other in combinations(OUTPUTS, 2))
    assert yardstick.between == pytest.approx(between[2])
    assert yardstick.results(2.0)["relative_eps_out"] == 2.0 / yardstick.between


def refuse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("not today")


@pytest.mark.parametrize("distance", [None, BoxJaccard(), TotalVariation(), FunctionDistance(refuse, relaxation=1.0)])
def test_there_is_none_where_it_would_say_nothing(distance: Distance | None) -> None:
    assert measured(distance, np.ones((3, 4))).results(1.0) == {}


def test_a_blank_output_and_a_single_example_are_left_out_where_they_say_nothing() -> None:
    assert measured(Angular(), OUTPUTS[:3]).median_to_blank is None
    assert measured(Angular(), OUTPUTS[:3]).between is not None
    assert set(measured(Lp(1.0), OUTPUTS[:1]).results(1.0)) == {"median_to_blank"}
    not_finite = np.array([[1.0, 2.0], [np.nan, 0.0]])
    assert measured(Lp(1.0), not_finite).results(1.0) == {"median_to_blank": 3.0}


def test_an_older_folder_has_one_and_its_medians_are_shares_of_it() -> None:
    older = {"distance": repr(Lp(2.0))}
    assert known_distance(older) == known_distance(distance_config(Lp(2.0)))
    assert known_distance({}) is known_distance({"distance": "my_distance"}) is None
    assert FinishedCertification(CertificationFolder("none"), {}, []).yardstick.results(1.0) == {}


def test_the_table_has_the_share_rounded_up_and_a_line_that_explains_it() -> None:
    result = {"h": 1.0, "eps_in": 0.25, "median_eps_out": 2.0, "median_smoothing_loss": 1.0, "abstention_rate": 0.0}
    result |= {"num_examples": 4, **measured(Lp(2.0)).results(2.0)}
    table = result_lines([result, {**result, "h": 2.0, "eps_in": 0.5}])
    assert table[0].split()[4] == "relative"
    assert table[1].split()[3] == "40.0%"
    assert table[3] == (
        "yardstick: a smoothed output is 1 from a blank one (zeros) and 5 from that of another example (medians); "
        "relative: eps_out / 5"
    )
    other = {**result, "eps_in": 1.0, "median_to_blank": 7.0}
    assert [line.split(":")[0] for line in result_lines([result, other])[3:]] == [
        "yardstick of sigma=0.25",
        "yardstick of sigma=1",
    ]
