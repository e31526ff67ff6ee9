"""The report of a finished certification folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from callbacks.certification_folder import CertificationFolder, Row, summarise
from callbacks.html_report.charts import number, up
from callbacks.html_report.content import Curve, Picture, Report, ReportExample, difference
from center_smoothing import Certificate
from center_smoothing.certificate import Coverage
from center_smoothing.metrics import upper_median

_NAMES = {"image": "input", "base": "base output", "smoothed": "smoothed output"}
_DENSE = 80  # steps of a curve between the asked eps_in
_VALUES = 6  # of an output that is no picture
_READING = (
    "sigma and eps_in are in units of the input, where pixels lie in [0, 1].",
    "eps_out and smoothing loss are distances between outputs. A certified radius is rounded up, never down.",
    "inf: no certificate. The median of an even number of examples is the larger one of the two in the middle.",
)


def report_of_folder(
    folder: CertificationFolder,
    rows: Sequence[Row],
    *,
    promise: str,
    pictures: Callable[[int], Sequence[Picture]] | None = None,
    reference_lines: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """The report of a finished certification folder, for ``html_report.write``.

    The distances on disk answer any eps_in, so that curves are dense without sampling.

    Args:
        folder: with summary.json, distances and outputs.
        rows: of its certificates.csv, in the order to be shown. They may be of several sigma.
        promise: what holds, from ``certification_report.promise_line``.
        pictures: the pictures of the example with this index, in place of its input, outputs and their difference.
        reference_lines: output distances to compare with, by name.
        notes: remarks below the charts.

    Raises:
        ValueError: if the folder does not hold a certification, or a damaged one.
    """
    summary = folder.read_summary() or {}
    config = summary.get("config", {})
    coverage: Coverage = config.get("coverage", "pointwise")
    certificates = folder.certificates()
    groups = _grouped(rows, "sigma")
    curves, examples = [], []
    for sigma, group in groups.items():
        by_index = _grouped(group, "index")
        eps_in, eps_out = _radii(by_index, certificates, sigma=sigma, coverage=coverage)
        curves.append(_median_curve(group, sigma, eps_in, list(eps_out.values())))
        for index, of_example in by_index.items():
            shown, words = _outputs(folder, index) if pictures is None else (pictures(index), [])
            examples.append(
                ReportExample(
                    str(index) if len(groups) == 1 else f"{index}, sigma = {sigma:g}",
                    of_example,
                    pictures=shown,
                    words=words,
                    eps_in=eps_in,
                    eps_out=eps_out[index],
                )
            )
    sparse = any(1 < len(curve.eps_in) == len(curve.marked_positions) for curve in curves)
    between = ["Between the marked eps_in nothing is promised: the lines guide the eye."] if sparse else []
    return Report(
        title=f"Certified output radii of {config.get('model', 'a model')}",
        summary=_summary(config, curves, examples),
        promise=_sentence(promise.removeprefix("promise, ")) + ".",
        reading=_READING,
        not_promised=_not_promised(coverage),
        curves=curves,
        examples=examples,
        configuration={name: value for name, value in summary.items() if name != "results"},
        reference_lines=reference_lines or {},
        notes=[*between, *notes],
    )


def _grouped(rows: Sequence[Row], name: str) -> dict[Any, list[Row]]:
    """Rows by one of their fields, in their order."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, name), []).append(row)
    return groups


def _radii(
    by_index: Mapping[int, Sequence[Row]],
    certificates: Mapping[int, Certificate],
    *,
    sigma: float,
    coverage: Coverage,
) -> tuple[list[float], dict[int, list[float]]]:
    """Ascending eps_in (J,), and the certified radius of each example at each of them (J,).

    At the asked eps_in they are those of the rows. In between the certificates answer, but for "bonferroni", whose
    answers depend on how many there are.
    """
    there = {(index, row.eps_in): row.eps_out for index, group in by_index.items() for row in group}
    asked = sorted({eps_in for _, eps_in in there})
    own = {index: certificates[index] for index in by_index if index in certificates}
    if coverage == "bonferroni" or len(own) < len(by_index) or any(one.sigma != sigma for one in own.values()):
        return asked, {index: [there.get((index, eps_in), math.inf) for eps_in in asked] for index in by_index}
    certifiable = max(certificate.eps_in(math.inf, coverage=coverage) for certificate in own.values())
    top = min(certifiable * (1.0 - 1e-9), 1.5 * asked[-1] or math.inf)  # eps_in is rounded by less than that
    grid = np.unique([*asked, *np.linspace(0.0, top, _DENSE + 1)])
    return grid.tolist(), {
        index: [
            there.get((index, eps_in), float(eps_out))
            for eps_in, eps_out in zip(
                grid.tolist(), np.atleast_1d(own[index].eps_out(grid, coverage=coverage)), strict=True
            )
        ]
        for index in by_index
    }


def _median_curve(
    rows: Sequence[Row], sigma: float, eps_in: Sequence[float], eps_out: Sequence[Sequence[float]]
) -> Curve:
    """The medians of the examples of one sigma. Abstentions count as inf."""
    asked = [result["eps_in"] for result in summarise(rows, sigma)]
    examples = [group[0] for group in _grouped(rows, "index").values()]
    loss = upper_median(torch.tensor([row.smoothing_loss for row in examples], dtype=torch.float64)).item()
    count = len(eps_in)
    return Curve(
        f"sigma = {sigma:g}",
        eps_in,
        [upper_median(torch.tensor(at, dtype=torch.float64)).item() for at in zip(*eps_out, strict=True)],
        smoothing_loss=[loss] * count,
        abstention_rate=[sum(row.abstained for row in examples) / len(examples)] * count,
        sigma=[sigma] * count,
        marked=asked,
        num_examples=len(examples),
    )


def _outputs(folder: CertificationFolder, index: int) -> tuple[list[Picture], list[str]]:
    """Pictures of the input, the outputs and their difference; words about those that are no pictures."""
    pictures, words = {}, []
    with np.load(folder.outputs(index), allow_pickle=False) as arrays:
        for key, name in _NAMES.items():
            array = arrays[key]
            if array.ndim == 3 and array.shape[0] in (1, 3):
                pictures[key] = Picture(name, np.moveaxis(array, 0, -1))
            else:
                words.append(_in_words(name, array))
    base, smoothed = pictures.get("base"), pictures.get("smoothed")
    shown = list(pictures.values())
    if base is not None and smoothed is not None and base.array.shape == smoothed.array.shape:
        shown.append(difference(base.array, smoothed.array, name="|base - smoothed|"))
    return shown, words


def _in_words(name: str, array: NDArray[Any]) -> str:
    shape = " x ".join(map(str, array.shape)) or "a single number"
    values = ", ".join(f"{value:.4g}" for value in array.flat[:_VALUES])
    return f"{_sentence(name)}: {shape} values, {values}{', …' if array.size > _VALUES else ''}"


def _summary(config: Mapping[str, Any], curves: Sequence[Curve], examples: Sequence[ReportExample]) -> list[str]:
    data = config.get("data")
    source = f" of {data['class']}" if isinstance(data, Mapping) and "class" in data else ""
    count = len({row.index for example in examples for row in example.rows})
    sigmas = ", ".join(f"{curve.sigma[0]:g}" for curve in curves)
    lines = [
        f"{config.get('model', 'A model')}, smoothed with Gaussian noise of standard deviation sigma = {sigmas}, was "
        f"certified around {count} {'example' if count == 1 else 'examples'}{source}. "
        f"Outputs are compared by {config.get('distance', 'the distance of the configuration')}."
    ]
    for curve in curves:
        position = curve.marked_positions[0]
        eps_in, eps_out = number(curve.eps_in[position]), curve.eps_out[position]
        moves = (
            f"the smoothed output of the median example is certified to move by at most {up(eps_out)}"
            if math.isfinite(eps_out)
            else "the median example has no certificate"
        )
        abstained = sum(example.rows[0].abstained for example in examples if example.rows[0].sigma == curve.sigma[0])
        lines.append(
            (f"At {curve.label}: if" if len(curves) > 1 else "If")
            + f" an input changes by at most eps_in = {eps_in} (l2 norm), {moves}. "
            f"The smoothed function abstained on {abstained or 'none'} of the {curve.num_examples} inputs."
        )
    return lines


def _not_promised(coverage: Coverage) -> list[str]:
    """What a reader might take the promise for."""
    items = [
        "Nothing about the base model alone: the promise is about the smoothed function, whose output is the center of "
        "the base model's outputs under noise.",
        "Nothing where the smoothed function abstains: such inputs have eps_out = inf and count so in the medians.",
        "Nothing about all changed inputs at once: the probability is for each changed input, fixed before sampling, "
        "and for each example.",
        "Nothing about how good an output is: the smoothing loss is measured, without any attack, and not certified.",
    ]
    if coverage == "pointwise":
        items.append(
            "Nothing about several eps_in at once: each holds by itself if it was chosen before the results were seen. "
            "Coverage dkw would cover the whole curve of an example."
        )
    elif coverage == "bonferroni":
        items.append("Nothing at other eps_in than those asked: coverage bonferroni counts them.")
    return items


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
