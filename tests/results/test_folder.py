import csv
import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from center_smoothing import CenterSmoother, Certificate, Lp, SmoothingBudget
from results.folder import CertificationFolder
from results.rows import AttackedRow, Row
from results.summary import summarise

Write = Callable[..., CertificationFolder]
BUDGET = SmoothingBudget(n=60, m=120, k=8, delta=0.4)
HEADER = "index,sigma,eps_in,eps_out,smoothing_loss,abstained,n,m,delta,method,theorem,seconds\n"

positive = st.floats(min_value=0.0, exclude_min=True, allow_infinity=False, allow_nan=False)
radii = st.floats(min_value=0.0, allow_nan=False)
rows = st.builds(
    Row,
    index=st.integers(0, 2**53),
    sigma=positive,
    eps_in=st.floats(min_value=0.0, allow_infinity=False, allow_nan=False),
    eps_out=radii | st.just(math.inf),
    smoothing_loss=radii | st.just(math.inf),
    abstained=st.booleans(),
    n=st.integers(1, 10**9),
    m=st.integers(1, 10**9),
    delta=st.floats(min_value=1e-9, max_value=0.4999),
    method=st.sampled_from(["exact", "paper"]),
    theorem=st.sampled_from(["", "none", "T3", "T7 J=1", "T7 J=1+3", "T12"]),
    seconds=st.integers(0, 10**7).map(lambda milliseconds: milliseconds / 1000),
)


def row(index: int = 0, eps_in: float = 0.25, eps_out: float = 1.5, **kwargs: Any) -> Row:  # noqa: ANN401
    given = {"smoothing_loss": 0.5, "abstained": False, "seconds": 1.0, **kwargs}
    common = {"sigma": 0.25, "n": 60, "m": 120, "delta": 0.4, "method": "exact", "theorem": "T3"}
    return Row(index=index, eps_in=eps_in, eps_out=eps_out, **common, **given)


def line(value: Row) -> str:
    return ",".join(value.as_text()) + "\n"


def touch(folder: CertificationFolder, *indices: int) -> None:
    for index in indices:
        folder.distances(index).touch()
        folder.outputs(index).touch()


@cache
def certify(count: int) -> dict[int, Certificate]:
    """Certificates of a function of vectors; the last one abstained."""
    smoother = CenterSmoother(lambda x: x.tanh(), Lp(2.0), sigma=0.25, budget=BUDGET, batch_size=64)
    x = torch.linspace(-1, 1, 3 * count).reshape(count, 3)
    found = {number: smoother.certify(x[number], example=number) for number in range(count)}
    last = found[count - 1]
    found[count - 1] = replace(last, output=replace(last.output, abstained=True), smoothing_loss=math.inf)
    return found


def test_columns_are_in_the_documented_order() -> None:
    assert ",".join(field.name for field in fields(Row)) + "\n" == HEADER


@given(rows)
def test_row_comes_back_from_its_text_with_all_digits(value: Row) -> None:
    (cells,) = csv.reader([line(value)])
    assert Row.from_text(cells) == value


@given(rows)
def test_row_cut_off_before_its_last_cell_is_none(value: Row) -> None:
    text = line(value).rstrip("\n")
    last = text.rindex(",")
    for end in range(1, last + 1):
        assert Row.from_text(text[:end].split(",")) is None


NO_ROWS = ["", HEADER, "a,b,c", "x,0.25,0.25,1.5,0.5,True,60,120,0.4,exact,1.0", "1" + ",1.0" * 10, "1" * 11]


@pytest.mark.parametrize("text", [*NO_ROWS, "1,0.25,0.25,1.5,0.5,True,60,120,0.4,exact,T3,1"])
def test_other_text_is_no_row(text: str) -> None:
    assert Row.from_text(text.rstrip("\n").split(",")) is None


def test_appended_rows_stand_below_one_header(folder: CertificationFolder) -> None:
    folder.append([row(0), row(0, 0.5)])
    folder.append([row(1, eps_out=math.inf)])
    expected = HEADER + line(row(0)) + line(row(0, 0.5)) + line(row(1, eps_out=math.inf))
    assert folder.table.read_text() == expected
    assert folder.rows() == [row(0), row(0, 0.5), row(1, eps_out=math.inf)]


def test_empty_folder_has_no_rows(folder: CertificationFolder) -> None:
    assert folder.rows() == []
    assert folder.finished([0.25]) == set()


def test_line_torn_anywhere_is_ignored(folder: CertificationFolder) -> None:
    torn = line(row(45, 0.5, 12.5))
    for end in range(len(torn)):
        folder.table.write_text(HEADER + line(row(0)) + torn[:end])
        assert folder.rows() == [row(0)]
    for end in range(len(HEADER)):
        folder.table.write_text(HEADER[:end])
        assert folder.rows() == []


@pytest.mark.parametrize("end", [1, 2, 10, 40])
def test_row_appended_below_a_torn_line_is_kept_as_it_is(end: int, folder: CertificationFolder) -> None:
    folder.table.write_text(HEADER + line(row(0)) + line(row(45))[:end])
    folder.append([row(7), row(8)])
    assert folder.rows() == [row(0), row(7), row(8)]


def test_rows_of_all_processes_are_found(folder: CertificationFolder) -> None:
    folder.append([row(0)])
    folder.append([row(1)], part="rank0")
    folder.append([row(2)], part="rank1")
    names = sorted(path.name for path in folder.path.glob("*.csv"))
    assert names == ["certificates.csv", "certificates.rank0.csv", "certificates.rank1.csv"]
    assert folder.rows() == [row(0), row(1), row(2)]


def test_of_duplicates_the_first_counts(folder: CertificationFolder) -> None:
    folder.append([row(0, eps_out=1.0), row(0, eps_out=2.0)])
    folder.append([row(0, eps_out=3.0), row(0, 0.5)], part="rank0")
    assert folder.rows() == [row(0, eps_out=1.0), row(0, 0.5)]


def test_merge_orders_by_example_and_radius(folder: CertificationFolder) -> None:
    folder.append([row(1, 0.5), row(1, 0.25)])
    folder.append([row(9, 0.25), row(9, 0.5), row(9, 0.5)], part="rank1")
    folder.append([row(4, 0.25)], part="rank0")
    expected = [row(9, 0.25), row(9, 0.5), row(4, 0.25), row(1, 0.25), row(1, 0.5)]
    assert folder.merge([9, 4, 7, 1], [0.25, 0.5]) == expected
    assert folder.table.read_text() == HEADER + "".join(map(line, expected))
    assert folder.rows() == expected


def test_merge_removes_the_files_of_the_processes_and_nothing_else(folder: CertificationFolder) -> None:
    folder.write_summary({"config": {}})
    folder.append([row(4)], part="rank0")
    folder.append([row(5)], part="rank13")
    folder.merge([4, 5], [0.25])
    names = sorted(path.name for path in folder.path.iterdir())
    assert names == ["certificates.csv", "distances", "outputs", "summary.json"]


def test_merge_again_changes_nothing(folder: CertificationFolder) -> None:
    folder.append([row(1), row(0)])
    folder.merge([0, 1], [0.25])
    before = folder.table.read_bytes()
    folder.merge([0, 1], [0.25])
    assert folder.table.read_bytes() == before


def test_merge_of_nothing_leaves_a_header(folder: CertificationFolder) -> None:
    assert folder.merge([0, 1], [0.25]) == []
    assert folder.table.read_text() == HEADER


def test_finished_needs_rows_distances_and_outputs(folder: CertificationFolder) -> None:
    for index in range(5):
        folder.append([row(index, 0.25), row(index, 0.5)])
    folder.append([row(5, 0.25)])
    touch(folder, 0, 1, 4, 5, 6)
    folder.distances(2).touch()
    folder.outputs(3).touch()
    assert folder.finished([0.25, 0.5]) == {0, 1, 4}
    assert folder.finished([0.25]) == {0, 1, 4, 5}
    assert folder.finished([0.25, 0.75]) == set()


def test_summary_comes_back_with_inf_and_all_digits(folder: CertificationFolder) -> None:
    summary = {
        "config": {"sigma": 0.1 + 0.2, "budget": BUDGET.as_dict()},
        "results": [{"eps_in": 1 / 3, "median_eps_out": math.inf}],
    }
    folder.write_summary(summary)
    assert folder.read_summary() == summary
    assert "Infinity" in folder.summary.read_text()


def test_no_summary_is_none(tmp_path: Path, folder: CertificationFolder) -> None:
    assert folder.read_summary() is None
    assert CertificationFolder(tmp_path / "none").read_summary() is None
    (tmp_path / "file").touch()
    assert CertificationFolder(tmp_path / "file").read_summary() is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"3", b'"config"', b'{"results": []}', b'{"config": 3}', b"\xff\xfe\x00"]
)
def test_damaged_summary_is_refused_with_its_path(content: bytes, folder: CertificationFolder) -> None:
    folder.summary.write_bytes(content)
    with pytest.raises(ValueError, match=r"summary\.json is not the summary of a certification") as refused:
        folder.read_summary()
    assert str(folder.summary) in str(refused.value)


def test_summary_is_written_as_a_whole_or_not_at_all(folder: CertificationFolder) -> None:
    folder.write_summary({"config": {"sigma": 1.0}})
    with pytest.raises(TypeError):
        folder.write_summary({"config": object()})
    assert folder.read_summary() == {"config": {"sigma": 1.0}}
    assert [path.name for path in folder.path.iterdir() if path.is_file()] == ["summary.json"]


def test_summarise_takes_the_upper_median_by_eps_in() -> None:
    assert summarise([], sigma=0.25) == []
    values = [5.0, 1.0, 0.1 + 0.2 + 2.7, 2.0]
    found = summarise(
        [row(index, radius, value + radius, smoothing_loss=value) for index, value in enumerate(values)
         for radius in (0.5, 0.25)], sigma=0.25,
    )  # fmt: skip
    assert found == [
        {
            "eps_in": eps_in,
            "h": eps_in / 0.25,
            "median_eps_out": values[2] + eps_in,
            "median_smoothing_loss": values[2],
            "abstention_rate": 0.0,
            "num_examples": 4,
        }
        for eps_in in (0.5, 0.25)
    ]


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([1.0], 1.0),
        ([1.0, 2.0], 2.0),
        ([math.inf, 1.0], math.inf),
        ([math.inf, 1.0, 2.0], 2.0),
        ([math.inf, 1.0, math.inf, 2.0], math.inf),
        ([math.inf] * 3, math.inf),
    ],
)
def test_missing_certificates_count_as_inf_in_the_median(values: list[float], median: float) -> None:
    (result,) = summarise([row(index, eps_out=value) for index, value in enumerate(values)], sigma=0.25)
    assert result["median_eps_out"] == median


def test_abstention_rate_counts_abstentions_and_not_missing_certificates() -> None:
    abstained = row(1, eps_out=math.inf, smoothing_loss=math.inf, abstained=True)
    (result,) = summarise([row(0), abstained, row(2, eps_out=math.inf), row(3), row(4)], sigma=0.25)
    assert (result["abstention_rate"], result["num_examples"]) == (0.2, 5)


@pytest.mark.parametrize("coverage", ["pointwise", "bonferroni", "dkw"])
def test_certificates_from_disk_answer_as_the_original_ones(coverage: Any, write_folder: Write, tmp_path: Path) -> None:  # noqa: ANN401
    certificates = certify(4)
    found = write_folder(tmp_path, certificates, eps_in=[0.1, 0.2]).certificates()
    assert list(found) == [0, 1, 2, 3]
    questions = [0.0, 0.05, 0.1, 0.17, 0.3, 5.0]
    for original, loaded in zip(certificates.values(), found.values(), strict=True):
        answers = original.eps_out(questions, coverage=coverage)
        np.testing.assert_array_equal(loaded.eps_out(questions, coverage=coverage), answers)
        np.testing.assert_array_equal(
            loaded.eps_in([0.1, 2.0], coverage=coverage), original.eps_in([0.1, 2.0], coverage=coverage)
        )
        assert loaded.smoothing_loss == original.smoothing_loss
        assert loaded.abstained == original.abstained
        assert torch.equal(loaded.center, original.center)
    assert np.all(np.isinf(np.asarray(found[3].eps_out(questions))))
    assert np.isfinite(found[0].eps_out(0.1))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("this is no array\n"),
    "pickled": lambda path: np.save(path.open("wb"), np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "fewer": lambda path: np.save(path.open("wb"), np.zeros(3)),
}


@pytest.fixture
def two(write_folder: Write, tmp_path: Path) -> CertificationFolder:
    return write_folder(tmp_path, certify(2))


@pytest.mark.parametrize(
    ("which", "damage"),
    [
        (which, damage)
        for which in ("distances", "outputs")
        for damage in DAMAGES
        if (which, damage) != ("outputs", "fewer")
    ],
)
def test_damaged_arrays_are_refused_with_the_folder(which: str, damage: str, two: CertificationFolder) -> None:
    DAMAGES[damage](getattr(two, which)(1))
    with pytest.raises(ValueError, match=f"{two.path} holds a damaged certification"):
        two.certificates()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"budget": BUDGET.as_dict()},
        {"relaxation": 1.0},
        {"budget": 3, "relaxation": 1.0},
        {"budget": {**BUDGET.as_dict(), "m": 10}, "relaxation": 1.0},
        {"budget": {**BUDGET.as_dict(), "delta": 0.9}, "relaxation": 1.0},
        {"budget": {**BUDGET.as_dict(), "other": 1}, "relaxation": 1.0},
        {"budget": BUDGET.as_dict(), "relaxation": "wide"},
        {"budget": BUDGET.as_dict(), "relaxation": None},
    ],
)
def test_damaged_configuration_is_refused_with_the_folder(config: dict[str, Any], two: CertificationFolder) -> None:
    two.summary.write_text(json.dumps({"config": config}))
    with pytest.raises(ValueError, match=f"{two.path} holds a damaged certification"):
        two.certificates()


def test_nothing_is_written_before_a_method_is_called(tmp_path: Path) -> None:
    CertificationFolder(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_rows_from_before_there_were_theorems_are_read(folder: CertificationFolder) -> None:
    attacked = AttackedRow(**vars(row(2)), attack_eps=0.75, attack_ratio=0.5, base_attack_eps=2.0)
    given = [row(0), row(1, eps_out=math.inf), attacked]
    old = [",".join(cell for place, cell in enumerate(each.as_text()[:15]) if place != 10) + "\n" for each in given]
    folder.table.write_text(HEADER.replace("theorem,", "") + "".join(old))
    assert folder.rows() == [replace(each, theorem="") for each in given]
    folder.append([row(3)])
    assert folder.rows()[-1] == row(3)
    touch(folder, 0, 1, 2, 3)
    folder.merge([0, 1, 3], [0.25])
    assert folder.table.read_text().splitlines(keepends=True)[0] == HEADER
    assert folder.rows() == [replace(given[0], theorem=""), replace(given[1], theorem=""), row(3)]


@pytest.mark.parametrize("theorem", ["T", "T3,", "3", "T7 J=1,3", "<b>T3</b>", "nan", "t3"])
def test_a_theorem_is_one_of_ours(theorem: str) -> None:
    cells = row(0).as_text()
    cells[10] = theorem
    assert Row.from_text(cells) is None
