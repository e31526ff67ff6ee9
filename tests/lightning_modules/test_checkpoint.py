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
from lightning.pytorch import LightningModule

from lightning_modules import NoisyAutoencoder, load_checkpoint
from tests.lightning_modules.parts import Bars, fitted, images, silent_trainer


class Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NoisyAutoencoder]:
    model = NoisyAutoencoder(0.3, image_shape=(1, 8, 8), latent_dim=4, learning_rate=0.01)
    path = tmp_path_factory.mktemp("trained") / "best.ckpt"
    fitted(model).save_checkpoint(path)
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
    checkpoint = load_checkpoint(str(path))
    loaded = checkpoint.model
    assert checkpoint.data == {"class": "Bars", "init_args": {"batch_size": 8, "num_workers": 0}}
    assert type(loaded) is NoisyAutoencoder
    assert dict(loaded.hparams) == dict(model.hparams)
    assert (loaded.sigma, loaded.learning_rate) == (0.3, 0.01)
    expected, found = model.state_dict(), loaded.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not any(module.training for module in loaded.modules())
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}
    assert torch.equal(model.eval()(images(3, 1, 8, 8)), loaded(images(3, 1, 8, 8)))


def test_a_model_built_from_numpy_numbers_and_trained_without_a_datamodule_loads_too(tmp_path: Path) -> None:
    model, data = (
        NoisyAutoencoder(np.float64(0.3), np.array([1, 8, 8]), np.int64(4), 0.01, np.array([0.1, 0.5])),
        Bars(),
    )
    data.setup()
    trainer = silent_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(model, data.train_dataloader(), data.val_dataloader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_checkpoint(tmp_path / "last.ckpt")
    assert loaded.data is None
    assert (loaded.model.sigma, loaded.model.noise_range) == (0.3, [0.1, 0.5])


def test_checkpoint_holds_tensors_and_plain_values_only(content: dict[str, Any]) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            assert {type(key) for key in value} <= {str, int}
            check(list(value.values()))
        elif isinstance(value, list | tuple):
            for item in value:
                check(item)
        else:
            assert isinstance(value, torch.Tensor | str | int | float | bool | None)

    check([content[key] for key in ("state_dict", "hyper_parameters", "base_model", "data")])


def test_checkpoint_that_knows_of_no_noise_range_loads(content: dict[str, Any], tmp_path: Path) -> None:
    del content["hyper_parameters"]["noise_range"]
    torch.save(content, tmp_path / "fixed.ckpt")
    model = load_checkpoint(tmp_path / "fixed.ckpt").model
    assert (model.noise_range, model.sigma) == (None, 0.3)


def test_a_missing_file_and_a_folder_without_a_checkpoint_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.ckpt", "no such file")
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


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_is_refused(share: float, trained: tuple[Path, NoisyAutoencoder], tmp_path: Path) -> None:
    whole = trained[0].read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(path, "whole checkpoint .*damaged or of another format")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("first", ["th", "(", "0", "G", "J", "h", "]", "t", "\x80", "{", "#"])
def test_text_file_with_any_first_character_is_refused(first: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.ckpt"
    path.write_text(f"{first}is is\nno checkpoint\n", encoding="latin-1")
    assert_refused(path, "damaged or of another format")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(garbage=st.binary(max_size=40))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (lambda model, folder: {"state_dict": Evil(folder)}, "more than tensors and plain values, and such files are"),
        (lambda model, folder: model.state_dict(), "holds no Lightning module"),
        (lambda model, folder: torch.zeros(3), "holds no Lightning module"),
    ],
)
def test_what_else_a_file_may_hold_is_said(
    saved: Callable[[NoisyAutoencoder, Path], object],
    said: str,
    trained: tuple[Path, NoisyAutoencoder],
    tmp_path: Path,
) -> None:
    torch.save(saved(trained[1], tmp_path / "executed"), tmp_path / "other.pt")
    assert_refused(tmp_path / "other.pt", said)


def test_checkpoint_of_another_project_is_refused(tmp_path: Path) -> None:
    class Foreign(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

    trainer = silent_trainer()
    trainer.strategy.connect(Foreign())
    trainer.save_checkpoint(tmp_path / "foreign.ckpt")
    assert_refused(tmp_path / "foreign.ckpt", "one of NoisyAutoencoder, .*names no class of this project")


DESCRIBED = "the weights of the NoisyAutoencoder that it describes, "


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *(
            ({"base_model": name}, f"one of NoisyAutoencoder, .*is of class {re.escape(repr(name))}")
            for name in ("Reconstructor", "__import__", ["NoisyAutoencoder"])
        ),
        ({"state_dict": "partial"}, f"{DESCRIBED}.*Missing key"),
        ({"state_dict": "more"}, f"{DESCRIBED}.*Unexpected key 'more'"),
        *(({"state_dict": weights}, DESCRIBED) for weights in ([1.0], torch.zeros(2), {"network": 3})),
        ({"hyper_parameters": {"latent_dim": 5}}, f"{DESCRIBED}.*size mismatch"),
        ({"hyper_parameters": {"sigma": -1.0}}, "sigma must be a positive finite number, got -1.0"),
        ({"hyper_parameters": None}, "it has no hyperparameters"),
        ({"pytorch-lightning_version": None}, "it was not written by Lightning"),
    ],
)
def test_a_changed_checkpoint_is_refused(
    change: dict[str, Any], said: str, content: dict[str, Any], tmp_path: Path
) -> None:
    ((name, value),) = change.items()
    if value is None:
        del content[name]
    elif value == "partial":
        content[name].popitem()
    elif value == "more":
        content[name]["more"] = torch.zeros(1)
    elif name == "hyper_parameters":
        content[name].update(value)
    else:
        content[name] = value
    torch.save(content, tmp_path / "changed.ckpt")
    assert_refused(tmp_path / "changed.ckpt", said)
