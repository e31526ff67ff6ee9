"""The one door: the numbers that a model gives arrive as they are, or not at all."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor

from center_smoothing import CenterSmoother, Lp, MeanBudget, MeanSmoother, SmoothingBudget
from center_smoothing.base_functions import as_outputs
from center_smoothing.sampling import NoisyOutputs

VALUES = np.array([[1.5, -2.0, 3.0], [4.0, 5.25, -6.0]])
WHOLE = np.array([[1, 2, 3], [4, 5, 200]])
X = torch.rand(3, generator=torch.Generator().manual_seed(0))
CENTER = SmoothingBudget(n=200, m=400, k=16, delta=0.3)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


def unaligned(array: np.ndarray) -> np.ndarray:
    table = np.zeros(len(array), dtype=[("kind", "u1"), ("z", "f8", array.shape[1:])])
    table["z"] = array
    return table["z"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: VALUES,
        lambda: np.asfortranarray(VALUES),
        lambda: VALUES[::-1].copy()[::-1],
        lambda: np.repeat(VALUES, 2, axis=1)[:, ::2],
        lambda: VALUES[:, ::-1].copy()[:, ::-1],
        lambda: np.broadcast_to(VALUES[:1], VALUES.shape),
        lambda: VALUES.astype(">f8"),
        lambda: VALUES.astype(">f4"),
        lambda: VALUES.astype(np.float16),
        lambda: VALUES.astype(np.longdouble),
        lambda: read_only(VALUES),
        lambda: unaligned(VALUES),
        lambda: scipy.sparse.csr_array(VALUES),
        lambda: scipy.sparse.coo_matrix(VALUES),
        lambda: torch.from_numpy(VALUES).to_sparse(),
        lambda: torch.from_numpy(VALUES).T.contiguous().T,
        lambda: torch.from_numpy(VALUES).to(torch.float8_e5m2fnuz),
        lambda: torch.imag(torch.complex(torch.zeros(2, 3), -torch.from_numpy(VALUES).float()).conj()),
        *(partial(WHOLE.astype, kind) for kind in ("u1", ">u2", "u2", "u4", ">u8", "i2", ">i4", "i8")),
        *(
            partial(torch.from_numpy(WHOLE).to, kind)
            for kind in (torch.uint16, torch.uint32, torch.uint64, torch.int64)
        ),
        lambda: np.full((2, 3), -(2**53)),
        lambda: WHOLE > 2,
    ],
)
def test_the_numbers_of_arrays_and_tensors_of_every_kind_arrive(make: Callable[[], Any]) -> None:
    found = make()
    arrived = as_outputs(found, torch.zeros(2, 7))
    dense = found.to_dense().double() if isinstance(found, Tensor) else getattr(found, "toarray", lambda: found)()
    assert arrived.double().tolist() == dense.tolist()
    assert torch.isfinite(torch.cat([arrived, arrived])).all()  # a type that can be used


def test_ordinary_outputs_are_not_copied() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.int64):
        outputs = torch.ones(2, 3, dtype=dtype)
        assert as_outputs(outputs, torch.zeros(2)) is outputs
    assert as_outputs(VALUES, torch.zeros(2)).data_ptr() == VALUES.ctypes.data
    assert as_outputs(torch.ones(4), torch.zeros(4, 2)).shape == (4, 1)


def masked(z: Tensor) -> Any:  # noqa: ANN401
    return torch.masked.masked_tensor(z, z > 0.0)


REFUSED: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda z: torch.complex(z, z), r"complex ones, torch.complex64: return torch.view_as_real\(outputs\)"),
    (lambda z: z.numpy() * 1j, r"complex ones, complex64: return np.stack\(\[outputs.real, outputs.imag\], axis=-1\)"),
    (lambda z: z.numpy().astype(np.clongdouble), "complex ones, clongdouble|complex ones, complex256"),
    (lambda z: torch.complex(z, z).to_sparse(), "complex ones"),
    (lambda z: (z * 0).long() + 2**53 + 1, r"whole ones beyond 2\^53: return outputs // 2\*\*32"),
    (lambda z: (z * 0).long() - 2**53 - 1, r"whole ones beyond 2\^53"),
    (lambda z: (z.numpy() * 0).astype(">u8") + np.uint64(2**63), r"whole ones beyond 2\^53"),
    (
        lambda z: 1 + np.full(z.shape, 2.0**-60, np.longdouble),
        r"between its numbers: return outputs.astype\(np.float64",
    ),
    (lambda z: np.full(z.shape, 10, np.longdouble) ** 400, "between its numbers"),
    (lambda z: z.numpy().astype(object), "an array of type object: return numbers of one type, or give an ObjectDist"),
    (lambda z: z.numpy().astype(str), r"an array of type <U\d+"),
    (lambda z: z.numpy().astype("m8[s]"), "an array of type timedelta64"),
    (lambda z: np.ma.masked_less(z.numpy(), 0.0), r"masked ones: return outputs.filled\(nan\)"),
    (masked, "masked ones"),
    (lambda z: torch.quantize_per_tensor(z, 0.1, 0, torch.qint8), r"quantised ones, .*: return outputs.dequantize\(\)"),
    (lambda z: torch.nested.nested_tensor(list(z)), "a nested tensor"),
    (lambda z: z.tolist(), "model must return a tensor, got list; other outputs need an ObjectDistance"),
    (lambda z: {"logits": z}, "model must return a tensor, got dict"),
    (lambda z: z.numpy().sum(), r"one output per input, shape \(\d+, \*out\), got \(\)"),
]


@pytest.mark.filterwarnings("ignore:.*(nested tensors|masked tensors|MaskedTensors|quantize).*")
@pytest.mark.parametrize("kind", ["center", "clipped mean", "bounded mean"])
@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_what_float64_does_not_hold_is_refused_by_every_smoother(
    model: Callable[[Tensor], Any], message: str, kind: str
) -> None:
    smoother: CenterSmoother | MeanSmoother = CenterSmoother(model, Lp(2), sigma=1.0, budget=CENTER)
    if kind != "center":
        of_outputs = {"clip_norm": 1.0} if kind == "clipped mean" else {"bound": 1e300}
        smoother = MeanSmoother(model, Lp(2), sigma=1.0, budget=MeanBudget(n=50, m=60), **of_outputs)
    for ask in (smoother.smooth, smoother.outputs.base_output):
        with pytest.raises(ValueError, match=message) as error:
            ask(X)
        assert "\n" not in str(error.value)


def test_a_batch_that_the_model_takes_only_as_one_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2 * 6 * 6, 2))
    smoother = CenterSmoother(network, Lp(2), sigma=0.25, budget=CENTER)
    with pytest.raises(ValueError, match=r"x must be one input, got shape \(5, 3, 8, 8\).*batch of 5.*each x\[i\]"):
        smoother.certify(torch.rand(5, 3, 8, 8))
    smoother.smooth(torch.rand(3, 8, 8))


@pytest.mark.parametrize(
    "model", [torch.nn.Linear(3, 2), lambda z: z.clone(), lambda z: z.sum(dim=-1), lambda z: z.mul_(2.0)]
)
def test_a_batch_of_which_each_row_has_its_own_output_is_warned_about(model: Callable[[Tensor], Tensor]) -> None:
    for smoother in (
        CenterSmoother(model, Lp(2), sigma=0.25, budget=CENTER),
        MeanSmoother(model, Lp(2), sigma=0.25, budget=MeanBudget(n=50, m=60), clip_norm=1.0),
    ):
        with pytest.warns(UserWarning, match=r"x of shape \(5, 3\) looks like a batch of 5 inputs"):
            smoother.smooth(torch.rand(5, 3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda z: z.flatten(1).cumsum(dim=1).reshape(z.shape), (5, 3)),
        (lambda z: z.softmax(dim=1), (5, 3)),
        (lambda z: z[:, :, 0], (5, 3)),
        (lambda z: z.sum(dim=(1, 2)), (5, 3)),
        (torch.nn.Conv2d(3, 3, 1), (3, 8, 8)),
        (torch.tanh, (3, 8, 8)),
        (torch.tanh, (1, 3)),
        (torch.tanh, (3,)),
    ],
)
def test_an_input_whose_rows_belong_together_is_one(model: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    NoisyOutputs(model, sigma=0.25).base_output(torch.rand(shape))
