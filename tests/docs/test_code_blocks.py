"""Every fenced block of every page is run, or is one of the few kinds that are only checked, each with its reason."""

import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import certify
import train
from center_smoothing import Lp, SmoothingBudget
from certification import arguments
from experiments import consistency, panel

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
# Of blocks: what runs as Python, what runs in a shell, what was printed or is drawn.
LANGUAGES = {"python", "bash", "text", ""}

TINY_TRAINING = [
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.max_epochs=1",
    "--model.init_args.latent_dim=16",
    "--model.init_args.channels=[4, 8, 16]",
    "--center_smoothing.num_examples=1",
    "--center_smoothing.h=[1.0]",
    "--center_smoothing.n=100",
    "--center_smoothing.m=300",
    "--center_smoothing.k=8",
]
TINY_CERTIFICATION = ["--accelerator=cpu", "--num-examples=1", "--n=501", "--m=1100", "--batch-size=250"]
# Of the paper's method, whose bounds need a larger margin and a smaller h for so few samples, and of exact noise, of
# which a hundred thousand numbers take a second.
TINY_SLOW = ["--delta=0.3", "--h=0.5", "--n=201", "--m=400"]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line it begins at."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> list[Block]:
    found, lines = [], text.splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if start is None:
            start = number
        else:
            language = lines[start].strip().removeprefix("```")
            found.append(Block(page, start + 1, language, "\n".join(lines[start + 1 : number])))
            start = None
    assert start is None, f"{page}: a block without an end"
    return found


def commands_of(block: Block) -> list[str]:
    """The commands of a block of shell: no comments, one for each line and side of ``&&``."""
    text = re.sub(r" *\\\n\s*", " ", block.text)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [command.strip() for line in lines for command in line.split(" && ")]


# What a user has written where a page says my_package; what own_network.py of a page takes for granted.
MY_PACKAGE = """
from torch import nn


class MyModule(nn.Flatten):
    pass


def my_distance(a, b):
    return (a - b).abs().sum(dim=1)
"""
OWN_NETWORK = """
from torch.nn import Conv2d


def my_network():
    return Conv2d(1, 1, 3, padding=1)


"""


def python_block(beginning_of_a_line: str) -> Block:
    (found,) = [
        block for block in BLOCKS if block.language == "python" and f"\n{beginning_of_a_line}" in f"\n{block.text}"
    ]
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page, (ROOT / page).read_text())]
COMMANDS = [(block, command) for block in BLOCKS if block.language == "bash" for command in commands_of(block)]


@pytest.fixture(scope="module")  # it turns W&B off, for no other file of tests
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as a user's clone has it after one training and one certification, all tiny."""
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])  # which the scripts add the current folder to
        (folder / "configs").symlink_to(ROOT / "configs")
        (folder / "my_package.py").write_text(MY_PACKAGE)
        (folder / "own_network.py").write_text(OWN_NETWORK + python_block("class Denoiser").text)
        torch.save(torch.nn.Conv2d(1, 1, 3, padding=1).state_dict(), "my_weights.pt")
        train.main([*TINY_TRAINING, "--sigma=0.25"])
        words = ["--ckpt=runs/latest/checkpoints/best.ckpt", "--h", "0.5", "1", "--out=FOLDER"]
        certify.main([*words, *TINY_CERTIFICATION])
        certify.main([*words, *TINY_CERTIFICATION, "--smoother=mean", "--clip-norm=20", "--out=MEANS"])
        for name in ("CENTERS", "certified"):
            (folder / name).symlink_to(folder / "FOLDER")
        (folder / "CKPT").symlink_to(folder / "runs" / "latest" / "checkpoints" / "best.ckpt")
        images = np.random.default_rng(0).integers(0, 256, size=(24, 32, 32, 3), dtype=np.uint8)
        (folder / "IMAGES").mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / "IMAGES" / f"{number:02}.png")
        yield folder
    for name in ("my_package", "own_network"):
        sys.modules.pop(name, None)


@pytest.fixture
def _in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(workspace)


def test_there_is_no_other_kind_of_block() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES
    hidden = [str(block) for block in BLOCKS if block.language in ("", "text") and _is_code(block.text)]
    assert not hidden, "commands and code have to be marked as such"


def _is_code(text: str) -> bool:
    return re.match(r"(\$ |python |pip |import |from \w+ import)", text) is not None


def test_no_line_of_code_is_longer_than_88_columns() -> None:
    """What programs print is not ours to break."""
    code = [block for block in BLOCKS if block.language in ("python", "bash")]
    assert not [f"{block}: {line}" for block in code for line in block.text.splitlines() if len(line) > 88]


# ---- Python ----


def _audit(folder: Path) -> dict[str, object]:
    return {"model": torch.nn.Linear(4, 3), "distance": Lp(2), "x": torch.rand(4)}


def _queries(folder: Path) -> dict[str, object]:
    table = folder / "certified_fraction.csv"
    if not table.exists():
        table.symlink_to(folder / "FOLDER" / table.name)
    return {}


def _your_model(folder: Path) -> dict[str, object]:
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["z"])],
        "flatten",
        [helper.make_tensor_value_info("x", number, ["N", 3, 4])],
        [helper.make_tensor_value_info("z", number, ["N", 12])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "network.onnx")
    return {}


# What a page takes for granted: names, and files in the folder.
GIVEN: dict[str, Callable[[Path], dict[str, object]]] = {
    "docs/audit.md": _audit,
    "docs/queries.md": _queries,
    "docs/your_model.md": _your_model,
}
# Blocks of Python that are only compiled, by a line of theirs, with the reason.
COMPILED_ONLY = {
    'torchvision_perceptual("vgg16")  # ImageNet weights, normalised pixels, grey or RGB': "downloads weights",
}
# tests/test_readme.py runs README's Python, and compares what it prints.
PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.language == "python"} - {"README.md"})


@pytest.mark.usefixtures("_in_workspace")
@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_runs(page: str, workspace: Path) -> None:
    torch.manual_seed(0)
    names = GIVEN.get(page, lambda folder: {})(workspace)
    for block in BLOCKS:
        if block.page == page and block.language == "python":
            code = compile("\n" * block.line + block.text, str(ROOT / page), "exec")
            if not any(line in COMPILED_ONLY for line in block.text.splitlines()):
                exec(code, names)


# ---- Shell ----


def _train(words: list[str]) -> None:
    own = "own_network.Denoiser" in words
    other = own or any("denoiser" in word for word in words)  # networks without these arguments
    tiny = [word for word in TINY_TRAINING if not (other and "--model." in word)]
    train.main([*words, *tiny, f"--runs={'own' if own else 'more'}-runs"])


def _certify(words: list[str]) -> None:
    if "--from" in words:
        certify.main(words)
    elif "--plan" in words:
        # fewer budgets fit into the time of each of many examples
        examples = ["--num-examples=1000"] if "--time-limit" in words else []
        certify.main([*words, *examples, "--accelerator=cpu"])
    else:
        if "own_network.Denoiser" in words:  # whose training is the line before
            words = [word.replace("runs/latest", "own-runs/latest") for word in words]
        slow = TINY_SLOW if {"paper", "discrete"} & {*words} else []
        out = Path("more", f"{len(list(Path('more').glob('*')))}")
        attack = ["--attack-steps=2", "--attack-starts=1", "--attack-samples=4"] if "--attack" in words else []
        certify.main([*words, *TINY_CERTIFICATION, *slow, *attack, f"--out={out}"])
        assert (out / "report.html").is_file()


def _certify_plan(words: list[str]) -> None:
    """Parse, check and plan; nothing is loaded and sampled."""
    certify.main([*words, "--plan", "--num-examples=1", "--accelerator=cpu"])


def _certify_parse(words: list[str]) -> None:
    """Its flags, its configuration and what they name exist."""
    assert arguments.parse(words).model is not None


def _experiment(name: str, runs: ModuleType) -> Callable[[list[str]], None]:
    """All that an experiment checks before it trains, with its data."""

    def check(words: list[str]) -> None:
        steps: list[object] = []

        class Planned(BaseException): ...

        def planned(found: list[object], log: Path) -> None:
            steps.extend(found)
            raise Planned

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "run", planned)
            with pytest.raises(Planned):
                importlib.import_module(f"experiments.{name}").main(words)
        assert steps

    return check


def _script(path: str) -> Callable[[list[str]], None]:
    """Its flags exist, by its source."""

    def check(words: list[str]) -> None:
        source = (ROOT / path).read_text()
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert not [flag for flag in flags if f'"{flag}"' not in source and flag not in ("--ckpt", "--num-examples")]

    return check


def _example(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file()
    _script("examples/common.py")(words[1:])


def _pip(words: list[str]) -> None:
    """What it installs is this package, with extras that it has."""
    (wanted,) = [word for word in words if word != "-e"]
    extra = re.fullmatch(r"(?:\.|center-smoothing)(?:\[(\w+)\])?", wanted)
    assert extra is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra[1] is None or extra[1] in project["optional-dependencies"]
    assert project["name"] == "center-smoothing"


def _files(words: list[str]) -> None:
    """The files of this repository that it names exist."""
    assert not [word for word in words if word.startswith("configs/") and not (ROOT / word).is_file()]


# Commands that are run, or checked as far as that goes: the first pattern that fits. The reason stands beside those
# that are not run.
RUN: list[tuple[str, Callable[[list[str]], None]]] = [
    (r"python train\.py", _train),
    (r"python certify\.py(?!.* --(?:devices |config |model examples\.))", _certify),
]
CHECKED: list[tuple[str, Callable[[list[str]], None], str]] = [
    (r"python certify\.py(?=.* --devices )", _certify_plan, "several processes: tests/faults/test_processes.py"),
    (r"srun --kill-on-bad-exit=1 python certify\.py", _certify_plan, "SLURM"),
    (r"python certify\.py(?=.* --config configs/face_detection\.yaml )", _certify_parse, "photos of faces"),
    (r"python certify\.py(?=.* --model examples\.label_maps\.)", _certify_parse, "photos of one's own"),
    (r"python experiments/figure4\.py", _experiment("figure4", panel), "ten minutes to hours: tests/experiments"),
    (r"python experiments/figure5\.py", _experiment("figure5", panel), "ten minutes to hours: tests/experiments"),
    (r"python experiments/consistency\.py", _experiment("consistency", consistency), "an hour: tests/experiments"),
    (r"python (?=examples/)", _example, "tests/examples run them all"),
    (r"python benchmarks/throughput\.py", _script("benchmarks/throughput.py"), "measures for a minute"),
    (r"python benchmarks/gpu\.py", _script("benchmarks/gpu.py"), "a GPU, and minutes"),
    (r"python benchmarks/growth\.py", _script("benchmarks/growth.py"), "minutes, with gigabytes of memory"),
    (r"python tests/faults/kill_harness\.py", _script("tests/faults/kill_harness.py"), "kills processes: tests/faults"),
    (r"pip install", _pip, "installs packages"),
    (r"python -m venv \.venv$", _files, "makes an environment"),
    (r"\. \.venv/bin/activate$", _files, "the same"),
    (r"export PYTHONPATH=\.$", _files, "the folder is in sys.path here"),
    (r"pre-commit install$", _files, "changes the clone"),
    (r"pytest$", _files, "these tests"),
    (r"mkdocs (?:build --strict|serve)$", _files, "tests/docs/test_site.py"),
    (r"wandb (?:sweep|agent|leet)", _files, "an account, or a terminal"),
    (r"mkdir compare$", _files, "for the next two"),
    (r'ln -s "\$PWD"/runs/', _files, "runs of Weights & Biases"),
]


def checker_of(command: str) -> tuple[Callable[[list[str]], None], list[str]]:
    """What to do with a command, and its arguments."""
    command = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command)
    for pattern, check in [*RUN, *((pattern, check) for pattern, check, _ in CHECKED)]:
        found = re.match(pattern, command)
        if found is not None:
            return check, shlex.split(command[found.end() :])
    raise AssertionError(f"a command that is neither run nor listed: {command}")


@pytest.mark.usefixtures("_in_workspace")
@pytest.mark.parametrize("command", dict.fromkeys(command for _, command in COMMANDS))
def test_a_command_of_the_pages_works(command: str) -> None:
    check, words = checker_of(command)
    check(words)


def test_a_command_that_nobody_thought_of_is_a_failure() -> None:
    block = Block("page", 1, "bash", "pip install . && python more.py\n# a comment\npython certify.py \\\n    --plan")
    assert commands_of(block) == ["pip install .", "python more.py", "python certify.py --plan"]
    with pytest.raises(AssertionError, match=r"neither run nor listed: python more\.py"):
        checker_of("python more.py")


def test_nothing_is_listed_in_vain() -> None:
    for pattern, _, _ in CHECKED:
        assert any(re.search(pattern, command) for _, command in COMMANDS), pattern
    lines = {line for block in BLOCKS for line in block.text.splitlines()}
    assert set(COMPILED_ONLY) <= lines


# ---- Figures ----


def rows(page: str, heading: str) -> list[list[float]]:
    """The numbers of the table under a line of its header: spaces group digits, a row begins with a number."""
    text = (ROOT / page).read_text()
    table = text[text.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[float(cell.strip().replace(" ", "")) for cell in row.strip("| ").split("|")] for row in table]


def test_the_tables_of_sample_sizes_are_those_of_the_budgets() -> None:
    ratios = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    for n, delta, *least in rows("docs/choosing.md", "| n | Delta | h = 0.5"):
        budget = SmoothingBudget(n=int(n))
        assert [budget.delta, *(budget.plan(h).least_m for h in ratios)] == [delta, *least]
    for n, k, least_delta, delta in rows("docs/choosing.md", "| n | k | least Delta"):
        budget = SmoothingBudget(n=int(n))
        assert [budget.k, budget.delta] == [k, delta]
        assert 0.0 <= least_delta - budget.least_delta < 1e-4
    budgets: list[dict[str, Any]] = [{"method": "paper", "delta": 0.05}, {"delta": 0.05}, {}]
    for h, *least in rows("docs/comparison.md", "| h | paper, Delta"):
        assert [SmoothingBudget(**budget).plan(h).least_m for budget in budgets] == least
