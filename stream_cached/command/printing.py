"""Plain text for a terminal of 80 columns."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from typing import TextIO

WIDTH = 80

#: Where the second column begins.
_INDENT = 12

_RED, _BOLD, _PLAIN = "\x1b[31m", "\x1b[1m", "\x1b[0m"


def labelled(label: str, text: str, *, indent: int = 2) -> Iterator[str]:
    """Yield the lines of a text beside its label."""
    first = f"{'':{indent}}{label}".ljust(_INDENT)
    lines = textwrap.wrap(
        text, WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False
    ) or [""]
    yield f"{first}{lines[0]}".rstrip()
    yield from (f"{'':{_INDENT}}{line}" for line in lines[1:])


def counted(number: int, noun: str) -> str:
    """Return a number and a noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Colours:
    """Marks what is important, where the output is a terminal that wants colours."""

    def __init__(self, output: TextIO | None = None) -> None:
        output = output or sys.stdout
        dumb = os.environ.get("TERM") == "dumb"
        self._is_on = output.isatty() and not os.environ.get("NO_COLOR") and not dumb

    def bold(self, line: str) -> str:
        """Return the head of a paragraph."""
        return f"{_BOLD}{line}{_PLAIN}" if self._is_on else line

    def finding(self, line: str) -> str:
        """Return the line of a finding."""
        return f"{_RED}{line}{_PLAIN}" if self._is_on else line
