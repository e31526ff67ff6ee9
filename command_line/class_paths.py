"""Which classes a configuration file may name: this project's and Lightning's, unless the user trusts the file."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import _common, _loaders_dumpers, set_parsing_settings

from command_line.flags import nearest

# What a file may name. Of Lightning, what a Trainer is made of.
_ALLOWED = (
    *("callbacks", "center_smoothing", "datamodules", "lightning_modules"),
    *("lightning.fabric.plugins", "lightning.pytorch.accelerators", "lightning.pytorch.callbacks"),
    *("lightning.pytorch.loggers", "lightning.pytorch.plugins", "lightning.pytorch.profilers"),
    "lightning.pytorch.strategies",
)
# Arguments that take a class: what is typed for them is imported in any case.
_TAKE_A_CLASS = re.compile(
    r"--(model|data|center_smoothing\.distance|trainer\.(accelerator|callbacks|logger|plugins|profiler|strategy)"
    r"|.*\.class_path)\+?"
)
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")
_NOT_ACCEPTED = re.compile(r"class(?:_path)? '([\w.]+)':\W+(?:Option|Key) '(\w+)' is not accepted")
_FILE_NAME = re.compile(r"[^\s'\",:\[\]{}]+\.(?:ya?ml|json)\b")

# Of a configuration, far beyond any that is meant.
_MAX_CHARACTERS = 1_000_000
_MAX_VALUES = 100_000
_MAX_LEVELS = 40


@contextmanager
def restricted(words: Sequence[str]) -> Iterator[None]:
    """Parse and instantiate here what may come from a stranger's file.

    Class paths in files are imported only if they are this project's or Lightning's, or if ``--trust`` is among the
    words. Class paths among the words themselves are the user's own: they are imported too. YAML that would fill the
    memory is refused in any case. All of it ends with the block, as jsonargparse's settings are global.

    Args:
        words: of the command line.

    Raises:
        ValueError: for another class path in a file, with its name, the file, and what ``--trust`` would do; for YAML
            that is too large, too deep, or contains itself.
    """
    trusted = bool({"--trust", "--trust=true"} & set(words))  # a file cannot say that it is to be trusted
    verdicts, enforced = (_common.parsing_settings[name] for name in ("import_path_verdicts", "import_paths_enforced"))
    load = _loaders_dumpers.yaml_load
    try:
        # both places: values inside a file are YAML again
        _loaders_dumpers.yaml_load = _loaders_dumpers.loaders["yaml"] = _load
        allowed = [] if trusted else [*_ALLOWED, *typed_names(words)]
        set_parsing_settings(import_path_denylist=[] if trusted else ["*"], import_path_allowlist=allowed)
        yield
    except (argparse.ArgumentError, argparse.ArgumentTypeError, ValueError, TypeError) as error:
        denied = _DENIED.search(str(error))
        if denied is None:
            raise
        path = denied[1]
        raise ValueError(
            f"--trust must be given for {_file(words, path)}, which names the class {path}: it is none of this "
            "project, and code of whoever wrote it would run"
        ) from error
    finally:
        _common.parsing_settings.update(import_path_verdicts=verdicts, import_paths_enforced=enforced)
        _loaders_dumpers.yaml_load = _loaders_dumpers.loaders["yaml"] = load


@contextmanager
def parse_errors() -> Iterator[None]:
    """Turn what jsonargparse raises for values that nobody meant into ValueErrors.

    Raises:
        ValueError: for any error but those that bad input raises anyhow.
    """
    try:
        yield
    except (argparse.ArgumentError, argparse.ArgumentTypeError, ValueError, TypeError, OSError) as error:
        unknown = _NOT_ACCEPTED.search(str(error))
        if unknown is None:
            raise
        module, _, name = unknown[1].rpartition(".")
        names = inspect.signature(getattr(import_module(module), name)).parameters
        raise ValueError(f"{unknown[2]} is no argument of {name}{nearest(unknown[2], names)}") from error
    except Exception as error:  # files may hold anything, and lead the parser to raise anything
        raise ValueError(f"--config must be a file with arguments, got one that leads to {error!r:.200}") from error


def typed_names(words: Sequence[str]) -> list[str]:
    """Return the dotted names that the user typed, and where the classes of these names are defined.

    Example:
        >>> typed_names(["--model", "collections.OrderedDict", "--config", "some.yaml", "--sigma=0.25"])
        ['collections.OrderedDict']
    """
    found: dict[str, None] = {}
    flag = ""
    for word in words:
        value = word
        if word.startswith("--"):
            flag, _, value = word.partition("=")
        names = _DOTTED.findall(value) if value[:1] in ("{", "[") else [value] * bool(_DOTTED.fullmatch(value))
        if flag == "--config" or Path(value).is_file():
            continue
        for name in names:
            found[name] = None
            if _TAKE_A_CLASS.fullmatch(flag):
                found.update(dict.fromkeys(_defined_as(name)))
    return [name for name in found if name.split(".")[0] != "jsonargparse"]  # which jsonargparse itself refuses


def import_by_name(name: str, flag: str) -> Any:  # noqa: ANN401  # whatever it is
    """Import what a dotted name that the user typed for a flag leads to; modules may be in the current folder.

    Raises:
        ValueError: if there is no such thing, or if its module does not work.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # a module may raise anything
        raise ValueError(
            f"{flag} must be the name of something that can be imported from here, got {name}: "
            f"{type(error).__name__}: {error}"
        ) from error


def arguments_of(flag: str, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Take the arguments ``flag.NAME`` or ``flag.init_args.NAME`` out of words, read as YAML; return the others too."""
    found, rest, waiting = {}, [], list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith(f"{flag}."):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix(f"{flag}.").removeprefix("init_args.").partition("=")
        found[name] = _load(value if equals else waiting.pop(0) if waiting else "")
    return found, rest


def is_dotted(word: str) -> bool:
    """Return whether a word can be the name of something in a module."""
    return _DOTTED.fullmatch(word) is not None


def is_import(word: str) -> bool:
    """Return whether a word that may be a file or the name of something in a module is the latter: no such file."""
    return is_dotted(word) and not Path(word).exists()


def _defined_as(name: str) -> list[str]:
    """Return the place of a class, which may be another than that of its name."""
    module, _, attribute = name.rpartition(".")
    try:
        kind = getattr(import_module(module), attribute)
        place = f"{kind.__module__}.{kind.__qualname__}"
    except Exception:  # the parser will say what is wrong with it
        return []
    return [place] if _DOTTED.fullmatch(place) else []


def _load(text: str) -> Any:  # noqa: ANN401  # whatever YAML holds
    """Load YAML as jsonargparse does, but bounded.

    Raises:
        yaml.YAMLError: for anything that is no YAML.
        ValueError: for what is too much.
    """
    _check_size(text)
    try:
        return _yaml_load(text)
    except yaml.YAMLError:
        raise
    except Exception as error:  # such as KeyError for "!!bool maybe"
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error


_yaml_load = _loaders_dumpers.yaml_load


def _check_size(text: str) -> None:
    """Count what a document holds once its references are followed, without building it."""
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"YAML must have at most {_MAX_CHARACTERS:,} characters, got {len(text):,}")
    anchors: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0  # of the values so far
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise ValueError(f"YAML must not contain itself, got *{event.anchor} inside of &{event.anchor}")
            count += anchors.get(event.anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                anchors[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                anchors[anchor] = count - before
        if count > _MAX_VALUES or len(open_nodes) > _MAX_LEVELS:
            raise ValueError(f"YAML must have at most {_MAX_VALUES:,} values in at most {_MAX_LEVELS} levels, got more")


def _file(words: Sequence[str], path: str) -> str:
    """Find the file that names a class path, as far as one can tell: on the command line, or named by one there."""
    waiting = [Path(word.partition("=")[2] if word.startswith("--") else word) for word in words]
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop(0)
        if file in seen or not file.is_file() or file.stat().st_size > _MAX_CHARACTERS:
            continue
        seen.add(file)
        text = file.read_text(errors="replace")
        if path in text:
            return str(file)
        waiting += [place / name for name in _FILE_NAME.findall(text) for place in (Path(), file.parent)]
    return "a configuration file"
