"""What a certification is of, as plain data: which distance, and what sets two configurations apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from center_smoothing import DISTANCES, Distance, FunctionDistance, ObjectDistance
from center_smoothing.distances.naming import name_of
from lightning_modules.imported import fingerprint, source_of
from results import files

_IDENTITY = "distance_identity"


def distance_config(distance: Distance) -> dict[str, Any]:
    """Return what a configuration says of a distance: how it is shown, and what it is.

    ``distance_identity`` has its class, its settings and, of a user's own, the hash of its source.

    Example:
        >>> from center_smoothing import TotalVariation
        >>> distance_config(TotalVariation())["distance_identity"]
        {'class': 'center_smoothing.TotalVariation', 'settings': {'p': 1}}
    """
    return {"distance": repr(distance), _IDENTITY: _identity(distance)}


def is_distance(config: Mapping[str, Any], distance: Distance) -> bool:
    """Return whether a configuration is of a distance."""
    return first_difference(config, distance_config(distance), ("distance",)) is None


def known_distance(config: Mapping[str, Any]) -> Distance | None:
    """Return the distance that a configuration is of; None where --distance has no name for it."""
    return next((known for known in DISTANCES.values() if is_distance(config, known)), None)


def first_difference(
    before: Mapping[str, Any], now: Mapping[str, Any], names: tuple[str, ...] = ()
) -> tuple[str, Any, Any] | None:
    """Return the first setting that sets two configurations apart, with both values; None where there is none.

    Distances are compared by identity; where one configuration is older than that, by their text and their hash. Of
    the settings those are compared whose names begin like one of ``names``; default: all.
    """
    one, other = (json.loads(json.dumps(dict(config))) for config in (before, now))
    if _IDENTITY in one and one[_IDENTITY] == other.get(_IDENTITY):
        other["distance"] = one.get("distance")
    elif not (_IDENTITY in one and _IDENTITY in other):
        for config, older in ((one, other), (other, one)):
            if _IDENTITY in config:
                config["distance_sha256"] = config.pop(_IDENTITY).get("sha256", older.get("distance_sha256"))
    for name in {**other, **one}:
        there, wanted = one.get(name), other.get(name)
        if there != wanted and (not names or name.startswith(names)):
            if isinstance(there, dict) and isinstance(wanted, dict):  # name the one setting that differs
                inner = next(key for key in {**wanted, **there} if there.get(key) != wanted.get(key))
                return f"{name}.{inner}", there.get(inner), wanted.get(inner)
            return name, there, wanted
    return None


def _identity(distance: Distance) -> dict[str, Any]:
    function = distance.function if isinstance(distance, FunctionDistance) else distance
    kind = type(distance)
    ours = kind.__module__.partition(".")[0] == "center_smoothing"
    hidden = ours or isinstance(distance, ObjectDistance)  # what has been seen so far is no setting
    settings = {name: value for name, value in vars(distance).items() if not (hidden and name.startswith("_"))}
    source = None if ours and function is distance else source_of(function)
    return {
        "class": f"center_smoothing.{kind.__qualname__}" if ours else f"{kind.__module__}.{kind.__qualname__}",
        **({} if source is None else {"sha256": files.sha256(source)}),
        "settings": {name: _plain(value) for name, value in settings.items()},
    }


def _plain(value: object) -> Any:  # noqa: ANN401  # whatever JSON holds
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Distance):
        return _identity(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return {"name": name_of(value), "sha256": fingerprint(value)}
