"""What is promised, in the words of one function: on the terminal, in reports and in what is to be read."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from center_smoothing import Angular, MeanBudget, SmoothingBudget, TotalVariation
from center_smoothing.budget import COVERAGES, Coverage
from center_smoothing.promise import promise, promise_line

ROOT = Path(__file__).parents[2]
BUDGET, MEAN_BUDGET = SmoothingBudget(n=1000, m=2000), MeanBudget(n=100, m=1000)
# What all changed inputs at once would be (docs/theory.md denies it).
ALL_AT_ONCE = r"no change of|[Ww]hatever (x'|change|(changed )?\w+ within)|any attack of"


def words_of(path: Path) -> str:
    return " ".join(path.read_text().replace("`", "").split())


@pytest.mark.parametrize("coverage", COVERAGES)
@pytest.mark.parametrize("budget", [BUDGET, MEAN_BUDGET])
def test_it_is_over_one_change_fixed_beforehand_at_one_sigma(budget: Any, coverage: Coverage) -> None:  # noqa: ANN401
    line = promise_line(budget, Angular(), coverage=coverage)
    label = "mean" if budget is MEAN_BUDGET else coverage
    assert line.startswith(f"promise ({label}): {promise(Angular(), '0.99')}; it holds for ")
    assert "one change of it by at most eps_in (l2 norm), fixed beforehand" in line
    assert "unless one of the two abstains" in line
    assert "\n" not in line
    assert not re.search(ALL_AT_ONCE, line)
    assert ("each answer by itself" in line) == (label == "pointwise") != ("at one sigma" in line)


@pytest.mark.parametrize("alpha", [0.005, 0.000123456, 1e-5, 1e-9])
def test_it_never_claims_a_higher_probability_than_holds(alpha: float) -> None:
    budget = SmoothingBudget(alpha_1=alpha, alpha_2=alpha)
    (probability,) = re.findall(r"at least ([\d.]+\d)", promise_line(budget, TotalVariation(), coverage="pointwise"))
    assert Decimal(probability) <= 1 - 2 * Decimal(alpha) + Decimal("1e-15")
    assert Decimal(probability) < 1


@pytest.mark.parametrize(
    ("name", "confidence"),
    [
        ("README.md", "1 - alpha"),
        ("docs/index.md", "0.99"),
        ("docs/reading_a_certificate.md", "1 - alpha"),
        ("docs/examples.md", "0.99"),
        ("docs/face_detection.md", "0.99"),
    ],
)
def test_documents_say_the_same(name: str, confidence: str) -> None:
    assert promise("in units of the distance", confidence) in words_of(ROOT / name)


@pytest.mark.parametrize("coverage", COVERAGES)
def test_the_page_on_coverage_says_the_same(coverage: Coverage) -> None:
    _, scope = promise_line(BUDGET, TotalVariation(), coverage=coverage).split("; it holds for ")
    rows = [line for line in (ROOT / "docs/queries.md").read_text().splitlines() if line.startswith(f"| `{coverage}`")]
    assert [row.split(" | ")[1].removesuffix(" |") for row in rows] == [scope]


@pytest.mark.parametrize(
    "folder",
    [
        "",
        "docs",
        "examples",
        "center_smoothing",
        "callbacks",
        "certification",
        "command_line",
        "results",
        "results/html",
        "training",
    ],
)
def test_nothing_speaks_of_all_changes_at_once(folder: str) -> None:
    texts = [path for pattern in ("*.md", "*.py") for path in (ROOT / folder).glob(pattern) if path.stem != "theory"]
    found = {path.name: match[0] for path in texts if (match := re.search(ALL_AT_ONCE, words_of(path)))}
    assert found == {}
