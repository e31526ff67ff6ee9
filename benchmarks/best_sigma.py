"""Which noise level has the smallest eps_out at each eps_in, for each smoothed function.

``python benchmarks/best_sigma.py --ckpt A B C`` takes models of digits, trained with different sigma. Each
is smoothed at its own sigma. The outputs of a digit are drawn once and given to all functions.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.versus.functions import Functions
from benchmarks.versus.recorded_outputs import record
from benchmarks.versus.rows import Row, median, median_eps_out
from benchmarks.versus.settings import Settings
from benchmarks.versus_paper import base_model, clip_norms_of, test_digits
from center_smoothing import DISTANCES
from center_smoothing.sampling import NoisyOutputs
from command_line import argument_types, errors, process
from lightning_modules import NoisyModule

# By the name of a distance, the rows of each function, one a digit.
Rows = dict[str, list[list[Row]]]


def main(args: Sequence[str] | None = None) -> None:
    """Measure checkpoint by checkpoint, and print the tables after each."""
    options = _parser().parse_args(args)
    with errors.user_errors():
        settings = Settings(
            n=options.n,
            measured_m=11 * options.n,
            paper_m=11 * options.n,
            digits=options.digits,
            distances=tuple(options.distance),
            attack_h=(),
            groups=(1, 4),
        )
        models = [base_model(path)[0] for path in options.ckpt]
    process.keep_freed_memory()
    found: dict[float, Rows] = {}
    for model in models:
        found[model.sigma] = _certified(model, settings, options.eps_in)
        print("\n".join(_report(found, options.eps_in)), flush=True)


def _certified(model: NoisyModule, settings: Settings, eps_in: Sequence[float]) -> Rows:
    """Certify all functions of a model at the radii, on each digit."""
    h = tuple(radius / model.sigma for radius in eps_in)
    clip_norms, source = clip_norms_of(model, settings.distances), NoisyOutputs(model, sigma=model.sigma)
    rows: dict[str, list[list[Row]]] = {name: [] for name in settings.distances}
    for index, x in test_digits(model, settings.digits):
        recording = record(source, x, example=index, counts=settings.counts)
        for name, norm in clip_norms.items():
            known = Functions(source, recording, x, index, DISTANCES[name], norm, replace(settings, h=h))
            rows[name].append(known.rows())
        print(f"sigma = {model.sigma:g}, digit {index}", flush=True)
    return {name: [list(each) for each in zip(*of_digits, strict=True)] for name, of_digits in rows.items()}


def _report(found: Mapping[float, Rows], eps_in: Sequence[float]) -> list[str]:
    """Return a table for each distance: the upper median of eps_out for each function and sigma, the least marked."""
    lines = []
    for name in next(iter(found.values())):
        columns = " | ".join(f"eps_in = {radius:g}" for radius in eps_in)
        lines += ["", f"{name}:", "", f"| Smoothed function | sigma | {columns} | Smoothing loss |"]
        lines.append("| :--- | ---: |" + " ---: |" * (len(eps_in) + 1))
        for position in range(len(next(iter(found.values()))[name])):
            of_function = {sigma: rows[name][position] for sigma, rows in sorted(found.items())}
            radii = {
                sigma: [median_eps_out(rows, radius / sigma).value for radius in eps_in]
                for sigma, rows in of_function.items()
            }
            least = [min(column) for column in zip(*radii.values(), strict=True)]
            for sigma, rows in of_function.items():
                cells = [
                    f"**{value:.3g}**" if value == best < math.inf else f"{value:.3g}"
                    for value, best in zip(radii[sigma], least, strict=True)
                ]
                loss = median(rows, lambda row: row.smoothing_loss)
                lines.append(f"| {rows[0].procedure} | {sigma:g} | {' | '.join(cells)} | {loss:.3g} |")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, names = parser.add_argument, Settings().distances
    add("--ckpt", type=Path, nargs="+", required=True, help="checkpoints of train.py, trained with different sigma")
    add(
        "--eps-in",
        type=argument_types.positive_number("--eps-in"),
        nargs="+",
        default=[0.05, 0.1, 0.2, 0.4],
        help="input radii",
    )
    add("--distance", nargs="+", choices=names, default=["tv", "l2", "linf"], help="between outputs")
    for name, default, text in (
        ("n", 4000, "the sample sizes of all functions are in proportion"),
        ("digits", 4, "test digits"),
    ):
        add(f"--{name}", type=argument_types.count(f"--{name}"), default=default, help=text)
    return parser


if __name__ == "__main__":
    main()
