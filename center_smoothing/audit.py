"""Checks of what every certificate takes for granted: one function, independent samples, a distance that is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from center_smoothing.distances.base import Distance
from center_smoothing.sampling import BLOCK, NoisyOutputs, Stage, block_seed, evaluating

# Noisy copies that a model is tried on: a detector takes a tenth of a second for each.
_COPIES = 16
# Outputs of which all triples are looked at, and of which averages are made.
_POINTS = 24
# Of a distance: what rounding does to sums of 2^20 terms, and less than any error of a formula.
_ROUNDING = 1e-9
# Of outputs: far above what float32 rounds off in a deep network.
RTOL = 1e-3
# A share of outputs that rounding may flip, where a detector decides between two boxes.
_FLIPPED = 0.1


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


def audit(
    outputs: NoisyOutputs, distance: Distance, points: Sequence[Tensor], *, rtol: float = RTOL, examples: Sequence[int]
) -> list[Finding]:
    """All checks of a model, its noise and its distance.

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
        *check_outputs(outputs, distance, x, example=example),
    ]


def check_mode(model: object) -> Finding:
    """Whether eval mode keeps each output from looking at its batch."""
    owner = getattr(model, "__self__", model)
    modules = dict(owner.named_modules()) if isinstance(owner, nn.Module) else {}
    norms = (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    with evaluating(model):
        training = [name or type(module).__name__ for name, module in modules.items() if module.training]
    without = [
        name
        for name, module in modules.items()
        if isinstance(module, norms[0]) and (module.running_mean is None or not module.track_running_stats)
    ]
    bad = [*training, *without]
    return Finding(
        "eval mode",
        not bad,
        f"{len(modules)} modules, all in eval mode while they are called"
        if not bad
        else f"batch statistics or training mode in {', '.join(bad[:3])}",
        "" if not bad else "give batch norm running statistics (track_running_stats=True), and let eval() work",
        fatal=bool(bad),
    )


def check_determinism(outputs: NoisyOutputs, x: Tensor, *, example: int, rtol: float = RTOL) -> Finding:
    """Whether the same batch gives the same outputs twice."""
    copies = _copies(outputs, x, example)
    first, second = _called(outputs, copies), _called(outputs, copies)
    share, largest = _differing(first, second, rtol)
    passed = share <= _FLIPPED
    same = torch.equal(_bits(first), _bits(second))
    return Finding(
        "determinism",
        passed,
        f"{_COPIES} noisy copies twice: {'the same to the last bit' if same else _by(largest)}",
        "" if passed else "take dropout and random numbers out of forward: a certificate is about one function",
        fatal=not passed,
    )


def check_independence(outputs: NoisyOutputs, x: Tensor, *, example: int, rtol: float = RTOL) -> Finding:
    """Whether outputs stay the same among other companions in the batch, and in another order."""
    copies, half = _copies(outputs, x, example), _COPIES // 2
    first = _called(outputs, copies)
    others = torch.cat([3.0 * copies[half:], copies[:half].flip(0)])
    among_others = torch.cat([_called(outputs, others)[half:].flip(0), first[half:]])
    share, largest = _differing(first[:half], among_others[:half], rtol)
    passed = share <= _FLIPPED
    same = torch.equal(_bits(first[:half]), _bits(among_others[:half]))
    return Finding(
        "batch independence",
        passed,
        f"{half} noisy copies among others: {'the same to the last bit' if same else _by(largest)}",
        "" if passed else "take statistics over the batch out of the model: samples must not depend on each other",
        fatal=not passed,
    )


def check_units(points: Sequence[Tensor], sigma: float) -> Finding:
    """Whether inputs and sigma seem to have the same units, as pixels in [0, 1] and a sigma below 1 have."""
    low, high = (min(float(x.min()) for x in points), max(float(x.max()) for x in points))
    whole = all(bool((x == x.round()).all()) for x in points)
    pixels = low >= 0.0 and 32.0 < high <= 255.0 and (whole or sigma < 2.0)
    coarse = sigma > 4.0 * max(high - low, 1e-12)
    return Finding(
        "units",
        not (pixels or coarse),
        f"values from {low:.4g} to {high:.4g}, sigma {sigma:g}",
        "divide pixels by 255: sigma and eps_in are in units of the input"
        if pixels
        else f"choose a sigma that belongs to inputs within {high - low:.3g} of each other"
        if coarse
        else "",
    )


def check_noise(outputs: NoisyOutputs, points: Sequence[Tensor], examples: Sequence[int]) -> Finding:
    """Whether the blocks of noise of all stages differ, and those of different examples."""
    seeds = [block_seed(outputs.seed, example, stage, block) for example in examples for stage in Stage
             for block in range(1 << 9)]  # fmt: skip
    found: list[bytes] = []
    for x, example in zip(points, examples, strict=True):
        for stage in (Stage.PILOT, Stage.RANKING, Stage.CERTIFICATION, Stage.CHECK):
            for noise in islice(outputs._blocks(x.detach(), example, stage), 4):
                found.append(noise.flatten()[:256].double().cpu().numpy().tobytes())
    twice = len(seeds) - len(set(seeds)) + len(found) - len(set(found))
    return Finding(
        "duplicate noise",
        twice == 0,
        f"{len(found)} blocks of {BLOCK} copies and {len(seeds):,} seeds, {twice or 'none'} twice",
        "" if twice == 0 else "give every example a number of its own",
        fatal=twice > 0,
    )


def check_outputs(outputs: NoisyOutputs, distance: Distance, x: Tensor, *, example: int) -> Iterator[Finding]:
    """Whether outputs are finite, and whether the distance is one on them."""
    drawn = torch.cat(list(outputs.draw(x, example=example, stage=Stage.CALIBRATION, count=_POINTS)))
    finite = torch.isfinite(drawn).flatten(1).all(dim=1)
    count = int(finite.sum())
    yield Finding(
        "finite outputs",
        count == _POINTS,
        f"{count} of {_POINTS} outputs are finite",
        ""
        if count == _POINTS
        else "NaN and inf count as outside every ball; find out where they come from if there are many",
    )
    points = drawn[finite]
    if len(points) >= 2 and distance.averages and points.is_floating_point():
        points = torch.cat([points, distance.averages_of(points)])
    if len(points) >= 3:
        yield check_axioms(distance, points)


def check_axioms(distance: Distance, points: Tensor) -> Finding:
    """Whether a distance is symmetric, 0 from each point to itself, and keeps its triangle inequality.

    Args:
        distance: with its relaxation gamma.
        points: finite outputs (N, *out), N at least 3; all triples are looked at.
    """
    found = distance.pairwise(points, points)
    paired = distance(points, points.flip(0))
    scale = float(found.nan_to_num(posinf=0.0).max()) or 1.0
    wrong = []
    if not bool(torch.isfinite(found).all()):
        wrong.append("not finite between finite outputs")
    if bool((found < 0.0).any()):
        wrong.append(f"negative, {float(found.min()):.3g}")
    if float(found.diagonal().abs().max()) > 0.0:
        wrong.append(f"{float(found.diagonal().max()):.3g} from an output to itself")
    if float((found - found.T).abs().max()) > _ROUNDING * scale:
        wrong.append("not symmetric")
    if float((paired - found.flip(1).diagonal()).abs().max()) > _ROUNDING * scale:
        wrong.append("another one pair by pair than all with all")
    gamma, triple = needed_relaxation(found)
    if gamma > distance.relaxation * (1.0 + _ROUNDING):
        wrong.append(
            f"d(a, c) = {gamma:.4g} (d(a, b) + d(b, c)) for outputs {triple}, with relaxation {distance.relaxation:g}"
        )
    return Finding(
        "distance",
        not wrong,
        f"{distance!r} on {len(points)} outputs: "
        + ("; ".join(wrong) if wrong else f"all axioms hold, the relaxation that all triples need is {gamma:.3g}"),
        "" if not wrong else f"mend the distance, or declare a relaxation of at least {max(gamma, 1.0):.3g}",
        fatal=bool(wrong),
    )


def needed_relaxation(distances: Tensor) -> tuple[float, tuple[int, int, int]]:
    """The least gamma with d(a, c) <= gamma (d(a, b) + d(b, c)) for all triples, and one that needs it.

    Args:
        distances: (N, N), all with all.
    """
    sums = distances[:, :, None] + distances[None, :, :]  # (a, b, c)
    ratios = torch.where(sums > 0.0, distances[:, None, :] / sums, torch.where(distances[:, None, :] > 0, torch.inf, 0))
    position = int(ratios.nan_to_num(nan=0.0).argmax())
    a, b, c = (int(index) for index in torch.unravel_index(torch.tensor(position), ratios.shape))
    return float(ratios[a, b, c]), (a, b, c)


def _copies(outputs: NoisyOutputs, x: Tensor, example: int) -> Tensor:
    """Noisy copies (16, *in)."""
    return outputs.noisy_copies(x, example=example, stage=Stage.CALIBRATION, count=_COPIES)


def _called(outputs: NoisyOutputs, copies: Tensor) -> Tensor:
    with evaluating(outputs.model):
        return outputs._call(copies.clone()).clone()


def _differing(a: Tensor, b: Tensor, rtol: float) -> tuple[float, float]:
    """The share of outputs (N, *out) that differ by more than rounding, and the largest relative difference."""
    a, b = (torch.nan_to_num(z.double().flatten(1)) for z in (a, b))
    sizes = torch.maximum(torch.linalg.vector_norm(a, dim=1), torch.linalg.vector_norm(b, dim=1))
    differences = torch.linalg.vector_norm(a - b, dim=1) / sizes.clamp_min(1e-30)
    return float((differences > rtol).double().mean()), float(differences.max())


def _bits(z: Tensor) -> Tensor:
    return torch.nan_to_num(z.double(), nan=12345.678)


def _by(largest: float) -> str:
    return f"they differ by up to {100.0 * largest:.2g}%"
