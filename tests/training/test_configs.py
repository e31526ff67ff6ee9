import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace

import datamodules
import lightning_modules
import train
from command_line import process
from datamodules import CIFAR10, MNIST, ImageDataModule, ImageFolder
from lightning_modules import NoisyAutoencoder, NoisyDenoiser, NoisyModule, NoisyReconstructor
from training import cli

FOLDER = Path(__file__).resolve().parents[2] / "configs"
# These are for certify.py; its tests parse them.
OF_CERTIFY = {"face_detection"}
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if path.stem not in OF_CERTIFY)
# What the files are named after: model, data, and the arguments that make the difference.
NAMED: dict[str, tuple[type[NoisyModule], type[ImageDataModule], dict[str, Any]]] = {
    "default": (NoisyAutoencoder, MNIST, {"variant": "digits", "noise_range": None}),
    "mnist_digits_noise_range": (NoisyAutoencoder, MNIST, {"variant": "digits", "noise_range": [0.1, 0.5]}),
    "mnist_digits_denoiser": (NoisyDenoiser, MNIST, {"variant": "digits", "noise_range": [0.1, 0.5]}),
    "image_folder_denoiser": (NoisyDenoiser, ImageFolder, {"root": "images", "mode": "rgb", "noise_range": None}),
    "mnist_autoencoder": (NoisyAutoencoder, MNIST, {"variant": "mnist"}),
    "mnist_reconstructor": (NoisyReconstructor, MNIST, {"variant": "digits", "num_measurements": 256}),
    "mnist_full_reconstructor": (NoisyReconstructor, MNIST, {"variant": "mnist", "num_measurements": 256}),
    "fashion_autoencoder": (NoisyAutoencoder, MNIST, {"variant": "fashion"}),
    "fashion_reconstructor": (NoisyReconstructor, MNIST, {"variant": "fashion", "num_measurements": 256}),
    "cifar10_autoencoder": (NoisyAutoencoder, CIFAR10, {"image_shape": [3, 32, 32]}),
    "cifar10_reconstructor": (NoisyReconstructor, CIFAR10, {"image_shape": [3, 32, 32], "num_measurements": 256}),
    "cifar10_autoencoder_folder": (NoisyAutoencoder, ImageFolder, {"root": "data/cifar10", "image_size": [32, 32]}),
    "image_folder_autoencoder": (NoisyAutoencoder, ImageFolder, {"root": "images", "mode": "rgb"}),
    "image_folder_reconstructor": (NoisyReconstructor, ImageFolder, {"root": "images", "num_measurements": 256}),
}


class Parsed(BaseException):  # no error: it ends the script where parsing ended
    pass


class ParsingOnly(cli.TrainingCLI):
    def before_instantiate_classes(self) -> None:
        raise Parsed(self.config)


@pytest.fixture(autouse=True)
def _train_stops_after_parsing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cli, "TrainingCLI", ParsingOnly)
    monkeypatch.setattr(process, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(process, "quiet_libraries", lambda **_: None)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
        yield


@cache
def parse(*arguments: str) -> Namespace:
    with pytest.raises(Parsed) as parsed:
        train.main(arguments)
    (config,) = parsed.value.args
    return config


def model_class(config: Namespace) -> type[NoisyModule]:
    return getattr(lightning_modules, config.model.class_path.removeprefix("lightning_modules."))


def data_class(config: Namespace) -> type[ImageDataModule]:
    return getattr(datamodules, config.data.class_path.removeprefix("datamodules."))


def shape_of_the_images(config: Namespace) -> list[int]:
    arguments = config.data.init_args
    if data_class(config) is ImageFolder:
        return [{"rgb": 3, "grey": 1}[arguments.mode], *arguments.image_size]
    return {MNIST: [1, 28, 28], CIFAR10: [3, 32, 32]}[data_class(config)]


def places(value: object, key: str, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where a key stands in nested dictionaries and lists."""
    if isinstance(value, list):
        return [place for item in value for place in places(item, key, path)]
    if not isinstance(value, dict):
        return []
    here = [path] if key in value else []
    return here + [place for name, item in value.items() for place in places(item, key, (*path, name))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_does_what_it_is_named_after(path: Path) -> None:
    default, config, written = parse(), parse(f"--config={path}"), yaml.safe_load(path.read_text())
    model_type, data_type, arguments = NAMED[path.stem]
    assert model_class(config) is model_type
    assert data_class(config) is data_type
    assert data_type(**config.data.init_args.as_dict()).batch_size == 64
    parsed = {**config.data.init_args.as_dict(), **config.model.init_args.as_dict()}
    assert {key: parsed[key] for key in arguments} == arguments
    shape, model = shape_of_the_images(config), model_type(**config.model.init_args.as_dict()).eval()
    with torch.no_grad():
        assert model(model.point(torch.zeros(2, *shape))).shape == (2, *shape)
    assert places(written, "sigma") == [()]
    assert config.sigma == config.model.init_args.sigma == config.center_smoothing.sigma == written["sigma"]
    changed = {"config", "sigma", "experiment", "model", "data", "center_smoothing.sigma"}
    for key, value in default.items():  # what is not said is as in the default
        if key not in changed and key.split(".")[0] not in set(written):
            assert config[key] == value, key
    for name in {"latent_dim", "learning_rate"} & set(config.model.init_args.keys()):  # a denoiser has no latent space
        assert config.model.init_args[name] == default.model.init_args[name]


def test_every_config_has_a_name_and_an_experiment_of_its_own() -> None:
    assert {path.stem for path in CONFIGS} == set(NAMED)
    assert len({yaml.safe_load(path.read_text())["experiment"] for path in CONFIGS}) == len(CONFIGS)


def test_command_line_wins_over_the_config() -> None:
    typed = ["--model.latent_dim=7", "--data.batch_size", "9", "--experiment=mine", "--sigma=0.7"]
    file = "mnist_reconstructor.yaml"
    for words in (
        [f"--config={FOLDER / file}", *typed], [*typed, "--config", str(FOLDER / file)],
        [*typed, "-c", str(FOLDER / file)],
    ):  # fmt: skip
        config = parse(*words)
        assert (config.model.init_args.latent_dim, config.data.init_args.batch_size) == (7, 9)
        assert (config.experiment, config.sigma, config.model.init_args.sigma) == ("mine", 0.7, 0.7)
        assert config.center_smoothing.sigma == 0.7


def test_typed_parts_win_over_files_and_classes_typed_after_them(tmp_path: Path) -> None:
    (tmp_path / "trainer.yaml").write_text("max_epochs: 7\nlog_every_n_steps: 3\n")
    words = ["--model.num_measurements=5", "--trainer.max_epochs=2", f"--trainer={tmp_path / 'trainer.yaml'}"]
    config = parse(*words, "--model=NoisyReconstructor", f"--config={FOLDER / 'mnist_autoencoder.yaml'}")
    assert (config.trainer.max_epochs, config.trainer.log_every_n_steps) == (2, 3)
    assert config.model.init_args.num_measurements == 5


def test_several_configs_keep_their_order() -> None:
    files = [f"--config={FOLDER / name}.yaml" for name in ("cifar10_autoencoder", "mnist_autoencoder")]
    assert parse(files[0], "--sigma=1", files[1]).experiment == "mnist-autoencoder"
    assert parse(files[1], "--sigma=1", files[0]).experiment == "cifar10-autoencoder"


def test_the_model_takes_the_shape_of_the_data_unless_it_was_given_one() -> None:
    words = [f"--config={FOLDER / 'image_folder_reconstructor.yaml'}", "--data.image_size=[64,60]", "--data.mode=grey"]
    assert parse(*words).model.init_args.image_shape == [1, 64, 60]
    assert parse(words[0], "--data=CIFAR10").model.init_args.image_shape == [3, 32, 32]
    assert parse(*words, "--model.image_shape=[3,8,8]").model.init_args.image_shape == [3, 8, 8]


def test_noise_range_may_be_given_on_the_command_line() -> None:
    config = parse("--model.noise_range=[0,1]")
    assert model_class(config)(**config.model.init_args.as_dict()).noise_range == [0, 1]
