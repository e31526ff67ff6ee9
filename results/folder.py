"""The folder that a certification writes: rows, distances, outputs and a summary."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from center_smoothing import SMOOTHERS, CertificateBase
from center_smoothing.files import atomic_write
from center_smoothing.safe_arrays import read_npy, read_npz
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from results.consistency import check_summary
from results.files import as_csv, locked
from results.identity import first_difference
from results.rows import Row, columns_of
from results.untrusted_files import check_inside, check_links, read_json, read_text

# What is kept of an example to be looked at.
PICTURES = ("image", "base", "smoothed")
# More than the line of titles of any table of ours.
_HEAD = 256


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turn any error into one that says that the certification is damaged: a stranger's values may lead to any kind.

    Raises:
        ValueError: in place of every other error.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} holds a damaged certification: {error!r}") from error


class CertificationFolder:
    """Reads and writes a certification folder.

    Args:
        path: the folder. Nothing is read or written before a method is called.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.table = self.path / "certificates.csv"
        self.summary = self.path / "summary.json"
        self.picture = self.path / "certificates.png"
        self.fractions = self.path / "certified_fraction.csv"
        self.fraction_picture = self.path / "certified_fraction.png"
        self.counterexamples = self.path / "counterexamples"

    def create(self) -> None:
        """Make the folder and its subfolders.

        Raises:
            ValueError: if something in it is a link to another place.
        """
        check_links(self.path, "--out")
        for folder in self._folders():
            folder.mkdir(parents=True, exist_ok=True)

    def remove_partial_files(self) -> None:
        """Remove what an interrupted process has left half written; no other process may be writing."""
        for folder in (*self._folders(), self.counterexamples):
            for partial in folder.glob(".*.partial"):
                partial.unlink(missing_ok=True)

    def locked(self) -> AbstractContextManager[None]:
        """Keep every other process that wants to write here out, until this one ends in whatever way.

        Raises:
            ValueError: on entering it, if another process has locked the folder.
        """
        return locked(
            self.path,
            f"--out must be a folder that no other process is writing to, got {self.path}: a certification is running "
            "there; wait for its end, or take another folder",
        )

    def read_summary(self) -> dict[str, Any] | None:
        """Return what summary.json holds; None if there is none.

        Raises:
            ValueError: if it is not a summary.
        """
        try:
            summary: dict[str, Any] = read_json(self.summary)
            check_summary(summary)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ValueError(f"{self.summary} is not the summary of a certification: {error}") from error
        return summary

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace summary.json as a whole. inf is written as Infinity, as Python's json reads it."""
        atomic_write(self.summary, json.dumps(summary, indent=2) + "\n")

    def rows(self) -> list[Row]:
        """Return all whole rows, also of interrupted processes, without duplicates, in the order written."""
        found: dict[tuple[int, float], Row] = {}
        # the processes' tables first: another process may be bringing them together in the one that is read last
        parts = [read_text(part) for part in sorted(self.path.glob("certificates.rank*.csv"))]
        for text in (read_text(self.table), *parts):
            whole = text.split("\n")[:-1]  # a line cut off by an interruption has no end
            try:
                for row in map(Row.from_text, csv.reader(whole)):
                    if row is not None:
                        found.setdefault((row.index, row.eps_in), row)
            except csv.Error as error:
                raise ValueError(f"{self.table} is not a table of certificates: {error}") from error
        return list(found.values())

    def finished(self, eps_in: Sequence[float]) -> set[int]:
        """Return the indices of examples of which everything is there: rows for all ``eps_in``, distances, outputs."""
        there: dict[int, set[float]] = {}
        for row in self.rows():
            there.setdefault(row.index, set()).add(row.eps_in)
        return {
            index
            for index, radii in there.items()
            if radii >= set(eps_in) and self.distances(index).is_file() and self.outputs(index).is_file()
        }

    def merge(self, order: Iterable[int], eps_in: Sequence[float]) -> list[Row]:
        """Bring all rows together in certificates.csv, by the examples' ``order`` and eps_in, and return them."""
        by_key = {(row.index, row.eps_in): row for row in self.rows()}
        rows = [by_key[index, radius] for index in order for radius in eps_in if (index, radius) in by_key]
        self.write_rows(rows)
        for part in self.path.glob("certificates.rank*.csv"):
            part.unlink(missing_ok=True)
        return rows

    def write_rows(self, rows: Iterable[Row]) -> None:
        """Write certificates.csv anew."""
        rows = list(rows)
        atomic_write(self.table, as_csv([columns_of(rows), *(row.as_text() for row in rows)]))

    def append(self, rows: Iterable[Row], *, part: str = "") -> None:
        """Append rows to certificates.csv, or to the file of one of several processes, in one flushed write.

        What is there already is not read, but for the first and the last few bytes.
        """
        table = self.path / f"certificates.{part}.csv" if part else self.table
        rows = list(rows)
        text = as_csv(row.as_text() for row in rows)
        with table.open("a+b") as file:
            file.seek(0)
            head = file.read(_HEAD)
            if len(head) < _HEAD and not head.partition(b"\n")[2]:  # titles at most, which may be those of other rows
                file.truncate(0)
                text = as_csv([columns_of(rows)]) + text
            else:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    text = ",cut\n" + text  # ends the line that an interruption cut off, so that it is none of a row
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def distances(self, index: int) -> Path:
        """Return where the sorted distances of an example are: float64 (m,)."""
        return self.path / "distances" / f"{index}.npy"

    def outputs(self, index: int) -> Path:
        """Return where image, base output, smoothed output and what the certificate keeps of an example are."""
        return self.path / "outputs" / f"{index}.npz"

    def description(self, index: int) -> Path:
        """Return where base output and smoothed output of an example stand in words, if they are no tensors."""
        return self.path / "outputs" / f"{index}.txt"

    def read_outputs(self, index: int) -> dict[str, NDArray[Any]]:
        """Return what :meth:`outputs` holds, by name.

        Raises:
            OSError: if it cannot be read.
            ValueError: if it is damaged, or a link that leads out of the folder.
        """
        check_inside(self.outputs(index), self.path)
        return read_npz(self.outputs(index))

    def _folders(self) -> tuple[Path, ...]:
        return self.path, self.path / "distances", self.path / "outputs"

    def parts(self) -> list[Path]:
        """Return the folders below this one that hold a certification each, where several were brought together."""
        return sorted(found.parent for where in ("*", "*/*") for found in self.path.glob(f"{where}/distances"))

    def finished_rows(self, summary: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a certification with this summary.

        Raises:
            ValueError: if that is empty, the rows are damaged, or no example is finished.
        """
        if not summary:
            raise ValueError(f"--from must be a folder that certify.py wrote, got {self.path}: it has no summary.json")
        with damaged(self.path):
            rows = self.rows()
        if not rows:
            raise ValueError(f"{self.path} holds no finished example: run the same command again to go on")
        return rows

    def read_example(self, row: Row, config: Mapping[str, Any]) -> tuple[CertificateBase, dict[str, NDArray[Any]]]:
        """Return the certificate of the example of a row, and what :meth:`outputs` holds, from one look at each file.

        Raises:
            Exception: of many kinds, for damaged files; see :func:`damaged`.
        """
        kind = SMOOTHERS[config.get("smoother", DEFAULT_SMOOTHER)].certificate_type
        arrays = self.read_outputs(row.index)
        kept = {name: array for name, array in arrays.items() if name not in PICTURES}
        check_inside(self.distances(row.index), self.path)
        distances = read_npy(self.distances(row.index))
        known = {**config, "sigma": row.sigma, "abstained": row.abstained, "smoothing_loss": row.smoothing_loss}
        return kind.from_kept(distances, kept, known, center=torch.from_numpy(arrays["smoothed"])), arrays

    def certificates(self) -> dict[int, CertificateBase]:
        """Return the certificates of all finished examples by index, to ask them anything without sampling.

        All of them are in memory together; ``FinishedCertification`` asks one at a time.

        Raises:
            ValueError: if the folder does not hold a certification, or a damaged one.
        """
        summary = self.read_summary() or {}
        by_index = {row.index: row for row in reversed(self.finished_rows(summary))}
        with damaged(self.path):
            config = summary["config"]
            return {index: self.read_example(row, config)[0] for index, row in reversed(by_index.items())}


def check_same(folder: CertificationFolder, config: Mapping[str, Any], checkpoint_sha256: str | None) -> bool:
    """Return whether a folder holds a certification already, of this configuration and checkpoint (None: pretrained).

    Raises:
        ValueError: if it holds the results of something else, with what differs.
    """
    summary = folder.read_summary()
    if summary is None:
        if folder.table.exists():
            raise ValueError(f"--out must be an empty or a certification folder, got {folder.path}: no summary.json")
        return False
    there = {**summary.get("config", {}), "checkpoint_sha256": summary.get("checkpoint_sha256")}
    difference = first_difference(there, {**config, "checkpoint_sha256": checkpoint_sha256})
    if difference is not None:
        name, before, now = difference
        raise ValueError(
            f"--out must be another folder, got {folder.path}: it holds a certification with {name}={before!r}, "
            f"not {now!r}"
        )
    return True
