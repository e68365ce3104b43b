"""
Cache-Control and the fields that are written alike (RFC 9111, section 5.2).

What a directive allows counts only if the directive is well formed. What it forbids counts even if
separators and quotes around it break the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stream_cached.http.headers import cache_directives, header_values, list_members

#: What a longer time counts as (RFC 9111, section 1.2.2).
MAX_SECONDS = 2**31

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'

#: A member of a list: what stands between two commas that are in no quoted string.
_MEMBER = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"|"(?:[^"\\]|\\.)*\\?\Z)+', re.DOTALL)

#: A directive by the grammar (RFC 9111, section 5.2), in lower case.
_WELL_FORMED = re.compile(rf"({_TOKEN})(?:=(?:({_TOKEN})|({_QUOTED})))?", re.DOTALL)

#: Fields that a response can't do without: what names one of them counts without its names.
_NEEDED = frozenset({"cache-control", "content-encoding", "content-type", "vary"})


@dataclass(frozen=True, slots=True)
class Directives:
    """The directives of one field, by their lower-cased names."""

    well_formed: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    """The arguments, one for each time that a directive is given; None without one."""
    named: frozenset[str] = frozenset()
    """The names that are there in whatever form."""
    is_targeted: bool = False
    """Whether they are those of a field that is for this cache (RFC 9213)."""

    def allows(self, name: str) -> bool:
        """Whether a directive that allows something is given."""
        return name in self.well_formed

    def forbids(self, *names: str) -> bool:
        """Whether one of the directives that forbid something is given."""
        return not self.named.isdisjoint(names)

    def seconds(self, name: str) -> int | None:
        """
        Return the number of seconds of a directive; None if the directive is not given.

        A directive given twice has the smaller number, one without a valid number has 0 (RFC 9111,
        section 4.2.1).
        """
        if name not in self.named:
            return None
        arguments = [delta_seconds(each or "") for each in self.well_formed.get(name, ())]
        numbers = [each for each in arguments if each is not None]
        return min(numbers) if numbers and len(numbers) == len(arguments) else 0

    @property
    def lifetime(self) -> int | None:
        """
        The seconds for which a shared cache may take the response for fresh; None if they are not
        given (RFC 9111, section 4.2.1).
        """
        seconds = self.seconds("s-maxage")
        return self.seconds("max-age") if seconds is None else seconds

    def fields(self, name: str) -> frozenset[str] | None:
        """
        Return the fields to which `private` or `no-cache` is confined.

        None if the directive is not given, or holds for the whole response (RFC 9111, sections
        5.2.2.4 and 5.2.2.7).
        """
        if name not in self.named:
            return None
        found: set[str] = set()
        for argument in self.well_formed.get(name, (None,)):
            fields = list_members([(argument or "").encode("latin-1")])
            if not fields or not all(re.fullmatch(_TOKEN, each) for each in fields):
                return None
            found.update(fields)
        return None if found & _NEEDED else frozenset(found)

    def holds(self, name: str) -> bool:
        """Whether `private` or `no-cache` is given for the whole response."""
        return name in self.named and self.fields(name) is None


NO_DIRECTIVES = Directives()


def directives_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> Directives:
    """Return the directives of a header field, which may have several lines."""
    lines = header_values(headers, name)
    return parse(lines) if lines else NO_DIRECTIVES


def parse(lines: Iterable[bytes]) -> Directives:
    """Parse the lines of a field. Nothing that a line holds is an error."""
    well_formed: dict[str, list[str | None]] = {}
    named: set[str] = set()
    for line in lines:
        text = line.decode("latin-1").lower()
        named.update(cache_directives([line]))
        for member in _MEMBER.finditer(text):
            match = _WELL_FORMED.fullmatch(member[0].strip(" \t"))
            if match is not None:
                well_formed.setdefault(match[1], []).append(_argument(match))
    # What only the grammar shows is there as well.
    return Directives(well_formed, frozenset(named | well_formed.keys()))


def _argument(match: re.Match[str]) -> str | None:
    token, quoted = match[2], match[3]
    return token if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL)


def delta_seconds(text: str) -> int | None:
    """Return a number of seconds (RFC 9111, section 1.2.2); None if it is none."""
    if not text or not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    # Python refuses to parse thousands of digits.
    return min(int(digits or "0"), MAX_SECONDS) if len(digits) <= 10 else MAX_SECONDS
