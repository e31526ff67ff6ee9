"""Types of arguments: each takes what is typed or stands in a file, or says what would work."""

from __future__ import annotations

import math
import re
from argparse import Action, ArgumentTypeError
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter

T = TypeVar("T")
_Adders = tuple[Callable[..., Any], Callable[..., None], Callable[..., None]]

# Types in help, in words; of a text there is nothing to say.
_WORDS: dict[str, str | None] = {"str": None, "str | null": None, "int": "whole number", "bool": "true or false"}
_NO_DEFAULT = re.compile(r"(, | \()default: %\(default\)s\)$")
# Of the units of --time-limit.
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class ArgumentType(Generic[T]):
    """A type of an argument, named in ``--help``.

    Args:
        flag: the argument.
        wanted: what it takes, in words; what follows "such as" is for errors alone.
        convert: from what is given to what it means; None if it cannot be taken.
    """

    def __init__(self, flag: str, wanted: str, convert: Callable[[object], T | None]) -> None:
        self.flag, self.wanted, self.convert = flag, wanted, convert

    def __call__(self, value: object) -> T:
        """Convert a value, or raise ArgumentTypeError."""
        converted = self.convert(value)
        if converted is None:
            raise ArgumentTypeError(f"{self.flag} must be {self.wanted}, got {value!r}")
        return converted

    def __repr__(self) -> str:
        return self.wanted.partition(" such as")[0].removeprefix("a ")


class HelpFormatter(DefaultHelpFormatter):
    """Shows types in words and no defaults that are none, and keeps the lines of what follows the flags."""

    def __init__(self, prog: str, **given: Any) -> None:  # noqa: ANN401  # of argparse
        super().__init__(prog, max_help_position=28, **given)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)

    def _get_type_str(self, action: Action) -> str | None:
        text = super()._get_type_str(action)
        return _WORDS.get(text, text) if text else None

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action)
        return text if action.default is not None and action.nargs != 0 else _NO_DEFAULT.sub(_closed, text)


def _closed(found: re.Match[str]) -> str:
    return ")" if found[1] == ", " else ""


class Parser(ArgumentParser):
    """A parser whose errors name the flag as it is typed."""

    def __init__(self, **given: Any) -> None:  # noqa: ANN401  # of jsonargparse
        super().__init__(**{"formatter_class": HelpFormatter, **given})

    def add_group(self, title: str) -> _Adders:
        """Add a group of flags, and return what adds a flag to it."""
        return _adders(self.add_argument_group(title))

    def end_with(self, title: str) -> _Adders:
        """Put ``--help`` and its like behind all groups so far, under a title, and return what adds more to them."""
        self._optionals.title = title
        self._action_groups = sorted(self._action_groups, key=lambda group: group is self._optionals)
        return _adders(self)


def _adders(group: Any) -> _Adders:  # noqa: ANN401  # of argparse
    """Return ``add_argument``, and what adds a flag of one of the types below, and one of a few words."""
    add: Callable[..., Any] = group.add_argument

    def add_typed(flag: str, kind: Callable[[str], ArgumentType[Any]], **given: Any) -> None:  # noqa: ANN401
        add(flag, type=kind(flag), **given)

    def add_choice(flag: str, options: Iterable[str], default: str | None, help: str) -> None:
        add(flag, type=choice(flag, *dict.fromkeys(options)), default=default, help=help)

    return add, add_typed, add_choice


def positive_number(name: str) -> ArgumentType[float]:
    """Return the type of an argument that takes a finite number above 0."""
    return ArgumentType(name, "a positive number such as 0.25", lambda value: _number(value, above=0.0))


def radius(name: str) -> ArgumentType[float]:
    """Return the type of an argument that takes a finite number of at least 0."""
    return ArgumentType(name, "a number of at least 0 such as 0.5", lambda value: _number(value, least=0.0))


def count(name: str) -> ArgumentType[int]:
    """Return the type of an argument that takes a whole number of at least 1, also as 1e4 or 10_000."""
    return ArgumentType(name, "a whole number of at least 1", _count)


def counts(name: str) -> ArgumentType[list[int]]:
    """Return the type of an argument that takes one or several whole numbers of at least 1: see :func:`join_values`."""
    one = count(name)

    def convert(value: object) -> list[int]:
        values = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
        return [one(each) for each in values]

    return ArgumentType(name, "one or several whole numbers of at least 1", convert)


def _folders(value: object) -> list[str] | None:
    values: list[Any] = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str) for each in values):
        return None
    return [folder for each in values for folder in each.split("\0")]


def join_values(words: Sequence[str], flag: str, by: str = ",") -> list[str]:
    """Return command-line words in which the values that follow a flag are one word.

    jsonargparse's ``nargs="+"`` would refuse a single value in a YAML file.
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
    """
    arguments: list[list[str]] = []
    for word in words:
        if not arguments or word.startswith(("--", "-c")):
            arguments.append([])
        arguments[-1].append(word)
    return [word for argument in sorted(arguments, key=_turn) for word in argument]


def _turn(argument: Sequence[str]) -> int:
    """Return when an argument, the words from one flag to the next, is to be parsed."""
    flag = argument[0].partition("=")[0]
    if flag.startswith("-c") or (len(flag) > len("--c") and "--config".startswith(flag)):  # it may be abbreviated
        return 0
    return 2 if "." in flag else 1


def time_span(name: str) -> ArgumentType[float]:
    """Return the type of an argument that takes a time above 0, in seconds or with a unit: 90, 90s, 30m, 1.5h."""

    def convert(value: object) -> float | None:
        text = str(value)
        unit = _SECONDS.get(text[-1:])
        number = _number(value if unit is None else text[:-1], above=0.0)
        return None if number is None else number * (unit or 1.0)

    return ArgumentType(name, "a time such as 90s, 30m or 2h", convert)


def choice(name: str, *options: str) -> ArgumentType[str]:
    """Return the type of an argument that takes one of a few words."""
    return ArgumentType(name, f"one of {', '.join(options)}", lambda value: str(value) if value in options else None)


def _number(value: object, *, above: float = -math.inf, least: float = -math.inf) -> float | None:
    """Return a finite number within its limits, or None."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if above < number < math.inf and number >= least else None


def _count(value: object) -> int | None:
    number = _number(value, least=1.0)
    return int(number) if number is not None and number < 2**63 and number == int(number) else None


def _word_or_count(name: str, word: str) -> ArgumentType[int | str]:
    wanted = f"{word} or a whole number of at least 1"
    return ArgumentType(name, wanted, lambda value: word if value == word else _count(value))


def _auto_or_positive(value: object) -> float | str | None:
    return "auto" if value == "auto" else _number(value, above=0.0)


# The types of the arguments of these names.
batch_size = _word_or_count("--batch-size", "auto")
clip_norm = ArgumentType[float | str]("--clip-norm", "auto or a positive number", _auto_or_positive)
group = _word_or_count("--group", "auto")
num_examples = _word_or_count("--num-examples", "all")
folders = ArgumentType("--from", "one or several folders", _folders)
