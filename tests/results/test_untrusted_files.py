"""Text, JSON, links and contradictions in folders of strangers."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from center_smoothing import CenterSmoother, Lp, SmoothingBudget
from results.consistency import check_rows, check_summary
from results.rows import Row
from results.untrusted_files import check_links, read_json, read_text

CONFIG = {"eps_in": [0.05, 0.1], "sigma": 0.25, "coverage": "bonferroni"}


def test_links_inside_and_those_of_wandb_may_stay(tmp_path: Path) -> None:
    check_links(tmp_path / "none", "--out")
    (tmp_path / "wandb" / "run").mkdir(parents=True)
    (tmp_path / "wandb" / "run" / "debug.log").symlink_to("/elsewhere")
    (tmp_path / "latest").symlink_to("wandb")
    check_links(tmp_path, "--out")


@pytest.mark.parametrize("place", ["a", "deep/er/a", "wandb"])
@pytest.mark.parametrize("target", ["/", "../elsewhere", "/none/at/all"])
def test_links_out_of_the_folder_are_refused(place: str, target: str, tmp_path: Path) -> None:
    link = tmp_path / "folder" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    (tmp_path / "way").symlink_to(tmp_path / "folder")
    for folder in ("folder", "way"):
        if target.startswith("/") or place != "deep/er/a":
            with pytest.raises(ValueError, match=f"--out must be a folder without links to other places.*{place}"):
                check_links(tmp_path / folder, "--out")


def test_pipes_and_large_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_text, read_json):
        with pytest.raises(ValueError, match="must be a regular file"):
            read(tmp_path / "pipe")
    (tmp_path / "large").write_text("x" * (3 << 20))
    with pytest.raises(ValueError, match="must not be larger than 2 MB, got 3 MB"):
        read_text(tmp_path / "large", 2 << 20)


@pytest.mark.parametrize("content", ["[" * 100 + "]" * 100, '{"a":' * 50 + "1" + "}" * 50, "[" * 10**6])
def test_json_that_is_nested_too_deeply_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "change",
    [{"config": []}, {"names": ["a"]}, {"names": {"1": 2}}, {"samples_per_second": "fast"},
     {"samples_per_second": float("nan")}, {"samples_per_second": -1}, {"config": {"distance": 1}},
     {"config": {"model": None}}],
)  # fmt: skip
def test_a_summary_of_another_build_is_refused(change: dict[str, Any]) -> None:
    whole = {"config": {"distance": "Lp(2.0)"}, "names": {"3": "a.png"}, "samples_per_second": 3.0, "results": []}
    check_summary(whole)
    with pytest.raises(TypeError):
        check_summary({**whole, **change})


@pytest.fixture(scope="module")
def certified() -> tuple[Any, list[Row]]:
    smoother = CenterSmoother(
        lambda x: x.tanh(), Lp(2.0), sigma=0.25, budget=SmoothingBudget(n=60, m=2000, k=8, delta=0.4), batch_size=64
    )
    certificate = smoother.certify(torch.full((4,), 0.3), example=3)
    return certificate, Row.of(3, certificate, eps_in=[0.05, 0.1], coverage="bonferroni", seconds=0.5)


def test_rows_of_the_distances_are_taken(certified: tuple[Any, list[Row]]) -> None:
    certificate, rows = certified
    check_rows(rows, certificate, CONFIG)
    check_rows(rows[:1], certificate, CONFIG)


@pytest.mark.parametrize(
    "change",
    [{"eps_out": 0.0}, {"eps_out": 1e-3}, {"eps_out": float("inf")}, {"eps_in": 0.3}, {"sigma": 0.5}, {"m": 240},
     {"n": 61}, {"delta": 0.41}, {"method": "paper"}, {"abstained": True}],
)  # fmt: skip
def test_rows_that_are_not_those_of_the_distances_are_refused(
    change: dict[str, Any], certified: tuple[Any, list[Row]]
) -> None:
    certificate, rows = certified
    with pytest.raises(ValueError, match="example 3 has "):
        check_rows([rows[0], replace(rows[1], **change)], certificate, CONFIG)


def test_another_coverage_or_noise_level_of_the_configuration_is_found(certified: tuple[Any, list[Row]]) -> None:
    certificate, rows = certified
    for change in ({"sigma": 1.0}, {"eps_in": [0.05, 0.1, *(0.2 + 0.001 * step for step in range(98))]}):
        with pytest.raises(ValueError, match="example 3 has "):
            check_rows(rows, certificate, {**CONFIG, **change})


@pytest.mark.parametrize(
    ("position", "cell"),
    [(0, "-1"), (0, str(10**30)), (1, "nan"), (1, "inf"), (1, "0"), (2, "nan"), (3, "-1"), (3, "nan"), (4, "nan"),
     (6, "-5"), (7, str(10**30)), (9, "=HYPERLINK(0)"), (9, "\x1b[2J")],
)  # fmt: skip
def test_no_certification_writes_such_a_row(position: int, cell: str, certified: tuple[Any, list[Row]]) -> None:
    cells = certified[1][0].as_text()
    assert Row.from_text(cells) is not None
    cells[position] = cell
    assert Row.from_text(cells) is None
