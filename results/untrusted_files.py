"""Reading files that may come from anybody: bounded, without pickles, and without leaving the folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

# Far above what certify.py writes: a summary with names of 10^5 photos, a table of 10^6 rows.
_MAX_JSON, _MAX_TABLE = 64 << 20, 512 << 20
# Far above what is shown of settings in a report.
_MAX_LEVELS = 40


def read_text(path: Path, most: int = _MAX_TABLE) -> str:
    """Read the text of a file; empty where there is none.

    Raises:
        ValueError: if it is larger than so many bytes, or no text.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ValueError(f"{path} must be a regular file")
        if size > most:
            raise ValueError(f"{path} must not be larger than {most >> 20} MB, got {size >> 20} MB")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text in UTF-8: {error}") from error


def read_json(path: Path) -> Any:  # noqa: ANN401  # whatever it holds
    """Read what a JSON file holds.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is too large, too deep, or no JSON.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        value = json.loads(read_text(path, _MAX_JSON))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    if _is_deep(value):
        raise ValueError(f"{path} is nested too deeply")
    return value


def check_links(folder: Path, name: str) -> None:
    """See that nothing in a folder, at any depth, leads out of it, before anything is written or locked there.

    Args:
        folder: which may itself be reached by a link, and need not be there.
        name: of the argument.

    Raises:
        ValueError: for a link to a place outside, with both.
    """
    root = os.path.realpath(folder)
    for place, folders, files in os.walk(root):
        for entry in (*folders, *files):
            path = os.path.join(place, entry)
            target = os.path.realpath(path) if os.path.islink(path) else root
            if os.path.commonpath([root, target]) != root:
                raise ValueError(f"{name} must be a folder without links to other places, got {path} to {target}")
        if place == root and "wandb" in folders:
            folders.remove("wandb")  # W&B keeps files of its own there, with links to its logs


def check_inside(path: Path, folder: Path) -> None:
    """See that a file to be read lies in a folder, wherever links lead.

    Raises:
        ValueError: if not.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} must lie in {folder}, got a link to {path.resolve()}")


def _is_deep(value: object) -> bool:
    """Return whether containers stand inside of each other more than is meant."""
    level = [value]
    for _ in range(_MAX_LEVELS):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, dict | list) for each in level)
