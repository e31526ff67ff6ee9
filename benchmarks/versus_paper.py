"""This package against the paper's procedure: speed, certified radii, and what each step contributes. In one run.

``python benchmarks/versus_paper.py --ckpt runs/latest/checkpoints/best.ckpt --out versus.md`` takes about half an hour
on two cores, if nothing else runs beside it. ``--digits``, ``--other-digits``, ``--distance``, ``--n`` and
``--measured-m`` make it shorter.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import processor
from benchmarks.versus.comparisons import measure
from benchmarks.versus.report import report
from benchmarks.versus.rows import Digit, Settings
from center_smoothing import DISTANCES, MeanSmoother
from center_smoothing.sampling import BatchSize
from certification.clip_norm import clip_norm_at, training_images
from command_line import argument_types, errors, process
from datamodules import MNIST
from lightning_modules import NoisyAutoencoder, NoisyModule, load_checkpoint, point_of
from results import files

# Test digits are drawn as certify.py draws them.
_SEED = 0


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write them if asked to."""
    options = _parser().parse_args(args)
    with errors.user_errors():
        torch.set_num_threads(options.threads)
        names = ("n", "paper_m", "measured_m", "digits", "other_digits")
        given = {name: getattr(options, name) for name in names}
        settings = Settings(**given, distances=tuple(options.distance))
        model, checkpoint = base_model(options.ckpt, untrained=options.untrained)
        if options.out is not None:
            if options.out.suffix != ".md":
                raise ValueError(f"--out must be a Markdown file such as versus.md, got {options.out}")
            process.make_writable(options.out.parent, "the folder of --out")
    process.keep_freed_memory()
    run(model, settings, about(model, checkpoint), out=options.out, batch_size=options.batch_size)


def run(
    model: NoisyModule,
    settings: Settings,
    known: Mapping[str, str],
    *,
    out: Path | None = None,
    batch_size: BatchSize = "auto",
) -> str:
    """Measure digit by digit; print and return the report, and write it with all figures after each digit."""
    digits: list[Digit] = []
    clip_norms = clip_norms_of(model, settings.distances)
    known = {**known, "clip norms of means": ", ".join(f"{name} {norm:g}" for name, norm in clip_norms.items() if norm)}
    began = time.perf_counter()
    for index, x in test_digits(model, settings.digits):
        print(f"digit {len(digits) + 1} of {settings.digits}, number {index} of the data set", flush=True)
        norms = {name: clip_norms[name] for name in settings.distances_of(len(digits))}
        given = {"clip_norms": norms, "batch_size": batch_size, "with_clock": not digits}
        digits.append(measure(model, x, index, settings, **given))
        print(f"  {(time.perf_counter() - began) / 60.0:.1f} minutes so far", flush=True)
        text = report(digits, settings, known)
        if out is not None:
            out.write_text(text, encoding="utf-8")
            # inf is written as Infinity, as Python's json reads it
            figures = {"about": known, "settings": asdict(settings), "digits": [asdict(digit) for digit in digits]}
            out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"\n{text}")
    return text


def base_model(path: Path, *, untrained: bool = False) -> tuple[NoisyModule, str]:
    """Load the model, in eval mode, and describe its checkpoint in a line.

    Raises:
        ValueError: if there is no checkpoint there, or one that was not trained on digits.
    """
    if untrained:
        torch.manual_seed(0)
        return NoisyAutoencoder(sigma=0.25).eval(), "none, an untrained autoencoder: eps_out says nothing"
    loaded = load_checkpoint(path)
    data = (loaded.data or {}).get("class")
    if data not in (None, MNIST.__name__):
        raise ValueError(f"--ckpt must be of a model of MNIST digits, got {path}, which was trained on {data}")
    name = f"{type(loaded.model).__name__} of run {loaded.run}" if loaded.run else type(loaded.model).__name__
    return loaded.model, f"{name}, sha256 {files.sha256(path)[:12]}"


def test_digits(model: NoisyModule, count: int) -> Iterator[tuple[int, Tensor]]:
    """Return the indices in the data set and the points (*in) of the test digits that certify.py takes."""
    data = MNIST()
    data.setup()
    order = torch.randperm(len(data.test_set), generator=torch.Generator().manual_seed(_SEED))
    for position in order[:count].tolist():
        example = data.test_set[position]
        yield int(example["index"]), point_of(model, example["image"]).detach()


def clip_norms_of(model: NoisyModule, distances: Sequence[str]) -> dict[str, float | None]:
    """Return what ``--clip-norm auto`` of certify.py is by each distance, from training digits; None without need."""
    data = MNIST()
    points = [point_of(model, image).detach() for image in training_images(data)]
    return {
        name: clip_norm_at(points, model, DISTANCES[name], sigma=model.sigma)
        if MeanSmoother.needs_bound(DISTANCES[name])
        else None
        for name in distances
    }


def about(model: NoisyModule, checkpoint: str) -> dict[str, str]:
    """Describe what a reader needs to know to repeat a run."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores; threads of PyTorch: {torch.get_num_threads()}",
        "versions": f"Python {platform.python_version()}, {packages}",
        "checkpoint": checkpoint,
        "noise": f"sigma = {model.sigma:g}; alpha = .005 + .005",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = Settings()
    add = parser.add_argument
    add("--ckpt", type=Path, default=Path("runs/latest/checkpoints/best.ckpt"), help="checkpoint of train.py")
    add("--untrained", action="store_true", help="an untrained autoencoder instead, to see how long everything takes")
    text = "distances; steps and stopping rules are those of tv"
    add("--distance", nargs="+", choices=defaults.distances, default=defaults.distances, help=text)
    for name, text in (
        ("digits", "test digits"),
        ("other_digits", "test digits for other distances than the first, at most"),
        ("n", "ranked outputs of the paper's procedure"),
        ("paper_m", "certification outputs of the paper's procedure"),
        ("measured_m", "how many of them are drawn; the rest is estimated"),
    ):
        flag = "--" + name.replace("_", "-")
        add(flag, type=argument_types.count(flag), default=getattr(defaults, name), help=text)
    add("--threads", type=argument_types.count("--threads"), default=torch.get_num_threads(), help="threads of PyTorch")
    add("--batch-size", type=argument_types.batch_size, default="auto", help="noisy images per call of the model")
    add("--out", type=Path, help="Markdown file for the tables; all figures go to the .json next to it")
    return parser


if __name__ == "__main__":
    main()
