"""Certificates at validation time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from callbacks.certification_progress import tracked
from center_smoothing import SMOOTHERS, Budget, Distance, Smoother, TotalVariation
from center_smoothing.metrics import AbstentionRate, MedianCertifiedRadius, MedianSmoothingLoss
from center_smoothing.sampling import BatchSize
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from lightning_modules import point_of
from results.numbers import rounded_up
from results.plots.examples import is_image, side_by_side

_IMAGES = 4


class CenterSmoothing(Callback):
    """Certifies a fixed random set of validation images after each validation, with a small budget.

    Logs ``val/certified_radius`` (median eps_out at the first h), ``val/certified_radius/h=<h>`` for the others,
    ``val/smoothing_loss`` (median) and ``val/abstention_rate``; to Weights & Biases also a picture of inputs, base
    outputs and smoothed outputs. Draws from generators of its own, so that training is the same with and without it.

    Args:
        sigma: noise level, in units of the point that the module smooths at.
        h: eps_in / sigma, one certified radius each.
        distance: between outputs; default: total variation.
        smoother: which of ``center_smoothing.SMOOTHERS`` is certified; default: the paper's function.
        clip_norm: of means, by distances that are not bounded: outputs further from zero are scaled down to it.
        num_examples: how many validation images, shared among the processes.
        n: ranked or averaged outputs per image; of medians an even number becomes the next odd one.
        m: certification outputs per image; the check of a center uses all of them.
        k: pilot outputs per image, of centers alone; default: 32.
        group: so many evaluations are aggregated into one output (theory T13); default: 1, the paper's function.
        delta: margin of a center; default: the least at which it abstains on at most 1% of inputs.
        alpha_1: failure probability of the smoothed output.
        alpha_2: failure probability of the certificate.
        every_n_validations: certify after every n-th validation.
        seed: of the choice of images and of the noise.
        batch_size: noisy copies per call of the module, or "auto".

    Raises:
        ValueError: for arguments out of range, and for an h that the budget cannot certify, with the m that would; of
            medians in the sanity check, when an output is seen.
    """

    def __init__(
        self,
        sigma: float,
        h: Sequence[float] = (1.0, 1.5, 2.0),
        distance: Distance | None = None,
        smoother: str = DEFAULT_SMOOTHER,
        clip_norm: float | None = None,
        num_examples: int = 8,
        n: int = 400,
        m: int = 900,
        k: int | None = None,
        group: int = 1,
        delta: float | None = None,
        alpha_1: float = 0.005,
        alpha_2: float = 0.005,
        every_n_validations: int = 1,
        seed: int = 0,
        batch_size: BatchSize = 128,
    ) -> None:
        if not 0.0 < sigma < math.inf:
            raise ValueError(f"sigma must be a positive finite number, got {sigma!r}")
        counts = {"num_examples": num_examples, "every_n_validations": every_n_validations}
        if batch_size != "auto":
            counts["batch_size"] = batch_size
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        if len(h) == 0:
            raise ValueError("h must name at least one ratio eps_in / sigma, got none")
        if smoother not in SMOOTHERS:
            raise ValueError(f"smoother must be one of {', '.join(SMOOTHERS)}, got {smoother!r}")
        self.smoother = SMOOTHERS[smoother]
        self.distance = TotalVariation() if distance is None else distance
        bounded = self.smoother.needs_bound(self.distance)
        if bounded != (clip_norm is not None):
            wanted = "given, so that outputs are bounded," if bounded else "left out"
            of = f"smoother={smoother!r} and distance={self.distance!r}"
            raise ValueError(f"clip_norm must be {wanted} with {of}, got {clip_norm!r}")
        optional = {"k": k, "delta": delta, "group": None if group == 1 else group}
        given = {name: value for name, value in optional.items() if value is not None}
        for name in set(given) - {field.name for field in fields(self.smoother.budget_type)}:  # type: ignore[arg-type]
            raise ValueError(f"{name} must be left out with smoother={smoother!r}, got {given[name]!r}")
        self.budget = self.smoother.budget_type.for_validation(n=n, m=m, alpha_1=alpha_1, alpha_2=alpha_2, **given)
        self.sigma = sigma
        self.h = [float(ratio) for ratio in h]
        self._check_certifiable(self.budget)
        if self.smoother.needs:
            self.smoother.check_distance(self.distance)
        self.bounds: dict[str, float] = {} if clip_norm is None else {"clip_norm": clip_norm}
        self.num_examples = num_examples
        self.every_n_validations = every_n_validations
        self.seed = seed
        self.batch_size = batch_size
        self.radii = [MedianCertifiedRadius() for _ in self.h]
        self.losses, self.abstentions = MedianSmoothingLoss(), AbstentionRate()
        self.latest: dict[str, float] = {}
        self._validations = 0

    @property
    def keys(self) -> list[str]:
        """Names of the logged radii, in the order of ``h``."""
        return ["val/certified_radius", *(f"val/certified_radius/h={ratio:g}" for ratio in self.h[1:])]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Certify, and log."""
        if trainer.sanity_checking:
            if self.budget.depends_on_outputs:
                self._make_smoother(trainer, pl_module)
            return
        self._validations += 1
        self.latest = {}
        if self._validations % self.every_n_validations:
            return
        self.latest = self._certify(trainer, pl_module)
        for key, value in self.latest.items():
            pl_module.log(key, value, prog_bar=key == "val/certified_radius", rank_zero_only=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print one line per validation, the radius beside the loss."""
        if trainer.sanity_checking or not self.latest:
            return
        loss = trainer.callback_metrics.get("val/loss")
        named = zip(self.keys, self.h, strict=True)
        radii = " ".join(f"{rounded_up(self.latest[key], 1)} (h={ratio:g})" for key, ratio in named)
        trainer.print(
            f"epoch {trainer.current_epoch}: val/loss {'?' if loss is None else f'{float(loss):.5f}'}"
            f" | certified radius {radii} | smoothing loss {self.latest['val/smoothing_loss']:.1f}"
            f" | abstained {self.latest['val/abstention_rate']:.0%}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what was logged last: a checkpoint tells its own certified radius."""
        return {"latest": dict(self.latest)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.latest = dict(state_dict["latest"])

    def _check_certifiable(self, budget: Budget) -> None:
        for ratio in self.h:
            plan = budget.plan(ratio)
            if not plan.certifiable:
                raise ValueError(f"m must be at least {plan.least_m:.0f} to certify h={ratio}, got {budget.m}")

    def _make_smoother(self, trainer: Trainer, pl_module: LightningModule) -> Smoother:
        """Return the smoother of the module, once it is seen that it can certify such outputs as the module's."""
        make: Callable[..., Smoother] = self.smoother
        smoother = make(
            pl_module,
            self.distance,
            sigma=self.sigma,
            budget=self.budget,
            seed=self.seed,
            batch_size=self.batch_size,
            **self.bounds,
        )
        if self.budget.depends_on_outputs:
            for example in self._examples(trainer)[:1]:
                image = example["image"].to(pl_module.device, cast(torch.dtype, pl_module.dtype))
                smoother.look_at(point_of(pl_module, image))
            self._check_certifiable(smoother.budget)
        return smoother

    def _certify(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        smoother = self._make_smoother(trainer, pl_module)
        metrics = [*self.radii, self.losses, self.abstentions]
        for metric in metrics:
            metric.reset()
            if trainer.world_size > 1:  # states are gathered where the processes talk; not every device has float64
                metric.to(pl_module.device)
        pictures: dict[int, list[Tensor]] = {}
        for example in tracked(trainer, self._examples(trainer)):
            image, index = (
                example["image"].to(pl_module.device, cast(torch.dtype, pl_module.dtype)),
                int(example["index"]),
            )
            x = point_of(pl_module, image)
            certificate = smoother.certify(x, example=index)
            for metric, ratio in zip(self.radii, self.h, strict=True):
                radius = certificate.eps_out(ratio * self.sigma)
                metric.update(torch.tensor([radius], dtype=torch.float64), torch.tensor([index]))
            loss = torch.tensor([certificate.smoothing_loss], dtype=torch.float64)
            self.losses.update(loss, torch.tensor([index]))
            self.abstentions.update(torch.tensor([certificate.abstained]), torch.tensor([index]))
            if len(pictures) < _IMAGES:
                pictures[index] = [image, smoother.outputs.base_output(x), certificate.center]
        self._log_pictures(trainer, pictures)
        names = [*self.keys, "val/smoothing_loss", "val/abstention_rate"]
        return {name: _float32_up(float(metric.compute())) for name, metric in zip(names, metrics, strict=True)}

    def _examples(self, trainer: Trainer) -> list[dict[str, Tensor]]:
        """Return this process's share of the fixed random set."""
        loaders = trainer.val_dataloaders
        assert loaders is not None  # it is at their end that this is asked
        images = (loaders[0] if isinstance(loaders, list | tuple) else loaders).dataset
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        chosen = order[: self.num_examples].tolist()
        return [images[position] for position in chosen[trainer.global_rank :: trainer.world_size]]

    def _log_pictures(self, trainer: Trainer, pictures: dict[int, list[Tensor]]) -> None:
        shown = all(is_image(picture.shape) for of_one in pictures.values() for picture in of_one)
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or not trainer.is_global_zero or not pictures or not shown:
            return
        images = [
            side_by_side([picture.float().permute(1, 2, 0).cpu().numpy() for picture in of_one])
            for of_one in pictures.values()
        ]
        captions = [f"#{index}: input | base output | smoothed output" for index in pictures]
        for logger in loggers:
            logger.log_image("val/examples", images, step=trainer.global_step, caption=captions)


def _float32_up(value: float) -> float:
    """Return the least float32 not below ``value``: loggers keep float32, and a radius must not shrink there."""
    nearest = np.float32(value)
    return float(nearest if float(nearest) >= value else np.nextafter(nearest, np.float32(np.inf)))
