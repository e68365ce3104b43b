"""
Parse a Structured Fields dictionary (RFC 9651, section 4.2.2), as far as directives need it.

The values of inner lists and parameters are checked, and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: A bare item. Bytes, dates, decimals and display strings are no argument of any directive: None.
Item = bool | int | str | None

_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_NUMBER = re.compile(r"-?(?:[0-9]{1,12}\.[0-9]{1,3}|[0-9]{1,15})(?![0-9.])")
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*")
_BYTES = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_BOOLEAN = re.compile(r"\?([01])")
_DATE = re.compile(r"@-?[0-9]{1,15}(?![0-9.])")
_DISPLAY = re.compile(r'%"((?:[ !#$&-~]|%[0-9a-f]{2})*)"')


class StructuredFieldError(ValueError):
    """A field that is no dictionary: it is ignored as a whole."""


def parse_dictionary(lines: Iterable[bytes]) -> dict[str, Item]:
    """Return the members of a dictionary; raise `StructuredFieldError` if the field is none."""
    try:
        text = b",".join(lines).decode("ascii").strip(" ")
    except UnicodeDecodeError:
        raise StructuredFieldError("not ASCII") from None
    members: dict[str, Item] = {}
    scan = _Scanner(text)
    while not scan.is_at_end:
        key = scan.take(_KEY)[0]
        # The last of several members of one name counts, at its own place.
        members.pop(key, None)
        members[key] = scan.member_value() if scan.skip("=") else True
        scan.parameters()
        scan.blank(" \t")
        if scan.is_at_end:
            break
        if not scan.skip(","):
            raise StructuredFieldError("a comma is missing")
        scan.blank(" \t")
        if scan.is_at_end:
            raise StructuredFieldError("a comma at the end")
    return members


class _Scanner:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._text)

    def blank(self, characters: str) -> None:
        while not self.is_at_end and self._text[self._at] in characters:
            self._at += 1

    def skip(self, character: str) -> bool:
        """Step over a character; return whether it was there."""
        found = self._text.startswith(character, self._at)
        self._at += found
        return found

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise StructuredFieldError(f"malformed at {self._at}")
        self._at = match.end()
        return match

    def member_value(self) -> Item:
        if not self.skip("("):
            return self.item()
        while True:
            self.blank(" ")
            if self.skip(")"):
                return None
            self.item()
            self.parameters()
            if not self._text.startswith((" ", ")"), self._at):
                raise StructuredFieldError("malformed inner list")

    def parameters(self) -> None:
        while self.skip(";"):
            self.blank(" ")
            self.take(_KEY)
            if self.skip("="):
                self.item()

    def item(self) -> Item:
        first = self._text[self._at : self._at + 1]
        if first == "?":
            return self.take(_BOOLEAN)[1] == "1"
        if first == '"':
            return re.sub(r"\\(.)", r"\1", self.take(_STRING)[1])
        if first.isdigit() or first == "-":
            number = self.take(_NUMBER)[0]
            return None if "." in number else int(number)
        if first.isalpha() or first == "*":
            return self.take(_TOKEN)[0]
        other = {":": _BYTES, "@": _DATE, "%": _DISPLAY}.get(first)
        if other is None:
            raise StructuredFieldError("no value")
        self.take(other)
        return None
