import errno
from pathlib import Path

import pytest
from filelock import FileLock

from results.files import locked


def test_a_second_one_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with locked(tmp_path, "first"), pytest.raises(ValueError, match=r"^second$"), locked(tmp_path, "second"):
        raise AssertionError
    with locked(tmp_path, "third"):
        pass


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "No locks available")])
def test_a_file_system_without_locks_is_named(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def acquire(lock: FileLock, timeout: float) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with locked(tmp_path, "refused"):
        pass
    assert capsys.readouterr().err == (
        f"warning: {tmp_path} is on a file system without locks: nothing keeps a second process from writing there\n"
    )


def test_other_errors_are_told(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(IsADirectoryError), locked(tmp_path, "refused"):
        raise AssertionError
