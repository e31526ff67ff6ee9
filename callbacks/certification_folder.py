"""The folder that a certification writes: rows, distances, outputs and a summary."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from callbacks.folder_consistency import check_rows, check_summary
from callbacks.folder_lock import locked
from callbacks.foreign_files import check_inside, check_links, read_json, read_text
from center_smoothing import Certificate, MeanBudget, MeanCertificate, SmoothedOutput, SmoothingBudget
from center_smoothing.budget import METHODS, Coverage
from center_smoothing.files import atomic_write
from center_smoothing.mean_certificate import MeanOutput
from center_smoothing.medians import upper_median
from center_smoothing.safe_arrays import read_npy, read_npz

AnyCertificate = Certificate | MeanCertificate
# Which smoothed function.
Smoother = Literal["center", "mean"]
# What is kept of an example to be looked at.
_PICTURES = ("image", "base", "smoothed")


@dataclass(frozen=True)
class Row:
    """One example at one eps_in, in the order of the columns of certificates.csv.

    Attributes:
        index: of the example in its data set.
        sigma: noise level, in units of x.
        eps_in: input radius, in units of x.
        eps_out: certified output radius; inf where there is none.
        smoothing_loss: d(f(x), center); inf where the smoothed function abstained.
        abstained: whether it did.
        n: ranked outputs, or those that are averaged.
        m: certification outputs that were drawn.
        delta: margin of the smoothed function; 0 for means.
        method: "exact" or "paper", or "mean".
        seconds: that the example took, for all its eps_in together, without attacks.
    """

    index: int
    sigma: float
    eps_in: float
    eps_out: float
    smoothing_loss: float
    abstained: bool
    n: int
    m: int
    delta: float
    method: str
    seconds: float

    @property
    def smoother(self) -> Smoother:
        """Which smoothed function the row is of."""
        return "mean" if self.method == "mean" else "center"

    def _can_be(self) -> bool:
        """Whether a certification can have written it."""
        radii = (self.eps_in, self.eps_out, self.smoothing_loss)
        return (
            all(0 <= count < 2**63 for count in (self.index, self.n, self.m))
            and 0.0 < self.sigma < math.inf
            and all(radius >= 0.0 for radius in radii)
            and self.method in (*METHODS, "mean")
        )

    def as_text(self) -> list[str]:
        """Numbers with all their digits, so that none is rounded to the unsafe side."""
        return [f"{value:.3f}" if name == "seconds" else str(value) for name, value in asdict(self).items()]

    @classmethod
    def of(
        cls, index: int, certificate: AnyCertificate, *, eps_in: Sequence[float], coverage: Coverage, seconds: float
    ) -> list[Row]:
        """The rows of one certified example, one for each of the ``eps_in``, in their order."""
        budget = certificate.budget
        radii = np.atleast_1d(certificate.eps_out(eps_in, coverage=coverage))
        return [
            cls(
                index=index,
                sigma=certificate.sigma,
                eps_in=radius_in,
                eps_out=float(radius_out),
                smoothing_loss=certificate.smoothing_loss,
                abstained=certificate.abstained,
                n=budget.n,
                m=certificate.m,
                delta=budget.delta,
                method=budget.method,
                seconds=seconds,
            )
            for radius_in, radius_out in zip(eps_in, radii, strict=True)
        ]

    @classmethod
    def from_text(cls, cells: Sequence[str]) -> Row | None:
        """The row that :meth:`as_text` wrote, or None for a line that was cut off."""
        last, attacked = len(COLUMNS) - 1, len(cells) == len(COLUMNS + ATTACK_COLUMNS)
        if not (attacked or len(cells) == len(COLUMNS)) or cells[5] not in ("True", "False") or "." not in cells[last]:
            return None
        try:
            numbers = [float(cell) for cell in cells[1:5]]
            index, n, m = (int(cells[position]) for position in (0, 6, 7))
            row = Row(index, *numbers, cells[5] == "True", n, m, float(cells[8]), cells[9], float(cells[last]))
            if attacked:
                row = AttackedRow(**vars(row), **dict(zip(ATTACK_COLUMNS, map(float, cells[last + 1 :]), strict=True)))
        except ValueError:
            return None
        return row if row._can_be() else None


@dataclass(frozen=True)
class AttackedRow(Row):
    """A row with what an attack within ``eps_in`` reached: columns after those of other rows.

    Attributes:
        attack_eps: distance between the smoothed outputs at x and at the attacked input; 0 where one abstained.
        attack_ratio: of ``attack_eps`` to ``eps_out``, see :func:`attack_ratio`.
        base_attack_eps: distance between the base outputs that an attack on the base model alone reached.
    """

    attack_eps: float
    attack_ratio: float
    base_attack_eps: float

    @property
    def contradicts(self) -> bool:
        """Whether the smoothed output moved further than certified."""
        return self.attack_eps > self.eps_out

    def _can_be(self) -> bool:
        ratio = attack_ratio(self.attack_eps, self.eps_out)
        return (
            super()._can_be() and self.attack_eps >= 0.0 and self.base_attack_eps >= 0.0 and self.attack_ratio == ratio
        )

    @classmethod
    def of_row(cls, row: Row, *, attack_eps: float, base_attack_eps: float) -> AttackedRow:
        """A row with what an attack reached."""
        ratio = attack_ratio(attack_eps, row.eps_out)
        return cls(**vars(row), attack_eps=attack_eps, attack_ratio=ratio, base_attack_eps=base_attack_eps)


COLUMNS = tuple(field.name for field in fields(Row))
ATTACK_COLUMNS = tuple(field.name for field in fields(AttackedRow))[len(COLUMNS) :]


def attack_ratio(attack_eps: float, eps_out: float) -> float:
    """Which share of a certified radius an attack reached: above 1 one of the two is wrong.

    0 where nothing is certified, and so nothing contradicted.

    Example:
        >>> attack_ratio(3.0, 12.0), attack_ratio(3.0, math.inf), attack_ratio(0.0, 0.0), attack_ratio(1.0, 0.0)
        (0.25, 0.0, 0.0, inf)
    """
    if attack_eps == 0.0 or math.isinf(eps_out):
        return 0.0
    return attack_eps / eps_out if eps_out > 0.0 else math.inf


def attacked_rows(rows: Iterable[Row]) -> list[AttackedRow]:
    """Those that an attack belongs to."""
    return [row for row in rows if isinstance(row, AttackedRow)]


def columns_of(rows: Iterable[Row]) -> tuple[str, ...]:
    """The columns of a table: those of attacks only where there were any."""
    return COLUMNS + ATTACK_COLUMNS if attacked_rows(rows) else COLUMNS


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
        """What summary.json holds; None if there is none.

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
        """All whole rows, those of interrupted processes included, without duplicates, in the order written."""
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
        """Indices of the examples of which everything is there: rows for all ``eps_in``, distances, outputs."""
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
        rows, text = list(rows), io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns_of(rows))
        writer.writerows(row.as_text() for row in rows)
        atomic_write(self.table, text.getvalue())

    def append(self, rows: Iterable[Row], *, part: str = "") -> None:
        """Append rows to certificates.csv, or to the file of one of several processes, in one flushed write."""
        table = self.path / f"certificates.{part}.csv" if part else self.table
        rows, text = list(rows), io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        there = table.read_bytes() if table.exists() else b""
        if not there.partition(b"\n")[2]:  # a header at most, which may be that of other rows
            table.unlink(missing_ok=True)
            writer.writerow(columns_of(rows))
        elif not there.endswith(b"\n"):
            text.write(",cut\n")  # ends the line that an interruption cut off, so that it is none of a row
        writer.writerows(row.as_text() for row in rows)
        with table.open("a") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())

    def distances(self, index: int) -> Path:
        """Where the sorted distances of an example are: float64 (m,)."""
        return self.path / "distances" / f"{index}.npy"

    def outputs(self, index: int) -> Path:
        """Where the image, the base output, the smoothed output and what the certificate keeps of an example are."""
        return self.path / "outputs" / f"{index}.npz"

    def description(self, index: int) -> Path:
        """Where base output and smoothed output of an example stand in words, if they are no tensors."""
        return self.path / "outputs" / f"{index}.txt"

    def read_outputs(self, index: int) -> dict[str, NDArray[Any]]:
        """What :meth:`outputs` holds, by name.

        Raises:
            OSError: if it cannot be read.
            ValueError: if it is damaged, or a link that leads out of the folder.
        """
        check_inside(self.outputs(index), self.path)
        return read_npz(self.outputs(index))

    def _folders(self) -> tuple[Path, ...]:
        return self.path, self.path / "distances", self.path / "outputs"

    def parts(self) -> list[Path]:
        """The folders below this one that hold a certification each, where several were brought together."""
        return sorted(found.parent for where in ("*", "*/*") for found in self.path.glob(f"{where}/distances"))

    def certificates(self) -> dict[int, AnyCertificate]:
        """The certificates of all finished examples by index, to ask them anything without sampling.

        Raises:
            ValueError: if the folder does not hold a certification, or a damaged one.
        """
        summary = self.read_summary()
        if summary is None:
            raise ValueError(f"--from must be a folder that certify.py wrote, got {self.path}: it has no summary.json")
        try:
            restored, found = _restoration(summary["config"]), {}
            for row in self.rows():
                if row.index not in found:
                    arrays = self.read_outputs(row.index)
                    center = torch.from_numpy(arrays["smoothed"])
                    kept = {name: array for name, array in arrays.items() if name not in _PICTURES}
                    check_inside(self.distances(row.index), self.path)
                    distances = read_npy(self.distances(row.index))
                    found[row.index] = restored(row, center, distances, kept)
        except Exception as error:  # what a stranger's values lead to may be of any kind
            raise ValueError(f"{self.path} holds a damaged certification: {error!r}") from error
        if not found:
            raise ValueError(f"{self.path} holds no finished example: run the same command again to go on")
        return found

    def check_consistent(self, certificates: Mapping[int, AnyCertificate]) -> None:
        """See that certificates.csv holds the very radii that the distances give.

        Args:
            certificates: of :meth:`certificates`.

        Raises:
            ValueError: if it does not.
        """
        try:
            check_rows(self.rows(), certificates, (self.read_summary() or {})["config"])
        except Exception as error:  # what a stranger's values lead to may be of any kind
            raise ValueError(f"{self.path} holds a damaged certification: {error!r}") from error


# A certificate from its row, its center, its distances and what else was kept of it.
_Restoration = Callable[[Row, torch.Tensor, NDArray[np.float64], Mapping[str, NDArray[Any]]], AnyCertificate]


def _restoration(config: Mapping[str, Any]) -> _Restoration:
    """How certificates come back from disk, as the configuration says what they are of."""
    if config.get("smoother") == "mean":
        mean_budget = MeanBudget(**config["budget"])
        return lambda row, center, distances, kept: MeanCertificate.from_kept(
            distances,
            kept,
            sigma=row.sigma,
            budget=mean_budget,
            output=MeanOutput(center, row.abstained),
            smoothing_loss=row.smoothing_loss,
        )
    budget, relaxation = SmoothingBudget(**config["budget"]), float(config["relaxation"])
    without_probes = {"probe_sizes": np.zeros(0)} if "tuple_sizes" not in config["budget"] else None  # as once written
    return lambda row, center, distances, kept: Certificate.from_kept(
        distances,
        without_probes or kept,
        sigma=row.sigma,
        relaxation=relaxation,
        budget=budget,
        output=SmoothedOutput(center, math.nan, math.nan, row.abstained),
        smoothing_loss=row.smoothing_loss,
    )


def summarise(rows: Sequence[Row], sigma: float) -> list[dict[str, float | int]]:
    """Medians and rates by eps_in: the ``results`` of summary.json. Abstentions count as inf (theory T9)."""
    results: list[dict[str, float | int]] = []
    for eps_in in dict.fromkeys(row.eps_in for row in rows):
        group = [row for row in rows if row.eps_in == eps_in]
        attacked = attacked_rows(group)
        results.append(
            {
                "eps_in": eps_in,
                "h": round(eps_in / sigma, 6),  # the same number for all noise levels of one h
                "median_eps_out": upper_median(row.eps_out for row in group),
                "median_smoothing_loss": upper_median(row.smoothing_loss for row in group),
                "abstention_rate": sum(row.abstained for row in group) / len(group),
                "num_examples": len(group),
                **(_attack_summary(attacked) if attacked else {}),
            }
        )
    return results


def _attack_summary(rows: Sequence[AttackedRow]) -> dict[str, float]:
    """Of attacked rows of one eps_in."""
    reached = {"attack_eps": [row.attack_eps for row in rows], "base_attack_eps": [row.base_attack_eps for row in rows]}
    return {
        "max_attack_ratio": max(row.attack_ratio for row in rows),
        **{f"median_{name}": upper_median(values) for name, values in reached.items()},
    }


def line_of(result: Mapping[str, Any], *, several_levels: bool) -> str:
    """Return what sets the line that a result belongs to apart from other lines; "" where there is only one.

    Args:
        result: of summary.json; where several folders are compared with the ``label`` of its folder.
        several_levels: whether there are several noise levels, which change along a line of one h.

    Example:
        >>> line_of({"h": 1.5, "eps_in": 0.3}, several_levels=True)
        'h=1.5'
    """
    return str(result.get("label", f"h={result['h']:g}" if several_levels else ""))


def lines(results: Sequence[dict[str, Any]], *, several_levels: bool) -> dict[str, list[dict[str, Any]]]:
    """Return the results of each line, see :func:`line_of`, by ascending h and eps_in."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda result: (result["h"], result["eps_in"])):
        found.setdefault(line_of(result, several_levels=several_levels), []).append(result)
    return found
