"""Checks of what every certificate takes for granted: one function, independent samples, a distance that is one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

import torch
from torch import Tensor, nn

from center_smoothing.distances.axioms import check_distance
from center_smoothing.distances.base import Distance
from center_smoothing.noise import BLOCK, Stage, block_seed
from center_smoothing.sampling import NoisyOutputs, evaluating

# Noisy copies that a model is tried on: a detector takes a tenth of a second for each.
_COPIES = 16
# Of these, so many are also evaluated by themselves.
_ALONE = 4
# Outputs of which all triples are looked at, and of which averages are made.
_POINTS = 24
# Outputs of each further point that are looked at for NaN and inf.
_MORE_POINTS = 8
# Of outputs: far above what float32 rounds off in a deep network.
RTOL = 1e-3
# A share of outputs that rounding may flip, where a detector decides between two boxes; one of few may always be one.
_FLIPPED = 0.1
# Numbers of each noisy copy that are compared: more than enough to tell any two apart.
_COMPARED = 64
# Equal noise that is more probable than this by chance says nothing.
_BY_CHANCE = 1e-9
# Negative values that are no pixels with a little noise in them.
_NEGATIVE = -0.05


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        passed: whether all is well.
        seen: what was measured.
        advice: what to do about a failure; empty where it passed.
        fatal: whether no certificate of it would mean anything.
    """

    check: str
    passed: bool
    seen: str
    advice: str = ""
    fatal: bool = False

    @classmethod
    def of(cls, check: str, passed: bool, seen: str, advice: str) -> Self:
        """Return a finding that is fatal, with its advice, where it did not pass."""
        return cls(check, passed, seen, "" if passed else advice, fatal=not passed)


def audit(
    outputs: NoisyOutputs, distance: Distance, points: Sequence[Tensor], *, rtol: float = RTOL, examples: Sequence[int]
) -> list[Finding]:
    """Run all checks of a model, its noise and its distance.

    Args:
        outputs: of the model, with sigma and seed.
        distance: between outputs.
        points: inputs (*in) that will be certified, at least one.
        rtol: relative difference of outputs, in l2 norm, that rounding explains.
        examples: the numbers of the points.
    """
    x, example = points[0], examples[0]
    return [
        check_mode(outputs.model),
        check_determinism(outputs, x, example=example, rtol=rtol),
        check_independence(outputs, x, example=example, rtol=rtol),
        check_units(points, outputs.sigma),
        check_noise(outputs, points, examples),
        *check_outputs(outputs, distance, points, examples),
    ]


def check_mode(model: object) -> Finding:
    """Check that eval mode keeps each output from looking at its batch."""
    owner = getattr(model, "__self__", model)
    modules = dict(owner.named_modules()) if isinstance(owner, nn.Module) else {}
    with evaluating(model):
        training = [name or type(module).__name__ for name, module in modules.items() if module.training]
    without = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.running_mean is None or not module.track_running_stats)
    ]
    bad = [*training, *without]
    seen = f"{len(modules)} modules, all in eval mode while they are called"
    if bad:
        seen = f"batch statistics or training mode in {', '.join(bad[:3])}"
    elif not modules:
        seen = "a function without modules that could be looked at"
    advice = "give batch norm running statistics (track_running_stats=True), and let eval() work"
    return Finding.of("eval mode", not bad, seen, advice)


def check_determinism(outputs: NoisyOutputs, x: Tensor, *, example: int, rtol: float = RTOL) -> Finding:
    """Check that the same batch gives the same outputs twice."""
    copies = _copies(outputs, x, example)
    differences = _differences(_called(outputs, copies), _called(outputs, copies))
    return Finding.of(
        "determinism",
        _explained(differences, rtol),
        f"{_COPIES} noisy copies twice: {_by(differences)}",
        "take dropout and random numbers out of forward: a certificate is about one function",
    )


def check_independence(outputs: NoisyOutputs, x: Tensor, *, example: int, rtol: float = RTOL) -> Finding:
    """Check that outputs stay the same among other companions in the batch, in another order, and alone."""
    copies, half = _copies(outputs, x, example), _COPIES // 2
    first, second = copies[:half], copies[half:]
    expected = _called(outputs, copies)
    among_others = torch.cat(
        [
            _called(outputs, torch.cat([3.0 * second, first.flip(0)]))[half:].flip(0),
            _called(outputs, torch.cat([second.flip(0), 3.0 * first]))[:half].flip(0),
        ]
    )
    found = _differences(expected, among_others)
    passed, seen = _explained(found, rtol), f"{_COPIES} noisy copies among others: {_by(found)}"
    if passed:  # batch norm in training mode may refuse a single input
        alone = torch.cat([_called(outputs, copies[i : i + 1]) for i in range(_ALONE)])
        found = _differences(expected[:_ALONE], alone)
        passed, seen = _explained(found, rtol), f"{seen}, {_ALONE} alone: {_by(found)}"
    advice = "take statistics over the batch out of the model: samples must not depend on each other"
    return Finding.of("batch independence", passed, seen, advice)


def check_units(points: Sequence[Tensor], sigma: float) -> Finding:
    """Check that inputs and sigma seem to have the same units, as pixels in [0, 1] and a sigma below 1 have."""
    low, high = (min(float(x.min()) for x in points), max(float(x.max()) for x in points))
    whole = all(bool((x == x.round()).all()) for x in points)
    pixels = low >= 0.0 and 32.0 < high <= 255.0 and (whole or sigma < 2.0)
    coarse = sigma > 4.0 * max(high - low, 1e-12)
    images = all(x.ndim == 3 and x.shape[0] in (1, 3, 4) for x in points)
    negative = "; some are negative: were pixels normalised, sigma and eps_in are in units of these values"
    seen = f"values from {low:.4g} to {high:.4g}, sigma {sigma:g}{negative if images and low < _NEGATIVE else ''}"
    advice = f"choose a sigma that belongs to inputs within {high - low:.3g} of each other" if coarse else ""
    if pixels:
        advice = "divide pixels by 255: sigma and eps_in are in units of the input"
    return Finding("units", not advice, seen, advice)


def check_noise(outputs: NoisyOutputs, points: Sequence[Tensor], examples: Sequence[int]) -> Finding:
    """Check that no noisy copy has the noise of another one: of its block, of any stage, or of another example.

    Where noise on a coarse grid has so few values that copies are equal by chance, whole blocks are compared, or
    seeds alone.
    """
    seeds = [block_seed(outputs.seed, example, stage, block) for example in examples for stage in Stage
             for block in range(1 << 9)]  # fmt: skip
    blocks = [
        block.flatten(1)[:, :_COMPARED].cpu().to(torch.float64, copy=True)
        for x, example in zip(points, examples, strict=True)
        for stage in Stage
        for block in islice(outputs._blocks(x.detach(), example, stage), 4)
    ]
    found, what = [row.numpy().tobytes() for block in blocks for row in block], "copies"
    probable = _most_probable(outputs, points[0].dtype)
    if not _all_differ(probable, len(found), min(block.shape[1] for block in blocks)):
        found, what = [block.numpy().tobytes() for block in blocks], f"blocks of {BLOCK} copies"
        if not _all_differ(probable, len(found), min(block.numel() for block in blocks)):
            found, what = [], "copies, as few values are possible,"
    twice = len(seeds) - len(set(seeds)) + len(found) - len(set(found))
    seen = f"noise of {len(found):,} {what} and {len(seeds):,} seeds of blocks, {twice or 'none'} twice"
    return Finding.of("duplicate noise", twice == 0, seen, "give every example a number of its own")


def check_outputs(
    outputs: NoisyOutputs, distance: Distance, points: Sequence[Tensor], examples: Sequence[int]
) -> Iterator[Finding]:
    """Check that outputs are finite, and that the distance is one on those of the first point that has enough."""
    finite, total, chosen = 0, 0, None
    for number, (x, example) in enumerate(zip(points, examples, strict=True)):
        count = _POINTS if number == 0 else _MORE_POINTS
        drawn = torch.cat(list(outputs.draw_values(x, example=example, stage=Stage.CALIBRATION, count=count)))
        kept = drawn[distance.are_outputs(drawn).to(drawn.device)]
        finite, total = finite + len(kept), total + count
        if chosen is None and len(kept) >= 3:
            chosen = kept
    advice = "NaN and inf count as outside every ball; find out where they come from if there are many"
    seen, passed = f"{finite} of {total} outputs are finite", finite == total
    yield Finding("finite outputs", passed, seen, "" if passed else advice, fatal=finite == 0)
    if chosen is not None:
        if distance.averages and chosen.is_floating_point():
            chosen = torch.cat([chosen, distance.averages_of(chosen)])
        yield check_axioms(distance, chosen)


def check_axioms(distance: Distance, points: Tensor) -> Finding:
    """Check a distance on finite outputs (N, *out), N at least 3: :func:`check_distance`."""
    found = check_distance(distance, points)
    return Finding("distance", found.passed, found.seen, found.advice, fatal=not found.passed)


def _copies(outputs: NoisyOutputs, x: Tensor, example: int) -> Tensor:
    """Draw noisy copies (16, *in)."""
    return outputs.noisy_copies(x, example=example, stage=Stage.CALIBRATION, count=_COPIES)


def _called(outputs: NoisyOutputs, copies: Tensor) -> Tensor:
    with evaluating(outputs.model):
        return outputs._call_in_parts(copies.clone)


def _differences(a: Tensor, b: Tensor) -> Tensor:
    """Return relative differences (N,) of outputs (N, *out), in l2 norm; inf where only one of two has NaN or inf."""
    a, b = (z.cpu().double().flatten(1) for z in (a, b))
    unlike = ((a != b) & ~(a.isnan() & b.isnan()) & ~(a.isfinite() & b.isfinite())).any(dim=1)
    a, b = (torch.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0) for z in (a, b))
    sizes = torch.maximum(torch.linalg.vector_norm(a, dim=1), torch.linalg.vector_norm(b, dim=1))
    relative: Tensor = torch.linalg.vector_norm(a - b, dim=1) / sizes.clamp_min(1e-30)
    return relative.masked_fill(unlike, torch.inf)


def _explained(differences: Tensor, rtol: float) -> bool:
    """Return whether rounding explains relative differences (N,), among them those of decisions that it flipped."""
    return int((differences > rtol).sum()) <= max(1.0, _FLIPPED * len(differences))


def _by(differences: Tensor) -> str:
    largest = float(differences.max())
    if largest == 0.0:
        return "the same to the last bit"
    return "NaN or inf in one of the two" if math.isinf(largest) else f"they differ by up to {100.0 * largest:.2g}%"


def _most_probable(outputs: NoisyOutputs, dtype: torch.dtype) -> float:
    """Return a bound on the probability of each single value of the noise."""
    if outputs.grid is None:
        return 4.0 * torch.finfo(dtype).eps
    return math.erf(0.5 / (math.sqrt(2.0) * outputs.sigma * outputs.grid))


def _all_differ(probable: float, count: int, numbers: int) -> bool:
    """Return whether so many draws of so many numbers all differ, but for a negligible chance."""
    return 0.5 * count**2 * probable**numbers < _BY_CHANCE
