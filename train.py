"""Fit a base model on noisy inputs and watch its certified radius: ``python train.py --sigma 0.25``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from command_line import class_paths, errors, process
from training import arguments


def main(args: Sequence[str] | None = None) -> Path:
    """Train, and return the run folder.

    Args:
        args: command-line arguments; default those of the process.

    Raises:
        SystemExit: with code 2 and one line on bad input.
    """
    launched_by_us = arguments.RUN_ID not in os.environ
    try:
        with process.interruptible(), ExitStack() as locks, errors.user_errors() as state:
            words = arguments.read(sys.argv[1:] if args is None else args)
            # here, as they import Lightning, which neither --help nor an unknown flag waits for
            from datamodules import ImageDataModule
            from lightning_modules import NoisyModule
            from training import resuming
            from training.cli import TrainingCLI
            from training.session import conclude, fit, going_on

            process.quiet_libraries()
            process.keep_freed_memory()
            process.end_with_children(state)
            TrainingCLI.locks = locks
            with class_paths.restricted(words):
                resumed = resuming.parse_resume_flag(words)
                if resumed is not None and launched_by_us:
                    os.environ[arguments.RUN_ID] = resumed.name.partition("-")[2] or resumed.name
                cli = TrainingCLI(
                    NoisyModule,
                    ImageDataModule,
                    subclass_mode_model=True,
                    subclass_mode_data=True,
                    auto_configure_optimizers=False,
                    load_from_checkpoint_support=False,
                    save_config_callback=None,
                    seed_everything_default=0,
                    parser_kwargs=arguments.PARSER,
                    args=words if resumed is None else [*resuming.arguments(resumed), *words],
                    run=False,
                )
                checkpoint = None if resumed is None else resuming.checkpoint(resumed, cli.trainer)
            state.folder, state.kept = cli.run_folder, partial(going_on, cli)
            cli.begin_logging()
            fit(cli, checkpoint)
            state.kept = lambda: f"the training is finished and kept in {cli.run_folder}"
            if cli.trainer.is_global_zero:
                conclude(cli)
        return cli.run_folder
    finally:
        if launched_by_us:
            os.environ.pop(arguments.RUN_ID, None)


if __name__ == "__main__":
    main()
