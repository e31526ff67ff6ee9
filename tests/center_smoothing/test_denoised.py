"""A denoiser in front of a model: the composition, whatever its parts are, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from center_smoothing import CenterSmoother, Denoised, Lp, SmoothingBudget
from center_smoothing.attack import has_gradient

BUDGET = SmoothingBudget(n=200, m=400, k=16, delta=0.3)
X = torch.rand(12, generator=torch.Generator().manual_seed(0))


class Shrink(nn.Module):
    """Batch norm and dropout: another function unless it is in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(12), nn.Dropout()
        self.norm.running_var.fill_(4.0)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(x))

    def squared(self, x: Tensor) -> Tensor:
        return self(x).square()


def linear() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(12, 3)


def exported(module: nn.Module) -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    return torch.export.export(module.eval(), (torch.rand(2, 12),), dynamic_shapes=shapes)


def radius(model: Any) -> float:  # noqa: ANN401  # of any kind
    return CenterSmoother(model, Lp(2.0), sigma=0.25, budget=BUDGET).certify(X).eps_out(eps_in=0.25)


def test_it_is_one_call_after_the_other_in_eval_mode() -> None:
    denoiser, model = Shrink(), nn.Sequential(linear(), nn.Dropout())
    assert denoiser.training
    found = CenterSmoother(Denoised(model, denoiser), Lp(2.0), sigma=0.25, budget=BUDGET)
    output = found.outputs.base_output(X)
    certified = found.certify(X).eps_out(eps_in=0.25)
    assert denoiser.training
    assert denoiser.dropout.training
    assert model[1].training
    denoiser.eval(), model.eval()
    assert torch.equal(output, model(denoiser(X[None]))[0])
    assert certified == radius(lambda x: model(denoiser(x)))
    assert 0.0 < certified < radius(model)


@pytest.mark.parametrize("kind", ["function", "array", "bound", "exported", "script", "estimator"])
def test_parts_of_every_kind(kind: str) -> None:
    shrink, model = Shrink().eval(), linear()
    part: Any = {
        "function": lambda x: x / 2,
        "array": lambda x: x.numpy() / 2,
        "bound": Shrink().squared,  # of a module in training mode
        "exported": exported(shrink),
        "script": torch.jit.trace(shrink, torch.rand(2, 12)),
        "estimator": PCA(12).fit(np.eye(12)),
    }[kind]
    as_function = {"bound": shrink.squared, "exported": shrink, "script": shrink}.get(kind, part)
    model = model.double() if kind == "estimator" else model  # which answers in float64, and that goes on as it is
    in_front = radius(Denoised(model, part))
    if kind == "estimator":
        as_function = lambda x: torch.from_numpy(part.transform(x.double().numpy()))  # noqa: E731
    elif kind == "array":
        as_function = lambda x: x / 2  # noqa: E731
    assert in_front == pytest.approx(radius(lambda x: model(as_function(x))), rel=1e-5)
    if kind != "estimator":
        behind = radius(Denoised(part, lambda x: x / 2))
        assert behind == pytest.approx(radius(lambda x: as_function(x / 2)), rel=1e-5)


@pytest.mark.parametrize(
    ("denoiser", "said"),
    [
        (lambda x: x[:, :5], r"denoiser must return the shape that it is given, \(\d+, 12\), got \(\d+, 5\)"),
        (lambda x: x[:1], r"denoiser must return the shape that it is given, \(\d+, 12\), got \(1, 12\)"),
        (lambda x: x.mean(), r"denoiser must return the shape that it is given, \(\d+, 12\), got \(\)"),
        (lambda x: x * 1j, "denoiser must return numbers that float64 holds, got complex ones"),
        (lambda x: [x], "denoiser must return a tensor, got list"),
    ],
)
def test_another_shape_and_other_things_are_refused_before_the_model_is_called(denoiser: Any, said: str) -> None:  # noqa: ANN401
    called: list[int] = []
    with pytest.raises(ValueError, match=said):
        radius(Denoised(called.append, denoiser))
    assert called == []


def test_what_is_no_denoiser_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="denoiser must be callable, got int"):
        Denoised(linear(), 3)
    with pytest.raises(ValueError, match="model must be callable, got int"):
        Denoised(3, linear())


def test_nothing_is_repaired_on_the_way() -> None:
    seen: list[Tensor] = []
    x = torch.tensor([[0.5, 2.0]])
    for denoise in (
        lambda x: x.log().log(),
        lambda x: x / 0,
        lambda x: x.double(),
        lambda x: x.half(),
        lambda x: x > 1,
    ):
        Denoised(seen.append, denoise)(x)
        assert seen[-1].dtype == denoise(x).dtype
        assert torch.equal(torch.nan_to_num(seen[-1].double()), torch.nan_to_num(denoise(x).double()))
        assert torch.equal(seen[-1].isnan(), denoise(x).isnan())
    scalars = torch.rand(3)
    Denoised(seen.append, lambda x: x + 1)(scalars)
    assert torch.equal(seen[-1], scalars + 1)


def test_attacks_have_gradients_only_where_both_parts_have() -> None:
    def differentiable(model: object, denoiser: object) -> bool:
        return has_gradient(CenterSmoother(Denoised(model, denoiser), Lp(2.0), sigma=0.25, budget=BUDGET), X)

    assert differentiable(linear(), Shrink())
    assert not differentiable(linear(), lambda x: x.round())
    assert not differentiable(linear(), lambda x: x.detach().numpy())
    assert not differentiable(lambda x: x.detach(), Shrink())
