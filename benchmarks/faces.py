"""What groups, medians and averaged candidates bring for boxes of faces: eps_out of each, from the same noisy boxes.

``python benchmarks/faces.py --photos DIR --boxes FOLDER``. Around each photo, noisy boxes are drawn once for each
sigma, by one pass for two base functions: the most probable candidate, and the average of those that overlap with it
(``--model.average true``). All smoothed functions are certified from these boxes. An interrupted run goes on with the
boxes that it kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.tables import table
from benchmarks.versus.recorded_outputs import RecordedOutputs, RecordedSmoother, Recording, record
from center_smoothing import BoxJaccard, CertificateBase, MedianBudget, MedianSmoother, SmoothingBudget
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs
from center_smoothing.upper_median import upper_median
from command_line import process
from datamodules import PhotoFolder
from lightning_modules import FaceDetector
from lightning_modules.fast_mtcnn import FastMTCNN, most_probable

_BASE_FUNCTIONS = ("most probable", "average")
_BATCH = 32


class BothBoxes(nn.Module):
    """The box of either base function, from one pass: images (N, 3, H, W) -> (N, 2, 4), as ``_BASE_FUNCTIONS``."""

    def __init__(self, mtcnn: FastMTCNN) -> None:
        super().__init__()
        self.mtcnn = mtcnn

    def forward(self, images: Tensor) -> Tensor:
        """Return both boxes of each image."""
        candidates = self.mtcnn.candidates(images.float() * 255.0)
        return torch.cat([most_probable(candidates, len(images), average=each).boxes for each in (False, True)], dim=1)


def main(args: Sequence[str] | None = None) -> None:
    """Print a table for each sigma: eps_out of each photo, in rows of base functions and smoothed functions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, help="folder of photos")
    parser.add_argument("--num-photos", type=int, default=12, help="the first so many of them")
    parser.add_argument("--boxes", type=Path, required=True, help="folder in which drawn boxes are kept")
    parser.add_argument("--eps-in", type=float, default=0.2, help="l2 norm of the changes, pixels in [0, 1]")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.2, 0.1], help="noise levels, likewise")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 2, 4, 16], help="boxes that are aggregated")
    parser.add_argument("--n", type=int, default=1_000, help="ranked noisy copies; a group has as many in all")
    parser.add_argument("--m", type=int, default=5_200, help="certification copies, likewise")
    parser.add_argument("--k", type=int, default=128, help="pilot copies, likewise")
    options = parser.parse_args(args)
    process.keep_freed_memory()
    photos = PhotoFolder(options.photos)
    photos.setup()
    names = [Path(name).stem for name in photos.names[: min(options.num_photos, len(photos.test_set))]]
    model = BothBoxes(FaceDetector().mtcnn).eval()
    options.boxes.mkdir(parents=True, exist_ok=True)
    counts = {Stage.PILOT: options.k, Stage.RANKING: options.n, Stage.CERTIFICATION: options.m}
    for sigma in options.sigma:
        found: dict[tuple[str, str], list[CertificateBase | None]] = {}
        for number, name in enumerate(names):
            x = photos.test_set[number]["image"]
            path = options.boxes / f"{name}-{sigma:g}-{options.k}-{options.n}-{options.m}.pt"
            recordings = recorded(model, x, sigma, number, counts, path)
            for base, recording in zip(_BASE_FUNCTIONS, recordings, strict=True):
                for smoothed, certificate in certificates(recording, x, options.eps_in, options.groups):
                    found.setdefault((base, smoothed), []).append(certificate)
        copies = sum(counts.values())
        print(f"\nsigma={sigma:g}, eps_in={options.eps_in:g}, {copies} noisy copies of each photo: eps_out")
        header = ["Base function", "Smoothed function", *names, "median", "smoothing loss"]
        print(table(header, [[*of, *_cells(each, options.eps_in)] for of, each in found.items()], named=2), flush=True)


def recorded(
    model: nn.Module, x: Tensor, sigma: float, number: int, counts: Mapping[Stage, int], path: Path
) -> list[Recording]:
    """Return noisy boxes around a photo x (3, H, W) for each base function, drawn unless a file has them."""
    if path.exists():
        kept = torch.load(path, weights_only=True)
    else:
        drawn = record(NoisyOutputs(model, sigma=sigma, batch_size=_BATCH), x, example=number, counts=counts)
        kept = {**{stage.name: drawn.outputs[stage] for stage in counts}, "base": drawn.base_output}
        torch.save(kept, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        print(f"drawn: {path.name}", file=sys.stderr, flush=True)
    no_time = dict.fromkeys(counts, 0.0)
    return [
        Recording({stage: kept[stage.name][:, i] for stage in counts}, no_time, kept["base"][i], sigma, _BATCH)
        for i in range(len(_BASE_FUNCTIONS))
    ]


def certificates(
    recording: Recording, x: Tensor, eps_in: float, groups: Sequence[int]
) -> Iterator[tuple[str, CertificateBase | None]]:
    """Yield each smoothed function's name and certificate; None where there are too few copies for this eps_in."""
    k, n, m = (len(recording.outputs[stage]) for stage in (Stage.PILOT, Stage.RANKING, Stage.CERTIFICATION))
    h, distance = eps_in / recording.sigma, BoxJaccard()
    for group in groups:
        budget = SmoothingBudget(n=n // group, m=m // group, k=k // group, group=group)
        enough = budget.plan(h).certifiable
        yield f"center, J = {group}", RecordedSmoother(recording, distance, budget).certify(x) if enough else None
    odd = MedianBudget(n=n - (n + 1) % 2, m=m)
    medians = MedianSmoother(nn.Identity(), distance, sigma=recording.sigma, budget=odd)
    medians.outputs = RecordedOutputs(recording)
    yield "median", medians.certify(x) if odd.plan(h).certifiable else None


def _cells(found: Sequence[CertificateBase | None], eps_in: float) -> list[str]:
    """Format eps_out of each photo, the median of these, and that of the smoothing loss."""
    known = [certificate for certificate in found if certificate is not None]
    if not known:
        return ["too few copies"] * len(found) + ["-", "-"]
    radii = [certificate.eps_out(eps_in) for certificate in known]
    medians = upper_median(radii), upper_median([each.smoothing_loss for each in known])
    return [f"{value:.3f}" for value in (*radii, *medians)]


if __name__ == "__main__":
    main()
