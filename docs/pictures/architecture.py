"""Prints the drawing of docs/architecture.md from the imports of the code.

python docs/pictures/architecture.py
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = (
    *("center_smoothing", "datamodules", "command_line", "lightning_modules", "results", "callbacks"),
    *("certification", "training", "experiments", "certify.py", "train.py"),
)


def imported(part: str) -> set[str]:
    """Return the other parts that any file of a part imports."""
    files = [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py"))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names} & {*PARTS} - {part}


def drawing() -> str:
    """Return a line for each part, from the imported to the importing, with what it imports by no other part."""
    direct = {part: imported(part) for part in PARTS}
    order = list(TopologicalSorter(direct).static_order())
    reached: dict[str, set[str]] = {}
    for part in order:
        reached[part] = direct[part].union(*(reached[other] for other in direct[part]))
    lines = []
    for part in sorted(order, key=lambda part: (len(reached[part]), part)):
        nearest = direct[part] - set().union(*(reached[other] for other in direct[part]))
        lines.append(f"{part:<18}" + (f" <- {', '.join(sorted(nearest))}" if nearest else ""))
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    print(drawing())
