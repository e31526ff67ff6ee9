"""How fast certification is, against bare forward passes and against the matrix products of the same machine.

``python benchmarks/throughput.py`` needs nothing: an untrained autoencoder is as fast as that of ``--ckpt``. What is
compared is measured in one run and in turns; each ratio is the median of the ratios of the repetitions. With
``--threads 1`` the time is that of the CPU, which other programs on the machine hardly change, else that of the clock.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import median_ratio, seconds
from center_smoothing import (
    DISTANCES,
    CenterSmoother,
    Distance,
    MeanBudget,
    MeanSmoother,
    SmoothingBudget,
    TotalVariation,
)
from center_smoothing.means.smoother import distances_from_zero
from center_smoothing.noise import BLOCK, Stage
from center_smoothing.sampling import NoisyOutputs, evaluating
from command_line import process
from datamodules import MNIST
from lightning_modules import CompiledModel, NoisyAutoencoder, NoisyModule, fold_batch_norm, load_checkpoint
from lightning_modules.compiled import CompileMode

_BATCH_SIZES = (64, 128, 256, 512)
_MATRIX = 2048


@dataclass(frozen=True)
class Variant:
    """A way to evaluate the base model."""

    flags: str  # of certify.py
    function: nn.Module  # the base function
    precision: torch.dtype = torch.float32  # of matrix products and convolutions

    def context(self) -> AbstractContextManager[object]:
        """Return the context in which to call the function."""
        device = next(self.function.parameters()).device
        return nullcontext() if self.precision == torch.float32 else torch.autocast(device.type, self.precision)


def main(args: Sequence[str] | None = None) -> None:
    """Print three tables, and what means take besides forward passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", help="checkpoint of train.py; default: an untrained autoencoder")
    parser.add_argument("--distance", choices=DISTANCES, default="tv", help="between outputs")
    parser.add_argument("--n", type=int, default=1_000, help="ranked outputs")
    parser.add_argument("--m", type=int, default=2_000, help="certification outputs")
    parser.add_argument("--k", type=int, help="pilot outputs; default: the budget's")
    parser.add_argument("--mean-n", type=int, default=MeanBudget.n, help="outputs of a mean")
    parser.add_argument("--mean-m", type=int, default=MeanBudget.m, help="certification outputs of a mean")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions in turns")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes about a minute more")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = NoisyAutoencoder(sigma=0.25) if options.ckpt is None else load_checkpoint(options.ckpt).model
    model.eval()
    data = MNIST()
    data.setup()
    x, distance = data.test_set[0]["image"], DISTANCES[options.distance]
    print(f"{type(model).__name__}, {distance!r}, {torch.get_num_threads()} threads of {torch.__version__}")
    kept_memory(model, x)
    budget = SmoothingBudget(n=options.n, m=options.m, k=options.k)
    ways = variants(model, compiled=["default"] if options.compile else [])
    throughput(ways, x, distance, budget, repeats=options.repeats)
    parts(ways[3], x, distance, budget)
    colours = NoisyAutoencoder(sigma=0.25, image_shape=(3, 32, 32))
    for base, image in ((model, x), (colours, torch.rand(3, 32, 32))):
        means(base, image, TotalVariation(), MeanBudget(n=options.mean_n, m=options.mean_m))


def variants(model: NoisyModule, *, compiled: Sequence[CompileMode] = ()) -> list[Variant]:
    """Return what certify.py can make of a model, also with modes of torch.compile; its default is the fourth."""
    fast = fold_batch_norm(model).to(memory_format=torch.channels_last)
    ways = [
        Variant("--fold-batch-norm=false --channels-last=false", model),
        Variant("--channels-last=false", fold_batch_norm(model)),
        Variant("--fold-batch-norm=false", copy.deepcopy(model).to(memory_format=torch.channels_last)),
        Variant("(default)", fast),
        Variant("--precision=bf16-mixed", fast, torch.bfloat16),
    ]
    for mode in compiled:
        ways.append(Variant(f"--compile={mode}", CompiledModel(fast, mode)))
        ways.append(Variant(f"--compile={mode} --precision=bf16-mixed", CompiledModel(fast, mode), torch.bfloat16))
    return ways


def kept_memory(model: NoisyModule, x: Tensor) -> None:
    """Measure forward passes before and after glibc is told to keep freed memory, as both scripts tell it to."""
    way = Variant("", model)
    before = [forward_seconds(way, x, 1024, size) for size in _BATCH_SIZES]
    process.keep_freed_memory()
    after = (forward_seconds(way, x, 1024, size) for size in _BATCH_SIZES)
    columns = zip(_BATCH_SIZES, before, after, strict=True)
    ratios = ", ".join(f"{a / b:.2f} in batches of {size}" for size, a, b in columns)
    print(f"forward passes without / with freed memory kept: {ratios}")


def throughput(
    ways: Sequence[Variant],
    x: Tensor,
    distance: Distance,
    budget: SmoothingBudget,
    *,
    repeats: int,
    batch_sizes: Sequence[int] = _BATCH_SIZES,
) -> None:
    """Compare certification of one example with the bare forward passes of as many noisy images, for each variant."""
    images = budget.evaluations + 1  # and f(x) itself, for the smoothing loss
    flops = operations(ways[0].function, x)
    tried = max(1024, *batch_sizes)
    sizes = [min(batch_sizes, key=lambda size, way=way: forward_seconds(way, x, tried, size)) for way in ways]
    taken: list[list[tuple[float, float, float]]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, size, times in zip(ways, sizes, taken, strict=True):
            smoother = CenterSmoother(way.function, distance, sigma=0.25, budget=budget, batch_size=size)
            product, forward = product_seconds(way.precision, x.device), forward_seconds(way, x, images, size)
            with way.context():
                times.append((product, forward, seconds(lambda smoother=smoother: smoother.certify(x))))
    work = f"{images:,} images of {flops / 1e6:.1f} MFLOP"
    print(f"\none digit, n={budget.n:,}, m={budget.m:,}, {budget.most_candidates} candidates: {work}")
    print(f"{'':<46} batch  certified   forward  GFLOP/s  of matrix    forward   rest of")
    print(f"{'':<46}        images/s  images/s           product   relative  the run")
    columns = [list(zip(*times, strict=True)) for times in taken]
    for way, size, (products, passes, runs) in zip(ways, sizes, columns, strict=True):
        forward, certify = statistics.median(passes), statistics.median(runs)
        share = median_ratio(products, passes) * flops * images / (2 * _MATRIX**3)
        relative, rest = median_ratio(passes, columns[0][1]), 1 - median_ratio(passes, runs)
        print(
            f"{way.flags:<46} {size:>5} {images / certify:>10,.0f} {images / forward:>9,.0f} "
            f"{flops * images / forward / 1e9:>8.0f} {share:>10.0%} {relative:>10.3f} {rest:>9.1%}"
        )


def parts(way: Variant, x: Tensor, distance: Distance, budget: SmoothingBudget, *, size: int = 256) -> None:
    """Measure the microseconds per sample of each part of a certification, and its share."""
    candidates = budget.most_candidates
    outputs = NoisyOutputs(way.function, sigma=0.25, batch_size=size)
    (batch,) = outputs.draw(x, example=0, stage=Stage.RANKING, count=size)
    pilot = torch.cat(list(outputs.draw(x, example=0, stage=Stage.PILOT, count=candidates)))
    embedded, centers = distance.embed(batch), distance.embed(pilot)
    noisy, block = x + 0.25 * torch.randn(size, *x.shape).to(x), x.new_empty(BLOCK, *x.shape)
    generator, buffer = torch.Generator(x.device), x.new_empty(size, *x.shape)

    def noise() -> None:
        for number in range(0, size, BLOCK):
            generator.manual_seed(number)
            torch.add(x, block.normal_(generator=generator), alpha=0.25, out=buffer[number : number + BLOCK])

    calls: dict[str, Callable[[], object]] = {
        "forward pass": lambda: way.function(noisy),
        "noise": noise,
        "copy of the outputs": batch.clone,
        "embedding": lambda: distance.embed(batch),
        f"distances to {candidates} candidates": lambda: distance.compare(embedded, centers),
        "distance to the center": lambda: distance.compare(embedded, centers[:1]),
    }
    with evaluating(way.function):
        measured = [[seconds(call) / size * 1e6 for call in calls.values()] for _ in range(9)][1:]
    times = [statistics.median(values) for values in zip(*measured, strict=True)]
    forward_time, each, to_all, to_center = times[0], sum(times[1:4]), *times[4:]
    print(f"\nmicroseconds per sample, in batches of {size}")
    for name, time_of_it in zip(calls, times, strict=True):
        print(f"  {name:<32} {time_of_it:8.2f}")
    probes = budget.probes * len(budget.tuple_sizes) * budget.compared(budget.m) * to_all / candidates
    ranking, certification = budget.n * to_all, max(budget.m, budget.n_check) * to_center + probes
    rest = budget.evaluations * each + ranking + certification
    share = rest / (rest + budget.evaluations * forward_time)
    print(f"  all but the forward passes at n={budget.n:,}, m={budget.m:,}: {share:.1%} of the run")
    print(f"  of it: distances to candidates {ranking / rest:.0%}, to center and probes {certification / rest:.0%}")


def means(model: NoisyModule, x: Tensor, distance: Distance, budget: MeanBudget) -> None:
    """Measure what the certificate of a mean takes besides forward passes, with outputs that cost nothing."""
    way = Variant("", fold_batch_norm(model.eval()).to(memory_format=torch.channels_last))
    source, images = NoisyOutputs(way.function, sigma=0.25, batch_size=256), 4096
    (outputs,) = source.draw(x, example=0, stage=Stage.RANKING, count=256)
    known = {"sigma": 0.25, "batch_size": 256, "clip_norm": float(distances_from_zero(outputs, distance).max())}
    smoother = MeanSmoother(lambda noisy: outputs[: len(noisy)], distance, budget=budget, **known)
    rest = seconds(lambda: smoother.certify(x))
    forward = forward_seconds(way, x, images, 256) * budget.evaluations / images
    print(
        f"\nmean of {outputs[0].numel():,} numbers, {distance!r}, n={budget.n:,}, m={budget.m:,}: {rest:.1f} s besides "
        f"{forward:.0f} s of forward passes, {rest / forward:.1%} of them"
    )


def operations(function: nn.Module, x: Tensor) -> int:
    """Count the floating-point operations of f(x): two for each multiplication with addition."""
    with FlopCounterMode(display=False) as counter, evaluating(function):
        function(x.unsqueeze(0))
    return counter.get_total_flops()


def product_seconds(precision: torch.dtype, device: torch.device) -> float:
    """Time a product of two square matrices, the faster one of two."""
    a, b = (torch.randn(_MATRIX, _MATRIX).to(device, precision) for _ in range(2))
    a @ b
    return min(seconds(lambda: a @ b) for _ in range(2))


def forward_seconds(way: Variant, x: Tensor, images: int, size: int) -> float:
    """Time the forward passes of so many noisy images, drawn beforehand."""
    noisy = x + 0.25 * torch.randn(size, *x.shape).to(x)

    def forward() -> None:
        with evaluating(way.function), way.context():
            for start in range(0, images, size):
                way.function(noisy[: min(size, images - start)])

    return seconds(forward)


if __name__ == "__main__":
    main()
