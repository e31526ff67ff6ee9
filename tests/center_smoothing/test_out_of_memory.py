"""A device without memory for a whole batch gives the same outputs in smaller ones."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from center_smoothing.noise import Stage
from center_smoothing.sampling import BatchSize, NoisyOutputs

X = torch.rand(6, generator=torch.Generator().manual_seed(0))
MESSAGES = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8",
    "[enforce fail at alloc_cpu.cpp:118] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    "MPS backend out of memory (MPS allocated: 17.92 GB, other allocations: 208.00 MB, max allowed: 18.13 GB).",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
)


def limited(most: int, error: RuntimeError, sizes: list[int] | None = None) -> Callable[[Tensor], Tensor]:
    """A model that fails for more than ``most`` inputs at a time."""

    def model(x: Tensor) -> Tensor:
        if sizes is not None:
            sizes.append(len(x))
        if len(x) > most:
            raise error
        return torch.tanh(x)

    return model


def drawn(model: Callable[[Tensor], Tensor], batch_size: BatchSize = 100) -> tuple[Tensor, NoisyOutputs]:
    outputs = NoisyOutputs(model, sigma=0.5, batch_size=batch_size)
    return torch.cat(list(outputs.draw(X, example=0, stage=Stage.PILOT, count=250))), outputs


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), *map(RuntimeError, MESSAGES)])
def test_whoever_has_no_memory_the_outputs_are_the_same(error: RuntimeError) -> None:
    found, outputs = drawn(limited(30, error))
    assert torch.equal(found, drawn(torch.tanh)[0])
    assert outputs.most_at_once == 25


def test_the_next_attempt_gets_inputs_that_the_last_one_has_not_changed() -> None:
    def model(x: Tensor) -> Tensor:
        x += 100.0
        if len(x) > 30:
            raise torch.OutOfMemoryError
        return x

    for sizes in (100, "auto"):
        found, _ = drawn(model, sizes)
        assert torch.equal(found, drawn(lambda x: x + 100.0)[0])
    assert X.max() < 1.0


def test_a_smaller_batch_is_kept() -> None:
    sizes: list[int] = []
    drawn(limited(30, torch.OutOfMemoryError(), sizes))
    assert sizes == [100, 50, *[25] * 10]


@pytest.mark.parametrize("most", [1, 20, 200])
def test_the_choice_of_a_batch_size_survives_it(most: int) -> None:
    found, outputs = drawn(limited(most, torch.OutOfMemoryError()), "auto")
    assert torch.equal(found, drawn(torch.tanh)[0])
    assert outputs.batch_size != "auto"


def test_an_error_of_another_kind_is_one() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        drawn(limited(30, RuntimeError("mat1 and mat2 shapes cannot be multiplied")))


def test_a_single_copy_that_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match=r"one noisy copy at least, got an input of shape \(6,\): CUDA out of memory"):
        drawn(limited(0, torch.OutOfMemoryError("CUDA out of memory")))


@pytest.mark.parametrize("batch_size", [64, "auto"])
def test_memory_that_is_kept_for_later_is_freed_before_the_next_attempt(
    batch_size: BatchSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(empty_cache=lambda: done.append(0)))
    drawn(limited(40, torch.OutOfMemoryError(), done), batch_size)
    too_large = [position for position, size in enumerate(done) if size > 40]
    assert too_large
    assert all(done[position + 1] == 0 for position in too_large)
