"""How much faster the batched face detector is than facenet-pytorch's own detect, and how well their boxes agree.

``python benchmarks/bench_face_detector.py`` needs nothing: its photo is scikit-image's astronaut; ``--photos DIR`` has
others, of one size. Images per second are compared in alternating repetitions of one run, on the same noisy images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import median_ratio, seconds
from lightning_modules.face_detector import FaceDetector

_SIGMAS = (0.05, 0.1, 0.25)
# Boxes agree where no edge differs by more pixels than this.
_TOLERANCE = 0.01


def main(args: Sequence[str] | None = None) -> None:
    """Print two tables: images per second, and agreement of boxes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of photos of one size; default: one photo of scikit-image")
    parser.add_argument("--number", type=int, default=1_000, help="noisy images per sigma that are compared")
    parser.add_argument("--batch", type=int, default=64, help="images that are timed at a time")
    parser.add_argument("--repeats", type=int, default=5, help="alternating repetitions, of which the median counts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    photos = read_photos(options.photos)
    detector, reference = FaceDetector(), MTCNN(select_largest=False)
    speed(detector, reference, photos, options.batch, options.repeats)
    agreement(detector, reference, photos, options.number)


def speed(detector: FaceDetector, reference: MTCNN, photos: Tensor, batch: int, repeats: int) -> None:
    """Print images per second, and ratios as medians over repetitions."""
    print(f"images per second, {batch} of {photos.shape[3]}x{photos.shape[2]}, {torch.get_num_threads()} threads")
    print("  sigma   ours   detect on batches   detect on single images   ratio, batches   ratio, single images")
    for sigma in _SIGMAS:
        images = noisy(photos, sigma, count=batch, seed=0)
        calls: list[Callable[[], object]] = [
            lambda images=images: detector(images),
            lambda images=images: detect_on_batch(reference, images),
            lambda images=images: detect_on_each(reference, images),
        ]
        calls[1]()
        taken = [[seconds(call, time.perf_counter) for call in calls] for _ in range(repeats + 1)][1:]
        ours, batches, single = columns = list(zip(*taken, strict=True))
        rates = [batch / statistics.median(column) for column in columns]
        ratios = [median_ratio(column, ours) for column in (batches, single)]
        print(
            f"  {sigma:<5} {rates[0]:>6.0f} {rates[1]:>19.1f} {rates[2]:>25.1f} {ratios[0]:>16.2f} {ratios[1]:>22.2f}"
        )


def agreement(detector: FaceDetector, reference: MTCNN, photos: Tensor, number: int) -> None:
    """Print how often boxes agree with detect on single images, and the cases in which they don't."""
    print(f"boxes within {_TOLERANCE} pixels of detect on single images")
    print("  sigma   images   no face   agree   share agreeing   largest difference of those   detect on batches")
    for sigma in _SIGMAS:
        parts = []
        for start in range(0, number, 50):
            images = noisy(photos, sigma, count=min(50, number - start), seed=1 + start)
            parts.append((detect_on_each(reference, images), detector(images), detect_on_batch(reference, images)))
        expected, boxes, batched = (torch.cat(part) for part in zip(*parts, strict=True))
        apart, of_batches = ((each - expected).abs().amax(dim=1) for each in (boxes, batched))
        agree, no_face = apart <= _TOLERANCE, int((expected == 0).all(dim=1).sum())
        agreeing, largest = int(agree.sum()), max(apart[agree].tolist(), default=0.0)
        share = int((of_batches <= _TOLERANCE).sum()) / number
        print(
            f"  {sigma:<5} {number:>8,} {no_face:>9} {agreeing:>7,} {agreeing / number:>16.2%} {largest:>29.1e} "
            f"{share:>19.2%}"
        )
        for i in (~agree).nonzero().flatten().tolist():
            print(f"    image {i}: {rounded(boxes[i])}, detect {rounded(expected[i])}")


def noisy(photos: Tensor, sigma: float, *, count: int, seed: int) -> Tensor:
    """Return the photos in turn, with noise: (count, 3, H, W)."""
    images = photos[torch.arange(count) % len(photos)]
    return images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def detect_on_each(reference: MTCNN, images: Tensor) -> Tensor:
    """Return the first boxes (N, 4) of detect, called for each image by itself."""
    return torch.cat([detect_on_batch(reference, image[None]) for image in images])


def detect_on_batch(reference: MTCNN, images: Tensor) -> Tensor:
    """Return the first boxes (N, 4) of detect on all images together."""
    found, _ = reference.detect(images.permute(0, 2, 3, 1) * 255)  # (N, H, W, 3) in 0..255
    boxes = [np.zeros(4, np.float32) if each is None else each[0].astype(np.float32) for each in found]
    return torch.from_numpy(np.stack(boxes))


def read_photos(folder: Path | None) -> Tensor:
    """Read all photos of a folder, (N, 3, H, W) in [0, 1]; without one a face of CelebA's size, (1, 3, 218, 178)."""
    if folder is None:
        from skimage import data  # here: a dependency of the tests, which other photos don't need

        photos = [Image.fromarray(data.astronaut()).crop((100, 0, 340, 294)).resize((178, 218))]
    else:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
        photos = [Image.open(path).convert("RGB") for path in paths]
    if len({photo.size for photo in photos}) != 1:
        raise ValueError(f"--photos must hold photos of one size, got {folder} with {len(photos)} photos")
    return torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).permute(0, 3, 1, 2) / 255


def rounded(box: Tensor) -> str:
    """Format a box."""
    return "(" + ", ".join(f"{edge:.2f}" for edge in box.tolist()) + ")"


if __name__ == "__main__":
    main()
