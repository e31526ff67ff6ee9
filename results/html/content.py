"""What a report in HTML shows: its curves, examples and words. ``page.py`` makes the page of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from center_smoothing.threats import NORMS
from results.certified_fraction import FractionCurve
from results.plots.examples import Picture
from results.rows import Row


@dataclass(frozen=True)
class Curve:
    """Medians of one set of examples against eps_in. inf stands for "none": a gap of the line, said in words.

    Sequences may be left empty where there is nothing to say; else each has the J entries of ``eps_in``.
    """

    label: str  # what sets this curve apart, e.g. "h = 1.5"
    eps_in: Sequence[float]  # (J,) ascending input radii, in units of x
    eps_out: Sequence[float]  # (J,) medians of the certified output radii
    smoothing_loss: Sequence[float] = ()  # (J,) medians of the smoothing loss
    abstention_rate: Sequence[float] = ()  # (J,) in [0, 1]
    sigma: Sequence[float] = ()  # (J,) noise level, in units of x; a column of the table, with h = eps_in / sigma
    # (J,) lower ends of 95% bootstrap intervals around ``eps_out``, drawn as a band with ``high``
    low: Sequence[float] = ()
    high: Sequence[float] = ()  # (J,) upper ends
    loss_low: Sequence[float] = ()  # (J,) lower ends of intervals around ``smoothing_loss``
    loss_high: Sequence[float] = ()  # (J,) upper ends
    # the eps_in that get a marker and a row in the table of medians; None for all
    marked: Sequence[float] | None = None
    num_examples: int = 0  # of which these are the medians; 0 if not to be shown
    attack_eps: Sequence[float] = ()  # medians of what attacks reached, at the marked eps_in, in their order
    # (J,) ``eps_out`` as a share of the median distance between the outputs of two examples
    relative: Sequence[float] = ()
    theorem: Sequence[str] = ()  # (J,) which statement of docs/theory.md gives ``eps_out`` of the median example
    # (eps_in, eps_out) of each example at the marked eps_in, drawn as dots; inf is left out
    examples: Sequence[tuple[float, float]] = ()
    conversion: float = 1.0  # h is conversion * eps_in / sigma (theory T15)
    norm: str = NORMS["l2"]  # that eps_in is measured in, in words

    def __post_init__(self) -> None:
        """Check that the sequences belong together."""
        count = len(self.eps_in)
        if not count or any(after <= before for before, after in zip(self.eps_in, self.eps_in[1:], strict=False)):
            raise ValueError(f"eps_in must hold at least one radius, in ascending order, got {list(self.eps_in)}")
        if len(self.eps_out) != count:
            raise ValueError(f"eps_out must have the {count} entries of eps_in, got {len(self.eps_out)}")
        for name in (
            *("smoothing_loss", "abstention_rate", "sigma"),
            *("low", "high", "loss_low", "loss_high", "relative", "theorem"),
        ):
            if len(getattr(self, name)) not in (0, count):
                raise ValueError(f"{name} must be empty or have the {count} entries of eps_in, "
                                 f"got {len(getattr(self, name))}")  # fmt: skip
        if len(self.low) != len(self.high) or len(self.loss_low) != len(self.loss_high):
            raise ValueError(f"the lower and upper ends of an interval must be given together, got {self.label!r}")
        if self.marked is not None and not set(self.marked) <= set(self.eps_in):
            raise ValueError(f"marked must be among the eps_in, got {sorted(set(self.marked) - set(self.eps_in))}")
        marked = len(self.marked_positions)
        if len(self.attack_eps) not in (0, marked):
            raise ValueError(f"attack_eps must be empty or have the {marked} marked eps_in, got {len(self.attack_eps)}")

    def at(self, name: str, position: int) -> float | None:
        """Entry of one of the sequences, or None where it was left empty."""
        values = getattr(self, name)
        return float(values[position]) if len(values) else None

    @property
    def marked_positions(self) -> list[int]:
        """Positions of the marked eps_in."""
        chosen = set(self.eps_in if self.marked is None else self.marked)
        return [position for position, value in enumerate(self.eps_in) if value in chosen]


@dataclass(frozen=True, eq=False)
class ReportExample:
    """One certified example."""

    name: str  # what it is called, unique in its report: "540", or "540, h = 1" where several folders are shown
    rows: Sequence[Row]  # its rows, one for each eps_in
    pictures: Sequence[Picture] = ()  # of its input and outputs, in the order shown
    words: Sequence[str] = ()  # about outputs that are no pictures, one line each
    eps_in: Sequence[float] = ()  # (J,) ascending, of its own curve, in units of x. Empty if there is none
    eps_out: Sequence[float] = ()  # (J,) its certified output radii; inf where there is none
    to_blank: float | None = None  # distance of its smoothed output from a blank one; None where that says nothing
    # median distance between the smoothed outputs of two examples at its noise level; None without one
    between: float | None = None
    norm: str = NORMS["l2"]  # that eps_in is measured in, in words

    def __post_init__(self) -> None:
        """Check that the curve is one."""
        if len(self.eps_in) != len(self.eps_out):
            raise ValueError(f"eps_out must have the {len(self.eps_in)} entries of eps_in, got {len(self.eps_out)}")


@dataclass(frozen=True, eq=False)
class Report:
    """All that a report says. Every text may come from anywhere: the page shows it as text."""

    title: str  # heading of the page
    summary: Sequence[str] = ()  # plain words on what was certified, one paragraph each
    promise: str = ""  # what holds, from ``center_smoothing.promise.promise_line``
    reading: Sequence[str] = ()  # how to read the numbers, one item each; shown with the promise
    not_promised: Sequence[str] = ()  # what does not follow, one item each
    curves: Sequence[Curve] = ()  # of the charts and of the table of medians
    fractions: Sequence[FractionCurve] = ()  # curves of the certified fraction
    examples: Sequence[ReportExample] = ()  # of the table and of the pictures, as many as are shown
    num_examples: int = 0  # how many there are in all; 0 for those that are shown
    origin: Mapping[str, str] = field(default_factory=dict)  # where it comes from, by name: command, date, checkpoint
    files: Sequence[str] = ()  # that stand beside the page, to be linked
    all_rows: str = "certificates.csv"  # where the rows of all of them are
    # settings, versions and whatever else a reader needs to repeat it; may be nested
    configuration: Mapping[str, Any] = field(default_factory=dict)
    # output distances to compare with, by name: horizontal lines, where they are not far above
    reference_lines: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()  # remarks below the charts, one paragraph each
    # checks of an audit, each with ``check``, ``passed``, ``seen`` and ``advice``
    audit: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        """Check that examples can be told apart."""
        names = [example.name for example in self.examples]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"examples must have different names, got {twice!r} twice")
