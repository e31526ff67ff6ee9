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
from experiments.common import Parser, certification, check_budget, one_line_endings, training, write_csv
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
    return trained_models.best_checkpoint(options.runs, _settings(options, weight), sigma=options.sigma)


def _certification(options: Namespace, weight: float) -> CertificationFolder:
    name = f"{options.consistency_distance}-weight={weight!r}" if weight > 0.0 else f"weight={weight!r}"
    return CertificationFolder(Path(options.out) / "certifications" / f"{name}-epochs={options.epochs}")


def _radii(options: Namespace) -> list[float]:
    return [h * options.sigma for h in options.h]


def _digits() -> MNIST:
    data = MNIST(variant="digits")
    data.setup()
    return data


def _steps(options: Namespace) -> list[Step]:
    data, trainings, certifications = _digits(), [], []
    wanted = {"sigma": options.sigma, "eps_in": _radii(options)}
    wanted |= {"num_examples": options.num_examples, "seed": options.seed}
    for weight in options.weights:
        settings = _settings(options, weight)
        given = settings["model"]["init_args"]
        trainings.append(
            training(
                f"train with weight {weight:g}",
                *(f"--model.init_args.{name}={given[name]}" for name in given if name.startswith("consistency_")),
                "--center_smoothing.num_examples=1",  # certificates take up to a third of the time, and change nothing
                settings=settings,
                sigma=options.sigma,
                runs=options.runs,
                images=(len(data.train_set) + len(data.test_set)) * (1 if weight == 0.0 else 2),
            )
        )
        certifications.append(
            certification(
                f"certify weight {weight:g}",
                _certification(options, weight),
                wanted,
                checkpoint=partial(_checkpoint, options, weight),
                distance="tv",
                budget=options.budget,
            )
        )
    return trainings + certifications


def _row(options: Namespace, weight: float) -> Row:
    checkpoint = _checkpoint(options, weight)
    assert checkpoint is not None
    states = torch.load(checkpoint, map_location="cpu", weights_only=True)["callbacks"]
    val_loss = float(next(state["best_model_score"] for key, state in states.items() if "'val/loss'" in key))
    digits = _digits().test_set
    images = torch.stack([digits[position]["image"] for position in range(len(digits))])
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
