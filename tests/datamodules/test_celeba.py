import builtins
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from datamodules.celeba import CelebA

TRAIN, VALID, TEST = 0, 1, 2
PARTITION = {1: TRAIN, 2: TEST, 3: TRAIN, 4: VALID, 5: TEST, 6: TRAIN, 7: TRAIN, 8: TEST}


def write_celeba(root: Path, partition: Mapping[int, int]) -> dict[int, np.ndarray]:
    """Photos and lists in CelebA's formats, in torchvision's layout; returns the photos' pixels."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    generator = np.random.default_rng(0)
    pixels = {}
    for number in partition:
        colours = generator.integers(256, size=(5, 4, 3)).astype(np.uint8)
        path = folder / "img_align_celeba" / f"{number:06d}.jpg"
        Image.fromarray(colours).resize((178, 218)).save(path, quality=95)
        pixels[number] = np.asarray(Image.open(path).convert("RGB"))

    def write(name: str, values: str, *, header: str | None = None) -> None:
        first = [] if header is None else [str(len(partition)), header]
        lines = [f"{number:06d}.jpg {values}" for number in partition]
        (folder / name).write_text("\n".join([*first, *lines]) + "\n")

    write("list_attr_celeba.txt", " ".join(["-1", " 1"] * 20), header=" ".join(f"attribute_{k}" for k in range(40)))
    write("list_bbox_celeba.txt", "   95  71 226 313", header="image_id x_1 y_1 width height")
    write("list_landmarks_align_celeba.txt", " 69 109 106 113 77 142 73 152 108 154", header="a b c d e f g h i j")
    write("identity_CelebA.txt", "2880")
    lines = [f"{number:06d}.jpg {split}" for number, split in partition.items()]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return pixels


@pytest.fixture(autouse=True)
def own_files(monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    """Files count as CelebA's whatever their checksums are, and the network is out of reach."""
    names = [(file_id, None, name) for file_id, _, name in datasets.CelebA.file_list]
    monkeypatch.setattr(datasets.CelebA, "file_list", names)


def read(root: Path, **options: object) -> CelebA:
    data = CelebA(str(root), **options)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("download", [False, True])
def test_splits_are_those_of_the_partition_file(download: bool, tmp_path: Path) -> None:
    write_celeba(tmp_path, PARTITION)
    data = read(tmp_path, download=download)
    assert data.train_set.indices.tolist() == [1, 3, 6, 7]
    assert data.test_set.indices.tolist() == [2, 5, 8]
    assert (len(data.train_set), len(data.test_set)) == (4, 3)


def test_photos_and_indices_belong_together(tmp_path: Path) -> None:
    pixels = write_celeba(tmp_path, PARTITION)
    for images in (read(tmp_path).train_set, read(tmp_path).test_set):
        for position in range(len(images)):
            example = images[position]
            assert set(example) == {"image", "index"}
            assert example["image"].shape == (3, 218, 178)
            assert example["image"].dtype == torch.float32
            assert example["index"].dtype == torch.int64
            assert example["index"] == images.indices[position]
            expected = torch.from_numpy(pixels[int(example["index"])].copy()).permute(2, 0, 1)
            assert torch.equal(example["image"], expected.float() / 255)


def test_photos_are_decoded_when_asked_for(tmp_path: Path) -> None:
    write_celeba(tmp_path, PARTITION)
    data = read(tmp_path)
    Image.new("RGB", (178, 218), (255, 0, 51)).save(tmp_path / "celeba" / "img_align_celeba" / "000005.jpg")
    image = data.test_set[1]["image"]
    assert image.mean(dim=(1, 2)).tolist() == pytest.approx([1.0, 0.0, 0.2], abs=0.01)


def test_grey_photo_has_three_channels(tmp_path: Path) -> None:
    write_celeba(tmp_path, PARTITION)
    Image.new("L", (178, 218), 51).save(tmp_path / "celeba" / "img_align_celeba" / "000002.jpg")
    image = read(tmp_path).test_set[0]["image"]
    assert image.shape == (3, 218, 178)
    assert image.mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches(num_workers: int, tmp_path: Path) -> None:
    write_celeba(tmp_path, PARTITION)
    data = read(tmp_path, batch_size=2, num_workers=num_workers)
    batches = list(data.test_dataloader())
    assert [len(batch["image"]) for batch in batches] == [2, 1]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [2, 5, 8]
    seen = torch.cat([batch["index"] for batch in data.train_dataloader()])
    assert seen.sort().values.tolist() == [1, 3, 6, 7]


def refusal(root: Path, step: str, *, download: bool) -> str:
    """The message of the error that a step must raise."""
    with pytest.raises(ValueError, match=r"^--data\.root must hold CelebA, got") as refused:
        getattr(CelebA(str(root), download=download), step)()
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_missing_gdown_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = builtins.__import__

    def without_gdown(name: str, *arguments: object, **options: object) -> object:
        if name == "gdown":
            raise ModuleNotFoundError("No module named 'gdown'", name="gdown")
        return import_module(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_gdown)
    message = refusal(tmp_path, "prepare_data", download=True)
    assert "gdown" in message
    assert "by hand" in message


def test_missing_photos_are_one_clear_error(tmp_path: Path) -> None:
    write_celeba(tmp_path, PARTITION)
    (tmp_path / "celeba" / "img_align_celeba" / "000005.jpg").unlink()
    assert "1 photos such as 000005.jpg" in refusal(tmp_path, "setup", download=False)


@pytest.mark.parametrize("name", ["list_eval_partition.txt", "list_attr_celeba.txt", "identity_CelebA.txt"])
def test_damaged_list_is_one_clear_error(name: str, tmp_path: Path) -> None:
    write_celeba(tmp_path, PARTITION)
    path = tmp_path / "celeba" / name
    path.write_text(path.read_text().replace("000003.jpg", "000003.jpg x"))
    refusal(tmp_path, "setup", download=False)


def test_partition_without_test_photos_is_one_clear_error(tmp_path: Path) -> None:
    write_celeba(tmp_path, dict.fromkeys(range(1, 5), TRAIN))
    refusal(tmp_path, "prepare_data", download=False)
