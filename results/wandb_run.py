"""A certification in Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from results import certified_fraction
from results.finished import FinishedCertification
from results.folder import CertificationFolder
from results.plots.examples import example_pictures, side_by_side
from results.rows import Row, columns_of
from results.summary import line_key

_IMAGES = 10


def log_to_wandb(
    folder: CertificationFolder,
    rows: Sequence[Row],
    results: Sequence[dict[str, Any]],
    *,
    examples: FinishedCertification,
    config: dict[str, Any],
    group: str | None,
    offline: bool,
) -> None:
    """Log the tables, the curves and the images of a certification whose files are on disk.

    Args:
        folder: with the files.
        rows: of certificates.csv.
        results: of summary.json; each is logged with eps_in as the x axis, and with its h in the keys where the noise
            level changes along that axis.
        examples: with the outputs to be shown.
        config: of the certification.
        group: the run of the training that the checkpoint came from: W&B shows both together.
        offline: write to disk instead of the server.
    """
    import wandb  # slow to import, and not needed to refuse bad input

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "center-smoothing"),
        dir=folder.path,
        mode="offline" if offline else None,
        job_type="certify",
        name=f"certify {folder.path.name}",
        group=group,
        config=config,
    )
    run.define_metric("eps_in")
    several = len({row.sigma for row in rows}) > 1
    for result in results:
        line = line_key(result, several_levels=several)
        suffix, values = f"/{line}" if line else "", {key: result[key] for key in result if key != "eps_in"}
        for key in values:
            run.define_metric(f"{key}{suffix}", step_metric="eps_in")
        run.log({"eps_in": result["eps_in"], **{f"{key}{suffix}": value for key, value in values.items()}})
    names, curves = columns_of(rows), certified_fraction.certified_fractions(rows)
    tables = {
        "certificates": (names, [[getattr(row, name) for name in names] for row in rows]),
        "certified_fraction": (certified_fraction.columns(curves), [*map(list, certified_fraction.steps(curves))]),
    }
    for key, (columns, cells) in tables.items():
        # W&B cuts a longer table short without a word
        wandb.Table.MAX_ROWS = max(wandb.Table.MAX_ROWS, len(cells))
        wandb.Table.MAX_ARTIFACT_ROWS = max(wandb.Table.MAX_ARTIFACT_ROWS, len(cells))
        run.log({key: wandb.Table(list(columns), cells)})
    images: dict[int, Any] = {}
    sizes = set()
    for index in list(examples.outputs)[:_IMAGES]:
        pictures = example_pictures(examples, index).pictures
        if pictures:
            beside = side_by_side([picture.array for picture in pictures])
            named = " | ".join(picture.name for picture in pictures)
            sizes.add(beside.size)
            images[index] = wandb.Image(beside, caption=f"#{index}: {named}")
    alike = len(sizes) <= 1  # W&B shows a list of images in one size
    shown = {"examples": list(images.values())} if alike else {f"examples/{index}": images[index] for index in images}
    pictures_of_curves = {"curve": folder.picture, "fraction_curve": folder.fraction_picture}
    run.log({**{key: wandb.Image(str(path)) for key, path in pictures_of_curves.items()}, **shown})
    run.finish()
