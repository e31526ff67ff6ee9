"""Flags as they are typed: hyphens and underscores are the same, and an unknown one is told the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

from jsonargparse import ArgumentParser
from jsonargparse._actions import _ActionConfigLoad


def package_version() -> str:
    """Return the version of the package; "unknown" where it is not installed."""
    try:
        return version("center-smoothing")
    except PackageNotFoundError:
        return "unknown"


def spelled(words: Sequence[str], parser: ArgumentParser) -> list[str]:
    """Return the words of a command line with each flag in the parser's own spelling.

    Args:
        words: of the command line.
        parser: knows the flags. Those of a class, such as ``--model.width``, need only its flag ``--model``.

    Raises:
        ValueError: for a flag that the parser does not know, with the nearest one that it does.

    Example:
        >>> parser = ArgumentParser(prog="some.py")
        >>> _ = parser.add_argument("--num-examples"), parser.add_argument("--alpha1"), parser.add_argument("--model")
        >>> spelled(["--num_examples=3", "--alpha-1", ".1", "--model.latent-dim=8"], parser)
        ['--num-examples=3', '--alpha1', '.1', '--model.latent_dim=8']
        >>> spelled(["--num-exampels=3"], parser)
        Traceback (most recent call last):
        ValueError: --num-exampels is no flag of some.py: the nearest is --num-examples, and --help lists them
    """
    actions = parser._option_string_actions
    classes = {flag for flag, action in actions.items() if not isinstance(action, _ActionConfigLoad)}
    return [_spelled(word, list(actions), classes, parser.prog) if _is_flag(word) else word for word in words]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return words that name the one of several that looks most like a name; nothing where none does."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f": the nearest is {found[0]}" if found else ""


def _is_flag(word: str) -> bool:
    return word.startswith("--") and word != "--"


def _spelled(word: str, known: Sequence[str], classes: set[str], prog: str) -> str:
    flag, equals, value = word.partition("=")
    if flag in known:
        return word
    names = {_letters(each): each for each in known}
    begins = {each for each in known if _letters(each).startswith(_letters(flag))}
    head = next((each for each in _heads(flag) if names.get(_letters(each)) in classes), None)
    if _letters(flag) in names:
        flag = names[_letters(flag)]
    elif head is not None:  # an argument of a class, which is a name of Python
        flag = names[_letters(head)] + flag.removeprefix(head).replace("-", "_")
    elif len(begins) == 1:
        (flag,) = begins
    elif not begins:
        raise ValueError(f"{flag} is no flag of {prog}{nearest(flag, known)}, and --help lists them")
    return flag + equals + value


def _letters(flag: str) -> str:
    """Return what tells flags apart."""
    return flag.replace("-", "").replace("_", "")


def _heads(flag: str) -> list[str]:
    """Return what stands before each dot, the longest first."""
    parts = flag.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
