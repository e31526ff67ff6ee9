"""Maps of standard deviations from files: --sigma-map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from center_smoothing.safe_arrays import read_npy
from results import files

_TENSORS = (".pt", ".pth")
_IMAGES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
# The largest value of an image's pixels, by their type.
_WHITE = {"uint8": 255.0, "uint16": 65535.0, "int32": 65535.0, "bool": 1.0}


@dataclass(frozen=True, eq=False)
class SigmaMap:
    """Standard deviations as multiples of sigma, and the file that they come from.

    Attributes:
        values: float64 of the shape of inputs, or one that is broadcast to it.
        sha256: of the file.
    """

    values: Tensor
    sha256: str

    @property
    def config(self) -> dict[str, Any]:
        """What a configuration says of it."""
        return {"sha256": self.sha256, "shape": list(self.values.shape)}


def read_sigma_map(path: str) -> SigmaMap:
    """Read a tensor, or an image whose white is sigma: (1, H, W) of a grey one, (3, H, W) of a colour one.

    Raises:
        ValueError: if there is none, and for values that are not positive and finite.
    """
    wanted = "a .npy or .pt file with a tensor, or a grey or colour image, of multiples of sigma"
    try:
        values = _read(Path(path))
    except FileNotFoundError as error:
        raise ValueError(f"--sigma-map must be {wanted}, got {path}: there is no such file") from error
    except Exception as error:  # PIL, numpy and torch raise many kinds for a damaged file
        raise ValueError(f"--sigma-map must be {wanted}, got {path}: {error}") from error
    good = torch.isfinite(values) & (values > 0.0)
    if values.numel() == 0 or not bool(good.all()):
        raise ValueError(
            f"--sigma-map must hold positive finite numbers, got {path} with {int((~good).sum())} of {values.numel()} "
            "that are none: without noise on a number nothing is certified about changes of it"
        )
    return SigmaMap(values, files.sha256(Path(path)))


def _read(path: Path) -> Tensor:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return torch.from_numpy(read_npy(path).astype(np.float64))
    if suffix in _TENSORS:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, Tensor):
            raise ValueError(f"it holds a {type(found).__name__}, not a tensor")
        return found.detach().to(torch.float64)
    if suffix not in _IMAGES:
        raise ValueError(f"it ends in {suffix or 'nothing'}")
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA", "CMYK", "YCbCr") else image)
    if str(pixels.dtype) not in _WHITE or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"its pixels are {pixels.dtype} of shape {pixels.shape}")
    channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return torch.from_numpy(channels.astype(np.float64) / _WHITE[str(pixels.dtype)])
