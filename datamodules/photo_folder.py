"""Photos of any size, for pretrained models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from datamodules.base import ImageDataModule, Images
from datamodules.image_files import decode_photo, find, names_of, why_unreadable


class PhotoFiles(Images):
    """Photos that are decoded when they are asked for, and made smaller if a side is longer than ``max_side`` pixels.

    ``indices`` say where each path stands in its data set.
    """

    def __init__(self, paths: Sequence[Path], indices: Sequence[int], *, max_side: int) -> None:
        self.paths, self.indices, self.max_side = list(paths), list(indices), max_side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """Return ``image`` float32 (3, H, W) in [0, 1], of the photo's own proportions, and ``index``."""
        pixels = torch.from_numpy(decode_photo(self.paths[position], max_side=self.max_side).copy())
        return {"image": pixels.float() / 255.0, "index": torch.tensor(self.indices[position])}


class PhotoFolder(ImageDataModule):
    """RGB photos below a folder, each in its own size and proportions; all of them are the test split.

    All image files count, at any depth, sorted by path; grey ones become RGB, transparent ones stand on white,
    photographs are turned upright. The index of a photo is the position of its file. Files that cannot be read, HEIC
    and raw files of cameras among them, are left out, named in ``left_out``, and keep their number.

    Args:
        root: folder of the photos.
        max_side: longest side in pixels; larger photos are made smaller, keeping their proportions.

    Attributes:
        names: path of every file relative to ``root``, by index; from :meth:`setup` on.
    """

    names: list[str]

    def __init__(self, root: str = "photos", max_side: int = 400) -> None:
        super().__init__(batch_size=2, num_workers=0)
        if isinstance(max_side, bool) or not isinstance(max_side, int) or max_side < 1:
            raise ValueError(f"max_side must be a whole number of at least 1, got {max_side!r}")
        self.save_hyperparameters(logger=False)
        self.root, self.max_side = Path(os.path.expanduser(root)), max_side

    def setup(self, stage: str | None = None) -> None:
        """Find the photos, and see which of them can be read.

        Raises:
            ValueError: if ``root`` is no folder, or if no photo below it can be read.
        """
        where = f"--data.root must be a folder of photos, got {self.root.absolute()}"
        if not self.root.is_dir():
            raise ValueError(f"{where}: that is {'a file' if self.root.exists() else 'no folder'}")
        try:
            files = find(self.root)
        except OSError as error:
            raise ValueError(f"{where}: {error.strerror}: {error.filename}") from error
        self.names, paths = names_of(files), [self.root / path for path in files]
        reasons = why_unreadable(paths, max_side=self.max_side)
        self.left_out = {self.names[position]: reason for position, reason in reasons.items()}
        readable = [position for position in range(len(paths)) if position not in reasons]
        if not readable:
            held = "it holds no image file"
            if paths:
                name, reason = next(iter(self.left_out.items()))
                held = f"none of its {len(paths)} image files can be read, such as {name!r} ({reason})"
            raise ValueError(f"{where}: {held}; put photos there, such as .jpg or .png, or name the folder of yours")
        self.test_set = PhotoFiles([paths[position] for position in readable], readable, max_side=self.max_side)

    def train_dataloader(self) -> NoReturn:
        """Refuse with a ValueError: there is nothing to train on."""
        raise ValueError("--data must hold images of one size to train on, e.g. ImageFolder, got PhotoFolder")
