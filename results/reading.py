"""How to read curves of certified radii: why they start above 0, and where another theorem takes over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Why certified radii do not go to 0 with eps_in, by smoothed function.
FLOORS = {
    "center": "the ball that holds half of the outputs under noise does not shrink with eps_in",
    "mean": "means of two noise samples differ at one and the same input too, and T11 keeps the mean distance of an "
    "output from the mean",
    "median": "medians of two noise samples differ at one and the same input too, and the box leaves room for that",
}


def theorem_changes(eps_in: Iterable[float], theorems: Iterable[str]) -> list[tuple[float, str]]:
    """Return from which eps_in on which theorem gives the radii, ascending; "none" and "" are passed over.

    Example:
        >>> theorem_changes([0.0, 0.1, 0.2, 0.3], ["T7 J=1", "T7 J=1", "T3", "none"])
        [(0.0, 'T7 J=1'), (0.2, 'T3')]
    """
    found: list[tuple[float, str]] = []
    for radius, name in zip(eps_in, theorems, strict=True):
        if name not in ("", "none") and (not found or found[-1][1] != name):
            found.append((float(radius), name))
    return found


def theorems_in_words(changes: Sequence[tuple[float, str]]) -> str:
    """Say which theorems give the radii; empty where none is known.

    Example:
        >>> theorems_in_words([(0.0, "T7 J=1"), (0.2, "T3")])
        'Theorem: T7 J=1, from eps_in 0.2 on T3.'
    """
    if not changes:
        return ""
    later = [f"from eps_in {radius:.4g} on {name}" for radius, name in changes[1:]]
    return f"Theorem: {', '.join([changes[0][1], *later])}."
