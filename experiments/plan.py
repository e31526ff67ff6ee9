"""What a panel needs, and the points that it gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from center_smoothing import Budget
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from command_line import named
from experiments import trained_models
from experiments.medians import Median
from results.folder import CertificationFolder


@dataclass(frozen=True)
class Point:
    """One point of a panel: a row of its table."""

    h: float  # eps_in / sigma
    eps_in: float  # input radius, in units of x
    sigma: float  # noise level of the smoothing
    training_sigma: float  # noise level of the training of the base model
    eps_out: Median  # median certified output radius with its interval; inf where there is none
    smoothing_loss: Median  # median smoothing loss with its interval
    abstention_rate: float  # share of the examples
    num_examples: int  # how many
    smoother: str = DEFAULT_SMOOTHER  # one of SMOOTHERS


@dataclass(frozen=True)
class Plan:
    """What a panel needs."""

    figure: str  # "figure4" or "figure5"
    distance: str  # certify.py's name of it
    options: Namespace  # of the command line
    settings: dict[str, Any]  # of the trainings
    pairs: list[tuple[float, float]]  # (h, eps_in) of each point, in the order of the table
    out: Path  # folder of the panel
    image_shape: tuple[int, ...]  # (C, H, W)
    images: int  # of an epoch, training and validation together

    @property
    def smoother(self) -> str:
        """Which of ``SMOOTHERS`` is certified."""
        return str(self.options.smoother)

    @property
    def sigmas(self) -> list[float]:
        """Distinct noise levels of the smoothing; the noise grows with the input radius, sigma = eps_in / h."""
        return sorted({named.noise_level(h=h, eps_in=eps_in) for h, eps_in in self.pairs})

    def training_sigma(self, sigma: float) -> float:
        """Return the noise level of the training whose model is smoothed at sigma: the nearest, the smaller of two."""
        return min(self.options.training_sigma, key=lambda level: (round(abs(level - sigma), 9), level))

    def checkpoint(self, sigma: float) -> Path | None:
        """Return the best checkpoint of a whole training at this noise level, or None."""
        return trained_models.best_checkpoint(self.options.runs, self.settings, sigma=sigma)

    @property
    def budget(self) -> Budget:
        """Of each certification."""
        found: Budget = named.budget(self.options.budget, self.smoother)
        return found

    def certification(self, sigma: float) -> CertificationFolder:
        """Return where the certification at this noise level of smoothing goes."""
        below = "" if self.smoother == DEFAULT_SMOOTHER else self.smoother
        return CertificationFolder(self.out / "certifications" / below / f"sigma={sigma!r}")

    def radii(self, sigma: float) -> list[float]:
        """Return the input radii that are answered at this noise level of smoothing."""
        return [eps_in for h, eps_in in self.pairs if named.noise_level(h=h, eps_in=eps_in) == sigma]
