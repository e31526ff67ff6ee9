"""Pictures of one certified example: its input and outputs, or the boxes found in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from results.finished import FinishedCertification
from results.numbers import format_up
from results.rows import Row

_NAMES = {"image": "input", "base": "base output", "smoothed": "smoothed output"}
_VALUES = 6  # shown of an output that is no picture
_BASE_BOX, _SMOOTHED_BOX = (0, 158, 115), (0, 90, 200)
# Of labels: the colours of Okabe and Ito, and darker ones of the same hues from the ninth label on; then over again.
_HUES = "#000000 #e69f00 #56b4e9 #009e73 #f0e442 #0072b2 #d55e00 #cc79a7".split()
_RGB = np.array([ImageColor.getrgb(hue) for hue in _HUES])
_LABELS = np.concatenate([(_RGB + lift) * share / 255.0 for lift, share in ((0, 1.0), (40, 0.6))])
_NO_LABEL = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of an example."""

    name: str  # "input", say; its caption and a part of its alternative text
    # (H, W, C) with C of 1 or 3, in [0, 1]; shown as :func:`as_image` shows it
    array: NDArray[np.floating[Any]] = field(repr=False)
    note: str = ""  # a second line of the caption, e.g. the scale of a difference

    def __post_init__(self) -> None:
        """Check the shape."""
        shape = self.array.shape
        if len(shape) != 3 or shape[-1] not in (1, 3) or 0 in shape:
            raise ValueError(f"array must have shape (H, W, 1) or (H, W, 3), got {shape}")


class ExamplePictures(NamedTuple):
    """What there is to see of an example."""

    pictures: list[Picture]  # input, base output and smoothed output as far as they are images; or the input with boxes
    words: list[str]  # about outputs that are no pictures, one line each


def as_image(array: NDArray[Any]) -> Image.Image:
    """Return an 8-bit image of an array, rounded to nearest; what lies outside [0, 1] is clipped, NaN is black.

    Whatever writes or shows pixels takes them from here: W&B and Pillow cut floats off at whole numbers.

    Args:
        array: (H, W, C) with C of 1 or 3, of any dtype, in [0, 1].

    Returns:
        An image of mode L or RGB.
    """
    pixels = np.rint(np.nan_to_num(array.astype(np.float64), nan=0.0).clip(0.0, 1.0) * 255.0).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def side_by_side(arrays: Sequence[NDArray[Any]]) -> Image.Image:
    """Return one image of several, see :func:`as_image`, from left to right; below a lower one it is white."""
    images = [as_image(array) for array in arrays]
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    whole = Image.new(mode, (sum(image.width for image in images), max(image.height for image in images)), "white")
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width
    return whole


def example_pictures(finished: FinishedCertification, index: int) -> ExamplePictures:
    """Return the pictures of an example, whose outputs were read."""
    arrays = finished.outputs[index]
    image, base, smoothed = (arrays[key] for key in _NAMES)
    if finished.holds_boxes and is_image(image.shape):
        note = "base output green, smoothed output blue"
        words = [f"Base output: {_boxes_in_words(base)}", f"Smoothed output: {_boxes_in_words(smoothed)}"]
        return ExamplePictures([Picture("input with boxes", with_boxes(image, base, smoothed), note)], words)
    pictures, words = [], []
    names = {**_NAMES, **({"base": "clipped base output"} if "clip_norm" in finished.config else {})}
    # outputs of norm 1 are too dark for the eye: one scale for both
    scale = float(np.nan_to_num(np.maximum(base, smoothed)).max()) if finished.config.get("normalised") else 0.0
    for array, name in zip((image, base, smoothed), names.values(), strict=True):
        if finished.holds_labels and array is not image and _is_map(array.shape):
            pictures.append(Picture(name, in_colours(array), "a colour for each label"))
        elif is_image(array.shape):
            scaled = array is not image and scale > 0.0
            shown, note = (array / scale, f"of norm 1, white = {scale:.2g}") if scaled else (array, "")
            pictures.append(Picture(name, np.moveaxis(shown, 0, -1), note))
        else:
            words.append(_in_words(name, array))
    return ExamplePictures(pictures, words)


def with_boxes(image: NDArray[Any], base: NDArray[Any], smoothed: NDArray[Any]) -> NDArray[np.float32]:
    """Draw the boxes of two outputs on a photo, the smoothed ones thin and on top; an empty box is not drawn.

    The image is (C, H, W) in [0, 1], and an output (4,) in pixels, x1, y1, x2, y2, or several boxes (K, 4). Returned is
    (H, W, 3) in [0, 1].
    """
    drawing = as_image(np.moveaxis(image, 0, -1)).convert("RGB")
    pen = ImageDraw.Draw(drawing)
    thin = max(1, round(max(drawing.size) / 200))
    for output, colour, width in ((base, _BASE_BOX, 3 * thin), (smoothed, _SMOOTHED_BOX, thin)):
        for box in _boxes(output):
            pen.rectangle([float(corner) for corner in box], outline=colour, width=width)
    return np.asarray(drawing, dtype=np.float32) / 255.0


def in_colours(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return a map of labels (H, W) or (1, H, W) in colours, one for each of 16 from 0 on and then over again.

    Of other than whole numbers the next smaller one counts. Returned is (H, W, 3) in [0, 1], white where no label is.
    """
    numbers = labels.reshape(labels.shape[-2:]).astype(np.float64)
    known = np.isfinite(numbers)
    colours: NDArray[np.float64] = _LABELS[np.floor(np.where(known, numbers, 0.0) % len(_LABELS)).astype(np.intp)]
    return np.where(known[..., None], colours, _NO_LABEL)


def disagreement(first: NDArray[Any], second: NDArray[Any]) -> Picture:
    """Return the picture of where two pictures of labels (H, W, 3) differ, in white."""
    differs = (first != second).any(axis=-1, keepdims=True)
    return Picture("where labels differ", differs.astype(np.float64), f"{differs.mean():.1%} of the pixels")


def noisy_copy(image: NDArray[Any], *, sigma: float, seed: object, index: int, noise: str = "gaussian") -> Picture:
    """Return the picture of an image (C, H, W) in [0, 1] with noise of the kind and level that was smoothed with.

    Seed and index of the example determine the noise, which is none that was certified with.
    """
    rng = np.random.default_rng(list(f"{seed}/{index}".encode()))
    drawn = rng.uniform(-1.0, 1.0, image.shape) if noise == "uniform" else rng.standard_normal(image.shape)
    return Picture("one noisy copy", np.moveaxis(image + sigma * drawn, 0, -1), f"sigma = {sigma:g}")


def difference(first: NDArray[Any], second: NDArray[Any], *, name: str) -> Picture:
    """Return the picture of |first - second|, two of (H, W, C), largest over the channels, white at its largest.

    It has one channel, and its note says which difference is white.
    """
    absolute = np.abs(np.asarray(first, dtype=np.float64) - second).max(axis=-1, keepdims=True)
    finite = absolute[np.isfinite(absolute)]
    largest = float(finite.max()) if finite.size else 0.0
    if largest == 0.0:
        return Picture(name, np.zeros_like(absolute), "no difference")
    return Picture(name, np.nan_to_num(absolute / largest, nan=1.0, posinf=1.0), f"white = {largest:.2g}")


def movement(box: NDArray[np.float64], *, eps_in: float) -> Picture:
    """Return the picture of how far each pixel can move, largest over the channels, white at its largest.

    ``box`` (2, C, H, W) has the lower and the upper ends of what is certified at eps_in, finite. The picture has one
    channel, and its note says which movement is white, rounded up.
    """
    low, high = np.moveaxis(box, 1, -1)
    note = f"certified at eps_in = {eps_in:g}, white = {format_up(float((high - low).max()))}"
    return replace(difference(high, low, name="how far each pixel can move"), note=note)


def guarantees(finished: FinishedCertification, rows: Sequence[Row]) -> list[str]:
    """Return what certified radii promise of the smoothed boxes: a few words for each row of one example."""
    return [_guarantee(row, finished.outputs[row.index]["smoothed"]) for row in rows]


def _guarantee(row: Row, smoothed: NDArray[Any]) -> str:
    if row.abstained:
        return "abstained"
    if row.eps_out >= 1.0:
        return "nothing is guaranteed"
    overlap = "IoU" if smoothed.ndim == 1 else "mean IoU"
    found = len(_boxes(smoothed)) > 0
    return f"{overlap} of at least {guaranteed_overlap(row.eps_out)}" if found else "no box stays no box"


def guaranteed_overlap(eps_out: float) -> str:
    """Format the least overlap (IoU) that a certified Jaccard distance leaves, never above the true one."""
    return f"{math.floor(1000.0 * max(0.0, 1.0 - eps_out)) / 1000.0:.3f}"


def is_image(shape: Sequence[int]) -> bool:
    """Return whether an output of this shape is shown as a picture: (C, H, W), grey or in colours."""
    return len(shape) == 3 and shape[0] in (1, 3) and 0 not in shape


def _is_map(shape: Sequence[int]) -> bool:
    """Return whether labels of this shape are shown as a picture: (H, W) or (1, H, W)."""
    return len(shape) >= 2 and min(shape[-2:]) > 1 and set(shape[:-2]) <= {1}


def _boxes(output: NDArray[Any]) -> NDArray[Any]:
    """Return the boxes of an output, (4,) or (K, 4), that are not empty: (found, 4), none of what is not finite."""
    boxes = output.reshape(-1, 4)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(output).all()]


def _boxes_in_words(output: NDArray[Any]) -> str:
    corners = [", ".join(f"{corner:.1f}" for corner in box) for box in _boxes(output)]
    return f"box {'; '.join(corners)} (x1, y1, x2, y2)" if corners else "no box"


def _in_words(name: str, array: NDArray[Any]) -> str:
    shape = " x ".join(map(str, array.shape)) or "a single number"
    values = ", ".join(f"{value:.4g}" for value in array.flat[:_VALUES])
    return f"{name[:1].upper()}{name[1:]}: {shape} values, {values}{', …' if array.size > _VALUES else ''}"
