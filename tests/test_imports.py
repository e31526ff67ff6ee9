"""Which part of the repository may import which: the arrows of its architecture."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"center_smoothing", "lightning_modules", "callbacks", "datamodules"}
ENTRY_POINTS = {"train", "certify", "experiments", "benchmarks", "examples"}
SHARED = {"auditing", "certification", "class_paths", "conclusion", "entrypoint", "perceptual", "planning", "resuming"}
OURS = PACKAGES | ENTRY_POINTS | SHARED | {"tests"}
OF_THE_CORE_NEVER = {
    *("lightning", "pytorch_lightning", "wandb", "torchvision", "matplotlib", "jsonargparse", "mlxtend", "rich"),
    "torchmetrics",
}

# Modules of the core, and what each may import of the others.
CORE = {
    "bounds": set(),
    "promise": {"budget", "mean_budget"},
    "base_functions": set(),
    "scalars": set(),
    "distances": {"base_functions", "scalars"},
    "discrete_gaussian": set(),
    "safe_arrays": set(),
    "files": set(),
    "medians": set(),
    "sampling": {"base_functions", "discrete_gaussian", "scalars"},
    "budget": {"bounds", "scalars"},
    "certification_sample": {"budget", "distances"},
    "certificate": {"bounds", "budget", "certification_sample", "distances", "files", "safe_arrays", "sampling"},
    "smoother": {"bounds", "budget", "certificate", "certification_sample", "distances", "sampling"},
    "stopping": {"bounds", "budget", "certificate", "scalars"},
    "planner": {"bounds", "budget", "stopping", "scalars"},
    "mean_budget": {"bounds", "budget", "scalars"},
    "mean_certificate": {"bounds", "budget", "certificate", "mean_budget", "safe_arrays"},
    "mean_smoother": {"certificate", "distances", "mean_budget", "mean_certificate", "sampling", "scalars"},
    "audit": {"distances", "sampling"},
    "attack": {"certificate", "distances", "mean_certificate", "mean_smoother", "sampling", "smoother", "scalars"},
    "metrics": {"medians", "bounds", "budget", "certificate", "distances", "sampling", "smoother"},
}

# What each top-level package may import of ours, besides itself. Entry points may import all but each other.
ALLOWED = {
    "center_smoothing": set(),
    "lightning_modules": {"center_smoothing"},
    "callbacks": {"center_smoothing", "lightning_modules"},
    "datamodules": set(),
    "entrypoint": {"center_smoothing", "class_paths"},
    "class_paths": set(),
    "certification": {"center_smoothing", "lightning_modules", "callbacks", "entrypoint"},
    "auditing": {"callbacks", "center_smoothing", "certification"},
    "conclusion": {"callbacks", "center_smoothing", "certification"},
    "resuming": {"callbacks", "center_smoothing"},
    "perceptual": {"center_smoothing"},
    "planning": {"center_smoothing", "lightning_modules", "callbacks", "certification", "entrypoint"},
    "examples": {"center_smoothing", "entrypoint"},
    "tests": OURS,
}


def imported_names(path: str, source: str) -> Iterator[str]:
    """Dotted names of everything a file imports; ``from a import b`` counts as a.b."""
    package = path.removesuffix(".py").removesuffix("/__init__").split("/")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def wrong_in_the_core(path: str, name: str) -> str | None:
    """What is wrong with an import inside the core, or None."""
    module = path.split("/")[1].removesuffix(".py")
    top, *rest = name.split(".")
    if top in OF_THE_CORE_NEVER and not (module == "metrics" and top == "torchmetrics"):
        return f"the core must not import {top}"
    if top != "center_smoothing" or module == "__init__":
        return None
    if not rest or rest[0] not in CORE:
        return "the core imports its modules by name, not the whole package"
    if module not in CORE:
        return f"say in {Path(__file__).name} what {module} may import"
    if rest[0] != module and rest[0] not in CORE[module]:
        return f"{module} must not import {rest[0]}"
    return None


def wrong_arrows(path: str, source: str) -> list[str]:
    """Complaints about the imports of one file; path is relative to the root, with forward slashes."""
    part = path.split("/")[0].removesuffix(".py")
    complaints = []
    for name in imported_names(path, source):
        top = name.split(".")[0]
        wrong = None
        if top in OURS and top != part and top not in ALLOWED.get(part, PACKAGES | SHARED):
            wrong = f"{part} must not import {top}"
        elif part == "center_smoothing":
            wrong = wrong_in_the_core(path, name)
        if wrong:
            complaints.append(f"{path}: {name}: {wrong}")
    return complaints


def python_files() -> list[str]:
    """All files of ours; folders that start with a dot or hold outputs are not."""
    files = [*ROOT.glob("*.py"), *(file for part in sorted(OURS) for file in (ROOT / part).rglob("*.py"))]
    return [file.relative_to(ROOT).as_posix() for file in files]


def test_every_import_follows_the_architecture() -> None:
    complaints = [c for path in python_files() for c in wrong_arrows(path, (ROOT / path).read_text(encoding="utf-8"))]
    assert not complaints, "\n".join(complaints)


def test_the_core_is_looked_at() -> None:
    modules = {
        path.split("/")[1].removesuffix(".py") for path in python_files() if path.startswith("center_smoothing/")
    }
    assert modules == {*CORE, "__init__"}
    assert {part.split("/")[0] for part in python_files()} >= {"center_smoothing", "tests"}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("center_smoothing/bounds.py", "from center_smoothing.budget import Plan"),
        ("center_smoothing/bounds.py", "from . import smoother"),
        ("center_smoothing/bounds.py", "from .budget import Plan"),
        ("center_smoothing/budget.py", "import center_smoothing.certificate"),
        ("center_smoothing/budget.py", "from center_smoothing import SmoothingBudget"),
        ("center_smoothing/certificate.py", "from center_smoothing.smoother import CenterSmoother"),
        ("center_smoothing/distances/lp.py", "from center_smoothing import bounds"),
        ("center_smoothing/distances/lp.py", "from ..sampling import Stage"),
        ("center_smoothing/sampling.py", "def f():\n    import lightning.pytorch"),
        ("center_smoothing/smoother.py", "import torchmetrics"),
        ("center_smoothing/smoother.py", "from center_smoothing.metrics import AbstentionRate"),
        ("center_smoothing/metrics.py", "from torchvision.utils import make_grid"),
        ("center_smoothing/metrics.py", "import wandb"),
        ("center_smoothing/smoother.py", "import rich.progress as progress"),
        ("center_smoothing/smoother.py", "from callbacks import draw"),
        ("center_smoothing/__init__.py", "import matplotlib"),
        ("center_smoothing/new.py", "from center_smoothing.bounds import dkw_rank"),
        ("lightning_modules/base.py", "import callbacks"),
        ("lightning_modules/base.py", "from datamodules.mnist import MNIST"),
        ("callbacks/plot.py", "import datamodules"),
        ("callbacks/plot.py", "import entrypoint"),
        ("datamodules/mnist.py", "import center_smoothing"),
        ("datamodules/mnist.py", "from lightning_modules import base"),
        ("entrypoint.py", "import callbacks"),
        ("entrypoint.py", "import certification"),
        ("certification.py", "import datamodules"),
        ("certification.py", "from certify import main"),
        ("certification.py", "import planning"),
        ("planning.py", "from certify import main"),
        ("certify.py", "from train import main"),
        ("train.py", "import experiments.digits"),
        ("experiments/digits.py", "import certify"),
        ("benchmarks/speed.py", "from experiments.digits import main"),
        ("benchmarks/speed.py", "import tests"),
        ("examples/common.py", "from datamodules.mnist import MNIST"),
        ("examples/texts.py", "from experiments import panel"),
        ("experiments/panel.py", "from examples import common"),
        ("entrypoint.py", "from examples.common import settings"),
    ],
)
def test_a_wrong_import_is_reported(path: str, source: str) -> None:
    assert len(wrong_arrows(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("center_smoothing/budget.py", "from center_smoothing import bounds"),
        ("center_smoothing/budget.py", "from .bounds import dkw_rank"),
        ("center_smoothing/smoother.py", "import torch\nfrom center_smoothing.certificate import Certificate"),
        ("center_smoothing/distances/lp.py", "from center_smoothing.distances.base import Distance"),
        ("center_smoothing/distances/lp.py", "from .base import Distance"),
        ("center_smoothing/distances/__init__.py", "from center_smoothing.distances.lp import Lp"),
        ("center_smoothing/metrics.py", "import torchmetrics\nfrom center_smoothing.certificate import Certificate"),
        ("lightning_modules/base.py", "import lightning\nfrom center_smoothing import Lp\nfrom . import networks"),
        ("callbacks/plot.py", "import matplotlib\nfrom lightning_modules import Certifier\nimport callbacks.writer"),
        ("datamodules/mnist.py", "import torchvision\nfrom datamodules.base import ImageDataModule"),
        ("entrypoint.py", "from center_smoothing import Lp"),
        ("planning.py", "from certification import make_trainer"),
        (
            "certify.py",
            "import entrypoint, planning, callbacks, datamodules, lightning_modules, center_smoothing, wandb",
        ),
        ("experiments/digits.py", "import entrypoint\nfrom experiments.shared import table"),
        ("tests/test_certify.py", "import certify, train, entrypoint"),
    ],
)
def test_a_right_import_is_not_reported(path: str, source: str) -> None:
    assert wrong_arrows(path, source) == []
