"""What is certified: a model, made fast, and its test examples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

import datamodules
from center_smoothing.noise import check_point
from certification.denoising import Denoiser, load_denoiser
from certification.request import Arguments
from certification.trainer import print_once
from datamodules import ImageDataModule
from lightning_modules import (
    BaseModel,
    CompiledModel,
    DenoisedModel,
    ImportedModel,
    LoadedCheckpoint,
    checkpoint_file,
    fold_batch_norm,
    load_checkpoint,
)
from results import files


@dataclass(frozen=True)
class Subject:
    """What is to be certified.

    Attributes:
        model: the base model, behind its denoiser if there is one.
        sigma: its own noise level; None for a pretrained model.
        sha256: of the checkpoint's file, or of a user's model; None for one of this project.
        training: the run that it was trained in, if it says so.
        data: its test split.
        folder: beside which results go by default.
        checkpoint: its file; None without one.
        denoiser: None without one.
    """

    model: BaseModel
    sigma: float | None
    sha256: str | None
    training: str | None
    data: ImageDataModule
    folder: Path
    checkpoint: Path | None = None
    denoiser: Denoiser | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What a configuration says of the model, but for its settings."""
        if isinstance(self.model, DenoisedModel) and self.denoiser is not None:
            return {"model": type(self.model.model).__name__, "denoiser": self.denoiser.config}
        return {"model": type(self.model).__name__}


def checkpoint_path(path: str | Path, flag: str) -> Path:
    """Return the file of a checkpoint; say which it is of a folder."""
    found = checkpoint_file(path, flag=flag)
    if found != Path(path):
        print_once(f"checkpoint: {found}")
    return found


def load_trained(options: Arguments) -> LoadedCheckpoint | None:
    """Return what train.py has trained, from --ckpt or from --model.weights; None for a pretrained model."""
    if options.ckpt is None:
        return options.trained
    return load_checkpoint(checkpoint_path(options.ckpt, "--ckpt"))


def load_subject(options: Arguments) -> Subject:
    """Return the model and its test data, ready to be drawn from."""
    trained = load_trained(options)
    if trained is None:
        if options.data is None or options.model is None:
            raise ValueError("--data must name a data module, e.g. PhotoFolder, for a pretrained model, got none")
        data, folder = options.data, Path("runs") / type(options.model).__name__
        sha256 = getattr(options.model, "sha256", None)
        subject = Subject(options.model.eval(), options.sigma, sha256, None, data, folder)
    else:
        path = trained.path.resolve()
        if options.data is None:
            kind, init_args = training_data(trained)
            data = kind(**init_args)
        else:
            data = options.data
        sigma = trained.model.sigma if options.sigma is None else options.sigma
        folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        subject = Subject(trained.model, sigma, files.sha256(path), trained.run, data, folder, path)
    denoiser = load_denoiser(options)
    if denoiser is not None:
        subject = replace(subject, model=denoiser.in_front_of(subject.model), denoiser=denoiser)
    subject.data.prepare_data()
    subject.data.setup("test")
    return subject


def accelerated(model: BaseModel, options: Arguments) -> tuple[BaseModel, nn.Module]:
    """Return the base model as it is evaluated fastest, and what evaluates it."""
    if options.fold_batch_norm:
        model = _folded(model)
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model, model if options.compile == "off" else CompiledModel(model, options.compile)


def _folded(model: BaseModel) -> BaseModel:
    """Return a copy with batch norm folded, where layers can be looked at."""
    if isinstance(model, DenoisedModel):
        return DenoisedModel(_folded(model.model), _folded(model.denoiser))
    if isinstance(model, ImportedModel) and not model.is_eager:
        return model
    return fold_batch_norm(model)


def training_data(checkpoint: LoadedCheckpoint) -> tuple[type[ImageDataModule], dict[str, Any]]:
    """Return the class of the data module, and its arguments."""
    if checkpoint.data is None:
        raise ValueError(
            "--data must name a data module, e.g. MNIST: the checkpoint does not say what it was trained on"
        )
    kind = getattr(datamodules, str(checkpoint.data["class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, ImageDataModule)):
        raise ValueError(
            f"--data must name a data module, e.g. MNIST: there is no {checkpoint.data['class']!r} any more"
        )
    return kind, dict(checkpoint.data["init_args"])


def draw_examples(
    datamodule: ImageDataModule, number: int | str, seed: int
) -> tuple[Subset[dict[str, torch.Tensor]], list[int], str]:
    """Return test examples drawn with the seed, their indices, and a hash of both; fewer are the first of more."""
    test_set = datamodule.test_set
    num_examples = len(test_set) if number == "all" else int(number)
    if num_examples > len(test_set):
        raise ValueError(
            f"--num-examples must be all or at most {len(test_set)}, the size of the test set, got {num_examples}"
        )
    order = torch.randperm(len(test_set), generator=torch.Generator().manual_seed(seed))
    examples, indices, digest = Subset(test_set, order[:num_examples].tolist()), [], hashlib.sha256()
    for position in range(num_examples):
        example = examples[position]
        indices.append(int(example["index"]))
        try:
            check_point(example["image"])
        except ValueError as error:
            raise ValueError(f"--data: image {indices[-1]} cannot be certified: {error}") from error
        digest.update(f"{indices[-1]} {tuple(example['image'].shape)}".encode() + example["image"].numpy().tobytes())
    return examples, indices, digest.hexdigest()
