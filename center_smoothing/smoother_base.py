"""What smoothed functions of all kinds share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Unpack

from torch import Tensor

from center_smoothing.budget import Budget
from center_smoothing.certificate_base import CertificateBase, Output
from center_smoothing.distances.base import Distance
from center_smoothing.noise import Point, as_point
from center_smoothing.sampling import BaseFunction, NoisyOutputs, Sampling

# Whether a certificate of the smoother, at one of the budget's looks, will do.
StoppingRule = Callable[[Any], bool]


class Smoother(ABC):
    """A base function, smoothed: a function of x with certificates.

    Args:
        model: the base function, see :func:`center_smoothing.base_functions.as_base_function`.
        distance: between outputs.
        sigma: noise level, in units of x.
        after: see :class:`center_smoothing.sampling.NoisyOutputs`.
        group: likewise.
        sampling: how noisy outputs are drawn. ``seed`` of the noise, 0 by default: the promise is over the draw of the
            noise and does not cover an x' that was chosen knowing the seed. ``grid``, steps per unit of x: then x is
            rounded to the grid and the noise is exact, so that rounding cannot make the promise false for any attacked
            input on the grid (theory T10); default: noise in floating point. ``batch_size``, noisy copies per call of
            the model, or ``"auto"``, the default: it changes the speed and nothing else. ``progress``, called with the
            number of noisy copies after each call of the model. ``sigma_map``, standard deviations of Gaussian noise as
            multiples of sigma, broadcastable to x (theory T15). ``threat``, the norm that changes of x are measured in:
            ``"l2"``, ``"l1"``, ``"linf"`` or, with a map, ``"scaled-l2"``; default: that of the noise.

    Attributes:
        kind: its name, a word for what it makes of noisy outputs.
        budget_type: of its budgets.
        certificate_type: of its certificates.
        needs: what its distances must be, in words; empty for those that take any.
        why: the reason, in words.
        follows_mean: whether the smoothed output is the mean of outputs, or near it: attacks then move that mean.
        distance: between outputs.
        budget: sample sizes and failure probabilities.
        outputs: draws noisy outputs of the base function.
    """

    kind: ClassVar[str]
    budget_type: ClassVar[type[Budget]]
    certificate_type: ClassVar[type[CertificateBase]]
    follows_mean: ClassVar[bool] = False
    needs: ClassVar[str] = ""
    why: ClassVar[str] = ""
    budget: Budget

    def __init__(
        self,
        model: BaseFunction,
        distance: Distance,
        *,
        sigma: float,
        after: Callable[[Tensor], Tensor] | None = None,
        group: int = 1,
        **sampling: Unpack[Sampling],
    ) -> None:
        self.distance = distance
        self.outputs = NoisyOutputs(
            distance.encoded(model),
            sigma=sigma,
            after=after,
            group=group,
            aggregate=distance.aggregate,
            noise=self.budget.noise,
            **sampling,
        )

    @classmethod
    def takes(cls, distance: Distance) -> bool:
        """Return whether the smoothed function can be certified in terms of a distance: one that it :attr:`needs`."""
        return True

    @classmethod
    def needs_bound(cls, distance: Distance) -> bool:
        """Return whether ``clip_norm`` or ``bound`` must be given with a distance; else neither may be."""
        return False

    @classmethod
    def check_distance(cls, distance: Distance) -> None:
        """Raise ValueError unless a distance is one that the smoothed function :meth:`takes`."""
        if not cls.takes(distance):
            raise ValueError(
                f"distance must be one {cls.needs}, as TotalVariation() and Lp() are, got {distance!r}: {cls.why}"
            )

    @property
    def config(self) -> dict[str, Any]:
        """What its certificates depend on besides model, distance, noise and budget, in plain values."""
        return {}

    @property
    def sigma(self) -> float:
        """Noise level, in units of x."""
        return self.outputs.sigma

    def _measures(self, x: Tensor) -> dict[str, Any]:
        """Return what certificates at x (*in) have to know of the norm that eps_in is measured in."""
        return {"threat": self.outputs.threat.norm, "conversion": self.outputs.conversion(x)}

    @abstractmethod
    def smooth(self, x: Point, *, example: int = 0) -> Output:
        """Return the smoothed function at x.

        Args:
            x: (*in), without a batch dimension; a tensor or an array of floating-point numbers.
            example: with the seed it determines the noise; the index in the data set, say.

        Raises:
            ValueError: if x is not a finite floating-point tensor, or f returns another shape than (N, *out).
        """

    def smooth_alike(self, x: Point, other: Point, *, example: int = 0) -> Output:
        """Return the smoothed function at x (*in) under the very noise of ``smooth(other, example=example)``.

        What sets the two apart is not the draw of the noise, but what it is added to.
        """
        return self.smooth(x, example=example)

    @abstractmethod
    def certify(self, x: Point, *, example: int = 0, stop: StoppingRule | None = None) -> CertificateBase:
        """Return the smoothed function at x and what holds around it.

        Args:
            x: (*in).
            example: as for :meth:`smooth`.
            stop: asked at each of the budget's looks but the last whether its certificate will do.
        """

    def certify_many(
        self,
        xs: Iterable[Point],
        *,
        examples: Sequence[int] | None = None,
        progress: bool = False,
        stop: StoppingRule | None = None,
    ) -> list[CertificateBase]:
        """Return the certificates of several inputs, one after the other, as :meth:`certify` makes them.

        Args:
            xs: inputs (*in), or one tensor or array (E, *in) of them.
            examples: their numbers, which determine the noise; default: 0, 1, 2 and so on.
            progress: show a bar. Needs the package tqdm.
            stop: as for :meth:`certify`.

        Raises:
            ValueError: if there are not as many numbers as inputs, or tqdm is not installed.

        Example:
            >>> import torch
            >>> from center_smoothing import CenterSmoother, SmoothingBudget
            >>> smoother = CenterSmoother(lambda z: 2 * z, "l2", sigma=0.25, budget=SmoothingBudget.quick())
            >>> certificates = smoother.certify_many(torch.zeros(2, 3), examples=[7, 9])
            >>> len(certificates), any(certificate.abstained for certificate in certificates)
            (2, False)
        """
        points = list(xs)
        numbers = range(len(points)) if examples is None else examples
        if len(numbers) != len(points):
            raise ValueError(f"examples must be a number for each of {len(points)} inputs, got {len(numbers)}")
        pairs: Iterable[tuple[int, Point]] = zip(numbers, points, strict=True)
        if progress:
            try:
                from tqdm.auto import tqdm
            except ImportError as error:
                raise ValueError("tqdm must be installed to show progress: pip install tqdm") from error
            pairs = tqdm(pairs, desc="certifying", total=len(points), unit="example")
        return [self.certify(x, example=int(number), stop=stop) for number, x in pairs]

    def look_at(self, x: Point) -> None:
        """Evaluate f at x (*in) once, for the budget to know what its outputs are like (:meth:`Budget.for_output`)."""
        self.budget = self.budget.for_output(self.outputs.base_output(as_point(x)))

    @property
    def plan_settings(self) -> str:
        """What a plan says of its settings besides n, m and alpha."""
        return self.budget.settings

    @abstractmethod
    def plan_table(self, h: Sequence[float]) -> list[str]:
        """Return the columns of a plan's table, without sigma, h and eps_in: the heading, and a line for each h."""

    def _smoothing_loss(self, x: Tensor, output: Output) -> float:
        """Return d(f(x), center); inf where the smoothed function abstained."""
        if output.abstained:
            return math.inf
        return float(self.distance(self.outputs.base_output(x).unsqueeze(0), output.center.unsqueeze(0)))
