"""Certification folders as certify.py writes them, of certificates that were made by hand."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from center_smoothing import Certificate, CertificateBase, SmoothedOutput, SmoothingBudget
from center_smoothing.budget import Coverage
from results.folder import CertificationFolder
from results.rows import Row

BUDGET = SmoothingBudget(n=1000, m=2000, k=64, delta=0.12)


@pytest.fixture
def folder(tmp_path: Path) -> CertificationFolder:
    """A folder without an example."""
    folder = CertificationFolder(tmp_path / "certification")
    folder.create()
    return folder


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., CertificationFolder]:
    """Writes a folder of certificates by index; what else is known of their outputs, and settings, may be given."""

    def write_folder(
        path: Path,
        certificates: Mapping[int, CertificateBase],
        *,
        eps_in: Sequence[float] = (0.1,),
        coverage: Coverage = "pointwise",
        outputs: Mapping[int, Mapping[str, NDArray[Any]]] | None = None,
        **config: Any,  # noqa: ANN401  # whatever JSON holds
    ) -> CertificationFolder:
        folder = CertificationFolder(path)
        folder.create()
        for index, certificate in certificates.items():
            center = certificate.center.numpy()
            arrays = {"image": center, "base": center, **(outputs or {}).get(index, {}), "smoothed": center}
            np.save(folder.distances(index), certificate.distances)
            np.savez(folder.outputs(index), **arrays, **certificate.kept_arrays())
            folder.append(Row.of(index, certificate, eps_in=eps_in, coverage=coverage, seconds=1.0))
        budget = next((certificate.budget for certificate in certificates.values()), BUDGET)
        common = {"budget": budget.as_dict(), "relaxation": 1.0, "coverage": coverage, "sigma": 0.25}
        settings = {**common, "eps_in": list(eps_in), "num_examples": len(certificates), **config}
        origin = {"checkpoint_sha256": "0123abcd", "versions": {"torch": "2.0"}, "device": "a long name " * 10}
        folder.write_summary({"config": settings, **origin, "results": []})
        return folder

    return write_folder


@pytest.fixture(scope="session")
def write_random(write_folder: Callable[..., CertificationFolder]) -> Callable[..., CertificationFolder]:
    """Writes a folder of so many examples with random outputs and radii; the last one abstained."""

    def write_random(
        path: Path,
        *,
        count: int = 4,
        shape: tuple[int, ...] = (1, 8, 8),
        order: int = 1,
        conversion: float = 1.0,
        **given: Any,  # noqa: ANN401  # as above
    ) -> CertificationFolder:
        generator = np.random.default_rng(0)
        certificates, outputs = {}, {}
        for index in range(count):
            image, base, smoothed = generator.random((3, *shape), dtype=np.float32)
            outputs[index] = {"image": image, "base": base}
            certificates[index] = Certificate(
                distances=np.sort(generator.random(BUDGET.m)) * (order * index % count + 1),
                sigma=0.25,
                relaxation=1.0,
                budget=BUDGET,
                output=SmoothedOutput(torch.from_numpy(smoothed), 1.0, 0.6, index == count - 1),
                smoothing_loss=math.inf if index == count - 1 else 0.5 + index,
                conversion=conversion,
            )
        given |= {} if conversion == 1.0 else {"conversion": conversion}
        return write_folder(path, certificates, outputs=outputs, eps_in=given.pop("eps_in", (0.25, 0.5)), **given)

    return write_random
