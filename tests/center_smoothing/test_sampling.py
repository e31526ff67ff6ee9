import math
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from center_smoothing.noise import BLOCK, Stage, block_seed
from center_smoothing.sampling import BatchSize, NoisyOutputs, evaluating

BATCH_SIZES = (1, 7, 64, 100, 1000)


def identity(z: Tensor) -> Tensor:
    return z


def drawn(
    x: Tensor,
    model: Callable[[Tensor], Tensor] = identity,
    *,
    count: int = 230,
    batch_size: BatchSize = 100,
    sigma: float = 0.3,
    seed: int = 0,
    example: int = 0,
    stage: Stage = Stage.PILOT,
) -> Tensor:
    outputs = NoisyOutputs(model, sigma=sigma, seed=seed, batch_size=batch_size)
    return torch.cat(list(outputs.draw(x, example=example, stage=stage, count=count)))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *(((1,), torch.float16), ((5,), torch.float32), ((17,), torch.float64)),
        *(((3, 5, 5), torch.float16), ((3, 5, 5), torch.float64), ((1, 28, 28), torch.float32)),
    ],
)
def test_noise_does_not_depend_on_the_batch_size(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.linspace(0, 1, math.prod(shape)).reshape(shape).to(dtype)
    first, *others = [drawn(x, batch_size=size) for size in BATCH_SIZES]
    assert first.shape == (230, *shape)
    assert first.dtype == dtype
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_a_smaller_count_is_a_prefix(batch_size: int) -> None:
    x = torch.zeros(3)
    whole = drawn(x, count=300, batch_size=1000)
    for count in (1, 63, 64, 65, 128, 299):
        assert torch.equal(drawn(x, count=count, batch_size=batch_size), whole[:count])


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (9, [5])])
def test_batches_have_the_size_that_was_asked_for(batch_size: int, sizes: list[int]) -> None:
    outputs = NoisyOutputs(identity, sigma=1.0, batch_size=batch_size)
    assert [len(b) for b in outputs.draw(torch.zeros(2), example=0, stage=Stage.PILOT, count=5)] == sizes


def test_seed_example_and_stage_change_every_number() -> None:
    x = torch.zeros(2, dtype=torch.float64)
    streams = [drawn(x, stage=stage) for stage in Stage]
    streams += [drawn(x, seed=seed) for seed in (1, 2**31, 2**63, -1)]
    streams += [drawn(x, example=example) for example in (1, 2, 10**9)]
    numbers = torch.cat(streams).flatten()
    assert len(numbers.unique()) == len(numbers)


def test_noise_is_gaussian_around_x_with_deviation_sigma() -> None:
    x = torch.tensor([0.0, 5.0, -3.0], dtype=torch.float64)
    count, sigma = 40_000, 0.25
    noise = (drawn(x, count=count, sigma=sigma, batch_size=4096) - x) / sigma
    error = 5 / math.sqrt(count)
    assert float(noise.mean(dim=0).abs().max()) < error
    assert float((noise.var(dim=0) - 1).abs().max()) < error * math.sqrt(2)
    assert float((noise**4).mean(dim=0).sub(3).abs().max()) < error * math.sqrt(96)
    assert float(torch.corrcoef(noise.T).fill_diagonal_(0).abs().max()) < error
    assert abs(float((noise[:-1] * noise[1:]).mean())) < error


def test_no_two_blocks_of_an_example_share_the_seed_that_the_cpu_generator_uses() -> None:
    low = {block_seed(3, 14, stage, block) & 0xFFFFFFFF for stage in Stage for block in range(20_000)}
    assert len(low) == 20_000 * len(Stage)


def test_block_seeds_of_different_seeds_and_examples_differ() -> None:
    seeds = {block_seed(seed, example, Stage.PILOT, 0) for seed in range(-50, 50) for example in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 1 << 64 for seed in seeds)
    assert block_seed(1, 23, Stage.PILOT, 0) != block_seed(12, 3, Stage.PILOT, 0)


@pytest.mark.parametrize("block", [-1, 1 << 29])
def test_block_numbers_beyond_the_range_are_refused(block: int) -> None:
    with pytest.raises(ValueError, match=rf"block must lie in 0\.\.536870911, got {block}"):
        block_seed(0, 0, Stage.PILOT, block)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drawn(torch.zeros(4))
    list(NoisyOutputs(identity, sigma=1.0).draw(torch.zeros(4), example=0, stage=Stage.PILOT, count=9))  # measures
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(drawn(torch.zeros(4)), first)


class Mixed(nn.Module):
    """Batch norm in training mode next to dropout in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.norm.running_mean.fill_(2.0)
        self.train()
        self.dropout.eval()
        self.inner[1].eval()
        self.grad_enabled: set[bool] = set()

    def forward(self, z: Tensor) -> Tensor:
        self.grad_enabled.add(torch.is_grad_enabled())
        return self.inner(self.dropout(self.norm(z)))


def flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_a_model_in_training_mode_is_evaluated_and_put_back_exactly() -> None:
    model = Mixed()
    before, state = flags(model), {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.zeros(3)
    outputs = drawn(x, model)
    NoisyOutputs(model, sigma=1.0).base_output(x)
    assert flags(model) == before
    assert len(set(before)) == 2
    assert model.grad_enabled == {False}
    assert torch.is_grad_enabled()
    assert not outputs.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(outputs, model.eval()(drawn(x)))


def test_modes_are_put_back_between_batches_and_after_an_error() -> None:
    def fail(z: Tensor) -> Tensor:
        raise RuntimeError("no output")

    model = Mixed()
    before = flags(model)
    for _ in NoisyOutputs(model, sigma=1.0, batch_size=2).draw(torch.zeros(3), example=0, stage=Stage.PILOT, count=5):
        assert flags(model) == before
        assert torch.is_grad_enabled()
    model.forward = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no output"):
        drawn(torch.zeros(3), model)
    assert flags(model) == before
    assert torch.is_grad_enabled()


def test_a_bound_method_is_evaluated_like_its_module() -> None:
    model = Mixed()
    before = flags(model)
    torch.testing.assert_close(drawn(torch.zeros(3), model.forward), drawn(torch.zeros(3), model))
    assert flags(model) == before
    with evaluating(model.forward):
        assert not any(flags(model))


def in_place(z: Tensor) -> Tensor:
    return z.mul_(2.0)


def in_place_elsewhere(z: Tensor) -> Tensor:
    output = z.sin()
    z.fill_(7.0)
    return output


def through_numpy(z: Tensor) -> Tensor:
    return torch.from_numpy(z.numpy()[:, 1:])


@pytest.mark.parametrize(
    ("model", "pure"),
    [
        (identity, torch.clone),
        (lambda z: z[:, 1:], lambda z: z[:, 1:].clone()),
        (lambda z: z.flip(1)[:, :2].T.T, lambda z: z.flip(1)[:, :2].clone()),
        (lambda z: z.view(len(z), 1, 3), lambda z: z.reshape(len(z), 1, 3).clone()),
        (in_place, lambda z: z * 2.0),
        (in_place_elsewhere, torch.sin),
        (through_numpy, lambda z: z[:, 1:].clone()),
    ],
    ids=["identity", "slice", "flip", "view", "in place", "overwritten", "numpy view"],
)
@pytest.mark.parametrize("batch_size", [7, 300])
def test_views_and_in_place_models_corrupt_nothing(
    model: Callable[[Tensor], Tensor], pure: Callable[[Tensor], Tensor], batch_size: int
) -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(drawn(x, model, batch_size=batch_size), drawn(x, pure, batch_size=batch_size))
    outputs = NoisyOutputs(model, sigma=1.0)
    assert torch.equal(outputs.base_output(x), pure(x[None])[0])
    assert x.tolist() == [1.0, 2.0, 3.0]


def test_a_point_that_requires_grad_is_a_point() -> None:
    x = torch.ones(3, requires_grad=True)
    assert torch.equal(drawn(x), drawn(x.detach()))
    assert x.grad is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda z: z.sum(), r"model must return one output per input, shape \(100, \*out\), got \(\)"),
        (lambda z: z.sum(dim=0), r"shape \(100, \*out\), got \(2,\) for inputs \(100, 2\)"),
        (lambda z: z[:1], r"shape \(100, \*out\), got \(1, 2\)"),
        (lambda z: (z, z), "model must return a tensor, got tuple"),
        (lambda z: z.tolist(), "model must return a tensor, got list; other outputs need an ObjectDistance"),
        (lambda z: None, "model must return a tensor, got NoneType"),
    ],
)
def test_outputs_that_are_not_one_per_input_are_refused(model: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(torch.zeros(2), model)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor([1.0, math.nan]), "x must be finite, got 1 NaN or infinite of 2 values"),
        (torch.tensor([-math.inf, math.nan]), "x must be finite, got 2 NaN or infinite of 2 values"),
        (
            torch.zeros(2, dtype=torch.uint8),
            "x must be a floating-point tensor or array in the units of sigma, got torch.uint8",
        ),
        ([0.0, 1.0], "x must be a floating-point tensor .* got list"),
        (torch.zeros(2).to_sparse(), "x must be a floating-point tensor .* got torch.sparse_coo"),
    ],
)
def test_points_that_are_none_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(x)
    with pytest.raises(ValueError, match=message):
        NoisyOutputs(identity, sigma=1.0).base_output(x)


@pytest.mark.parametrize("sigma", [0, 0.0, -1.0, math.nan, math.inf, "a", True, None])
def test_a_sigma_that_is_no_positive_number_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=f"sigma must be a positive finite number, got {sigma!r}"):
        NoisyOutputs(identity, sigma=sigma)


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, "large", None])
def test_a_batch_size_that_is_none_is_refused(batch_size: BatchSize) -> None:
    with pytest.raises(ValueError, match="batch_size must be 'auto' or a whole number of at least 1, got"):
        NoisyOutputs(identity, sigma=1.0, batch_size=batch_size)


def test_automatic_batch_size_is_measured_once_and_kept() -> None:
    outputs = NoisyOutputs(identity, sigma=1.0)
    draw = partial(outputs.draw, torch.zeros(2), example=0, stage=Stage.PILOT)
    first = torch.cat(list(draw(count=100)))
    chosen = outputs.batch_size
    assert isinstance(chosen, int)
    assert chosen >= BLOCK // 2
    list(draw(count=300))
    assert outputs.batch_size is chosen
    assert torch.equal(first, drawn(torch.zeros(2), count=100, sigma=1.0))


def test_the_first_call_which_may_compile_does_not_choose_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = [0.0], []

    def slow_at_first(z: Tensor) -> Tensor:
        sizes.append(len(z))
        clock[0] += 100.0 if len(sizes) == 1 else 1e-3
        return z

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    outputs = NoisyOutputs(slow_at_first, sigma=1.0)
    list(outputs.draw(torch.zeros(2), example=0, stage=Stage.PILOT, count=1))
    assert outputs.batch_size == 4096  # each call takes as long as any other


def test_a_buffer_that_the_model_fills_again_is_copied() -> None:
    buffer = torch.zeros(1, 2)

    def fill(z: Tensor) -> Tensor:
        return torch.add(z, 1.0, out=buffer[: len(z)])

    outputs = NoisyOutputs(fill, sigma=1.0, batch_size=1)
    first = outputs.base_output(torch.zeros(2))
    outputs.base_output(torch.ones(2))
    assert first.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("batch_size", [7, "auto"])
def test_progress_counts_add_up_without_what_is_measured(batch_size: BatchSize) -> None:
    counts: list[int] = []
    outputs = NoisyOutputs(identity, sigma=1.0, batch_size=batch_size, progress=counts.append)
    seen = 0
    for batch in outputs.draw(torch.zeros(2), example=0, stage=Stage.PILOT, count=230):
        seen += len(batch)
        assert sum(counts) == seen
    assert seen == 230
