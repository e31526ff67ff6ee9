import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import PhotoFolder
from tests.datamodules.parts import NO_IMAGES, noise, pixels_of, saved

# What is said of a file that is not an image at all.
UNFIT = "no image, or a damaged one"


def folder(root: Path, **options: int) -> PhotoFolder:
    data = PhotoFolder(root=str(root), **options)
    data.prepare_data()
    data.setup("test")
    return data


def only_photo(root: Path, **options: int) -> Tensor:
    photos = folder(root, **options).test_set
    assert len(photos) == 1
    return photos[0]["image"]


def test_photos_keep_their_sizes_and_their_pixels(tmp_path: Path) -> None:
    photos = [noise(*size) for size in ((30, 50), (50, 30), (1, 1), (400, 399), (7, 400))]
    for number, photo in enumerate(photos):
        photo.save(tmp_path / f"{number}.png")
    data = folder(tmp_path)
    assert len(data.test_set) == len(photos)
    for position, photo in enumerate(photos):
        example = data.test_set[position]
        assert set(example) == {"image", "index"}
        assert example["image"].dtype == torch.float32
        assert torch.equal(example["image"], pixels_of(photo).float() / 255)
        assert example["index"].dtype == torch.int64
        assert example["index"].item() == position


@pytest.mark.parametrize(
    ("size", "max_side", "expected", "ending"),
    [
        ((1200, 600), None, (400, 200), "png"),
        ((800, 400), 200, (200, 100), "jpg"),
        ((400, 800), 200, (100, 200), "jpg"),
        ((500, 500), 400, (400, 400), "png"),
        ((401, 10), 400, (400, 10), "png"),
        ((400, 300), 400, (400, 300), "jpg"),
        ((3000, 1000), 90, (90, 30), "jpg"),
        ((1000, 1), 400, (400, 1), "png"),
        ((2, 900), 1, (1, 1), "png"),
    ],
)
def test_a_side_that_is_too_long_is_made_smaller_in_proportion(
    size: tuple[int, int], max_side: int | None, expected: tuple[int, int], ending: str, tmp_path: Path
) -> None:
    Image.new("RGB", size, (10, 200, 90)).save(tmp_path / f"a.{ending}")
    image = only_photo(tmp_path, **({"max_side": max_side} if max_side else {}))
    assert image.shape == (3, *expected[::-1])
    colour = torch.tensor([10.0, 200.0, 90.0]).view(3, 1, 1) / 255
    assert bool(((image - colour).abs() < 0.02).all())


def test_scaling_keeps_the_whole_photo(tmp_path: Path) -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 100:] = 255
    pixels[50:, :, 1] = 128
    Image.fromarray(pixels).save(tmp_path / "a.png")
    small = only_photo(tmp_path, max_side=20)
    assert small.shape == (3, 10, 20)
    assert small[0, :, :8].max() < 0.02
    assert small[0, :, 12:].min() > 0.98
    assert (small[1, 7:] - 128 / 255).abs().max() < 0.02


def test_files_that_cannot_be_read_are_left_out_and_keep_their_number(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    noise(6, 4, seed=1).save(tmp_path / "b.png")
    noise(4, 6, seed=2).save(tmp_path / "deep" / "f.png")
    noise(5, 5, seed=3).save(tmp_path / "z.png")
    (tmp_path / "a.jpg").write_bytes(saved(noise(64, 64), "JPEG")[:2000])
    (tmp_path / "c.png").write_bytes(b"")
    (tmp_path / "deep" / "e.jpg").write_text("no image\n" * 100)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = folder(tmp_path)
    assert data.names == ["a.jpg", "b.png", "c.png", "deep/e.jpg", "deep/f.png", "gone.png", "z.png"]
    assert set(data.left_out) == {"a.jpg", "c.png", "deep/e.jpg", "gone.png"}
    assert "truncated" in data.left_out["a.jpg"]
    assert (data.left_out["c.png"], data.left_out["deep/e.jpg"]) == (UNFIT, UNFIT)
    assert "No such file" in data.left_out["gone.png"]
    examples = [data.test_set[position] for position in range(len(data.test_set))]
    assert [int(example["index"]) for example in examples] == [1, 4, 6]
    for example, size in zip(examples, ((6, 4), (4, 6), (5, 5)), strict=True):
        assert example["image"].shape == (3, *size)
        with Image.open(tmp_path / data.names[int(example["index"])]) as photo:
            assert torch.equal((example["image"] * 255).round().to(torch.uint8), pixels_of(photo))


def test_a_repaired_file_is_no_longer_left_out(tmp_path: Path) -> None:
    noise(5, 5).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    data = folder(tmp_path)
    assert list(data.left_out) == ["b.png"]
    noise(5, 5).save(tmp_path / "b.png")
    data.setup("test")
    assert data.left_out == {}
    assert len(data.test_set) == 2


def test_a_name_that_is_no_text_can_stand_in_a_report(tmp_path: Path) -> None:
    noise(4, 4).save(tmp_path / "a.png")
    try:
        Path(f"{tmp_path}/b\udcff.png").write_bytes(b"")
    except OSError:
        pytest.skip("names are Unicode on this file system")
    data = folder(tmp_path)
    assert data.left_out == {"b\\udcff.png": UNFIT}
    json.dumps(data.names).encode()


def broken(root: Path) -> None:
    root.mkdir()
    (root / "a.png").write_bytes(b"")
    (root / "b.jpg").write_bytes(saved(noise(64, 64), "JPEG")[:2000])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        *zip(NO_IMAGES.values(), ("that is no folder", "that is a file", "it holds no image file"), strict=True),
        (broken, "none of its 2 image files can be read, such as 'a.png'"),
    ],
)
def test_a_folder_without_photos_is_refused_in_one_line(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    make(tmp_path / "photos")
    data = PhotoFolder(root=str(tmp_path / "photos"))
    data.prepare_data()
    with pytest.raises(ValueError, match=r"^--data\.root must be a folder of photos, got ") as refused:
        data.setup("test")
    message = str(refused.value)
    assert said in message
    assert str(tmp_path / "photos") in message
    assert "\n" not in message


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    noise(4, 4).save(tmp_path / "pictures" / "a.png")
    assert folder(Path("~/pictures")).names == ["a.png"]


@pytest.mark.parametrize("max_side", [0, -1, True, "a", 400.0, None])
def test_a_longest_side_that_is_no_number_of_pixels_is_refused(max_side: int) -> None:
    with pytest.raises(ValueError, match="max_side must be a whole number of at least 1") as refused:
        PhotoFolder(max_side=max_side)
    assert f"got {max_side!r}" in str(refused.value)


def test_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    noise(4, 4).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"--data must hold images of one size to train on.*PhotoFolder"):
        folder(tmp_path).train_dataloader()


def test_hyperparameters_are_plain_values(tmp_path: Path) -> None:
    hyperparameters = dict(PhotoFolder(root=str(tmp_path), max_side=123).hparams)
    assert hyperparameters == {"root": str(tmp_path), "max_side": 123}
    assert json.loads(json.dumps(hyperparameters)) == hyperparameters
    assert set(inspect.signature(PhotoFolder).parameters) == set(hyperparameters)
