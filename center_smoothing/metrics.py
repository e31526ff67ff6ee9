"""torchmetrics of certified test sets. Needs the package ``torchmetrics``."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from center_smoothing.medians import upper_median


class _PerExample(Metric):
    """Holds one float64 value per example. Of values with the same index the first counts."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    indices: list[Tensor]
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        # float64 keeps certified radii, and indices up to 2^53, exact. A process without any example contributes an
        # empty tensor of this type when states are gathered.
        self.set_dtype(torch.float64)
        self.add_state("indices", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def _append(self, values: Tensor, index: Tensor) -> None:
        index = torch.as_tensor(index)
        if values.shape != index.shape or values.ndim != 1:
            raise ValueError(
                f"values and index must be vectors of one length, got {tuple(values.shape)} and {tuple(index.shape)}"
            )
        if bool(torch.isnan(values).any()):
            raise ValueError("values must not be NaN; where there is no certificate eps_out is inf")
        self.indices.append(index.to(self.device, torch.float64))
        self.values.append(values.to(self.device, torch.float64))

    def _distinct(self) -> Tensor:
        """The values of distinct examples, (N,)."""
        if not len(self.values):
            return torch.empty(0, dtype=torch.float64)
        indices, values = _concatenated(self.indices), _concatenated(self.values)
        first: dict[float, int] = {}
        for position, index in enumerate(indices.tolist()):
            first.setdefault(index, position)
        return values[list(first.values())]


class _MedianPerExample(_PerExample):
    def compute(self) -> Tensor:
        """The upper median; raises ValueError without any example."""
        values = self._distinct()
        return torch.tensor(upper_median(values.tolist()), dtype=torch.float64, device=values.device)


class MedianCertifiedRadius(_MedianPerExample):
    """Median eps_out over examples; lower is better. Abstentions and missing certificates are inf (theory T9).

    ``update(eps_out, index)`` takes (N,) certified output radii and the (N,) data set indices of their examples;
    examples that come twice, as padding for distributed evaluation does, count once. ``compute()`` gives a float64
    scalar: the upper median.

    Example:
        >>> import torch
        >>> metric = MedianCertifiedRadius()
        >>> metric.update(torch.tensor([30.0, torch.inf, 50.0]), torch.tensor([0, 1, 2]))
        >>> metric.update(torch.tensor([30.0]), torch.tensor([0]))
        >>> metric.compute()
        tensor(50., dtype=torch.float64)
    """

    def update(self, eps_out: Tensor, index: Tensor) -> None:
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

    def update(self, smoothing_loss: Tensor, index: Tensor) -> None:
        """Add smoothing losses (N,) of the examples with indices (N,)."""
        self._append(smoothing_loss, index)


class AbstentionRate(_PerExample):
    """Share of examples at which the smoothed function abstained, in [0, 1]; lower is better.

    ``update(abstained, index)`` takes (N,) booleans and the (N,) data set indices; examples that come twice count
    once.

    Example:
        >>> import torch
        >>> metric = AbstentionRate()
        >>> metric.update(torch.tensor([True, False, False, False]), torch.arange(4))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    def update(self, abstained: Tensor, index: Tensor) -> None:
        """Add outcomes (N,) of the examples with indices (N,)."""
        self._append(abstained.to(torch.float64), index)

    def compute(self) -> Tensor:
        """The share; raises ValueError without any example."""
        values = self._distinct()
        if values.numel() == 0:
            raise ValueError("the abstention rate of no example is undefined: call update first")
        return values.mean()


def _concatenated(state: list[Tensor] | Tensor) -> Tensor:
    """A list state as it is before a synchronisation, or the tensor that it is afterwards."""
    return state if isinstance(state, Tensor) else torch.cat(state)
