"""A finished certification, read from its folder once, an example at a time."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import lightning_modules
from center_smoothing import SMOOTHERS, BoxJaccard, BoxSetMatching, CertificateBase, Disagreement, Distance, Smoother
from center_smoothing.budget import Budget, Coverage
from center_smoothing.noise_kinds import NoiseKind, noise_kind
from center_smoothing.promise import promise_line
from center_smoothing.threats import NORMS
from lightning_modules import BaseModel
from results.consistency import check_rows
from results.folder import PICTURES, CertificationFolder, damaged
from results.identity import is_distance, known_distance
from results.rows import Row
from results.yardstick import Yardstick

# So many examples are shown by pictures at most, and so many of the first ones always.
MAX_SHOWN, _FIRST = 300, 10


@dataclass(frozen=True)
class Question:
    """What every example of a finished certification is asked."""

    # which radius is given: "eps_in" asks for certified output radii, "eps_out" for the largest input radii
    asked: Literal["eps_in", "eps_out"]
    radii: tuple[float, ...]  # (J,) distinct ones, at least 0; "bonferroni" counts them
    coverage: Coverage  # of the answers, see :meth:`center_smoothing.Certificate.eps_out`

    def answer(self, certificate: CertificateBase) -> tuple[float, ...]:
        """Return the answers of one example (J,).

        Raises:
            ValueError: if a radius is negative or NaN.
        """
        ask = certificate.eps_out if self.asked == "eps_in" else certificate.eps_in
        return tuple(np.atleast_1d(ask(self.radii, coverage=self.coverage)).tolist())

    def theorems(self, certificate: CertificateBase, answers: Sequence[float]) -> tuple[str, ...]:
        """Return which theorems give the certified output radii (J,) of one example; "none" where there is none."""
        return tuple(
            certificate.theorem(radius, coverage=self.coverage, answers=len(self.radii))
            if answer < math.inf
            else "none"
            for radius, answer in zip(self.radii, answers, strict=True)
        )


@dataclass(frozen=True)
class Answers(Question):
    """A table of certified radii: an answer of each example to each radius of a question."""

    # (J,) answers of each example, by its index in the data set: certified output radii, inf where there is none, if
    # eps_in was asked; the largest certified input radii, 0 where there is none, if eps_out was
    by_index: Mapping[int, tuple[float, ...]]
    sigma: float  # noise level, in units of x

    def column(self, position: int) -> list[float]:
        """Return the answers of all examples (N,) to one radius."""
        return [answers[position] for answers in self.by_index.values()]


@dataclass(frozen=True, eq=False)
class FinishedCertification:
    """What a finished certification says. Terminal, plots, html and W&B take from here and never from its files.

    :meth:`open` reads summary and rows. :meth:`read` goes through the examples, one of them in memory at a time: a few
    numbers of each are kept, and the outputs of those that are shown.
    """

    folder: CertificationFolder  # where it is
    summary: Mapping[str, Any]  # what summary.json holds
    rows: Sequence[Row]  # of certificates.csv
    answers: Mapping[Question, Answers] = field(default_factory=dict)  # by question
    non_finite: Mapping[int, int] = field(default_factory=dict)  # how often the model returned NaN or inf, by index
    # image, base output and smoothed output of the shown examples, by index and name
    outputs: Mapping[int, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    # between which outputs (2, *out) the smoothed output of a shown example stays at the first eps_in; only of
    # certificates that have such boxes
    boxes: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)
    budget: Budget | None = None  # of the certificates; None before they are read
    # what certified radii are compared with; empty before the outputs are read
    yardstick: Yardstick = field(default_factory=lambda: Yardstick(None))
    # by question for output radii, which statements of docs/theory.md give the answers (J,) of the median example;
    # "none" where there is no certificate
    theorems: Mapping[Question, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: CertificationFolder) -> FinishedCertification:
        """Read summary and rows of the folder of one noise level.

        Raises:
            ValueError: if it is none, is not finished, is damaged, or has several noise levels or smoothers.
        """
        summary = folder.read_summary() or {}
        config = summary.get("config", {})
        for name, one in (("smoother", "smoother"), ("sigma", "noise level")):
            if isinstance(config.get(name), list) and len(config[name]) > 1:
                parts = ", ".join(map(str, folder.parts())) or "its parts, once they are there"
                raise ValueError(f"--from must be the folder of one {one}, got {folder.path}: take one of {parts}")
        found = cls(folder, summary, folder.finished_rows(summary))
        there = len(found.by_index)
        wanted = config.get("num_examples", there)
        if there != wanted:
            raise ValueError(
                f"--from must be a finished folder, got {folder.path}: {there} of {wanted} examples are certified; "
                "run the same command again to go on"
            )
        return found

    def read(
        self, *questions: Question, shown: Collection[int] = (), distance: Distance | None = None
    ) -> FinishedCertification:
        """Return the same certification with the answers of all examples, each read and checked once.

        Args:
            questions: to every example.
            shown: indices of examples whose outputs are kept; those of the first ones always are.
            distance: of the yardstick; default: that of the configuration, if --distance has a name for it.

        Raises:
            ValueError: if the folder is damaged, its rows are not those that the distances give, or a radius of a
                question is negative or NaN.
        """
        with damaged(self.folder.path):
            yardstick = Yardstick(distance or known_distance(self.config))
        answers: dict[Question, dict[int, tuple[float, ...]]] = {question: {} for question in questions}
        theorems: dict[Question, tuple[str, ...]] = {}
        non_finite, outputs, boxes, budget = {}, {}, {}, None
        for position, (index, rows) in enumerate(self.by_index.items()):
            with damaged(self.folder.path):
                certificate, arrays = self.folder.read_example(rows[0], self.config)
                check_rows(rows, certificate, self.config)
                if position < _FIRST or index in shown:
                    outputs[index] = {name: arrays[name] for name in PICTURES}
                    box = certificate.box(
                        rows[0].eps_in, coverage=self.config.get("coverage", "pointwise"), answers=len(rows)
                    )
                    if box is not None:
                        boxes[index] = np.stack([ends.double().numpy() for ends in box])
            yardstick.add(index, arrays["smoothed"])
            budget, non_finite[index] = certificate.budget, certificate.non_finite
            for question, found in answers.items():
                found[index] = question.answer(certificate)
                if index == self._median_index and question.asked == "eps_in":
                    theorems[question] = question.theorems(certificate, found[index])
        return replace(
            self,
            answers={
                asked: Answers(asked.asked, asked.radii, asked.coverage, found, self.sigma)
                for asked, found in answers.items()
            },
            non_finite=non_finite,
            outputs=outputs,
            boxes=boxes,
            budget=budget,
            yardstick=yardstick,
            theorems=theorems,
        )

    def promise(self, coverage: Coverage) -> str:
        """Return the line on what holds, once the certificates are read."""
        assert self.budget is not None
        distance = self.config.get("distance", "the distance of the configuration")
        threat = str(self.config.get("threat", self.budget.noise_kind.norm))
        return promise_line(self.budget, distance, coverage=coverage, grid=self.config.get("grid"), threat=threat)

    @property
    def config(self) -> dict[str, Any]:
        """What the certificates depend on, in plain values."""
        config: dict[str, Any] = self.summary.get("config", {})
        return config

    @cached_property
    def by_index(self) -> dict[int, list[Row]]:
        """The rows of each example."""
        return rows_by_index(self.rows)

    @cached_property
    def _median_index(self) -> int:
        """The example with the median certified radius, the upper one of two in the middle, at its first eps_in."""
        ranked = sorted(self.by_index, key=lambda index: self.by_index[index][0].eps_out)
        return ranked[len(ranked) // 2]

    @property
    def sigma(self) -> float:
        """Noise level, in units of x."""
        return self.rows[0].sigma

    @property
    def noise_kind(self) -> NoiseKind:
        """The kind of noise."""
        budget = self.config.get("budget")
        return noise_kind(budget.get("noise", "gaussian") if isinstance(budget, Mapping) else "gaussian")

    @property
    def norm(self) -> str:
        """That eps_in is measured in, in words."""
        return NORMS[str(self.config.get("threat", self.noise_kind.norm))]

    @property
    def conversion(self) -> float:
        """How many times larger h is than eps_in / sigma, of the largest example."""
        return float(self.config.get("conversion", 1.0))

    @property
    def holds_boxes(self) -> bool:
        """Whether the outputs are boxes, or sets of them: the distance is 1 - overlap."""
        return any(is_distance(self.config, distance) for distance in (BoxJaccard(), BoxSetMatching()))

    @property
    def holds_labels(self) -> bool:
        """Whether the outputs are labels, or maps of labels."""
        return is_distance(self.config, Disagreement())

    @property
    def smoother(self) -> type[Smoother]:
        """The kind of smoothed function."""
        return SMOOTHERS[self.rows[0].smoother]

    @property
    def noise_is_on_images(self) -> bool:
        """Whether the noise is known, and added to the images themselves, not to what the model measures of them."""
        kind = getattr(lightning_modules, str(self.config.get("model")), None)
        if "sigma_map" in self.config:  # of which no file is kept
            return False
        return isinstance(kind, type) and issubclass(kind, BaseModel) and kind.point is BaseModel.point


def rows_by_index(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Return the rows of each example, in the order of the first ones."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.index, []).append(row)
    return found


def spread(rows: Sequence[Row], most: int = MAX_SHOWN) -> set[int]:
    """Return the indices of so many examples at most, evenly spread over the certified radii, both ends among them.

    Args:
        rows: of all examples; of each the first one counts.
        most: how many examples, at least 1.
    """
    radii = {index: group[0].eps_out for index, group in rows_by_index(rows).items()}
    ranked = sorted(radii, key=lambda index: radii[index])
    places = np.linspace(0, len(ranked) - 1, min(most, len(ranked))).astype(int)
    return {ranked[place] for place in places}
