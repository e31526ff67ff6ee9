import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from center_smoothing import DISTANCES, FeatureDistance, Lp, Symmetrised, TotalVariation
from center_smoothing.distances import as_distance
from results.identity import distance_config, first_difference, is_distance


def configured(distance: object) -> dict[str, Any]:
    """A configuration as it comes back from summary.json."""
    return json.loads(json.dumps({"sigma": 0.25, **distance_config(as_distance(distance)), "seed": 0}))


def before_identities(distance: object) -> dict[str, Any]:
    config = configured(distance)
    code = config.pop("distance_identity").get("sha256")
    return config if code is None else {**config, "distance_sha256": code}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_distances.py").write_text("def largest(a, b):\n    return (a - b).abs().flatten(1).amax(dim=1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "own_distances"


def test_a_distance_is_its_class_and_its_settings() -> None:
    assert configured(Lp(float("inf")))["distance_identity"] == {
        "class": "center_smoothing.Lp", "settings": {"p": float("inf")}
    }  # fmt: skip
    nested = configured(Symmetrised(Lp(1), relaxation=2.0))["distance_identity"]["settings"]
    assert nested["directed"] == {"class": "center_smoothing.Lp", "settings": {"p": 1.0}}


@pytest.mark.parametrize("old", [configured, before_identities])
def test_every_distance_is_itself_and_no_other(old: Callable[[object], dict[str, Any]]) -> None:
    for name, distance in DISTANCES.items():
        for other, candidate in DISTANCES.items():
            there = old(distance)
            assert (first_difference(there, configured(candidate)) is None) == (name == other)
            assert (first_difference(configured(candidate), there) is None) == (name == other)
            assert is_distance(there, candidate) == (name == other)


def test_what_differs_is_named_as_one_reads_it() -> None:
    changed = first_difference(configured(TotalVariation()), configured(Lp(2)))
    assert changed == ("distance", "TotalVariation(p=1)", "Lp(p=2.0)")
    assert first_difference({"budget": {"n": 1}}, {"budget": {"n": 2}}) == ("budget.n", 1, 2)
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == ("b", None, 2)
    assert first_difference({"a": 1}, {"a": 1, "b": 2}, ("a",)) is None


def test_another_way_to_show_it_is_no_other_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    before = configured(Lp(2))
    monkeypatch.setattr(Lp, "__repr__", lambda self: "the Euclidean distance")
    assert first_difference(before, configured(Lp(2))) is None
    assert first_difference(before, configured(Lp(1))) is not None


@pytest.mark.filterwarnings("ignore:.*relaxation")
def test_another_code_is_another_distance(package: str, tmp_path: Path) -> None:
    function = importlib.import_module(package).largest
    new, old = configured(function), before_identities(function)
    assert first_difference(old, configured(function)) is None
    path = tmp_path / f"{package}.py"
    path.write_text(path.read_text() + "\n")
    name, *hashes = first_difference(new, configured(function)) or ("",)
    assert name == "distance_identity.sha256"
    assert len(set(hashes)) == 2
    assert (first_difference(old, configured(function)) or ("",))[0] == "distance_sha256"


def test_another_network_is_another_distance() -> None:
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    before = configured(FeatureDistance(first, Lp(2)))
    assert first_difference(before, configured(FeatureDistance(first, Lp(2)))) is None
    repr(seen := FeatureDistance(first, Lp(2)))
    assert first_difference(before, configured(seen)) is None
    assert first_difference(before, configured(FeatureDistance(second, Lp(2)))) is not None
    assert first_difference(before, configured(FeatureDistance(first, Lp(2), affine=True))) is not None
