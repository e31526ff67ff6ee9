"""Anybody's own images, from a folder."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import torch
from lightning.pytorch.utilities import rank_zero_only

from datamodules.base import ImageDataModule, IndexedImages
from datamodules.image_files import CHANNELS, Mode, decode_all, find, names_of

Part = Literal["train", "test"]

# Batch norm needs two images.
_MIN: dict[Part, int] = {"train": 2, "test": 1}
_NAMES_SHOWN = 3
_CHECKED_AT_ONCE = 16

# A distributed run has several processes and one terminal.
_say = rank_zero_only(print)


class ImageFolder(ImageDataModule):
    """Images in [0, 1] below a folder; they need no labels.

    All image files count, at any depth; hidden files and folders do not. Animations give their first frame, transparent
    images stand on white, photographs are turned upright, and 16 bits become 8: rounded to nearest in grey, the upper
    8 of a colour. An image of another size is scaled until it covers ``image_size``, and its middle is taken.

    If ``root`` has both folders ``train`` and ``test``, they are the split, and images elsewhere are not used.
    Otherwise ``test_fraction`` and ``split_seed`` split the images; with more or fewer files it is another split.

    The index of an image is the position of its file among all those used, sorted by path relative to ``root``, so that
    those below ``test`` come before those below ``train``. Files that cannot be read, HEIC and raw files of cameras
    among them, are named on the terminal and left out, but are numbered and split like all others: mending one moves no
    other image.

    Args:
        root: folder of the images.
        image_size: height and width in pixels.
        mode: ``"rgb"``, 3 channels, or ``"grey"``, 1 channel.
        test_fraction: part of the files that is for test, in (0, 1); at least 1 file is, and at least 2 are not.
        split_seed: which files these are.
        batch_size: images per training batch.
        num_workers: processes that load batches.

    Attributes:
        names: path of every file relative to ``root``, with forward slashes, by index; from :meth:`prepare_data` or
            :meth:`setup` on.
    """

    names: list[str]

    def __init__(
        self,
        root: str = "images",
        image_size: Sequence[int] = (32, 32),
        mode: Mode = "rgb",
        test_fraction: float = 0.2,
        split_seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be rgb or grey, got {mode!r}")
        if not 0.0 < test_fraction < 1.0:
            raise ValueError(f"test_fraction must lie in (0, 1), got {test_fraction!r}")
        if not _is_whole(split_seed) or not 0 <= split_seed < 2**63:
            raise ValueError(f"split_seed must be a whole number from 0 to 2^63 - 1, got {split_seed!r}")
        two = isinstance(image_size, Sequence) and len(image_size) == 2
        if not two or not all(_is_whole(length) and length >= 1 for length in image_size):
            said = "image_size must be two whole numbers of at least 1, height and width, e.g. [32, 32]"
            raise ValueError(f"{said}, got {image_size!r}")
        # what save_hyperparameters keeps: a list, as JSON and YAML have it
        image_size = list(image_size)
        self.save_hyperparameters(logger=False)
        self.root, self.mode = Path(os.path.expanduser(root)), mode
        self.height, self.width = image_size
        self.image_shape = (CHANNELS[mode], self.height, self.width)
        self.test_fraction, self.split_seed = test_fraction, split_seed
        self._files: list[Path] = []
        self._parts: dict[Part, list[int]] = {}

    def prepare_data(self) -> None:
        """Check that there are images enough, before anything is trained or sampled.

        Raises:
            ValueError: if ``root`` is no folder, if too few images below it can be read, or if they fill the memory.
        """
        self._find()
        for part, least in _MIN.items():
            readable: list[int] = []
            reasons: dict[int, str] = {}
            remaining = iter(self._parts[part])
            while len(readable) < least and (some := list(islice(remaining, _CHECKED_AT_ONCE))):
                _, good, bad = self._read(some)
                readable, reasons = readable + good, reasons | bad
            self._check_enough(part, len(readable), reasons)

    def setup(self, stage: str | None = None) -> None:
        """Read the images, once: those for training too, unless ``stage`` has no use for them.

        Raises:
            ValueError: as :meth:`prepare_data`.
        """
        self._find()
        wanted: tuple[Part, ...] = ("train", "test") if stage in (None, "fit") else ("test",)
        missing = [part for part in wanted if not hasattr(self, f"{part}_set")]
        reasons: dict[int, str] = {}
        for part in missing:
            images, readable, bad = self._read(self._parts[part])
            self._check_enough(part, len(readable), bad)
            setattr(self, f"{part}_set", IndexedImages(images, torch.tensor(readable)))
            reasons |= bad
        if reasons:
            looked_at = sum(len(self._parts[part]) for part in missing)
            _say(
                f"{len(reasons)} of {looked_at} image files in {self.root} cannot be read and are left out: "
                f"{self._named(reasons)}"
            )

    def _find(self) -> None:
        """Find the files, number and split them, once."""
        if self._parts:
            return
        where = f"got {self.root.absolute()}"
        if not self.root.is_dir():
            problem = "there is no such folder; put images there, or name the folder that holds yours"
            if self.root.exists():
                problem = "that is a file; name the folder that it is in"
            raise ValueError(f"--data.root must be a folder of images, {where}: {problem}")
        try:
            files = find(self.root)
        except OSError as error:
            raise ValueError(
                f"--data.root must be a folder of images that can be read, {where}: {error.strerror}: {error.filename}"
            ) from error
        by_folder = all((self.root / part).is_dir() for part in _MIN)
        if by_folder:
            files = [path for path in files if path.parts[0] in _MIN]
        if not files:
            raise ValueError(
                f"--data.root must be a folder of images, {where}: it holds no image file, such as .jpg or .png, at "
                "any depth; put images there, or name the folder that holds yours"
            )
        self._check_memory(len(files))
        self._files, self.names = files, names_of(files)
        if by_folder:
            self._parts = {part: [index for index, path in enumerate(files) if path.parts[0] == part] for part in _MIN}
        else:
            count = len(files)
            num_test = max(1, min(round(count * self.test_fraction), count - _MIN["train"]))
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.split_seed)).tolist()
            self._parts = {"train": sorted(order[num_test:]), "test": sorted(order[:num_test])}

    def _read(self, indices: list[int]) -> tuple[torch.Tensor, list[int], dict[int, str]]:
        """Read images (R, C, H, W) of the readable files, their indices, and reasons by index for the others."""
        paths = [self.root / self._files[index] for index in indices]
        decoded = decode_all(paths, height=self.height, width=self.width, mode=self.mode)
        reasons = {indices[position]: reason for position, reason in decoded.reasons.items()}
        return decoded.images, [indices[position] for position in decoded.positions], reasons

    def _check_enough(self, part: Part, readable: int, reasons: dict[int, str]) -> None:
        if readable < _MIN[part]:
            what = "training" if part == "train" else "test"
            broken = f", and {len(reasons)} cannot be read: {self._named(reasons)}" if reasons else ""
            raise ValueError(
                f"--data.root must hold at least {_MIN['train']} training images and {_MIN['test']} test image, "
                f"got {self.root.absolute()}: {len(self._parts[part])} of {len(self._files)} image files for {what}"
                f"{broken}; add images" + (" or mend these" if reasons else "")
            )

    def _check_memory(self, count: int) -> None:
        memory = _physical_memory()
        needed = count * CHANNELS[self.mode] * self.height * self.width
        if memory is None or needed <= memory // 2:
            return
        scale = math.sqrt(memory / 2 / needed)
        fitting = (int(scale * length) for length in (self.height, self.width))
        # multiples of 4, where there are any: networks may halve an image twice
        height, width = (max(1, length // 4 * 4 or length) for length in fitting)
        raise ValueError(
            f"image_size must let all {count} images fit into {memory / 2e9:.3g} GB, half of this machine's memory, "
            f"got {[self.height, self.width]}, which takes {needed / 1e9:.3g} GB; {[height, width]} fits, or at most "
            f"{memory // 2 * count // needed} images below {self.root.absolute()}"
        )

    def _named(self, reasons: dict[int, str]) -> str:
        """Name the first few files that cannot be read, and say how many more there are."""
        shown = ", ".join(f"{self.names[index]!r} ({reasons[index]})" for index in sorted(reasons)[:_NAMES_SHOWN])
        more = len(reasons) - _NAMES_SHOWN
        return f"{shown} and {more} more" if more > 0 else shown


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _physical_memory() -> int | None:
    """Return the bytes of memory, or None where the system does not say."""
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return size if size > 0 else None
