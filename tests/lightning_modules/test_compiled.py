from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, fx, nn

from center_smoothing import CenterSmoother, Lp, SmoothingBudget
from center_smoothing.sampling import evaluating
from certification.arguments import COMPILE
from lightning_modules import CompiledModel, NoisyAutoencoder, fold_batch_norm

BUDGET = SmoothingBudget(n=100, m=130, k=16, delta=0.35)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counting:
    """A backend of torch.compile that counts what it compiles and compiles nothing."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        self.graphs += 1
        return graph.forward


def tiny() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 5)).eval()


def test_a_whole_certificate_compiles_once_and_is_that_of_the_model() -> None:
    model, backend, x = fold_batch_norm(NoisyAutoencoder(0.25, (1, 8, 8), 4).eval()), Counting(), torch.rand(1, 8, 8)
    plain, compiled = (
        CenterSmoother(function, Lp(1), sigma=0.25, budget=BUDGET, batch_size=48).certify(x, example=3)
        for function in (model, CompiledModel(model, backend=backend))
    )
    assert backend.graphs == 1
    assert compiled.eps_out(0.1) == pytest.approx(plain.eps_out(0.1), rel=1e-5)
    torch.testing.assert_close(compiled.center, plain.center, rtol=1e-5, atol=1e-6)


def test_it_is_compiled_once_for_all_batch_sizes() -> None:
    model, backend = tiny(), Counting()
    compiled = CompiledModel(model, backend=backend)
    with evaluating(compiled):
        for size in (64, 100, 7, 1, 2, 16, 300, 15, 1):
            x = torch.rand(size, 1, 8, 8)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-7)
    assert backend.graphs == 1


def test_compiling_for_each_size_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, original = Counting(), torch.compile
    fixed = lambda model, dynamic, backend: original(model, dynamic=False, backend=backend)  # noqa: E731
    monkeypatch.setattr(torch, "compile", fixed)
    compiled = CompiledModel(tiny(), backend=backend)
    with evaluating(compiled):
        for size in (16, 64, 48):
            compiled(torch.rand(size, 1, 8, 8))
    assert backend.graphs == 3


def test_it_shares_the_parameters_and_the_mode_of_the_model() -> None:
    model = tiny().train()
    compiled = CompiledModel(model, backend=Counting())
    assert {id(p) for p in compiled.parameters()} == {id(p) for p in model.parameters()}
    with evaluating(compiled):
        assert not any(part.training for part in model.modules())
        compiled(torch.rand(3, 1, 8, 8))
    assert all(part.training for part in model.modules())
    model.to(torch.float64)
    with evaluating(compiled):
        assert compiled(torch.rand(3, 1, 8, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("mode", COMPILE[1:])
def test_the_mode_goes_to_torch_compile(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []

    def record(model: nn.Module, **options: object) -> nn.Module:
        calls.append(options)
        return model

    monkeypatch.setattr(torch, "compile", record)
    CompiledModel(tiny(), mode)
    assert calls == [{"mode": mode, "dynamic": True, "backend": "inductor"}]


def test_other_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of default, reduce-overhead, max-autotune, got 'off'"):
        CompiledModel(tiny(), "off")
