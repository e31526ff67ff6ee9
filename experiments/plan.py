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
    """One point of a panel: a row of its table.

    Attributes:
        h: eps_in / sigma.
        eps_in: input radius, in units of x.
        sigma: noise level of the smoothing.
        training_sigma: noise level of the training of the base model.
        eps_out: median certified output radius with its interval; inf where there is none.
        smoothing_loss: median smoothing loss with its interval.
        abstention_rate: share of the examples.
        num_examples: how many.
        smoother: one of ``SMOOTHERS``.
    """

    h: float
    eps_in: float
    sigma: float
    training_sigma: float
    eps_out: Median
    smoothing_loss: Median
    abstention_rate: float
    num_examples: int
    smoother: str = DEFAULT_SMOOTHER


@dataclass(frozen=True)
class Plan:
    """What a panel needs.

    Attributes:
        figure: "figure4" or "figure5".
        distance: certify.py's name of it.
        options: of the command line.
        settings: of the trainings.
        pairs: (h, eps_in) of each point, in the order of the table.
        out: folder of the panel.
        image_shape: (C, H, W).
        images: of an epoch, training and validation together.
    """

    figure: str
    distance: str
    options: Namespace
    settings: dict[str, Any]
    pairs: list[tuple[float, float]]
    out: Path
    image_shape: tuple[int, ...]
    images: int

    @property
    def smoother(self) -> str:
        """Which of ``SMOOTHERS`` is certified."""
        return str(self.options.smoother)

    @property
    def sigmas(self) -> list[float]:
        """Distinct noise levels of the smoothing; the noise grows with the input radius, sigma = eps_in / h."""
        return sorted({named.noise_level(h=h, eps_in=eps_in) for h, eps_in in self.pairs})

    def training_sigma(self, sigma: float) -> float:
        """Noise level of the training whose model is smoothed at sigma: the nearest, the smaller of two."""
        return min(self.options.training_sigma, key=lambda level: (round(abs(level - sigma), 9), level))

    def checkpoint(self, sigma: float) -> Path | None:
        """The best checkpoint of a whole training at this noise level, or None."""
        folder = trained_models.finished_run(Path(self.options.runs), self.settings, sigma=sigma)
        return None if folder is None else folder / "checkpoints" / "best.ckpt"

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
        """Input radii that are answered at this noise level of smoothing."""
        return [eps_in for h, eps_in in self.pairs if named.noise_level(h=h, eps_in=eps_in) == sigma]
