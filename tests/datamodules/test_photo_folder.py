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

# What is said of a file that is not an image at all.
UNFIT = "no image, or a damaged one"


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8))


def folder(root: Path, **options: int) -> PhotoFolder:
    data = PhotoFolder(root=str(root), **options)
    data.prepare_data()
    data.setup("test")
    return data


def only_photo(root: Path, **options: int) -> Tensor:
    photos = folder(root, **options).test_set
    assert len(photos) == 1
    return photos[0]["image"]


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def truncated_jpeg(path: Path) -> None:
    noise(64, 64).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("size", [(30, 50), (50, 30), (1, 1), (400, 399), (7, 400)])
def test_a_photo_keeps_its_size_and_its_pixels(size: tuple[int, int], tmp_path: Path) -> None:
    photo = noise(*size)
    photo.save(tmp_path / "a.png")
    image = only_photo(tmp_path)
    assert image.shape == (3, *size)
    assert torch.equal((image * 255).round().to(torch.uint8), pixels_of(photo))


def test_photos_of_several_sizes_stand_in_one_folder(tmp_path: Path) -> None:
    sizes = [(30, 50), (50, 30), (10, 10)]
    for number, size in enumerate(sizes):
        noise(*size, seed=number).save(tmp_path / f"{number}.png")
    data = folder(tmp_path)
    assert [tuple(data.test_set[position]["image"].shape[1:]) for position in range(3)] == sizes


def test_an_example_is_float32_in_0_to_1_with_its_index(tmp_path: Path) -> None:
    for name, level in (("a", 0), ("b", 51), ("c", 255)):
        Image.new("RGB", (6, 5), (level, 0, 255)).save(tmp_path / f"{name}.png")
    data = folder(tmp_path)
    for position, red in enumerate((0.0, 0.2, 1.0)):
        example = data.test_set[position]
        assert set(example) == {"image", "index"}
        assert example["image"].dtype == torch.float32
        assert example["image"].shape == (3, 5, 6)
        expected = torch.tensor([red, 0.0, 1.0]).view(3, 1, 1).expand(3, 5, 6)
        torch.testing.assert_close(example["image"], expected)
        assert example["index"].dtype == torch.int64
        assert example["index"].item() == position


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((800, 400), 200, (200, 100)),
        ((400, 800), 200, (100, 200)),
        ((500, 500), 400, (400, 400)),
        ((401, 10), 400, (400, 10)),
        ((400, 300), 400, (400, 300)),
        ((3000, 1000), 90, (90, 30)),
        ((1000, 1), 400, (400, 1)),
        ((2, 900), 1, (1, 1)),
    ],
)
def test_a_side_that_is_too_long_is_made_smaller_in_proportion(
    size: tuple[int, int], max_side: int, expected: tuple[int, int], ending: str, tmp_path: Path
) -> None:
    Image.new("RGB", size, (10, 200, 90)).save(tmp_path / f"a.{ending}")
    image = only_photo(tmp_path, max_side=max_side)
    assert image.shape == (3, *expected[::-1])
    colour = torch.tensor([10.0, 200.0, 90.0]).view(3, 1, 1) / 255
    assert bool(((image - colour).abs() < 0.02).all())


def test_the_longest_side_is_400_unless_told_otherwise(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 600)).save(tmp_path / "a.png")
    assert only_photo(tmp_path).shape == (3, 200, 400)


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


def test_a_grey_photo_becomes_rgb(tmp_path: Path) -> None:
    grey = noise(12, 9).convert("L")
    grey.save(tmp_path / "a.png")
    image = only_photo(tmp_path)
    assert image.shape == (3, 12, 9)
    assert torch.equal((image[0] * 255).round().to(torch.uint8), torch.from_numpy(np.asarray(grey).copy()))
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_a_transparent_photo_stands_on_white(tmp_path: Path) -> None:
    photo = Image.new("RGBA", (3, 1), (255, 0, 0, 51))
    photo.putpixel((0, 0), (10, 20, 30, 0))
    photo.putpixel((1, 0), (10, 20, 30, 255))
    photo.save(tmp_path / "a.png")
    pixels = (only_photo(tmp_path) * 255).round()[:, 0].T
    assert pixels.tolist() == [[255, 255, 255], [10, 20, 30], [255, 204, 204]]


@pytest.mark.parametrize("max_side", [400, 16])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_photograph_on_its_side_is_turned_upright(ending: str, max_side: int, tmp_path: Path) -> None:
    photo = Image.new("RGB", (32, 16))
    photo.paste((255, 255, 255), (0, 0, 16, 16))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right: the left half is the upper
    photo.save(tmp_path / f"a.{ending}", exif=exif)
    image = only_photo(tmp_path, max_side=max_side)
    height = min(32, max_side)
    assert image.shape == (3, height, height // 2)
    assert image[:, : height // 2 - 2].min() > 0.9
    assert image[:, height // 2 + 2 :].max() < 0.1


def test_files_that_cannot_be_read_are_left_out_and_keep_their_number(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    noise(6, 4, seed=1).save(tmp_path / "b.png")
    noise(4, 6, seed=2).save(tmp_path / "deep" / "f.png")
    noise(5, 5, seed=3).save(tmp_path / "z.png")
    truncated_jpeg(tmp_path / "a.jpg")
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


def test_nothing_is_left_out_of_a_sound_folder(tmp_path: Path) -> None:
    noise(5, 5).save(tmp_path / "a.png")
    data = folder(tmp_path)
    assert data.left_out == {}
    assert data.names == ["a.png"]


def test_a_repaired_file_is_no_longer_left_out(tmp_path: Path) -> None:
    noise(5, 5).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    data = folder(tmp_path)
    assert list(data.left_out) == ["b.png"]
    noise(5, 5).save(tmp_path / "b.png")
    data.setup("test")
    assert data.left_out == {}
    assert len(data.test_set) == 2


def test_an_image_beyond_the_limit_of_pillow_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(4, 4).save(tmp_path / "a.png")
    noise(20, 20).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert folder(tmp_path).left_out == {"b.png": "400 pixels, Pillow's limit is 300"}


def test_hidden_and_other_files_do_not_count(tmp_path: Path) -> None:
    for name in ("a.png", "deep/er/b.JPG", ".hidden.png", ".thumbs/a.png", "deep/.cache/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise(8, 8).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.png").mkdir()
    data = folder(tmp_path)
    assert data.names == ["a.png", "deep/er/b.JPG"]
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


def missing(root: Path) -> str:
    return "no folder"


def a_file(root: Path) -> str:
    root.write_text("")
    return "a file"


def empty(root: Path) -> str:
    root.mkdir()
    (root / "notes.txt").write_text("no photo")
    return "holds no image file"


def broken(root: Path) -> str:
    root.mkdir()
    (root / "a.png").write_bytes(b"")
    truncated_jpeg(root / "b.jpg")
    return "none of its 2 image files can be read"


@pytest.mark.parametrize("make", [missing, a_file, empty, broken])
def test_a_folder_without_photos_is_refused_in_one_line(make: Callable[[Path], str], tmp_path: Path) -> None:
    said = make(tmp_path / "photos")
    data = PhotoFolder(root=str(tmp_path / "photos"))
    data.prepare_data()
    with pytest.raises(ValueError, match=r"^--data\.root must be a folder of photos, got ") as refused:
        data.setup("test")
    message = str(refused.value)
    assert said in message
    assert str(tmp_path / "photos") in message
    assert "\n" not in message


def test_a_relative_root_is_told_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"--data\.root") as refused:
        PhotoFolder().setup()
    assert str(tmp_path / "photos") in str(refused.value)


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
