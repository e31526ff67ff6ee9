"""The report of a finished certification folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from center_smoothing.budget import Coverage
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from center_smoothing.upper_median import upper_median
from results.attacks import LOWER_BOUND
from results.certified_fraction import FractionCurve, certified_fractions
from results.finished import MAX_SHOWN, Answers, FinishedCertification, Question, rows_by_index, spread
from results.folder import CertificationFolder
from results.html.charts import format_number, format_radius
from results.html.content import Curve, Report, ReportExample
from results.plots.examples import (
    difference,
    disagreement,
    example_pictures,
    guarantees,
    is_image,
    movement,
    noisy_copy,
)
from results.reading import FLOORS
from results.rows import Row, attacked_rows
from results.terminal import yardstick_line

T = TypeVar("T")

# What summary.json holds besides settings.
NOT_SETTINGS = ("results", "names", "audit", "origin")
# What stands beside the report of a certification.
FILES = ("certificates.csv", "certified_fraction.csv", "summary.json")
_MAX_DOTS = 3000  # of single examples in a chart
_DENSE = 120  # steps of a curve between the asked eps_in
_READING = (
    "sigma and eps_in are in units of the input, where pixels lie in [0, 1].",
    "eps_out and smoothing loss are distances between outputs. A certified radius is rounded up, never down.",
    "inf: no certificate. The median of an even number of examples is the larger one of the two in the middle.",
)


def curve_question(
    finished: FinishedCertification, eps_in: Iterable[float] = (), coverage: Coverage | None = None
) -> Question:
    """Return what the curves of a report ask of every example: the asked eps_in, and a dense grid between them.

    The distances on disk answer any eps_in, so that curves are dense without sampling. Only for "bonferroni", whose
    answers depend on how many there are, there is no grid. Default are the eps_in that the folder was asked, and the
    coverage of its configuration.
    """
    asked = sorted(set(eps_in) or {row.eps_in for row in finished.rows})
    budget = finished.smoother.budget_type.from_dict(finished.config["budget"])
    coverage = budget.widest(coverage or finished.config.get("coverage", "pointwise"))
    top = 1.5 * asked[-1] or 2.0 * finished.sigma
    between = [] if coverage == "bonferroni" else np.linspace(0.0, top, _DENSE + 1).tolist()
    return Question("eps_in", tuple(np.unique([*asked, *between]).tolist()), coverage)


def report_of_folder(folder: CertificationFolder, *, promise: str, most: int = MAX_SHOWN) -> Report:
    """Return the report of a finished certification folder, see :func:`report_of`, with about so many examples at most.

    Raises:
        ValueError: if the folder does not hold a certification, or a damaged one.
    """
    finished = FinishedCertification.open(folder)
    return report_of(finished.read(curve_question(finished), shown=spread(finished.rows, most)), promise=promise)


def report_of(
    finished: FinishedCertification,
    rows: Sequence[Row] | None = None,
    *,
    promise: str,
    coverage: Coverage | None = None,
) -> Report:
    """Return the report of a finished certification, for ``results.html.write``.

    Args:
        finished: with the answers to its :func:`curve_question`, and the outputs of the examples that are shown.
        rows: in the order to be shown; default: those of the folder.
        promise: what holds, from ``center_smoothing.promise.promise_line``.
        coverage: of the rows; default: that of the configuration.
    """
    rows = finished.rows if rows is None else rows
    summary, config, by_index = finished.summary, finished.config, rows_by_index(rows)
    question = curve_question(finished, {row.eps_in for row in rows}, coverage)
    budget = finished.budget
    assert budget is not None  # it has answers
    eps_in, eps_out = _radii(by_index, finished.answers[question])
    theorem_at = dict(zip(question.radii, finished.theorems[question], strict=True))
    curve = _median_curve(finished, by_index, eps_in, eps_out, [theorem_at[radius] for radius in eps_in])
    examples = [
        _example(finished, summary.get("names", {}).get(str(index)), by_index[index], eps_in, eps_out[index])
        for index in by_index
        if index in finished.outputs
    ]
    sparse, said = 1 < len(curve.eps_in) == len(curve.marked_positions), promise.partition(": ")[2]
    yardstick = {
        "median distance to blank": finished.yardstick.median_to_blank,
        "median distance between examples": finished.yardstick.between,
    }
    compared = yardstick_line(*yardstick.values())
    return Report(
        title=f"Certified output radii of {_model(config, 'a model')}",
        summary=_summary(
            finished, curve, budget.remarks, abstained=sum(group[0].abstained for group in by_index.values())
        ),
        promise=f"{said[:1].upper()}{said[1:]}.",
        reading=[
            *_READING,
            *([f"For comparison, not certified: {compared}."] if compared else []),
            *_of_the_base_output(config),
        ],
        not_promised=_not_promised(config, question.coverage),
        curves=[curve],
        fractions=certified_fractions(rows, conversion=finished.conversion),
        examples=examples,
        num_examples=len(by_index),
        configuration={name: value for name, value in summary.items() if name not in NOT_SETTINGS},
        audit=summary.get("audit", ()),
        origin=summary.get("origin", {}),
        files=FILES,
        reference_lines={name: value for name, value in yardstick.items() if value is not None},
        notes=[
            *_floor(curve, finished.smoother.kind),
            *(["Between the marked eps_in nothing is promised: the lines guide the eye."] if sparse else []),
            *([LOWER_BOUND] if curve.attack_eps else []),
        ],
    )


def report_of_folders(
    reports: Mapping[str, Report],
    curves: Sequence[Curve],
    *,
    title: str,
    summary: Sequence[str],
    fractions: Sequence[FractionCurve] | None = None,
    **given: Any,  # noqa: ANN401  # as Report has them
) -> Report:
    """Return one report of several certifications, with curves across them.

    The same example at one noise level stands beside itself, and what is not said of all says of which.

    Args:
        reports: of the folders, by what sets each apart from the others, "sigma = 0.2", say.
        curves: that stand in place of theirs.
        title: heading of the page.
        summary: plain words on what was certified, one paragraph each.
        fractions: curves of the certified fraction; default: those of all reports together.
        given: configuration, notes, reference lines, origin and files of :class:`Report`; default: none.
    """
    levels = list(dict.fromkeys(example.rows[0].sigma for report in reports.values() for example in report.examples))
    placed = [
        (levels.index(example.rows[0].sigma), position, replace(example, name=f"{example.name}, {label}"))
        for label, report in reports.items()
        for position, example in enumerate(report.examples)
    ]
    of_all = sorted(
        (curve for report in reports.values() for curve in report.fractions),
        key=lambda curve: (curve.sigma, curve.eps_in),
    )
    none: dict[str, Any] = {"configuration": {}, "notes": (), "reference_lines": {}, "origin": {}, "files": ()}
    return replace(
        next(iter(reports.values())),
        title=title,
        summary=summary,
        promise=" ".join(merge_sentences(reports, lambda report: [report.promise])),
        reading=merge_sentences(reports, lambda report: report.reading),
        not_promised=merge_sentences(reports, lambda report: report.not_promised),
        curves=curves,
        fractions=of_all if fractions is None else fractions,
        examples=[example for *_, example in sorted(placed, key=lambda item: item[:2])],
        num_examples=sum(report.num_examples for report in reports.values()),
        **{**none, **given},
    )


def merge_sentences(reports: Mapping[str, T], items: Callable[[T], Sequence[str]]) -> list[str]:
    """Return the sentences that any of the reports says, once; what not all say with the labels of those that do.

    Example:
        >>> merge_sentences({"a": ["One.", "Two."], "b": ["Two."]}, lambda items: items)
        ['a: One.', 'Two.']
    """
    labels: dict[str, list[str]] = {}
    for label, report in reports.items():
        for item in dict.fromkeys(items(report)):
            labels.setdefault(item, []).append(label)
    return [item if len(of) == len(reports) else f"{', '.join(of)}: {item}" for item, of in labels.items()]


def _radii(by_index: Mapping[int, Sequence[Row]], answers: Answers) -> tuple[list[float], dict[int, list[float]]]:
    """Return ascending eps_in (J,), and the certified radius of each example at each of them (J,).

    At the asked eps_in the radii are those of the rows. What lies beyond the last certificate of all is left out.
    """
    there = {(index, row.eps_in): row.eps_out for index, group in by_index.items() for row in group}
    asked = {eps_in for _, eps_in in there}
    places = [
        (position, eps_in)
        for position, eps_in in enumerate(answers.radii)
        if eps_in in asked or min(answers.column(position)) < math.inf
    ]
    return [eps_in for _, eps_in in places], {
        index: [there.get((index, eps_in), answers.by_index[index][position]) for position, eps_in in places]
        for index in by_index
    }


def _median_curve(
    finished: FinishedCertification,
    by_index: Mapping[int, Sequence[Row]],
    eps_in: Sequence[float],
    eps_out: Mapping[int, Sequence[float]],
    theorem: Sequence[str],
) -> Curve:
    """Return the medians of the examples, also as shares of the distance between two. Abstentions count as inf."""
    between, medians = finished.yardstick.between, [upper_median(at) for at in zip(*eps_out.values(), strict=True)]
    examples, rows = [group[0] for group in by_index.values()], [row for group in by_index.values() for row in group]
    count, sigma, asked = len(eps_in), examples[0].sigma, sorted({row.eps_in for row in rows})
    attacked = attacked_rows(rows)
    reached = [[row.attack_eps for row in attacked if row.eps_in == radius] for radius in asked]
    return Curve(
        f"sigma = {sigma:g}",
        eps_in,
        medians,
        smoothing_loss=[upper_median([row.smoothing_loss for row in examples])] * count,
        abstention_rate=[sum(row.abstained for row in examples) / len(examples)] * count,
        sigma=[sigma] * count,
        marked=asked,
        num_examples=len(examples),
        attack_eps=[upper_median(at) for at in reached] if attacked else (),
        relative=[] if between is None else [median / between for median in medians],
        theorem=theorem,
        examples=[(row.eps_in, row.eps_out) for row in rows][:_MAX_DOTS],
        conversion=finished.conversion,
        norm=finished.norm,
    )


def _example(
    finished: FinishedCertification,
    name: str | None,
    rows: Sequence[Row],
    eps_in: Sequence[float],
    eps_out: Sequence[float],
) -> ReportExample:
    index = rows[0].index
    found = example_pictures(finished, index)
    shown = list(found.pictures)
    image = finished.outputs[index]["image"]
    if shown and finished.noise_is_on_images and is_image(image.shape):
        drawn: dict[str, Any] = {"seed": finished.config.get("seed", 0), "index": index}
        shown.insert(1, noisy_copy(image, sigma=finished.sigma, noise=finished.noise_kind.name, **drawn))
    if len(found.pictures) == 3 and shown[-2].array.shape == shown[-1].array.shape:
        base, smoothed = (picture.array for picture in shown[-2:])
        of_labels = finished.holds_labels
        shown.append(
            disagreement(base, smoothed) if of_labels else difference(base, smoothed, name="|base - smoothed|")
        )
    box = finished.boxes.get(index)
    if box is not None and is_image(box.shape[1:]) and bool(np.isfinite(box).all()):
        shown.append(movement(box, eps_in=finished.by_index[index][0].eps_in))
    promised = [
        f"At eps_in = {row.eps_in:g}: {guarantee}"
        for row, guarantee in zip(rows, guarantees(finished, rows) if finished.holds_boxes else (), strict=False)
    ]
    return ReportExample(
        str(index) if name is None else f"{index} ({name})",
        rows,
        pictures=shown,
        words=[*found.words, *promised],
        eps_in=eps_in,
        eps_out=eps_out,
        to_blank=finished.yardstick.to_blank.get(index),
        between=finished.yardstick.between,
        norm=finished.norm,
    )


def _model(config: Mapping[str, Any], unknown: str) -> str:
    """Name the base function: the model, and the denoiser in front of it if there is one."""
    behind = f" behind the denoiser {config['denoiser']['name']}" if "denoiser" in config else ""
    return f"{config.get('model', unknown)}{behind}"


def _summary(finished: FinishedCertification, curve: Curve, remarks: Sequence[str], *, abstained: int) -> list[str]:
    config = finished.config
    data, scaled = config.get("data"), " times the sigma map" if "sigma_map" in config else ""
    source = f" of {data['class']}" if isinstance(data, Mapping) and "class" in data else ""
    count, position = curve.num_examples, curve.marked_positions[0]
    eps_in, eps_out = format_number(curve.eps_in[position]), curve.eps_out[position]
    moves = (
        f"the smoothed output of the median example is certified to move by at most {format_radius(eps_out)}"
        if math.isfinite(eps_out)
        else "the median example has no certificate"
    )
    return [
        f"{_model(config, 'A model')}, smoothed with {finished.noise_kind.words} {curve.label}{scaled}, was "
        f"certified around {count} {'example' if count == 1 else 'examples'}{source}. "
        f"Outputs are compared by {config.get('distance', 'the distance of the configuration')}.",
        *remarks,
        f"For one change of an input by at most eps_in = {eps_in} ({curve.norm}), fixed beforehand, {moves}. "
        f"The smoothed function abstained on {abstained or 'none'} of the {count} inputs.",
    ]


def _floor(curve: Curve, smoother: str) -> list[str]:
    """Say why the curve of certified radii starts where it starts, and where."""
    start = f"; here they start at {format_radius(curve.eps_out[0])}" if curve.eps_in[0] == 0.0 else ""
    return [f"Certified radii start above 0: {FLOORS[smoother]}{start}."] if math.isfinite(curve.eps_out[0]) else []


def _of_the_base_output(config: Mapping[str, Any]) -> list[str]:
    """Say what the base output is where the base model is not smoothed as it is."""
    if config.get("normalised"):
        return [
            "Outputs are scaled to norm 1. This scaled model is smoothed: the smoothed output is the mean of such "
            "outputs."
        ]
    if "clip_norm" not in config:
        return []
    return [
        f"Outputs further than clip_norm = {format_number(config['clip_norm'])} from zero are scaled down to it. This "
        "clipped model is what is smoothed: base output and smoothing loss are those of the clipped model."
    ]


def _not_promised(config: Mapping[str, Any], coverage: Coverage) -> list[str]:
    """Say what a reader might take the promise for."""
    smoother = config.get("smoother", DEFAULT_SMOOTHER)
    items = [
        "Nothing about the base model alone: the promise is about the smoothed function, whose output is the "
        f"{smoother} of the base model's outputs under noise.",
        "Nothing where the smoothed function abstains: such inputs have eps_out = inf and count so in the medians.",
        "Nothing about all changed inputs at once: the probability is for each changed input, fixed before sampling, "
        "and for each example.",
        "Nothing about several sigma at once: each noise level is certified by itself.",
        "Nothing about how good an output is: the smoothing loss is measured, without any attack, and not certified.",
    ]
    if coverage == "pointwise":
        items.append(
            "Nothing about several eps_in at once: each holds by itself if it was chosen before the results were seen. "
            "Coverage dkw would cover the whole curve of an example at one sigma."
        )
    elif coverage == "bonferroni":
        items.append("Nothing at other eps_in than those asked at a sigma: coverage bonferroni counts them.")
    return items
