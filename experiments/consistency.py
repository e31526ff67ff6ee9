"""What the consistency term buys: ``python experiments/consistency.py --weights 0 0.03 0.1``.

Trains a model for each weight, certifies each, and writes reconstruction error against certified output radius.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from jsonargparse import ArgumentParser, Namespace
from torch.nn import functional

from command_line import argument_types, errors, named, process
from datamodules import MNIST
from experiments import trained_models
from experiments.medians import Median
from experiments.steps import Step, run
from lightning_modules import load_checkpoint
from lightning_modules.consistency import CONSISTENCY_DISTANCES
from results import files
from results.files import locked
from results.folder import CertificationFolder
from results.numbers import rounded_up

WEIGHTS = (0.0, 0.03, 0.05, 0.1, 0.3)
RATIOS = (1.0, 2.0)
NUM_EXAMPLES = 20
# Noisy copies per call of a model: measured anew after a restart, another size would change the last digits.
BATCH_SIZE = 64


@dataclass(frozen=True)
class Row:
    """One weight.

    Attributes:
        weight: of the consistency term.
        val_loss: mean squared error of the best checkpoint on clean test images.
        noisy_loss: likewise on test images with noise of level sigma, one copy each.
        eps_out: median certified output radius at each ratio h.
        smoothing_loss: median distance from f(x) to the smoothed output.
    """

    weight: float
    val_loss: float
    noisy_loss: float
    eps_out: tuple[Median, ...]
    smoothing_loss: Median


def main(args: Sequence[str] | None = None) -> Path:
    """Train what is missing, certify what is missing, and write the table.

    Args:
        args: command-line arguments; default those of the process.

    Returns:
        The table, a CSV file.

    Raises:
        SystemExit: with code 2 and one line on bad input; what was finished stays on disk.
    """
    process.quiet_libraries()
    try:
        with errors.user_errors():
            options = _parser().parse_args(None if args is None else list(args))
            options.weights = list(dict.fromkeys(options.weights))
            for h in options.h:
                named.check_certifiable(named.budget(options.budget), sigma=1.0, eps_in=h)
            out = Path(options.out)
            process.make_writable(out, "--out")
            with locked(out, f"--out must be of one experiment, got {out}: another one works there"):
                run(_steps(options), out / "log.txt")
                return _conclude(options, [_row(options, weight) for weight in options.weights])
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from there")
        raise SystemExit(130) from None


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="experiments/consistency.py", exit_on_error=False)
    add, count, choice, positive = (
        parser.add_argument,
        argument_types.count,
        argument_types.choice,
        argument_types.positive_number,
    )
    add("--weights", type=argument_types.radius("--weights"), nargs="+", default=list(WEIGHTS), help="of the term")
    add(
        "--consistency-distance",
        type=choice("--consistency-distance", *CONSISTENCY_DISTANCES),
        default="tv",
        help=f"of the term, one of {', '.join(CONSISTENCY_DISTANCES)}",
    )
    add("--sigma", type=positive("--sigma"), default=0.25, help="noise level of training and smoothing")
    add("--h", type=positive("--h"), nargs="+", default=list(RATIOS), help="eps_in / sigma")
    add("--budget", type=choice("--budget", *named.BUDGETS), default="quick", help="certify.py's")
    add("--num-examples", type=count("--num-examples"), default=NUM_EXAMPLES, help="test digits")
    add("--epochs", type=count("--epochs"), default=10, help="of each training")
    add("--seed", type=int, default=0, help="of the choice of examples and of the noise of certification")
    add("--runs", type=str, default="runs", help="folder of all runs, where trained models are looked for")
    add("--out", type=str, default="runs/consistency", help="folder to write; the same command on it goes on")
    return parser


def _settings(options: Namespace, weight: float) -> dict[str, Any]:
    """What train.py trains with a weight."""
    settings = trained_models.settings("default.yaml")
    settings["trainer"]["max_epochs"] = options.epochs
    if weight > 0.0:
        given = {"consistency_weight": weight, "consistency_distance": options.consistency_distance}
        settings["model"]["init_args"].update(given)
    return settings


def _checkpoint(options: Namespace, weight: float) -> Path | None:
    """The best checkpoint of a whole training with a weight, or None."""
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
    trainings = [
        Step(
            kind="train",
            title=f"train with weight {weight:g}",
            parts=options.epochs,
            work=images if weight == 0.0 else 2 * images,
            command=partial(_train_command, options, weight),
            finished=partial(_is_trained, options, weight),
        )
        for weight in options.weights
    ]
    certifications = [
        Step(
            kind="certify",
            title=f"certify weight {weight:g}",
            parts=options.num_examples,
            work=evaluations,
            command=partial(_certify_command, options, weight),
            finished=partial(_is_certified, options, weight),
        )
        for weight in options.weights
    ]
    return [*trainings, *certifications]


def _train_command(options: Namespace, weight: float) -> list[str]:
    arguments = _settings(options, weight)["model"]["init_args"]
    terms = [f"--model.init_args.{name}={arguments[name]}" for name in arguments if name.startswith("consistency_")]
    return [
        *(str(trained_models.ROOT / "train.py"), "--sigma", repr(options.sigma), "--runs", options.runs, *terms),
        *("--trainer.max_epochs", str(options.epochs), "--trainer.enable_progress_bar", "false"),
        # certificates during training take up to a third of its time, and change nothing
        "--center_smoothing.num_examples=1",
    ]


def _is_trained(options: Namespace, weight: float) -> bool:
    return _checkpoint(options, weight) is not None


def _certify_command(options: Namespace, weight: float) -> list[str]:
    return [
        *(str(trained_models.ROOT / "certify.py"), "--ckpt", str(_checkpoint(options, weight)), "--distance", "tv"),
        *("--sigma", repr(options.sigma), "--eps-in", *map(repr, _radii(options)), "--budget", options.budget),
        *("--num-examples", str(options.num_examples), "--seed", str(options.seed), "--batch-size", str(BATCH_SIZE)),
        *("--out", str(_certification(options, weight).path)),
    ]


def _is_certified(options: Namespace, weight: float) -> bool:
    """Whether this very certification is there as a whole; certify.py names what differs in another one."""
    checkpoint, folder = _checkpoint(options, weight), _certification(options, weight)
    summary = folder.read_summary()
    if checkpoint is None or summary is None or not summary.get("results"):
        return False
    wanted = {
        "num_examples": options.num_examples,
        "seed": options.seed,
        "sigma": options.sigma,
        "eps_in": _radii(options),
        "budget": named.budget(options.budget).as_dict(),
    }
    same = all(summary["config"].get(key) == value for key, value in wanted.items())
    whole = len(folder.finished(_radii(options))) == options.num_examples
    return same and whole and summary.get("checkpoint_sha256") == files.sha256(checkpoint)


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
    return Row(
        weight=weight,
        val_loss=val_loss,
        noisy_loss=noisy_loss,
        eps_out=tuple(Median.of([row.eps_out for row in rows if row.eps_in == eps_in]) for eps_in in radii),
        smoothing_loss=Median.of([row.smoothing_loss for row in rows if row.eps_in == radii[0]]),
    )


def _conclude(options: Namespace, rows: Sequence[Row]) -> Path:
    """Write the table with all digits, and print it as Markdown, relative to the first weight."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"median_eps_out_h={h:g}{end}" for h in options.h for end in ("", "_low", "_high")]
    writer.writerow(["weight", "val_loss", "noisy_loss", *columns, "median_smoothing_loss"])
    for row in rows:
        medians = [value for median in row.eps_out for value in (median.value, median.low, median.high)]
        writer.writerow([row.weight, row.val_loss, row.noisy_loss, *medians, row.smoothing_loss.value])
    table = Path(options.out) / f"consistency-{options.consistency_distance}.csv"
    table.write_text(text.getvalue())
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
