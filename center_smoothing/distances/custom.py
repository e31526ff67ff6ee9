"""Distances that users bring: a function of two batches, or a way to compare two objects of any kind."""

from __future__ import annotations

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from center_smoothing.base_functions import as_base_function
from center_smoothing.distances.base import Distance, to_float64
from center_smoothing.distances.naming import name_of
from center_smoothing.scalars import plain


class FunctionDistance(Distance):
    """A distance from a function of paired outputs.

    Args:
        function: (N, *out), (N, *out), both float64 -> (N,), each pair by itself. Symmetric, at least 0, and 0 from an
            output to itself (:func:`center_smoothing.check_distance`).
        relaxation: gamma of its triangle inequality, at least the function's attribute of that name; default: that, or
            else 1 with a warning.
        averages: whether means of outputs are outputs too; default: the function's attribute, or else that they are.

    Raises:
        ValueError: if it is not callable, or for a relaxation that is none. When called, for results of another shape
            and for negative distances.

    Example:
        >>> largest = FunctionDistance(lambda a, b: (a - b).abs().amax(dim=1), relaxation=1)
        >>> largest(torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 2.0]]))
        tensor([3.], dtype=torch.float64)
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        *,
        relaxation: float | None = None,
        averages: bool | None = None,
    ) -> None:
        if not callable(function):
            raise ValueError(f"distance must be a Distance or a function of two batches, got {function!r}")
        gamma = relaxation_of(function, relaxation)
        if gamma is None:
            name = name_of(function)
            warnings.warn(  # of this line, so that each function is named once
                f"{name} declares no relaxation and is taken for a metric, gamma = 1: if its triangle inequality needs "
                f"more, certificates are false. Say {name}.relaxation = 1, or FunctionDistance({name}, relaxation=1)",
                stacklevel=1,
            )
        self.function = function
        self.relaxation = 1.0 if gamma is None else gamma
        self.averages = bool(getattr(function, "averages", True) if averages is None else averages)

    def _embed(self, z: Tensor) -> Tensor:
        return z

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([self._compare_paired(a, center.expand_as(a)) for center in b], dim=1)

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        found = self.function(a.clone(), b.clone())  # it may work in place
        if not isinstance(found, Tensor) or found.shape != (len(a),):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{self!r} must return one number for each pair, shape ({len(a)},), got {got}")
        found = to_float64(found).to(a.device)
        if bool((found < 0.0).any()):
            raise ValueError(f"{self!r} must not be negative, got {float(found.min()):g}")
        return found

    def __repr__(self) -> str:
        """Return the function's name, with what was declared of it."""
        name, where = (
            getattr(self.function, part, getattr(type(self.function), part)) for part in ("__qualname__", "__module__")
        )
        return f"{where}.{name}" + (f"(relaxation={self.relaxation:g})" if self.relaxation != 1.0 else "")


class ObjectDistance(Distance):
    """A distance between outputs that are no tensors: texts, sets, graphs, whatever can be told apart.

    A subclass says how far two objects are apart, and its ``relaxation`` if that is no metric. The model returns a
    sequence of N objects, and None where it has no answer, which lies outside every ball. Objects are numbered from 1
    as they appear: a center is a number, 0 where there is none, and :meth:`decode` gives the object.

    Example:
        >>> class Overlap(ObjectDistance):
        ...     def between(self, a: frozenset, b: frozenset) -> float:
        ...         return 1.0 - len(a & b) / max(len(a | b), 1)
        >>> distance = Overlap()
        >>> numbers = distance.encode([frozenset("ab"), frozenset("bc"), None])
        >>> distance.pairwise(numbers, numbers[:1])[:, 0].tolist()
        [0.0, 0.6666666666666667, inf]
        >>> sorted(distance.decode(numbers[1]))
        ['b', 'c']
    """

    averages = False

    def __init__(self) -> None:
        self.forget()

    @abstractmethod
    def between(self, a: Any, b: Any) -> float:  # noqa: ANN401  # whatever the model returns
        """Return how far two outputs are apart: at least 0, symmetric, 0 for equal ones, with this class's relaxation.

        Outputs that :meth:`key` stands for are copies, which it may change.
        """

    def key(self, output: Any) -> Hashable:  # noqa: ANN401
        """Return what tells outputs apart; equal keys are one output. Default: the hashable output itself."""
        return output  # type: ignore[no-any-return]  # checked when it is used

    def forget(self) -> None:
        """Forget all outputs seen so far, with their numbers."""
        self._objects: list[Any] = [None]
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[tuple[int, int], float] = {}

    def encode(self, outputs: Sequence[Any]) -> Tensor:
        """Turn N outputs into their numbers, (N, 1) float64; NaN for None. ValueError for unhashable keys."""
        return torch.tensor([[self._number(output)] for output in outputs], dtype=torch.float64).reshape(-1, 1)

    def decode(self, number: Tensor) -> Any:  # noqa: ANN401
        """Return the output of a number (1,); None for NaN, and for 0, the center of a run without any.

        ValueError for a number that no output has.
        """
        value = float(number)
        if math.isnan(value):
            return None
        if value != int(value) or not 0 <= value < len(self._objects):
            raise ValueError(f"number must be one of 0..{len(self._objects) - 1}, got {value:g}")
        return self._copy(self._objects[int(value)])

    def encoded(self, model: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        """Return a model whose outputs are the numbers of another one's; that itself if they are already."""
        return model if isinstance(model, _Encoded) else _Encoded(as_base_function(model), self)

    def _number(self, output: Any) -> float:  # noqa: ANN401
        if output is None:
            return math.nan
        try:
            number = self._numbers.setdefault(self.key(output), len(self._objects))
        except TypeError as error:
            raise ValueError(
                f"outputs must be hashable, such as tuples and frozensets, or {type(self).__name__}.key must make them "
                f"so, got {type(output).__name__}"
            ) from error
        if number == len(self._objects):
            self._objects.append(self._copy(output))
        return float(number)

    def _copy(self, output: Any) -> Any:  # noqa: ANN401
        """Copy an output, which a model or a user may change; one that is its own key, or None, cannot change."""
        return output if output is None or self.key(output) is output else copy.deepcopy(output)

    def _embed(self, z: Tensor) -> Tensor:
        return z.flatten(1).masked_fill(z.flatten(1) == 0.0, torch.nan)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        rows, columns = a[:, 0].tolist(), b[:, 0].tolist()
        return a.new_tensor([[self._between(p, q) for q in columns] for p in rows])

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(a[:, 0].tolist(), b[:, 0].tolist(), strict=True)
        return a.new_tensor([self._between(p, q) for p, q in pairs])

    def _between(self, p: float, q: float) -> float:
        if math.isnan(p) or math.isnan(q):
            return math.inf
        pair = int(p), int(q)
        if pair not in self._known:
            distance = float(self.between(*(self._copy(self._objects[number]) for number in pair)))
            if distance < 0.0:
                raise ValueError(f"{self!r} must not be negative, got {distance:g}")
            self._known[pair] = distance
        return self._known[pair]

    def __repr__(self) -> str:
        """Return the class name and public parameters."""
        public = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({public})"


class _Encoded:
    def __init__(self, model: Callable[[Tensor], Any], distance: ObjectDistance) -> None:
        self.model = model
        self.distance = distance
        self.__self__ = getattr(model, "__self__", model)  # whose eval mode it is

    def __call__(self, x: Tensor) -> Tensor:
        outputs = self.model(x)
        if isinstance(outputs, str) or not isinstance(outputs, Sequence):
            raise ValueError(
                f"model must return a sequence of {len(x)} outputs for {self.distance!r}, got {type(outputs).__name__}"
            )
        return self.distance.encode(outputs).to(x.device)


def relaxation_of(function: object, given: float | None) -> float | None:
    """Return the relaxation of a distance as given, or else as its attribute declares it; None for neither.

    ValueError for numbers that are no relaxation, and for less than is declared.
    """
    given, declared = plain(given), plain(getattr(function, "relaxation", None))
    for gamma in (given, declared):
        if gamma is not None and (
            isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 1.0 <= gamma < math.inf
        ):
            raise ValueError(f"relaxation must be a finite number of at least 1, got {gamma!r}")
    if given is not None and declared is not None and given < declared:
        who = repr(function) if isinstance(function, Distance) else name_of(function)
        raise ValueError(f"relaxation must be at least {declared:g}, which {who} declares, got {given!r}")
    gamma = declared if given is None else given
    return None if gamma is None else float(gamma)
