from pathlib import Path
from typing import IO

import numpy as np
import pytest

from center_smoothing.files import atomic_write


def test_text_bytes_and_what_a_function_writes_take_the_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content, expected in (
        ("\u03c3\n", b"\xcf\x83\n"),
        (b"\x00", b"\x00"),
        (lambda file: file.write(b"own"), b"own"),
    ):
        atomic_write(path, content)
        assert path.read_bytes() == expected
    atomic_write(path, lambda file: np.savez(file, a=np.arange(3)))
    with np.load(path) as arrays:
        assert arrays["a"].tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def fails(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        atomic_write(path, fails)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert caught.value.filename == str(path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none/file"):
        atomic_write(tmp_path / "none" / "file", "text")
