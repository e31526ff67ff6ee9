"""The terms of a report, explained under the pointer, on focus and in a list."""

from __future__ import annotations

from typing import NamedTuple


class Term(NamedTuple):
    """One term."""

    identity: str  # of its entry in the list
    name: str  # what it is called there
    text: str  # what it means


TERMS = (
    Term(
        "sigma",
        "sigma",
        "Level of the noise on an input, in units of the input: the standard deviation of Gaussian noise, half of the "
        "width of uniform noise.",
    ),
    Term("h", "h", "The input radius in units of the noise: eps_in / sigma, where eps_in is in the norm of the noise."),
    Term(
        "eps-in",
        "eps_in",
        "Input radius: the change of the input, in the norm that the promise names, up to which it holds.",
    ),
    Term("eps-out", "eps_out", "Certified output radius: how far the smoothed output moves at most. Rounded up."),
    Term("relative", "Relative", "eps_out as a share of the median distance between smoothed outputs of two examples."),
    Term("blank", "To blank", "Distance from the smoothed output to one of zeros: how much there is in it."),
    Term("theorem", "Theorem", "Which statement of docs/theory.md gives eps_out; of medians: of the median example."),
    Term("loss", "Smoothing loss", "Distance between base output and smoothed output. Measured, not certified."),
    Term("abstained", "Abstained", "There was no smoothed output that could be certified: eps_out counts as inf."),
    Term(
        "coverage",
        "coverage",
        "What one promise covers: one eps_in that was fixed beforehand (pointwise), all that were asked (bonferroni), "
        "or the whole curve of an example (dkw).",
    ),
    Term("fraction", "Certified fraction", "Share of the examples whose eps_out is at most the one on the axis."),
)
_IDENTITIES = {
    **{term.name.lower(): term.identity for term in TERMS},
    "median eps_out": "eps-out",
    "median smoothing loss": "loss",
    "certified": "fraction",
    "config.coverage": "coverage",
    "config.sigma": "sigma",
    "config.eps_in": "eps-in",
}


def identity_of(title: str) -> str:
    """Return the identity of the term that a title names; empty where it names none."""
    return _IDENTITIES.get(title.lower(), "")
