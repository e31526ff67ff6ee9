"""What certify.py does between its arguments and its last line: plan, preflight, audit, conclusion, answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from center_smoothing.audit import Finding
from certification import auditing, conclusion, planning
from certification.arguments import input_radii, noise_levels
from certification.denoising import load_denoiser
from certification.jobs import Job, merged_config, radii_by_sigma
from certification.preflight import check_run, follows_gradients
from certification.request import Arguments, Request
from certification.run import Run
from certification.subject import Subject, accelerated, load_trained
from certification.trainer import print_once
from command_line import errors, process
from results import attacks, comparison, html, numbers, queries, terminal
from results.finished import MAX_SHOWN, FinishedCertification, Question, spread
from results.folder import CertificationFolder
from results.wandb_run import WandbRun


def plan_only(options: Arguments) -> list[str]:
    """Return what --plan prints, from the flags and the model alone."""
    model, sigma, trained = options.model, options.sigma, load_trained(options)
    if trained is not None:
        model = trained.model
        sigma = model.sigma if sigma is None else sigma
    known = model is not None or sigma is not None or options.eps_in is not None
    if model is not None:
        denoiser = load_denoiser(options)
        model = model.eval() if denoiser is None else denoiser.in_front_of(model)
    conversion = planning.conversion_of(options, model)
    known &= conversion is not None
    factor = 1.0 if conversion is None else conversion
    levels = noise_levels(options, sigma if known else 1.0, factor)  # h alone needs no sigma
    model, function = (None, None) if model is None else accelerated(model, options)
    return planning.only_plan(Request(options, levels, factor), model, function, sigma_known=known)


def plan_lines(jobs: Sequence[Job]) -> list[str]:
    """Return lines on what will be sampled, and what that can certify."""
    job = jobs[0]
    measures: dict[str, Any] = {"levels": radii_by_sigma(jobs), "conversion": job.conversion}
    found = terminal.plan_lines(job.smoother, **measures, num_examples=len(job.examples))
    if "denoiser" in job.config:
        found.insert(1, f"  {terminal.denoiser_line(job.config['denoiser'])}")
    if jobs[0].attack is not None:
        evaluations = max(job.evaluations_of_attack for job in jobs)
        found.append(attacks.plan_line(jobs[0].attack, evaluations=evaluations))
    change = jobs[0].grid_change
    if change is not None:
        found.append(terminal.grid_line(jobs[0].config["grid"], change))
    return found


def preflight(runs: Sequence[Run]) -> None:
    """See that it can work, and say how long it will take."""
    todo = [run for run in runs if run.todo]
    if not todo:
        return
    rate = check_run(todo[0])
    seconds = sum(run.job.evaluations * run.most_examples for run in todo) / rate
    what = f"{sum(len(run.todo) for run in todo)} examples"
    what += f" at {len(runs)} noise levels together" if len(runs) > 1 else ""
    speed, batch_size = rate * todo[0].trainer.world_size, todo[0].job.smoother.outputs.batch_size
    print_once(f"  about {numbers.duration(seconds)} for {what} at {speed:,.0f} samples/s in batches of {batch_size}")
    if todo[0].job.attack is not None and not follows_gradients(todo[0]):
        print_once("  attack: the model or the distance has no gradient: a search without gradients takes its place")


def audit_before(runs: Sequence[Run]) -> None:
    """Check what needs no certificate; certify nothing where it would mean nothing."""
    findings = auditing.before(runs)
    if any(finding.fatal for finding in findings):
        print_once(
            *auditing.lines(findings),
            "nothing is certified: these failures leave certificates without a meaning",
            sep="\n",
        )
        raise SystemExit(1)
    for run in runs:
        run.findings = [asdict(finding) for finding in findings]


def _audit_after(runs: Sequence[Run]) -> None:
    """Check what the certificates themselves say, and show it with all that was found before."""
    findings = [*(Finding(**finding) for finding in runs[0].findings), *auditing.after(runs)]
    print_once(*auditing.lines(findings), sep="\n")
    for run in runs:
        run.findings = [asdict(finding) for finding in findings]


def begin_logging(out: CertificationFolder, runs: Sequence[Run], subject: Subject) -> WandbRun | None:
    """Begin the run of W&B, which shows each example as it is finished; None where nothing is left to do."""
    if not runs[0].trainer.is_global_zero or not any(run.todo for run in runs):
        return None
    config = {**merged_config([run.job for run in runs]), "checkpoint_sha256": subject.sha256}
    begun: list[WandbRun] = []

    def begin(why_offline: str | None = None) -> None:
        begun.append(WandbRun(out, config=config, group=subject.training, why_offline=why_offline))

    reason = process.wandb_offline() or process.wandb_refusal(begin)
    if reason is not None:
        begin(reason)
    for run in runs:
        run.writer.on_rows = begun[-1].log_example
    return begun[-1]


def conclude(out: CertificationFolder, runs: Sequence[Run], subject: Subject, logging: WandbRun | None) -> bool:
    """Bring the files of finished runs together, and say what was found and what holds: on the terminal and in W&B.

    Returns:
        Whether an attack contradicts a certificate.
    """
    if runs[0].findings:
        _audit_after(runs)
    jobs, parts = [run.job for run in runs], conclusion.read_back(runs)
    rows, results = conclusion.write_files(out, parts, runs[0])
    notes = [line for part in parts for line in terminal.non_finite_lines(part.finished)]
    notes += [*_memory_lines(runs), *terminal.left_out_lines(subject.data.left_out)]
    print(*notes, *terminal.result_lines(results), *attacks.result_lines(rows), parts[0].promise, sep="\n")
    if logging is not None:
        logging.conclude(rows, results, examples=conclusion.shown_examples(parts))
        if logging.why_offline is not None:
            process.say_offline(out.path, logging.why_offline)
    print(f"report: {process.from_here(out.path / 'report.html')}")
    where = ", ".join(str(job.folder.counterexamples) for job in jobs if job.folder.counterexamples.is_dir())
    wrong = attacks.contradiction_lines(rows, alpha=jobs[0].smoother.budget.alpha, where=where)
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
    return bool(wrong)


def _memory_lines(runs: Sequence[Run]) -> list[str]:
    """Return a line if the memory of the device was too small for a batch."""
    limits = {(outputs.batch_size, outputs.most_at_once) for outputs in (run.job.smoother.outputs for run in runs)}
    return [
        f"note: the device ran out of memory: batches of {size} were evaluated {most} at a time, with the same numbers"
        for size, most in sorted(limits, key=str)
        if most is not None
    ]


def answer(options: Arguments) -> Path | None:
    """Answer from a finished folder without a single evaluation (theory T6)."""
    if options.sigma is not None or (options.h is not None and options.eps_in is not None):
        raise ValueError("--from takes --eps-in or --h, not both and no --sigma: the folder has its own")
    if len(options.folders) > 1:
        return _compare(options)
    folder, table = CertificationFolder(options.folders[0]), None if options.out is None else Path(options.out)
    if table is not None:
        queries.check_table(table)
    finished = FinishedCertification.open(folder)
    questions = _questions(options, _radii_of(options, finished))
    finished = finished.read(*questions)
    if table is not None:
        queries.write_table(finished.answers.values(), table)
    print(*map(errors.printable, queries.lines(finished)), sep="\n")
    if table is not None:
        print(f"written: {table}")
    return folder.path


def _radii_of(options: Arguments, finished: FinishedCertification) -> list[float]:
    """Return the eps_in that are asked of a finished folder, in its own norm."""
    return input_radii(options, finished.sigma, kind=finished.noise_kind, conversion=finished.conversion)


def _asks_eps_in(options: Arguments) -> bool:
    """Return whether a finished folder is asked for output radii."""
    return options.eps_out is None or options.eps_in is not None or options.h is not None


def _questions(options: Arguments, eps_in: Sequence[float]) -> list[Question]:
    """Return what a finished folder is asked: for output radii at these eps_in, and for input radii."""
    questions = [Question("eps_in", tuple(eps_in), options.coverage)] if _asks_eps_in(options) else []
    if options.eps_out is not None:
        questions.append(Question("eps_out", tuple(dict.fromkeys(options.eps_out)), options.coverage))
    return questions


def _compare(options: Arguments) -> Path | None:
    """Show several finished folders side by side, and return the folder of the report if one was asked for."""
    out, coverage = None if options.out is None else Path(options.out), options.coverage
    if out is not None and not _asks_eps_in(options):
        raise ValueError("--out is for the report of output radii: with several folders in --from it needs --eps-in")
    if out is not None and (out.suffix.lower() == ".csv" or out.is_file() or CertificationFolder(out).summary.exists()):
        raise ValueError(
            f"--out must be a folder without a certification, for the report of several folders in --from, got {out}"
        )
    opened = comparison.open_all(options.folders)
    shown = spread(next(iter(opened.values())).rows, max(1, MAX_SHOWN // len(opened)))
    compared, rows, inputs = {}, {}, {}
    for label, each in opened.items():
        eps_in: list[float] = []
        if _asks_eps_in(options):
            asked = options.eps_in or options.h
            eps_in = _radii_of(options, each) if asked else comparison.asked_radii(opened)
        questions = _questions(options, eps_in)
        curve = [] if out is None else [html.curve_question(each, eps_in, coverage)]
        compared[label] = each.read(*questions, *curve, shown=shown)
        if eps_in:
            rows[label] = comparison.rows_at(compared[label], eps_in, coverage=coverage)
        if options.eps_out is not None:
            inputs[label] = compared[label].answers[questions[-1]]
    found = comparison.lines(compared, rows, inputs, coverage=coverage)
    print(*map(errors.printable, found), sep="\n")
    if out is not None:
        process.make_writable(out, "--out")
        print(f"written: {', '.join(map(str, comparison.write(compared, rows, out, coverage=coverage)))}")
    return out
