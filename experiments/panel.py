"""One panel of the paper's figures 4 and 5: models and certificates, their table, picture and report."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

import datamodules
from center_smoothing.smoothers import DEFAULT_SMOOTHER, SMOOTHERS
from command_line import argument_types, errors, named, process
from datamodules import ImageDataModule
from experiments import trained_models
from experiments.findings import findings
from experiments.medians import Median
from experiments.panel_report import panel_report
from experiments.picture import draw
from experiments.plan import Plan, Point
from experiments.steps import Step, run
from results import files, html
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
# Noisy copies per call of a model: measured anew after a restart, another size would change the last digits.
BATCH_SIZE = 64
# What --budget quick saves besides samples.
QUICK_EXAMPLES, QUICK_EPOCHS = 10, 3
# Of a panel's table: a row for each point, the intervals being the bootstrap's.
COLUMNS = (
    *("smoother", "h", "eps_in", "sigma", "training_sigma", "median_eps_out", "eps_out_low", "eps_out_high"),
    *("median_smoothing_loss", "smoothing_loss_low", "smoothing_loss_high", "abstention_rate", "num_examples"),
)


def main(figure: str, distance: str, args: Sequence[str] | None = None) -> Path:
    """Train what is missing, certify what is missing, and write the table, the picture and the report.

    Args:
        figure: "figure4" or "figure5".
        distance: certify.py's name of it.
        args: command-line arguments; default those of the process.

    Returns:
        The panel's folder.

    Raises:
        SystemExit: with code 2 and one line on bad input; what was finished stays on disk.
    """
    process.quiet_libraries()
    try:
        with errors.user_errors():
            plan = _plan(figure, distance, _parser(figure).parse_args(None if args is None else list(args)))
            print(
                f"{figure}, {plan.distance}, {plan.smoother}: {len(plan.pairs)} points, "
                f"{len(plan.sigmas)} noise levels, {plan.options.num_examples} test examples each"
            )
            with locked(plan.out, f"--out must be of one experiment, got {plan.out}: another one works there"):
                run(_steps(plan), plan.out / "log.txt")
                _conclude(plan, [_point(plan, *pair) for pair in plan.pairs])
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from there")
        raise SystemExit(130) from None
    return plan.out


def _parser(figure: str) -> ArgumentParser:
    parser = ArgumentParser(prog=f"experiments/{figure}.py", exit_on_error=False)
    add, count, choice, positive = (
        parser.add_argument,
        argument_types.count,
        argument_types.choice,
        argument_types.positive_number,
    )
    data, tasks = (list(dict.fromkeys(names)) for names in zip(*CONFIGS, strict=True))
    add("--data", type=choice("--data", *data), default="mnist-digits", help=f"one of {', '.join(data)}")
    add("--task", type=choice("--task", *tasks), default="autoencoder", help=f"one of {', '.join(tasks)}")
    add("--data-root", type=str | None, help="folder of the images or of the full data set")
    add("--h", type=positive("--h"), nargs="+", default=list(RATIOS), help="eps_in / sigma, one line each")
    add("--eps-in", type=positive("--eps-in"), nargs="+", default=list(EPS_IN), help="input radii (l2 norm)")
    add(
        "--training-sigma",
        type=positive("--training-sigma"),
        nargs="+",
        default=list(TRAINING_SIGMAS),
        help="noise levels of the base models; the nearest one is smoothed",
    )
    add(
        "--budget",
        type=choice("--budget", *named.BUDGETS),
        default="standard",
        help=f"certify.py's; quick also takes {QUICK_EXAMPLES} examples and {QUICK_EPOCHS} epochs",
    )
    add(
        "--smoother",
        type=choice("--smoother", *SMOOTHERS),
        default=DEFAULT_SMOOTHER,
        help=f"certify.py's, one of {', '.join(SMOOTHERS)}",
    )
    add("--clip-norm", type=positive("--clip-norm"), help="certify.py's, of means")
    add("--num-examples", type=count("--num-examples"), help=f"test examples; default {NUM_EXAMPLES}")
    add("--epochs", type=count("--epochs"), help="of each training; default: the configuration's")
    add("--seed", type=int, default=0, help="of the choice of examples and of the noise")
    add("--runs", type=str, default="runs", help="folder of all runs, where trained models are looked for")
    add("--out", type=str | None, help="folder to write; the same command on the same folder goes on")
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
    for h in options.h:
        named.check_certifiable(named.budget(options.budget, options.smoother), sigma=1.0, eps_in=h)
    data = _datamodule(settings)
    if options.num_examples > len(data.test_set):
        raise ValueError(
            f"--num-examples must be at most {len(data.test_set)}, the size of the test set, got {options.num_examples}"
        )
    name = f"{figure}-{options.data}-{options.task}-{options.budget}"
    if options.smoother != DEFAULT_SMOOTHER:
        name += f"-{options.smoother}-clip_norm={options.clip_norm:g}"
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
    epochs = int(plan.settings["trainer"]["max_epochs"])
    levels = sorted({plan.training_sigma(sigma) for sigma in plan.sigmas})
    trainings = [
        Step(
            kind="train",
            title=f"train at sigma={sigma:g}",
            parts=epochs,
            work=plan.images,
            command=partial(_train_command, plan, sigma),
            finished=partial(_is_trained, plan, sigma),
        )
        for sigma in levels
    ]
    certifications = [
        Step(
            kind="certify",
            title=f"certify{'' if plan.smoother == DEFAULT_SMOOTHER else f' the {plan.smoother}'} at sigma={sigma:g}",
            parts=plan.options.num_examples,
            work=plan.budget.evaluations,
            command=partial(_certify_command, plan, sigma),
            finished=partial(_is_certified, plan, sigma),
        )
        for sigma in plan.sigmas
    ]
    return [*trainings, *certifications]


def _train_command(plan: Plan, sigma: float) -> list[str]:
    options = plan.options
    config = trained_models.CONFIGS / CONFIGS[options.data, options.task]
    command = [str(trained_models.ROOT / "train.py"), "--config", str(config), "--sigma", repr(sigma)]
    command += ["--runs", options.runs, "--trainer.max_epochs", str(plan.settings["trainer"]["max_epochs"])]
    command += ["--trainer.enable_progress_bar", "false"]
    return command if options.data_root is None else [*command, "--data.init_args.root", options.data_root]


def _is_trained(plan: Plan, sigma: float) -> bool:
    return plan.checkpoint(sigma) is not None


def _certify_command(plan: Plan, sigma: float) -> list[str]:
    options = plan.options
    checkpoint = plan.checkpoint(plan.training_sigma(sigma))
    command = [str(trained_models.ROOT / "certify.py"), "--ckpt", str(checkpoint), "--distance", plan.distance]
    command += ["--sigma", repr(sigma), "--eps-in", *map(repr, plan.radii(sigma))]
    command += ["--num-examples", str(options.num_examples), "--budget", options.budget]
    command += ["--batch-size", str(BATCH_SIZE)]
    command += ["--smoother", plan.smoother]
    command += [] if options.clip_norm is None else ["--clip-norm", repr(options.clip_norm)]
    return [*command, "--seed", str(options.seed), "--out", str(plan.certification(sigma).path)]


def _is_certified(plan: Plan, sigma: float) -> bool:
    """Whether this very certification is there as a whole; certify.py names what differs in another one."""
    checkpoint, folder = plan.checkpoint(plan.training_sigma(sigma)), plan.certification(sigma)
    summary = folder.read_summary()
    if checkpoint is None or summary is None or not summary.get("results"):
        return False
    wanted = {
        "distance": repr(named.DISTANCES[plan.distance]),
        "coverage": "pointwise",
        "num_examples": plan.options.num_examples,
        "seed": plan.options.seed,
        "sigma": sigma,
        "eps_in": plan.radii(sigma),
        "smoother": plan.smoother,
        "budget": plan.budget.as_dict(),
        **({} if plan.options.clip_norm is None else {"clip_norm": plan.options.clip_norm}),
    }
    same = all(summary["config"].get(key) == value for key, value in wanted.items())
    whole = len(folder.finished(plan.radii(sigma))) == plan.options.num_examples
    return same and whole and summary.get("checkpoint_sha256") == files.sha256(checkpoint)


def _point(plan: Plan, h: float, eps_in: float) -> Point:
    sigma = named.noise_level(h=h, eps_in=eps_in)
    rows = [row for row in plan.certification(sigma).rows() if row.eps_in == eps_in]
    return Point(
        h=h,
        eps_in=eps_in,
        sigma=sigma,
        training_sigma=plan.training_sigma(sigma),
        eps_out=Median.of([row.eps_out for row in rows]),
        smoothing_loss=Median.of([row.smoothing_loss for row in rows]),
        abstention_rate=sum(row.abstained for row in rows) / len(rows),
        num_examples=len(rows),
        smoother=plan.smoother,
    )


def _conclude(plan: Plan, points: Sequence[Point]) -> None:
    """Write the table and the picture, and say what was found."""
    table, drawing = plan.out / f"{plan.figure}.csv", plan.out / f"{plan.figure}.png"
    _write_table(table, points)
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
    """What the paper gives as the scale of total variation: 2 (H - 1) (W - 1) for each channel. Not a bound."""
    channels, height, width = plan.image_shape
    return 2.0 * (height - 1) * (width - 1) * channels if plan.distance == "tv" else None


def _shown(median: Median) -> str:
    digits = 2 if 1.0 <= median.value < math.inf else 4
    low, high = f"{median.low:.{digits}f}", rounded_up(median.high, digits)
    return f"{rounded_up(median.value, digits)} ({low} to {high})"


def _write_table(path: Path, points: Sequence[Point]) -> None:
    """Numbers with all their digits, in the order of the plan."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in points:
        eps_out, loss = point.eps_out, point.smoothing_loss
        setting = (point.smoother, point.h, point.eps_in, point.sigma, point.training_sigma)
        medians = (eps_out.value, eps_out.low, eps_out.high, loss.value, loss.low, loss.high)
        writer.writerow((*setting, *medians, point.abstention_rate, point.num_examples))
    path.write_text(text.getvalue())
