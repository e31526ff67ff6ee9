"""The tables, from the rows of all digits: medians over digits, and what is said of them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from benchmarks.tables import format_down, format_up, seconds, share, table
from benchmarks.versus.paper_procedure import Estimate
from benchmarks.versus.rows import Digit, Row, Settings, median, median_eps_out, over_digits
from center_smoothing.upper_median import upper_median

_TITLES = {"tv": "total variation", "l2": "l2 distance", "linf": "linf distance", "angular": "angular distance"}

_HOW = """\
n outputs are ranked, m serve the certificate, and h = eps_in / sigma. Figures are upper medians over digits, and
comparisons are ratios of these medians, unless digits are counted.

- **The paper's procedure is not run in full.** Selection (n outputs and all n^2 distances, computed as fast as
  this package can) and check are complete, but certification uses {drawn:,} of the {m:,} outputs; its seconds are
  multiplied by the ratio of the two. Its eps_out is an order statistic of the {m:,} distances. The tables give an
  estimate from the {drawn:,}, and an interval that contains the value of a run with {m:,} with probability 95%,
  whatever the distribution of the distances. **Comparisons use the lower end of that interval.**
- **Seconds are those of a procedure that runs alone.** Base outputs are drawn once for each digit and shared by all
  procedures that are not marked "live"; each of these includes the time of drawing them in its seconds.
  {clock}"""


def report(digits: Sequence[Digit], settings: Settings, about: Mapping[str, str]) -> str:
    """Return all sections in Markdown."""
    rows = [row for digit in digits for of in digit.rows.values() for listed in of.values() for row in listed]
    number = sum(row.smoothing_loss == math.inf for row in rows)
    abstentions = f"{number} of {len(rows)} runs; they count as inf" if number else f"none in {len(rows)} runs"
    (live,), (recorded,) = over_digits(digits[:1], settings.distances[0], "clock")
    taken, counted = seconds(live.seconds), seconds(recorded.seconds)
    clock = f"On the first digit {live.procedure} took {taken} s live, and {counted} s by this account."
    sections = [
        "# Against the paper's procedure",
        "\n".join(f"- {name}: {value}" for name, value in {**about, "abstentions": abstentions}.items()),
        _HOW.format(drawn=settings.drawn_m, m=settings.paper_m, clock=clock),
        "## The paper's procedure",
        _papers_table(digits, settings),
    ]
    for distance in settings.distances:
        sections += [f"## Equal or smaller eps_out at h = 2, {_TITLES[distance]}", _fast_table(digits, distance)]
        table_of = _functions_table(digits, settings, distance)
        sections += [f"## The smoothed functions of this package, {_TITLES[distance]}", table_of]
    if "tv" in settings.distances:
        sections += ["## What each step contributes, total variation", _steps_table(digits)]
        sections += ["## Sampling that stops by itself, total variation", _looks_table(digits, settings)]
    return "\n\n".join(sections) + "\n"


def _papers_table(digits: Sequence[Digit], settings: Settings) -> str:
    """Return the costs and certificates of the paper's procedure by distance."""
    header = [
        *("distance", "digits", "evaluations", "selection, s", "check, s", f"{settings.drawn_m:,} outputs, s"),
        *("full run, s", *(f"eps_out, h = {h:g}" for h in settings.h), "smoothing loss"),
    ]
    rows = []
    for distance in settings.distances:
        (paper,) = over_digits(digits, distance, "paper")
        parts = [median(paper, lambda row, part=part: row.parts[part]) for part in paper[0].parts]
        rows.append(
            [
                *(_TITLES[distance], str(len(paper)), f"{paper[0].evaluations:,}", *map(seconds, parts)),
                *(_seconds(paper), *(_estimate(median_eps_out(paper, h)) for h in settings.h), _loss(paper)),
            ]
        )
    first = settings.distances[0]
    (paper,) = over_digits(digits, first, "paper")
    measured = median(paper, lambda row: sum(row.parts.values()))
    said = f"Of the {_seconds(paper)} s of a full run under {_TITLES[first]}, {seconds(measured)} s were measured."
    return f"{table(header, rows)}\n\n{_paragraph(said)}"


def _fast_table(digits: Sequence[Digit], distance: str) -> str:
    """Compare small budgets, and name the one of fewest evaluations whose median radius is at most the paper's."""
    (paper,), ours, h = over_digits(digits, distance, "paper"), over_digits(digits, distance, "fast"), 2.0
    header = [
        *("live", "delta", "evaluations", "seconds", "times faster", "eps_out, h = 2", "of the paper's"),
        *("digits with no larger one", "smoothing loss", "of the paper's"),
    ]
    most, cells, no_worse = median_eps_out(paper, h).low, [], []
    for rows in ours:
        first, radius = rows[0], median_eps_out(rows, h).value
        pairs = [(a.eps_out[h].value, b.eps_out[h].low) for a, b in zip(rows, paper, strict=True)]
        no_larger = f"{sum(a <= b and a < math.inf for a, b in pairs)} of {len(rows)}"
        faster = _times(median(paper, lambda row: row.seconds), median(rows, lambda row: row.seconds))
        losses = (median(each, lambda row: row.smoothing_loss) for each in (rows, paper))
        cells.append(
            [
                *(first.procedure, f"{first.delta:.4f}", f"{first.evaluations:,}", _seconds(rows), faster),
                *(format_up(radius), share(radius, most), no_larger, _loss(rows), share(*losses)),
            ]
        )
        if radius <= most < math.inf:
            no_worse.append((first.evaluations, first.procedure, faster, no_larger))
    said = "None of them has a median eps_out at h = 2 as small as the paper's."
    if no_worse:
        _, name, faster, no_larger = min(no_worse, key=lambda each: each[0])
        said = (
            f"The cheapest whose median eps_out at h = 2 is no larger than the paper's, {name}, is {faster} times "
            f"faster; its radius is no larger on {no_larger} digits."
        )
    return f"{table(header, cells)}\n\n{_paragraph(said)}"


def _functions_table(digits: Sequence[Digit], settings: Settings, distance: str) -> str:
    """Compare the smoothed functions of this package with the paper's procedure."""
    (paper,), ours = over_digits(digits, distance, "paper"), over_digits(digits, distance, "functions")
    header = [
        *("smoothed function", "evaluations", "seconds", *(f"eps_out, h = {h:g}" for h in settings.h)),
        *("smoothing loss", *(f"eps_out / attack, h = {h:g}" for h in settings.attack_h)),
    ]
    rows = [
        [
            *(rows[0].procedure, f"{rows[0].evaluations:,}", _seconds(rows)),
            *(format_up(median_eps_out(rows, h).value) for h in settings.h),
            *(_loss(rows), *(_of_attack(rows, h) for h in settings.attack_h)),
        ]
        for rows in [paper, *ours]
    ]
    return table(header, rows)


def _of_attack(rows: Sequence[Row], h: float) -> str:
    """Format the median of eps_out / attack at h, and the least one; nothing for a function that was not attacked."""
    if not rows[0].attack:
        return ""
    ratios = [row.eps_out[h].value / row.attack[h] if row.attack[h] > 0.0 else math.inf for row in rows]
    return f"{upper_median(ratios):.2f}, at least {min(ratios):.2f}"


def _steps_table(digits: Sequence[Digit]) -> str:
    """Return the ablation."""
    header = ["step", "m", "evaluations", "seconds", "eps_out, h = 1", "eps_out, h = 2", "smoothing loss"]
    rows = [
        [
            *(rows[0].procedure, f"{rows[0].m:,}", f"{rows[0].evaluations:,}", _seconds(rows)),
            *(_estimate(median_eps_out(rows, 1.0)), _estimate(median_eps_out(rows, 2.0)), _loss(rows)),
        ]
        for rows in over_digits(digits, "tv", "steps")
    ]
    said = (
        "Each step includes those above it with the same m, except that pairs and probes are alternatives. "
        '"Pairs moved together" bound the radius of the other ball by the Gaussian shift of an average of J outputs '
        "and one more output as a whole; they are computed here for comparison, from the same certification outputs, "
        "and are not part of the package."
    )
    return f"{table(header, rows)}\n\n{_paragraph(said)}"


def _looks_table(digits: Sequence[Digit], settings: Settings) -> str:
    """Compare digits with a stopping rule for one h, and without any: what it saves and what it costs."""
    whole, *looks = over_digits(digits, "tv", "looks")
    budget = settings.looking_budget
    header = ["tight enough", "evaluations", "fewest", "most", "saved", "eps_out", "all at once", "larger by"]
    said = (
        f"n = {budget.n:,}, at most {budget.m:,} certification outputs, with looks after "
        f"{', '.join(f'{size:,}' for size in budget.look_sizes)}: sampling stops when further outputs could not lower "
        "eps_out at that h by more than the given share. Saved evaluations are those of all digits together; "
        f'"all at once" uses the same outputs without looks, {whole[0].evaluations:,} evaluations.'
    )
    cells = []
    for rows in looks:
        (h,) = rows[0].eps_out
        drawn = [row.evaluations for row in rows]
        saved = 1.0 - sum(drawn) / sum(row.evaluations for row in whole)
        ours, at_once = (median_eps_out(each, h).value for each in (rows, whole))
        larger = f"{ours / at_once - 1.0:.1%}" if ours < math.inf and 0.0 < at_once < math.inf else "-"
        counts = f"{upper_median(drawn):,.0f}", f"{min(drawn):,}", f"{max(drawn):,}"
        cells.append([rows[0].procedure, *counts, f"{saved:.0%}", format_up(ours), format_up(at_once), larger])
    return f"{_paragraph(said)}\n\n{table(header, cells)}"


def _estimate(radius: Estimate) -> str:
    """Format a radius and, where the run was not made, its interval, rounded away from it."""
    if radius.measured:
        return format_up(radius.value)
    return f"{format_up(radius.value)} [{format_down(radius.low)}, {format_up(radius.high)}]"


def _times(whole: float, part: float) -> str:
    """Format how often the part goes into the whole, rounded down."""
    ratio = whole / part
    return f"{math.floor(ratio):,}" if ratio >= 10.0 else f"{math.floor(10.0 * ratio) / 10.0:.1f}"


def _paragraph(text: str) -> str:
    """Wrap a text in lines that are as long as the project's."""
    return textwrap.fill(text, 118)


def _seconds(rows: Sequence[Row]) -> str:
    return seconds(median(rows, lambda row: row.seconds))


def _loss(rows: Sequence[Row]) -> str:
    return format_up(median(rows, lambda row: row.smoothing_loss))
