"""Models that fail, or of which no certificate would mean anything."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import certify
from lightning_modules import NoisyAutoencoder

Told = Callable[[str, str, str], None]
SECTION = "Models"


@pytest.fixture
def few(tiny_command: list[str], tmp_path: Path) -> list[str]:
    """Three examples, without folding, which would replace the forward that is patched."""
    return [*tiny_command, "--num-examples=3", "--h=1", "--fold-batch-norm=false", f"--out={tmp_path / 'out'}"]


@pytest.fixture
def seen(
    few: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, list[str], list[str]]]:
    """Gives exit code and lines of both streams with another forward."""

    def run(change: Callable[[Tensor, Tensor], Tensor], *arguments: str) -> tuple[int, list[str], list[str]]:
        forward = NoisyAutoencoder.forward
        monkeypatch.setattr(NoisyAutoencoder, "forward", lambda self, x: change(x, forward(self, x)))
        code: Any = 0
        try:
            certify.main([*few, *arguments])
        except SystemExit as error:
            code = error.code
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return run


def test_outputs_that_depend_on_the_batch_are_refused(seen: Any, told: Told) -> None:  # noqa: ANN401
    code, _, (line,) = seen(lambda x, y: y - y.mean(dim=0))
    assert code == 2
    told(SECTION, "outputs depend on the rest of the batch", line)


def test_outputs_that_depend_on_the_size_of_the_batch_are_refused(seen: Any, told: Told) -> None:  # noqa: ANN401
    code, _, (line,) = seen(lambda x, y: y * len(x))
    assert code == 2
    told(SECTION, "outputs depend on the size of the batch", line)


def test_random_outputs_are_refused(seen: Any, told: Told) -> None:  # noqa: ANN401
    calls = count()
    code, _, (line,) = seen(lambda x, y: y + torch.rand(y.shape, generator=torch.Generator().manual_seed(next(calls))))
    assert code == 2
    told(SECTION, "outputs differ from call to call", line)


def test_nothing_but_nan_is_refused(seen: Any, told: Told) -> None:  # noqa: ANN401
    code, _, (line,) = seen(lambda x, y: y * torch.nan)
    assert code == 2
    told(SECTION, "all outputs are NaN", line)


def test_some_nan_is_a_note(seen: Any, told: Told) -> None:  # noqa: ANN401
    code, said, _ = seen(lambda x, y: y.where(x.amax((1, 2, 3), keepdim=True) < 1.5, torch.nan))
    assert code == 0
    (line,) = (line for line in said if line.startswith("note: the model returned NaN"))
    told(SECTION, "some outputs are NaN or inf", line)


def test_an_error_in_the_model_is_one_line(seen: Any, told: Told) -> None:  # noqa: ANN401
    calls: list[int] = []

    def fails_late(x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(x))
        if len(calls) > 30:
            raise RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")
        return y

    code, _, (line,) = seen(fails_late)
    assert code == 2
    told(SECTION, "an error of the device while sampling", line)


def raises(error: Exception, *, after: int = 0) -> Callable[[Tensor, Tensor], Tensor]:
    calls = count()

    def change(x: Tensor, y: Tensor) -> Tensor:
        if next(calls) >= after:
            raise error
        return y

    return change


class Own(Exception):
    """Of a user."""


@pytest.mark.parametrize(
    ("fault", "error", "after"),
    [
        ("an error in the model before sampling", KeyError("weights"), 0),
        ("an error in the model while sampling", Own("there is no more"), 30),
        ("a file of the model goes while sampling", FileNotFoundError(2, "No such file or directory", "w.bin"), 30),
        ("the machine runs out of memory", MemoryError("Unable to allocate 8.00 TiB"), 30),
    ],
)
def test_any_error_in_the_model_is_one_line_with_its_class(
    fault: str, error: Exception, after: int, seen: Any, told: Told, tmp_path: Path  # noqa: ANN401
) -> None:  # fmt: skip
    code, _, (line,) = seen(raises(error, after=after))
    assert code == 2
    assert f"raise error\n{type(error).__name__}: " in (tmp_path / "out" / "traceback.txt").read_text().replace(
        f"{Own.__module__}.", ""
    )
    told(SECTION, fault, line)


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("a model that needs gradients", lambda x, y: torch.autograd.grad(y.sum(), x)[0]),
        (
            "a model that needs contiguous memory",
            lambda x, y: torch.ones(len(x), 3, 4, 4).to(memory_format=torch.channels_last).view(len(x), -1),
        ),
    ],
)
def test_what_a_model_needs_is_named(
    fault: str, change: Callable[[Tensor, Tensor], Tensor], seen: Any, told: Told  # noqa: ANN401
) -> None:  # fmt: skip
    code, _, (line,) = seen(change)
    assert code == 2
    told(SECTION, fault, line)


def test_any_error_in_a_distance_is_one_line_with_its_class(
    few: list[str], told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_distances.py").write_text("def edits(a, b):\n    raise TypeError('texts are wanted')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        certify.main([*few, "--distance=my_distances.edits"])
    (line,) = capsys.readouterr().err.splitlines()
    told(SECTION, "an error in the distance", line)


class Memory:
    """A device that has none for more than so many inputs at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.largest = 0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.largest = max(self.largest, len(x))
        return y


def test_out_of_memory_halves_the_batch_and_changes_no_number(
    seen: Any, told: Told, few: list[str], tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]  # noqa: ANN401
) -> None:  # fmt: skip
    certify.main([*few, f"--out={tmp_path / 'enough'}"])
    code, said, _ = seen(memory := Memory(20))
    assert (code, memory.largest) == (0, 16)
    (line,) = (line for line in said if "out of memory" in line)
    told(SECTION, "the device runs out of memory", line)
    assert contents(tmp_path / "out") == contents(tmp_path / "enough")


@pytest.mark.parametrize("arguments", [("--audit",), ("--batch-size=auto",)])
def test_memory_for_a_few_inputs_is_enough(seen: Any, arguments: tuple[str, ...]) -> None:  # noqa: ANN401
    code, said, errors = seen(memory := Memory(5), *arguments)
    assert (code, errors, memory.largest) == (0, [], 4)
    assert any("evaluated 4 at a time" in line for line in said)


def test_no_memory_for_one_input_is_one_line(seen: Any, told: Told) -> None:  # noqa: ANN401
    code, _, (line,) = seen(Memory(0))
    assert code == 2
    told(SECTION, "no memory for a single noisy copy", line)


def test_an_audit_that_passes_is_written_down(
    few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certify.main([*few, "--audit"])
    output = capsys.readouterr().out.splitlines()
    assert "audit: 9 checks, all passed" in output
    audit = json.loads((tmp_path / "out" / "summary.json").read_text())["audit"]
    assert [(finding["check"], finding["passed"]) for finding in audit][-2:] == [
        ("abstention", True), ("finite certificates", True)
    ]  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<h2 id="audit">Audit</h2>' in page
    assert page.count("<td>pass</td>") == 9
    certify.main(few)  # the folder is the same without an audit


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda x, y: y - y.mean(dim=0), "batch independence"),
        (lambda x, y: y * len(x), "batch independence"),
        (lambda x, y: y * torch.nan, "finite outputs"),
    ],
)
def test_an_audit_certifies_nothing_where_it_would_mean_nothing(
    change: Callable[[Tensor, Tensor], Tensor], check: str, seen: Any, tmp_path: Path  # noqa: ANN401
) -> None:  # fmt: skip
    code, said, errors = seen(change, "--audit")
    assert (code, errors) == (1, [])
    assert said[-1] == "nothing is certified: these failures leave certificates without a meaning"
    assert any(line.startswith(f"  FAIL  {check}") for line in said)
    assert not (tmp_path / "out" / "certificates.csv").exists()


def test_an_audit_that_fails_ends_with_code_1_and_all_files(seen: Any, tmp_path: Path) -> None:  # noqa: ANN401
    code, said, _ = seen(lambda x, y: y.where(x.amax((1, 2, 3), keepdim=True) < 1.5, torch.nan), "--audit")
    assert code == 1
    assert any(line.startswith("  FAIL  finite outputs") for line in said)
    assert "<td>FAIL</td>" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("other", ["--from=somewhere", "--plan"])
def test_an_audit_goes_with_a_certification(
    other: str, tiny_command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--audit", other] if other.startswith("--from") else [*tiny_command, "--audit", other]
    with pytest.raises(SystemExit, match="2"):
        certify.main(arguments)
    assert "--audit goes with a certification" in capsys.readouterr().err
