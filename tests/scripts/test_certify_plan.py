"""Planning before sampling: --plan and --time-limit."""

import re
from pathlib import Path

import pytest
import torch

import certify
import lightning_modules
from center_smoothing import CenterSmoother, MeanBudget, MedianBudget, SmoothingBudget, TotalVariation
from center_smoothing.planner import Demand
from center_smoothing.sampling import NoisyOutputs
from certification import planning
from certification import speed as speed_module
from certification.arguments import noise_levels, parse
from certification.request import Request
from certification.speed import Speed, measure
from command_line import argument_types
from datamodules import MNIST
from lightning_modules import BaseModel
from tests.scripts.running import refused

CPU = ["--accelerator=cpu", "--batch-size=64"]
SPEED = Speed(samples_per_second=1000.0, batch_size=64, processes=1, images="random images")


class Unfamiliar(BaseModel):
    """Says nothing of the images that it takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert certify.main(["--plan", *CPU, *arguments]) is None
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def at_a_fixed_speed(monkeypatch: pytest.MonkeyPatch) -> list[Speed]:
    """Measuring gives these, one after the other, and the last one again and again."""
    speeds = [SPEED]
    monkeypatch.setattr(planning, "measure", lambda *_, **__: speeds.pop(0) if len(speeds) > 1 else speeds[0])
    return speeds


def test_each_noise_level_is_planned_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """At each there is one answer, which a Bonferroni correction does not make any larger."""
    sweep = ["--n=1000", "--m", "1000", "5000", "--h", "0.5", "1", "--eps-in=0.1", "--distance=l2"]
    pointwise, bonferroni = (planned(capsys, *sweep, f"--coverage={name}") for name in ("pointwise", "bonferroni"))
    assert set(pointwise) <= set(bonferroni)


def test_the_plan_of_the_paper_has_no_pilot(capsys: pytest.CaptureFixture[str]) -> None:
    (line, *_) = planned(capsys, "--n=200", "--m=100", "--delta=0.3", "--method=paper", "--h=1")
    assert "method=paper, n=200, delta=0.3" in line


def test_the_table_has_what_the_budgets_certify_at_each_h(capsys: pytest.CaptureFixture[str]) -> None:
    lines = planned(capsys, "--n=1000", "--m", "1000", "20", "5000", "--h", "0.5", "1", "--distance=l2")
    assert "method=exact, n=1000, k=125, delta=" in lines[0]
    start = next(number for number, line in enumerate(lines) if line.split()[0] == "h")
    rows = [line.split() for line in lines[start + 1 : start + 7]]
    expected = []
    for h in (0.5, 1.0):
        for m in (20, 1000, 5000):
            plan = SmoothingBudget(n=1000, m=m).plan(h)
            rank = f"{plan.rank}/{m}" if plan.certifiable else "none"
            expected.append([f"{h:g}", f"{plan.p:.6f}", rank])
            if not plan.certifiable:
                assert f"m >= {plan.least_m:.0f}" in " ".join(rows[len(expected) - 1])
            else:
                assert " ".join(rows[len(expected) - 1]).endswith(plan.theorem)
    assert [row[:3] for row in rows] == expected
    assert expected[3][2] == "none"
    costs = [line.split()[:2] for line in lines[2:5]]
    assert costs == [["20", "2,125"], ["1,000", "2,125"], ["5,000", "6,125"]]
    assert lines[-1] == "no seconds without --ckpt or --model, whose speed is measured"
    assert max(map(len, lines)) <= 120
    assert max(map(len, lines[1 : start + 11])) <= 100


def test_means_and_medians_have_a_plan_for_each_m(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--n=1001", "--m", "3000", "9000", "--h=1", "--sigma=0.5", "--num-examples=2"]
    lines = planned(capsys, "--smoother=mean", "--clip-norm=auto", *asked)
    moments, spread, outside = MeanBudget(n=1001, m=9000).unseen(1.0)
    at_9000 = lines[next(i for i, line in enumerate(lines) if "n=1001, m=9000, clip_norm=1," in line) + 2]
    shown = [float(number) for number in at_9000.replace(" b", "").split()]
    assert shown[:3] == [0.5, 1.0, 0.5]
    assert shown[5:] == pytest.approx([2.0 * outside, moments, spread], abs=0.01)
    assert any("10,001 evaluations per example and sigma, 20,002 in all" in line for line in lines)
    lines = planned(capsys, "--smoother=median", *asked)
    assert [MedianBudget(n=1001, m=m).plan(1.0).rank for m in (3000, 9000)] == [
        int(line.split("/")[0].split()[-1]) for line in lines if line.startswith("       0.5")
    ]


@pytest.mark.parametrize(
    ("distance", "advice"),
    [
        ("tv", {"0.5, 1, 2.5": "--smoother mean --clip-norm auto"}),
        ("angular", {"0.5, 1, 2.5": "--smoother mean"}),
        ("l2", {"0.5, 1": "--smoother mean --clip-norm auto", "2.5": "--smoother median"}),
        ("linf", {"0.5, 1, 2.5": "--smoother median"}),
        ("wasserstein1", {"0.5, 1, 2.5": "--smoother mean --output-bound B"}),
        ("jaccard", {"0.5": "--smoother center --group auto", "1, 2.5": "--smoother center"}),
    ],
)
def test_a_plan_names_the_smoothed_function_to_take(
    distance: str, advice: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = planned(capsys, f"--distance={distance}", "--n=1000", "--m=2000", "--h", "0.5", "1", "2.5")
    expected = [f"recommended for {distance} at h={h}: {flags} (docs/choosing.md)" for h, flags in advice.items()]
    assert [line for line in lines if line.startswith("recommended")] == expected


def test_the_prediction_is_relative_to_the_best_m(capsys: pytest.CaptureFixture[str]) -> None:
    lines = planned(capsys, "--n=1000", "--m", "1000", "50000", "--h", "1")
    start = next(number for number, line in enumerate(lines) if line.split()[0] == "h")
    assert "eps_out*" in lines[start]
    small, large = (float(line.split()[6]) for line in lines[start + 1 : start + 3])
    assert small > large == 1.0
    assert "eps_out*" not in "".join(planned(capsys, "--n=1000", "--m=1000", "--h=1"))


def test_a_plan_loads_no_data_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(self: MNIST, stage: str | None = None) -> None:
        raise AssertionError("data was loaded")

    monkeypatch.setattr(MNIST, "setup", loaded)
    monkeypatch.setattr(MNIST, "prepare_data", loaded)
    monkeypatch.setattr(CenterSmoother, "certify", None)
    monkeypatch.chdir(tmp_path)
    before = sorted(checkpoint.parents[1].rglob("*"))
    lines = planned(capsys, f"--ckpt={checkpoint}", "--budget=quick", "--eps-in", "0.25", "0.5", "--num-examples=7")
    assert "sigma=0.25" in lines[0]
    assert {"s per input", "7 inputs"} <= set(re.split(r"  +", lines[1]))
    assert [line.split()[:2] for line in lines[4:6]] == [["1", "0.25"], ["2", "0.5"]]
    assert "samples/s in batches of 64 here, on random images 1x28x28" in lines[-1]
    assert not list(tmp_path.iterdir())
    assert sorted(checkpoint.parents[1].rglob("*")) == before


def test_seconds_are_evaluations_by_the_speed(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], at_a_fixed_speed: list[Speed]
) -> None:
    arguments = [f"--ckpt={checkpoint}", "--n=1000", "--m=10_000", "--h", "1"]
    assert ["10,000", "11,125", "11.1", "9", "min"] == planned(capsys, *arguments)[2].split()[:5]
    sweep = planned(capsys, *arguments, "1.5", "--eps-in", "0.1", "0.2", "--num-examples=10")
    assert "40 inputs" in sweep[1]
    assert "eps_in" not in "".join(sweep)
    assert "50 inputs" not in "".join(planned(capsys, *arguments, "--num-examples=all"))
    at_a_fixed_speed[:] = [Speed(1000.0, 64, 2, "")]  # of two processes, which share the cost
    assert planned(capsys, *arguments)[2].split()[2] == "5.56"


@pytest.mark.parametrize("model", ["NoisyAutoencoder", "NoisyReconstructor", "FaceDetector"])
def test_models_say_which_images_they_take(model: str) -> None:
    made = getattr(lightning_modules, model)(**({} if model == "FaceDetector" else {"sigma": 0.5})).eval()
    shape = made.example_shape()
    assert shape == ((3, 218, 178) if model == "FaceDetector" else (1, 28, 28))
    image = torch.rand(shape)
    assert made(made.point(image[None])).shape[0] == 1


def test_a_model_that_does_not_say_it_is_planned_without_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse(["--plan", "--h=1", "--budget=quick"])
    request = Request(options, {1.0: [1.0]})
    lines = planning.only_plan(request, Unfamiliar(), sigma_known=False)
    assert lines[-1] == "no seconds: Unfamiliar does not say in example_shape() which images it takes; give --data"
    assert "s per input" not in "".join(lines)


def test_a_number_in_a_configuration_file_is_as_good_as_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.yaml").write_text("m: 1000\nn: 500\nh: [1]\n")
    assert planned(capsys, f"--config={tmp_path / 'plan.yaml'}")[2].split()[0] == "1,000"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), (7, 7), (0.5, 0.5), ("1e2s", 100)]
)
def test_times_are_in_seconds_or_have_a_unit(text: object, seconds: float) -> None:
    assert argument_types.time_span("--time-limit")(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-5s", "0m", "1h30m", "nan", "infh", True, None])
def test_other_times_are_refused(text: object) -> None:
    with pytest.raises(Exception, match="--time-limit must be a time"):
        argument_types.time_span("--time-limit")(text)


def test_a_time_that_is_too_short_is_refused_with_one_that_does() -> None:
    demand = Demand(h=(2.0,))
    match = r"--time-limit must be at least .* to certify h=2 around 50 inputs"
    with pytest.raises(ValueError, match=match) as caught:
        planning.choose(demand, SPEED, seconds=0.01, examples=50, levels=1)
    offered = re.findall(r"at least (\S+) to", str(caught.value))[0]
    seconds, slower = argument_types.time_span("--time-limit")(offered), Speed(1000.0 / 1.19, 64, 1, "")
    assert planning.choose(demand, slower, seconds=seconds, examples=50, levels=1)[0].plan(2.0).certifiable
    assert [planning._as_argument(seconds) for seconds in (0.2, 99.5, 5400.0, 7000.0)] == ["1s", "100s", "90m", "2h"]
    with pytest.raises(ValueError, match="no number of samples certifies h=9"):
        planning.choose(Demand(h=(9.0,)), SPEED, seconds=3600, examples=1, levels=1)


def test_the_time_is_divided_by_examples_levels_and_processes() -> None:
    demand = Demand(h=(1.0,))
    alone, _ = planning.choose(demand, SPEED, seconds=100.0, examples=5, levels=2)
    assert alone.evaluations <= 10_000
    shared, _ = planning.choose(demand, Speed(1000.0, 64, 5, ""), seconds=20.0, examples=5, levels=2)
    assert shared == alone


@pytest.mark.parametrize(
    "fixed",
    [
        [],
        ["--n=150", "--k=40", "--alpha1=0.1", "--alpha2=0.05", "--rtol=0.2"],
        ["--h", "0.5", "--eps-in", "0.2", "0.4"],
    ],
)
def test_a_time_limit_prints_the_flags_of_the_budget_that_fills_it(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], at_a_fixed_speed: list[Speed], fixed: list[str]
) -> None:
    arguments = [f"--ckpt={checkpoint}", "--num-examples=2", "--h=1", *fixed]
    lines = planned(capsys, *arguments, "--time-limit=4s")
    inputs = 4 if "--eps-in" in fixed else 2
    evaluations = f"{4000 // inputs:,}"
    assert lines[0] == (
        f"time limit 4 s: {evaluations} evaluations for each of {inputs} inputs at 1,000 samples/s in batches of 64"
    )
    assert re.fullmatch(r"  --n \d+ --m \d+ --k \d+ --delta \S+", lines[1])
    flags = lines[1].split()
    options = parse(["--plan", *arguments, *flags])
    levels = noise_levels(options, 0.25)
    budget = Request(options, levels).budget(options.m[0])
    chosen, _ = planning.choose(
        Request(parse(["--plan", *arguments]), levels).demand,
        SPEED, seconds=4.0, examples=2, levels=len(levels),
    )  # fmt: skip
    assert budget == chosen
    assert 0.7 * 4000 / inputs < budget.evaluations <= 4000 / inputs
    without_the_choice = [line for line in lines if not line.startswith(("time limit", "  --n", "  have", "  (pre"))]
    assert planned(capsys, *arguments, *flags) == without_the_choice


def test_the_speed_of_a_model_that_does_not_say_its_images_is_measured_on_the_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--model=tests.scripts.test_certify_plan.Unfamiliar", "--sigma=0.5", "--h=1", "--num-examples=2"]
    lines = planned(capsys, *arguments, "--data=MNIST", "--time-limit=2s")
    assert lines[1].startswith("  --n ")
    assert "on the first test image, 1x28x28" in lines[-1]


def test_the_speed_is_measured_in_the_precision_asked_for(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return x

    monkeypatch.setattr("lightning_modules.NoisyAutoencoder.forward", watched)
    model = lightning_modules.load_checkpoint(checkpoint).model
    options = parse(["--plan", "--batch-size=32", "--accelerator=cpu", "--precision=bf16-mixed"])
    speed = measure(Request(options, {0.25: [0.25]}), model, None)
    assert speed is not None
    assert speed.batch_size == 32
    assert speed.samples_per_second > 0
    assert all(seen)


def test_the_speed_is_that_of_the_model_as_it_will_be_evaluated(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def watched(_: object, model: BaseModel, function: object, **__: object) -> object:
        measured.append((sum(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules()), function is model))
        return SPEED

    monkeypatch.setattr(planning, "measure", watched)
    for flags in ([], ["--fold-batch-norm=false"], ["--compile=default"]):
        planned(capsys, f"--ckpt={checkpoint}", "--h=1", *flags)
    folded, whole, compiled = (norms for norms, _ in measured)
    assert folded == compiled < whole
    assert [itself for _, itself in measured] == [True, True, False]


@pytest.mark.parametrize("batch_size", [7, 300])
def test_every_output_that_is_counted_was_evaluated_and_compared(
    monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    compared = []
    compare = TotalVariation.compare
    monkeypatch.setattr(
        TotalVariation, "compare", lambda self, a, b: (compared.append((len(a), len(b))), compare(self, a, b))[1]
    )
    monkeypatch.setattr(speed_module.time, "perf_counter", iter(range(10**6)).__next__)
    outputs = NoisyOutputs(torch.sigmoid, sigma=0.25, batch_size=batch_size)
    rate = speed_module.samples_per_second(outputs, torch.rand(1, 8, 8), TotalVariation(), seconds=1.0)
    assert compared == [(batch_size, speed_module._COMPARISONS)]
    assert rate == batch_size  # one batch a second of that clock


def test_images_that_the_model_does_not_take_are_one_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.NoisyAutoencoder.example_shape", lambda _: (3, 9, 9))
    line = refused(capsys, "--plan", f"--ckpt={checkpoint}", "--h=1", *CPU)
    assert "images must be (N, 1, 28, 28), got (1, 3, 9, 9)" in line
