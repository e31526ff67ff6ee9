import doctest
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from benchmarks import tables, versus_paper
from benchmarks.versus import paper_procedure
from benchmarks.versus.comparisons import eps_out_by_pairs
from benchmarks.versus.paper_procedure import eps_out_of, paper_budget, rank_among, run_paper
from benchmarks.versus.recorded_outputs import RecordedOutputs, RecordedSmoother, Recording, record
from benchmarks.versus.rows import Settings
from center_smoothing import CenterSmoother, Certificate, Lp, SmoothedOutput, SmoothingBudget, TotalVariation
from center_smoothing.attack import AttackBudget
from center_smoothing.means import directions
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs
from lightning_modules import LoadedCheckpoint, NoisyModule


class Dimmed(NoisyModule):
    """An autoencoder that takes no time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0.0, 1.0) / 2.0


TINY = Settings(
    n=256,
    paper_m=4096,
    measured_m=2048,
    digits=2,
    other_digits=1,
    fast=((256, 512), (512, 1024)),
    attack=AttackBudget(steps=1, starts=1, samples=1),
    attack_n=256,
    attack_h=(1.0,),
    groups=(1, 2),
    distances=("tv", "angular"),
)
FUNCTIONS = ["center", "center of groups of 2", "mean", "median"]
X = torch.linspace(0.0, 1.0, 64).reshape(1, 8, 8)
COUNTS = {Stage.PILOT: 64, Stage.RANKING: 512, Stage.CHECK: 512, Stage.CERTIFICATION: 2048}


@pytest.fixture(scope="module")
def model() -> NoisyModule:
    return Dimmed(sigma=0.25).eval()


@pytest.fixture(scope="module")
def recording(model: NoisyModule) -> Recording:
    return record(NoisyOutputs(model, sigma=0.25, batch_size=100), X, example=3, counts=COUNTS)


@pytest.mark.parametrize("module", [tables, paper_procedure])
def test_examples_of_docstrings_hold(module: object) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_whole_run_writes_tables_and_figures(
    model: NoisyModule, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directions, "_MAX_AT_ONCE", 256)  # of means: looser, in far less time
    out = tmp_path / "versus.md"
    text = versus_paper.run(model, TINY, versus_paper.about(model, "none"), out=out, batch_size=256)
    assert out.read_text(encoding="utf-8") == text
    assert text in capsys.readouterr().out
    figures = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    first, second = figures["digits"]
    assert set(first["rows"]) == {"tv", "angular"}
    assert set(second["rows"]) == {"tv"}
    assert {"paper", "fast", "functions", "steps", "looks"} < set(first["rows"]["tv"])
    steps = [row["eps_out"]["2.0"]["value"] for row in first["rows"]["tv"]["steps"]]
    assert steps[0] == first["rows"]["tv"]["paper"][0]["eps_out"]["2.0"]["value"]
    assert len(steps) == 10
    for of in first["rows"].values():
        assert [row["procedure"].split(", ")[0] for row in of["functions"]] == FUNCTIONS
        for row in of["functions"]:
            assert 0.0 < row["attack"]["1.0"] < row["eps_out"]["1.0"]["value"]
    (paper,) = first["rows"]["tv"]["paper"]
    assert paper["evaluations"] == 2 * 256 + 4096
    assert paper["eps_out"]["1.0"]["low"] < paper["eps_out"]["1.0"]["value"] < paper["eps_out"]["1.0"]["high"]
    for title in ("total variation", "angular distance", "each step", "stops by itself"):
        assert title in text
    assert "clip norms of means: tv " in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ckpt", "none.ckpt"], "--ckpt must be a checkpoint file"),
        (["--untrained", "--out", "versus.json"], "--out must be a Markdown file such as versus.md, got versus.json"),
        (
            ["--ckpt", "best.ckpt"],
            "--ckpt must be of a model of MNIST digits, got best.ckpt, which was trained on CIFAR10",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    arguments: list[str],
    said: str,
    model: NoisyModule,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "best.ckpt" in arguments:
        loaded = LoadedCheckpoint(model, {"class": "CIFAR10", "init_args": {}})
        monkeypatch.setattr(versus_paper, "load_checkpoint", lambda path: loaded)
    with pytest.raises(SystemExit, match="2"):
        versus_paper.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


def test_too_few_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match="--measured-m must be at least 80000, eight times --n, got 79999"):
        Settings(measured_m=79_999)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_recorded_outputs_give_the_certificate_of_outputs_drawn_anew(
    method: str, model: NoisyModule, recording: Recording
) -> None:
    budget = SmoothingBudget(n=512, m=2048, method=method)  # type: ignore[arg-type]  # one of the two
    drawn = CenterSmoother(model, TotalVariation(), sigma=0.25, budget=budget, batch_size=100).certify(X, example=3)
    recorded = RecordedSmoother(recording, TotalVariation(), budget).certify(X)
    assert np.array_equal(recorded.distances, drawn.distances)
    assert recorded.smoothing_loss == drawn.smoothing_loss
    assert recorded.eps_out([0.25, 0.5]).tolist() == drawn.eps_out([0.25, 0.5]).tolist()


def test_the_clock_counts_what_drawing_took_and_splits_it_by_stages(recording: Recording) -> None:
    seconds = {Stage.PILOT: 1e4, Stage.RANKING: 1e6, Stage.CHECK: 1e8, Stage.CERTIFICATION: 1e10}  # of an output
    slow = Recording(recording.outputs, seconds, recording.base_output, recording.sigma, recording.batch_size)
    smoother = RecordedSmoother(slow, Lp(2), SmoothingBudget(n=512, m=1024, k=64))
    smoother.certify(X)
    assert smoother.outputs.seconds == pytest.approx(64e4 + 512e6 + 1024e10, rel=1e-12, abs=60.0)
    paper = run_paper(slow, X, Lp(2), SmoothingBudget(n=512, m=4096, method="paper"))
    parts = [paper.selection, paper.check, paper.certification, paper.seconds]
    assert parts == pytest.approx([512e6, 512e8, 2048e10, 512e6 + 512e8 + 4096e10], abs=180.0)


def test_more_outputs_than_were_recorded_are_refused(recording: Recording) -> None:
    with pytest.raises(ValueError, match="at most the 64 recorded of PILOT, got 65"):
        next(RecordedOutputs(recording).draw(X, example=0, stage=Stage.PILOT, count=65))


def test_a_full_run_is_not_estimated(recording: Recording) -> None:
    budget = SmoothingBudget(n=512, m=2048, method="paper")
    paper = run_paper(recording, X, Lp(2), budget)
    for h in (0.0, 1.0, 3.0):
        estimate = eps_out_of(paper.certificate, budget, h)
        assert estimate.measured
        assert estimate.value == paper.certificate.eps_out(h * 0.25)


def test_the_paper_has_its_own_delta() -> None:
    budget = paper_budget(10_000, 1_000_000)
    assert (budget.delta, budget.alpha_1, budget.alpha_2, budget.evaluations) == (0.05, 0.005, 0.005, 1_020_000)
    assert paper_budget(500, 10_000).delta > 0.05


def outside(runs: int, *, drawn: int, m: int, rank: int, shift: int = 0) -> tuple[int, int]:
    """How often the rank-th smallest of m draws lies below and above the ends that other draws give."""
    low, _, high = rank_among(rank, m, drawn)
    rng = np.random.default_rng(0)
    there, full = np.sort(rng.uniform(size=(runs, drawn))), np.sort(rng.uniform(size=(runs, m)))
    value = full[:, rank - 1]
    return int((value < there[:, low + shift - 1]).sum()), int((value > there[:, high - shift - 1]).sum())


@pytest.mark.parametrize(("drawn", "m", "rank"), [(200, 800, 700), (100, 1000, 870), (300, 300, 200)])
def test_a_full_run_lies_outside_of_its_interval_as_often_as_told(drawn: int, m: int, rank: int) -> None:
    if drawn == m:  # other draws all the same
        m += 1
    for count in outside(4000, drawn=drawn, m=m, rank=rank):
        print(f"{count} of 4000 outside of one end, at most .025 promised")
        assert stats.binom.sf(count - 1, 4000, 0.025) > 1e-4
        assert count > 4000 * 0.025 / 2


@pytest.mark.parametrize(("drawn", "m", "rank"), [(200, 800, 700), (100, 1000, 870)])
def test_ends_a_little_closer_would_be_noticed(drawn: int, m: int, rank: int) -> None:
    for count in outside(4000, drawn=drawn, m=m, rank=rank, shift=2):
        assert stats.binom.sf(count - 1, 4000, 0.025) < 1e-4


def test_an_interval_may_reach_beyond_all_draws() -> None:
    assert rank_among(1000, 1000, 20)[2] == 21
    assert rank_among(1, 1000, 20)[0] == 0
    assert rank_among(7, 20, 20) == (7, 7, 7)


def test_an_uncertifiable_full_run_has_no_estimate() -> None:
    budget = SmoothingBudget(n=2000, m=1000, delta=0.1, method="paper")
    output = SmoothedOutput(torch.zeros(1), 1.0, 0.5, abstained=False)
    certificate = Certificate(np.arange(1.0, 1001.0), 0.25, 1.0, budget, output, 0.0)
    assert eps_out_of(certificate, SmoothingBudget(n=2000, m=5000, delta=0.1, method="paper"), 3.0).value == math.inf


@pytest.mark.parametrize(("between", "factor"), [(0.0, 1.0), (1.0, 2.0), (5.0, 3.0)])
def test_pairs_replace_twice_the_radius_where_they_are_closer(between: float, factor: float) -> None:
    budget = SmoothingBudget(n=1000, m=1000, tuple_sizes=(1,))
    output = SmoothedOutput(torch.zeros(1), 1.0, 0.5, abstained=False)
    certificate = Certificate(np.ones(1000), 0.25, 1.0, SmoothingBudget(n=1000, m=1000, tuple_sizes=()), output, 0.0)
    assert eps_out_by_pairs(certificate, budget, np.full(500, between), 0.5) == pytest.approx(factor)
    assert eps_out_by_pairs(certificate, budget, np.full(500, between), 2.0) == pytest.approx(3.0)  # too few pairs
