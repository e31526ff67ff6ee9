"""The library without a script: how certificates show themselves, many inputs, arrays, budgets by name."""

import math
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor

import center_smoothing
from center_smoothing import (
    CenterSmoother,
    CertificateBase,
    MeanBudget,
    MeanSmoother,
    MedianBudget,
    MedianSmoother,
    Smoother,
    SmoothingBudget,
)
from command_line import named

X = torch.linspace(-1.0, 1.0, 4)


def model(z: Tensor) -> Tensor:
    return torch.stack([z.sin().sum(dim=1), z[:, 0] * z[:, 1]], dim=1)


SMOOTHERS: list[Smoother] = [
    CenterSmoother(model, "l2", sigma=0.5, budget=SmoothingBudget(n=200, m=300)),
    MeanSmoother(model, "l2", sigma=0.5, budget=MeanBudget(n=200, m=300), clip_norm=2.0),
    MedianSmoother(model, "l2", sigma=0.5, budget=MedianBudget(n=201, m=300)),
]
NOWHERE = CenterSmoother(lambda z: z * math.nan, "l2", sigma=0.5, budget=SmoothingBudget(n=200, m=300))


@pytest.mark.parametrize("smoother", SMOOTHERS, ids=lambda smoother: smoother.kind)
def test_a_certificate_shows_its_radius_loss_and_abstention(smoother: Smoother) -> None:
    certificate = smoother.certify(X)
    shown, html = repr(certificate), certificate._repr_html_()
    found = re.fullmatch(r"(\w+)\(eps_out\(h=1\)=([\d.]+), smoothing_loss=([\d.]+), abstained=False, .*m=300\)", shown)
    assert found is not None
    assert found[1] == type(certificate).__name__
    assert certificate.eps_out(0.5) <= float(found[2]) < certificate.eps_out(0.5) + 0.01
    assert float(found[3]) == pytest.approx(certificate.smoothing_loss, rel=0.01)
    assert len(shown) < 130
    assert f"<tr><td>1</td><td>0.5</td><td>{found[2]}</td></tr>" in html
    assert html.startswith("<table>")


def test_an_abstention_is_shown_as_one() -> None:
    certificate = NOWHERE.certify(X)
    assert "eps_out(h=1)=inf, smoothing_loss=inf, abstained=True" in repr(certificate)
    assert "abstained" in certificate._repr_html_()
    axes = certificate.plot()
    assert axes.get_title() == "abstained: no certificate"
    pyplot.close(axes.figure)


@pytest.mark.parametrize("smoother", SMOOTHERS, ids=lambda smoother: smoother.kind)
def test_a_plotted_curve_is_nowhere_below_the_certified_radius(smoother: Smoother) -> None:
    certificate, (_, axes) = smoother.certify(X), pyplot.subplots()
    assert certificate.plot(axes) is axes
    (line,) = axes.lines
    eps_in, radii = line.get_data()
    assert line.get_drawstyle() == "steps-pre"
    assert np.isfinite(radii).sum() > 20
    for left, right, radius in list(zip(eps_in[:-1], eps_in[1:], radii[1:], strict=True))[::12]:
        if math.isfinite(radius):
            assert radius >= certificate.eps_out((left + right) / 2)
    pyplot.close(axes.figure)


@pytest.mark.parametrize("smoother", SMOOTHERS, ids=lambda smoother: smoother.kind)
def test_an_input_radius_may_be_given_in_units_of_sigma(smoother: Smoother) -> None:
    certificate = smoother.certify(X)
    assert certificate.eps_out(h=1) == certificate.eps_out(0.5)
    assert np.array_equal(certificate.eps_out(h=[0.5, 1.0]), certificate.eps_out([0.25, 0.5]))
    assert certificate.eps_out(h=0.5, coverage="dkw") == certificate.eps_out(0.25, coverage="dkw")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {},
            "eps_in must be given, in units of x, or h in its place, .* sigma=0.5, got eps_in=None and h=None",
        ),
        ({"eps_in": 1.0, "h": 2.0}, "eps_in must be given, .*got eps_in=1.0 and h=2.0"),
        ({"h": -1.0}, "h must be at least 0, got -1.0"),
        ({"h": "one"}, "h must be a number or a sequence of numbers, got 'one'"),
    ],
)
def test_radii_that_mean_nothing_are_refused(arguments: dict[str, Any], message: str) -> None:
    certificate = SMOOTHERS[0].certify(X)
    with pytest.raises(ValueError, match=message):
        certificate.eps_out(**arguments)


def distances(certificate: CertificateBase) -> list[float]:
    return certificate.distances.tolist()


@pytest.mark.parametrize("smoother", SMOOTHERS, ids=lambda smoother: smoother.kind)
def test_arrays_are_tensors_of_the_same_type(smoother: Smoother) -> None:
    expected = smoother.certify(X)
    for array in (X.numpy(), X.numpy()[::-1].copy()[::-1], X.numpy().astype(">f4")):
        found = smoother.certify(array)
        assert found.center.dtype == expected.center.dtype
        assert distances(found) == distances(expected)
        assert torch.equal(smoother.smooth(array).center, expected.center)
        assert torch.equal(smoother.smooth_alike(array, array).center, expected.center)
    assert smoother.certify(X.double().numpy()).center.dtype == torch.float64


@pytest.mark.parametrize("smoother", SMOOTHERS, ids=lambda smoother: smoother.kind)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.arange(4), "x must be a floating-point tensor or array in the units of sigma, got an array of int64"),
        (np.ones(4, dtype=complex), "x must be a floating-point tensor or array .*, got an array of complex128"),
        (np.array([1.0, None]), "x must be .*, got an array of object"),
        (np.array([0.0, np.nan]), "x must be finite, got 1 NaN"),
        ([0.0, 1.0], "x must be a floating-point tensor or array .*, got list"),
    ],
)
def test_arrays_that_are_no_inputs_are_refused(smoother: Smoother, x: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=message):
        smoother.certify(x)
    with pytest.raises(ValueError, match=message):
        smoother.smooth(x)


@pytest.mark.parametrize("smoother", SMOOTHERS, ids=lambda smoother: smoother.kind)
def test_many_inputs_have_the_certificates_of_each(smoother: Smoother, capsys: pytest.CaptureFixture[str]) -> None:
    xs, numbers = torch.stack([X, 2.0 * X]), [5, 3]
    found = smoother.certify_many(xs, examples=numbers, progress=True)
    expected = [smoother.certify(x, example=number) for x, number in zip(xs, numbers, strict=True)]
    assert list(map(distances, found)) == list(map(distances, expected))
    assert "certifying: 100%" in capsys.readouterr().err
    (alone,) = smoother.certify_many(iter(xs.numpy()[1:]))
    assert distances(alone) == distances(smoother.certify(xs[1], example=0))
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="examples must be a number for each of 2 inputs, got 1"):
        smoother.certify_many(xs, examples=[1])


def test_optional_packages_are_named_where_they_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = SMOOTHERS[0].certify(X)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ValueError, match="matplotlib must be installed to plot: pip install matplotlib"):
        certificate.plot()
    with pytest.raises(ValueError, match="tqdm must be installed to show progress: pip install tqdm"):
        SMOOTHERS[0].certify_many([X], progress=True)


@pytest.mark.parametrize("smoother", ["center", "mean", "median"])
@pytest.mark.parametrize("name", ["quick", "standard"])
def test_budgets_by_name_are_those_of_the_command_line(smoother: str, name: str) -> None:
    kind = center_smoothing.SMOOTHERS[smoother].budget_type
    assert getattr(kind, name)() == named.budget(name, smoother)
    assert getattr(kind, name)(alpha_1=0.1, n=901) == named.budget(name, smoother, n=901, alpha1=0.1)
    if smoother != "median":
        grouped = getattr(kind, name)(group=4)
        assert grouped == named.budget(name, smoother, group=4)
        assert grouped.evaluations == pytest.approx(getattr(kind, name)().evaluations, rel=0.05)


def test_a_budget_of_another_name_is_refused() -> None:
    assert SmoothingBudget.preset("paper").method == "paper"
    assert SmoothingBudget.quick() == SmoothingBudget(n=1_000, m=2_000)
    assert MedianBudget.standard() == MedianBudget()
    with pytest.raises(ValueError, match="name must be one of quick, standard, got 'paper'"):
        MeanBudget.preset("paper")


def test_an_error_of_the_models_first_call_names_what_went_in() -> None:
    smoother = CenterSmoother(torch.nn.Linear(3, 2), "l2", sigma=0.5, budget=SmoothingBudget.quick(), batch_size=32)
    with pytest.raises(RuntimeError, match="cannot be multiplied") as error:
        smoother.certify(X)
    shapes = r"the model was called with torch.float32 of shape \(32, 4\), copies of an x of \(4,\)"
    assert re.fullmatch(shapes, error.value.__notes__[0])
    with pytest.raises(RuntimeError) as error:
        smoother.certify(np.zeros(3))
    assert "torch.float64 of shape (32, 3)" in error.value.__notes__[0]
