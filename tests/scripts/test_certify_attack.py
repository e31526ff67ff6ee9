"""certify.py --attack: what is written, what is said, and the way out where a certificate is contradicted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import certify
from center_smoothing import Certificate, SmoothedOutput
from center_smoothing.attack import Attack, AttackBudget
from results import attacks
from results.folder import CertificationFolder
from results.rows import AttackedRow, Row
from tests.scripts.running import CENTERS, Done, listened, refused, rows, run, shown, summary

TINY = [*CENTERS, "--num-examples=2", "--h", "0.5", "1"]
ATTACK = ["--attack=pgd", "--attack-steps=4", "--attack-starts=2", "--attack-samples=8"]
HEADER = (
    "index,sigma,eps_in,eps_out,smoothing_loss,abstained,n,m,delta,method,theorem,seconds,"
    "attack_eps,attack_ratio,base_attack_eps,attack_shift,attack_gradient_free"
)


@pytest.fixture(scope="module")
def done(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    with shown():
        out = tmp_path_factory.mktemp("attacked")
        return listened(f"--ckpt={checkpoint}", f"--out={out}", *TINY, *ATTACK)


@pytest.fixture(scope="module")
def attacked(done: Done) -> Path:
    return done.folder


def test_the_columns_of_attacks_stand_last_and_nothing_is_contradicted(attacked: Path) -> None:
    assert (attacked / "certificates.csv").read_text().splitlines()[0] == HEADER
    found = rows(attacked)
    assert len(found) == 4
    for row in found:
        assert 0.0 < float(row["attack_eps"]) <= float(row["eps_out"])
        assert float(row["attack_ratio"]) == float(row["attack_shift"]) / float(row["eps_out"])
        # most of that is the noise of two small runs
        assert 0.0 < float(row["attack_shift"]) < float(row["attack_eps"])
        assert row["attack_gradient_free"] == "False"
        assert float(row["base_attack_eps"]) > 0.0
    assert not (attacked / "counterexamples").exists()


def test_the_certificates_are_those_without_an_attack(attacked: Path, checkpoint: Path, tmp_path: Path) -> None:
    ours = rows(run(checkpoint, tmp_path, "--h", "0.5", "1"))
    names = HEADER.replace("seconds,", "").split(",")[:11]
    assert [list(row) for row in ours] == [names] * 2
    assert [{name: row[name] for name in names} for row in rows(attacked)[:2]] == ours


def test_the_summary_and_the_report_say_what_was_reached(attacked: Path) -> None:
    found = summary(attacked)
    assert found["config"]["attack"] == {"method": "pgd", "steps": 4, "starts": 2, "samples": 8}
    for result in found["results"]:
        there = [row for row in rows(attacked) if float(row["eps_in"]) == result["eps_in"]]
        assert result["max_attack_ratio"] == max(float(row["attack_ratio"]) for row in there)
        for name in ("attack_eps", "base_attack_eps"):
            assert result[f"median_{name}"] == max(float(row[name]) for row in there)  # the upper one of two
    report = (attacked / "report.html").read_text()
    assert "reached by the attack" in report
    assert "lower bound on how far the smoothed output can be moved" in report
    assert "Attack / eps_out" in report


def test_wandb_has_what_was_reached(attacked: Path, wandb_history: Callable[[Path], list[dict[str, object]]]) -> None:
    logged = [row for row in wandb_history(attacked) if "median_attack_eps" in row]
    results = summary(attacked)["results"]
    assert [row["max_attack_ratio"] for row in logged] == [result["max_attack_ratio"] for result in results]


def test_the_terminal_has_the_ratios(done: Done) -> None:
    lines = done.lines
    cost = AttackBudget(steps=4, starts=2, samples=8).evaluations + 2 * (8 + 100 + 100)  # and two smoothed outputs
    assert (
        f"  attack: pgd, 4 steps from 2 starts, 8 samples a step: about {cost:,} evaluations more for each example and "
        "eps_in, a gradient counted as three"
    ) in lines
    (place,) = (number for number, line in enumerate(lines) if "largest ratio" in line)
    result = summary(done.folder)["results"][0]
    sigma, eps_in, median, _, largest, base = lines[place + 1].split()
    assert (sigma, eps_in) == ("0.25", "0.125")
    assert [median, base] == [f"{result[name]:.4g}" for name in ("median_attack_eps", "median_base_attack_eps")]
    assert largest == f"{result['max_attack_ratio']:.3f}"


def test_an_interrupted_attack_goes_on_with_the_same_numbers(attacked: Path, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(attacked, tmp_path / "half")
    csv_file = tmp_path / "half" / "certificates.csv"
    lines = csv_file.read_text().splitlines(keepends=True)
    csv_file.write_text("".join(lines[:4]) + lines[4][:-7])  # a header, an example and a half
    certify.main([f"--ckpt={checkpoint}", f"--out={csv_file.parent}", *TINY, *ATTACK])
    assert rows(csv_file.parent) == rows(attacked)
    assert csv_file.read_text().splitlines()[0] == HEADER


def test_a_folder_with_and_one_without_attacks_are_not_mixed(
    attacked: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, f"--ckpt={checkpoint}", f"--out={attacked}", *TINY)
    assert "it holds a certification with attack=" in line
    assert certify.main([f"--from={attacked}", "--eps-in=0.1"]) == attacked


def test_a_forged_certificate_is_contradicted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = 1e-3  # far below what any two centers of this model are apart
    monkeypatch.setattr(Certificate, "radius_at", lambda self, ranks, *, upwards=True: forged)
    for _ in range(2):  # the second time from the finished folder
        with pytest.raises(SystemExit, match="1"):
            run(checkpoint, tmp_path, "--h", "0.5", "1", *ATTACK)
        error = capsys.readouterr().err
        assert "the attack CONTRADICTS 2 of 2 certificates" in error
        assert "may fail with probability 0.01" in error
        assert str(tmp_path / "counterexamples") in error
    assert summary(tmp_path)["results"][0]["max_attack_ratio"] > 1.0
    (index,) = {row["index"] for row in rows(tmp_path)}
    with np.load(tmp_path / "counterexamples" / f"{index}.npz") as kept:
        found = {name: kept[name] for name in kept.files}
    assert found["eps_in"].tolist() == [0.125, 0.25]
    assert found["eps_out"].tolist() == [forged, forged]
    changes = np.linalg.norm((found["perturbed"] - found["x"]).reshape(2, -1), axis=1)
    assert np.all(changes <= found["eps_in"])
    assert int(found["seed"]) == 0
    assert found["distance"].tolist() == [float(row["attack_eps"]) for row in rows(tmp_path)]
    moved = torch.from_numpy(found["center_perturbed"] - found["center"])
    variation = moved.diff(dim=-1).abs().sum((1, 2, 3)) + moved.diff(dim=-2).abs().sum((1, 2, 3))
    assert variation.tolist() == pytest.approx(found["distance"].tolist(), rel=1e-6)


@pytest.mark.parametrize(
    "typed", ["--smoother=mean --clip-norm=20", "--smoother=median --n=101", "--noise=discrete --grid=255"]
)
def test_at_several_levels_all_are_attacked(checkpoint: Path, tmp_path: Path, typed: str) -> None:
    tries = ["--attack=pgd", "--attack-steps=1", "--attack-starts=1", "--attack-samples=4"]
    run(checkpoint, tmp_path, *tries, "--eps-in", "0.1", "0.2", "--h=1", *typed.split())
    found = CertificationFolder(tmp_path).rows()
    assert [row.sigma for row in found] == [0.1, 0.2]
    assert all(isinstance(row, AttackedRow) and row.attack_eps > 0.0 for row in found)
    assert "reached by the attack" in (tmp_path / "report.html").read_text()


def attacked_row(index: int = 3, *, gradient_free: bool = False) -> AttackedRow:
    row = Row(index, 0.25, 0.25, 12.5, 0.5, False, 60, 120, 0.4, "exact", "T3", 1.5)
    output = SmoothedOutput(torch.zeros(1), 1.0, 0.6, False)
    return AttackedRow.of_row(row, Attack(torch.zeros(1), output, 3.25, 2.5, torch.zeros(1), 7.125, gradient_free))


@pytest.mark.parametrize("gradient_free", [True, False])
def test_a_row_that_was_cut_off_is_none(gradient_free: bool) -> None:
    row = attacked_row(gradient_free=gradient_free)
    cells = row.as_text()
    assert row.attack_ratio == 0.2
    assert Row.from_text(cells) == row
    assert Row.from_text([*cells[:13], "0.5", *cells[14:]]) is None
    for cut in range(12, 17):
        assert Row.from_text([*cells[:cut], "cut"]) is None
        assert Row.from_text([*cells[:cut], "", "cut"]) is None
    assert all(Row.from_text(cells[:cut]) is None for cut in (11, 13, 14, 15, 16))
    assert Row.from_text([*cells[:12], "nan", "nan", "1.0"]) is None


def test_rows_of_an_earlier_version_are_read() -> None:
    cells = attacked_row().as_text()
    found = Row.from_text([*cells[:10], *cells[11:13], "0.26", "7.125"])
    assert isinstance(found, AttackedRow)
    assert (found.attack_eps, found.attack_shift, found.attack_ratio, found.base_attack_eps) == (
        3.25,
        3.25,
        0.26,
        7.125,
    )


def test_how_many_searches_had_no_gradient_is_counted() -> None:
    found = [attacked_row(index, gradient_free=index < 2) for index in range(3)]
    line = "attack: 2 of 3 searches had to do without gradients somewhere, which is a weaker attack"
    assert attacks.result_lines(found)[-1] == line
    assert line not in attacks.result_lines(found[2:])


def test_a_line_that_was_cut_off_is_not_read_as_a_row(tmp_path: Path) -> None:
    folder = CertificationFolder(tmp_path)
    first, second = (attacked_row(index) for index in range(2))
    folder.append([first])
    whole = folder.table.read_bytes()
    for lost in range(1, len(",".join(first.as_text()[-4:])) + 20):
        folder.table.write_bytes(whole[:-lost])
        folder.append([second])
        assert folder.rows() == [second]
