"""Jobs: a certification at one noise level each, with everything that it needs checked before sampling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from center_smoothing import SMOOTHERS, Decided, Smoother, TightEnough
from center_smoothing.attack import AttackBudget
from center_smoothing.budget import Coverage
from center_smoothing.noise import grid_change
from center_smoothing.smoother_base import StoppingRule
from certification.arguments import noise_levels
from certification.clip_norm import clip_norm_of_training, recorded_clip_norm
from certification.denoising import check_denoiser
from certification.request import Arguments, Request, conversion_at
from certification.subject import Subject, accelerated, draw_examples
from certification.trainer import is_first_process, print_once
from command_line import named, process
from command_line.errors import value_errors
from lightning_modules import BaseModel, point_of
from results.folder import CertificationFolder, check_same
from results.identity import distance_config
from results.untrusted_files import check_inside, check_links


@dataclass(frozen=True)
class Job:
    """Everything that a certification at one noise level needs, checked before any sample is drawn.

    Attributes:
        model: the base model, as it is evaluated.
        original: the base model as it was given; the same function up to rounding.
        examples: of the test split, in the order in which they were drawn.
        indices: theirs in the data set, in the same order.
        smoother: of the model; which one, the configuration says.
        folder: where the results go.
        eps_in: distinct input radii, in units of x.
        coverage: of the certificates.
        config: what the results depend on, in plain values.
        checkpoint_sha256: of the checkpoint's file; None for a pretrained model.
        names: of the examples by index, where their data set has names.
        stop: when to stop sampling an example, at one of the looks of the smoother's budget.
        attack: what attacks on each certificate may try; default: there are none.
        conversion: h is conversion * eps_in / sigma (theory T15), at most: examples may differ in size.
    """

    model: BaseModel
    original: BaseModel
    examples: Subset[dict[str, torch.Tensor]]
    indices: list[int]
    smoother: Smoother
    folder: CertificationFolder
    eps_in: list[float]
    coverage: Coverage
    config: dict[str, Any]
    checkpoint_sha256: str | None
    names: Mapping[int, str]
    stop: StoppingRule | None = None
    attack: AttackBudget | None = None
    conversion: float = 1.0

    @cached_property
    def grid_change(self) -> tuple[float, float] | None:
        """How far rounding to the grid moves a point, any coordinate and in l2 norm, at most; None without a grid."""
        grid = self.smoother.outputs.grid
        if grid is None:
            return None
        with _model_takes_examples():
            images = (self.examples[position]["image"] for position in range(len(self.examples)))
            points = (point_of(self.original, image) for image in images)
            changes = [grid_change(point, grid) for point in points]
        return max(largest for largest, _ in changes), max(norm for _, norm in changes)

    def look_at_outputs(self) -> None:
        """Evaluate the model once where its budget depends on what outputs are like, for the plan to say what holds.

        Raises:
            ValueError: if the model does not take the first example, or the budget cannot certify an eps_in.
        """
        if not self.smoother.budget.depends_on_outputs:
            return
        with _model_takes_examples():
            self.smoother.look_at(point_of(self.original, self.examples[0]["image"]))
        for radius in self.eps_in:
            measures: dict[str, float] = {"sigma": self.smoother.sigma, "conversion": self.conversion}
            named.check_certifiable(self.smoother.budget, eps_in=radius, **measures)

    @property
    def evaluations(self) -> int:
        """Evaluations of the base function per example at most, about so many of them for attacks."""
        return self.smoother.budget.evaluations + len(self.eps_in) * self.evaluations_of_attack

    @property
    def evaluations_of_attack(self) -> int:
        """Evaluations of the base function for an attack at one eps_in, about so many; 0 without attacks."""
        if self.attack is None:
            return 0
        at_x = self.attack.evaluations_at_x if self.smoother.follows_mean else 0
        return self.attack.evaluations + at_x + 2 * self.smoother.budget.evaluations_to_smooth


def prepare_jobs(options: Arguments, subject: Subject, locks: ExitStack) -> tuple[CertificationFolder, list[Job]]:
    """Check everything that can be checked without sampling: the folder, and a job for each noise level.

    The folder stays locked until ``locks`` is closed.
    """
    distance = named.distance_by_name(options.distance)
    examples, indices, digest = draw_examples(subject.data, options.num_examples, options.seed)
    check_denoiser(subject.model, examples)
    conversion = _conversion(options, subject.model, examples)
    request = Request(options, noise_levels(options, subject.sigma, conversion), conversion)
    levels = request.levels
    make, smoothing = _smoothing(request)
    config = {
        "smoother": options.smoother,
        **subject.config,
        **({"model_settings": dict(subject.model.hparams)} if options.model is not None else {}),
        "data": {"class": type(subject.data).__name__, **dict(subject.data.hparams)},
        "num_examples": len(examples),
        "examples_sha256": digest,
        "seed": options.seed,
        **({} if options.grid is None else {"noise": "discrete", "grid": options.grid}),
        **_noise_config(options, conversion),
        **({} if options.attack is None else {"attack": {"method": "pgd", **asdict(options.attack)}}),
        **distance_config(distance),
        "relaxation": distance.relaxation,
        "coverage": options.coverage,
        "precision": options.computing.precision,
        # the same function up to rounding, which may decide where a certificate is close
        "fold_batch_norm": options.fold_batch_norm,
        "channels_last": options.channels_last,
        "compile": options.compile,
    }
    config = {**config, **smoothing}
    path = Path(options.out) if options.out is not None else _default_folder(options, subject, config, levels)
    check_links(path, "--out")
    process.make_writable(path, "--out")
    if is_first_process():
        locks.enter_context(CertificationFolder(path).locked())
        CertificationFolder(path).remove_partial_files()
    model, base_function = accelerated(subject.model, options)
    if options.clip_norm == "auto":
        norm = recorded_clip_norm(CertificationFolder(path))
        if norm is None:
            norm = clip_norm_of_training(options, subject.data, model, base_function, distance, sigma=max(levels))
        print_once(f"clip norm: {norm:g}, from training images")
        make, smoothing = _smoothing(replace(request, options=replace(options, clip_norm=norm)))
        config = {**config, **smoothing}
    names = getattr(subject.data, "names", None)
    settings = {name: value for name, value in options.noise_settings.items() if name != "noise"}  # the budget has it
    shared = {"seed": options.seed, "batch_size": options.batch_size, **settings}
    smoothers = [make(base_function, distance, sigma=sigma, **shared) for sigma in levels]
    jobs = [
        Job(
            model=model,
            original=subject.model,
            examples=examples,
            indices=indices,
            smoother=smoother,
            folder=CertificationFolder(path / f"sigma={sigma!r}" if len(levels) > 1 else path),
            eps_in=list(radii),
            coverage=options.coverage,
            config={**config, **smoother.config, "sigma": sigma, "eps_in": list(radii)},
            checkpoint_sha256=subject.sha256,
            names={} if names is None else {index: names[index] for index in indices},
            stop=_stopping_rule(options, list(radii)),
            attack=options.attack,
            conversion=conversion,
        )
        for smoother, (sigma, radii) in zip(smoothers, levels.items(), strict=True)
    ]
    for job in jobs:
        check_inside(job.folder.path, path)
        job.look_at_outputs()
    if len(jobs) > 1:
        check_same(CertificationFolder(path), merged_config(jobs), subject.sha256)
    return CertificationFolder(path), jobs


def merged_config(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the configuration of one job, or of several: what they share, and lists of what sets them apart."""
    config, levels = jobs[0].config, radii_by_sigma(jobs)
    if len(levels) == 1:
        return config
    radii = {radius for radii in levels.values() for radius in radii}
    return {**config, "sigma": list(levels), "eps_in": sorted(radii)}


def radii_by_sigma(jobs: Sequence[Job]) -> dict[float, list[float]]:
    """Return the eps_in that are answered at each sigma."""
    return {job.smoother.sigma: job.eps_in for job in jobs}


def _conversion(options: Arguments, model: BaseModel, examples: Subset[dict[str, torch.Tensor]]) -> float:
    """Return how many times larger changes may be in the norm of the noise than in that of the threat, at most.

    Raises:
        ValueError: if the map does not fit an example, or h is not the same for all examples where it is asked.
    """
    if options.threat is None and options.sigma_map is None:
        return 1.0
    with _model_takes_examples():
        points = (point_of(model, examples[position]["image"]) for position in range(len(examples)))
        conversions = sorted({conversion_at(options, point) for point in points})
    if len(conversions) > 1 and (options.h is not None or options.eps_in is None):
        raise ValueError(
            f"--eps-in must be given in place of --h with --threat {options.norm} for inputs that differ in "
            f"size: h would be from {conversions[0]:.4g} to {conversions[-1]:.4g} times eps_in / sigma"
        )
    return conversions[-1]


def _noise_config(options: Arguments, conversion: float) -> dict[str, Any]:
    """Return what a configuration says of the threat and the map; nothing where there is nothing to say."""
    return {
        **({} if options.norm == "l2" and options.sigma_map is None else {"threat": options.norm}),
        **({} if conversion == 1.0 else {"conversion": conversion}),
        **({} if options.sigma_map is None else {"sigma_map": options.sigma_map.config}),
    }


def _smoothing(request: Request) -> tuple[Callable[..., Smoother], dict[str, Any]]:
    """Return what makes the smoother of the arguments, if it can certify all that is asked; and its configuration.

    It is made from base model and distance, with sigma, seed and batch_size.
    """
    options = request.options
    budget = request.budget(None if options.m is None else options.m[0])
    for sigma, radii in request.levels.items():
        for radius in radii:
            named.check_certifiable(budget, sigma=sigma, eps_in=radius, conversion=request.conversion)
    bounds = _not_none(clip_norm=options.clip_norm, output_bound=options.output_bound)
    given = {name.removeprefix("output_"): value for name, value in bounds.items()}
    make: Callable[..., Smoother] = SMOOTHERS[options.smoother]
    rules = _not_none(rtol=options.rtol, eps_out_at_most=options.eps_out_at_most)
    return partial(make, budget=budget, **given), {"budget": budget.as_dict(), **bounds, **rules}


@contextmanager
def _model_takes_examples() -> Iterator[None]:
    """Name --data in the error of a model that does not take an example, and leave no gradients."""
    with torch.no_grad(), value_errors("--data must hold examples that the model takes"):
        yield


def _not_none(**given: Any) -> dict[str, Any]:  # noqa: ANN401  # as the arguments
    return {name: value for name, value in given.items() if value is not None}


def _stopping_rule(options: Arguments, eps_in: list[float]) -> StoppingRule | None:
    if options.rtol is not None:
        return TightEnough(eps_in, options.rtol, options.coverage)
    at_most = options.eps_out_at_most
    return None if at_most is None else Decided(eps_in, at_most, options.coverage)


def _default_folder(
    options: Arguments, subject: Subject, config: Mapping[str, Any], levels: Mapping[float, Sequence[float]]
) -> Path:
    """Return where results go by default: the same command finds the same folder again, also one begun long ago."""
    config = dict(config)
    kind, code = config.pop("smoother"), config.pop("distance_identity").get("sha256")
    configs = {kind: config if code is None else {**config, "distance_sha256": code}}
    identity = json.dumps([configs, sorted(levels.items()), subject.sha256, options.batch_size], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    bounds = {flag: config[flag] for flag in ("clip_norm", "output_bound") if flag in config}
    shown = [f"{flag}={value if isinstance(value, str) else f'{value:g}'}" for flag, value in bounds.items()]
    name = "-".join([options.distance, config["budget"].get("method", kind), *shown, digest])
    return process.from_here(subject.folder / "certification" / name)
