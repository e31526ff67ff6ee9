from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from center_smoothing import Angular, CenterSmoother, FunctionDistance, Lp, ObjectDistance, SmoothingBudget
from center_smoothing.distances import as_distance

BUDGET = SmoothingBudget(n=200, m=400, k=16, delta=0.3)
X = torch.linspace(0.0, 1.0, 5)


def largest(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().amax(dim=1)


largest.relaxation = 1  # type: ignore[attr-defined]


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(dim=1)


squared.relaxation = 2.0  # type: ignore[attr-defined]


class Edits(ObjectDistance):
    """Levenshtein's distance of texts."""

    def between(self, a: str, b: str) -> float:
        row = list(range(len(b) + 1))
        for i, letter in enumerate(a):
            before, row[0] = row[0], i + 1
            for j, other in enumerate(b):
                before, row[j + 1] = row[j + 1], min(before + (letter != other), row[j] + 1, row[j + 1] + 1)
        return float(row[-1])


def spelled(x: Tensor) -> list[str]:
    """A text for each input: its numbers, rounded to one digit each."""
    return ["".join(str(round(value)) for value in row) for row in (4 * x).clamp(0, 9).tolist()]


@given(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), min_size=1, max_size=12))
def test_a_function_is_the_distance_that_it_computes(outputs: list[list[float]]) -> None:
    z = torch.tensor(outputs)
    for function, known in [(largest, Lp(float("inf"))), (squared, None)]:
        distance = FunctionDistance(function)
        expected = torch.stack([function(z.double(), other.expand_as(z)) for other in z.double()], dim=1)
        torch.testing.assert_close(distance.pairwise(z, z), expected, rtol=0, atol=0)
        torch.testing.assert_close(distance(z, z.flip(0)), expected.flip(1).diagonal(), rtol=0, atol=0)
        if known is not None:
            torch.testing.assert_close(distance.pairwise(z, z), known.pairwise(z, z))


def test_what_a_function_declares_makes_the_certificate() -> None:
    assert FunctionDistance(squared).relaxation == 2.0
    assert not FunctionDistance(largest, averages=False).averages
    model = torch.nn.Identity()
    by_function = CenterSmoother(model, largest, sigma=0.25, budget=BUDGET).certify(X)
    by_class = CenterSmoother(model, Lp(float("inf")), sigma=0.25, budget=BUDGET).certify(X)
    assert by_function.eps_out(eps_in=0.2) == pytest.approx(by_class.eps_out(eps_in=0.2), rel=1e-12)
    relaxed = CenterSmoother(model, squared, sigma=0.25, budget=BUDGET).certify(X)
    assert relaxed.relaxation == 2.0
    wider = CenterSmoother(model, FunctionDistance(squared, relaxation=3.0), sigma=0.25, budget=BUDGET).certify(X)
    assert wider.eps_out(eps_in=0.2) > relaxed.eps_out(eps_in=0.2)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a, b: (a - b).abs(), r"<lambda> must return one number for each pair, shape \(2,\), got \(2, 3\)"),
        (lambda a, b: 3.0, "must return one number for each pair.*got float"),
        (lambda a, b: (a - b).sum(dim=1), "must not be negative, got -3"),
    ],
)
def test_functions_that_are_no_distances_are_refused(function: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=message):
        FunctionDistance(function, relaxation=1)(torch.zeros(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize("relaxation", [0.5, float("nan"), float("inf"), True, "2"])
def test_relaxations_that_are_none_are_refused(relaxation: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match="relaxation must be a finite number of at least 1"):
        FunctionDistance(largest, relaxation=relaxation)
    with pytest.raises(ValueError, match="relaxation must be at least 2, which squared declares, got"):
        FunctionDistance(squared, relaxation=1.5)


def test_as_distance_takes_instances_classes_and_functions() -> None:
    angular = Angular()
    assert as_distance(angular) is angular
    assert isinstance(as_distance(Angular), Angular)
    assert repr(as_distance(squared)).endswith("squared(relaxation=2)")
    with pytest.raises(ValueError, match=r"an instance such as FunctionDistance\(...\), got the class"):
        as_distance(FunctionDistance)
    assert repr(as_distance("tv-l2")) == "TotalVariation(p=2)"
    with pytest.raises(ValueError, match=r"one of tv, .*, or a function of two batches of outputs, got 'tw'"):
        as_distance("tw")


@given(st.lists(st.text("ab", max_size=4) | st.none(), min_size=1, max_size=8))
def test_objects_have_the_distances_of_their_class(texts: list[str | None]) -> None:
    distance = Edits()
    numbers = distance.encode(texts)
    assert [distance.decode(number) for number in numbers] == texts
    found = distance.pairwise(numbers, numbers)
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            assert found[i, j] == (torch.inf if a is None or b is None else distance.between(a, b))
    assert distance(numbers, numbers.flip(0)).tolist() == found.flip(1).diagonal().tolist()


def test_a_model_of_texts_is_certified() -> None:
    distance = Edits()
    smoother = CenterSmoother(spelled, distance, sigma=0.1, budget=BUDGET)
    certificate = smoother.certify(X)
    assert distance.decode(certificate.center) == spelled(X.unsqueeze(0))[0]
    assert certificate.smoothing_loss == 0.0
    assert 0.0 < certificate.eps_out(eps_in=0.1) < 12.0


def test_modules_of_objects_are_put_in_eval_mode() -> None:
    class Speller(torch.nn.Module):
        def forward(self, x: Tensor) -> list[str]:
            return [str(self.training)] * len(x)

    model, distance = Speller(), Edits()
    assert distance.decode(CenterSmoother(model, distance, sigma=0.1, budget=BUDGET).smooth(X).center) == "False"
    assert model.training


def test_wrong_objects_are_named() -> None:
    with pytest.raises(ValueError, match=r"must be hashable, such as tuples and frozensets.* got list"):
        Edits().encode([["a"]])
    with pytest.raises(ValueError, match=r"model must return a sequence of 1 outputs for Edits\(\), got Tensor"):
        CenterSmoother(torch.nn.Identity(), Edits(), sigma=0.1, budget=BUDGET).outputs.base_output(X)
    with pytest.raises(ValueError, match=r"model must return one output per input"):
        CenterSmoother(lambda x: ["a"], Edits(), sigma=0.1, budget=BUDGET).smooth(X)
    distance = Edits()
    distance.encode(["a"])
    with pytest.raises(ValueError, match=r"number must be one of 0..1, got 2"):
        distance.decode(torch.tensor([2.0]))
    distance.forget()
    assert distance.encode(["b"]).tolist() == [[1.0]]
