"""The tables, from the rows of all digits: medians over digits, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmarks.versus.rows import Digit, Row, median, median_eps_out, no_larger, over_digits
from benchmarks.versus.settings import Settings
from benchmarks.versus.tables import estimate, excess, format_up, paragraph, seconds, share, table, times
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
    sections = [
        "# Against the paper's procedure",
        "\n".join(f"- {name}: {value}" for name, value in {**about, "abstentions": _abstentions(digits)}.items()),
        _HOW.format(drawn=settings.drawn_m, m=settings.paper_m, clock=_clock(digits, settings)),
        "## The paper's procedure",
        papers_table(digits, settings),
    ]
    for distance in settings.distances:
        sections += [f"## Equal or smaller eps_out at h = 2, {_TITLES[distance]}", fast_table(digits, distance)]
        table_of = functions_table(digits, settings, distance)
        sections += [f"## The smoothed functions of this package, {_TITLES[distance]}", table_of]
    for title, section in (
        ("What each step contributes, total variation", steps_table(digits, settings)),
        ("Sampling that stops by itself, total variation", looks_table(digits, settings)),
    ):
        sections += [f"## {title}", section] if section else []
    return "\n\n".join(sections) + "\n"


def papers_table(digits: Sequence[Digit], settings: Settings) -> str:
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
                *(_seconds(paper), *(estimate(median_eps_out(paper, h)) for h in settings.h), _loss(paper)),
            ]
        )
    first = settings.distances[0]
    (paper,) = over_digits(digits, first, "paper")
    measured = median(paper, lambda row: sum(row.parts.values()))
    said = f"Of the {_seconds(paper)} s of a full run under {_TITLES[first]}, {seconds(measured)} s were measured."
    return f"{table(header, rows)}\n\n{paragraph(said)}"


def fast_table(digits: Sequence[Digit], distance: str) -> str:
    """Compare small budgets, and name the cheapest that is no worse than the paper's."""
    (paper,), ours, h = over_digits(digits, distance, "paper"), over_digits(digits, distance, "fast"), 2.0
    header = [
        *("live", "delta", "evaluations", "seconds", "times faster", "eps_out, h = 2", "of the paper's"),
        *("digits with no larger one", "smoothing loss", "of the paper's"),
    ]
    rows = [
        [
            *(rows[0].procedure, f"{rows[0].delta:.4f}", f"{rows[0].evaluations:,}", _seconds(rows)),
            *(_times_faster(paper, rows), format_up(median_eps_out(rows, h).value), _share_of_radius(rows, paper, h)),
            *(f"{no_larger(rows, paper, h)} of {len(rows)}", _loss(rows), _share_of_loss(rows, paper)),
        ]
        for rows in ours
    ]
    cheapest = cheapest_no_worse(paper, ours, h)
    said = "None of them has a median eps_out at h = 2 as small as the paper's."
    if cheapest is not None:
        said = (
            f"The cheapest whose median eps_out at h = 2 is no larger than the paper's, {cheapest[0].procedure}, is "
            f"{_times_faster(paper, cheapest)} times faster; its radius is no larger on "
            f"{no_larger(cheapest, paper, h)} of {len(cheapest)} digits."
        )
    return f"{table(header, rows)}\n\n{paragraph(said)}"


def cheapest_no_worse(paper: Sequence[Row], ours: Sequence[Sequence[Row]], h: float) -> Sequence[Row] | None:
    """Return the procedure with the fewest evaluations whose median radius is at most the paper's; None without one."""
    most = median_eps_out(paper, h).low
    no_worse = [rows for rows in ours if median_eps_out(rows, h).value <= most < math.inf]
    return min(no_worse, key=lambda rows: rows[0].evaluations, default=None)


def functions_table(digits: Sequence[Digit], settings: Settings, distance: str) -> str:
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


def steps_table(digits: Sequence[Digit], settings: Settings) -> str:
    """Return the ablation; empty without one."""
    steps = over_digits(digits, "tv", "steps")
    if not steps:
        return ""
    header = ["step", "m", "evaluations", "seconds", "eps_out, h = 1", "eps_out, h = 2", "smoothing loss"]
    rows = [
        [
            *(rows[0].procedure, f"{rows[0].m:,}", f"{rows[0].evaluations:,}", _seconds(rows)),
            *(estimate(median_eps_out(rows, 1.0)), estimate(median_eps_out(rows, 2.0)), _loss(rows)),
        ]
        for rows in steps
    ]
    said = (
        "Each step includes those above it with the same m, except that pairs and probes are alternatives. "
        '"Pairs moved together" bound the radius of the other ball by the Gaussian shift of an average of J outputs '
        "and one more output as a whole; they are computed here for comparison, from the same certification outputs, "
        "and are not part of the package."
    )
    return f"{table(header, rows)}\n\n{paragraph(said)}"


def looks_table(digits: Sequence[Digit], settings: Settings) -> str:
    """Return what stopping rules save and what they cost; empty without them."""
    if not over_digits(digits, "tv", "looks"):
        return ""
    whole, *looks = over_digits(digits, "tv", "looks")
    budget = settings.looking_budget
    header = ["tight enough", "evaluations", "fewest", "most", "saved", "eps_out", "all at once", "larger by"]
    said = (
        f"n = {budget.n:,}, at most {budget.m:,} certification outputs, with looks after "
        f"{', '.join(f'{size:,}' for size in budget.look_sizes)}: sampling stops when further outputs could not lower "
        "eps_out at that h by more than the given share. Saved evaluations are those of all digits together; "
        f'"all at once" uses the same outputs without looks, {whole[0].evaluations:,} evaluations.'
    )
    return f"{paragraph(said)}\n\n{table(header, [_looks_row(rows, whole) for rows in looks])}"


def _looks_row(rows: Sequence[Row], whole: Sequence[Row]) -> list[str]:
    """Compare the digits with a rule for one h, and without any."""
    (h,) = rows[0].eps_out
    drawn = [row.evaluations for row in rows]
    saved = 1.0 - sum(drawn) / sum(row.evaluations for row in whole)
    ours, all_at_once = (median_eps_out(each, h).value for each in (rows, whole))
    return [
        *(rows[0].procedure, f"{median(rows, lambda row: row.evaluations):,.0f}", f"{min(drawn):,}", f"{max(drawn):,}"),
        *(f"{saved:.0%}", format_up(ours), format_up(all_at_once), excess(ours, all_at_once)),
    ]


def _abstentions(digits: Sequence[Digit]) -> str:
    rows = [row for digit in digits for of in digit.rows.values() for listed in of.values() for row in listed]
    number = sum(row.smoothing_loss == math.inf for row in rows)
    return f"{number} of {len(rows)} runs; they count as inf" if number else f"none in {len(rows)} runs"


def _clock(digits: Sequence[Digit], settings: Settings) -> str:
    """Compare seconds with recorded outputs with those of a run with its own."""
    (live,), (recorded,) = over_digits(digits[:1], settings.distances[0], "clock")
    taken, counted = seconds(live.seconds), seconds(recorded.seconds)
    return f"On the first digit {live.procedure} took {taken} s live, and {counted} s by this account."


def _times_faster(paper: Sequence[Row], ours: Sequence[Row]) -> str:
    return times(median(paper, lambda row: row.seconds), median(ours, lambda row: row.seconds))


def _seconds(rows: Sequence[Row]) -> str:
    return seconds(median(rows, lambda row: row.seconds))


def _loss(rows: Sequence[Row]) -> str:
    return format_up(median(rows, lambda row: row.smoothing_loss))


def _share_of_loss(ours: Sequence[Row], paper: Sequence[Row]) -> str:
    return share(*(median(rows, lambda row: row.smoothing_loss) for rows in (ours, paper)))


def _share_of_radius(ours: Sequence[Row], paper: Sequence[Row], h: float) -> str:
    return share(median_eps_out(ours, h).value, median_eps_out(paper, h).low)
