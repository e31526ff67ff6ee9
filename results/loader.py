"""Certificates that come back from a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from center_smoothing import SMOOTHERS, CertificateBase
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from results.rows import Row

# A certificate from its row, its center, its distances and what else was kept of it.
CertificateLoader = Callable[[Row, torch.Tensor, NDArray[np.float64], Mapping[str, NDArray[Any]]], CertificateBase]


def certificate_loader(config: Mapping[str, Any]) -> CertificateLoader:
    """Return how certificates come back from disk, as the configuration says what they are of."""
    kind = SMOOTHERS[config.get("smoother", DEFAULT_SMOOTHER)].certificate_type
    return lambda row, center, distances, kept: kind.from_kept(
        distances,
        kept,
        {**config, "sigma": row.sigma, "abstained": row.abstained, "smoothing_loss": row.smoothing_loss},
        center=center,
    )
