import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.image_files import decode, decode_all

RED, WHITE = (255, 0, 0), (255, 255, 255)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8))


def uniform(kind: str) -> tuple[Image.Image, str, tuple[int, int, int]]:
    """An image of 13x21 pixels of one colour, the ending of a format that keeps its mode, and its colour on white."""
    size = (21, 13)
    palette = Image.new("P", size, 1)
    palette.putpalette([9, 9, 9, 20, 40, 60])
    cases = {
        "1": (Image.new("1", size, 1), "png", WHITE),
        "L": (Image.new("L", size, 77), "png", (77, 77, 77)),
        "LA": (Image.new("LA", size, (0, 51)), "png", (204, 204, 204)),
        "P": (palette, "png", (20, 40, 60)),
        "RGB": (Image.new("RGB", size, (1, 2, 3)), "bmp", (1, 2, 3)),
        "RGBA": (Image.new("RGBA", size, (255, 0, 0, 51)), "webp", (255, 204, 204)),
        "clear RGBA": (Image.new("RGBA", size, (10, 20, 30, 0)), "png", WHITE),
        "opaque RGBA": (Image.new("RGBA", size, (10, 20, 30, 255)), "tiff", (10, 20, 30)),
        "CMYK": (Image.new("CMYK", size, (0, 255, 255, 0)), "tif", RED),
        "CMYK JPEG": (Image.new("CMYK", size, (0, 255, 255, 0)), "jpg", RED),
        "grey JPEG": (Image.new("L", size, 128), "jpeg", (128, 128, 128)),
        "I;16": (Image.fromarray(np.full((13, 21), 200 * 257, np.uint16)), "png", (200, 200, 200)),
        "I;16 TIFF": (Image.fromarray(np.full((13, 21), 3 * 257 + 128, np.uint16)), "tif", (3, 3, 3)),
        "I": (Image.fromarray(np.full((13, 21), 3 * 257 + 129, np.int32)), "tif", (4, 4, 4)),
        "PGM of 16 bits": (Image.fromarray(np.full((13, 21), 65535, np.int32)), "pgm", WHITE),
    }
    return cases[kind]


KINDS = ["1", "L", "LA", "P", "RGB", "RGBA", "clear RGBA", "opaque RGBA", "CMYK", "CMYK JPEG", "grey JPEG"]
KINDS += ["I;16", "I;16 TIFF", "I", "PGM of 16 bits"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_becomes_opaque_rgb_or_grey(kind: str, tmp_path: Path) -> None:
    image, ending, colour = uniform(kind)
    image.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    if kind[0] in "1LIPRC" and " " not in kind:
        assert Image.open(tmp_path / f"a.{ending}").mode == kind
    for mode in ("rgb", "grey"):
        pixels = decode(tmp_path / f"a.{ending}", height=6, width=5, mode=mode)
        expected = colour if mode == "rgb" else [np.dot(colour, [0.299, 0.587, 0.114])]
        assert pixels.shape == (len(expected), 6, 5)
        tolerance = 1 if "JPEG" in kind or mode == "grey" else 0
        assert np.abs(pixels - np.reshape(expected, (-1, 1, 1))).max() <= tolerance


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 20, 40, 60])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.gif", transparency=1)
    pixels = decode(tmp_path / "a.gif", height=4, width=4, mode="rgb")
    assert pixels[:, 0, 0].tolist() == [9, 9, 9]
    assert pixels[:, 1:, 1:].min() == 255


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(values).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "I;16"
    pixels = decode(tmp_path / "a.png", height=16, width=16, mode="grey")
    assert pixels.ravel().tolist() == list(range(256))


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_photographs_are_turned_upright(ending: str, tmp_path: Path) -> None:
    image = Image.new("L", (32, 16), 0)
    image.paste(255, (0, 0, 16, 16))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right: the left half is the upper
    image.save(tmp_path / f"a.{ending}", exif=exif)
    pixels = decode(tmp_path / f"a.{ending}", height=32, width=16, mode="grey")[0]
    assert pixels[:15].min() > 240
    assert pixels[17:].max() < 15


@pytest.mark.parametrize("ending", ["gif", "png", "tif", "webp"])
def test_animations_give_their_first_frame(ending: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / f"a.{ending}").n_frames == 2
    assert decode(tmp_path / f"a.{ending}", height=8, width=8, mode="rgb").max(axis=(1, 2)).tolist() == pytest.approx(
        RED, abs=3
    )


@pytest.mark.parametrize("upright", [False, True])
def test_the_aspect_is_kept_and_the_middle_is_taken(upright: bool, tmp_path: Path) -> None:
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:, 16:48] = 255
    Image.fromarray(pixels.T if upright else pixels).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", height=16, width=16, mode="grey")[0, 1:-1, 1:-1].min() == 255
    whole = decode(tmp_path / "a.png", height=16 * (1 + upright), width=16 * (2 - upright), mode="grey")[0]
    assert abs(whole.mean() - 127.5) < 1


def test_scaling_down_averages(tmp_path: Path) -> None:
    Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)).save(tmp_path / "a.png")
    pixels = decode(tmp_path / "a.png", height=8, width=8, mode="grey")[0, 1:-1, 1:-1]
    assert np.abs(pixels.astype(int) - 127).max() <= 3


def test_small_and_extreme_images_are_scaled_up(tmp_path: Path) -> None:
    for number, size in enumerate([(1, 1), (1, 3000), (3000, 1), (3, 2)]):
        Image.new("RGB", size, (10, 20, 30)).save(tmp_path / f"{number}.png")
        pixels = decode(tmp_path / f"{number}.png", height=32, width=16, mode="rgb")
        assert pixels.shape == (3, 32, 16)
        assert pixels.reshape(3, -1).T.tolist() == [[10, 20, 30]] * 512


@pytest.mark.parametrize("size", [(512, 512), (700, 300), (300, 700)])
def test_a_large_jpeg_looks_the_same_as_its_png(size: tuple[int, int], tmp_path: Path) -> None:
    coarse = noise(5, 5).resize(size, Image.Resampling.BICUBIC)
    coarse.save(tmp_path / "a.png")
    coarse.save(tmp_path / "a.jpg", quality=95)
    a, b = (decode(tmp_path / name, height=24, width=32, mode="rgb").astype(int) for name in ("a.png", "a.jpg"))
    assert np.abs(a - b).max() <= 6


def test_no_other_program_is_started_for_files_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n")
    with pytest.raises(Image.UnidentifiedImageError):
        decode(tmp_path / "a.png", height=4, width=4, mode="rgb")


def test_the_same_images_come_out_each_time_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        noise(9, 14, seed=number).save(path)
    paths[3].write_bytes(b"")
    results = []
    for threads in (1, 5, 5):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        results.append(decode_all(paths, height=4, width=4, mode="rgb"))
    for result in results:
        assert torch.equal(result.images, results[0].images)
        assert result.positions == [0, 1, 2, *range(4, 40)]
        assert list(result.reasons) == [3]
