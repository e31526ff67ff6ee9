import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch

import certify
import train

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text().replace(" \\\n    ", " ")  # each command in one line
DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
TRAINING = [
    "--trainer.accelerator=cpu",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=1",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
    "--center_smoothing.num_examples=1",
    "--model.init_args.channels=[4, 8, 16]",
]
CERTIFICATION = ["--n=200", "--m=400", "--k=8", "--num-examples=1", "--accelerator=cpu", "--h=0.5"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(command: str, folder: Path, *more: str) -> str:
    """Run a line of the README that starts with ``python``, with further arguments that make it quick."""
    program, script, *arguments = shlex.split(command)
    assert program == "python"
    command_line = [sys.executable, str(ROOT / script), *arguments, *more]
    done = subprocess.run(command_line, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_lines_of_set_up() -> None:
    training, test = (block.strip() for block in blocks("bash") if block.startswith("pip install"))
    assert training == 'pip install -e ".[train]" && python train.py --sigma 0.25'
    assert test == 'pip install -e ".[test]" && pytest'
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"train", "test"} <= extras.keys()
    installs, runs = test.split(" && ")
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert installs in [line.replace(" --quiet", "") for line in script]
    assert runs in script


def test_the_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one as a user starts it, the others in this process, which has imported everything."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    lines = [line for block in blocks("bash")[:4] for line in block.splitlines()]
    training, watch, certification, ask = (line.split(" && ")[-1] for line in lines)
    printed = run(training, tmp_path, *TRAINING)
    next_command = printed.strip().splitlines()[-1]
    assert next_command.split()[0] == "python"
    assert (tmp_path / "runs" / "latest" / "checkpoints" / "best.ckpt").is_file()
    assert list((tmp_path / watch.removeprefix("wandb leet ")).glob("offline-run-*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")  # tests/scripts/test_wandb.py has certifications that log
    certify.main([*shlex.split(next_command)[2:], *CERTIFICATION, "--out=as-printed"])
    capsys.readouterr()
    certify.main([*shlex.split(certification)[2:], *CERTIFICATION])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "report: certified/report.html"
    assert "report: certified/report.html" in README
    files = re.findall(r"`(\w+\.(?:csv|json|png|html))`", README[README.index("`report.html` is one page") :][:300])
    assert len(files) >= 6
    assert set(files) <= {path.name for path in (tmp_path / "certified").iterdir()}
    certify.main(shlex.split(ask)[2:])
    printed = capsys.readouterr().out
    assert "eps_in=0.1" in printed
    assert "eps_in=0.7" in printed
    assert "eps_out=60" in printed


def test_the_lines_of_python_print_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    shown = blocks("text")[0].splitlines()
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 9
    with torch.random.fork_rng():
        exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    for line, expected in zip(printed, shown, strict=True):
        (words, number), (those, shown_number) = line.rsplit(" ", 1), expected.rsplit(" ", 1)
        assert words == those
        assert float(number) == pytest.approx(float(shown_number), rel=0.02)  # another processor rounds differently


def test_it_can_be_read_in_five_minutes() -> None:
    assert len(README.split()) < 1100


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *DOCS])
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    assert not [link for link in links if not (ROOT / document).parent.joinpath(link).is_file()]
    assert not re.findall(r"@[A-Z]+@", text)


@pytest.mark.parametrize("command", re.findall(r"^python (?:experiments|certify).*$", README, flags=re.MULTILINE))
def test_scripts_and_configurations_that_commands_name_exist(command: str) -> None:
    _, script, *words = shlex.split(command)
    assert (ROOT / script).is_file()
    assert all((ROOT / word).is_file() for word in words if word.startswith("configs/"))


@pytest.mark.parametrize("script", [certify, train])
def test_the_flags_in_the_tables_exist(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "command_line.md").read_text()
    (table,) = re.findall(rf"\| Flag of {script.__name__}.py .*?\n\n", page, flags=re.DOTALL)
    shown = set(re.findall(r"`(--[\w.-]+)", table))
    with pytest.raises(SystemExit, match="0"):
        script.main(["--help"])
    printed = capsys.readouterr().out
    assert shown
    assert not {
        flag for flag in shown if flag not in printed and not flag.startswith(("--data.", "--model.", "--denoiser."))
    }


def test_the_check_of_a_distance_prints_what_the_documentation_shows(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "distances.md").read_text()
    code, shown = re.findall(r"```python\n(class|import torch.*?)```.*?```\n(.*?)```", text, flags=re.DOTALL)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(code, {})
    passed, failed = capsys.readouterr().out.splitlines()
    assert "all axioms hold" in passed
    numbers = r"for outputs \(.*?\)"
    assert re.sub(numbers, "", failed) == re.sub(numbers, "", shown.strip())
