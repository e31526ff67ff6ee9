import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer

from datamodules import ImageDataModule, IndexedImages
from lightning_modules import NoisyAutoencoder, load_checkpoint


class TinyData(ImageDataModule):
    def __init__(self, batch_size: int = 8, num_workers: int = 0, images: int = 24) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.save_hyperparameters(logger=False)
        self.count = images

    def setup(self, stage: str | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (self.count, 1, 8, 8), generator=generator, dtype=torch.uint8)
        self.train_set = IndexedImages(images[8:], torch.arange(8, self.count))
        self.test_set = IndexedImages(images[:8], torch.arange(8))


class Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def silent_trainer(**kwargs: Any) -> Trainer:  # noqa: ANN401  # whatever Trainer takes
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **kwargs,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NoisyAutoencoder]:
    model = NoisyAutoencoder(0.3, image_shape=(1, 8, 8), latent_dim=4, learning_rate=0.01)
    trainer = silent_trainer(max_epochs=1)
    trainer.fit(model, TinyData(batch_size=10))
    path = tmp_path_factory.mktemp("trained") / "best.ckpt"
    trainer.save_checkpoint(path)
    return path, model


@pytest.fixture
def content(trained: tuple[Path, NoisyAutoencoder]) -> dict[str, Any]:
    return torch.load(trained[0], weights_only=True)


def assert_refused(path: Path, match: str | None = None) -> None:
    with pytest.raises(ValueError, match=match) as refused:
        load_checkpoint(path)
    message = str(refused.value)
    assert message.startswith("--ckpt must ")
    assert f"got {path}: " in message
    assert "\n" not in message


def test_checkpoint_alone_rebuilds_an_equal_model(trained: tuple[Path, NoisyAutoencoder]) -> None:
    path, model = trained
    loaded = load_checkpoint(path).model
    assert type(loaded) is NoisyAutoencoder
    assert dict(loaded.hparams) == dict(model.hparams)
    assert (loaded.sigma, loaded.learning_rate) == (0.3, 0.01)
    expected, found = model.state_dict(), loaded.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.eval()(x), loaded(x))


def test_loaded_model_is_in_eval_mode_on_the_cpu(trained: tuple[Path, NoisyAutoencoder]) -> None:
    loaded = load_checkpoint(str(trained[0])).model
    assert not any(module.training for module in loaded.modules())
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}


def test_checkpoint_names_the_data_that_it_was_trained_on(trained: tuple[Path, NoisyAutoencoder]) -> None:
    data = load_checkpoint(trained[0]).data
    assert data == {"class": "TinyData", "init_args": {"batch_size": 10, "num_workers": 0, "images": 24}}
    TinyData(**data["init_args"])


def test_without_a_datamodule_the_data_are_unknown(tmp_path: Path) -> None:
    data = TinyData()
    data.setup()
    trainer = silent_trainer(max_epochs=1)
    trainer.fit(
        NoisyAutoencoder(0.3, image_shape=(1, 8, 8), latent_dim=4), data.train_dataloader(), data.val_dataloader()
    )
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert load_checkpoint(tmp_path / "last.ckpt").data is None


def test_checkpoint_holds_tensors_and_plain_values_only(content: dict[str, Any]) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                assert type(key) in (str, int)
                check(item)
        elif isinstance(value, list | tuple):
            for item in value:
                check(item)
        else:
            assert isinstance(value, torch.Tensor | str | int | float | bool | None)

    for key in ("state_dict", "hyper_parameters", "base_model", "data"):
        check(content[key])


def test_a_model_built_from_numpy_numbers_loads_too(tmp_path: Path) -> None:
    model = NoisyAutoencoder(np.float64(0.3), image_shape=np.array([1, 8, 8]), latent_dim=np.int64(4))
    trainer = silent_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(model, TinyData())
    trainer.save_checkpoint(tmp_path / "numpy.ckpt")
    assert load_checkpoint(tmp_path / "numpy.ckpt").model.sigma == 0.3


def test_noise_range_comes_back(tmp_path: Path) -> None:
    trainer = silent_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    model = NoisyAutoencoder(0.3, image_shape=(1, 8, 8), latent_dim=4, noise_range=np.array([0.1, 0.5]))
    trainer.fit(model, TinyData())
    trainer.save_checkpoint(tmp_path / "range.ckpt")
    assert load_checkpoint(tmp_path / "range.ckpt").model.noise_range == [0.1, 0.5]


def test_checkpoint_that_knows_of_no_noise_range_loads(content: dict[str, Any], tmp_path: Path) -> None:
    del content["hyper_parameters"]["noise_range"]
    torch.save(content, tmp_path / "fixed.ckpt")
    model = load_checkpoint(tmp_path / "fixed.ckpt").model
    assert model.noise_range is None
    assert model.sigma == 0.3


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.ckpt", "no such file")


def test_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, "no such file as checkpoints/best.ckpt")


def test_folder_of_a_run_is_its_best_checkpoint_or_else_its_last(
    trained: tuple[Path, NoisyAutoencoder], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (tmp_path / "latest").symlink_to(tmp_path)
    for name in ("last.ckpt", "best.ckpt"):
        shutil.copy(trained[0], folder / name)
        for path in (tmp_path, folder):
            assert load_checkpoint(path).path == folder / name
        assert load_checkpoint(tmp_path / "latest").path.resolve() == folder / name


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(share: float, trained: tuple[Path, NoisyAutoencoder], tmp_path: Path) -> None:
    whole = trained[0].read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(path, "whole checkpoint .*damaged or of another format")


def test_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.ckpt"
    path.write_text("this is\nno checkpoint\n")
    assert_refused(path, "damaged or of another format")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("first", ["(", "0", "G", "J", "h", "]", "t", "\x80", "{", "#"])
def test_text_file_with_any_first_character_is_refused(first: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.ckpt"
    path.write_text(f"{first}ello, this is text\n", encoding="latin-1")
    assert_refused(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(garbage=st.binary(max_size=40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused(garbage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.ckpt"
    path.write_bytes(garbage)
    assert_refused(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [None, 0, 2, 4, 5])
def test_pickle_with_code_is_refused_and_not_executed(protocol: int | None, tmp_path: Path) -> None:
    path, proof = tmp_path / "evil.ckpt", tmp_path / "executed"
    evil = {"state_dict": {}, "base_model": "NoisyAutoencoder", "hyper_parameters": Evil(proof)}
    if protocol is None:
        torch.save(evil, path)
    else:
        path.write_bytes(pickle.dumps(evil, protocol))
    assert_refused(path)
    assert not proof.exists()


def test_why_a_pickle_with_code_is_refused_is_said(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil(tmp_path / "executed")}, path)
    assert_refused(path, "a pickle of more than tensors and plain values, and such files are not executed")


def test_plain_state_dict_is_refused(trained: tuple[Path, NoisyAutoencoder], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(trained[1].state_dict(), path)
    assert_refused(path, "holds no Lightning module")


def test_bare_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pt"
    torch.save(torch.zeros(3), path)
    assert_refused(path, "holds no Lightning module")


def test_checkpoint_of_another_project_is_refused(tmp_path: Path) -> None:
    class Foreign(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

    trainer = silent_trainer()
    trainer.strategy.connect(Foreign())
    path = tmp_path / "foreign.ckpt"
    trainer.save_checkpoint(path)
    assert_refused(path, "one of NoisyAutoencoder, .*names no class of this project")


@pytest.mark.parametrize("name", ["Reconstructor", "__import__", ["NoisyAutoencoder"]])
def test_checkpoint_of_another_class_is_refused(name: object, content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({**content, "base_model": name}, path)
    assert_refused(path, f"one of NoisyAutoencoder, .*is of class {re.escape(repr(name))}")


def test_partial_weights_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["state_dict"].popitem()
    path = tmp_path / "partial.ckpt"
    torch.save(content, path)
    assert_refused(path, "the weights of the NoisyAutoencoder that it describes, .*Missing key")


def test_weights_of_another_shape_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["hyper_parameters"]["latent_dim"] = 5
    path = tmp_path / "shape.ckpt"
    torch.save(content, path)
    assert_refused(path, "the weights of the NoisyAutoencoder that it describes, .*size mismatch")


@pytest.mark.parametrize("key", ["hyper_parameters", "pytorch-lightning_version"])
def test_checkpoint_without_a_part_is_refused(key: str, content: dict[str, Any], tmp_path: Path) -> None:
    del content[key]
    path = tmp_path / "incomplete.ckpt"
    torch.save(content, path)
    assert_refused(path)


def test_impossible_hyperparameters_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["hyper_parameters"]["sigma"] = -1.0
    path = tmp_path / "sigma.ckpt"
    torch.save(content, path)
    assert_refused(path, "sigma must be a positive finite number, got -1.0")


@pytest.mark.parametrize("weights", [[1.0], torch.zeros(2), {"network": 3}])
def test_weights_that_are_no_state_dict_are_refused(weights: object, content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    torch.save({**content, "state_dict": weights}, path)
    assert_refused(path)
