"""Array files of strangers."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from center_smoothing import Certificate
from center_smoothing.safe_arrays import read_npy, read_npz

IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def claimed(shape: tuple[int, ...], descr: str = "<f8", content: bytes = b"") -> bytes:
    """A npy file that claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@IN_A_FOLDER
@given(
    array=st.sampled_from(["<f8", ">f4", "<i8", "|b1", "<U3"]).flatmap(
        lambda dtype: arrays(np.dtype(dtype), array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    fortran=st.booleans(),
)
def test_what_numpy_writes_comes_back(array: NDArray[np.generic], fortran: bool, tmp_path: Path) -> None:
    written = np.asfortranarray(array) if fortran else array
    np.save(tmp_path / "a.npy", written)
    np.savez(tmp_path / "a.npz", one=written, other=np.arange(3))
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == ["one", "other"]
    for each in (read_npy(tmp_path / "a.npy"), found["one"]):
        assert each.dtype == array.dtype
        np.testing.assert_array_equal(each, array)
    assert found["one"].flags.writeable


@pytest.mark.parametrize(
    "content",
    [
        claimed((10**13,)),
        claimed((2**62, 2**62, 2**62)),
        claimed((-1, -8), content=bytes(64)),
        claimed((3,), content=bytes(16)),
        claimed((1,), content=bytes(16)),
        claimed((1,), "|O", bytes(8)),
        claimed((1,), "<M8[s]", bytes(8)),
        claimed((1,), [("a", "<f8")], bytes(8)),  # type: ignore[arg-type]  # fields
        b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
        b"\x93NUMPY\x09\x00\x10\x00",
        b"",
        b"PK\x03\x04",
    ],
)
def test_no_array_and_claims_without_content_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy is not a whole \.npy file"):
        read_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(ValueError, match=r"a\.npz is not a whole \.npz file"):
        read_npz(tmp_path / "a.npz")


def test_compressed_and_overlapping_archives_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**5))
    with pytest.raises(ValueError, match="compressed"):
        read_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("a.npy", claimed((1000,), content=bytes(8000)))
        archive.filelist *= 4
    with pytest.raises(ValueError, match="its 4 arrays claim more"):
        read_npz(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        for number in range(300):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(ValueError, match="its 300 arrays"):
        read_npz(tmp_path / "c.npz")


@pytest.mark.parametrize("read", [read_npy, read_npz])
def test_a_pipe_is_not_waited_for(read: object, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read(tmp_path / "pipe")  # type: ignore[operator]
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")  # type: ignore[operator]


def test_certificates_of_their_own_are_read_so(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", certificate=np.array("{}"), distances=torch.zeros(3).numpy())
    with pytest.raises(ValueError, match=r"path must be a file written by Certificate\.save.*compressed"):
        Certificate.load(tmp_path / "a.npz")
