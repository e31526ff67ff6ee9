import csv
import math
import random
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch import Tensor

from callbacks import CenterSmoothing
from center_smoothing import Angular, CenterSmoother, Hausdorff, Lp, SmoothingBudget, TotalVariation
from center_smoothing.lightning import _float32_up
from center_smoothing.upper_median import upper_median
from datamodules import ImageDataModule, IndexedImages
from lightning_modules import NoisyAutoencoder, NoisyModule

SIGMA = 0.25
BUDGET = {"n": 60, "m": 100, "k": 8}
KEYS = ["val/certified_radius", "val/certified_radius/h=0.5", "val/smoothing_loss", "val/abstention_rate"]


class TinyData(ImageDataModule):
    def __init__(self, batch_size: int = 10) -> None:
        super().__init__(batch_size=batch_size, num_workers=0)

    def setup(self, stage: str | None = None) -> None:
        images = torch.randint(256, (32, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        self.train_set = IndexedImages(images[12:], torch.arange(100, 120))
        self.test_set = IndexedImages(images[:12], torch.arange(50, 62))


class Nowhere(NoisyModule):
    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, math.nan)


class Vectors(NoisyModule):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5]


class Record(Callback):
    """What is logged, and in which mode the module is, at each validation."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.logged.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def callback(**kwargs: Any) -> CenterSmoothing:  # noqa: ANN401  # whatever the class takes
    return CenterSmoothing(**{"sigma": SIGMA, "h": (0.2, 0.5), "num_examples": 3, "batch_size": 64, **BUDGET, **kwargs})


def tiny_model() -> NoisyAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NoisyAutoencoder(SIGMA, image_shape=(1, 8, 8), latent_dim=4, channels=(4, 8, 16))


def silent_trainer(*callbacks: Callback, **kwargs: Any) -> Trainer:  # noqa: ANN401  # whatever Trainer takes
    given = {"max_epochs": 1, "num_sanity_val_steps": 0, "logger": False, "enable_checkpointing": False, **kwargs}
    return Trainer(
        accelerator="cpu", callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False, **given
    )


def fit(*callbacks: Callback, **kwargs: Any) -> Trainer:  # noqa: ANN401  # whatever Trainer takes
    with torch.random.fork_rng(devices=[]):
        model, trainer = tiny_model(), silent_trainer(*callbacks, **kwargs)
        torch.manual_seed(1)
        trainer.fit(model, TinyData())
    return trainer


def stub_trainer(rank: int = 0, world_size: int = 1, **kwargs: Any) -> SimpleNamespace:  # noqa: ANN401
    data = TinyData()
    data.setup()
    given = {"sanity_checking": False, "val_dataloaders": data.val_dataloader(), "loggers": [], **kwargs}
    given |= {"global_step": 0, "current_epoch": 0, "callback_metrics": {}, "print": print}
    return SimpleNamespace(global_rank=rank, world_size=world_size, is_global_zero=rank == 0, **given)


def run(smoothing: CenterSmoothing, module: NoisyModule, **kwargs: Any) -> dict[str, float]:  # noqa: ANN401
    """What one validation logs, with a trainer that is none."""
    logged: dict[str, float] = {}
    module.log = lambda key, value, **_: logged.update({key: value})  # type: ignore[method-assign]
    smoothing.on_validation_epoch_end(stub_trainer(**kwargs), module)  # type: ignore[arg-type]
    return logged


def certified_examples(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the examples that are certified from now on."""
    seen: list[int] = []
    certify = CenterSmoother.certify

    def spy(self: CenterSmoother, x: Tensor, *, example: int = 0) -> Any:  # noqa: ANN401
        seen.append(example)
        return certify(self, x, example=example)

    monkeypatch.setattr(CenterSmoother, "certify", spy)
    return seen


def by_hand(model: NoisyModule, num_examples: int, ratios: tuple[float, ...], *, sigma: float = SIGMA) -> list[float]:
    data = TinyData()
    data.setup()
    chosen = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:num_examples]
    budget = SmoothingBudget(**BUDGET, n_check=BUDGET["m"])
    smoother = CenterSmoother(model, TotalVariation(), sigma=sigma, budget=budget, seed=0, batch_size=64)
    examples = [data.test_set[position] for position in chosen.tolist()]
    found = [smoother.certify(example["image"], example=int(example["index"])) for example in examples]
    radii = [upper_median(certificate.eps_out(ratio * sigma) for certificate in found) for ratio in ratios]
    loss = upper_median(certificate.smoothing_loss for certificate in found)
    return [*radii, loss, sum(certificate.abstained for certificate in found) / len(found)]


@dataclass
class Training:
    """What a training with certificates left: two epochs after a sanity check."""

    smoothing: CenterSmoothing
    trainer: Trainer
    record: Record
    certified: list[int]
    folder: Path
    lines: list[str]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    smoothing, record, folder = callback(), Record(), tmp_path_factory.mktemp("training")
    logs = {"logger": CSVLogger(folder, name="", version="run"), "log_every_n_steps": 1, "num_sanity_val_steps": 2}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        certified = certified_examples(patch)
        trainer = fit(smoothing, record, max_epochs=2, **logs)
    return Training(smoothing, trainer, record, certified, folder, said.getvalue().splitlines())


def test_keys_are_logged_exactly_at_each_validation_but_the_sanity_check(training: Training) -> None:
    keys = [{key for key in logged if key.startswith("val/")} for logged in training.record.logged]
    assert keys == [{"val/loss"}, {"val/loss", *KEYS}, {"val/loss", *KEYS}]


def test_first_h_has_the_plain_name_and_the_others_their_value() -> None:
    smoothing = CenterSmoothing(SIGMA, n=200, m=400, k=16, h=(1.0, 1.5, 0.123456))
    assert smoothing.keys == [
        "val/certified_radius",
        "val/certified_radius/h=1.5",
        "val/certified_radius/h=0.123456",
    ]


def test_values_reach_loggers_and_checkpoints_rounded_up(training: Training) -> None:
    with (training.folder / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    training.trainer.save_checkpoint(training.folder / "last.ckpt")
    (kept,) = claimed(training.folder / "last.ckpt")
    expected = dict(zip(KEYS, by_hand(training.trainer.lightning_module, 3, (0.2, 0.5)), strict=True))
    assert list(kept) == list(training.smoothing.latest) == KEYS
    for key, exact in expected.items():
        *_, logged = (float(row[key]) for row in rows if row[key])
        for value in (logged, training.record.logged[-1][key], training.smoothing.latest[key], kept[key]):
            assert exact <= value <= exact * (1 + 2e-7)


def claimed(path: Path) -> list[dict[str, float]]:
    """The radii that a checkpoint tells."""
    states = torch.load(path, weights_only=True)["callbacks"]
    return [state["latest"] for key, state in states.items() if "CenterSmoothing" in key]


@pytest.mark.parametrize("num_examples", [3, 4])
def test_values_are_those_of_certifying_by_hand(num_examples: int) -> None:
    model = tiny_model()
    logged = run(callback(num_examples=num_examples), model)
    assert list(logged) == KEYS
    for value, exact in zip(logged.values(), by_hand(model, num_examples, (0.2, 0.5)), strict=True):
        assert exact <= value == pytest.approx(exact, rel=1e-6)


@given(st.floats(min_value=0.0, max_value=1e30) | st.just(math.inf))
def test_float32_value_is_the_least_that_is_not_below(value: float) -> None:
    rounded = _float32_up(value)
    assert rounded >= value
    assert float(np.float32(rounded)) == rounded
    if 0.0 < value < math.inf:
        assert float(np.nextafter(np.float32(rounded), np.float32(-1))) < value


def test_same_images_are_certified_at_each_validation(training: Training) -> None:
    seen = training.certified
    assert len(seen) == 6
    assert seen[:3] == seen[3:]
    assert len(set(seen)) == 3
    assert set(seen) <= set(range(50, 62))


def test_seed_chooses_the_images_and_more_than_there_are_means_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = certified_examples(monkeypatch)
    for seed in (0, 1, 0):
        run(callback(seed=seed, num_examples=6), tiny_model())
    assert seen[:6] == seen[12:]
    assert seen[:6] != seen[6:12]
    run(callback(num_examples=50), tiny_model())
    assert sorted(seen[18:]) == list(range(50, 62))


def test_every_nth_validation_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = certified_examples(monkeypatch)
    smoothing, counts = callback(every_n_validations=3), []
    for _ in range(7):
        run(smoothing, tiny_model())
        counts.append(len(seen))
    assert counts == [0, 0, 3, 3, 3, 6, 6]


def test_no_radius_is_claimed_at_a_validation_without_certification(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(callback(every_n_validations=2), checkpoints, max_epochs=3, enable_checkpointing=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "certified radius" in line]
    assert [line.split(":")[0] for line in said] == ["epoch 1"]
    found = [claimed(tmp_path / f"epoch={epoch}.ckpt")[0] for epoch in range(3)]
    assert (found[0], list(found[1]), found[2]) == ({}, KEYS, {})


def test_training_is_bit_for_bit_the_same_with_and_without(training: Training) -> None:
    alone = fit(max_epochs=2, num_sanity_val_steps=2).lightning_module.state_dict()
    found = training.trainer.lightning_module.state_dict()
    assert list(alone) == list(found)
    for name, value in alone.items():
        assert torch.equal(value, found[name]), name


def test_global_generators_and_gradients_are_left_alone() -> None:
    model, smoothing = tiny_model(), callback()

    def states() -> list[object]:
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global one is meant
        return [torch.get_rng_state().tolist(), kind, keys.tolist(), rest, random.getstate()]

    before = states()
    logged = run(smoothing, model)
    assert states() == before
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert run(callback(), model) == logged


def test_module_is_certified_in_eval_mode_and_put_back() -> None:
    model = tiny_model().train()
    model.network.encoder[1].eval()
    before = [module.training for module in model.modules()]
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    in_training = run(callback(), model)
    assert [module.training for module in model.modules()] == before
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())
    assert run(callback(), model.eval()) == in_training


def test_impossible_h_is_refused_with_the_m_that_would_do() -> None:
    with pytest.raises(ValueError, match=r"m must be at least \d+ to certify eps_in=0.375 \(h=1.5\), got") as refused:
        callback(h=(0.2, 1.5))
    enough = int(str(refused.value).split()[5])
    callback(h=(0.2, 1.5), m=enough)


def test_input_radii_in_units_of_the_input_are_the_same_at_each_noise_level() -> None:
    smoothing = CenterSmoothing(2 * SIGMA, eps_in=(0.05, 0.125), num_examples=3, batch_size=64, **BUDGET)
    logged, ratios = run(smoothing, tiny_model()), run(callback(h=(0.2, 0.5)), tiny_model())
    assert list(logged) == [KEYS[0], "val/certified_radius/eps_in=0.125", *KEYS[2:]]
    expected = by_hand(tiny_model(), 3, (0.1, 0.25), sigma=2 * SIGMA)
    assert list(logged.values()) == pytest.approx(expected, rel=1e-6)
    assert list(logged.values()) != pytest.approx(list(ratios.values()), rel=1e-2)
    same = callback(h=None, eps_in=(0.2 * SIGMA, 0.5 * SIGMA))
    assert list(run(same, tiny_model()).values()) == list(ratios.values())


def test_values_without_certificate_can_be_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Record()
    trainer = silent_trainer(callback(), record, logger=CSVLogger(tmp_path, name="", version="run"))
    trainer.validate(Nowhere(sigma=SIGMA), TinyData(), verbose=False)
    assert [record.logged[0][key] for key in KEYS] == [math.inf, math.inf, math.inf, 1.0]
    assert "certified radius inf (h=0.2) inf (h=0.5) | smoothing loss inf | abstained 100%" in capsys.readouterr().out


def test_state_goes_around() -> None:
    smoothing, other = callback(), callback()
    run(smoothing, tiny_model())
    state = smoothing.state_dict()
    other.load_state_dict(state)
    assert other.latest == smoothing.latest
    assert other.state_dict() == state
    assert list(state["latest"]) == KEYS
    assert all(type(value) is float for value in state["latest"].values())


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_shares_of_the_processes_are_disjoint_and_complete(world_size: int) -> None:
    smoothing = callback(num_examples=6)
    shares = [[*smoothing._examples(stub_trainer(rank, world_size), tiny_model())] for rank in range(world_size)]  # type: ignore[arg-type]
    indices = [number for share in shares for number, _, _ in share]
    whole = smoothing._examples(stub_trainer(), tiny_model())  # type: ignore[arg-type]
    assert len(indices) == len(set(indices)) == 6
    assert set(indices) == {number for number, _, _ in whole}
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_line_per_validation_beside_the_loss(training: Training) -> None:
    lines = [line for line in training.lines if line.startswith("epoch")]
    assert [line.split(":")[0] for line in lines] == ["epoch 0", "epoch 1"]
    assert f"val/loss {training.record.logged[-1]['val/loss']:.5f} | certified radius " in lines[1]
    assert "(h=0.2)" in lines[1]
    assert "(h=0.5) | smoothing loss " in lines[1]


def test_printed_radius_is_never_below_the_certified_one(capsys: pytest.CaptureFixture[str]) -> None:
    smoothing = callback(h=(0.2, 0.3, 0.5))
    values = [12.34, 12.301, 12.0500001]
    smoothing.latest = {**dict(zip(smoothing.keys, values, strict=True)), **dict.fromkeys(KEYS[2:], 0.0)}
    smoothing.on_validation_end(stub_trainer(), tiny_model())  # type: ignore[arg-type]
    shown = [float(text) for text in re.findall(r"([\d.]+) \(h=", capsys.readouterr().out)]
    assert len(shown) == 3
    for printed, value in zip(shown, values, strict=True):
        assert value <= printed < value + 0.2


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_trainer_may_compute_in_another_precision(precision: str) -> None:
    record = Record()
    silent_trainer(callback(), record, precision=precision).validate(tiny_model(), TinyData(), verbose=False)
    assert math.isfinite(record.logged[0]["val/certified_radius"])


class Pictures(WandbLogger):
    """Keeps what the run of W&B would get, and is that run."""

    def __init__(self) -> None:
        self.shown: dict[str, Any] = {}

    @property
    def experiment(self) -> Any:  # noqa: ANN401  # as the logger
        return self

    def log(self, shown: dict[str, Any], *, commit: bool) -> None:
        assert not commit  # the medians follow in the same row
        self.shown |= shown


def test_weights_and_biases_gets_a_picture_of_each_of_a_few_examples() -> None:
    logger = Pictures()
    run(callback(), tiny_model(), loggers=[logger])
    images = logger.shown["val/examples"]
    assert [image.image.size for image in images] == [(24, 8)] * len(images)
    assert all(re.fullmatch(r"#\d+: input \| base output \| smoothed output", image._caption) for image in images)
    assert sum(logger.shown["val/certified_radii"].histogram) == 3


@pytest.mark.parametrize("module", [tiny_model(), Nowhere(sigma=SIGMA)])
def test_weights_and_biases_draws_the_share_of_examples_that_move_by_at_most_a_radius(module: NoisyModule) -> None:
    logger, smoothing = Pictures(), callback(num_examples=6)
    run(smoothing, module, loggers=[logger])
    chart, radii = logger.shown["val/certified_fraction"], np.array(smoothing.radii[0].gathered())
    assert chart.table.columns == ["sigma", "eps_in", "eps_out", "fraction"]
    assert {(row[0], row[1]) for row in chart.table.data} == {(SIGMA, 0.2 * SIGMA)}
    assert chart.spec.fields == {"x": "eps_out", "y": "fraction", "stroke": None}
    places, shares = np.array(chart.table.data, dtype=float)[:, 2:].T
    assert (places[0], len(radii)) == (0.0, 6)
    assert set(places) == {0.0, *radii[np.isfinite(radii)]}
    for place in [*places, *(places + 1e-9), *(places[1:] - 1e-9)]:
        assert shares[places <= place][-1] == np.mean(radii <= place)
    assert not (np.diff(places) * np.diff(shares)).any()  # lines run along the axes


def test_outputs_that_are_no_images_give_no_picture() -> None:
    logger = Pictures()
    logged = run(callback(distance=Lp(2.0)), Vectors(sigma=SIGMA), loggers=[logger])
    assert "val/examples" not in logger.shown
    assert list(logged) == KEYS


def test_pictures_are_logged_by_the_first_process_alone() -> None:
    logger = Pictures()
    run(callback(), tiny_model(), loggers=[logger], rank=1, world_size=2)
    assert logger.shown == {}


def test_medians_means_and_centers_of_groups_are_certified_in_place_of_centers() -> None:
    given = {"num_examples": 1, "m": 300, "distance": Lp(math.inf)}
    medians = run(callback(smoother="median", k=None, **given), tiny_model())
    centers, groups = (run(callback(group=group, **given), tiny_model()) for group in (1, 4))
    means = run(callback(smoother="mean", k=None, clip_norm=5.0, num_examples=1), tiny_model())
    assert list(medians) == list(means) == list(centers) == list(groups) == KEYS
    assert 0.0 < groups["val/certified_radius"] < centers["val/certified_radius"]
    assert 0.0 < medians["val/certified_radius"] < centers["val/certified_radius"]
    assert medians["val/certified_radius"] <= medians["val/certified_radius/h=0.5"] < math.inf
    assert 0.0 < means["val/certified_radius"] <= 10.0001


def test_medians_that_cannot_be_certified_are_refused_in_the_sanity_check() -> None:
    smoothing = callback(smoother="median", k=None, h=(1.0,), m=90)  # which is enough for an output of one number
    with pytest.raises(ValueError, match=r"m must be at least \d\d+ to certify eps_in=0.25 \(h=1\), got 90"):
        run(smoothing, tiny_model(), sanity_checking=True)
    assert run(callback(smoother="median", k=None), tiny_model(), sanity_checking=True) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(
            ({name: 0}, rf"\b{name} must be at least 1, got 0")
            for name in ("num_examples", "every_n_validations", "batch_size")
        ),
        *(
            ({"h": h}, "h must name at least one finite number of at least 0")
            for h in ((), (-0.2,), (math.nan,), (math.inf,))
        ),
        *(({"sigma": sigma}, "sigma must be a positive finite number") for sigma in (0.0, -1.0, math.nan)),
        ({"eps_in": [0.25]}, r"h must be left out with eps_in=\[0.25\], got \[0.2, 0.5\]"),
        *(
            ({"h": None, "eps_in": eps_in}, "eps_in must name at least one finite")
            for eps_in in ([], [-0.2], [math.nan])
        ),
        ({"h": None, "eps_in": [0.5]}, r"m must be at least \d+ to certify eps_in=0.5 \(h=2\), got 100"),
        ({"delta": 0.01}, r"delta must lie in \[0\.\d+, 0\.5\) for n=60, .*got 0\.01"),
        ({"smoother": "mode"}, "smoother must be one of center, mean, median, got 'mode'"),
        ({"smoother": "median", "k": 8}, "k must be left out with smoother='median', got 8"),
        ({"smoother": "mean", "k": None}, "clip_norm must be given, so that outputs are bounded, with smoother='mean'"),
        ({"smoother": "median", "k": None, "group": 2}, "group must be left out with smoother='median', got 2"),
        ({"smoother": "mean", "k": None, "distance": Angular(), "clip_norm": 3.0}, "left out with smoother='mean'"),
        ({"clip_norm": 3.0}, "clip_norm must be left out with smoother='center' and distance=.*, got 3.0"),
        ({"smoother": "median", "k": None, "distance": Hausdorff()}, "distance must be one that is bounded over boxes"),
    ],
)
def test_arguments_out_of_range_or_of_another_smoother_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        callback(**given)
