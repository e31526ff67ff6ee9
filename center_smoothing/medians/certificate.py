"""What one sampling run proves of medians: a box for each input radius, and its radius."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from center_smoothing.budget import Coverage
from center_smoothing.certificate_base import CertificateBase, is_ascending
from center_smoothing.medians.budget import MedianBudget


@dataclass(frozen=True, eq=False)
class MedianOutput:
    """The medians at one input (theory T14).

    Attributes:
        center: (*out), the medians of n outputs, coordinate by coordinate; zeros where it abstained.
        abstained: whether a median was not finite.
    """

    center: Tensor = field(repr=False)
    abstained: bool


@dataclass(frozen=True, eq=False, repr=False)
class MedianCertificate(CertificateBase):
    """One sampling run around one input, and every answer that it holds (theory T14).

    The promise, for one ``eps_in`` and one x' with ||x - x'|| <= eps_in in the norm of ``threat``, fixed beforehand:
    with probability at least 1 - alpha over the noise of both runs all numbers of center(x') lie in ``box(eps_in)``,
    and so d(center(x), center(x')) <= eps_out(eps_in), unless one of the two abstains.

    Further attributes are those of :class:`center_smoothing.CertificateBase`.

    Attributes:
        distances: (m,), of the certification outputs. No bound rests on them.
        budget: shared by the numbers of an output.
        low: (G, *out) lower ends of the boxes of the budget's ``kept_ranks``; -inf where there is none.
        high: (G, *out) upper ends; inf where there is none.
        radii: (G,) float64, ascending: what no distance from the center to anything in the box exceeds.
    """

    distances: NDArray[np.float64] = field(repr=False)
    sigma: float
    budget: MedianBudget
    output: MedianOutput
    smoothing_loss: float
    low: Tensor = field(repr=False)
    high: Tensor = field(repr=False)
    radii: NDArray[np.float64] = field(repr=False)
    threat: str = "l2"
    conversion: float = 1.0

    non_finite_count_as: ClassVar[str] = "beyond every bound, above and below"
    _BUDGET: ClassVar[str] = "median_budget"

    def __post_init__(self) -> None:
        """Check what a file may have got wrong."""
        self._check_arguments((self.budget.m,))
        count = len(self.budget.kept_ranks())
        if self.radii.shape != (count,) or not is_ascending(self.radii):
            raise ValueError(f"radii must have shape ({count},), be at least 0 and ascend, got {self.radii.shape}")
        shape = (count, *self.center.shape)
        for name, ends in (("low", self.low), ("high", self.high)):
            if ends.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(ends.shape)}")
        if not bool((self.low <= self.high).all()):
            raise ValueError("low must nowhere be above high, got boxes that are none")

    @property
    def m(self) -> int:
        """How many certification outputs were drawn."""
        return len(self.distances)

    def box(self, eps_in: float, *, coverage: Coverage = "pointwise", answers: int = 1) -> tuple[Tensor, Tensor]:
        """Return the ends (*out) and (*out) between which the medians stay; see :meth:`CertificateBase.box`."""
        place = None if self.abstained else self._place(self.h_of(eps_in), coverage, answers)
        if place is None:
            nothing = torch.full_like(self.low[0], torch.inf)
            return -nothing, nothing
        return self.low[place], self.high[place]

    def theorem(self, eps_in: float, *, coverage: Coverage = "pointwise", answers: int = 1) -> str:
        """Return which statement of docs/theory.md gives eps_out(eps_in): "T14"."""
        return "T14"

    def kept_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the boxes and their radii by name, for :meth:`from_kept`."""
        # numpy has no bfloat16, all of whose numbers are float32 too
        low, high = (ends.float() if ends.dtype == torch.bfloat16 else ends for ends in (self.low, self.high))
        boxes = {"box_low": low.cpu().numpy(), "box_high": high.cpu().numpy(), "box_radii": self.radii}
        return {**boxes, **super().kept_arrays()}

    @classmethod
    def _own(cls, kept: Mapping[str, Any], described: Mapping[str, Any], center: Tensor) -> dict[str, Any]:
        return {
            "budget": MedianBudget.from_dict(described["budget"]).for_output(center),
            "output": MedianOutput(center, bool(described["abstained"])),
            "low": torch.from_numpy(kept["box_low"]),
            "high": torch.from_numpy(kept["box_high"]),
            "radii": np.asarray(kept["box_radii"], dtype=np.float64),
        }

    def _place(self, h: float, coverage: Coverage, answers: int) -> int | None:
        """Return which of the boxes is certified at h, the next larger one of those kept; None for none."""
        rank = self.budget.rank(h, coverage=coverage, answers=answers)
        return None if rank > self.m else int(np.searchsorted(self.budget.kept_ranks(), rank))

    def _eps_out(self, h: float, coverage: Coverage, answers: int) -> float:
        place = None if self.abstained else self._place(h, coverage, answers)
        return math.inf if place is None else float(self.radii[place])
