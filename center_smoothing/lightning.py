"""A callback that certifies any LightningModule at validation time. Needs the package ``lightning``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from center_smoothing.budget import Budget
from center_smoothing.certificate_base import CertificateBase
from center_smoothing.distances import DistanceLike, as_distance
from center_smoothing.metrics import AbstentionRate, MedianCertifiedRadius, MedianSmoothingLoss
from center_smoothing.sampling import BaseFunction, BatchSize, evaluating
from center_smoothing.scalars import rounded_up
from center_smoothing.smoother_base import Smoother
from center_smoothing.smoothers import DEFAULT_SMOOTHER, SMOOTHERS

# The keys of a batch that is a dict which say that their value is the input.
INPUT_KEYS = ("x", "input", "inputs", "image", "images", "pixel_values")
# eps_in / sigma of the radii, where nothing is said.
DEFAULT_H = (1.0, 1.5, 2.0)


class CenterSmoothing(Callback):
    """Certifies a fixed random set of validation examples after each validation, with a small budget.

    Logs ``val/certified_radius`` (median eps_out at the first input radius), ``val/certified_radius/h=<h>`` or
    ``val/certified_radius/eps_in=<eps_in>`` for the others, ``val/smoothing_loss`` (median) and
    ``val/abstention_rate``. The module needs no base class and no attribute of its own: what is smoothed is its
    ``forward``, in eval mode. Examples are those of the first validation loader, in the batches that it makes, after
    the module's own transfer hooks. Noise comes from generators of the callback, so that training is the same with and
    without it.

    Args:
        sigma: noise level, in units of the inputs.
        h: input radii as multiples of sigma, one certified radius each; default: 1, 1.5 and 2.
        eps_in: input radii in units of the inputs, in place of ``h``: the same ones whatever sigma is.
        distance: between outputs: a :class:`Distance`, the name of one such as "tv" (see ``DISTANCES``), or a function
            of two batches of outputs.
        get_input: a function of a batch, as ``validation_step`` gets it, to the inputs (N, *in) that ``function``
            takes; default: :func:`guess_input`.
        function: what is smoothed, (N, *in) -> (N, *out), if not the module: a part of it, or a method of such.
        smoother: which of ``center_smoothing.SMOOTHERS`` is certified; default: the paper's function.
        clip_norm: of means, by distances that are not bounded: outputs further from zero are scaled down to it.
        num_examples: how many validation examples, shared among the processes.
        n: ranked or averaged outputs per example; of medians an even number becomes the next odd one.
        m: certification outputs per example; the check of a center uses all of them.
        k: pilot outputs per example, of centers alone; default: 32.
        group: so many evaluations are aggregated into one output (theory T13); default: 1, the paper's function.
        delta: margin of a center; default: the least at which it abstains on at most 1% of inputs.
        alpha_1: failure probability of the smoothed output.
        alpha_2: failure probability of the certificate.
        every_n_validations: certify after every n-th validation.
        seed: of the choice of examples and of the noise.
        batch_size: noisy copies per call of the module, or "auto".

    Raises:
        ValueError: for arguments out of range, and for an input radius that the budget cannot certify, with the m that
            would. Before the first epoch: without a validation loader to choose examples from, and for a batch, a
            module or outputs that the callback cannot use.

    Example:
        >>> smoothing = CenterSmoothing(sigma=0.25, distance="l2")
        >>> smoothing.keys
        ['val/certified_radius', 'val/certified_radius/h=1.5', 'val/certified_radius/h=2']
    """

    def __init__(
        self,
        sigma: float,
        h: Sequence[float] | None = None,
        eps_in: Sequence[float] | None = None,
        distance: DistanceLike = "l2",
        get_input: Callable[[Any], Tensor] | None = None,
        function: BaseFunction | None = None,
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
        if h is not None and eps_in is not None:
            raise ValueError(f"h must be left out with eps_in={list(eps_in)}, got {list(h)}")
        unit, radii = ("h", DEFAULT_H if h is None else h) if eps_in is None else ("eps_in", eps_in)
        if len(radii) == 0 or not all(0.0 <= radius < math.inf for radius in radii):
            raise ValueError(f"{unit} must name at least one finite number of at least 0, got {list(radii)}")
        if smoother not in SMOOTHERS:
            raise ValueError(f"smoother must be one of {', '.join(SMOOTHERS)}, got {smoother!r}")
        for name, given_function in {"get_input": get_input, "function": function}.items():
            if given_function is not None and not callable(given_function):
                raise ValueError(f"{name} must be a function of a batch, got {given_function!r}")
        self.smoother = SMOOTHERS[smoother]
        self.distance = as_distance(distance)
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
        self.names = [f"{unit}={radius:g}" for radius in radii]
        self.eps_in = [float(radius) * (sigma if eps_in is None else 1.0) for radius in radii]
        self._check_certifiable(self.budget)
        if self.smoother.needs:
            self.smoother.check_distance(self.distance)
        self.bounds: dict[str, float] = {} if clip_norm is None else {"clip_norm": clip_norm}
        self.get_input = guess_input if get_input is None else get_input
        self.function = function
        self.num_examples = num_examples
        self.every_n_validations = every_n_validations
        self.seed = seed
        self.batch_size = batch_size
        self.radii = [MedianCertifiedRadius() for _ in self.eps_in]
        self.losses, self.abstentions = MedianSmoothingLoss(), AbstentionRate()
        self.latest: dict[str, float] = {}
        self._validations = 0

    @property
    def keys(self) -> list[str]:
        """Names of the logged radii, in the order of ``h`` or ``eps_in``."""
        return ["val/certified_radius", *(f"val/certified_radius/{name}" for name in self.names[1:])]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a training without validation."""
        if stage == "fit" and trainer.limit_val_batches != 0 and not trainer.enable_validation:
            raise ValueError(
                "CenterSmoothing needs a validation loader and a validation_step of the module, got a training without "
                "validation"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Try all that a certification needs on one example, before the first epoch."""
        if not trainer.enable_validation:
            return
        trainer.validating = True  # as Lightning does where it loads the validation data before the first epoch
        try:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()  # of which nothing is left to do as a rule
            self._make_smoother(trainer, pl_module)
        finally:
            trainer.training = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Certify, and log."""
        if trainer.sanity_checking:
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
        named = zip(self.keys, self.names, strict=True)
        radii = " ".join(f"{rounded_up(self.latest[key], 1)} ({name})" for key, name in named)
        trainer.print(
            f"epoch {trainer.current_epoch}: {'' if loss is None else f'val/loss {float(loss):.5f} | '}"
            f"certified radius {radii} | smoothing loss {self.latest['val/smoothing_loss']:.1f}"
            f" | abstained {self.latest['val/abstention_rate']:.0%}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what was logged last: a checkpoint tells its own certified radius."""
        return {"latest": dict(self.latest)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.latest = dict(state_dict["latest"])

    def point(self, trainer: Trainer, pl_module: LightningModule, position: int, batch: Any) -> tuple[int, Tensor]:  # noqa: ANN401  # whatever the loader makes
        """Return the number of an example, which determines its noise, and what is smoothed of it, (*in).

        ``position`` is its place in the data set, ``batch`` what the validation loader makes of it alone. ValueError is
        raised for a batch that ``get_input`` cannot read.
        """
        batch = trainer.strategy.batch_to_device(batch)
        try:
            inputs = self.get_input(batch)
        except Exception as error:  # a user's function may raise anything
            if self.get_input is guess_input:
                raise
            raise ValueError(
                f"get_input must take a batch of the validation loader, got {type(error).__name__}: {error} for a "
                f"{type(batch).__name__}"
            ) from error
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim == 0 or len(inputs) != 1:
            got = f"{inputs.dtype} of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs)
            raise ValueError(
                f"get_input must return floating-point inputs (N, *in), of one example (1, *in), got {got}; give "
                "CenterSmoothing(get_input=...)"
            )
        return position, inputs[0]

    def show(
        self,
        trainer: Trainer,
        smoother: Smoother,
        found: Mapping[int, tuple[Any, Tensor, CertificateBase]],
        radii: Sequence[float],
    ) -> None:
        """Show what was certified. Here nothing is done.

        Args:
            trainer: whose validation it is.
            smoother: of the module.
            found: this process's examples, by number the batch, the point (*in) and the certificate.
            radii: (N,) eps_out at the first input radius, of the examples of all processes.
        """

    def _check_certifiable(self, budget: Budget) -> None:
        for eps_in in self.eps_in:
            h = eps_in / self.sigma  # as certificates have it
            plan = budget.plan(h)
            if not plan.certifiable:
                least = f"{plan.least_m:.0f} to certify eps_in={eps_in:g} (h={h:g})"
                raise ValueError(f"m must be at least {least}, got {budget.m}")

    def _make_smoother(self, trainer: Trainer, pl_module: LightningModule) -> Smoother:
        """Return the smoother of the module, once it is seen that it can certify such outputs as the module's."""
        make: Callable[..., Smoother] = self.smoother
        smoother = make(
            pl_module if self.function is None else self.function,
            self.distance,
            sigma=self.sigma,
            budget=self.budget,
            seed=self.seed,
            batch_size=self.batch_size,
            **self.bounds,
        )
        with evaluating(pl_module):
            # the same one in all processes, so that all of them end where one does
            _, x, _ = self._example(trainer, pl_module, _positions(_loader(trainer), 1, self.seed)[0])
            try:
                output = smoother.outputs.base_output(x)
            except Exception as error:  # a user's module may raise anything
                raise ValueError(
                    f"function must take a batch of inputs of shape {tuple(x.shape)}, got {type(error).__name__}: "
                    f"{error}; give CenterSmoothing(get_input=..., function=...) if another input is meant, or another "
                    "part of the module"
                ) from error
            try:
                self.distance(output[None], output[None])
            except Exception as error:  # and so may a user's distance
                raise ValueError(
                    f"distance must take outputs of shape {tuple(output.shape)}, got {self.distance!r}: {error}"
                ) from error
        smoother.budget = smoother.budget.for_output(output)
        self._check_certifiable(smoother.budget)
        return smoother

    def _certify(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        smoother = self._make_smoother(trainer, pl_module)
        metrics = [*self.radii, self.losses, self.abstentions]
        for metric in metrics:
            metric.reset()
            if trainer.world_size > 1:  # states are gathered where the processes talk; not every device has float64
                metric.to(pl_module.device)
        found: dict[int, tuple[Any, Tensor, CertificateBase]] = {}
        with evaluating(pl_module):
            for number, x, batch in self._examples(trainer, pl_module):
                certificate = smoother.certify(x, example=number)
                found[number] = batch, x, certificate
                for metric, eps_in in zip(self.radii, self.eps_in, strict=True):
                    radius = certificate.eps_out(eps_in)
                    metric.update(torch.tensor([radius], dtype=torch.float64), torch.tensor([number]))
                loss = torch.tensor([certificate.smoothing_loss], dtype=torch.float64)
                self.losses.update(loss, torch.tensor([number]))
                self.abstentions.update(torch.tensor([certificate.abstained]), torch.tensor([number]))
            self.show(trainer, smoother, found, self.radii[0].gathered())
        names = [*self.keys, "val/smoothing_loss", "val/abstention_rate"]
        return {name: _float32_up(float(metric.compute())) for name, metric in zip(names, metrics, strict=True)}

    def _examples(self, trainer: Trainer, pl_module: LightningModule) -> Iterator[tuple[int, Tensor, Any]]:
        """Yield number, point and batch of this process's share of the fixed random set."""
        chosen = _positions(_loader(trainer), self.num_examples, self.seed)
        for position in chosen[trainer.global_rank :: trainer.world_size]:
            yield self._example(trainer, pl_module, position)

    def _example(self, trainer: Trainer, pl_module: LightningModule, position: int) -> tuple[int, Tensor, Any]:
        """Return number, point and batch of an example."""
        loader = _loader(trainer)
        batch = loader.collate_fn([loader.dataset[position]])
        number, x = self.point(trainer, pl_module, position, batch)
        return number, x.to(pl_module.device, cast(torch.dtype, pl_module.dtype)), batch


def guess_input(batch: object) -> Tensor:
    """Return the inputs (N, *in) of a batch: a tensor itself, of (x, y) the first, of a dict that of ``INPUT_KEYS``.

    Raises:
        ValueError: for any other batch.

    Example:
        >>> x, y = torch.zeros(2, 3), torch.tensor([0, 1])
        >>> guess_input((x, y)) is guess_input({"image": x, "label": y}) is guess_input(x) is x
        True
    """
    found = batch
    if isinstance(batch, Mapping):
        named = [key for key in INPUT_KEYS if key in batch]
        found = batch[named[0]] if len(named) == 1 else None
    elif isinstance(batch, Sequence) and len(batch) > 0:
        found = batch[0]
    if isinstance(found, Tensor):
        return found
    seen = f"a dict of {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise ValueError(
        "batch must be a tensor, a tuple or list that begins with one, or a dict with exactly one of "
        f"{', '.join(INPUT_KEYS)}, got {seen}; give CenterSmoothing(get_input=...), a function of a batch to its inputs"
    )


def _loader(trainer: Trainer) -> DataLoader[Any]:
    """Return the first validation loader; ValueError is raised if examples cannot be chosen from it."""
    found: Any = trainer.val_dataloaders
    while isinstance(found, Mapping | list | tuple) and len(found) > 0:
        found = next(iter(found.values())) if isinstance(found, Mapping) else found[0]
    data: Any = getattr(found, "dataset", None)
    batches = isinstance(found, DataLoader) and found.batch_sampler is not None
    if not batches or isinstance(data, IterableDataset) or len(data) == 0:
        of = "" if data is None else f" of {type(data).__name__}"
        raise ValueError(
            "the first validation loader must be a DataLoader that makes batches of a data set with a length and "
            f"numbered examples, got {type(found).__name__}{of}"
        )
    return cast(DataLoader[Any], found)


def _positions(loader: DataLoader[Any], count: int, seed: int) -> list[int]:
    """Return so many places in the data set, a fixed random choice: among those of its sampler if it has some alone."""
    sampler = getattr(getattr(loader.sampler, "dataset", None), "_sampler", loader.sampler)  # Lightning may wrap it
    places = getattr(sampler, "indices", range(len(loader.dataset)))  # type: ignore[arg-type]  # seen to have a length
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    return [int(places[position]) for position in order[:count].tolist()]


def _float32_up(value: float) -> float:
    """Return the least float32 not below ``value``: loggers keep float32, and a radius must not shrink there."""
    nearest = np.float32(value)
    return float(nearest if float(nearest) >= value else np.nextafter(nearest, np.float32(np.inf)))
