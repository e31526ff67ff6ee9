"""The callback with modules, batches and loaders of anybody, by plain Trainers."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

from center_smoothing import CenterSmoother, Lp, SmoothingBudget
from center_smoothing.lightning import CenterSmoothing

ROOT = Path(__file__).parents[2]
X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)
KEYS = {
    *("val/certified_radius", "val/certified_radius/h=1.5", "val/certified_radius/h=2"),
    *("val/smoothing_loss", "val/abstention_rate"),
}
SMALL: dict[str, Any] = {"sigma": 0.25, "num_examples": 2}

Take = Callable[[Any], tuple[Tensor, Tensor]]


class Own(LightningModule):
    """A module that knows nothing of certificates; batches are what ``take`` makes (x, y) of."""

    def __init__(self, take: Take = lambda batch: (batch[0], batch[1])) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh())  # no radius is that of another x
        self.head = nn.Linear(3, 1)
        self.take, self.steps = take, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    def training_step(self, batch: Any) -> Tensor:  # noqa: ANN401
        self.steps += 1
        x, y = self.take(batch)
        return nn.functional.mse_loss(self(x), y)

    def validation_step(self, batch: Any) -> None:  # noqa: ANN401
        x, y = self.take(batch)
        nn.functional.mse_loss(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Dicts(Dataset[dict[str, Tensor]]):
    def __init__(self, key: str) -> None:
        self.key = key

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"weight": torch.ones(1), self.key: X[place], "y": Y[place]}


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, Y, strict=True))


def trainer(*callbacks: CenterSmoothing, **given: Any) -> Trainer:  # noqa: ANN401
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}
    return Trainer(callbacks=list(callbacks), **{**quiet, **given})


def logged(smoothing: CenterSmoothing, module: Own, data: Any) -> dict[str, float]:  # noqa: ANN401
    """What the callback logs after an epoch without steps, so that the module is as it was made."""
    fitting = trainer(smoothing, limit_train_batches=1)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)  # type: ignore[method-assign]
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=4)
    fitting.fit(module, DataLoader(loader.dataset, batch_size=4), loader)
    return {key: float(value) for key, value in fitting.callback_metrics.items()}


def by_hand(function: Callable[[Tensor], Tensor], places: list[int], *, scale: float = 1.0) -> float:
    budget = SmoothingBudget(n=400, m=900, k=32, n_check=900)
    smoother = CenterSmoother(function, Lp(2), sigma=0.25, budget=budget, seed=0, batch_size=7)
    return max(smoother.certify(scale * X[place], example=place).eps_out(0.25) for place in places)


CHOSEN = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:2].tolist()


@pytest.mark.parametrize(
    ("data", "take", "get_input"),
    [
        (TensorDataset(X, Y), lambda batch: (batch[0], batch[1]), None),
        (Dicts("image"), lambda batch: (batch["image"], batch["y"]), None),
        (X, lambda batch: (batch, batch[:, :1]), None),
        (Dicts("audio"), lambda batch: (batch["audio"], batch["y"]), lambda batch: batch["audio"]),
        (TensorDataset(Y, X), lambda batch: (batch[1], batch[0]), lambda batch: batch[1]),
    ],
)
def test_the_inputs_of_any_batches_are_certified(data: Any, take: Take, get_input: Any) -> None:  # noqa: ANN401
    module = Own(take)
    found = logged(CenterSmoothing(**SMALL, get_input=get_input), module, data)
    assert set(found) == KEYS
    expected = by_hand(module, CHOSEN)
    assert expected <= found["val/certified_radius"] <= expected * (1 + 2e-7)
    assert found["val/abstention_rate"] == 0.0


def test_a_part_of_the_module_is_certified_by_any_distance_and_left_as_it_was() -> None:
    module = Own()
    smoothing = CenterSmoothing(**SMALL, function=lambda x: module.encoder(x), distance=Lp(2))
    statistics: list[Tensor] = []
    module.on_train_epoch_start = lambda: statistics.append(module.encoder[1].running_mean.clone())  # type: ignore[method-assign]
    found = logged(smoothing, module, TensorDataset(X, Y))
    assert found["val/certified_radius"] == pytest.approx(by_hand(module.encoder, CHOSEN))
    assert torch.equal(statistics[0], torch.zeros(3))  # the first try was in eval mode, and training mode came back
    assert not torch.equal(module.encoder[1].running_mean, torch.zeros(3))


def test_what_the_modules_transfer_hook_makes_of_a_batch_is_certified() -> None:
    module, stages = Own(), set()

    def halve(batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        stages.add((len(batch[0]), module.trainer.training))
        return [batch[0] / 2, batch[1]]

    module.on_after_batch_transfer = halve  # type: ignore[method-assign]
    found = logged(CenterSmoothing(**SMALL), module, TensorDataset(X, Y))
    assert found["val/certified_radius"] == pytest.approx(by_hand(module, CHOSEN, scale=0.5))
    assert (1, True) not in stages  # it may make training data of it otherwise


def test_of_a_data_set_with_a_sampler_of_some_examples_others_are_left_alone() -> None:
    module = Own()
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, sampler=SubsetRandomSampler([3, 7]))
    found = logged(CenterSmoothing(**{**SMALL, "num_examples": 9}), module, loader)
    assert found["val/certified_radius"] == pytest.approx(by_hand(module, [3, 7]))


def test_the_modules_precision_is_that_of_the_inputs() -> None:
    module = Own(lambda batch: (batch[0].double(), batch[1].double()))
    fitting = trainer(CenterSmoothing(**SMALL), precision="64-true")
    fitting.fit(module, DataLoader(TensorDataset(X, Y), batch_size=4), DataLoader(TensorDataset(X, Y)))
    assert math.isfinite(fitting.callback_metrics["val/certified_radius"])


XY = TensorDataset(X, Y)


@pytest.mark.parametrize(
    ("given", "data", "message"),
    [
        ({}, None, "needs a validation loader and a validation_step of the module, got a training without validation"),
        ({}, Stream(), "must be a DataLoader that makes batches of a data set .*, got DataLoader of Stream"),
        ({}, DataLoader(XY, batch_size=None), "must be a DataLoader that makes batches"),
        ({}, [*DataLoader(XY)], "must be a DataLoader that makes batches .*, got (list|Tensor)"),
        (
            {},
            Dicts("audio"),
            r"exactly one of x, .*, got a dict of 'weight', 'audio', 'y'; give Center",
        ),
        ({}, TensorDataset(Y.long(), X), "get_input must return floating-point inputs .*, got torch.int64 of shape"),
        (
            {},
            TensorDataset(X[:, :3], Y),
            r"function must take .* inputs of shape \(3,\), got RuntimeError: mat1",
        ),
        ({"get_input": lambda batch: batch["x"]}, XY, "get_input must take a batch .*, got TypeError: .* for a list"),
        ({"get_input": lambda batch: batch[0][0]}, XY, r"floating-point inputs .*, got torch.float32 of shape \(4,\)"),
        ({"distance": "tv"}, XY, r"distance must take outputs of shape \(1,\), got TotalVariation\(p=1\): "),
        ({"smoother": "median", "k": None, "h": [2.0], "m": 300, "function": nn.Flatten()}, XY, "m must be at least"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_first_step(
    given: dict[str, Any],
    data: Any,  # noqa: ANN401
    message: str,
) -> None:
    module = Own()
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=4)
    with pytest.raises(ValueError, match=message):
        trainer(CenterSmoothing(**{**SMALL, **given})).fit(module, DataLoader(XY, batch_size=4), data)
    assert module.steps == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"distance": "tw"}, "distance must be a Distance such as .*one of tv, tv-l2, .*, got 'tw'"),
        ({"get_input": "x"}, "get_input must be a function of a batch, got 'x'"),
        ({"h": (9.0,)}, "m must be at least"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CenterSmoothing(0.25, **given)


def test_a_training_that_asks_for_no_validation_has_no_certificates() -> None:
    fitting = trainer(CenterSmoothing(**SMALL), limit_val_batches=0)
    fitting.fit(Own(), DataLoader(XY, batch_size=4), DataLoader(XY))
    assert KEYS.isdisjoint(fitting.callback_metrics)


# What a user of the wheel writes; nothing of it comes from this repository.
SCRIPT = """
import importlib.util
import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

import center_smoothing
from center_smoothing.lightning import CenterSmoothing

assert center_smoothing.__file__.startswith(sys.argv[1]), center_smoothing.__file__
assert not [name for name in ("callbacks", "certification", "command_line") if importlib.util.find_spec(name)]


class Regression(LightningModule):
    def __init__(self):
        super().__init__()
        self.network = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self(x), y)

    def validation_step(self, batch):
        self.log("val/loss", self.training_step(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


data = DataLoader(TensorDataset(torch.randn(16, 4), torch.randn(16, 2)), batch_size=8)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
trainer = Trainer(callbacks=[CenterSmoothing(sigma=0.25, distance="l2", num_examples=2)], max_epochs=1, **quiet)
trainer.fit(Regression(), data, data)
print(sorted(trainer.callback_metrics))
"""


def test_the_installed_wheel_alone_is_enough(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "center_smoothing"):
        (source / name).symlink_to(ROOT / name)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"  # as pip does
    subprocess.run([sys.executable, "-c", build], check=True, cwd=source, capture_output=True)
    (wheel,) = tmp_path.glob("center_smoothing-*.whl")
    ZipFile(wheel).extractall(site)
    (tmp_path / "own.py").write_text(SCRIPT)
    words, environment = [sys.executable, "own.py", str(site)], {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run(words, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert f"{sorted({'val/loss', *KEYS})}" in found.stdout
    assert "epoch 0: val/loss " in found.stdout
