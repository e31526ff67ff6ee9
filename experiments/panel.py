"""One panel of the paper's figures 4 and 5: models and certificates, their table, picture and report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

import datamodules
from center_smoothing.smoothers import DEFAULT_SMOOTHER, SMOOTHERS
from command_line import named, process
from datamodules import ImageDataModule
from experiments import trained_models
from experiments.common import Parser, certification, check_budget, one_line_endings, training, write_csv
from experiments.findings import findings
from experiments.medians import Median
from experiments.panel_report import panel_report
from experiments.picture import draw
from experiments.plan import Plan, Point
from experiments.steps import Step, run
from results import html
from results.files import locked
from results.numbers import rounded_up

# Which configuration of configs/ trains what.
CONFIGS = {
    ("mnist-digits", "autoencoder"): "default.yaml",
    ("mnist-digits", "reconstructor"): "mnist_reconstructor.yaml",
    ("mnist", "autoencoder"): "mnist_autoencoder.yaml",
    ("mnist", "reconstructor"): "mnist_full_reconstructor.yaml",
    ("fashion", "autoencoder"): "fashion_autoencoder.yaml",
    ("fashion", "reconstructor"): "fashion_reconstructor.yaml",
    ("cifar10", "autoencoder"): "cifar10_autoencoder.yaml",
    ("cifar10", "reconstructor"): "cifar10_reconstructor.yaml",
    ("image-folder", "autoencoder"): "image_folder_autoencoder.yaml",
    ("image-folder", "reconstructor"): "image_folder_reconstructor.yaml",
}
# The paper's: section 5 names the noise levels of training, section 5.2 the input radii.
TRAINING_SIGMAS = (0.1, 0.2, 0.3, 0.4, 0.5)
EPS_IN = (0.2, 0.4, 0.6, 0.8, 1.0)
RATIOS = (1.0, 1.5, 2.0)
NUM_EXAMPLES = 50
# What --budget quick saves besides samples.
QUICK_EXAMPLES, QUICK_EPOCHS = 10, 3
# Of a panel's table: a row for each point, the intervals being the bootstrap's.
COLUMNS = (
    *("smoother", "h", "eps_in", "sigma", "training_sigma", "median_eps_out", "eps_out_low", "eps_out_high"),
    *("median_smoothing_loss", "smoothing_loss_low", "smoothing_loss_high", "abstention_rate", "num_examples"),
)


def main(figure: str, distance: str, args: Sequence[str] | None = None) -> Path:
    """Train what is missing, certify what is missing, and write the table, the picture and the report.

    Returns:
        The panel's folder.

    Raises:
        SystemExit: with code 2 and one line on bad input; what was finished stays on disk.
    """
    with one_line_endings():
        plan = _plan(figure, distance, _parser(figure).parse_args(None if args is None else list(args)))
        print(
            f"{figure}, {plan.distance}, {plan.smoother}: {len(plan.pairs)} points, "
            f"{len(plan.sigmas)} noise levels, {plan.options.num_examples} test examples each"
        )
        with locked(plan.out, f"--out must be of one experiment, got {plan.out}: another one works there"):
            run(_steps(plan), plan.out / "log.txt")
            _conclude(plan, [_point(plan, *pair) for pair in plan.pairs])
    return plan.out


def _parser(figure: str) -> Parser:
    parser, (data, tasks) = Parser(figure), zip(*CONFIGS, strict=True)
    parser.choice("--data", data, "mnist-digits")
    parser.choice("--task", tasks, "autoencoder")
    parser.add_argument("--data-root", type=str | None, help="folder of the images or of the full data set")
    parser.positive("--h", nargs="+", default=list(RATIOS), help="eps_in / sigma, one line each")
    parser.positive("--eps-in", nargs="+", default=list(EPS_IN), help="input radii (l2 norm)")
    levels = "noise levels of the base models; the nearest one is smoothed"
    parser.positive("--training-sigma", nargs="+", default=list(TRAINING_SIGMAS), help=levels)
    quick = f"certify.py's; quick also takes {QUICK_EXAMPLES} examples and {QUICK_EPOCHS} epochs"
    parser.choice("--budget", named.BUDGETS, "standard", quick)
    parser.choice("--smoother", list(SMOOTHERS), DEFAULT_SMOOTHER, "certify.py's, one of {}")
    parser.positive("--clip-norm", help="certify.py's, of means")
    parser.count("--num-examples", help=f"test examples; default {NUM_EXAMPLES}")
    parser.count("--epochs", help="of each training; default: the configuration's")
    parser.outputs(None)
    return parser


def _plan(figure: str, distance: str, options: Namespace) -> Plan:
    """Check everything that can be checked without training and sampling."""
    bounds = {"--clip-norm": options.clip_norm}
    named.check_smoother(options.smoother, distance=distance, budget=options.budget, bounds=bounds, of_centers={})
    quick = options.budget == "quick"
    options.num_examples = options.num_examples or (QUICK_EXAMPLES if quick else NUM_EXAMPLES)
    settings = trained_models.settings(CONFIGS[options.data, options.task])
    if options.data_root is not None:
        settings["data"].setdefault("init_args", {})["root"] = options.data_root
    if options.epochs or quick:
        settings["trainer"]["max_epochs"] = options.epochs or QUICK_EPOCHS
    check_budget(options.budget, options.h, options.smoother)
    data = _datamodule(settings)
    if options.num_examples > len(data.test_set):
        raise ValueError(
            f"--num-examples must be at most {len(data.test_set)}, the size of the test set, got {options.num_examples}"
        )
    name = f"{figure}-{options.data}-{options.task}-{options.budget}"
    if options.smoother != DEFAULT_SMOOTHER:
        name += f"-{options.smoother}"
    if options.clip_norm is not None:
        name += f"-clip_norm={options.clip_norm:g}"
    out = Path(options.out) if options.out is not None else Path(options.runs) / "figures" / name
    process.make_writable(out, "--out")
    return Plan(
        figure=figure,
        distance=distance,
        options=options,
        settings=settings,
        pairs=list(itertools.product(dict.fromkeys(options.h), sorted(set(options.eps_in)))),
        out=out,
        image_shape=tuple(data.test_set[0]["image"].shape),
        images=len(data.train_set) + len(data.test_set),
    )


def _datamodule(settings: dict[str, Any]) -> ImageDataModule:
    kind = getattr(datamodules, settings["data"]["class_path"].rsplit(".", 1)[-1])
    data: ImageDataModule = kind(**settings["data"].get("init_args", {}))
    data.prepare_data()
    data.setup()
    return data


def _steps(plan: Plan) -> list[Step]:
    options = plan.options
    arguments = ["--config", str(trained_models.CONFIGS / CONFIGS[options.data, options.task])]
    arguments += [] if options.data_root is None else ["--data.init_args.root", options.data_root]
    of = "" if plan.smoother == DEFAULT_SMOOTHER else f" the {plan.smoother}"
    common = {"num_examples": options.num_examples, "seed": options.seed, "smoother": plan.smoother}
    common |= {} if options.clip_norm is None else {"clip_norm": options.clip_norm}
    given: dict[str, Any] = {"settings": plan.settings, "runs": options.runs, "images": plan.images}
    levels = sorted({plan.training_sigma(sigma) for sigma in plan.sigmas})
    trainings = [training(f"train at sigma={sigma:g}", *arguments, sigma=sigma, **given) for sigma in levels]
    return trainings + [
        certification(
            f"certify{of} at sigma={sigma:g}",
            plan.certification(sigma),
            {"sigma": sigma, "eps_in": plan.radii(sigma), **common},
            checkpoint=partial(plan.checkpoint, plan.training_sigma(sigma)),
            distance=plan.distance,
            budget=options.budget,
        )
        for sigma in plan.sigmas
    ]


def _point(plan: Plan, h: float, eps_in: float) -> Point:
    sigma = named.noise_level(h=h, eps_in=eps_in)
    rows = [row for row in plan.certification(sigma).rows() if row.eps_in == eps_in]
    eps_out, loss = (Median.of([getattr(row, name) for row in rows]) for name in ("eps_out", "smoothing_loss"))
    abstained = sum(row.abstained for row in rows) / len(rows)
    return Point(h, eps_in, sigma, plan.training_sigma(sigma), eps_out, loss, abstained, len(rows), plan.smoother)


def _conclude(plan: Plan, points: Sequence[Point]) -> None:
    """Write the table and the picture, and say what was found."""
    table, drawing = plan.out / f"{plan.figure}.csv", plan.out / f"{plan.figure}.png"
    write_csv(table, [COLUMNS, *map(_cells, points)])
    distance = "total variation" if plan.distance == "tv" else "angular distance"
    options = plan.options
    means = f", means clipped to {options.clip_norm:g}" if options.clip_norm is not None else ""
    title = (
        f"Figure {plan.figure[-1]}: {options.data}, {options.task}, {distance}, "
        f"{options.num_examples} random test examples, budget {options.budget}{means}"
    )
    scale = _scale(plan)
    draw(points, title=title, distance=distance, scale=scale).savefig(drawing, dpi=150)
    html.write(panel_report(plan, points, title=title, scale=scale), plan.out / "report.html")
    for point in points:
        print(
            f"h={point.h:<4g} eps_in={point.eps_in:<5g} sigma={point.sigma:<7.4g} median eps_out "
            f"{_shown(point.eps_out)}, median smoothing loss {_shown(point.smoothing_loss)}, "
            f"abstained {point.abstention_rate:.0%}"
        )
    print(*(f"found: {line}" for line in findings(points)), sep="\n")
    print(f"written: {plan.out} ({table.name}, {drawing.name}, report.html, certifications/)")


def _scale(plan: Plan) -> float | None:
    """Return the paper's scale of total variation: 2 (H - 1) (W - 1) for each channel. Not a bound."""
    channels, height, width = plan.image_shape
    return 2.0 * (height - 1) * (width - 1) * channels if plan.distance == "tv" else None


def _shown(median: Median) -> str:
    digits = 2 if 1.0 <= median.value < math.inf else 4
    low, high = f"{median.low:.{digits}f}", rounded_up(median.high, digits)
    return f"{rounded_up(median.value, digits)} ({low} to {high})"


def _cells(point: Point) -> tuple[object, ...]:
    eps_out, loss = point.eps_out, point.smoothing_loss
    setting = (point.smoother, point.h, point.eps_in, point.sigma, point.training_sigma)
    medians = (eps_out.value, eps_out.low, eps_out.high, loss.value, loss.low, loss.high)
    return (*setting, *medians, point.abstention_rate, point.num_examples)
