"""Which part of the repository may import which: the arrows of its architecture, and no circle of files."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What each part may import of the others, besides itself.
LIBRARIES = {"center_smoothing", "command_line", "datamodules", "lightning_modules", "results", "callbacks"}
ALLOWED = {
    "center_smoothing": set(),
    "datamodules": set(),
    "command_line": {"center_smoothing"},
    "lightning_modules": {"center_smoothing"},
    "results": {"center_smoothing", "command_line", "lightning_modules"},
    "callbacks": {"center_smoothing", "command_line", "lightning_modules", "results"},
    "certification": LIBRARIES,
    "training": LIBRARIES,
    "experiments": LIBRARIES,
    "certify": LIBRARIES | {"certification"},
    "train": LIBRARIES | {"training"},
    "benchmarks": LIBRARIES | {"certification"},
    "examples": {"center_smoothing", "command_line"},
}
ALLOWED["tests"] = {*ALLOWED}
# The same of the modules of the core.
CORE = {
    "bounds": set(),
    "promise": {"budget", "threats"},
    "base_functions": set(),
    "scalars": set(),
    "distances": {"base_functions", "scalars"},
    "denoised": {"base_functions", "distances"},
    "discrete_gaussian": set(),
    "safe_arrays": set(),
    "files": set(),
    "upper_median": set(),
    "noise_kinds": {"bounds"},
    "threats": {"noise_kinds"},
    "noise": {"discrete_gaussian", "noise_kinds", "scalars", "threats"},
    "sampling": {"base_functions", "noise", "scalars"},
    "margins": {"bounds"},
    "budget": {"bounds", "margins", "noise_kinds", "scalars"},
    "certification_sample": {"budget", "distances"},
    "certificate_base": {"budget", "files", "safe_arrays", "scalars", "threats"},
    "certificate": {"budget", "certificate_base", "certification_sample"},
    "selection": {"budget", "certification_sample", "distances", "noise", "sampling"},
    "smoother_base": {"budget", "certificate_base", "distances", "noise", "sampling"},
    "smoother": {
        *("budget", "certificate", "certification_sample", "distances", "noise", "sampling", "selection"),
        "smoother_base",
    },
    "stopping": {"bounds", "budget", "certificate", "scalars"},
    "planner": {"bounds", "budget", "noise_kinds", "scalars", "stopping"},
    "means": {
        *("bounds", "budget", "certificate_base", "distances", "noise", "noise_kinds", "sampling", "scalars"),
        "smoother_base",
    },
    "medians": {
        *("bounds", "budget", "certificate_base", "distances", "noise", "noise_kinds", "sampling", "scalars"),
        "smoother_base",
    },
    "smoothers": {"means", "medians", "smoother", "smoother_base"},
    "audit": {"distances", "noise", "sampling"},
    "attack": {"certificate_base", "distances", "noise", "sampling", "scalars", "smoother_base", "threats"},
    "lightning": {
        *("budget", "certificate_base", "distances", "metrics", "sampling", "scalars", "smoother_base", "smoothers"),
    },
    "metrics": {"bounds", "budget", "certificate", "distances", "sampling", "smoother", "upper_median"},
}
OF_THE_CORE_NEVER = {
    *("lightning", "pytorch_lightning", "wandb", "torchvision", "matplotlib", "jsonargparse", "mlxtend", "rich"),
    *("torchmetrics", "tqdm"),
}
# But for these, inside of functions save for the two modules that are imported on demand.
EXCEPTIONS = {
    "certificate_base.py": {"matplotlib"},
    "lightning.py": {"lightning"},
    "metrics.py": {"torchmetrics"},
    "distances/pretrained.py": {"torchvision", "torchmetrics"},
    "smoother_base.py": {"tqdm"},
}


@cache
def imports(path: str, source: str) -> list[tuple[str, bool]]:
    """Dotted names of everything a file imports, and whether at once; ``from a import b`` counts as a.b."""
    package = path.removesuffix(".py").split("/")[:-1]
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in tree.body) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            found += [(".".join([*module, alias.name]), node in tree.body) for alias in node.names]
    return found


def wrong_in_the_core(path: str, name: str, at_once: bool) -> str | None:
    """What is wrong with an import inside the core, or None."""
    inside = path.removeprefix("center_smoothing/")
    module = inside.split("/")[0].removesuffix(".py")
    top, *rest = name.split(".")
    if top in OF_THE_CORE_NEVER and (
        top not in EXCEPTIONS.get(inside, ()) or (at_once and inside not in ("lightning.py", "metrics.py"))
    ):
        return f"the core must not import {top}"
    if top != "center_smoothing" or module == "__init__":
        return None
    if not rest or rest[0] not in CORE:
        return "the core imports its modules by name, not the whole package"
    if module not in CORE:
        return f"say in {Path(__file__).name} what {module} may import"
    return None if rest[0] == module or rest[0] in CORE[module] else f"{module} must not import {rest[0]}"


def wrong_arrows(path: str, source: str) -> list[str]:
    """Complaints about the imports of one file; path is relative to the root, with forward slashes."""
    part = path.split("/")[0].removesuffix(".py")
    complaints = []
    for name, at_once in imports(path, source):
        top, wrong = name.split(".")[0], None
        if top in ALLOWED and top != part and top not in ALLOWED.get(part, ()):
            wrong = f"{part} must not import {top}"
        elif part == "center_smoothing":
            wrong = wrong_in_the_core(path, name, at_once)
        if wrong:
            complaints.append(f"{path}: {name}: {wrong}")
    return complaints


def python_files() -> dict[str, str]:
    """All files of ours with their text; folders that start with a dot or hold outputs are not."""
    files = [*ROOT.glob("*.py"), *(file for part in sorted(ALLOWED) for file in (ROOT / part).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def file_of(name: str, files: dict[str, str]) -> str | None:
    """The file that a dotted name leads to, if it is one of ours."""
    place = name.replace(".", "/")
    found = (f"{place}.py", f"{place}/__init__.py")
    parent = place.rpartition("/")[0]
    return next((path for path in (*found, f"{parent}.py", f"{parent}/__init__.py") if path in files), None)


def test_every_import_follows_the_architecture() -> None:
    complaints = [complaint for path, text in python_files().items() for complaint in wrong_arrows(path, text)]
    assert not complaints, "\n".join(complaints)


def test_no_files_import_each_other_in_a_circle() -> None:
    files = python_files()
    graph = {path: {file_of(name, files) for name, _ in imports(path, text)} - {None} for path, text in files.items()}
    TopologicalSorter({path: {other for other in others if other != path} for path, others in graph.items()}).prepare()


def test_every_part_is_looked_at() -> None:
    files = python_files()
    core = {path.split("/")[1].removesuffix(".py") for path in files if path.startswith("center_smoothing/")}
    assert core == {*CORE, "__init__"}
    assert {path.split("/")[0].removesuffix(".py") for path in files} == {*ALLOWED}
    assert {path.name for path in ROOT.glob("*.py")} == {"certify.py", "train.py"}


def test_wrong_imports_are_reported() -> None:
    for path, source in (
        ("center_smoothing/bounds.py", "from center_smoothing.budget import Plan"),
        ("center_smoothing/bounds.py", "from . import smoother"),
        ("center_smoothing/budget.py", "import center_smoothing.certificate"),
        ("center_smoothing/budget.py", "from center_smoothing import SmoothingBudget"),
        ("center_smoothing/distances/lp.py", "from ..sampling import Stage"),
        ("center_smoothing/means/budget.py", "from center_smoothing.smoother import CenterSmoother"),
        ("center_smoothing/sampling.py", "def f():\n    import lightning.pytorch"),
        ("center_smoothing/smoother.py", "import torchmetrics"),
        ("center_smoothing/metrics.py", "from lightning.pytorch import Callback"),
        ("center_smoothing/smoother.py", "import center_smoothing.lightning"),
        ("center_smoothing/distances/pretrained.py", "from torchvision import models"),
        ("center_smoothing/certificate_base.py", "import matplotlib"),
        ("center_smoothing/smoother.py", "from callbacks import CenterSmoothing"),
        ("center_smoothing/new.py", "from center_smoothing.bounds import dkw_rank"),
        ("lightning_modules/base.py", "from datamodules.mnist import MNIST"),
        ("command_line/errors.py", "import results"),
        ("results/folder.py", "import callbacks"),
        ("callbacks/writer.py", "from certification import run"),
        ("certification/run.py", "from training import cli"),
        ("experiments/digits.py", "import certify"),
        ("train.py", "from certification.run import Run"),
        ("examples/common.py", "from results.rows import Row"),
        ("benchmarks/speed.py", "import tests"),
    ):
        assert len(wrong_arrows(path, source)) == 1, source


def test_right_imports_are_not_reported() -> None:
    for path, source in (
        ("center_smoothing/budget.py", "from .bounds import dkw_rank\nfrom center_smoothing import margins"),
        ("center_smoothing/distances/lp.py", "from . import base\nfrom center_smoothing.distances import base"),
        ("center_smoothing/distances/pretrained.py", "def f():\n    from torchvision import models"),
        ("center_smoothing/lightning.py", "from lightning.pytorch import Callback"),
        ("center_smoothing/metrics.py", "import torchmetrics\nfrom center_smoothing.certificate import Certificate"),
        ("results/plots/new.py", "import matplotlib\nfrom lightning_modules import Certifier\nimport results.folder"),
        ("certify.py", "import certification.session, callbacks, datamodules, center_smoothing, wandb"),
        ("tests/test_certify.py", "import certify, train, command_line"),
    ):
        assert wrong_arrows(path, source) == []


def test_the_drawing_in_the_docs_is_that_of_the_imports() -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "docs" / "pictures" / "architecture.py"], capture_output=True, text=True, check=True
    )
    assert f"```text\n{found.stdout}```\n" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
