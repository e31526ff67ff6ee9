"""Certify a checkpoint or a pretrained model: ``python certify.py --ckpt runs/latest/checkpoints/best.ckpt``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from certification.arguments import parse
from command_line import class_paths, errors, process


def main(args: Sequence[str] | None = None) -> Path | None:
    """Certify, and return the certification folder; None where only the plan was asked for.

    Args:
        args: command-line arguments; default those of the process.

    Raises:
        SystemExit: with code 2 and one line on bad input; what was finished stays on disk. With code 1 if an audit
            found a failure, or an attack contradicts a certificate, or on an interruption.
    """
    with process.interruptible(), ExitStack() as locks, errors.user_errors() as state:
        process.quiet_libraries()
        process.keep_freed_memory()
        process.die_with_parent()
        with class_paths.restricted(sys.argv[1:] if args is None else args):
            options = parse(args)
        # here, as they import Lightning, which neither --help nor a wrong argument waits for
        from certification import session
        from certification.jobs import merged_config, prepare_jobs
        from certification.run import Run
        from certification.subject import load_subject
        from certification.trainer import is_first_process, print_once

        process.end_with_children(state)
        if options.folders:
            return session.answer(options)
        if options.plan:
            print_once(*session.plan_only(options), sep="\n")
            return None
        subject = load_subject(options)
        out, jobs = prepare_jobs(options, subject, locks)
        state.folder = out.path
        print_once(*session.plan_lines(jobs), sep="\n")
        origin = {"command": options.command}
        if subject.checkpoint is not None:
            origin["checkpoint"] = str(subject.checkpoint)
        runs = [Run(job, options.computing, origin) for job in jobs]
        if options.audit:
            session.audit_before(runs)
        session.preflight(runs)
        if len(jobs) > 1 and out.read_summary() is None and is_first_process():
            runs[0].write_summary([], folder=out, config=merged_config(jobs))
        logging = session.begin_logging(out, runs, subject)
        if logging is not None:
            locks.push(logging.end)
        for run in runs:
            if len(runs) > 1 and run.todo:
                print_once(f"{run.job.folder.path.name}:")
            state.kept = run.kept
            run.execute()
        if runs[0].trainer.is_global_zero:
            kept = f"all examples are finished and kept in {out.path}; the same command writes the rest"
            state.kept = lambda: kept
            contradicted = session.conclude(out, runs, subject, logging)
            if contradicted or not all(finding["passed"] for finding in runs[0].findings):
                raise SystemExit(1)
    return out.path


if __name__ == "__main__":
    main()
