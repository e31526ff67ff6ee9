"""Readers of folders, tables and configurations on what they were not made for: a ValueError, or what is whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import certify
from center_smoothing import CenterSmoother, Lp, SmoothingBudget
from results.finished import FinishedCertification, Question
from results.folder import CertificationFolder
from results.rows import Row

BUDGET = SmoothingBudget(n=60, m=120, k=8, delta=0.4)
FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write_folder: Callable[..., CertificationFolder]) -> Path:
    """A folder with two certified examples."""
    smoother = CenterSmoother(lambda x: x.tanh(), Lp(2.0), sigma=0.25, budget=BUDGET, batch_size=64)
    certificates = {index: smoother.certify(torch.full((4,), 0.1 * index), example=index) for index in (3, 5)}
    return write_folder(tmp_path_factory.mktemp("whole"), certificates, smoother="center").path


@pytest.fixture(scope="module")
def spoilt(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> CertificationFolder:
    """A copy of it, to be spoilt."""
    target = tmp_path_factory.mktemp("spoilt") / "folder"
    shutil.copytree(whole, target)
    return CertificationFolder(target)


def mutated(content: bytes, kind: str, place: float, piece: bytes) -> bytes:
    """Content that was cut, overwritten, doubled or blown up somewhere."""
    at = int(place * len(content))
    return {
        "cut": content[:at],
        "overwritten": content[:at] + piece + content[at + len(piece) :],
        "inserted": content[:at] + piece + content[at:],
        "doubled": content + content[at:],
        "empty": b"",
    }[kind]


QUESTION = Question("eps_in", (0.1,), "pointwise")
KINDS = st.sampled_from(["cut", "overwritten", "inserted", "doubled", "empty"])
PIECES = st.one_of(st.binary(max_size=40), st.sampled_from([b"\x00", b"-1", b"NaN", b"1e999", b"9" * 50, b'"', b"\n,"]))


def answers(folder: CertificationFolder) -> FinishedCertification | None:
    """What a folder answers, or None for a folder that is refused. Anything else is a failure."""
    try:
        return FinishedCertification.open(folder).read(QUESTION)
    except ValueError:
        return None


@FIXTURES
@given(name=st.integers(0, 5), kind=KINDS, place=st.floats(0.0, 1.0), piece=PIECES)
def test_a_spoilt_folder_is_refused_or_read(
    whole: Path, spoilt: CertificationFolder, name: int, kind: str, place: float, piece: bytes
) -> None:
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    path = files[name % len(files)]
    try:
        (spoilt.path / path).write_bytes(mutated((whole / path).read_bytes(), kind, place, piece))
        read = answers(spoilt)
        assert read is None or min(read.answers[QUESTION].column(0)) >= 0.0  # which NaN is not
    finally:
        (spoilt.path / path).write_bytes((whole / path).read_bytes())


@FIXTURES
@given(
    content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode(errors="replace")))
)
def test_any_bytes_are_a_table_a_summary_or_neither(spoilt: CertificationFolder, whole: Path, content: bytes) -> None:
    for path, original in ((spoilt.table, "certificates.csv"), (spoilt.summary, "summary.json")):
        try:
            path.write_bytes(content)
            answers(spoilt)
        finally:
            path.write_bytes((whole / original).read_bytes())


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@FIXTURES
@given(key=st.sampled_from(["budget", "relaxation", "smoother", "num_examples", "sigma"]), value=JSON)
def test_a_configuration_of_anything_is_refused_or_read(
    spoilt: CertificationFolder, whole: Path, key: str, value: object
) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    try:
        spoilt.write_summary({**summary, "config": {**summary["config"], key: value}})
        answers(spoilt)
    finally:
        spoilt.summary.write_bytes((whole / "summary.json").read_bytes())


@given(cells=st.lists(st.text(max_size=12), min_size=9, max_size=16))
def test_any_cells_are_a_row_or_none(cells: list[str]) -> None:
    row = Row.from_text(cells)
    assert row is None or Row.from_text(row.as_text()) is not None


OPTIONS = [
    "ckpt", "h", "eps_in", "num_examples", "distance", "sigma", "n", "m", "delta", "out", "seed", "data", "model",
    "grid", "noise", "batch_size", "devices", "foreign", "config", "time_limit", "coverage",
]  # fmt: skip


@FIXTURES
@given(values=st.dictionaries(st.sampled_from(OPTIONS), JSON, max_size=4))
def test_any_yaml_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], values: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("yaml")
    (folder / "any.yaml").write_text(yaml.safe_dump({"ckpt": str(folder / "none.ckpt"), **values}))
    with pytest.raises(SystemExit) as ended:
        certify.main([f"--config={folder / 'any.yaml'}", f"--out={folder / 'out'}"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
