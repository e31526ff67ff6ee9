"""Base functions of every kind as functions of a batch: modules, exported programs, estimators, ONNX files."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The ways in which an estimator may answer, the first that it has by default.
ANSWERS = ("predict", "transform", "predict_proba", "decision_function")


def as_base_function(model: object) -> Callable[[Tensor], Any]:
    """A model of any kind as a callable (N, *in) -> N outputs.

    Args:
        model: a function, a module (TorchScript too) or any other callable, which is returned as it is; a
            ``torch.export.ExportedProgram``, which must have been exported in eval mode and with a dynamic batch
            dimension; an estimator with scikit-learn's ``predict`` or ``transform``.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    if callable(model):
        return model
    if any(hasattr(model, name) for name in ANSWERS):
        return Estimator(model)
    raise ValueError(
        f"model must be callable, got {type(model).__name__}: take a function (N, *in) -> (N, *out), or an estimator "
        f"with one of {', '.join(ANSWERS)}"
    )


class Estimator:
    """A fitted scikit-learn estimator, or anything like it, as a base function.

    Args:
        estimator: takes an array (N, features).
        answer: the method that is called; default: the first of ``ANSWERS`` that it has.

    Shapes: floating-point (N, *in), flattened to (N, features) -> float64 (N, *out); one number an input is (N, 1).

    Raises:
        ValueError: if it has no such method.

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

    def __call__(self, x: Tensor) -> Tensor:
        """Its answers for a batch."""
        answers = np.asarray(getattr(self.estimator, str(self.answer))(x.flatten(1).cpu().numpy()), dtype=np.float64)
        return torch.from_numpy(answers.reshape(len(answers), *(answers.shape[1:] or (1,)))).to(x.device)


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
        """The output of a batch."""
        inputs = {self.input: x.detach().to("cpu", self.dtype).contiguous().numpy()}
        (outputs,) = self.session.run([self.output], inputs)
        return torch.from_numpy(np.asarray(outputs)).to(x.device)
