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

from benchmarks.tables import table
from benchmarks.versus.comparisons import Comparisons
from benchmarks.versus.recorded_outputs import record
from benchmarks.versus.rows import Row, Settings, median, median_eps_out
from benchmarks.versus_paper import base_model, clip_norms_of, test_digits
from center_smoothing.sampling import NoisyOutputs
from command_line import argument_types, errors, process
from lightning_modules import NoisyModule

# By the name of a distance, the rows of each function, one a digit.
Rows = dict[str, list[list[Row]]]


def main(args: Sequence[str] | None = None) -> None:
    """Measure checkpoint by checkpoint, and print the tables after each."""
    options = _parser().parse_args(args)
    n, distances = options.n, tuple(options.distance)
    with errors.user_errors():
        of_all = {"n": n, "measured_m": 11 * n, "paper_m": 11 * n, "attack_h": (), "groups": (1, 4)}
        settings = Settings(**of_all, digits=options.digits, distances=distances)
        models = [base_model(path)[0] for path in options.ckpt]
    process.keep_freed_memory()
    found: dict[float, Rows] = {}
    for model in models:
        found[model.sigma] = _certified(model, settings, options.eps_in)
        for name in distances:
            print(f"\n{name}:\n\n{_table(found, name, options.eps_in)}", flush=True)


def _certified(model: NoisyModule, settings: Settings, eps_in: Sequence[float]) -> Rows:
    """Certify all functions of a model at the radii, on each digit."""
    settings = replace(settings, h=tuple(radius / model.sigma for radius in eps_in))
    clip_norms, source = clip_norms_of(model, settings.distances), NoisyOutputs(model, sigma=model.sigma)
    rows: dict[str, list[list[Row]]] = {name: [] for name in settings.distances}
    for index, x in test_digits(model, settings.digits):
        recording = record(source, x, example=index, counts=settings.counts)
        for name, norm in clip_norms.items():
            rows[name].append(Comparisons(source, x, index, recording, settings, name, norm).functions())
        print(f"sigma = {model.sigma:g}, digit {index}", flush=True)
    return {name: [list(each) for each in zip(*of_digits, strict=True)] for name, of_digits in rows.items()}


def _table(found: Mapping[float, Rows], name: str, eps_in: Sequence[float]) -> str:
    """Return a distance's table: the upper median of eps_out for each function and sigma, the least marked."""
    header = ["Smoothed function", "sigma", *(f"eps_in = {radius:g}" for radius in eps_in), "Smoothing loss"]
    lines = []
    for of_function in zip(*(found[sigma][name] for sigma in sorted(found)), strict=True):
        known = list(zip(sorted(found), of_function, strict=True))
        radii = [[median_eps_out(rows, radius / sigma).value for radius in eps_in] for sigma, rows in known]
        least = [min(column) for column in zip(*radii, strict=True)]
        for (sigma, rows), values in zip(known, radii, strict=True):
            cells = (
                f"**{value:.3g}**" if value == best < math.inf else f"{value:.3g}"
                for value, best in zip(values, least, strict=True)
            )
            loss = median(rows, lambda row: row.smoothing_loss)
            lines.append([rows[0].procedure, f"{sigma:g}", *cells, f"{loss:.3g}"])
    return table(header, lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, radius, names = parser.add_argument, argument_types.positive_number("--eps-in"), Settings().distances
    add("--ckpt", type=Path, nargs="+", required=True, help="checkpoints of train.py, trained with different sigma")
    add("--eps-in", type=radius, nargs="+", default=[0.05, 0.1, 0.2, 0.4], help="input radii")
    add("--distance", nargs="+", choices=names, default=["tv", "l2", "linf"], help="between outputs")
    count, text = argument_types.count, "the sample sizes of all functions are in proportion"
    add("--n", type=count("--n"), default=4000, help=text)
    add("--digits", type=count("--digits"), default=4, help="test digits")
    return parser


if __name__ == "__main__":
    main()
