"""Errors of the user in one line."""

from __future__ import annotations

import re
import sys
import sysconfig
import tempfile
import traceback
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

# Top-level modules of this project: what others raise is a stranger's.
_OURS = {
    *("__main__", "benchmarks", "callbacks", "center_smoothing", "certification", "certify", "command_line"),
    *("datamodules", "examples", "experiments", "lightning_modules", "results", "train", "training"),
}
# What reads arguments, and says in its own words what is wrong with them.
_PARSERS = {"argparse", "jsonargparse", "lightning"}
# What signs in a message of PyTorch mean for a model.
_ADVICE = {
    "does not have a grad_fn": "a model that needs gradients must compute them under `with torch.enable_grad():` in "
    "its forward, as it is called without",
    "view size is not compatible": "a model that needs contiguous memory is certified with --channels-last=false",
}
OTHER_PROCESS = "another process has ended before its work was done"
_TRACEBACK = "traceback.txt"
# Characters of a message that go on the terminal.
_MAX_MESSAGE = 500

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
    r"""Escape control characters, which may come from a stranger's file, so that they cannot act on the terminal.

    Example:
        >>> print(printable("\x1b[2Jtwo\nlines"))
        \x1b[2Jtwo\nlines
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


@dataclass
class RunState:
    """What a script knows of its run, in case that it fails."""

    folder: Path | None = None  # that a traceback is written to; None: the folder for temporary files
    kept: Callable[[], str] | None = None  # says what is not lost; None: nothing was there to lose

    def describe_kept(self) -> list[str]:
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
        parts = [describe_error(error), *state.describe_kept()]
        if not is_refusal(error):
            if _is_fault_of_ours(error):
                parts.append("this looks like a fault of Center Smoothing itself: please report it")
            path = _write_traceback(error, state.folder)
            parts += [] if path is None else [f"the traceback is in {path}"]
        fail("; ".join(parts))
    if state.folder is not None:
        with suppress(OSError):
            (state.folder / _TRACEBACK).unlink(missing_ok=True)  # of an earlier try


def describe_error(error: BaseException) -> str:
    """Return an error in one line: the class, unless the message is this project's own, the message, and advice."""
    if _is_of_another_process(error):
        return OTHER_PROCESS
    text, name = str(error).strip(), type(error).__name__
    if speaks_for_itself(error):
        return one_line(text) or name
    cause = next((each for each in _chain(error) if _innermost(each) not in _PARSERS), error)
    if cause is not error:  # the parser has put another class in its place
        flag = re.match(r"--\S+", one_line(text))
        return (f"{flag[0]} leads to " if flag and not speaks_for_itself(cause) else "") + describe_error(cause)
    if "(most recent call last)" in text:  # of a process that loads data, or of TorchScript: the reason stands last
        text = text.splitlines()[-1].strip()
    else:
        text = one_line(text.split("\n\n")[0])
    text = text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."
    text = text if text.startswith(f"{name}:") else f"{name}: {text}" if text else name
    return text + next((f"; {advice}" for sign, advice in _ADVICE.items() if sign in str(error)), "")


@contextmanager
def value_errors(message: str) -> Iterator[None]:
    """Turn whatever a model raises, such as for shapes that don't fit, and what cannot be compiled into ValueErrors."""
    try:
        yield
    except Exception as error:  # a model may raise anything
        if speaks_for_itself(error):
            raise
        raise ValueError(f"{message}: {describe_error(error)}") from error


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
    # gloo raises a RuntimeError with its own source file's name, the others children of PyTorch's DistError, which is
    # known by its name, as to import PyTorch takes seconds
    return any(kind.__name__ == "DistError" for kind in type(error).__mro__) or "gloo/transport" in str(error)


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
    r"""Join a message of several lines, jsonargparse's above all, into one, with the arguments as one types them.

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
