"""Data sets that torchvision reads and downloads, where they are missing or damaged."""

import inspect
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import pytest
from torchvision import datasets
from torchvision.datasets import celeba as torchvision_celeba

from datamodules import CIFAR10, MNIST, CelebA, ImageDataModule


class Public(NamedTuple):
    make: Callable[..., ImageDataModule]
    name: str  # in the message
    otherwise: tuple[str, ...]  # what the message says to do instead
    downloader: tuple[object, str]  # what torchvision downloads with


PUBLIC = {
    "cifar10": Public(CIFAR10, "CIFAR10", ("configs/cifar10_autoencoder_folder.yaml", "digits"),
                      (datasets.CIFAR10, "download")),
    "mnist": Public(lambda **given: MNIST("mnist", **given), "MNIST", ("--data.variant digits",),
                    (datasets.MNIST, "download")),
    "fashion": Public(lambda **given: MNIST("fashion", **given), "FashionMNIST", ("--data.variant digits",),
                      (datasets.MNIST, "download")),
    "celeba": Public(CelebA, "CelebA", ("--data ImageFolder",),
                     (torchvision_celeba, "download_file_from_google_drive")),
}  # fmt: skip


def refusal(kind: str, root: Path | None = None, step: str = "prepare_data", *, download: bool = False) -> str:
    """The message of the error that a step must raise."""
    given: dict[str, Any] = {} if root is None else {"root": str(root)}
    with pytest.raises(ValueError, match=rf"^--data\.root must hold {PUBLIC[kind].name}, got") as refused:
        getattr(PUBLIC[kind].make(**given, download=download), step)()
    message = str(refused.value)
    assert str((root or Path("data")).absolute()) in message
    assert all(part in message for part in PUBLIC[kind].otherwise)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("kind", PUBLIC)
@pytest.mark.parametrize("step", ["prepare_data", "setup"])
def test_missing_data_set_without_download_is_one_clear_error(
    step: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "allow --data.download true" in refusal(kind, tmp_path / "here", step)
    monkeypatch.chdir(tmp_path)
    refusal(kind, None, step)  # a relative folder is told in full


@pytest.mark.parametrize("kind", PUBLIC)
@pytest.mark.parametrize(
    "failure",
    [
        URLError("Name or service not known"),
        RuntimeError("File not found or corrupted.\nTried https://..., got:\n<urlopen error>"),
        OSError(28, "No space left on device"),
        TimeoutError(),
        IncompleteRead(b"abc", 100),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_failed_download_is_one_clear_error(
    failure: Exception, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(*PUBLIC[kind].downloader, fail)
    message = refusal(kind, tmp_path, download=True)
    assert ("put it there by hand" if kind == "celeba" else "download it there") in message
    assert str(failure).splitlines()[0] in message if str(failure) else type(failure).__name__ in message


@pytest.mark.parametrize("kind", PUBLIC)
def test_hyperparameters_are_the_plain_arguments(kind: str, tmp_path: Path) -> None:
    data = PUBLIC[kind].make(root=str(tmp_path), download=False, batch_size=8)
    expected = {"root": str(tmp_path), "download": False, "batch_size": 8, "num_workers": 0}
    if isinstance(data, MNIST):
        expected["variant"] = kind
    assert dict(data.hparams) == expected
    assert set(inspect.signature(type(data)).parameters) == set(expected)
