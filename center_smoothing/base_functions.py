"""Base functions of every kind as functions of a batch, and the one door through which their outputs come."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The ways in which an estimator may answer, the first that it has by default.
ANSWERS = ("predict", "transform", "predict_proba", "decision_function")
# Up to here float64 holds every whole number.
_MAX_WHOLE = 2**53
_KEPT = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
         torch.bfloat16, torch.float16, torch.float32, torch.float64)  # fmt: skip
# For types with which PyTorch can do hardly anything, one that holds the same numbers.
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
_WIDER = {**dict.fromkeys((torch.uint16, torch.uint32, torch.uint64), torch.int64),
          **dict.fromkeys(_FLOAT8, torch.float32)}  # fmt: skip


def as_base_function(model: object, name: str = "model") -> Callable[[Tensor], Any]:
    """Turn a model of any kind into a callable (N, *in) -> N outputs.

    Args:
        model: a function, a module (TorchScript too) or any other callable, which is returned as it is; a
            ``torch.export.ExportedProgram``, which must have been exported in eval mode and with a dynamic batch
            dimension; an estimator with scikit-learn's ``predict`` or ``transform``. ValueError for anything else.
        name: what the model is called.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    if callable(model):
        return model
    if any(hasattr(model, name) for name in ANSWERS):
        return Estimator(model)
    raise ValueError(
        f"{name} must be callable, got {type(model).__name__}: take a function (N, *in) -> (N, *out), or an estimator "
        f"with one of {', '.join(ANSWERS)}"
    )


def as_outputs(found: object, inputs: Tensor, name: str = "model") -> Tensor:
    """Return what a function gave for inputs (N, *in) as a tensor (N, *out) of the very same numbers.

    Arrays of any strides and byte order come to the device of the inputs, sparse ones become dense, and one number an
    output, (N,), counts as (N, 1). A tensor of an ordinary type is returned as it is. ``name`` is the function's.

    Raises:
        ValueError: for another number of outputs, and for what float64 does not hold: complex and large whole numbers,
            objects, masked and quantised ones; with what to return instead.

    Example:
        >>> as_outputs(np.arange(3, dtype=">i2")[::-1], torch.zeros(3, 5)).tolist()
        [[2], [1], [0]]
    """
    outputs = as_numbers(found, inputs, name)
    if outputs.ndim == 0 or len(outputs) != len(inputs):
        raise ValueError(
            f"{name} must return one output per input, shape ({len(inputs)}, *out), "
            f"got {tuple(outputs.shape)} for inputs {tuple(inputs.shape)}"
        )
    return outputs.unsqueeze(1) if outputs.ndim == 1 else outputs


def as_numbers(found: Any, inputs: Tensor, name: str = "model") -> Tensor:  # noqa: ANN401  # whatever a model returns
    """Return what a function gave for inputs as a tensor of the very same numbers and shape, as :func:`as_outputs`."""
    if hasattr(found, "toarray"):  # a sparse array of scipy
        found = found.toarray()
    if isinstance(found, np.ma.MaskedArray | torch.masked.MaskedTensor):
        raise _refused(name, "masked ones", "outputs.filled(nan) of an array, outputs.to_tensor(nan) of a tensor")
    if not isinstance(found, Tensor):
        if not hasattr(found, "__array__"):
            raise ValueError(
                f"{name} must return a tensor, got {type(found).__name__}; other outputs need an ObjectDistance"
            )
        found = _from_array(np.asarray(found), name).to(inputs.device)
    if found.is_complex():
        raise _refused(name, f"complex ones, {found.dtype}", "torch.view_as_real(outputs)")
    if found.is_quantized:
        raise _refused(name, f"quantised ones, {found.dtype}", "outputs.dequantize()")
    if found.is_nested:
        raise _refused(name, "a nested tensor", "torch.nested.to_padded_tensor(outputs, nan)")
    tensor: Tensor = found if found.layout is torch.strided else found.to_dense()
    if tensor.dtype in (torch.int64, torch.uint64) and tensor.numel() > 0:
        whole = tensor.view(torch.int64)  # unsigned numbers from 2^63 on turn up as negative ones
        least = -_MAX_WHOLE if tensor.dtype is torch.int64 else 0
        if int(whole.min()) < least or int(whole.max()) > _MAX_WHOLE:
            raise _refused(name, "whole ones beyond 2^53", "outputs // 2**32 and outputs % 2**32 as two numbers")
    if tensor.dtype in _WIDER:
        return tensor.to(_WIDER[tensor.dtype])
    if tensor.dtype not in _KEPT:
        raise _refused(name, str(tensor.dtype), "outputs.to(torch.float64)")
    return tensor


def _from_array(array: NDArray[Any], name: str) -> Tensor:
    if array.dtype.kind == "c":
        raise _refused(name, f"complex ones, {array.dtype}", "np.stack([outputs.real, outputs.imag], axis=-1)")
    if array.dtype.kind not in "biuf":
        raise _refused(name, f"an array of type {array.dtype}", "numbers of one type, or give an ObjectDistance")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            nearest = array.astype(np.float64)
        if not bool(((nearest == array) | np.isnan(array)).all()):
            raise _refused(name, f"{array.dtype} between its numbers", "outputs.astype(np.float64)")
        array = nearest
    flags = array.flags
    if not (flags.c_contiguous and flags.writeable and flags.aligned and array.dtype.isnative):  # torch takes no others
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array)


def _refused(name: str, what: str, instead: str) -> ValueError:
    return ValueError(f"{name} must return numbers that float64 holds, got {what}: return {instead}")


class Estimator:
    """A fitted scikit-learn estimator, or anything like it, as a base function.

    It gets float64, or float32 if it takes nothing else, as k-means fitted in float32 does; and where it was fitted
    with named features a frame with these names, as long as pandas is installed.

    Args:
        estimator: takes an array (N, features).
        answer: the method that is called; default: the first of ``ANSWERS`` that it has.

    Shapes: floating-point (N, *in), flattened to (N, features) -> float64 (N, *out); one number an input is (N, 1).
    A list of arrays (N, C), as of probabilities of several answers, is joined to one of all columns.

    Raises:
        ValueError: if it has no such method, and when called, for answers that are no such numbers.

    Example:
        >>> class Doubling:
        ...     def predict(self, features):
        ...         return 2 * features.sum(axis=1)
        >>> Estimator(Doubling())(torch.ones(2, 3))
        tensor([[6.],
                [6.]], dtype=torch.float64)
    """

    def __init__(self, estimator: object, answer: str | None = None) -> None:
        names = ANSWERS if answer is None else (answer,)
        self.answer = next((name for name in names if hasattr(estimator, name)), None)
        if self.answer is None:
            raise ValueError(f"estimator must have one of {', '.join(names)}, got {type(estimator).__name__}")
        self.estimator = estimator
        self.dtype = torch.float64

    def __call__(self, x: Tensor) -> Tensor:
        """Return its answers for a batch."""
        try:
            found = self._answers(x)
        except ValueError as error:
            if "dtype mismatch" not in str(error) or self.dtype is torch.float32:
                raise
            self.dtype = torch.float32
            found = self._answers(x)
        name = f"{type(self.estimator).__name__}.{self.answer}"
        if not isinstance(found, list | tuple):
            return as_outputs(found, x, name).double()
        others = [type(part).__name__ for part in found if len(getattr(part, "shape", ())) < 2]
        if others or not found:
            raise ValueError(
                f"{name} must return an array, or a list of arrays ({len(x)}, C) to be joined, got a "
                f"{type(found).__name__} of {others[0] if others else 'nothing'}: return np.array(...) of it"
            )
        return torch.cat([as_outputs(part, x, name).double().flatten(1) for part in found], dim=1)

    def _answers(self, x: Tensor) -> Any:  # noqa: ANN401  # of any kind
        features = x.flatten(1).cpu().to(self.dtype).numpy()
        names = getattr(self.estimator, "feature_names_in_", None)
        if names is not None and importlib.util.find_spec("pandas") is not None:
            features = importlib.import_module("pandas").DataFrame(features, columns=names)
        return getattr(self.estimator, str(self.answer))(features)


class OnnxModel:
    """An ONNX file as a base function, by onnxruntime (``pip install "center-smoothing[onnx]"``).

    Args:
        path: of the file. Its first input is the batch, with a dynamic first dimension.
        output: the name of the output that is smoothed; default: the first.
        providers: of onnxruntime; default: all that are available, in its order.

    Shapes: floating-point (N, *in), converted to the type of the file's input -> (N, *out), on the device of the input.

    Raises:
        ValueError: if onnxruntime is not installed, or the file or the output is not there or cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, output: str | None = None, providers: list[str] | None = None
    ) -> None:
        try:
            runtime: Any = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise ValueError(
                f'onnxruntime must be installed to read {path}: pip install "center-smoothing[onnx]"'
            ) from error
        if not Path(path).is_file():
            raise ValueError(f"path must be an ONNX file, got {path}: there is no such file")
        try:
            available = runtime.get_available_providers() if providers is None else providers
            self.session = runtime.InferenceSession(str(path), providers=available)
        except Exception as error:  # onnxruntime has exceptions of its own for each kind of damage
            raise ValueError(f"path must be an ONNX file that onnxruntime can run, got {path}: {error}") from error
        batch = self.session.get_inputs()[0]
        names = [each.name for each in self.session.get_outputs()]
        if output is not None and output not in names:
            raise ValueError(f"output must be one of {', '.join(names)}, got {output!r}")
        if batch.shape and isinstance(batch.shape[0], int):
            raise ValueError(
                f"path must be an ONNX file with a dynamic batch dimension, got {path}, which takes {batch.shape[0]} "
                "inputs at a time: export it with dynamic_shapes or dynamic_axes"
            )
        self.input = batch.name
        self.output = output or names[0]
        self.dtype = {"tensor(double)": torch.float64, "tensor(float16)": torch.float16}.get(batch.type, torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        inputs = {self.input: x.detach().to("cpu", self.dtype).contiguous().numpy()}
        (outputs,) = self.session.run([self.output], inputs)
        return as_outputs(outputs, x, f"{self.output} of the ONNX file")
