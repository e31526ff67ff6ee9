"""Whether attacks on photos keep to their certificates: smoothed boxes at many x' near x, against eps_out.

``python benchmarks/attack_faces.py --photos DIR``. Around each photo it takes random changes of l2 norm eps_in, and
changes found by a search without gradients for those that move the detector's box furthest under noise. A distance
above eps_out would have to be as rare as alpha says; the certificates have room, so that none is expected.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import BoxJaccard, CenterSmoother, SmoothingBudget
from command_line import process
from datamodules import PhotoFolder
from lightning_modules import FaceDetector

_PROPOSALS, _NOISES = 6, 8
# How much of a step of the search is new.
_STEP = 0.5


def main(args: Sequence[str] | None = None) -> None:
    """Print a row for each photo, and how many distances were above their eps_out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, help="folder of photos")
    parser.add_argument("--max-side", type=int, default=400, help="longest side; larger photos are made smaller")
    parser.add_argument("--num-photos", type=int, default=10, help="the first so many of them")
    parser.add_argument("--points", type=int, default=50, help="changed photos for each, half of them attacked")
    parser.add_argument("--sigma", type=float, default=0.2, help="noise level, pixels in [0, 1]")
    parser.add_argument("--eps-in", type=float, default=0.2, help="l2 norm of the changes")
    parser.add_argument("--n", type=int, default=100, help="ranked outputs, at every point")
    parser.add_argument("--m", type=int, default=1_000, help="certification outputs, at the photo alone")
    parser.add_argument("--k", type=int, default=16, help="pilot outputs, at every point")
    options = parser.parse_args(args)
    process.keep_freed_memory()
    photos = PhotoFolder(options.photos, max_side=options.max_side)
    photos.setup()
    budget = SmoothingBudget(n=options.n, m=options.m, k=options.k)
    smoother = CenterSmoother(FaceDetector().eval(), BoxJaccard(), sigma=options.sigma, budget=budget, batch_size=32)
    print(f"sigma={options.sigma:g}, eps_in={options.eps_in:g}, {budget}")
    print(f"  {'photo':<16} {'eps_out':>8} {'points':>7} {'abstained':>10} {'at random':>10} {'attacked':>9}, largest")
    broken = 0
    for number in range(min(options.num_photos, len(photos.test_set))):
        x = photos.test_set[number]["image"]
        broken += report(photos.names[number], smoother, x, points=options.points, eps_in=options.eps_in)
    print(f"{broken} distances above eps_out")


def report(name: str, smoother: CenterSmoother, x: Tensor, *, points: int, eps_in: float) -> int:
    """Print the row of a photo x (3, H, W); return how many distances of ``points`` x' were above eps_out."""
    certificate = smoother.certify(x, example=0)
    if certificate.abstained:
        print(f"  {name:<16} abstained")
        return 0
    generator = torch.Generator().manual_seed(0)
    random = [direction(x, generator) for _ in range(points - points // 2)]
    attacked = search(smoother, x, steps=points // 2, eps_in=eps_in, generator=generator)
    outputs = [smoother.smooth(x + eps_in * delta, example=i) for i, delta in enumerate([*random, *attacked], start=1)]
    moved = [
        0.0 if out.abstained else smoother.distance(certificate.center[None], out.center[None]).item()
        for out in outputs
    ]
    abstained, eps_out = sum(out.abstained for out in outputs), certificate.eps_out(eps_in)
    largest, largest_attacked = (max(part, default=0.0) for part in (moved[: len(random)], moved[len(random) :]))
    row = f"{eps_out:>8.4f} {points:>7} {abstained:>10} {largest:>16.4f} {largest_attacked:>18.4f}"
    print(f"  {name:<16} {row}", flush=True)
    return sum(each > eps_out for each in moved)


def search(
    smoother: CenterSmoother, x: Tensor, *, steps: int, eps_in: float, generator: torch.Generator
) -> list[Tensor]:
    """Find unit directions (3, H, W), each better than the one before, by a random search."""
    noise = smoother.sigma * torch.randn(_NOISES, *x.shape, generator=generator)
    before = smoother.outputs.model(x + noise)

    def moved(delta: Tensor) -> float:
        return float(smoother.distance(before, smoother.outputs.model(x + eps_in * delta + noise)).mean())

    best = direction(x, generator)
    score, found = moved(best), []
    for _ in range(steps):
        for _ in range(_PROPOSALS):
            proposal = best + _STEP * direction(x, generator)
            proposal = proposal / proposal.norm()
            if (reached := moved(proposal)) > score:
                best, score = proposal, reached
        found.append(best)
    return found


def direction(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a random direction of norm 1, of x's shape; smooth ones move a detector further than white noise does."""
    coarse = torch.randn(1, *x.shape[:1], 8, 8, generator=generator)
    delta = torch.nn.functional.interpolate(coarse, size=x.shape[1:], mode="bilinear")[0]
    return delta / delta.norm()


if __name__ == "__main__":
    main()
