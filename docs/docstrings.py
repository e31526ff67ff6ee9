"""Docstrings of this project as mkdocstrings reads them: for the reference in docs/api."""

from __future__ import annotations

import re

import griffe

_ROLE = re.compile(r":(?:class|meth|func|attr|mod|data):(?=`)")
_EXAMPLE = re.compile(r"^( *)Example:$", flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Shows examples as code, and Sphinx's roles, such as :class:`Distance`, as the names that they hold."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite a docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)


def readable(docstring: str) -> str:
    r"""Use the plural ``Examples:``, which alone Griffe knows; another heading would make plain text of the code.

    Example:
        >>> print(readable("A :class:`Distance`.\n\nExample:\n    >>> 1"))
        A `Distance`.
        <BLANKLINE>
        Examples:
            >>> 1
    """
    return _EXAMPLE.sub(r"\1Examples:", _ROLE.sub("", docstring))
