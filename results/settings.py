"""Nested settings as one level of dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Merge nested mappings into one, with dotted names.

    Example:
        >>> flatten({"sigma": 0.25, "budget": {"n": 100, "sizes": [1, 3]}})
        {'sigma': 0.25, 'budget.n': 100, 'budget.sizes': [1, 3]}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
