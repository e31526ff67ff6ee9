"""The command line of train.py, and the folder of its run."""

from __future__ import annotations

import os
import re
import secrets
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from callbacks import CenterSmoothing
from callbacks.survival import Survival
from center_smoothing.lightning import DEFAULT_H
from command_line import argument_types, class_paths, flags, process
from datamodules import ImageDataModule
from lightning_modules import NoisyModule, checkpoint_file, load_weights
from training import resuming
from training.arguments import RUN_ID, add_own
from training.checkpoints import WholeCheckpoints

# Of the groups of flags that Lightning makes, in their order.
_TITLES = ("Lightning's Trainer", "Base model", "Data", "Certificates at validation")


class TrainingCLI(LightningCLI):
    """LightningCLI with ``--sigma`` at top level, and a run folder for everything that a run writes."""

    run_folder: Path
    config_to_save: Namespace
    offline: str | None = None
    locks: ExitStack

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is ours, and link sigma to whoever uses it."""
        add_own(parser.add_argument)
        parser.add_lightning_class_args(CenterSmoothing, "center_smoothing")
        parser._optionals.title = "Flags of train.py"
        for group, title in zip(parser._action_groups[-len(_TITLES) :], _TITLES, strict=True):
            group.title = title
        parser.link_arguments("sigma", "model.init_args.sigma", compute_fn=float)
        parser.link_arguments("sigma", "center_smoothing.sigma", compute_fn=float)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, so that whatever the files hold bad input is one line, and typed arguments win over them."""
        with class_paths.parse_errors():
            words = flags.spelled(cast(Sequence[str], args), parser)
            super().parse_arguments(parser, argument_types.files_first(words))
            if self.config.center_smoothing.h is self.config.center_smoothing.eps_in is None:
                self.config.center_smoothing.h = list(DEFAULT_H)  # config.yaml and W&B tell what is certified
            arguments = self.config.model.get("init_args", {})
            if arguments.get("image_shape", ()) is None:
                alone = ArgumentParser()
                alone.add_argument("--data", type=ImageDataModule)
                data = alone.instantiate(Namespace(data=self.config.data)).data
                arguments.image_shape = None if data.image_shape is None else list(data.image_shape)

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, and send every logger to it."""
        # Under the agent of a sweep W&B has chosen the id already.
        run_id = os.environ.setdefault(RUN_ID, os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))
        runs = Path(self.config.runs)
        name = self.config.experiment
        if Path(name).name != name or not name.isprintable() or name in ("", ".", ".."):
            raise ValueError(f"--experiment must be the name of a folder, without a path, got {name!r}")
        process.make_writable(runs, "--runs")
        self.run_folder = runs / self.config.experiment / f"{self.config.sigma:g}-{run_id}"
        if self.config.init_from is not None and self.config.resume is None and Path(self.config.init_from).is_dir():
            found = checkpoint_file(Path(self.config.init_from).resolve(), flag="--init-from")
            self.config.init_from = str(found)  # runs/latest will be this run
            rank_zero_only(print)(f"weights of {found}")
        self.config_to_save = self.config.clone()
        if self.config.resume is not None:
            self.run_folder = resuming.run_folder(self.config.resume)
            resuming.check_same(self.run_folder, self.parser, self.config_to_save)
            self.config_to_save.resume = None
        self.config.trainer.default_root_dir = str(self.run_folder)
        loggers = _logger_configs(self.config.trainer.logger)
        if any(logger.class_path.endswith("WandbLogger") for logger in loggers) and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self.offline = process.wandb_offline()
        for logger in loggers:
            for key, value in self._logger_arguments(logger.class_path.rsplit(".", 1)[-1], run_id).items():
                logger.init_args[key] = value

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401  # Lightning's signature
        """Take over weights, keep the configuration, and add the checkpoints: best by val/loss, and last."""
        if self.config.init_from is not None and self.config.resume is None:
            load_weights(self.model, self.config.init_from)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            # before anything is written: the data may not be for this model, or out of reach
            _check_shapes(self.model, self.datamodule)
            self.datamodule.prepare_data()
            self.run_folder.mkdir(parents=True, exist_ok=True)
            self.locks.enter_context(resuming.locked(self.run_folder))
            self.parser.save(self.config_to_save, self.run_folder / "config.yaml", overwrite=True)
        checkpoints = [
            ModelCheckpoint(self.run_folder / "checkpoints", name, monitor=monitor, enable_version_counter=False)
            for name, monitor in (("best", "val/loss"), ("last", None))
        ]
        given = self._get(self.config_init, "trainer").get("callbacks") or []
        callbacks = [*(given if isinstance(given, list) else [given]), Survival(), *checkpoints]
        writer = WholeCheckpoints(partial(_point_latest_at, self.run_folder))
        return super().instantiate_trainer(callbacks=callbacks, plugins=[writer], **kwargs)

    @property
    def wandb_loggers(self) -> list[WandbLogger]:
        """Those of this process."""
        loggers = self.trainer.loggers if self.trainer.is_global_zero else []
        return [logger for logger in loggers if isinstance(logger, WandbLogger)]

    def begin_logging(self) -> None:
        """Begin the run of W&B with its whole configuration, offline where its server does not let it begin."""
        for logger in self.wandb_loggers:
            if self.offline is None:
                self.offline = process.wandb_refusal(partial(getattr, logger, "experiment"))
                if self.offline is not None:
                    logger._wandb_init["mode"] = "offline"  # made already, it can be told in no other way
            saved = yaml.safe_load((self.run_folder / "config.yaml").read_text())
            logger.experiment.config.update(saved, allow_val_change=True)
            for key in ("val/loss", *self._get(self.config_init, "center_smoothing").keys):
                logger.experiment.define_metric(key, step_metric="trainer/global_step", summary="min,last")

    def end_logging(self) -> None:
        """End the run of W&B; a server gets the best checkpoint, which the runs of certify.py name as their input."""
        for logger in self.wandb_loggers:
            best = self.run_folder / "checkpoints" / "best.ckpt"
            if self.offline is None and best.is_file():
                logger.experiment.log_artifact(str(best), name=f"checkpoint-{self.run_folder.name}", type="model")
            logger.experiment.finish()

    def _logger_arguments(self, name: str, run_id: str) -> dict[str, Any]:
        folder = self.run_folder
        if name == "CSVLogger":
            return {"save_dir": str(folder.parent), "name": "", "version": folder.name}
        if name == "WandbLogger":
            named = {"id": run_id, "name": folder.name, "group": folder.name, "job_type": "train"}
            if self.config.resume is not None and not self.offline:
                named["resume"] = "allow"
            if self.offline:  # the logger's own way, an environment variable, comes too late for a second run here
                named["mode"] = "offline"
            # W&B's process may be an older one, in another folder
            return {"save_dir": str(folder.resolve()), "offline": self.offline is not None, **named}
        return {"save_dir": str(folder)}


def _check_shapes(model: NoisyModule, data: ImageDataModule) -> None:
    """Raise ValueError if the model does not take the images of the data, or gives outputs that have no loss."""
    shape: tuple[int, ...] | None = data.image_shape
    if shape is None:
        data.prepare_data()
        data.setup("fit")
        data.train_dataloader()  # refuses data that are not to train on
        shape = tuple(data.train_set[0]["image"].shape)
    images, modes = torch.zeros(2, *shape), [(part, part.training) for part in model.modules()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # of a loss that broadcasts
            outputs = model.eval()(model.point(images))
            if type(model).validation_step is NoisyModule.validation_step:
                model.loss(outputs, images)
    except Exception as error:  # a user's model may raise anything
        if re.search("cuda|device|not implemented for", str(error), re.IGNORECASE):
            return  # of a model that runs on another device alone
        wanted = model.example_shape()
        reason = (
            f"{type(error).__name__}: {error}"
            if wanted in (None, tuple(shape))
            else f"it is for images {list(wanted)}; leave --model.image_shape out, so that it is that of the data"
        )
        raise ValueError(
            f"--model must take the images of --data, (C, H, W) = {list(shape)}, got {type(model).__name__}: {reason}"
        ) from error
    finally:
        for part, mode in modes:
            part.training = mode


def _logger_configs(value: object) -> list[Namespace]:
    """Return the loggers that a configuration describes by class path."""
    loggers = value if isinstance(value, list) else [value]
    return [logger for logger in loggers if isinstance(logger, Namespace) and "class_path" in logger]


def _point_latest_at(run_folder: Path) -> None:
    """Make runs/latest a link to the newest run; without links on this file system there is none."""
    latest = run_folder.parent.parent / "latest"
    temporary = latest.with_name(f".latest-{run_folder.name}")
    try:
        temporary.symlink_to(run_folder.relative_to(latest.parent), target_is_directory=True)
        os.replace(temporary, latest)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        print(f"no link {latest}: {error.strerror or error}")
