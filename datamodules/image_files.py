"""Image files of any kind: finding them, and making 8-bit images of one size of them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Mode = Literal["rgb", "grey"]
CHANNELS: dict[Mode, int] = {"rgb": 3, "grey": 1}

# Pillow knows these by sight and leaves them to other programs: it cannot decode them, or starts Ghostscript.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_SIXTEEN_BITS = 65535
# Each thread may hold a photograph of full size.
_MOST_THREADS = 8


@dataclass(frozen=True)
class Decoded:
    """What became of a list of files.

    Attributes:
        images: uint8 (R, C, H, W), of the files that could be read, in order.
        positions: their R positions in the list.
        reasons: why each other file could not be read, by its position.
    """

    images: Tensor
    positions: list[int]
    reasons: dict[int, str]


def find(root: Path) -> list[Path]:
    """Image files below a folder, relative to it, sorted by path.

    Hidden files and folders are left out. Links are followed; a folder with several ways to it counts once.

    Raises:
        OSError: if a folder cannot be listed.
    """
    extensions, seen, found = _extensions(), set(), []
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_fail):
        real = os.path.realpath(folder)
        # a link to a folder above would go round for ever; sorted, so that the same way is taken on every machine
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            paths = [Path(folder, name) for name in files if not name.startswith(".")]
            found += [path.relative_to(root) for path in paths if path.suffix.lower() in extensions and _is_file(path)]
        seen.add(real)
    return sorted(found, key=Path.as_posix)


def decode(path: Path, *, height: int, width: int, mode: Mode) -> NDArray[np.uint8]:
    """One image of the wanted size: upright, opaque on white, scaled until it covers the size, its middle.

    Returns:
        uint8 (C, height, width).

    Raises:
        Exception: of any kind if the file is damaged, unfit or larger than Pillow's limit against decompression bombs.
    """
    # a large JPEG is decoded at a half to an eighth of its size, still twice what is needed
    opaque = _read(path, least_side=2 * max(height, width))
    fitted = ImageOps.fit(opaque.convert("RGB" if mode == "rgb" else "L"), (width, height), Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(height, width, CHANNELS[mode]).transpose(2, 0, 1)


def decode_photo(path: Path, *, max_side: int) -> NDArray[np.uint8]:
    """One photo in its own proportions: upright, opaque on white, in RGB, and smaller only if a side is too long.

    Returns:
        uint8 (3, H, W), H and W at most ``max_side``.

    Raises:
        Exception: as :func:`decode`.
    """
    photo = _read(path, least_side=2 * max_side).convert("RGB")
    longest = max(photo.size)
    if longest > max_side:
        # ImageOps.contain would leave nothing of a photo that is a thousand times longer than wide
        width, height = (max(1, round(side * max_side / longest)) for side in photo.size)
        photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(photo).transpose(2, 0, 1)


def why_unreadable(paths: Sequence[Path], *, max_side: int) -> dict[int, str]:
    """Why files cannot be decoded as photos, by their positions; what can be read is not kept."""

    def look(position: int) -> str | None:
        try:
            decode_photo(paths[position], max_side=max_side)
        except Exception as error:  # damaged files lead Pillow's plugins to raise whatever they meet
            return _reason(error)
        return None

    return {position: reason for position, reason in enumerate(_in_threads(look, len(paths))) if reason is not None}


def decode_all(paths: Sequence[Path], *, height: int, width: int, mode: Mode) -> Decoded:
    """All images that can be read; no more memory than all of them take, and one photograph per thread."""
    images = torch.empty(len(paths), CHANNELS[mode], height, width, dtype=torch.uint8)
    pixels = images.numpy()

    def place(position: int) -> str | None:
        try:
            pixels[position] = decode(paths[position], height=height, width=width, mode=mode)
        except Exception as error:  # damaged files lead Pillow's plugins to raise whatever they meet
            return _reason(error)
        return None

    outcomes = _in_threads(place, len(paths))
    reasons = {position: reason for position, reason in enumerate(outcomes) if reason is not None}
    positions = [position for position in range(len(paths)) if position not in reasons]
    if reasons:
        for target, source in enumerate(positions):
            images[target] = images[source]
    return Decoded(images[: len(positions)], positions, reasons)


def _in_threads(look: Callable[[int], str | None], count: int) -> list[str | None]:
    """What a function says of each position; Pillow decodes and scales without the interpreter's lock."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as threads:
        warnings.simplefilter("ignore")  # of oddities in files that can be read
        # of images inside of icons, too
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return list(threads.map(look, range(count)))


def _read(path: Path, *, least_side: int) -> Image.Image:
    """An image upright and opaque, in any mode of 8 bits; a JPEG may come smaller, but not below ``least_side``."""
    # an open file: given its name, Pillow 13 maps it into memory, and a TIFF that lies on its side comes out garbled
    with path.open("rb") as file, Image.open(file, formats=_formats()) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, Pillow's limit is {limit}")
        image.draft(None, (least_side, least_side))
        upright = _eight_bits(ImageOps.exif_transpose(image))
    if upright.has_transparency_data:
        coloured = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return upright


def _eight_bits(image: Image.Image) -> Image.Image:
    """The same image, 0..65535 scaled to 0..255 where it has 16 bits.

    Raises:
        ValueError: if its range is unknown.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels of unknown range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > _SIXTEEN_BITS:
        raise ValueError("32-bit pixels of unknown range")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


@cache
def _formats() -> tuple[str, ...]:
    """Formats that Pillow itself decodes."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_DECODED)


@cache
def _extensions() -> frozenset[str]:
    """Their extensions, in lower case, with the dot."""
    formats = set(_formats())
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in formats)


def _is_file(path: Path) -> bool:
    """Whether it is a file, or a link to one that is gone: no folder, and no pipe, which would never end."""
    return os.path.isfile(path) or not os.path.exists(path)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        size = re.search(r"\(?(\d[\d x]*) pixels", str(error))
        return f"{size[1] if size else 'more'} pixels, Pillow's limit is {Image.MAX_IMAGE_PIXELS}"
    if isinstance(error, UnidentifiedImageError):
        return "no image, or a damaged one"  # Pillow's own words show a Python object
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def _fail(error: OSError) -> NoReturn:
    raise error
