import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datamodules import ImageFolder, PhotoFolder
from datamodules.image_files import decode, decode_all, decode_photo
from results.terminal import left_out_lines
from tests.datamodules.parts import noise

RED, WHITE = (255, 0, 0), (255, 255, 255)


SIZE = (21, 13)
PALETTE = Image.new("P", SIZE, 1)
PALETTE.putpalette([9, 9, 9, 20, 40, 60])
# Images of one colour, the ending of a format that keeps their mode, and their colour on white.
UNIFORM = {
    "1": (Image.new("1", SIZE, 1), "png", WHITE),
    "L": (Image.new("L", SIZE, 77), "png", (77, 77, 77)),
    "LA": (Image.new("LA", SIZE, (0, 51)), "png", (204, 204, 204)),
    "P": (PALETTE, "png", (20, 40, 60)),
    "RGB": (Image.new("RGB", SIZE, (1, 2, 3)), "bmp", (1, 2, 3)),
    "RGBA": (Image.new("RGBA", SIZE, (255, 0, 0, 51)), "webp", (255, 204, 204)),
    "clear RGBA": (Image.new("RGBA", SIZE, (10, 20, 30, 0)), "png", WHITE),
    "opaque RGBA": (Image.new("RGBA", SIZE, (10, 20, 30, 255)), "tiff", (10, 20, 30)),
    "CMYK": (Image.new("CMYK", SIZE, (0, 255, 255, 0)), "tif", RED),
    "CMYK JPEG": (Image.new("CMYK", SIZE, (0, 255, 255, 0)), "jpg", RED),
    "grey JPEG": (Image.new("L", SIZE, 128), "jpeg", (128, 128, 128)),
    "I;16": (Image.fromarray(np.full((13, 21), 200 * 257, np.uint16)), "png", (200, 200, 200)),
    "I;16 TIFF": (Image.fromarray(np.full((13, 21), 3 * 257 + 128, np.uint16)), "tif", (3, 3, 3)),
    "I": (Image.fromarray(np.full((13, 21), 3 * 257 + 129, np.int32)), "tif", (4, 4, 4)),
    "PGM of 16 bits": (Image.fromarray(np.full((13, 21), 65535, np.int32)), "pgm", WHITE),
}


@pytest.mark.parametrize("kind", UNIFORM)
def test_every_kind_of_image_becomes_opaque_rgb_or_grey(kind: str, tmp_path: Path) -> None:
    image, ending, colour = UNIFORM[kind]
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


def tiff(*entries: tuple[int, int, int, int], order: str = "<", tail: bytes = b"") -> bytes:
    """A TIFF directory with entries (tag, type, count, value or offset), as in EXIF data, and what follows it."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in sorted(entries):
        short = kind == 3 and count == 1
        head += struct.pack(f"{order}HHI", tag, kind, count) + struct.pack(
            f"{order}{'HH' if short else 'I'}", value, *[0] * short
        )
    return head + bytes(4) + tail


ORIENTATION, MAKE, RESOLUTION = 0x112, 0x10F, 0x11A
# on each side of the orientation: a rational over zero, one with a sign, and values that lie outside
DAMAGED = [
    [],
    [(RESOLUTION, 10, 1, 38)],
    [(MAKE, 7, 8, 2**16)],
    [(MAKE, 2, 2**32 - 1, 2**31)],
    [(0x8825, 9, 1, 2**32 - 597)],
]
TURNED_BY_SIX = (3, 32, 16)


def quarter() -> Image.Image:
    """Black, and its upper left quarter white."""
    image = Image.new("L", (32, 16), 0)
    image.paste(255, (0, 0, 16, 8))
    return image


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation: int, ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    quarter().save(tmp_path / f"a.{ending}", exif=exif, **({"lossless": True} if ending == "webp" else {}))
    pixels = decode_photo(tmp_path / f"a.{ending}", max_side=400)[0]
    assert pixels.shape == ((16, 32) if orientation < 5 else (32, 16))
    lower, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)  # where the white quarter is
    where = np.argwhere(pixels > 128)
    height, width = pixels.shape
    assert where.min(0).tolist() == [lower * height // 2, right * width // 2]
    assert where.max(0).tolist() == [(1 + lower) * height // 2 - 1, (1 + right) * width // 2 - 1]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("others", DAMAGED)
def test_a_damaged_other_tag_does_not_matter(
    others: list[tuple[int, int, int, int]], order: str, ending: str, tmp_path: Path
) -> None:
    exif = tiff((ORIENTATION, 3, 1, 6), *others, order=order, tail=struct.pack(f"{order}ii", -1, 0))
    quarter().save(tmp_path / f"a.{ending}", exif=b"Exif\0\0" + exif)
    assert decode_photo(tmp_path / f"a.{ending}", max_side=400).shape == TURNED_BY_SIX


NOT_ORIENTED = [
    *(tiff((ORIENTATION, 3, 1, value)) for value in (0, 9, 65535)),
    *(tiff((ORIENTATION, kind, 1, 6)) for kind in (1, 2, 5, 7, 10, 12, 99)),
    *(tiff((ORIENTATION, 3, count, value)) for count, value in ((3, 8), (0, 6))),
    *(b"", b"II", b"no exif data", b"II*\0\xff\xff\xff\xff", tiff((ORIENTATION, 3, 1, 6))[:15]),
]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_an_orientation_that_is_none_turns_nothing(ending: str, tmp_path: Path) -> None:
    for exif in NOT_ORIENTED:
        quarter().save(tmp_path / f"a.{ending}", exif=b"Exif\0\0" + exif)
        assert decode_photo(tmp_path / f"a.{ending}", max_side=400).shape == (3, 16, 32)


def test_an_orientation_stands_in_xmp_or_in_the_text_of_an_older_png_too(tmp_path: Path) -> None:
    quarter().save(tmp_path / "a.jpg", xmp=b'<x tiff:Orientation="6"/>')
    text = PngInfo()
    exif = b"Exif\0\0" + tiff((ORIENTATION, 3, 1, 6))
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=True)
    quarter().save(tmp_path / "b.png", pnginfo=text)
    for name in ("a.jpg", "b.png"):
        assert decode_photo(tmp_path / name, max_side=400).shape == TURNED_BY_SIX


def grey_tiff(data: bytes, *more: tuple[int, int, int, int], bits: int, white_is_zero: bool = False) -> bytes:
    """A TIFF of one row of four pixels."""
    plain = [(256, 4, 1, 4), (257, 4, 1, 1), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, int(not white_is_zero))]
    plain += [(277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, len(data)), *more]
    return tiff(*plain, (273, 4, 1, 14 + 12 * (len(plain) + 1)), tail=data)


def grey_png(data: bytes, *, bits: int, colour: int = 0, transparent: bytes) -> bytes:
    """A PNG of one row of four pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, colour, 0, 0, 0))
    body = chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + data))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "ending", "expected"),
    [
        (grey_tiff(np.array([0, 128, 129, 65535], "<u2").tobytes(), bits=16), "tif", [0, 0, 1, 255]),
        (
            grey_tiff(np.array([0, 257, 129, 65535], "<u2").tobytes(), bits=16, white_is_zero=True),
            "tif",
            [255, 254, 254, 0],
        ),
        (grey_tiff(bytes([0, 1, 200, 255]), bits=8, white_is_zero=True), "tif", [255, 254, 55, 0]),
        (grey_tiff(bytes.fromhex("000fff800008"), bits=12), "tif", [0, 255, 128, 0]),
        (grey_png(bytes([0b00011011]), bits=2, transparent=b"\0\1"), "png", [0, 255, 170, 255]),
        (grey_png(b"\x01\x8f", bits=4, transparent=b"\0\x08"), "png", [0, 17, 255, 255]),
        (grey_png(bytes([0, 1, 2, 255]), bits=8, transparent=b"\0\1"), "png", [0, 255, 2, 255]),
        (grey_png(bytes.fromhex("0000010101000202"), bits=16, transparent=b"\1\1"), "png", [0, 255, 1, 2]),
        (b"P5 4 1 1023\n" + np.array([0, 2, 512, 1023], ">u2").tobytes(), "pgm", [0, 0, 128, 255]),
    ],
)
def test_shades_are_those_of_the_file(content: bytes, ending: str, expected: list[int], tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    assert decode_photo(path, max_side=400)[:, 0].tolist() == [expected] * 3
    assert decode(path, height=1, width=4, mode="grey")[0, 0].tolist() == expected


SIGNED = (339, 3, 1, 2)
DNG = (50706, 1, 4, 0x401)


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (grey_tiff(bytes(4), SIGNED, bits=8), "a.tif", "signed pixels of unknown range"),
        (grey_tiff(bytes(8), SIGNED, bits=16), "a.tif", "signed pixels of unknown range"),
        (
            grey_png(bytes(24), bits=16, colour=2, transparent=bytes(6)),
            "a.png",
            "16-bit colours of which one is transparent",
        ),
        (
            grey_tiff(bytes(4), DNG, bits=8),
            "a.tif",
            "DNG, a raw file of a camera, cannot be decoded here: convert it to",
        ),
        (grey_tiff(bytes(4), bits=8), "a.NEF", "NEF, a raw file of a camera, cannot be decoded here: convert it to"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "a.heic", "HEIC cannot be decoded here: convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "a.jpg", "HEIC or AVIF under another name cannot be decoded here"),
        (b"<svg/>", "a.svg", "SVG cannot be decoded here: convert it to JPEG or PNG"),
    ],
)
def test_what_cannot_be_told_or_decoded_is_refused_by_name(
    content: bytes, name: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{reason}"):
        decode_photo(tmp_path / name, max_side=400)


def test_a_jpeg_that_calls_itself_heic_is_read(tmp_path: Path) -> None:
    quarter().save(tmp_path / "a.heic", format="JPEG")
    assert decode_photo(tmp_path / "a.heic", max_side=400).shape == (3, 16, 32)


UNREAD = [".heic", ".heif", ".avif", ".cr2", ".cr3", ".nef", ".dng", ".ARW", ".orf", ".raf", ".rw2", ".jxl", ".svg"]


def test_pictures_that_cannot_be_read_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        noise(4, 4, seed=number).save(tmp_path / f"{number}.png")
    for ending in UNREAD:
        (tmp_path / f"x{ending}").write_bytes(b"II*\0" + bytes(100))
    (tmp_path / "notes.txt").write_text("no picture")
    data = ImageFolder(str(tmp_path), image_size=(4, 4))
    data.setup()
    assert len(data.train_set) + len(data.test_set) == 8
    assert capsys.readouterr().out.startswith(
        f"13 of 21 image files in {tmp_path} cannot be read and are left out: 'x.ARW' (ARW, "
    )
    photos = PhotoFolder(str(tmp_path))
    photos.setup("test")
    assert {*photos.left_out} == {f"x{ending}" for ending in UNREAD}
    (line,) = left_out_lines(photos.left_out)
    assert line.startswith(
        "left out: 'x.ARW', ARW, a raw file of a camera, cannot be decoded here: convert it to JPEG or PNG; "
    )
    assert line.endswith("; 13 files in all")


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
