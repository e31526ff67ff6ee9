"""torchmetrics of certified test sets. Needs the package ``torchmetrics``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from center_smoothing.upper_median import upper_median

Values = Tensor | NDArray[Any] | Sequence[float]

# Below this float64 tells all whole numbers apart.
_EXACT = 2.0**53


class _PerExample(Metric):
    """Hold one float64 value per example. Of values with the same index the first counts."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401  # whatever torchmetrics' Metric takes
        super().__init__(**kwargs)
        # float64 keeps certified radii, and indices up to 2^53, exact. A process without any example contributes an
        # empty tensor of this type when states are gathered.
        self.set_dtype(torch.float64)
        # MetricCollection lets metrics with the same names of states share them once their first values are alike.
        of_this_class = f"{type(self).__module__}.{type(self).__qualname__}".replace(".", "_")
        self._names = [f"{of_this_class}_{state}" for state in ("indices", "values")]
        for name in self._names:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def plot(self, val: Any = None, ax: Any = None) -> Any:  # noqa: ANN401  # as every metric of torchmetrics
        """Return the figure and axes of one result, or of a list of results; without ``val``, of :meth:`compute`."""
        return self._plot(val, ax)

    def gathered(self) -> list[float]:
        """Return the values of distinct examples, (N,), of all processes; each of them has to call it."""
        with self.sync_context():
            return self._distinct().tolist()

    def _append(self, values: Values, index: Values | None) -> None:
        added = self._vector(values, "values")
        indices = torch.full_like(added, torch.nan) if index is None else self._vector(index, "index")
        if added.shape != indices.shape or added.ndim != 1:
            raise ValueError(
                f"values and index must be vectors of one length, got {tuple(added.shape)} and {tuple(indices.shape)}"
            )
        if bool(torch.isnan(added).any()):
            raise ValueError("values must not be NaN; where there is no certificate eps_out is inf")
        if bool((added < 0.0).any()):
            raise ValueError(f"values must be at least 0, got {float(added.min())!r}")
        if index is not None and not bool(((indices.abs() < _EXACT) & (indices == indices.floor())).all()):
            raise ValueError(f"index must hold whole numbers below 2^53, got {index!r}")
        for name, state in zip(self._names, (indices, added), strict=True):
            getattr(self, name).append(state)

    def _vector(self, values: Values, name: str) -> Tensor:
        """Return a vector on this metric's device as float64, without loss."""
        try:
            if isinstance(values, np.ndarray):  # torch takes neither strides below 0 nor a foreign byte order
                vector = torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))
            else:
                vector = values if isinstance(values, Tensor) else torch.tensor([*values], dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name} must be a vector of real numbers, got {values!r}") from error
        if vector.is_complex():
            raise ValueError(f"{name} must be a vector of real numbers, got {vector.dtype}")
        return vector.detach().to(self.device, torch.float64)

    def _distinct(self) -> Tensor:
        """Return the values of distinct examples, (N,)."""
        states = (getattr(self, name) for name in self._names)  # lists before a synchronisation, tensors afterwards
        empty = torch.empty(0, dtype=torch.float64)
        indices, values = (state if isinstance(state, Tensor) else torch.cat(state or [empty]) for state in states)
        first: dict[object, int] = {}
        for position, index in enumerate(indices.tolist()):
            first.setdefault(index if index == index else object(), position)  # NaN, no index, is like no other
        return values[list(first.values())]


class _MedianPerExample(_PerExample):
    def compute(self) -> Tensor:
        """Return the upper median; raises ValueError without any example."""
        values = self._distinct()
        return torch.tensor(upper_median(values.tolist()), dtype=torch.float64, device=values.device)


class MedianCertifiedRadius(_MedianPerExample):
    """Median eps_out over examples; lower is better. Abstentions and missing certificates are inf (theory T9).

    ``update(eps_out, index)`` takes (N,) certified output radii and the (N,) data set indices of their examples, as
    tensors, arrays or lists. Examples that come twice, as padding for distributed evaluation does, count once; without
    ``index`` each value is an example of its own. ``compute()`` gives a float64 scalar: the upper median.

    Args:
        kwargs: of torchmetrics' ``Metric``, as for the metrics below.

    Example:
        >>> import torch
        >>> metric = MedianCertifiedRadius()
        >>> metric.update(torch.tensor([30.0, torch.inf, 50.0]), torch.tensor([0, 1, 2]))
        >>> metric.update(torch.tensor([30.0]), torch.tensor([0]))
        >>> metric.compute()
        tensor(50., dtype=torch.float64)
    """

    def update(self, eps_out: Values, index: Values | None = None) -> None:
        """Add certified radii (N,) of the examples with indices (N,)."""
        self._append(eps_out, index)


class MedianSmoothingLoss(_MedianPerExample):
    """Median of d(f(x), center(x)) over examples; lower is better. Abstentions are inf.

    ``update(smoothing_loss, index)`` and ``compute()`` as for :class:`MedianCertifiedRadius`.

    Example:
        >>> import torch
        >>> metric = MedianSmoothingLoss()
        >>> metric.update(torch.tensor([3.0, 4.0]), torch.tensor([7, 9]))
        >>> metric.compute()
        tensor(4., dtype=torch.float64)
    """

    def update(self, smoothing_loss: Values, index: Values | None = None) -> None:
        """Add smoothing losses (N,) of the examples with indices (N,)."""
        self._append(smoothing_loss, index)


class AbstentionRate(_PerExample):
    """Share of examples at which the smoothed function abstained, in [0, 1]; lower is better.

    ``update(abstained, index)`` takes (N,) booleans, and the (N,) data set indices as for
    :class:`MedianCertifiedRadius`.

    Example:
        >>> import torch
        >>> metric = AbstentionRate()
        >>> metric.update(torch.tensor([True, False, False, False]), torch.arange(4))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    plot_upper_bound = 1.0

    def update(self, abstained: Values, index: Values | None = None) -> None:
        """Add outcomes (N,) of the examples with indices (N,)."""
        outcomes = self._vector(abstained, "abstained")
        if not bool(((outcomes == 0.0) | (outcomes == 1.0)).all()):
            raise ValueError(f"abstained must be true or false for each example, got {abstained!r}")
        self._append(outcomes, index)

    def compute(self) -> Tensor:
        """Return the share; raises ValueError without any example."""
        values = self._distinct()
        if values.numel() == 0:
            raise ValueError("the abstention rate of no example is undefined: call update first")
        return values.mean()
