"""Certificates that come back from a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from center_smoothing import Certificate, MeanBudget, MeanCertificate, SmoothedOutput, SmoothingBudget
from center_smoothing.means.certificate import MeanOutput
from results.rows import AnyCertificate, Row

# A certificate from its row, its center, its distances and what else was kept of it.
CertificateLoader = Callable[[Row, torch.Tensor, NDArray[np.float64], Mapping[str, NDArray[Any]]], AnyCertificate]


def certificate_loader(config: Mapping[str, Any]) -> CertificateLoader:
    """How certificates come back from disk, as the configuration says what they are of."""
    if config.get("smoother") == "mean":
        mean_budget = MeanBudget(**config["budget"])
        return lambda row, center, distances, kept: MeanCertificate.from_kept(
            distances,
            kept,
            sigma=row.sigma,
            budget=mean_budget,
            output=MeanOutput(center, row.abstained),
            smoothing_loss=row.smoothing_loss,
        )
    budget, relaxation = SmoothingBudget(**config["budget"]), float(config["relaxation"])
    without_probes = {"probe_sizes": np.zeros(0)} if "tuple_sizes" not in config["budget"] else None  # as once written
    return lambda row, center, distances, kept: Certificate.from_kept(
        distances,
        without_probes or kept,
        sigma=row.sigma,
        relaxation=relaxation,
        budget=budget,
        output=SmoothedOutput(center, math.nan, math.nan, row.abstained),
        smoothing_loss=row.smoothing_loss,
    )
