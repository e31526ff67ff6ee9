"""What a GPU does: a training and a certification with it, and where the time of a certification goes.

``python benchmarks/gpu.py`` takes the accelerator that PyTorch finds, or else the CPU. It runs train.py and certify.py
as a user does, and then the same network in this process: certification against bare forward passes and matrix
products, with torch.compile and its CUDA graphs too, the parts of a certification, noise in blocks, and certificates by
batch size.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.throughput import means, parts, throughput, variants
from benchmarks.timing import processor, seconds
from benchmarks.versus_paper import test_digits
from center_smoothing import CenterSmoother, MeanBudget, SmoothingBudget, TotalVariation
from center_smoothing.noise import BLOCK
from command_line import process
from lightning_modules import NoisyAutoencoder, NoisyModule, checkpoint_file, load_checkpoint
from lightning_modules.compiled import CompileMode
from results.folder import CertificationFolder

_ROOT = Path(__file__).parent.parent
_MODES: tuple[CompileMode, ...] = ("default", "reduce-overhead")


def main(args: Sequence[str] | None = None) -> None:
    """Print which device it is, and the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="of the training")
    parser.add_argument("--examples", type=int, default=20, help="that certify.py takes")
    parser.add_argument("--n", type=int, default=10_000, help="ranked outputs")
    parser.add_argument("--m", type=int, default=20_000, help="certification outputs")
    parser.add_argument("--mean-n", type=int, default=MeanBudget.n, help="outputs of a mean")
    parser.add_argument("--mean-m", type=int, default=MeanBudget.m, help="certification outputs of a mean")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256, 1024, 4096], help="to be compared")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions in turns")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    options = parser.parse_args(args)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{device.type}: {name}; PyTorch {torch.__version__}")
    process.keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        model = scripts(Path(folder), epochs=options.epochs, examples=options.examples, n=options.n, m=options.m)
    model = model.to(device).eval()
    (_, image), *_ = test_digits(model, 1)
    x, budget = image.to(device), SmoothingBudget(n=options.n, m=options.m)
    ways = variants(model, compiled=() if options.no_compile else _MODES)
    if device.type == "cpu":  # many have no bfloat16, and take a hundred times as long
        ways = [way for way in ways if way.precision == torch.float32]
    throughput(ways, x, TotalVariation(), budget, repeats=options.repeats, batch_sizes=options.batch_sizes)
    parts(ways[3], x, TotalVariation(), budget, size=max(options.batch_sizes))
    noise(x, options.batch_sizes, repeats=options.repeats)
    colours = NoisyAutoencoder(sigma=0.25, image_shape=(3, 32, 32)).to(device)
    for base, point in ((model, x), (colours, x.new_ones(3, 32, 32))):
        means(base, point, TotalVariation(), MeanBudget(n=options.mean_n, m=options.mean_m))
    certificates(model, x, budget, options.batch_sizes)


def scripts(folder: Path, *, epochs: int, examples: int, n: int, m: int) -> NoisyModule:
    """Run train.py and certify.py as processes, print how fast they were, and return the trained model."""
    trained = _run("train.py", "--sigma", "0.25", "--runs", str(folder), "--trainer.max_epochs", str(epochs))
    checkpoint = checkpoint_file(folder / "latest", flag="the run")
    flags = ["--n", str(n), "--m", str(m), "--num-examples", str(examples), "--out", str(folder / "certified")]
    certified = _run("certify.py", "--ckpt", str(checkpoint), *flags)
    summary = CertificationFolder(folder / "certified").read_summary() or {}
    rate, medians = summary["samples_per_second"], [result["median_eps_out"] for result in summary["results"]]
    print(f"training: {trained:.0f} s for {epochs} epochs, from command to end")
    print(f"certification: {certified:.0f} s for {examples} examples, from command to report; {rate:,.0f} samples/s")
    print(f"median eps_out: {', '.join(f'{median:.2f}' for median in medians)}")
    return load_checkpoint(checkpoint).model


def noise(x: Tensor, sizes: Sequence[int], *, repeats: int) -> None:
    """Compare noise that is drawn in blocks, each with a seed of its own, with noise of a batch drawn at once."""
    generator = torch.Generator(x.device)
    print("\nnoise, microseconds per sample: in blocks of 64, each with its seed | at once")
    for size in sizes:
        batch = x.new_empty(size, *x.shape)

        def fill(blocks: Sequence[Tensor], *, seeded: bool) -> None:
            for number, block in enumerate(blocks):
                if seeded:
                    generator.manual_seed(number)
                block.normal_(generator=generator)

        ways = (partial(fill, torch.split(batch, BLOCK), seeded=True), partial(fill, [batch], seeded=False))
        measured = [[seconds(way) / size * 1e6 for way in ways] for _ in range(2 * repeats + 1)]
        in_blocks, together = (statistics.median(values) for values in zip(*measured, strict=True))
        print(f"{size:>8} {in_blocks:10.2f} {together:10.2f}")


def certificates(model: NoisyModule, x: Tensor, budget: SmoothingBudget, sizes: Sequence[int]) -> None:
    """Compare certificates of one digit by batch size: the noise is the same, the rounding of outputs may not be."""
    radii = {}
    for size in sizes:
        smoother = CenterSmoother(model, TotalVariation(), sigma=model.sigma, budget=budget, batch_size=size)
        radii[size] = smoother.certify(x).eps_out(h=[1.0, 2.0])
    print("\neps_out at h = 1, 2 by batch size, and the largest relative difference from the first")
    for size, found in radii.items():
        print(f"{size:>8} {found[0]:.8g} {found[1]:.8g} {float(abs(found / radii[sizes[0]] - 1.0).max()):.1e}")


def _run(*command: str) -> float:
    """Run a script of this project without Weights & Biases, and return seconds."""
    print("$ " + shlex.join(["python", *command]), flush=True)
    began = time.perf_counter()
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    subprocess.run([sys.executable, str(_ROOT / command[0]), *command[1:]], check=True, env=environment)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
