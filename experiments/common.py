"""What the experiments share: their end, their steps, their tables and their checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from center_smoothing import DISTANCES
from center_smoothing.smoothers import DEFAULT_SMOOTHER
from command_line import argument_types, errors, named, process
from experiments import trained_models
from experiments.steps import Step
from results import files
from results.folder import CertificationFolder
from results.identity import distance_config, first_difference

# Noisy copies per call of a model: measured anew after a restart, another size would change the last digits.
_BATCH_SIZE = 64


@contextmanager
def one_line_endings() -> Iterator[None]:
    """End with one line: code 2 on bad input, 130 on Ctrl-C; what was finished stays on disk."""
    process.quiet_libraries()
    try:
        with errors.user_errors():
            yield
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from there")
        raise SystemExit(130) from None


class Parser(ArgumentParser):
    """A parser of an experiment's command line, with arguments of the project's types."""

    def __init__(self, experiment: str) -> None:
        super().__init__(prog=f"experiments/{experiment}.py", exit_on_error=False)

    def count(self, flag: str, **given: Any) -> None:  # noqa: ANN401  # as of add_argument
        """Add a flag of a whole number of at least 1."""
        self.add_argument(flag, type=argument_types.count(flag), **given)

    def positive(self, flag: str, **given: Any) -> None:  # noqa: ANN401
        """Add a flag of a number above 0, or of several."""
        self.add_argument(flag, type=argument_types.positive_number(flag), **given)

    def choice(self, flag: str, options: Iterable[str], default: str, help: str = "one of {}") -> None:
        """Add a flag of one of a few words, which stand for {} in its help."""
        words = list(dict.fromkeys(options))
        kind = argument_types.choice(flag, *words)
        self.add_argument(flag, type=kind, default=default, help=help.format(", ".join(words)))

    def outputs(self, out: str | None) -> None:
        """Add the flags for where things are, and for the seed."""
        self.add_argument("--seed", type=int, default=0, help="of the choice of examples and of the noise")
        self.add_argument("--runs", type=str, default="runs", help="folder of all runs, with trained models")
        text = "folder to write; the same command on the same folder goes on"
        self.add_argument("--out", type=str if out else str | None, default=out, help=text)


def check_budget(name: str, h: Sequence[float], smoother: str = DEFAULT_SMOOTHER) -> None:
    """Refuse a budget that certifies nothing at one of the ratios."""
    for each in h:
        named.check_certifiable(named.budget(name, smoother), sigma=1.0, eps_in=each)


def training(title: str, *arguments: str, settings: Mapping[str, Any], sigma: float, runs: str, images: int) -> Step:
    """Return a training without a progress bar, done where a whole one with the same settings is.

    The arguments of train.py stand for the settings; images are those of an epoch, validation included.
    """
    epochs = int(settings["trainer"]["max_epochs"])
    command = [str(trained_models.ROOT / "train.py"), *arguments, "--sigma", repr(sigma), "--runs", runs]
    command += ["--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false"]

    def is_trained() -> bool:
        return trained_models.best_checkpoint(runs, settings, sigma=sigma) is not None

    return Step("train", title, epochs, images, lambda: command, is_trained)


def certification(
    title: str,
    folder: CertificationFolder,
    wanted: Mapping[str, Any],
    *,
    checkpoint: Callable[[], Path | None],
    distance: str,
    budget: str,
) -> Step:
    """Return a certification, done where this very one is as a whole; certify.py names what differs in another one.

    What is ``wanted`` are values of certify.py's flags that its summary records under their names; distance and budget
    are its names of them. There is no checkpoint before the model is trained.
    """
    chosen = named.budget(budget, wanted.get("smoother", DEFAULT_SMOOTHER))
    recorded = {**wanted, **distance_config(DISTANCES[distance]), "coverage": "pointwise", "budget": chosen.as_dict()}

    def command() -> list[str]:
        found = [str(trained_models.ROOT / "certify.py"), "--ckpt", str(checkpoint()), "--batch-size", str(_BATCH_SIZE)]
        for name, value in {**wanted, "distance": distance, "budget": budget}.items():
            values = value if isinstance(value, list) else [value]
            found += ["--" + name.replace("_", "-"), *(repr(v) if isinstance(v, float) else str(v) for v in values)]
        return [*found, "--out", str(folder.path)]

    def is_certified() -> bool:
        model, summary = checkpoint(), folder.read_summary()
        if model is None or summary is None or not summary.get("results"):
            return False
        same = first_difference(summary["config"], recorded, tuple(recorded)) is None
        whole = len(folder.finished(recorded["eps_in"])) == recorded["num_examples"]
        return same and whole and summary.get("checkpoint_sha256") == files.sha256(model)

    return Step("certify", title, wanted["num_examples"], chosen.evaluations, command, is_certified)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows with all their digits, the header being the first."""
    path.write_text(files.as_csv(rows))
