"""Images and folders that tests of several data sets take."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


def saved(image: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def notes(root: Path) -> None:
    root.mkdir()
    (root / "notes.txt").write_text("none here")


# Folders that hold no images, and what is said of them.
NO_IMAGES: dict[str, Callable[[Path], object]] = {
    "no such folder": lambda root: None,
    "that is a file": lambda root: root.write_text(""),
    "it holds no image file": notes,
}
