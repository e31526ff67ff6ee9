"""What arguments name: distances, budgets and smoothers, and what of them goes together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from center_smoothing import DISTANCES, SMOOTHERS, Budget, Distance
from center_smoothing.distances import as_distance
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from command_line import class_paths
from command_line.argument_types import ArgumentType

# The names that --budget takes.
BUDGETS = sorted(SMOOTHERS[DEFAULT_SMOOTHER].budget_type.presets)
# What bounds the outputs of means, and which of the two to take.
_BOUNDS = {
    "--clip-norm": "--clip-norm scales outputs that are further from zero than that down to it, as part of the model",
    "--output-bound": "--output-bound is for who knows that no two outputs are further apart",
}
# The type of --distance.
distance_name = ArgumentType(
    "--distance",
    f"one of {', '.join(DISTANCES)}, or the name of your own such as my_package.my_distance",
    lambda value: value if isinstance(value, str) and (value in DISTANCES or class_paths.is_dotted(value)) else None,
)


def budget_values(name: str, smoother: str = DEFAULT_SMOOTHER, **given: Any) -> dict[str, Any]:  # noqa: ANN401  # as a budget's own
    """Merge a budget by name and flags, under the names of its class.

    Args:
        name: one of the ``presets`` of the smoother's type of budgets.
        smoother: one of ``SMOOTHERS``.
        given: what differs, under the names of the flags (n, m, k, group, delta, alpha1, alpha2, method); None leaves
            the value as it is.
    """
    names = {"alpha1": "alpha_1", "alpha2": "alpha_2"}
    flags = {names.get(flag, flag): value for flag, value in given.items() if value is not None}
    return SMOOTHERS[smoother].budget_type.preset_values(name, **flags)


def budget(name: str, smoother: str = DEFAULT_SMOOTHER, **given: Any) -> Any:  # noqa: ANN401  # of the smoother's type
    """Return a budget by name and flags. Arguments are those of :func:`budget_values`.

    Raises:
        ValueError: as the smoother's type of budgets does.
    """
    make: Callable[..., Any] = SMOOTHERS[smoother].budget_type
    if given.get("group") is not None and "group" not in inspect.signature(make).parameters:
        raise ValueError(f"--group must be left out with --smoother={smoother}, got {given['group']}")
    return make(**budget_values(name, smoother, **given))


def check_smoother(
    smoother: str, *, distance: str, budget: str, bounds: Mapping[str, object], of_centers: Mapping[str, object]
) -> None:
    """See that what was asked of a smoother goes together, before anything is loaded.

    Args:
        smoother: one of ``SMOOTHERS``.
        distance: what --distance names.
        budget: one of ``BUDGETS``.
        bounds: the flags that bound the outputs of means, as they are typed, with their values; None if not given.
        of_centers: likewise the flags that mean nothing for means.

    Raises:
        ValueError: if not, with what to change.
    """
    bounding, foreign = ([flag for flag, value in flags.items() if value is not None] for flags in (bounds, of_centers))
    kind, between = SMOOTHERS[smoother], distance_by_name(distance)
    if bounding and not kind.needs_bound(between):
        bounded = " or ".join(name for name, other in SMOOTHERS.items() if other.needs_bound(between))
        raise ValueError(
            f"{bounding[0]} bounds the outputs of means: it needs --smoother {bounded}, got {smoother}"
            if bounded
            else f"{bounding[0]} must be left out with --distance={distance}: means are then of outputs of norm 1"
        )
    if not kind.takes(between):
        fitting = ", ".join(name for name, known in DISTANCES.items() if kind.takes(known))
        raise ValueError(f"--smoother={smoother} needs a distance {kind.needs} ({fitting}), got {distance}: {kind.why}")
    if budget not in (found := sorted(kind.budget_type.presets)):
        raise ValueError(f"--budget must be one of {', '.join(found)} for --smoother={smoother}, got {budget}")
    if foreign and smoother != DEFAULT_SMOOTHER:
        raise ValueError(f"{foreign[0]} is of centers alone: it must be left out with --smoother={smoother}")
    if kind.needs_bound(between) and len(bounding) != 1:
        wanted = " or ".join(bounds) if len(bounds) == 1 else f"exactly one of {' and '.join(bounds)}"
        raise ValueError(
            f"--smoother={smoother} needs {wanted}, got {' and '.join(bounding) or 'none'}: "
            f"{'; '.join(_BOUNDS[flag] for flag in bounds)}"
        )


@cache
def distance_by_name(name: str) -> Distance:
    """Make the distance that --distance names.

    Raises:
        ValueError: for a user's own that cannot be imported, or is none.
    """
    if name in DISTANCES:
        return DISTANCES[name]
    try:
        return as_distance(class_paths.import_by_name(name, "--distance"))
    except ValueError as error:
        raise ValueError(f"--distance: {error}" if not str(error).startswith("--distance") else str(error)) from error


def noise_level(*, h: float, eps_in: float) -> float:
    """Return sigma = eps_in / h, in units of x: one number for all pairs that share it in nine digits."""
    return float(f"{eps_in / h:.9g}")


def check_certifiable(budget: Budget, *, sigma: float, eps_in: float, conversion: float = 1.0) -> None:
    """Raise ValueError, with the m that would do, if no output can certify ``eps_in`` at ``sigma``.

    Args:
        budget: in question.
        sigma: noise level, in units of x.
        eps_in: input radius.
        conversion: h is conversion * eps_in / sigma (theory T15).
    """
    plan = budget.plan(conversion * eps_in / sigma)
    if math.isinf(plan.least_m):
        raise ValueError(
            f"--eps-in must be smaller, or --sigma larger: no number of samples certifies eps_in={eps_in:g} "
            f"(h={plan.h:.4g}) under {budget.noise} noise at delta={budget.delta:.4g}"
        )
    if not plan.certifiable:
        raise ValueError(
            f"--m must be at least {plan.least_m:.0f} to certify eps_in={eps_in:g} (h={plan.h:g}) at "
            f"delta={budget.delta} with method={budget.method!r}, got {budget.m}"
        )
