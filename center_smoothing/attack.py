"""Attacks on a smoothed function within its certified ball: a lower bound on how far it can be moved, never a proof."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from center_smoothing.certificate_base import CertificateBase, Output
from center_smoothing.distances.base import Distance, to_float64
from center_smoothing.noise import Stage, block_seed, check_point, from_grid, to_grid
from center_smoothing.sampling import NoisyOutputs, evaluating, free_caches, is_out_of_memory
from center_smoothing.scalars import make_plain, plain
from center_smoothing.smoother_base import Smoother
from center_smoothing.threats import Threat

# The steps of a start have this total length, in units of eps_in: enough to cross the ball and to correct the way.
_PATH = 2.5
# So often a start is compared with the best point so far, on twice the noisy copies of a step.
_COMPARISONS = 10
# Noisy copies whose graph is in memory at once. Fixed: another number would round differently, and steps add up.
_AT_ONCE = 32
# Evaluations that a gradient costs: forward, and back through weights that are given and activations.
_GRADIENT = 3
# The norm that directions are scaled to there.
_UNIT = Threat("l2")
# How much of its direction a search without gradients keeps: single estimates in many dimensions are mostly noise.
_MOMENTUM = 0.9


@dataclass(frozen=True)
class AttackBudget:
    """How much an attack may try.

    Attributes:
        steps: of each start.
        starts: near x, and random points of the ball.
        samples: noisy copies of each step.

    Raises:
        ValueError: for a number that is not whole, or below 1.
    """

    steps: int = 50
    starts: int = 3
    samples: int = 32

    def __post_init__(self) -> None:
        """Check the numbers."""
        make_plain(self)
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")

    @property
    def evaluations(self) -> int:
        """Evaluations of the base function that both searches at one eps_in take, a gradient counted as three."""
        comparisons = -(-self.steps // self._every)
        return self.starts * (self.steps * _GRADIENT * (self.samples + 1) + comparisons * (2 * self.samples + 1))

    @property
    def evaluations_at_x(self) -> int:
        """Evaluations at x itself that the search takes besides for smoothers that follow the mean of outputs."""
        return self.starts * (self.steps + 2 * -(-self.steps // self._every)) * self.samples

    @property
    def _every(self) -> int:
        """Steps between comparisons."""
        return max(1, self.steps // _COMPARISONS)


@dataclass(frozen=True, eq=False)
class Attack:
    """What an attack around one input reached.

    Of two runs at one x the smoothed outputs are apart as well. ``eps`` is what a certificate promises something about;
    ``shift`` tells what the attack has done.

    Attributes:
        perturbed: x', (*in), with ||x' - x|| <= eps_in in the norm of the smoother's threat.
        output: the smoothed function at x'.
        eps: d between the smoothed outputs at x and x'; 0 where one of them abstained, of which nothing is promised.
        shift: the same with the output at x under the noise of that at x', so that it is the change of the input that
            shows and not the draw of the noise.
        base_perturbed: (*in), within the same ball: what the attack on the base function alone found, without noise.
        base_eps: d between the outputs of the base function at x and there.
        gradient_free: whether a search had to do without gradients of the model or the distance.
    """

    perturbed: Tensor = field(repr=False)
    output: Output = field(repr=False)
    eps: float
    shift: float
    base_perturbed: Tensor = field(repr=False)
    base_eps: float
    gradient_free: bool


def attack(
    smoother: Smoother,
    x: Tensor,
    certificate: CertificateBase,
    *,
    eps_in: float,
    budget: AttackBudget | None = None,
    example: int = 0,
) -> Attack:
    """Move the smoothed output as far as a search within the ball can, and the base output by the same search.

    Projected gradient ascent on E d(f(x' + noise), center) in the ball of the smoother's threat: fresh noise at each
    step, steps of one length in its norm. Where the smoothed output follows the mean of outputs, and there is a
    gradient, it is ascent on how far that mean moves under common noise, d(E f(x' + noise), E f(x + noise)). The best
    point by an estimate on common noise is smoothed with the smoother's own budget. That run has noise of its own: its
    number of an example is a hash of ``example`` and ``eps_in``, and the search draws from other ones. So the promise
    covers this x', though it was chosen knowing the certificate (docs/theory.md, "Noise and the adversary"): with
    probability at least 1 - alpha ``eps`` is at most ``certificate.eps_out(eps_in)``, unless a bound is wrong.

    Args:
        smoother: that gave the certificate.
        x: (*in), what was certified.
        certificate: at x.
        eps_in: input radius, at least 0, in units of x.
        budget: default ``AttackBudget()``.
        example: as for the certificate; with the smoother's seed and eps_in it determines the attack.

    Raises:
        ValueError: for an x or eps_in that is not finite, or a negative eps_in.

    Example:
        >>> from center_smoothing import CenterSmoother, Lp, SmoothingBudget
        >>> smoother = CenterSmoother(lambda x: 2 * x, Lp(2), sigma=0.5, budget=SmoothingBudget(n=200, m=400))
        >>> x = torch.zeros(3)
        >>> certificate = smoother.certify(x)
        >>> found = attack(smoother, x, certificate, eps_in=0.5, budget=AttackBudget(steps=10))
        >>> 0.9 < found.base_eps <= 1.0 and found.eps <= certificate.eps_out(0.5)
        True
    """
    check_point(x)
    eps_in, example = plain(eps_in), plain(example)
    if not 0.0 <= eps_in < math.inf:
        raise ValueError(f"eps_in must be a finite number of at least 0, got {eps_in!r}")
    budget = AttackBudget() if budget is None else budget
    x, outputs, distance = x.detach(), smoother.outputs, smoother.distance
    given = (x, eps_in, budget, example)
    center = certificate.output.center
    single = _Objective(outputs, distance, center, noisy=True)
    of_smoothed = _Search(_MeanObjective(outputs, distance, center, x) if smoother.follows_mean else single, *given)
    perturbed = x if certificate.abstained else of_smoothed.best()  # else there is no center to move
    base = outputs.base_output(x)
    of_base = _Search(_Objective(outputs, distance, base, noisy=False), *given)
    found = [
        (distance(outputs.base_output(point)[None], base[None]).item(), point) for point in (of_base.best(), perturbed)
    ]
    base_eps, base_perturbed = max(found, key=lambda pair: pair[0])
    key = _key("smooth", example, eps_in)
    output, alike = smoother.smooth(perturbed, example=key), smoother.smooth_alike(x, perturbed, example=key)
    eps, shift = (
        0.0 if here.abstained or output.abstained else distance(here.center[None], output.center[None]).item()
        for here in (certificate.output, alike)
    )
    gradient_free = of_base.gradient_free or of_smoothed.gradient_free
    return Attack(perturbed, output, eps, shift, base_perturbed, base_eps, gradient_free)


def has_gradient(smoother: Smoother, x: Tensor) -> bool:
    """Return whether an attack on the smoothed function around x (*in) can follow gradients.

    Without one of the model and the distance :func:`attack` searches along differences of pairs of noisy copies.
    """
    check_point(x)
    base = smoother.outputs.base_output(x)
    objective = _Objective(smoother.outputs, smoother.distance, base, noisy=True)
    slope = objective.gradient(x.detach(), _key("gradient", 0), 2)
    return slope is not None and bool(slope.any())


def project(
    x: Tensor, point: Tensor, eps_in: float, *, grid: int | None = None, threat: Threat | None = None
) -> Tensor:
    """Move a point (*in) towards a finite x (*in) until ||point - x|| <= eps_in, as it is rounded to x's type.

    The result (*in) is inside the ball of radius eps_in >= 0, in the threat's norm or l2, in exact arithmetic, and in
    float64 in whatever order one adds. With a grid it is on it, and its distance that from x rounded to it, exactly.

    Example:
        >>> project(torch.zeros(2), torch.tensor([3.0, 4.0]), 1.0).norm() <= 1.0
        tensor(True)
    """
    origin, threat = _rounded(x.detach(), x, grid), threat or _UNIT
    start = to_float64(origin).cpu()
    change = threat.nearest(to_float64(point.detach()).cpu() - start, eps_in)
    scale = min(1.0, eps_in / max(threat.length(change), 1e-300))
    for bits in range(52, -1, -1):  # from one unit in the last place less to nothing at all
        candidate = _rounded(start + scale * change, x, grid)
        if _is_inside(origin, candidate, eps_in, grid, threat):
            return candidate
        scale *= 1.0 - 2.0**-bits
    return origin


def _rounded(point: Tensor, x: Tensor, grid: int | None) -> Tensor:
    """Return a point as the model sees it: of x's type and on its device, and on the grid if there is one."""
    if grid is None or not bool(torch.isfinite(point).all()):
        return point.to(x.dtype).to(x.device)
    return from_grid(to_grid(point, grid), grid, x.dtype).to(x.device)


def _is_inside(x: Tensor, point: Tensor, eps_in: float, grid: int | None, threat: Threat) -> bool:
    if not bool(torch.isfinite(point).all()):
        return False
    if grid is not None:
        return threat.is_within(to_grid(point, grid) - to_grid(x, grid), Fraction(eps_in) * grid)
    norm = threat.length(to_float64(point).cpu() - to_float64(x).cpu())
    # covers what differences, quotients, squares, their sum in any order and the root are rounded by
    return norm * (1.0 + (x.numel() + 8) * 2.0**-52) <= eps_in


class _Objective:
    """The mean distance of outputs around a point from a target (*out).

    They are those of ``noisy`` copies; else there is one, of the point itself.
    """

    def __init__(self, outputs: NoisyOutputs, distance: Distance, target: Tensor, *, noisy: bool) -> None:
        self.outputs, self.distance, self.noisy = outputs, distance, noisy
        self._target = distance.embed(target.detach()[None])
        self._at_once = _AT_ONCE

    def value(self, point: Tensor, key: int, count: int) -> float:
        """Return the mean of the finite distances."""
        distances = self._distances(self._copies(point, key, count))
        return float(distances[torch.isfinite(distances)].mean().nan_to_num(nan=-1.0))

    def gradient(self, point: Tensor, key: int, count: int) -> Tensor | None:
        """Return a multiple of the gradient (*in) at the copies; None where the model or the distance has none."""
        copies = self._copies(point, key, count)
        total, done = torch.zeros_like(point), 0
        while done < len(copies):
            part = copies[done : done + self._at_once].detach().clone().requires_grad_()
            try:
                slopes = self._slopes(part, key, slice(done, done + len(part)))
            except RuntimeError as error:
                # what is no lack of memory is that of a backward pass, or else the search without gradients raises it
                if len(part) == 1 or not is_out_of_memory(error):
                    return None
                self._at_once = len(part) // 2
            else:
                if slopes is None:
                    return None
                total, done = total + slopes, done + len(part)
                if self.outputs.progress is not None:
                    self.outputs.progress(_GRADIENT * len(part))
                continue
            free_caches(point.device)  # only here, where nothing holds on to the tensors of the failed call
        return total

    def estimate(self, point: Tensor, key: int, count: int) -> Tensor:
        """Estimate a multiple of the gradient (*in) of the mean under noise, from differences of ``count`` pairs.

        For Gaussian noise the gradient of E g(x + noise) is E g(x + noise) noise / sigma^2, whatever g is; the copies
        on the other side of x keep the mean and lower the variance. Smaller probes of a step function show nothing.
        """
        copies, middle = self._noisy(point, key, count), _rounded(point, point, self.outputs.grid)
        differences = self._distances(copies) - self._distances(2.0 * middle - copies)
        differences = torch.nan_to_num(differences, nan=0.0, posinf=0.0, neginf=0.0).to(copies)
        return torch.einsum("n,n...->...", differences, copies - middle) / count

    def _copies(self, point: Tensor, key: int, count: int) -> Tensor:
        return self._noisy(point, key, count) if self.noisy else point[None]

    def _noisy(self, point: Tensor, key: int, count: int) -> Tensor:
        return self.outputs.noisy_copies(point, example=key, stage=Stage.ATTACK, count=count)

    def _slopes(self, part: Tensor, key: int, place: slice) -> Tensor | None:
        """Sum (*in) of the gradients at copies (N, *in), at that place of their draw, of those where it is finite."""
        with evaluating(self.outputs.model), torch.enable_grad():
            total = self._total(self.outputs._call(part.clone()), key, place)  # the model may write on its input
            if not total.requires_grad:
                return None
            slopes: Tensor = torch.autograd.grad(total, part, allow_unused=True, materialize_grads=True)[0]
        return slopes[torch.isfinite(slopes).flatten(1).all(dim=1)].sum(dim=0)

    def _total(self, outputs: Tensor, key: int, place: slice) -> Tensor:
        """Add up the finite distances of outputs (N, *out)."""
        distances = self.distance.compare(self.distance.embed(outputs), self._target)[:, 0]
        return distances[torch.isfinite(distances)].sum()

    def _distances(self, copies: Tensor) -> Tensor:
        outputs = map(self.distance.embed, self._outputs(copies))
        return torch.cat([self.distance.compare(part, self._target)[:, 0] for part in outputs])

    def _outputs(self, copies: Tensor) -> Iterator[Tensor]:
        """Yield outputs (N, *out) at copies, in parts."""
        for part in torch.split(copies, _AT_ONCE):
            yield self.outputs.evaluated(part.clone)


class _MeanObjective(_Objective):
    """The distance by which the mean of outputs under noise moves from x (*in), under the same noise at both points.

    Noise that is not common to both moves the mean of a few outputs further than most attacks do. Many copies are
    taken in parts for a gradient, and each part has a mean of its own. The search without gradients goes away from the
    center (*out), by single outputs.
    """

    def __init__(self, outputs: NoisyOutputs, distance: Distance, center: Tensor, x: Tensor) -> None:
        super().__init__(outputs, distance, center, noisy=True)
        self._x = x

    def value(self, point: Tensor, key: int, count: int) -> float:
        """Return the distance of the means of finite outputs; -1 where there are none."""
        there, here = (torch.cat(list(self._outputs(self._copies(z, key, count)))) for z in (point, self._x))
        return float(self._between(there, here).nan_to_num(nan=-1.0, posinf=-1.0))

    def _total(self, outputs: Tensor, key: int, place: slice) -> Tensor:
        with torch.no_grad():
            copies = self._copies(self._x, key, place.stop)[place]
            here = torch.cat(list(self._outputs(copies)))
        return self._between(outputs, here) * len(outputs)

    def _between(self, there: Tensor, here: Tensor) -> Tensor:
        """Return the distance () of the means of outputs (N, *out), those of which both are finite; NaN without any."""
        there, here = to_float64(there), to_float64(here)
        finite = (torch.isfinite(there) & torch.isfinite(here)).flatten(1).all(dim=1)
        moved, start = (z[finite].mean(dim=0, keepdim=True) for z in (there, here))
        return self.distance.compare(self.distance.embed(moved), self.distance.embed(start))[0, 0]


class _Search:
    """Ascent of an objective within the ball of radius eps_in around x (*in), from several starts.

    Attributes:
        gradient_free: whether it had to do without a gradient somewhere.
    """

    def __init__(self, objective: _Objective, x: Tensor, eps_in: float, budget: AttackBudget, example: int) -> None:
        self.objective, self.x, self.eps_in, self.budget = objective, x, eps_in, budget
        self.gradient_free, self._may_have_gradient = False, True
        self._threat, self._length = objective.outputs.threat, _PATH * eps_in / budget.steps
        self._what = ("smoothed" if objective.noisy else "base", objective.outputs.seed, example, eps_in)

    def best(self) -> Tensor:
        """Return the best point (*in) of all starts, inside the ball to the last bit."""
        if self.eps_in == 0.0:
            return self._projected(self.x)
        best, most = self.x, -math.inf
        for start in range(self.budget.starts):
            point, direction = self._start(start), torch.zeros_like(self.x)
            for step in range(1, self.budget.steps + 1):
                direction = self._direction(point, direction, (start, step))
                point = self._clamped(point + self._threat.step(direction, self._length))
                if step % self.budget._every == 0 or step == self.budget.steps:
                    reached = self._projected(point)
                    value = self.objective.value(reached, self._key("common"), 2 * self.budget.samples)
                    if value > most:
                        best, most = reached, value
        return self._projected(best)

    def _projected(self, point: Tensor) -> Tensor:
        return project(self.x, point, self.eps_in, grid=self.objective.outputs.grid, threat=self._threat)

    def _key(self, *step: object) -> int:
        return _key(*self._what, *step)

    def _start(self, start: int) -> Tensor:
        """Close to x first, where the distance of the base function has no gradient; then anywhere in the ball."""
        direction, radius = _normal(self.x.shape, self._key(start), self.x), min(self._length, self.eps_in)
        if start > 0:
            uniform = float(torch.rand((), generator=_generator(self._key(start, "radius"))))
            radius = self.eps_in * uniform ** (1.0 / max(1, self.x.numel()))
        return self._clamped(self.x + self._threat.step(direction, radius))

    def _direction(self, point: Tensor, before: Tensor, step: tuple[int, int]) -> Tensor:
        """Choose where to go from a point, by a gradient if there is one; at random where nothing changes around it."""
        if self._may_have_gradient:
            slope = self.objective.gradient(point, self._key(*step), self.budget.samples)
            if slope is not None and bool(slope.any()):
                return slope
            self._may_have_gradient = slope is not None  # one that vanishes here may be there elsewhere
        self.gradient_free = True
        pairs = -(-_GRADIENT * self.budget.samples // 2)
        slope = _UNIT.step(self.objective.estimate(point, self._key(*step, "pairs"), pairs), 1.0)
        slope = slope + _MOMENTUM * _UNIT.step(before, 1.0)
        return slope if bool(slope.any()) else _normal(point.shape, self._key(*step, "random"), point)

    def _clamped(self, point: Tensor) -> Tensor:
        """Move points back into the ball, up to rounding."""
        change = point - self.x
        shorter = self._threat.shortened(change, self.eps_in)
        return point if shorter is change else self.x + shorter


def _key(*parts: object) -> int:
    """Return the key of a noise of its own, from whatever tells it apart."""
    digest = hashlib.blake2b(repr(("attack", *parts)).encode(), digest_size=16)
    return int.from_bytes(digest.digest(), "big")


def _normal(shape: tuple[int, ...], key: int, like: Tensor) -> Tensor:
    """Draw standard normal numbers that depend on the key alone."""
    return torch.randn(shape, generator=_generator(key), dtype=torch.float32).to(like)


def _generator(key: int) -> torch.Generator:
    return torch.Generator().manual_seed(block_seed(0, key, Stage.ATTACK, 0))
