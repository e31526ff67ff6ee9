"""Checks of model, distance and settings on a few examples, before any of them is certified."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from center_smoothing import DISTANCES
from center_smoothing.attack import has_gradient
from center_smoothing.audit import RTOL, check_axioms, check_determinism, check_independence
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs
from certification.run import Run
from certification.speed import samples_per_second
from command_line.errors import value_errors
from lightning_modules import point_of

# Noisy copies that a model is tried on.
_CALIBRATION = 64
# Relative; far above what bfloat16 rounds off in a deep network, far below what a wrong fusion of layers does.
_ALIKE = 0.1

# Outputs on which a user's distance is tried, all triples of them.
_AXIOMS = 24


def _are_alike(outputs: Tensor, expected: Tensor) -> bool:
    """Return whether most of the outputs (N, *out) are the expected ones up to rounding, which may flip a few."""
    if outputs.shape != expected.shape:
        return False
    a, b = (torch.nan_to_num(z.double().flatten(1)) for z in (outputs, expected))
    errors, sizes = torch.linalg.vector_norm(a - b, dim=1), torch.linalg.vector_norm(b, dim=1)
    return bool((errors <= _ALIKE * sizes).double().mean() >= 0.5)


def check_run(run: Run) -> float:
    """See on a few examples that the model and the distance fit: they may differ in size.

    In the precision of the run, and with the compiled model if there is one.

    Returns:
        Noisy copies a second, of this process.

    Raises:
        ValueError: if the model or the distance cannot do with the examples, or if making the model faster made
            it another function.
    """
    job, precision, device = run.job, run.trainer.precision_plugin, run.trainer.strategy.root_device
    home = job.original.device
    for model in (job.original, job.model):
        precision.convert_module(model.to(device))
    seconds, finite = dict[tuple[int, ...], float](), False  # of a noisy copy, by the shape of the image
    positions = sorted({0, len(job.indices) // 2, len(job.indices) - 1})
    for position in positions:
        image = precision.convert_input(job.examples[position]["image"]).to(device)
        with precision.predict_step_context():
            try:
                x, drawn = _calibration_outputs(run, image, job.indices[position], compare=not seconds)
            except ValueError as error:  # of a model that was made for images of another shape: its data is to blame
                shape = job.model.hparams.get("image_shape")
                if shape is None or tuple(shape) == tuple(image.shape) or "--data" in str(error):
                    raise
                unfit = f"--data must hold examples that the model takes, got {tuple(image.shape)}"
                raise ValueError(f"{unfit}: {error}") from error
        with value_errors(f"--distance must take the model's outputs, got shape {tuple(drawn.shape[1:])}"):
            _check_distance(run, drawn, job.indices[position])
            finite |= bool(job.smoother.distance.are_outputs(drawn).any())
        if image.shape not in seconds:
            with precision.predict_step_context():
                rate = samples_per_second(job.smoother.outputs, x, job.smoother.distance, seconds=0.0)
            seconds[image.shape] = 1.0 / rate
    if job.original is not job.model:
        job.original.to(home)  # its memory is of more use to the run
    if not finite:
        raise ValueError(
            "--ckpt or --model must be a model with finite outputs: on 64 noisy copies of each of "
            f"{len(positions)} test images all were NaN"
        )
    return len(seconds) / sum(seconds.values())


def _check_distance(run: Run, drawn: Tensor, index: int) -> None:
    """See that the distance takes outputs, and that a user's own one is a distance on them."""
    distance = run.job.smoother.distance
    finite = drawn[distance.are_outputs(drawn).to(drawn.device)][:_AXIOMS]
    of_this_project = any(distance is known for known in DISTANCES.values())  # which are tested
    if of_this_project or len(finite) < 3:
        return
    if distance.averages:
        finite = torch.cat([finite, distance.averages_of(finite)])
    finding = check_axioms(distance, finite)
    if not finding.passed:
        raise ValueError(
            f"--distance must be symmetric, 0 from an output to itself and keep its triangle inequality, got "
            f"{finding.seen}, noisy outputs of test image {index}; {finding.advice}"
        )


def rounding_tolerance(run: Run) -> float:
    """Return a relative difference of outputs that rounding explains."""
    return RTOL if run.job.config["precision"].startswith(("32", "64")) else _ALIKE


def points_of(run: Run, count: int) -> list[Tensor]:
    """Return what is smoothed of the first examples, each (*in), on the device of the run.

    Raises:
        ValueError: if the model does not take them.
    """
    job, precision, device = run.job, run.trainer.precision_plugin, run.trainer.strategy.root_device
    precision.convert_module(job.model.to(device))
    points = []
    for position in range(min(count, len(job.examples))):
        image = precision.convert_input(job.examples[position]["image"]).to(device)
        with value_errors(f"--data must hold examples that the model takes, got {tuple(image.shape)}"):
            points.append(point_of(job.model, image))
    return points


def follows_gradients(run: Run) -> bool:
    """Return whether attacks can follow gradients of the model and the distance, seen at the first example."""
    (point,) = points_of(run, 1)
    with run.trainer.precision_plugin.predict_step_context():
        return has_gradient(run.job.smoother, point)


def _calibration_outputs(run: Run, image: Tensor, index: int, *, compare: bool) -> tuple[Tensor, Tensor]:
    """Return the point (*in) of an image and outputs (64, *out) of noisy copies, compared with the original model's."""
    job, outputs = run.job, run.job.smoother.outputs
    given: dict[str, Any] = {"example": index, "stage": Stage.CALIBRATION, "count": _CALIBRATION}
    unfit = f"--data must hold examples that the model takes, got {tuple(image.shape)}"
    names = ("fold_batch_norm", "channels_last", "compile")
    flags = " ".join(f"--{name.replace('_', '-')}={job.config[name]}".lower() for name in names)
    with value_errors(unfit):
        x = point_of(job.model, image)
        if compare:
            original = job.smoother.distance.encoded(job.original)
            same: dict[str, Any] = {"sigma": outputs.sigma, "seed": outputs.seed, "grid": outputs.grid}
            same |= {"noise": outputs.kind.name, "sigma_map": outputs.sigma_map}
            plain = NoisyOutputs(original, **same, after=outputs.after, batch_size=_CALIBRATION)
            expected = torch.cat(list(plain.draw_values(x, **given)))
    with value_errors(f"{flags} does not work with this model here" if compare else unfit):
        drawn = torch.cat(list(outputs.draw_values(x, **given)))
        if compare:
            for check, wanted in (
                (check_determinism, "give the same outputs for the same inputs"),
                (check_independence, "give outputs that do not depend on the rest of the batch"),
            ):
                found = check(outputs, x, example=index, rtol=rounding_tolerance(run))
                if not found.passed:
                    raise ValueError(
                        f"--ckpt or --model must {wanted}, got one that does not: {found.seen}, around test image "
                        f"{index}; {found.advice}"
                    )
    if compare and not _are_alike(drawn, expected):
        raise ValueError(
            f"{flags} must not be used with this model: its outputs on {_CALIBRATION} noisy copies "
            f"of test image {index} become others"
        )
    return x, drawn
