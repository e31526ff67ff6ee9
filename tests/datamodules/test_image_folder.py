import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from datamodules import ImageFolder, IndexedImages
from tests.datamodules.parts import NO_IMAGES, noise, pixels_of, saved


def fill(root: Path, count: int, *, size: tuple[int, int] = (4, 4)) -> list[Path]:
    """PNG files, each of noise of its own, in two folders; their sorted paths."""
    paths = [root / f"{'ab'[number % 2]}" / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(*size, seed=number).save(path)
    return sorted(paths)


def folder(root: Path, stage: str | None = None, **options: Any) -> ImageFolder:  # noqa: ANN401  # any argument
    data = ImageFolder(**{"root": str(root), "image_size": [4, 4], **options})
    data.prepare_data()
    data.setup(stage)
    return data


def by_index(data: ImageFolder) -> dict[int, tuple[str, bytes]]:
    """Split and pixels of every image."""
    splits: dict[str, IndexedImages] = {"train": data.train_set, "test": data.test_set}
    return {
        int(index): (name, image.numpy().tobytes())
        for name, split in splits.items()
        for image, index in zip(split.images, split.indices, strict=True)
    }


def refusal(root: Path, **options: Any) -> str:  # noqa: ANN401  # any argument
    """What prepare_data and setup say alike."""
    messages = set()
    for step in ("prepare_data", "setup"):
        data = ImageFolder(**{"root": str(root), "image_size": [4, 4], **options})
        with pytest.raises(ValueError, match="must") as refused:
            getattr(data, step)()
        messages.add(str(refused.value))
    (message,) = messages
    assert "\n" not in message
    assert str(root) in message
    return message


@pytest.mark.parametrize("size", [(8, 12), (12, 8), (1, 1), (7, 7)])
@pytest.mark.parametrize("mode", ["rgb", "grey"])
def test_a_png_of_the_wanted_size_comes_out_as_it_is(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    channels = 3 if mode == "rgb" else 1
    for number in range(3):
        noise(*size, seed=number, channels=channels).save(tmp_path / f"{number}.png")
    data = folder(tmp_path, image_size=size, mode=mode)
    for split in (data.train_set, data.test_set):
        for image, index in zip(split.images, split.indices, strict=True):
            expected = np.asarray(Image.open(tmp_path / data.names[index])).reshape(*size, channels)
            assert image.dtype == torch.uint8
            assert torch.equal(image, torch.from_numpy(expected.transpose(2, 0, 1).copy()))


def test_names_are_sorted_paths_and_number_the_images(tmp_path: Path) -> None:
    paths = fill(tmp_path, 9)
    data = folder(tmp_path)
    assert data.names == [path.relative_to(tmp_path).as_posix() for path in paths]
    images = by_index(data)
    assert sorted(images) == list(range(9))
    for index, path in enumerate(paths):
        assert images[index][1] == pixels_of(Image.open(path)).numpy().tobytes()


def test_hidden_and_other_files_do_not_count(tmp_path: Path) -> None:
    for name in ("b/deep/er/a.JPG", "a.png", "c.WebP", "d.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise(4, 4).save(tmp_path / name)
    for name in (".hidden.png", ".thumbs/a.png", "b/.cache/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise(4, 4).save(tmp_path / name)
    for name in ("notes.txt", "labels.csv", "film.mpg", "drawing.eps", "paper.pdf", "png", "table.h5"):
        (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "folder.png").mkdir()
    assert folder(tmp_path).names == ["a.png", "b/deep/er/a.JPG", "c.WebP", "d.tiff"]


def test_links_are_followed_but_not_for_ever_and_nothing_comes_twice(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    fill(root, 4)
    fill(elsewhere, 2)
    (root / "z").symlink_to(elsewhere, target_is_directory=True)
    (root / "zz").symlink_to(elsewhere, target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "gone.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(root / "pipe.png")
    data = folder(root, test_fraction=0.5)
    assert data.names == [
        *("a/000.png", "a/002.png", "b/001.png", "b/003.png"),
        *("gone.png", "z/a/000.png", "z/b/001.png"),
    ]
    assert sorted(by_index(data)) == [0, 1, 2, 3, 5, 6]


def test_names_are_text_that_reports_can_hold(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    try:
        noise(4, 4).save(os.fsdecode(os.fsencode(tmp_path) + b"/c\xff.png"))
    except OSError:
        pytest.skip("names are Unicode on this file system")
    data = folder(tmp_path)
    assert data.names[-1] == "c\\udcff.png"
    assert len(by_index(data)) == 4


@given(count=st.integers(3, 12), test_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_splits_are_disjoint_and_complete(
    count: int, test_fraction: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / f"split{count}"
    if not root.exists():
        fill(root, count)
    data = folder(root, test_fraction=test_fraction)
    train, test = data.train_set.indices, data.test_set.indices
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(count))
    assert torch.equal(test, test.sort().values)
    assert len(train) >= 2
    assert len(test) >= 1
    wanted = round(count * test_fraction)
    if 1 <= wanted <= count - 2:
        assert len(test) == wanted


def test_the_split_depends_on_its_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 20)
    first = by_index(folder(tmp_path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        state = torch.get_rng_state()
        assert by_index(folder(tmp_path)) == first
        assert torch.equal(state, torch.get_rng_state())
    assert folder(tmp_path).test_set.indices.tolist() == [4, 5, 13, 19]
    assert by_index(folder(tmp_path, split_seed=1)) != first

    def backwards(*args: Any, walk: Any = os.walk, **options: Any) -> Iterator[Any]:  # noqa: ANN401  # of os.walk
        for path, folders, files in walk(*args, **options):
            folders.reverse()
            yield path, folders, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert by_index(folder(tmp_path)) == first


def test_folders_train_and_test_are_the_split(tmp_path: Path) -> None:
    fill(tmp_path / "train", 5)
    fill(tmp_path / "test", 3)
    fill(tmp_path / "validation", 2)
    noise(4, 4).save(tmp_path / "cover.png")
    data = folder(tmp_path, test_fraction=0.9, split_seed=5)
    assert data.test_set.indices.tolist() == [0, 1, 2]
    assert data.train_set.indices.tolist() == [3, 4, 5, 6, 7]
    assert len(data.names) == 8
    for split in ("train", "test"):
        assert all(data.names[index].startswith(f"{split}/") for index in getattr(data, f"{split}_set").indices)


JPEG, PNG = saved(noise(64, 64), "JPEG"), saved(noise(64, 64), "PNG")
DAMAGED = {
    "nothing": b"",
    "text": b"no image\n" * 100,
    "half a JPEG": JPEG[:2000],
    "the head of a JPEG": JPEG[:100],
    "half a PNG": PNG[:6000],
    "a flipped byte": PNG[:5000] + bytes([PNG[5000] ^ 255]) + PNG[5001:],
    "floating point": saved(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
    "32 bits": saved(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_keeps_its_number_and_moves_no_other(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fill(tmp_path, 12)
    whole = folder(tmp_path)
    assert capsys.readouterr().out == ""
    for index in (0, 7):
        paths[index].write_bytes(content)
        data = folder(tmp_path)
        assert data.names == whole.names
        assert by_index(data) == {other: image for other, image in by_index(whole).items() if other != index}
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        assert out.startswith(
            f"1 of 12 image files in {tmp_path} cannot be read and are left out: {data.names[index]!r}"
        )
        noise(4, 4, seed=int(paths[index].stem)).save(paths[index])
    assert by_index(folder(tmp_path)) == by_index(whole)


def test_the_first_few_are_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    paths = fill(tmp_path, 40)
    for path in paths[:20]:
        path.write_bytes(b"")
    data = folder(tmp_path)
    data.setup("fit")
    data.setup("test")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith(f"20 of 40 image files in {tmp_path} cannot be read")
    for index in range(3):
        assert data.names[index] in out
    assert data.names[3] not in out
    assert out.endswith("and 17 more\n")
    assert not recwarn.list


def test_one_process_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 10)[4].write_bytes(b"")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    data = folder(tmp_path)
    assert len(by_index(data)) == 9
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("limit", [99, 40])
def test_an_image_beyond_the_limit_of_pillow_is_left_out_without_warnings(
    limit: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    fill(tmp_path, 5)
    noise(10, 10).save(tmp_path / "z.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert sorted(by_index(folder(tmp_path))) == [0, 1, 2, 3, 4]
    assert "'z.png' (100 pixels, Pillow's limit is" in capsys.readouterr().out
    assert not recwarn.list


def test_certification_reads_the_test_images_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = fill(tmp_path, 40)
    whole = folder(tmp_path)
    paths[int(whole.train_set.indices[-1])].write_bytes(b"")
    data = folder(tmp_path, "test")
    assert torch.equal(data.test_set.images, whole.test_set.images)
    assert not hasattr(data, "train_set")
    assert capsys.readouterr().out == ""
    data.setup("fit")
    assert len(data.train_set) == len(whole.train_set) - 1
    assert capsys.readouterr().out.startswith("1 of 32 ")


@pytest.mark.parametrize("image_size", [(8, 12), [8, 12]])
def test_hyperparameters_are_plain_and_build_the_same(image_size: Any, tmp_path: Path) -> None:  # noqa: ANN401
    fill(tmp_path, 10)
    data = folder(tmp_path, image_size=image_size, mode="grey", test_fraction=0.4, split_seed=3, batch_size=5)
    expected = {
        **{"root": str(tmp_path), "image_size": [8, 12], "mode": "grey", "test_fraction": 0.4, "split_seed": 3},
        **{"batch_size": 5, "num_workers": 0},
    }
    assert json.loads(json.dumps(dict(data.hparams))) == dict(data.hparams) == expected
    torch.save(dict(data.hparams), tmp_path / "a.ckpt")
    again = ImageFolder(**torch.load(tmp_path / "a.ckpt", weights_only=True))
    again.setup()
    assert by_index(again) == by_index(data)
    assert isinstance(ImageFolder().hparams["image_size"], list)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("image_size", [32, [32], [32, 32, 3], [0, 32], [32, -4], [32.0, 32], ["32", "32"], "32", None],
         r"image_size must be two whole numbers.*\[32, 32\], got"),
        ("test_fraction", [0.0, 1.0, -0.1, 20, float("nan")], r"test_fraction must lie in \(0, 1\), got"),
        ("split_seed", [-1, 2**63, 0.5, True], "split_seed must be a whole number from 0"),
        ("mode", ["RGB"], "mode must be rgb or grey, got 'RGB'"),
    ],
)  # fmt: skip
def test_impossible_arguments_are_refused(name: str, values: list[Any], said: str) -> None:
    for value in values:
        with pytest.raises(ValueError, match=said):
            ImageFolder(**{name: value})


def broken(root: Path) -> None:
    for path in fill(root, 30):
        path.write_bytes(b"")


def empty_test(root: Path) -> None:
    fill(root / "train", 5)
    (root / "test").mkdir()


LEAST = "--data.root must hold at least 2 training images and 1 test image"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        *((make, ["--data.root must be a folder of images, got", said]) for said, make in NO_IMAGES.items()),
        (lambda root: fill(root, 1), [LEAST, "0 of 1 image files for training; add images"]),
        (lambda root: fill(root, 2), [LEAST, "1 of 2 image files for training; add images"]),
        (broken, [LEAST, "24 of 30 image files for training, and 24 cannot be read: 'a/000.png'",
                  "and 21 more; add images or mend these"]),
        (empty_test, ["0 of 5 image files for test; add images"]),
    ],
)  # fmt: skip
def test_a_folder_without_images_enough_is_one_clear_error(
    make: Callable[[Path], object], said: list[str], tmp_path: Path
) -> None:
    make(tmp_path / "images")
    message = refusal(tmp_path / "images")
    assert all(part in message for part in said)


def test_a_relative_folder_is_told_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"--data.root.*{tmp_path / 'images'}: there is no such folder"):
        ImageFolder().prepare_data()


def test_a_folder_below_that_cannot_be_listed_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 5)

    def walk(*_: Any, onerror: Any, **__: Any) -> Iterator[Any]:  # noqa: ANN401  # of os.walk
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "b")))
        yield from ()

    monkeypatch.setattr(os, "walk", walk)
    assert f"{tmp_path}: Permission denied: {tmp_path / 'b'}" in refusal(tmp_path)


def test_a_few_readable_images_among_many_broken_ones_are_enough(tmp_path: Path) -> None:
    for path in fill(tmp_path / "train", 40)[:38] + fill(tmp_path / "test", 40)[:39]:
        path.write_bytes(b"")
    data = folder(tmp_path)
    assert (len(data.train_set), len(data.test_set)) == (2, 1)


def test_images_beyond_half_of_the_memory_are_refused_with_a_size_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 10)
    memory = {"SC_PHYS_PAGES": 10 * 3 * 64 * 64 * 2, "SC_PAGE_SIZE": 1}
    monkeypatch.setattr(os, "sysconf", memory.__getitem__)
    folder(tmp_path, image_size=[64, 64])
    refusal(tmp_path, image_size=[64, 65])
    message = refusal(tmp_path, image_size=[128, 130])
    assert "image_size must let all 10 images fit" in message
    assert "[60, 64] fits, or at most 2 images" in message
    folder(tmp_path, image_size=[60, 64])
    folder(tmp_path, image_size=[110, 110], mode="grey")


def test_without_a_known_memory_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 10)
    monkeypatch.delattr(os, "sysconf")
    assert len(folder(tmp_path).names) == 10
