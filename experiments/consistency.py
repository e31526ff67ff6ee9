"""What the consistency term buys: ``python experiments/consistency.py --weights 0 0.03 0.1``.

Trains a model for each weight, certifies each, and writes reconstruction error against certified output radius.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from jsonargparse import Namespace
from torch.nn import functional

from command_line import argument_types, named, process
from datamodules import MNIST
from experiments import trained_models
from experiments.common import (
    Parser,
    certify_command,
    check_budget,
    is_certified,
    one_line_endings,
    train_command,
    write_csv,
)
from experiments.medians import Median
from experiments.steps import Step, run
from lightning_modules import load_checkpoint
from lightning_modules.consistency import CONSISTENCY_DISTANCES
from results.files import locked
from results.folder import CertificationFolder
from results.numbers import rounded_up

WEIGHTS = (0.0, 0.03, 0.05, 0.1, 0.3)
RATIOS = (1.0, 2.0)
NUM_EXAMPLES = 20


@dataclass(frozen=True)
class Row:
    """One weight."""

    weight: float  # of the consistency term
    val_loss: float  # mean squared error of the best checkpoint on clean test images
    noisy_loss: float  # likewise on test images with noise of level sigma, one copy each
    eps_out: tuple[Median, ...]  # median certified output radius at each ratio h
    smoothing_loss: Median  # median distance from f(x) to the smoothed output


def main(args: Sequence[str] | None = None) -> Path:
    """Train what is missing, certify what is missing, and write the table.

    Returns:
        The table, a CSV file.

    Raises:
        SystemExit: with code 2 and one line on bad input; what was finished stays on disk.
    """
    with one_line_endings():
        options = _parser().parse_args(None if args is None else list(args))
        options.weights = list(dict.fromkeys(options.weights))
        check_budget(options.budget, options.h)
        out = Path(options.out)
        process.make_writable(out, "--out")
        with locked(out, f"--out must be of one experiment, got {out}: another one works there"):
            run(_steps(options), out / "log.txt")
            return _conclude(options, [_row(options, weight) for weight in options.weights])


def _parser() -> Parser:
    parser = Parser("consistency")
    weights = argument_types.radius("--weights")
    parser.add_argument("--weights", type=weights, nargs="+", default=list(WEIGHTS), help="of the term")
    parser.choice("--consistency-distance", CONSISTENCY_DISTANCES, "tv", "of the term, one of {}")
    parser.positive("--sigma", default=0.25, help="noise level of training and smoothing")
    parser.positive("--h", nargs="+", default=list(RATIOS), help="eps_in / sigma")
    parser.choice("--budget", named.BUDGETS, "quick", "certify.py's")
    parser.count("--num-examples", default=NUM_EXAMPLES, help="test digits")
    parser.count("--epochs", default=10, help="of each training")
    parser.outputs("runs/consistency")
    return parser


def _settings(options: Namespace, weight: float) -> dict[str, Any]:
    """Return the training settings of a weight."""
    settings = trained_models.settings("default.yaml")
    settings["trainer"]["max_epochs"] = options.epochs
    if weight > 0.0:
        given = {"consistency_weight": weight, "consistency_distance": options.consistency_distance}
        settings["model"]["init_args"].update(given)
    return settings


def _checkpoint(options: Namespace, weight: float) -> Path | None:
    """Return the best checkpoint of a whole training with a weight, or None."""
    settings = _settings(options, weight)
    folder = trained_models.finished_run(Path(options.runs), settings, sigma=options.sigma)
    return None if folder is None else folder / "checkpoints" / "best.ckpt"


def _certification(options: Namespace, weight: float) -> CertificationFolder:
    name = f"weight={weight!r}"
    if weight > 0.0:
        name = f"{options.consistency_distance}-{name}"
    return CertificationFolder(Path(options.out) / "certifications" / f"{name}-epochs={options.epochs}")


def _radii(options: Namespace) -> list[float]:
    return [h * options.sigma for h in options.h]


def _digits() -> MNIST:
    data = MNIST(variant="digits")
    data.setup()
    return data


def _steps(options: Namespace) -> list[Step]:
    data = _digits()
    images = len(data.train_set) + len(data.test_set)
    evaluations = named.budget(options.budget).evaluations

    def training(weight: float) -> Step:
        work = images if weight == 0.0 else 2 * images
        command, finished = partial(_train_command, options, weight), partial(_is_trained, options, weight)
        return Step("train", f"train with weight {weight:g}", options.epochs, work, command, finished)

    def certification(weight: float) -> Step:
        command, finished = partial(_certify_command, options, weight), partial(_is_certified, options, weight)
        return Step("certify", f"certify weight {weight:g}", options.num_examples, evaluations, command, finished)

    return [*map(training, options.weights), *map(certification, options.weights)]


def _train_command(options: Namespace, weight: float) -> list[str]:
    arguments = _settings(options, weight)["model"]["init_args"]
    terms = [f"--model.init_args.{name}={arguments[name]}" for name in arguments if name.startswith("consistency_")]
    # certificates during training take up to a third of its time, and change nothing
    terms.append("--center_smoothing.num_examples=1")
    return train_command(*terms, sigma=options.sigma, runs=options.runs, epochs=options.epochs)


def _is_trained(options: Namespace, weight: float) -> bool:
    return _checkpoint(options, weight) is not None


def _wanted(options: Namespace) -> dict[str, Any]:
    """Return values of certify.py's flags that its summary records under their names."""
    radii, count = _radii(options), options.num_examples
    return {"sigma": options.sigma, "eps_in": radii, "num_examples": count, "seed": options.seed}


def _certify_command(options: Namespace, weight: float) -> list[str]:
    wanted = _wanted(options) | {"distance": "tv", "budget": options.budget}
    return certify_command(_checkpoint(options, weight), _certification(options, weight), wanted)


def _is_certified(options: Namespace, weight: float) -> bool:
    recorded = _wanted(options) | {"budget": named.budget(options.budget).as_dict()}
    return is_certified(_checkpoint(options, weight), _certification(options, weight), recorded)


def _row(options: Namespace, weight: float) -> Row:
    checkpoint = _checkpoint(options, weight)
    assert checkpoint is not None
    states = torch.load(checkpoint, map_location="cpu", weights_only=True)["callbacks"]
    val_loss = float(next(state["best_model_score"] for key, state in states.items() if "'val/loss'" in key))
    images = torch.stack([image["image"] for image in _digits().test_set])
    noise = options.sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(options.seed))
    with torch.inference_mode():
        noisy_loss = functional.mse_loss(load_checkpoint(checkpoint).model(images + noise), images).item()
    rows = _certification(options, weight).rows()
    radii = _radii(options)
    eps_out = tuple(Median.of([row.eps_out for row in rows if row.eps_in == eps_in]) for eps_in in radii)
    loss = Median.of([row.smoothing_loss for row in rows if row.eps_in == radii[0]])
    return Row(weight, val_loss, noisy_loss, eps_out, loss)


def _conclude(options: Namespace, rows: Sequence[Row]) -> Path:
    """Write the table with all digits, and print it as Markdown, relative to the first weight."""
    columns = [f"median_eps_out_h={h:g}{end}" for h in options.h for end in ("", "_low", "_high")]
    lines: list[list[object]] = [["weight", "val_loss", "noisy_loss", *columns, "median_smoothing_loss"]]
    for row in rows:
        medians = [value for median in row.eps_out for value in (median.value, median.low, median.high)]
        lines.append([row.weight, row.val_loss, row.noisy_loss, *medians, row.smoothing_loss.value])
    table = Path(options.out) / f"consistency-{options.consistency_distance}.csv"
    write_csv(table, lines)
    heads = [f"Median `eps_out`, h = {h:g}" for h in options.h]
    print(
        "| Weight | `val/loss`, clean inputs | Error on noisy inputs |", " | ".join(heads), "| Median smoothing loss |"
    )
    print("| ---: " * (len(heads) + 4) + "|")
    first = rows[0]
    for row in rows:
        radii = [
            f"{rounded_up(median.value)} ({median.value / before.value - 1:+.0%})"
            for median, before in zip(row.eps_out, first.eps_out, strict=True)
        ]
        pairs = ((row.val_loss, first.val_loss), (row.noisy_loss, first.noisy_loss))
        losses = [f"{loss:.5f} ({loss / before - 1:+.0%})" for loss, before in pairs]
        print(f"| {row.weight:g} | {' | '.join(losses)} | {' | '.join(radii)} | {row.smoothing_loss.value:.2f} |")
    print(f"written: {table}")
    return table


if __name__ == "__main__":
    main()
