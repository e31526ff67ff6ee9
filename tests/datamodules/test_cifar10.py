import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from datamodules import CIFAR10

FOLDER = "cifar-10-batches-py"
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def batch(count: int, seed: int) -> dict[str, object]:
    """Pixels as in CIFAR10's files: (count, 3072), red, green and blue planes of 32 rows of 32."""
    generator = np.random.default_rng(seed)
    return {
        "data": generator.integers(256, size=(count, 3072), dtype=np.uint8),
        "labels": generator.integers(10, size=count).tolist(),
    }


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Images (4, 3, 32, 32) by name of the file in CIFAR10's format; torchvision is told the sums of these files."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    contents = {name: batch(4, seed) for seed, name in enumerate([*TRAIN, "test_batch"])}
    sums = {}
    for name, content in {**contents, "batches.meta": {"label_names": list("abcdefghij")}}.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, sums[name]] for name in TRAIN])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": sums["batches.meta"]})
    return {name: np.asarray(content["data"]).reshape(-1, 3, 32, 32) for name, content in contents.items()}


def refusal(data: CIFAR10, step: str = "prepare_data") -> str:
    with pytest.raises(ValueError, match=r"--data\.root must hold CIFAR10, got") as refused:
        getattr(data, step)()
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("download", [False, True])
def test_images_are_read_from_their_files(download: bool, batches: dict[str, np.ndarray], tmp_path: Path) -> None:
    data = CIFAR10(root=str(tmp_path), download=download)
    data.prepare_data()
    data.setup()
    expected = {"train": np.concatenate([batches[name] for name in TRAIN]), "test": batches["test_batch"]}
    for name, split in (("train", data.train_set), ("test", data.test_set)):
        assert split.images.dtype == torch.uint8
        assert torch.equal(split.images, torch.from_numpy(expected[name]))
        assert torch.equal(split.indices, torch.arange(len(expected[name])))
        assert torch.equal(split[1]["image"], split.images[1].float() / 255)


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("step", ["prepare_data", "setup"])
def test_damaged_data_set_is_one_clear_error(step: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / FOLDER / name
    path.write_bytes(path.read_bytes()[:-10])
    assert str(tmp_path) in refusal(CIFAR10(root=str(tmp_path), download=False), step)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.path,))


@pytest.mark.usefixtures("batches")
def test_files_of_other_content_are_not_unpickled(tmp_path: Path) -> None:
    (tmp_path / FOLDER / "test_batch").write_bytes(pickle.dumps(Trap(tmp_path / "executed")))
    refusal(CIFAR10(root=str(tmp_path), download=False))
    assert not (tmp_path / "executed").exists()
