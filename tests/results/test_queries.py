import csv
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from center_smoothing import CenterSmoother, Certificate, Lp, SmoothingBudget
from center_smoothing.budget import COVERAGES
from center_smoothing.promise import promise_line
from results import numbers, queries
from results.finished import Answers, FinishedCertification, Question
from results.folder import CertificationFolder

BUDGET = SmoothingBudget(n=60, m=400, k=8, delta=0.2, alpha_1=0.1, alpha_2=0.1)
Write = Callable[..., CertificationFolder]


@cache
def certify(count: int) -> dict[int, Certificate]:
    """Certificates of a function of vectors by index; that of index 3 abstained."""
    smoother = CenterSmoother(lambda x: x.tanh(), Lp(2.0), sigma=0.25, budget=BUDGET, batch_size=64)
    x = torch.linspace(-2, 2, 3 * count).reshape(count, 3)
    found = {number: smoother.certify(x[number], example=number) for number in range(count)}
    if 3 in found:
        output = replace(found[3].output, abstained=True)
        found[3] = replace(found[3], output=output, smoothing_loss=math.inf)
    return found


@pytest.fixture
def write(tmp_path: Path, write_folder: Write) -> Write:
    """Writes a folder of so many certified examples."""

    def write(count: int = 4, **config: Any) -> CertificationFolder:  # noqa: ANN401  # whatever JSON holds
        return write_folder(tmp_path / "certification", certify(count), **{"distance": "Lp(p=2.0)", **config})

    return write


def ask(folder: CertificationFolder, *questions: Question) -> list[Answers]:
    return list(FinishedCertification.open(folder).read(*questions).answers.values())


def cells(lines: list[str]) -> dict[str, list[str]]:
    """Cells of the lines of a table by their first one."""
    return {line.split()[0]: line.split()[1:] for line in lines}


@given(st.floats(min_value=0.0, max_value=1e9) | st.floats(min_value=0.0, max_value=1.0))
def test_input_radii_are_never_shown_larger(value: float) -> None:
    shown = float(numbers.format_down(value))
    assert 0.0 <= shown <= value
    assert shown >= 0.99 * value or value - shown <= 0.011 * (value >= 1.0) + 1e-12


@given(st.floats(min_value=0.0, max_value=1e12), st.integers(0, 4))
def test_rounded_down_is_not_above_and_above_the_next_lower_number(value: float, digits: int) -> None:
    text = numbers.rounded_down(value, digits)
    assert 0.0 <= float(text) <= value
    assert len(text.partition(".")[2]) == digits
    assert value - float(text) <= 10.0**-digits * (1.0 + 1e-9) + 1e-15 * value


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (0.29, "0.290"), (1.999, "1.99"), (2.0, "2.00"), (0.00499, "0.00499"), (0.9999, "0.999")],
)
def test_down_looks_like_this(value: float, text: str) -> None:
    assert numbers.format_down(value) == text


@given(st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_shares_are_never_shown_larger(share: tuple[int, int]) -> None:
    count, total = share
    shown = float(numbers.percent(count, total).rstrip("%"))
    assert shown <= 100 * count / total + 1e-12
    assert (shown == 100.0) == (count == total)


@pytest.mark.parametrize("coverage", COVERAGES)
def test_answers_are_those_of_the_certificates(coverage: Any, write: Write) -> None:  # noqa: ANN401
    eps_in, eps_out = (0.05, 0.1, 0.2), (0.5, 0.9, 1.5)
    forth, back = ask(write(), Question("eps_in", eps_in, coverage), Question("eps_out", eps_out, coverage))
    for index, certificate in certify(4).items():
        np.testing.assert_array_equal(forth.by_index[index], certificate.eps_out(eps_in, coverage=coverage))
        np.testing.assert_array_equal(back.by_index[index], certificate.eps_in(eps_out, coverage=coverage))
    assert forth.by_index[3] == (math.inf,) * 3
    assert back.by_index[3] == (0.0,) * 3
    assert max(back.by_index[0]) > 0.0
    assert (forth.asked, back.asked, forth.sigma) == ("eps_in", "eps_out", 0.25)


def test_bonferroni_pays_for_all_questions_of_a_table(write: Write) -> None:
    many = (0.9, *np.linspace(1.0, 2.0, 30).tolist())
    alone, among = ask(write(), *(Question("eps_out", radii, "bonferroni") for radii in ((0.9,), many)))
    assert among.by_index[0][0] < alone.by_index[0][0]


@pytest.mark.parametrize("radius", [-1.0, math.nan])
def test_negative_radii_and_nan_are_refused(radius: float, write: Write) -> None:
    folder, names = write(), ("eps_in", "eps_out")
    for name in names:
        with pytest.raises(ValueError, match=f"{name} must be at least 0"):
            ask(folder, Question(name, (0.1, radius), "pointwise"))


def table(asked: Any, by_index: dict[int, tuple[float, ...]], *radii: float) -> Answers:  # noqa: ANN401
    return Answers(asked, radii, "pointwise", by_index, 0.25)


def test_input_radii_are_shown_rounded_down_with_abstentions_in_median_and_share() -> None:
    found = table("eps_out", {7: (0.0, 0.1239), 9: (0.0, 0.5679), 4: (0.45678, 1.239), 2: (0.0, 0.0)}, 40.0, 60.5)
    heading, *lines = queries.table_lines(found)
    assert heading == "largest certified input radius eps_in, rounded down; 0: no certificate"
    assert cells(lines) == {
        "index": ["eps_out=40", "eps_out=60.5"],
        "7": ["0.00", "0.123"],
        "9": ["0.00", "0.567"],
        "4": ["0.456", "1.23"],
        "2": ["0.00", "0.00"],
        "median": ["0.00", "0.123"],
        "certified": ["25%", "75%"],
    }
    assert len(set(map(len, lines))) == 1


def test_output_radii_are_shown_rounded_up_with_the_upper_median() -> None:
    found = table("eps_in", {7: (60.001, math.inf), 9: (50.0, 70.0)}, 0.1, 0.123456)
    heading, *lines = queries.table_lines(found)
    assert heading == "certified output radius eps_out, rounded up; inf: no certificate"
    assert cells(lines) == {
        "index": ["eps_in=0.1", "eps_in=0.123456"],
        "7": ["60.01", "inf"],
        "9": ["50.00", "70.00"],
        "median": ["60.01", "inf"],
    }
    assert len(set(map(len, lines))) == 1


def test_shares_of_the_examples_have_a_line_for_each_radius() -> None:
    by_index = {index: (float(index) + 0.001, 2.0 * index if index < 7 else math.inf) for index in range(1, 11)}
    heading, *lines = queries.fraction_lines(table("eps_in", by_index, 0.1, 0.7))
    assert heading.startswith("least eps_out to which that share of the examples is certified, rounded up")
    assert cells(lines) == {
        "eps_in": ["25%", "median", "75%", "90%", "certified"],
        "0.1": ["3.01", "6.01", "8.01", "9.01", "100%"],
        "0.7": ["6.00", "12.00", "inf", "inf", "60%"],
    }
    assert len(set(map(len, lines))) == 1


@pytest.mark.parametrize("coverage", COVERAGES)
def test_it_is_said_which_promise_is_made(coverage: Any, write: Write) -> None:  # noqa: ANN401
    folder = write()
    questions = Question("eps_in", (0.1,), coverage), Question("eps_out", (0.9,), coverage)
    found = queries.lines(FinishedCertification.open(folder).read(*questions))
    assert found[0] == f"4 examples of {folder.path}, sigma=0.25, without sampling"
    assert sum(line.split()[0] == "median" for line in found) == 2
    assert found[-1] == promise_line(BUDGET, "Lp(p=2.0)", coverage=coverage)
    assert "probability at least 0.8 " in found[-1]


def test_a_table_has_every_answer_with_all_digits(write: Write, tmp_path: Path) -> None:
    forth, back = ask(write(), Question("eps_in", (0.1, 1 / 3), "dkw"), Question("eps_out", (0.9,), "dkw"))
    queries.write_table([forth, back], tmp_path / "new" / "answers.csv")
    header, *rows = csv.reader((tmp_path / "new" / "answers.csv").read_text().splitlines())
    assert header == ["index", "asked", "eps_in", "eps_out", "coverage"]
    assert len(rows) == 4 * 3
    assert {row[4] for row in rows} == {"dkw"}
    for index, asked, eps_in, eps_out, _ in rows:
        if asked == "eps_in":
            assert forth.by_index[int(index)][forth.radii.index(float(eps_in))] == float(eps_out)
        else:
            assert float(eps_out) == 0.9
            assert back.by_index[int(index)] == (float(eps_in),)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("answers.txt", "--out must be a file that ends in .csv with --from"),
        ("certification", "--out must be a file that ends in .csv with --from"),
        ("certification/certificates.csv", "--out must be another file"),
        ("certification/certificates.rank0.csv", "--out must be another file"),
        ("certification/certified_fraction.csv", "--out must be another file"),
    ],
)
def test_a_table_replaces_no_file_of_a_certification(name: str, words: str, write: Write, tmp_path: Path) -> None:
    write()
    with pytest.raises(ValueError, match=words):
        queries.check_table(tmp_path / name)
    queries.check_table(tmp_path / "certification" / "answers.csv")
    queries.check_table(tmp_path / "certificates.csv")


def test_a_table_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--out must be a file that can be written, got .*answers\.csv: "):
        queries.write_table([], tmp_path / "file" / "answers.csv")


def test_an_unfinished_folder_is_refused(write: Write) -> None:
    folder = write(2, num_examples=5)
    with pytest.raises(ValueError, match=r"--from must be a finished folder, got .*: 2 of 5 examples are certified"):
        FinishedCertification.open(folder)


def test_a_folder_without_an_example_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match="holds no finished example"):
        FinishedCertification.open(write(0))


@pytest.mark.parametrize("parts", [[], ["a", "b"]])
@pytest.mark.parametrize(("key", "named"), [("sigma", "noise level"), ("smoother", "smoother")])
def test_a_folder_of_several_is_refused(key: str, named: str, parts: list[str], write: Write) -> None:
    folder = write(**{key: ["a", "b"]})
    for part in parts:
        (folder.path / part / "distances").mkdir(parents=True)
    with pytest.raises(ValueError, match=f"--from must be the folder of one {named}") as refused:
        FinishedCertification.open(folder)
    assert all(part in str(refused.value) for part in [str(folder.path / part) for part in parts] or ["once they are"])


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--from must be a folder that certify\.py wrote"):
        FinishedCertification.open(CertificationFolder(tmp_path))
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ValueError, match="is not the summary of a certification"):
        FinishedCertification.open(CertificationFolder(tmp_path))
