"""Image files of any kind: finding them, and making 8-bit images of one size of them."""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Mode = Literal["rgb", "grey"]
CHANNELS: dict[Mode, int] = {"rgb": 3, "grey": 1}

# Pillow knows these by sight and leaves them to other programs: it cannot decode them, or starts Ghostscript.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# Raw files of cameras: Pillow would read many as TIFF, and find a thumbnail.
_RAW = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl "
    ".sr2 .srf .srw .x3f".split()
)
# Pictures that Pillow reads with a plugin at most.
_WITH_PLUGINS = frozenset(".avif .avifs .heic .heics .heif .heifs .hif .jxl .jxr .svg .svgz".split())
_HEIF = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1", b"ftypavif")
_DNG_VERSION, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 50706, 258, 262, 339  # tags of TIFF
_SIXTEEN_BITS, _TWELVE_BITS = 65535, 4095
# How an image with each EXIF orientation is turned upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Each thread may hold a photograph of full size.
_MAX_THREADS = 8


@dataclass(frozen=True)
class Decoded:
    """What became of a list of files."""

    images: Tensor  # uint8 (R, C, H, W), of the files that could be read, in order
    positions: list[int]  # their R positions in the list
    reasons: dict[int, str]  # why each other file could not be read, by its position


def find(root: Path) -> list[Path]:
    """Return the image files below a folder, relative to it, sorted by path.

    Those of formats that cannot be decoded here, such as HEIC and raw files, are among them. Hidden files and folders
    are left out. Links are followed; a folder with several ways to it counts once.

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


def names_of(files: Sequence[Path]) -> list[str]:
    """Return paths with forward slashes; names that are not UTF-8 could not be written into reports."""
    return [path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8") for path in files]


def decode(path: Path, *, height: int, width: int, mode: Mode) -> NDArray[np.uint8]:
    """Decode an image of the wanted size: upright, opaque on white, scaled until it covers the size, its middle.

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
    """Decode a photo in its own proportions: upright, opaque on white, in RGB, and smaller only if a side is too long.

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
    """Say why files cannot be decoded as photos, by their positions; what can be read is not kept."""
    return _in_threads(lambda position: decode_photo(paths[position], max_side=max_side), len(paths))


def decode_all(paths: Sequence[Path], *, height: int, width: int, mode: Mode) -> Decoded:
    """Decode all images that can be read; no more memory than all of them take, and one photograph per thread."""
    images = torch.empty(len(paths), CHANNELS[mode], height, width, dtype=torch.uint8)
    pixels = images.numpy()

    def place(position: int) -> None:
        pixels[position] = decode(paths[position], height=height, width=width, mode=mode)

    reasons = _in_threads(place, len(paths))
    positions = [position for position in range(len(paths)) if position not in reasons]
    if reasons:
        for target, source in enumerate(positions):
            images[target] = images[source]
    return Decoded(images[: len(positions)], positions, reasons)


def _in_threads(decoding: Callable[[int], object], count: int) -> dict[int, str]:
    """Decode each position in threads, and say why some cannot be; Pillow works without the interpreter's lock."""

    def reason(position: int) -> str | None:
        try:
            decoding(position)
        except Exception as error:  # damaged files lead Pillow's plugins to raise whatever they meet
            return _reason(error)
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as threads:
        warnings.simplefilter("ignore")  # of oddities in files that can be read
        # of images inside of icons, too
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        reasons = enumerate(threads.map(reason, range(count)))
        return {position: said for position, said in reasons if said is not None}


def _read(path: Path, *, least_side: int) -> Image.Image:
    """Read an image upright and opaque, in any mode of 8 bits; a JPEG may come smaller, not below ``least_side``."""
    # an open file: given its name, Pillow 13 maps it into memory, and a TIFF that lies on its side comes out garbled
    with path.open("rb") as file, _opened(file, path.suffix.lower()) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, Pillow's limit is {limit}")
        image.draft(None, (least_side, least_side))
        _scale_transparency(image)
        image.load()
        turn = _TURNS.get(_orientation(image))
        upright = _eight_bits(image)
        upright = upright.copy() if turn is None else upright.transpose(turn)
    if upright.has_transparency_data:
        coloured = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return upright


def _opened(file: BinaryIO, suffix: str) -> Image.Image:
    """Return an image whose pixels are not read yet.

    Raises:
        ValueError: for formats that Pillow does not decode, or not as the picture that they hold.
    """
    unread = "cannot be decoded here: convert it to JPEG or PNG"
    if suffix in _RAW:
        raise ValueError(f"{suffix[1:].upper()}, a raw file of a camera, {unread}")
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        file.seek(4)
        if suffix in _WITH_PLUGINS or file.read(8) in _HEIF:
            name = suffix[1:].upper() if suffix in _WITH_PLUGINS else "HEIC or AVIF under another name"
            raise ValueError(f"{name} {unread}") from None
        raise
    if _DNG_VERSION in getattr(image, "tag_v2", {}):
        raise ValueError(f"DNG, a raw file of a camera, {unread}")
    if not isinstance(image.info.get("xmp", b""), bytes):
        del image.info["xmp"]  # Pillow looks for an orientation there, in text alone
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image, that of XMP where there is none; 1 where there is neither.

    No other tag is read: a damaged one does not matter. A TIFF has been turned by Pillow.
    """
    if image.format == "TIFF":
        return 1
    exif = image.info.get("exif", b"")
    if not exif:  # as older programs write it into a PNG: a name, a length, and hexadecimal digits
        words = image.info.get("Raw profile type exif", "").split()[2:]
        with suppress(ValueError):
            exif = bytes.fromhex("".join(words))
    exif = re.sub(rb"^(Exif\0\0)+", b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "<")
    with suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", exif, place)
            if tag == ExifTags.Base.Orientation and (kind, length) in ((3, 1), (4, 1)):  # one short or long number
                return int(struct.unpack_from(order + "HI"[kind - 3], exif, place + 8)[0])
    xmp = image.info.get("xmp") or str(image.info.get("XML:com.adobe.xmp", "")).encode()
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else 1


def _scale_transparency(image: Image.Image) -> None:
    """Bring the transparent shade of a PNG to the scale of its pixels; Pillow leaves it as it stands in the file.

    Raises:
        ValueError: for colours of 16 bits, of which Pillow keeps 8: several would be transparent.
    """
    if image.format == "PNG" and "transparency" in image.info:
        packed = image.tile[0].args  # type: ignore[attr-defined]  # of images from files
        if packed == "RGB;16B":
            raise ValueError("16-bit colours of which one is transparent")
        if packed in ("L;2", "L;4"):
            image.info["transparency"] *= 85 if packed == "L;2" else 17


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the same image, 0..65535 scaled to 0..255 where it has 16 bits, 0..4095 where it has 12.

    Raises:
        ValueError: if its range is unknown.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        raise ValueError("floating-point pixels of unknown range")
    if 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)) and tags.get(_BITS) != (32,):
        raise ValueError("signed pixels of unknown range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    white = _TWELVE_BITS if tags.get(_BITS) == (12,) else _SIXTEEN_BITS
    if values.min() < 0 or values.max() > white:
        raise ValueError("32-bit pixels of unknown range")
    if tags.get(_PHOTOMETRIC) == 0:  # white is 0
        values = white - values
    values[values == image.info.get("transparency", -1)] = white
    return Image.fromarray(((2 * 255 * values + white) // (2 * white)).astype(np.uint8))


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that Pillow itself decodes."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_DECODED)


@cache
def _extensions() -> frozenset[str]:
    """Return the extensions of pictures, decoded here or not, in lower case, with the dot."""
    formats = set(_formats())
    decoded = {extension for extension, name in Image.registered_extensions().items() if name in formats}
    return frozenset(decoded | _RAW | _WITH_PLUGINS)


def _is_file(path: Path) -> bool:
    """Return whether it is a file, or a link to one that is gone: no folder, and no pipe, which would never end."""
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
