import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from callbacks import CertificateWriter
from center_smoothing import CenterSmoother, Lp, SmoothingBudget, TotalVariation
from center_smoothing.budget import Coverage
from datamodules import IndexedImages
from lightning_modules import CertifiedExample, Certifier, NoisyAutoencoder
from lightning_modules.base import Batch
from results.folder import CertificationFolder

BUDGET = SmoothingBudget(n=60, m=120, k=8, delta=0.4)
HEADER = "index,sigma,eps_in,eps_out,smoothing_loss,abstained,n,m,delta,method,theorem,seconds"


@pytest.fixture
def folder(tmp_path: Path) -> CertificationFolder:
    folder = CertificationFolder(tmp_path / "certification")
    folder.create()
    return folder


def example(index: int, *, abstained: bool = False, dtype: torch.dtype = torch.float32) -> CertifiedExample:
    smoother = CenterSmoother(lambda x: x.tanh().flatten(1), Lp(2.0), sigma=0.25, budget=BUDGET, batch_size=64)
    x = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(index)).to(dtype)
    certificate = smoother.certify(x, example=index)
    if abstained:
        output = replace(certificate.output, abstained=True)
        certificate = replace(certificate, output=output, smoothing_loss=math.inf)
    return CertifiedExample(index, x, x.tanh().flatten(), certificate, seconds=1.23456)


def write(writer: CertificateWriter, *examples: CertifiedExample, rank: int = 0, world_size: int = 1) -> None:
    trainer: Any = SimpleNamespace(global_rank=rank, world_size=world_size)
    module: Any = None
    writer.write_on_batch_end(trainer, module, list(examples), None, None, 0, 0)


def writer(
    folder: CertificationFolder, eps_in: tuple[float, ...] = (0.1, 0.2), coverage: Coverage = "pointwise"
) -> CertificateWriter:
    return CertificateWriter(folder, eps_in=eps_in, coverage=coverage)


def test_row_holds_what_the_certificate_says(folder: CertificationFolder) -> None:
    one = example(3)
    write(writer(folder), one)
    for row, eps_in in zip(folder.rows(), (0.1, 0.2), strict=True):
        assert (row.index, row.sigma, row.eps_in) == (3, 0.25, eps_in)
        assert row.eps_out == one.certificate.eps_out(eps_in)
        assert row.smoothing_loss == one.certificate.smoothing_loss
        assert (row.abstained, row.n, row.m, row.delta, row.method) == (False, 60, 120, 0.4, "exact")
        assert row.seconds == 1.235


def test_abstention_is_written_as_inf(folder: CertificationFolder) -> None:
    write(writer(folder), example(3, abstained=True))
    assert [(row.abstained, row.eps_out, row.smoothing_loss) for row in folder.rows()] == [
        (True, math.inf, math.inf)
    ] * 2
    assert ",inf,inf,True," in folder.table.read_text()


@pytest.mark.parametrize("coverage", ["pointwise", "bonferroni", "dkw"])
def test_rows_have_the_coverage_that_was_asked_for(coverage: Coverage, folder: CertificationFolder) -> None:
    one = example(3)
    write(writer(folder, (0.05, 0.1, 0.15), coverage), one)
    expected = one.certificate.eps_out([0.05, 0.1, 0.15], coverage=coverage)
    assert [row.eps_out for row in folder.rows()] == np.asarray(expected).tolist()


def test_example_is_finished_only_when_its_arrays_are_there(
    folder: CertificationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[tuple[bool, bool]] = []
    append = CertificationFolder.append

    def spy(self: CertificationFolder, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # passed on
        there.append((self.distances(3).is_file(), self.outputs(3).is_file()))
        append(self, *args, **kwargs)

    monkeypatch.setattr(CertificationFolder, "append", spy)
    write(writer(folder), example(3))
    assert there == [(True, True)]


def test_arrays_come_back_as_they_were(folder: CertificationFolder) -> None:
    one = example(3)
    write(writer(folder), one)
    distances = np.load(folder.distances(3), allow_pickle=False)
    assert distances.dtype == np.float64
    np.testing.assert_array_equal(distances, one.certificate.distances)
    with np.load(folder.outputs(3), allow_pickle=False) as arrays:
        assert set(arrays) == {"image", "base", "smoothed", "probe_sizes", "probes_1", "probes_3"}
        np.testing.assert_array_equal(arrays["image"], one.image.numpy())
        np.testing.assert_array_equal(arrays["base"], one.base_output.numpy())
        np.testing.assert_array_equal(arrays["smoothed"], one.certificate.center.numpy())


def test_outputs_of_half_precision_are_written_too(folder: CertificationFolder) -> None:
    write(writer(folder), example(3, dtype=torch.bfloat16))
    with np.load(folder.outputs(3), allow_pickle=False) as arrays:
        assert {arrays[name].dtype for name in ("image", "base", "smoothed")} == {np.dtype(np.float32)}


def test_each_of_several_processes_writes_a_file_of_its_own(folder: CertificationFolder) -> None:
    write(writer(folder), example(3), rank=0, world_size=2)
    write(writer(folder), example(4), rank=1, world_size=2)
    assert not folder.table.exists()
    for rank, index in ((0, 3), (1, 4)):
        lines = (folder.path / f"certificates.rank{rank}.csv").read_text().splitlines()
        assert lines[0] == HEADER
        assert [line.split(",")[0] for line in lines[1:]] == [str(index)] * 2
    assert [row.index for row in folder.merge([4, 3], [0.1, 0.2])] == [4, 4, 3, 3]


class Watched(Certifier):
    """Looks, before each example but the first, at what is on disk."""

    folder: CertificationFolder
    finished: list[set[int]]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[CertifiedExample]:
        self.finished.append(self.folder.finished([0.1, 0.2]))
        return super().predict_step(batch, batch_idx)


def test_examples_of_a_prediction_are_written_one_by_one(folder: CertificationFolder) -> None:
    model = NoisyAutoencoder(0.25, image_shape=(1, 8, 8), latent_dim=4, channels=(4, 8, 16)).eval()
    smoother = CenterSmoother(model, TotalVariation(), sigma=0.25, budget=BUDGET, batch_size=64)
    watched = Watched(model, smoother)
    watched.folder, watched.finished = folder, []
    pixels = torch.randint(256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = IndexedImages(pixels, torch.tensor([40, 7, 19]))
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[writer(folder)], inference_mode=False,
    )  # fmt: skip
    trainer.predict(watched, DataLoader(images, batch_size=1), return_predictions=False)
    assert watched.finished == [set(), {40}, {40, 7}]
    assert [row.index for row in folder.rows()] == [40, 40, 7, 7, 19, 19]
    for row in folder.rows():
        position = [40, 7, 19].index(row.index)
        expected = smoother.certify(images[position]["image"], example=row.index)
        assert row.eps_out == expected.eps_out(row.eps_in)
