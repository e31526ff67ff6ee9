"""Numbers as Python's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


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
