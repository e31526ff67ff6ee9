"""Checkpoints of strangers that claim more than they hold."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import NoisyAutoencoder, NoisyReconstructor, load_checkpoint
from lightning_modules.checkpoint_limits import check_archive, name_of

Saved = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Saves a checkpoint with something changed."""
    model = NoisyAutoencoder(0.25, image_shape=(1, 8, 8), latent_dim=4)

    def save(
        settings: dict[str, Any] | None = None,
        *,
        legacy: bool = False,
        **changes: object,
    ) -> Path:
        given = {**dict(model.hparams), **(settings or {})}
        content = {
            "state_dict": model.state_dict(),
            "hyper_parameters": {name: value for name, value in given.items() if value is not None},
            "pytorch-lightning_version": "2.6.6",
            "base_model": "NoisyAutoencoder",
            **changes,
        }
        torch.save(content, tmp_path / "any.ckpt", _use_new_zipfile_serialization=not legacy)
        return tmp_path / "any.ckpt"

    return save


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"^--ckpt must ") as error:
        load_checkpoint(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"latent_dim": 10**9}, "size mismatch for network.encoder.10.weight"),
        ({"image_shape": [1, 400_000, 400_000]}, "size mismatch for network.encoder.10.weight"),
        ({"latent_dim": 10**30}, "latent_dim must be a plain value, numbers up to 2147483647"),
        ({"image_shape": [1] * 10**4}, "image_shape must be a plain value"),
        ({"image_shape": torch.ones(1).expand(10**10)}, "image_shape must be a plain value"),
        ({"noise_range": "x" * 10**6}, "noise_range must be a plain value"),
        ({"sigma": {"deep": [[[[]]]]}}, "sigma must be a plain value"),
    ],
)
def test_settings_of_absurd_size_take_no_memory(settings: dict[str, Any], expected: str, saved: Saved) -> None:
    assert expected in refused(saved(settings))


def test_settings_that_are_left_out_are_checked_too(saved: Saved) -> None:
    line = refused(saved({"image_shape": None, "latent_dim": None}))
    assert "size mismatch for network.encoder.10.weight: (4, 512) in its state_dict, (256, 6272)" in line


def test_tensors_that_repeat_one_number_take_no_memory(saved: Saved) -> None:
    with torch.device("meta"):
        shapes = NoisyAutoencoder(0.25, image_shape=(1, 8, 8), latent_dim=200_000).state_dict()
    repeated = {name: torch.zeros(1, dtype=each.dtype).expand(each.shape) for name, each in shapes.items() if each.ndim}
    scalars = {name: torch.zeros((), dtype=each.dtype) for name, each in shapes.items() if not each.ndim}
    path = saved({"latent_dim": 200_000}, state_dict={**repeated, **scalars})
    assert path.stat().st_size < 10**5
    assert "its weights claim 8" in refused(path)


def test_a_reconstructor_is_described_without_its_matrix(saved: Saved) -> None:
    settings = {"num_measurements": 60_000, "image_shape": [1, 400, 400]}
    assert "size mismatch for network." in refused(saved(settings, base_model="NoisyReconstructor"))
    with torch.device("meta"):
        shapes = NoisyReconstructor(0.25, image_shape=(1, 400, 400), num_measurements=60_000).state_dict()
    assert shapes["measurement.pseudo_inverse"].shape == (160_000, 60_000)


@pytest.mark.parametrize("data", [{"class": "MNIST"}, {"init_args": {}}, [1], "MNIST", {"class": 3, "init_args": {}},
                                  {"class": "MNIST", "init_args": {"batch_size": 10**30}}])  # fmt: skip
def test_data_that_are_not_described_are_refused(data: object, saved: Saved) -> None:
    refused(saved(data=data))


def test_another_class_than_the_named_one_is_never_built(saved: Saved) -> None:
    settings = {
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
        "_class_path": "lightning_modules.NoisyReconstructor",
    }
    assert type(load_checkpoint(saved(settings)).model) is NoisyAutoencoder


def test_the_old_format_whose_claims_nothing_bounds_is_not_read(saved: Saved) -> None:
    assert "damaged or of another format" in refused(saved(legacy=True))


def test_something_in_front_of_the_archive_is_refused(saved: Saved) -> None:
    path = saved()
    path.write_bytes(b"junk" + path.read_bytes())
    with pytest.raises(zipfile.BadZipFile):
        check_archive(path)


def test_parts_that_overlap_are_refused(saved: Saved, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.ckpt", "w") as archive:
        archive.writestr("archive/data/0", bytes(10_000))
        archive.filelist *= 3
    with pytest.raises(ValueError, match="an archive of 3 parts that claim 30000 bytes"):
        check_archive(tmp_path / "twice.ckpt")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0.25-ab12", "0.25-ab12"), ("../../x", None), ("x" * 200, None), ("\x1b[2J", None), ("", None), (3, None)],
)
def test_the_run_is_a_name_or_none(value: object, expected: str | None) -> None:
    assert name_of(value) == expected
