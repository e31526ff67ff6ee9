"""What a configuration file may name, and how much it may hold."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonargparse import _common, _loaders_dumpers

import certify
import train
from command_line import class_paths

Ended = Callable[..., str]
BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(9))
INDENTED = BOMB.replace("\n", "\n      ").rstrip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose class is defined in another module than that of its name; importing it leaves a trace."""
    (tmp_path / "their_package").mkdir()
    trace = tmp_path / "trace"
    (tmp_path / "their_package" / "__init__.py").write_text(
        f"open({str(trace)!r}, 'w')\nfrom their_package.inside import Theirs\n"
    )
    (tmp_path / "their_package" / "inside.py").write_text(
        "from lightning_modules import BaseModel\nclass Theirs(BaseModel):\n    def forward(self, x): return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("their_package", "their_package.inside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return trace


@pytest.fixture
def ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ended:
    """Gives the one line of an error about a configuration."""

    def run(main: Callable[[list[str]], object], content: str, *arguments: str) -> str:
        (tmp_path / "any.yaml").write_text(content)
        with pytest.raises(SystemExit, match="2"):
            main([f"--config={tmp_path / 'any.yaml'}", *arguments])
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return run


@pytest.mark.parametrize(
    "content",
    [
        "trust: true\nmodel: their_package.Theirs\n",
        "model: {class_path: their_package.Theirs}\n",
        "model: their_package.inside.Theirs\n",
    ],
)
def test_a_file_cannot_have_a_class_imported(content: str, package: Path, ended: Ended, tmp_path: Path) -> None:
    line = ended(certify.main, content, "--plan")
    assert f"--trust must be given for {tmp_path / 'any.yaml'}, which names the class their_package." in line
    assert not package.exists()


@pytest.mark.parametrize(
    "trainer",
    ["callbacks: [{class_path: their_package.Theirs}]", "logger: their_package.Theirs",
     "callbacks: [{class_path: lightning.pytorch.callbacks.LambdaCallback, init_args: {on_fit_end: their_package.x}}]"],
)  # fmt: skip
def test_nor_one_inside_of_a_list(trainer: str, package: Path, ended: Ended, tmp_path: Path) -> None:
    line = ended(train.main, f"trainer:\n  {trainer}\n", f"--runs={tmp_path / 'runs'}")
    assert "--trust must be given" in line
    assert not package.exists()


def test_nor_one_in_a_file_that_the_file_names(package: Path, ended: Ended, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("class_path: their_package.Theirs\n")
    line = ended(train.main, f"model: {tmp_path / 'other.yaml'}\n", f"--runs={tmp_path / 'runs'}")
    assert f"--trust must be given for {tmp_path / 'other.yaml'}, " in line
    assert not package.exists()


def test_functions_that_an_allowed_module_has_imported_are_not_allowed(ended: Ended, tmp_path: Path) -> None:
    called = "{class_path: lightning.pytorch.callbacks.LambdaCallback, init_args: {on_fit_end: certificate_module}}"
    called = called.replace("certificate_module", "datamodules.image_files.os.system")
    assert "posix.system" in ended(train.main, f"trainer:\n  callbacks: [{called}]\n", f"--runs={tmp_path / 'runs'}")


@pytest.mark.parametrize(
    "words", [["--model=their_package.Theirs"], ["--model", "their_package.Theirs"], ["--trust", "--config"]]
)
def test_what_is_typed_or_trusted_is_imported_wherever_it_is_defined(
    words: list[str], package: Path, tmp_path: Path
) -> None:
    if words[-1] == "--config":
        (tmp_path / "friend.yaml").write_text("model: their_package.Theirs\n")
        words = [*words, str(tmp_path / "friend.yaml")]
    certify.main([*words, "--sigma=1", "--plan"])
    assert package.exists()


def test_the_name_of_a_file_allows_nothing(package: Path, ended: Ended, tmp_path: Path) -> None:
    (tmp_path / "their_package.Theirs").touch()
    assert class_paths.typed_names(["--config", "their_package.Theirs", "--data.root", str(tmp_path / "a.b")]) == []


def test_settings_end_with_the_block() -> None:
    before = dict(_common.parsing_settings), dict(_loaders_dumpers.loaders), _loaders_dumpers.yaml_load
    with class_paths.restricted(["--model=collections.OrderedDict"]):
        assert _common.parsing_settings != before[0]
    assert (dict(_common.parsing_settings), dict(_loaders_dumpers.loaders), _loaders_dumpers.yaml_load) == before


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"data:\n  class_path: datamodules.MNIST\n  init_args:\n    variant:\n      {INDENTED}\n", "at most 100,000"),
        ("eps_in: &a [*a]\n", "YAML must not contain itself, got *a inside of &a"),
        ("data: &a {class_path: MNIST, init_args: {variant: *a}}\n", "YAML must not contain itself"),
        (f"eps_in: {'[' * 60}1{']' * 60}\n", "at most 40 levels"),
        (f"eps_in: {'[' * 100_000}\n", "maximum nesting depth"),
        (f'eps_in: "{"[" * 100_000}"\n', "--eps-in must be a number"),
        (f"eps_in: {'x' * 1_000_001}\n", "at most 1,000,000 characters"),
        ("plan: !!bool maybe\n", "'maybe'"),
        ("plan: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    ],
    ids=["grows", "itself", "itself in data", "deep", "deeper", "deep text", "long", "no bool", "python"],
)  # fmt: skip
def test_yaml_is_bounded(content: str, expected: str, ended: Ended) -> None:
    assert expected in ended(certify.main, content, "--plan")


def test_references_that_are_meant_are_followed(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("sigma: &level 0.5\nclip_norm: null\nh: &radii [1.0, 1.5]\neps_in: null\n")
    certify.main([f"--config={tmp_path / 'own.yaml'}", "--plan"])
    (tmp_path / "own.yaml").write_text("sigma: &level 1.5\nh: [*level, 1.0]\n")
    certify.main([f"--config={tmp_path / 'own.yaml'}", "--plan"])


def test_whatever_the_parser_raises_is_bad_input() -> None:
    with pytest.raises(ValueError, match="--config must be a file with arguments"), class_paths.parse_errors():
        raise RecursionError("deep")
    with pytest.raises(TypeError, match="as it is"), class_paths.parse_errors():
        raise TypeError("as it is")
