"""What the command-line scripts share: one-line errors, number types, where Weights & Biases writes."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import netrc
import os
import re
import shlex
import signal
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
import warnings
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlparse

import torch
import yaml

import class_paths
from center_smoothing import (
    Angular,
    BoxJaccard,
    Cosine,
    Distance,
    Hausdorff,
    Lp,
    MaskJaccard,
    MeanBudget,
    ProbabilityTV,
    SmoothingBudget,
    SquaredL2,
    TotalVariation,
    Wasserstein1,
)
from center_smoothing.distances import as_distance

T = TypeVar("T")

_BUDGETS = Path(__file__).resolve().parent / "configs" / "certify"
# The names that --budget takes.
BUDGETS = sorted(path.stem for path in _BUDGETS.glob("*.yaml"))
# Those of them that means have.
MEAN_BUDGETS = sorted(path.stem for path in (_BUDGETS / "mean").glob("*.yaml"))
# The names that --smoother takes.
SMOOTHERS = ("center", "mean")
# What bounds the outputs of means, and which of the two to take.
_BOUNDS = {
    "--clip-norm": "--clip-norm scales outputs that are further from zero than that down to it, as part of the model",
    "--output-bound": "--output-bound is for who knows that no two outputs are further apart",
}
# The names that --distance takes.
DISTANCES: dict[str, Distance] = {
    "tv": TotalVariation(p=1),
    "tv-l2": TotalVariation(p=2),
    "angular": Angular(),
    "l1": Lp(1.0),
    "l2": Lp(2.0),
    "linf": Lp(float("inf")),
    "jaccard": BoxJaccard(),
    "mask-jaccard": MaskJaccard(),
    "cosine": Cosine(),
    "squared-l2": SquaredL2(),
    "hausdorff": Hausdorff(),
    "probability-tv": ProbabilityTV(),
    "wasserstein1": Wasserstein1(),
}

# Top-level modules of this project: what others raise is a stranger's.
_OURS = {
    *("__main__", "auditing", "benchmarks", "callbacks", "center_smoothing", "certification", "certify", "class_paths"),
    *("conclusion", "datamodules", "entrypoint", "examples", "experiments", "lightning_modules", "perceptual"),
    *("planning", "resuming", "train"),
}
# What reads arguments, and says in its own words what is wrong with them.
_PARSERS = {"argparse", "jsonargparse", "lightning"}
# What signs in a message of PyTorch mean for a model.
_ADVICE = {
    "does not have a grad_fn": "a model that needs gradients must compute them under `with torch.enable_grad():` in "
    "its forward, as it is called without",
    "view size is not compatible": "a model that needs contiguous memory is certified with --channels-last=false",
}
# Seconds that a server of W&B has to answer.
_WANDB_PATIENCE = 4.0
_OTHER_PROCESS = "another process has ended before its work was done"
# Seconds in which a process finds out by itself that another one has ended.
_PATIENCE = 15.0
_TRACEBACK = "traceback.txt"
# Characters of a message that go on the terminal.
_MAX_MESSAGE = 500

# Of the units of --time-limit.
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

# Lines of jsonargparse's messages that say nothing to who typed the argument.
_NOISE = re.compile(
    r"^(Does not validate against any of the Union subtypes|Subtypes: .*|Errors:|Given value.*"
    r"|- Expected a <class 'NoneType'>.*)$"
)


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"error: {printable(one_line(message))}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def printable(text: str) -> str:
    r"""A text whose control characters, which may come from a stranger's file, cannot act on the terminal.

    Example:
        >>> print(printable("\x1b[2Jtwo\nlines"))
        \x1b[2Jtwo\nlines
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


@dataclass
class RunState:
    """What a script knows of its run, in case that it fails.

    Attributes:
        folder: that a traceback is written to; None: the folder for temporary files.
        kept: says what is not lost; None: nothing was there to lose.
    """

    folder: Path | None = None
    kept: Callable[[], str] | None = None

    def said(self) -> list[str]:
        """Return what ``kept`` says, as far as the disk lets it."""
        with suppress(Exception):
            return [] if self.kept is None else [self.kept()]
        return []


@contextmanager
def user_errors() -> Iterator[RunState]:
    """Turn whatever a script raises into one line and exit code 2.

    Bad input is said as it is. For everything else, above all what a user's model, distance or file leads to, the line
    has the class of the error and names a file with the traceback.
    """
    state = RunState()
    try:
        yield state
    except Exception as error:
        parts = [described(error), *state.said()]
        if not is_refusal(error):
            if _is_fault_of_ours(error):
                parts.append("this looks like a fault of Center Smoothing itself: please report it")
            path = _write_traceback(error, state.folder)
            parts += [] if path is None else [f"the traceback is in {path}"]
        fail("; ".join(parts))
    if state.folder is not None:
        with suppress(OSError):
            (state.folder / _TRACEBACK).unlink(missing_ok=True)  # of an earlier try


def described(error: BaseException) -> str:
    """Return an error in one line: the class, unless the message is this project's own, the message, and advice.

    Example:
        >>> described(KeyError("weights"))
        "KeyError: 'weights'"
    """
    if _is_of_another_process(error):
        return _OTHER_PROCESS
    text, name = str(error).strip(), type(error).__name__
    if speaks_for_itself(error):
        return one_line(text) or name
    cause = next((each for each in _chain(error) if _innermost(each) not in _PARSERS), error)
    if cause is not error:  # the parser has put another class in its place
        flag = re.match(r"--\S+", one_line(text))
        return (f"{flag[0]} leads to " if flag and not speaks_for_itself(cause) else "") + described(cause)
    if "(most recent call last)" in text:  # of a process that loads data, or of TorchScript: the reason stands last
        text = text.splitlines()[-1].strip()
    else:
        text = one_line(text.split("\n\n")[0])
    text = text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."
    text = text if text.startswith(f"{name}:") else f"{name}: {text}" if text else name
    return text + next((f"; {advice}" for sign, advice in _ADVICE.items() if sign in str(error)), "")


def speaks_for_itself(error: BaseException) -> bool:
    """Return whether a message is in words that say what is wrong without a class: this project's, or a refusal's."""
    return is_refusal(error) or (isinstance(error, ValueError) and _innermost(error) in _OURS)


def is_refusal(error: BaseException) -> bool:
    """Return whether a message says all that there is to say: of bad input that was found, of the disk, of a process.

    Nothing that went through code from elsewhere, such as a user's model, counts as that.
    """
    if _is_of_another_process(error):
        return True
    if _went_through_users_code(error):
        return False
    if isinstance(error, ValueError | TypeError):
        return _innermost(error) in (_OURS if isinstance(error, ValueError) else set()) | _PARSERS
    refusals = (ArgumentError, ArgumentTypeError, OSError)
    return isinstance(error, refusals) or type(error).__name__ == "MisconfigurationException"  # Lightning's


def _is_of_another_process(error: BaseException) -> bool:
    # gloo raises a RuntimeError with its own source file's name, the others errors of their own
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def _is_fault_of_ours(error: BaseException) -> bool:
    """Return whether no machine, library or code from elsewhere explains an error."""
    if isinstance(error, RuntimeError | MemoryError | OSError) or _went_through_users_code(error):
        return False
    return _innermost(error) in _OURS


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error, its cause, the cause of that, and so on."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _frames(error: BaseException) -> list[tuple[Path, str]]:
    """Return file and top-level module of each frame that an error went through, the innermost last."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [(Path(each.f_code.co_filename), str(each.f_globals.get("__name__")).split(".")[0]) for each in frames]


def _innermost(error: BaseException) -> str:
    """Return the top-level module that raised an error."""
    return next((module for _, module in reversed(_frames(error))), "")


def _went_through_users_code(error: BaseException) -> bool:
    """Return whether an error or one of its causes met code that is neither this project's, Python's, nor installed."""
    stdlib, installed = sysconfig.get_path("stdlib"), {"site-packages", "dist-packages"}
    return any(
        isinstance(each, SyntaxError)
        or any(
            module not in _OURS and file.is_file() and not (installed & set(file.parts) or file.is_relative_to(stdlib))
            for file, module in _frames(each)
        )
        for each in _chain(error)
    )


def _write_traceback(error: BaseException, folder: Path | None) -> Path | None:
    """Write it into a folder, or else beside other temporary files; None where neither can be written to."""
    text = "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
    for place in (None,) if folder is None else (folder, None):
        name = None
        try:
            descriptor, name = tempfile.mkstemp(".txt", "center-smoothing-traceback-", place)
            with open(descriptor, "wb") as file:
                file.write(text)
            return Path(name) if place is None else Path(name).replace(place / _TRACEBACK)
        except OSError:
            if name is not None:
                Path(name).unlink(missing_ok=True)
    return None


def one_line(message: str) -> str:
    r"""A message of several lines, jsonargparse's above all, in one, with the arguments as one types them.

    Example:
        >>> one_line("Parser key \"num_examples\":\n  must be a whole number, got 'x'")
        "--num_examples must be a whole number, got 'x'"
    """
    lines = [line.strip() for line in message.splitlines()]
    text = " ".join(line.removeprefix("- ") for line in lines if line and not _NOISE.match(line))
    text = re.sub(r"^argument (?:-\S+): (?=--)|^argument (?=-)", "", text)
    text = re.sub(r'Parser key "([^"]+)"(?: element \d+)?:', r"--\1", text)
    text = re.sub(r"Expected a <class '([\w.]+)'>\. Got value:", r"must be a \1, got", text)
    text = re.sub(r"Expected a typing\.Literal\[(.*?)\]\. Got value:", r"must be one of \1, got", text)
    text = re.sub(r"Expected a dot import path string: (\S+)", r"must be the name of a class, got \1", text)
    text = re.sub(r"(--\S+) '\w+' object is not iterable", r"\1 must be a list such as [0.2, 0.4], got one value", text)
    return text.replace("Problem with given class_path ", "of class ")


def positive_number(name: str) -> Callable[[object], float]:
    """The type of an argument that takes a finite number above 0.

    Example:
        >>> positive_number("--sigma")("0.25")
        0.25
    """
    return _argument(name, "a positive number such as 0.25", lambda value: _number(value, above=0.0))


def radius(name: str) -> Callable[[object], float]:
    """The type of an argument that takes a finite number of at least 0."""
    return _argument(name, "a number of at least 0 such as 0.5", lambda value: _number(value, least=0.0))


def count(name: str) -> Callable[[object], int]:
    """The type of an argument that takes a whole number of at least 1, also as 1e4 or 10_000.

    Example:
        >>> count("--n")("1e4")
        10000
    """
    return _argument(name, "a whole number of at least 1", _count)


def counts(name: str) -> Callable[[object], list[int]]:
    """The type of an argument that takes one or several whole numbers of at least 1: see :func:`joined`.

    Example:
        >>> counts("--m")("1e3,10_000")
        [1000, 10000]
    """
    one = count(name)

    def check(value: object) -> list[int]:
        values = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
        return [one(each) for each in values]

    return check


def folders(value: object) -> list[str]:
    r"""Convert an argument that takes one or several folders: see :func:`joined`.

    Example:
        >>> folders("runs/a\0runs/b"), folders("runs/a")
        (['runs/a', 'runs/b'], ['runs/a'])
    """
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str) for each in values):
        raise ArgumentTypeError(f"--from must be one or several folders, got {value!r}")
    return [folder for each in values for folder in each.split("\0")]


def joined(words: Sequence[str], flag: str, by: str = ",") -> list[str]:
    """Return command-line words in which the values that follow a flag are one word.

    jsonargparse's ``nargs="+"`` would refuse a single value in a YAML file.

    Example:
        >>> joined(["--m", "1000", "10000", "--plan"], "--m")
        ['--m', '1000,10000', '--plan']
    """
    kept: list[str] = []
    for word in words:
        if kept[-2:-1] == [flag] and not word.startswith("-"):
            kept[-1] += f"{by}{word}"
        else:
            kept.append(word)
    return kept


def files_first(words: Sequence[str]) -> list[str]:
    """Return the words of a command line so ordered that what is typed wins over files, wherever it stands.

    First come the files of --config in their order, then arguments such as ``--model CLASS`` and ``--trainer FILE``,
    then those of a part of these such as ``--model.width 5``.

    Example:
        >>> files_first(["--model.width", "5", "--model", "some.Class", "--config", "some.yaml"])
        ['--config', 'some.yaml', '--model', 'some.Class', '--model.width', '5']
    """
    arguments: list[list[str]] = []
    for word in words:
        if not arguments or word.startswith(("--", "-c")):
            arguments.append([])
        arguments[-1].append(word)
    return [word for argument in sorted(arguments, key=_turn) for word in argument]


def _turn(argument: Sequence[str]) -> int:
    """When an argument, the words from one flag to the next, is to be parsed."""
    flag = argument[0].partition("=")[0]
    if flag.startswith("-c") or (len(flag) > len("--c") and "--config".startswith(flag)):  # it may be abbreviated
        return 0
    return 2 if "." in flag else 1


def time_span(name: str) -> Callable[[object], float]:
    """The type of an argument that takes a time above 0, in seconds or with a unit: 90, 90s, 30m, 1.5h.

    Example:
        >>> time_span("--time-limit")("30m")
        1800.0
    """

    def convert(value: object) -> float | None:
        text = str(value)
        unit = _SECONDS.get(text[-1:])
        return _number(value, above=0.0) if unit is None else _seconds(text[:-1], unit)

    return _argument(name, "a time such as 90s, 30m or 2h", convert)


def choice(name: str, *options: str) -> Callable[[object], str]:
    """The type of an argument that takes one of a few words.

    Example:
        >>> choice("--method", "exact", "paper")("paper")
        'paper'
    """
    return _argument(name, f"one of {', '.join(options)}", lambda value: str(value) if value in options else None)


def _argument(name: str, wanted: str, convert: Callable[[object], T | None]) -> Callable[[object], T]:
    """A type that raises ArgumentTypeError, with the argument's name, where ``convert`` gives None."""

    def check(value: object) -> T:
        converted = convert(value)
        if converted is None:
            raise ArgumentTypeError(f"{name} must be {wanted}, got {value!r}")
        return converted

    return check


def _number(value: object, *, above: float = -math.inf, least: float = -math.inf) -> float | None:
    """A finite number within its limits, or None."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if above < number < math.inf and number >= least else None


def _seconds(text: str, unit: float) -> float | None:
    number = _number(text, above=0.0)
    return None if number is None else number * unit


def _count(value: object) -> int | None:
    number = _number(value, least=1.0)
    return int(number) if number is not None and number < 2**63 and number == int(number) else None


def _word_or_count(name: str, word: str) -> Callable[[object], int | str]:
    return _argument(
        name, f"{word} or a whole number of at least 1", lambda value: word if value == word else _count(value)
    )


# The types of --batch-size and --num-examples.
batch_size = _word_or_count("--batch-size", "auto")
num_examples = _word_or_count("--num-examples", "all")


def budget_values(name: str, **given: Any) -> dict[str, Any]:  # noqa: ANN401  # as SmoothingBudget's own
    """What a file in configs/certify/ and flags say of a budget, under the names of :class:`SmoothingBudget`.

    Args:
        name: one of ``BUDGETS``.
        given: what differs from the file, under the names of the flags (n, m, k, delta, alpha1, alpha2, method); None
            leaves the file's value.
    """
    return _budget_values(_BUDGETS / f"{name}.yaml", given)


def budget(name: str, **given: Any) -> SmoothingBudget:  # noqa: ANN401  # as SmoothingBudget's own
    """The budget of a file in configs/certify/. Arguments are those of :func:`budget_values`.

    Raises:
        ValueError: as :class:`SmoothingBudget` does.
    """
    return SmoothingBudget(**budget_values(name, **given))


def mean_budget(name: str, **given: Any) -> MeanBudget:  # noqa: ANN401  # as MeanBudget's own
    """The budget of a file in configs/certify/mean/.

    Args:
        name: one of ``MEAN_BUDGETS``.
        given: what differs from the file, under the names of the flags (n, m, alpha1, alpha2); None leaves the file's
            value.

    Raises:
        ValueError: as :class:`MeanBudget` does.
    """
    return MeanBudget(**_budget_values(_BUDGETS / "mean" / f"{name}.yaml", given))


def _budget_values(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    values.update({key: value for key, value in given.items() if value is not None})
    return {{"alpha1": "alpha_1", "alpha2": "alpha_2"}.get(key, key): value for key, value in values.items()}


def check_smoother(
    smoother: str, *, distance: str, budget: str, bounds: Mapping[str, object], of_centers: Mapping[str, object]
) -> None:
    """See that what was asked of a smoother goes together, before anything is loaded.

    Args:
        smoother: one of ``SMOOTHERS``.
        distance: what --distance names.
        budget: one of ``BUDGETS``.
        bounds: the flags that bound the outputs of means, as they are typed, with their values; None if not given.
        of_centers: likewise the flags that mean nothing for means.

    Raises:
        ValueError: if not, with what to change.
    """
    bounding, foreign = ([flag for flag, value in flags.items() if value is not None] for flags in (bounds, of_centers))
    if smoother == "center":
        if bounding:
            raise ValueError(f"{bounding[0]} bounds the outputs of means: it needs --smoother mean, got center")
        return
    if not distance_named(distance).convex:
        convex = ", ".join(name for name, known in DISTANCES.items() if known.convex)
        raise ValueError(
            f"--smoother={smoother} needs a distance that is convex in the output ({convex}), got {distance}: by that "
            "distance a mean may be further away than each of its outputs"
        )
    if budget not in MEAN_BUDGETS:
        raise ValueError(f"--budget must be one of {', '.join(MEAN_BUDGETS)} for --smoother={smoother}, got {budget}")
    if foreign:
        raise ValueError(f"{foreign[0]} is of centers alone: it must be left out with --smoother=mean")
    if len(bounding) != 1:
        wanted = " or ".join(bounds) if len(bounds) == 1 else f"exactly one of {' and '.join(bounds)}"
        raise ValueError(
            f"--smoother={smoother} needs {wanted}, got {' and '.join(bounding) or 'none'}: "
            f"{'; '.join(_BOUNDS[flag] for flag in bounds)}"
        )


def distance_name(value: object) -> str:
    """The type of --distance: one of ``DISTANCES``, or the dotted name of a user's own.

    Example:
        >>> distance_name("tv")
        'tv'
    """
    if value in DISTANCES or (isinstance(value, str) and class_paths.is_dotted(value)):
        return str(value)
    raise ArgumentTypeError(
        f"--distance must be one of {', '.join(DISTANCES)}, or the name of your own such as my_package.my_distance, "
        f"got {value!r}"
    )


@cache
def distance_named(name: str) -> Distance:
    """The distance that --distance names.

    Raises:
        ValueError: for a user's own that cannot be imported, or is none.
    """
    if name in DISTANCES:
        return DISTANCES[name]
    try:
        return as_distance(class_paths.imported(name, "--distance"))
    except ValueError as error:
        raise ValueError(f"--distance: {error}" if not str(error).startswith("--distance") else str(error)) from error


def noise_level(*, h: float, eps_in: float) -> float:
    """Sigma = eps_in / h, in units of x: one number for all pairs that share it, as nine digits tell it apart.

    Example:
        >>> noise_level(h=1.5, eps_in=0.6) == noise_level(h=1.0, eps_in=0.4)
        True
    """
    return float(f"{eps_in / h:.9g}")


def check_certifiable(budget: SmoothingBudget, *, sigma: float, eps_in: float) -> None:
    """Raise ValueError, with the m that would do, if no output can certify ``eps_in`` at ``sigma``."""
    plan = budget.plan(eps_in / sigma)
    if not plan.certifiable:
        raise ValueError(
            f"--m must be at least {plan.least_m:.0f} to certify eps_in={eps_in:g} (h={plan.h:g}) at "
            f"delta={budget.delta} with method={budget.method!r}, got {budget.m}"
        )


def sha256(path: str | Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wandb_offline() -> str | None:
    """Return why Weights & Biases has to run offline, silently then; None where it need not.

    Ask the server for the account of a known key, and wait a few seconds for it; never ask for a key.
    """
    reason = _why_offline()
    if reason is not None:
        os.environ.setdefault("WANDB_SILENT", "true")
    return reason


def wandb_refusal(begin: Callable[[], object]) -> str | None:
    """Return why the server of W&B does not let a run begin; None if ``begin`` could begin it."""
    try:
        begin()
    except Exception as error:  # W&B has several families of them; what is wrong here, a run offline meets again
        import wandb  # slow

        wandb.teardown()  # its process holds the run's id
        os.environ.setdefault("WANDB_SILENT", "true")
        return described(error)
    return None


def _why_offline() -> str | None:
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "dryrun"):
        return f"WANDB_MODE={mode}"
    if mode == "disabled":
        return None
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    key = os.environ.get("WANDB_API_KEY") or _netrc_key(urlparse(server).netloc)
    return _why_unreachable(server.rstrip("/"), key) if key else "no API key"


def _netrc_key(host: str) -> str | None:
    try:
        login = netrc.netrc(os.environ.get("NETRC") or None).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return login[2] if login is not None else None


def _why_unreachable(server: str, key: str) -> str | None:
    """Return why runs cannot go to a server of W&B with a key; None if they can."""
    import requests  # W&B's own client comes with it

    try:
        answer = requests.post(
            f"{server}/graphql",
            json={"query": "query Viewer { viewer { id } }"},
            auth=("api", key),
            timeout=_WANDB_PATIENCE,
            headers={"Connection": "close"},
        )
        known = answer.ok and bool((answer.json().get("data") or {}).get("viewer"))
    except (OSError, ValueError, AttributeError) as error:  # no connection; no JSON; JSON of something else
        return f"no connection to {server}: {type(error).__name__}"
    if known:
        # what is left on the disk when they run out is uploaded with `wandb sync`
        os.environ.setdefault("WANDB_INIT_TIMEOUT", "20")
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", "60")
        return None
    refused = answer.ok or answer.status_code in (401, 403)
    return f"{server} does not know the API key" if refused else f"{server} answers {answer.status_code}"


def say_offline(folder: Path, reason: str) -> None:
    """Print one line: why W&B ran offline, where the run is, how to view and to upload it."""
    runs = sorted(folder.glob("wandb/offline-run-*"))
    where = shlex.quote(str(runs[-1] if runs else folder / "wandb"))
    print(printable(f"W&B ran offline ({reason}): view with `wandb leet {where}`, upload with `wandb sync {where}`"))


def make_writable(folder: Path, name: str) -> None:
    """Create a folder, or raise ValueError naming the argument if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}.partial"  # several processes may try at once
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{name} must be a folder that can be written to, got {folder}: {reason}") from error


@contextmanager
def interruptible() -> Iterator[None]:
    """End on Ctrl-C with one line and exit code 1, and on SIGTERM, which cluster managers send before they kill.

    Lightning's own handler waits for the end of a prediction; it leaves one alone that is there already.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main_thread else None
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; nothing that was finished is lost", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def end_with_parent() -> None:
    """Let the kernel end a process that Lightning has launched when the process that launched it ends, however.

    Orphans would go on in a folder that nobody holds locked any more. Elsewhere than on Linux nothing happens.
    """
    if "LOCAL_RANK" not in os.environ or os.environ["LOCAL_RANK"] == "0":
        return
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError, TypeError):
        return
    pr_set_pdeathsig = 1  # from linux/prctl.h
    prctl(pr_set_pdeathsig, int(signal.SIGKILL))


def end_with_children(state: RunState) -> None:
    """Let a process whose launched processes have failed end with one line and code 2.

    Lightning looks after them every few seconds, and would kill it without a word.
    """
    from lightning.fabric.strategies.launchers import subprocess_script

    def terminate(observer: Any) -> None:  # noqa: ANN401  # of a private class
        time.sleep(_PATIENCE)
        print(f"error: {'; '.join([_OTHER_PROCESS, *state.said()])}", file=sys.stderr, flush=True)
        for process in observer._child_processes:
            process.kill()
        os._exit(2)

    logging.getLogger(subprocess_script.__name__).setLevel(logging.WARNING)
    subprocess_script._ChildProcessObserver._terminate_all = terminate  # type: ignore[method-assign]


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next forward pass instead of returning it to the kernel after each.

    On a CPU, getting the activations' pages back can cost a third of a forward pass; benchmarks/throughput.py
    shows the ratio. Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    m_trim_threshold, m_mmap_max = -1, -4  # from glibc's malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def quiet_libraries() -> None:
    """Keep the terminal for what the user asked for: no hints and advertisements of libraries."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.accelerators").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.trainer.connectors.signal_connector").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists.*")  # config.yaml is there already
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")  # a run that goes on
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # metrics sync
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
