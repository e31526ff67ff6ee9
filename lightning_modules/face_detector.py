"""A pretrained face detector as a base function: images to boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.base import BaseModel
from lightning_modules.fast_mtcnn import FastMTCNN


class FaceDetector(BaseModel):
    """MTCNN with the weights that facenet-pytorch carries; the output is the box of the most probable face, or of more.

    Noise, sigma and eps_in are in units of the images, which are in [0, 1]: that the detector works on 0..255 stays
    inside. Each box depends on its own image alone.

    Args:
        clip: whether pixels that noise moved beyond [0, 1] are clipped first, which makes it another base function.
        faces: up to how many faces an image may have: the most probable ones that are left by suppression. Boxes of
            several are compared as sets, by the distance ``box-sets``.
        average: whether a box is the mean of the candidates that overlap with the most probable one by more than one
            half, weighted by probability. Which one is the most probable is often chance.

    Shapes: float (N, 3, H, W) in [0, 1], plus noise -> float32 (N, 4), of several faces (N, faces, 4): x1, y1, x2, y2
    in pixels, which may lie somewhat beyond the image. Where there is no face, or no other, or the image is smaller
    than the smallest face (20 pixels), the box is (0, 0, 0, 0), the empty one.

    Raises:
        ValueError: if the images are not float (N, 3, H, W), or for faces below 1.
    """

    def __init__(self, clip: bool = False, faces: int = 1, average: bool = False) -> None:
        super().__init__()
        if faces < 1:
            raise ValueError(f"faces must be a whole number of at least 1 such as 3, got {faces!r}")
        # options that are not used are not recorded: folders of before they came are still those of the same command
        self.save_hyperparameters("clip", *["faces"] * (faces != 1), *["average"] * average)
        self.clip, self.faces, self.average = clip, faces, average
        self.mtcnn = FastMTCNN()

    def example_shape(self) -> tuple[int, ...]:
        """Return the shape of CelebA's photos; it takes any."""
        return 3, 218, 178

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute the base function f."""
        if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be float (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        if self.clip:
            images = images.clamp(0.0, 1.0)
        boxes = self.mtcnn(images.float() * 255.0, self.faces, average=self.average).boxes
        return boxes[:, 0] if self.faces == 1 else boxes
