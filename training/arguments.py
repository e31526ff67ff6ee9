"""The arguments of train.py that are its own, and its short help, which does not wait for Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from command_line import flags
from command_line.argument_types import HelpFormatter, Parser, positive_number

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG, TRAIN, CERTIFY = ROOT / "configs" / "default.yaml", ROOT / "train.py", ROOT / "certify.py"
# Processes that Lightning launches inherit it, so that all of them write to one run folder.
RUN_ID = "CENTER_SMOOTHING_RUN_ID"
_DESCRIPTION = "Fit a base model on noisy inputs, and watch how far its smoothed outputs can move."
# Of Lightning's and the classes' arguments those that most runs change; a test compares them with the classes.
_MOST_USED = {
    "--trainer.max_epochs": "how long; all flags of lightning.pytorch.Trainer are there",
    "--trainer.accelerator": "auto, cpu or gpu",
    "--trainer.devices": "how many, or auto",
    "--trainer.logger": "false logs neither to W&B nor to metrics.csv",
    "--model": "class of the base model; --model.help CLASS shows its arguments",
    "--model.latent_dim": "of the autoencoder",
    "--model.learning_rate": "of Adam",
    "--model.noise_range": "as '[0.1, 0.5]': a noise level of its own for each image",
    "--model.consistency_weight": "of a term that keeps the outputs at two noisy copies together; 0 leaves it out",
    "--data": "class of the data; --data.help CLASS shows its arguments",
    "--data.variant": "of MNIST: digits, mnist or fashion",
    "--data.root": "where the data are or go",
    "--data.batch_size": "images of a step",
}
_CERTIFICATES = {
    "--center_smoothing.h": "input radii as multiples of sigma, as '[1, 1.5, 2]'",
    "--center_smoothing.eps_in": "input radii in units of x, in place of h, as '[0.2]'",
    "--center_smoothing.num_examples": "how many validation images are certified",
    "--center_smoothing.n": "ranked outputs of an image",
    "--center_smoothing.m": "certification outputs of an image",
    "--center_smoothing.every_n_validations": "how often",
    "--center_smoothing.smoother": "center, mean or median",
    "--center_smoothing.distance": "class of the distance between outputs",
}
_EPILOG = """examples:
  python train.py --sigma 0.25
  python train.py --config configs/mnist_reconstructor.yaml --trainer.max_epochs 3
  python train.py --resume runs/latest

--help all shows every flag, with the values of configs/default.yaml."""
# What LightningCLI makes a parser with, besides what it is for.
PARSER: dict[str, Any] = {
    "prog": "train.py",
    "usage": "train.py [--sigma SIGMA] [--config FILE] [flags]",
    "description": _DESCRIPTION,
    "version": flags.package_version(),
    "formatter_class": HelpFormatter,
    "default_config_files": [str(DEFAULT_CONFIG)],
    "exit_on_error": False,
}


def add_own(add: Callable[..., Any]) -> None:
    """Add the flags that are train.py's own by ``add_argument``."""
    add("--sigma", type=positive_number("--sigma"), default=0.25, help="noise level, in units of x: pixels in [0, 1]")
    add("--experiment", type=str, default="experiment", help="name of the folder of its runs")
    add("--runs", type=str, default="runs", help="folder of all runs")
    add("--resume", type=str | None, default=None, help="run folder, or its last.ckpt: go on in that run")
    add("--init-from", type=str | None, default=None, help="checkpoint: start another run with its weights")
    add("--trust", action="store_true", help="let configuration files name classes of other packages, and import them")


def read(words: Sequence[str]) -> list[str]:
    """Return the words of a command line in train.py's spelling; answer ``--help`` and ``--version`` at once.

    Raises:
        ValueError: for an unknown flag, as far as can be told without Lightning.
        SystemExit: with code 0 where it has answered.
    """
    parser = _short_parser()
    words = flags.spelled(words, parser)
    asked = next((number for number, word in enumerate(words) if word in ("-h", "--help")), None)
    if asked is not None and words[asked + 1 : asked + 2] == ["all"]:
        return ["--help"]
    if asked is not None or "--version" in words:
        parser.parse_args(["--help" if asked is not None else "--version"])
    return words


def _short_parser() -> Parser:
    """Return a parser of the own flags and the most used others, without what they mean."""
    given = {name: value for name, value in PARSER.items() if name != "default_config_files"}
    parser = Parser(epilog=_EPILOG, **given)
    add, _, _ = parser.add_group("Flags of train.py")
    add_own(add)
    parser.set_defaults(experiment=yaml.safe_load(DEFAULT_CONFIG.read_text())["experiment"])
    for title, shown in (("The most used of Lightning and the classes", _MOST_USED), ("Certificates", _CERTIFICATES)):
        add, _, _ = parser.add_group(title)
        for flag, text in shown.items():
            add(flag, help=text)
    add, _, _ = parser.end_with("Advanced")
    add("--config", "-c", help="YAML file, one of configs/ or like them; what is typed wins over it")
    add("--seed_everything", help="of the weights, the order of the images and the noise")
    add("--print_config", nargs="?", help="print the whole configuration and exit")
    for group in ("trainer", "center_smoothing"):
        add(f"--{group}", help="YAML file with the flags that begin so")
    return parser
