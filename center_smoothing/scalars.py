"""Numbers as Python's own, and for the eye."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

# Radii above 0 are shown as at least this.
TINY = 1e-12


def plain(value: Any) -> Any:  # noqa: ANN401  # the caller checks what it is
    """Return a scalar of numpy, or a tensor or array () of one, as Python's own number; anything else as it is.

    Example:
        >>> plain(np.float32(0.5)), plain(np.array(3)), plain("auto")
        (0.5, 3, 'auto')
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 0):
        return value.item()
    return value


def make_plain(fields: object) -> None:
    """Make scalars of a dataclass, a frozen one too, Python's own numbers, also those in lists and tuples."""
    for name, value in vars(fields).items():
        listed = [plain(each) for each in value] if isinstance(value, list | tuple) else value
        object.__setattr__(fields, name, tuple(listed) if isinstance(value, tuple) else plain(listed))


def rounded_up(value: float, digits: int = 2) -> str:
    """Return a certified radius for the eye, never below the true one.

    Example:
        >>> rounded_up(80.001)
        '80.01'
    """
    text = f"{value:.{digits}f}"
    return text if float(text) >= value else f"{value + 10.0**-digits:.{digits}f}"


def format_up(value: float) -> str:
    """Return a certified radius for the eye, with two decimals or three significant digits, never below the true one.

    Example:
        >>> format_up(80.001), format_up(0.0012345)
        ('80.01', '0.00124')
    """
    if 0.0 < value <= TINY:
        return f"{TINY:g}"
    return rounded_up(value, 2 - math.floor(math.log10(value)) if 0.0 < value < 1.0 else 2)
