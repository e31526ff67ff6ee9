"""Flags as they are typed, of both scripts."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

import certify
import train
from center_smoothing.lightning import CenterSmoothing
from certification.arguments import _parser
from command_line.flags import spelled
from datamodules import MNIST
from lightning_modules import NoisyAutoencoder, NoisyModule
from tests.scripts.running import refused
from training import arguments

ROOT = Path(__file__).parents[2]


def options(printed: str) -> list[str]:
    return re.findall(r"^  (?:-\w, )?(--[\w.-]+)", printed, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--num_examples=1", "--num-examples=1"),
        ("--alpha_1", "--alpha1"),
        ("--alpha-2=a_b-c", "--alpha2=a_b-c"),
        ("--fold_batch-norm", "--fold-batch-norm"),
        ("--data.max-side=4", "--data.max_side=4"),
        ("--plan", "--plan"),
        ("--num-ex=1", "--num-examples=1"),
        ("-1", "-1"),
        ("runs/a_b", "runs/a_b"),
    ],
)
def test_hyphens_and_underscores_are_the_same(word: str, meant: str) -> None:
    assert spelled([word], _parser(with_classes=False)) == [meant]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--init_from", "--init-from"),
        ("--seed-everything=1", "--seed_everything=1"),
        ("--center-smoothing.num-examples", "--center_smoothing.num_examples"),
        ("--model.init-args.latent-dim", "--model.init_args.latent_dim"),
        ("--trainer.max-epochs", "--trainer.max_epochs"),
    ],
)
def test_so_they_are_in_train(word: str, meant: str) -> None:
    assert arguments.read([word]) == [meant]


@pytest.mark.parametrize(
    ("main", "word", "nearest"),
    [
        (certify.main, "--num-exampels=1", "--num-examples"),
        (certify.main, "--eps_inn", "--eps-in"),
        (train.main, "--sgima=1", "--sigma"),
    ],
)
def test_an_unknown_flag_is_told_the_nearest(
    main: object, word: str, nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, word, main=main)  # type: ignore[arg-type]
    script = main.__module__  # type: ignore[attr-defined]
    flag = word.partition("=")[0]
    assert line == f"error: {flag} is no flag of {script}.py: the nearest is {nearest}, and --help lists them"


def test_help_and_version_do_not_wait_for_lightning() -> None:
    code = (
        "import sys\n"
        "for script, slow in ('train', 'torch'), ('certify', 'torchvision'):\n"
        "    main = __import__(script).main\n"
        "    for word in ('--help', '--version'):\n"
        "        try: main([word])\n"
        "        except SystemExit as left: assert left.code == 0\n"
        "    assert not {'lightning', slow} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+)\.py \d+\.\d+", done.stdout, flags=re.MULTILINE) == ["train", "certify"]


def test_the_help_of_certify_begins_with_six_and_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        certify.main(["--help"])
    printed = capsys.readouterr().out
    assert options(printed)[:6] == ["--ckpt", "--distance", "--h", "--num-examples", "--budget", "--out"]
    titles = re.findall(r"^([A-Z][\w ]+):$", printed, flags=re.MULTILINE)
    begin, *others = ["The six to begin with", "What to certify", "What to promise", "Sample sizes"]
    assert titles == [begin, *others, "Output", "Speed", "Advanced"]
    assert not re.findall(r"null|default: None|\(\)", printed)
    assert len(re.findall(r"^  python certify\.py ", printed, flags=re.MULTILINE)) == 3


def test_the_short_help_of_train_shows_flags_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        train.main(["--sigma=1", "--help"])
    shown = options(capsys.readouterr().out)
    classes = {
        "trainer": [Trainer],
        "center_smoothing": [CenterSmoothing],
        "model": [NoisyAutoencoder, NoisyModule],
        "data": [MNIST],
    }
    for flag in shown:
        part, dot, name = flag.removeprefix("--").partition(".")
        if dot:
            assert any(name in inspect.signature(kind).parameters for kind in classes[part]), flag
    assert shown[0] == "--sigma"


def test_help_all_is_that_of_the_full_parser() -> None:
    assert arguments.read(["--sigma=1", "--help", "all"]) == ["--help"]
