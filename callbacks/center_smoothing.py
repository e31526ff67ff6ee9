"""Certificates of the project's own modules at validation time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from callbacks.certification_progress import tracked
from center_smoothing import CertificateBase, Distance, Smoother, TotalVariation
from center_smoothing import lightning as for_any_module
from lightning_modules import point_of
from results.certified_fraction import COLUMNS, FractionCurve
from results.plots.examples import is_image, side_by_side

_IMAGES = 4
_FRACTION = "share of the examples that are certified to move by at most eps_out"


class CenterSmoothing(for_any_module.CenterSmoothing):
    """Certifies a fixed random set of validation images after each validation, with a small budget.

    The callback of :mod:`center_smoothing.lightning` for the modules of this project: it smooths at the point of an
    image, numbers examples by their index in the whole data set, and logs to Weights & Biases also the
    certified radii at the first input radius, as a histogram and as the curve of the certified fraction, and pictures
    of inputs, base outputs and smoothed outputs.

    Args:
        sigma: noise level, in units of the point that the module smooths at.
        distance: between outputs; default: total variation.
        kwargs: other arguments of :class:`center_smoothing.lightning.CenterSmoothing`.
    """

    def __init__(self, sigma: float, distance: Distance | None = None, **kwargs: Any) -> None:  # noqa: ANN401  # as its base
        distance = TotalVariation() if distance is None else distance
        super().__init__(sigma, distance=distance, get_input=None, function=None, **kwargs)

    def point(self, trainer: Trainer, pl_module: LightningModule, position: int, batch: Any) -> tuple[int, Tensor]:  # noqa: ANN401  # as its base
        """Return the index of an image in the data set, and its point (*in)."""
        return int(batch["index"]), point_of(pl_module, batch["image"][0].to(pl_module.dtype))

    def _examples(self, trainer: Trainer, pl_module: LightningModule) -> Iterator[tuple[int, Tensor, Any]]:
        """Yield the examples of this process, as fast as they are certified, and show how far they are."""
        share = -(-self.num_examples // trainer.world_size)
        return tracked(trainer, super()._examples(trainer, pl_module), total=share)

    def show(
        self,
        trainer: Trainer,
        smoother: Smoother,
        found: Mapping[int, tuple[Any, Tensor, CertificateBase]],
        radii: Sequence[float],
    ) -> None:
        """Log radii and pictures of a few examples, in the row of W&B's history that has the medians."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or not trainer.is_global_zero or not found:
            return
        import wandb  # slow

        curve = FractionCurve.of(radii, sigma=self.sigma, eps_in=self.eps_in[0])
        table = wandb.Table([*COLUMNS], [[curve.sigma, curve.eps_in, *corner] for corner in curve.corners])
        shown: dict[str, Any] = {"val/certified_fraction": wandb.plot.line(table, *COLUMNS[2:], title=_FRACTION)}
        finite = [radius for radius in radii if math.isfinite(radius)]
        if finite:
            shown["val/certified_radii"] = wandb.Histogram(finite)
        pictures = {
            index: [batch["image"][0], smoother.outputs.base_output(x), certificate.center]
            for index, (batch, x, certificate) in list(found.items())[:_IMAGES]
        }
        if all(is_image(picture.shape) for of_one in pictures.values() for picture in of_one):
            shown["val/examples"] = [
                wandb.Image(
                    side_by_side([picture.float().permute(1, 2, 0).cpu().numpy() for picture in of_one]),
                    caption=f"#{index}: input | base output | smoothed output",
                )
                for index, of_one in pictures.items()
            ]
        for logger in loggers:
            logger.experiment.log(shown, commit=False)
