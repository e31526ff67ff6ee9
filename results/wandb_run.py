"""A certification in Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from center_smoothing.upper_median import upper_median
from results import certified_fraction
from results.finished import FinishedCertification
from results.folder import CertificationFolder
from results.plots.examples import example_pictures, side_by_side
from results.rows import Row, columns_of
from results.summary import line_key

_IMAGES = 10
_TABLE_IMAGES = 100


class WandbRun:
    """A run of W&B: begun before the first example, it shows each example as it is finished, and then all files.

    Args:
        folder: of the certification.
        config: of the certification.
        group: the run of the training that the checkpoint came from: W&B shows both together.
        why_offline: the reason to write to disk instead of the server, if there is one.
    """

    def __init__(
        self, folder: CertificationFolder, *, config: dict[str, Any], group: str | None, why_offline: str | None = None
    ) -> None:
        import wandb  # slow to import, and not needed to refuse bad input

        self.folder, self.why_offline = folder, why_offline
        self._conversion = float(config.get("conversion", 1.0))
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "center-smoothing"),
            dir=folder.path.resolve(),  # a service that an older process began has another current folder
            # by name, as W&B keeps the mode of the first run of a process
            mode="offline" if why_offline is not None else os.environ.get("WANDB_MODE") or None,  # type: ignore[arg-type]
            job_type="certify",
            name=f"certify {folder.path.name}",
            group=group,
            config=config,
        )
        self._process = os.getpid()
        self._radii: dict[tuple[float, float], list[float]] = {}
        self._examples = 0
        self.run.define_metric("live/*", step_metric="live/examples")
        self.run.define_metric("eps_in")
        if group is not None and why_offline is None:
            with suppress(wandb.errors.CommError, ValueError):  # trained offline, or in another project
                self.run.use_artifact(f"checkpoint-{group}:latest")  # which train.py logged

    def end(self, error: type[BaseException] | None, *_: object) -> None:
        """End the run if it has not ended, after an error as failed, so that a later one here is a run of its own."""
        self.run.finish(exit_code=0 if error is None else 1)

    def log_example(self, rows: Sequence[Row]) -> None:
        """Log the radii of an example of this process as it is finished, and the medians so far."""
        if os.getpid() != self._process:  # a fork has no connection of its own
            return
        self._examples += 1
        for row in rows:
            self._radii.setdefault((row.sigma, row.eps_in), []).append(row.eps_out)
        medians = {
            f"live/median_eps_out/h={self._conversion * row.eps_in / row.sigma:g}": upper_median(
                self._radii[row.sigma, row.eps_in]
            )
            for row in rows
        }
        self.run.log({"live/examples": self._examples, "live/index": rows[0].index, **medians})

    def conclude(
        self, rows: Sequence[Row], results: Sequence[dict[str, Any]], *, examples: FinishedCertification
    ) -> None:
        """Log the tables, the curves and the images of a certification whose files are on disk, and end.

        Each of the results of summary.json is logged with eps_in as the x axis, and with its h in the keys where the
        noise level changes along that axis.
        """
        import wandb

        several = len({row.sigma for row in rows}) > 1
        for result in results:
            line = line_key(result, several_levels=several)
            suffix, values = f"/{line}" if line else "", {key: result[key] for key in result if key != "eps_in"}
            for key in values:
                self.run.define_metric(f"{key}{suffix}", step_metric="eps_in")
            self.run.log({"eps_in": result["eps_in"], **{f"{key}{suffix}": value for key, value in values.items()}})
        for result in results if not several else ():
            for key in ("median_eps_out", "median_smoothing_loss", "abstention_rate"):
                self.run.summary[f"{key}/h={result['h']:g}"] = result[key]
        names, curves = columns_of(rows), certified_fraction.certified_fractions(rows, conversion=self._conversion)
        tables = {
            "certificates": (names, [[getattr(row, name) for name in names] for row in rows]),
            "certified_fraction": (certified_fraction.columns(curves), [*map(list, certified_fraction.steps(curves))]),
        }
        for key, (columns, cells) in tables.items():
            # W&B cuts a longer table short without a word
            wandb.Table.MAX_ROWS = max(wandb.Table.MAX_ROWS, len(cells))
            wandb.Table.MAX_ARTIFACT_ROWS = max(wandb.Table.MAX_ARTIFACT_ROWS, len(cells))
            self.run.log({key: wandb.Table(list(columns), cells)})
        pictures = {"curve": self.folder.picture, "fraction_curve": self.folder.fraction_picture}
        self.run.log({**{key: wandb.Image(str(path)) for key, path in pictures.items()}, **_pictures(rows, examples)})
        report = wandb.Artifact(f"report-{self.run.id}", type="report")
        report.add_file(str(self.folder.path / "report.html"))
        self.run.log_artifact(report)
        self.run.finish()


def _pictures(rows: Sequence[Row], examples: FinishedCertification) -> dict[str, Any]:
    """Return the first examples as images, and more of them in a table by descending radius."""
    import wandb

    images: dict[str, Any] = {}
    sizes: set[tuple[int, int]] = set()
    cells: list[list[Any]] = []
    names: list[str] = []
    radii = {row.index: row for row in sorted(rows, key=lambda row: row.eps_in)}  # at the largest eps_in
    for index in list(examples.outputs)[:_TABLE_IMAGES]:
        pictures = example_pictures(examples, index).pictures
        if not pictures:
            continue
        names = names or [picture.name for picture in pictures]
        if len(images) < _IMAGES:
            beside = side_by_side([picture.array for picture in pictures])
            sizes.add(beside.size)
            images[f"examples/{index}"] = wandb.Image(beside, caption=f"#{index}: {' | '.join(names)}")
        row = radii[index]
        if [picture.name for picture in pictures] == names:
            shown = [wandb.Image(side_by_side([picture.array])) for picture in pictures]
            cells.append([index, row.eps_in, row.eps_out, row.smoothing_loss, *shown])
    if not cells:
        return {}
    cells.sort(key=lambda cell: -cell[2])
    table = wandb.Table(["index", "eps_in", "eps_out", "smoothing_loss", *names], cells)
    # W&B shows a list of images in one size
    alike = {"examples": list(images.values())} if len(sizes) == 1 else images
    return {**alike, "examples_by_radius": table}
