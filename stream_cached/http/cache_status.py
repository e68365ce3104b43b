"""The Cache-Status header field (RFC 9211)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from stream_cached.http.reasons import NotCached

#: The name of this cache.
NAME = "stream-cached"

#: The members of a list, and the parameters of a member: commas and semicolons in texts are none.
_MEMBERS = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^",])+')
_PARAMETERS = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^";])+')

_BY_WORD = {reason.word: reason for reason in NotCached}


# Of what a process says there are few.
@functools.lru_cache(maxsize=1024)
def cache_status(
    *,
    hit: bool = False,
    ttl: int | None = None,
    fwd: str = "",
    fwd_status: int | None = None,
    stored: bool = False,
    collapsed: bool = False,
    detail: str = "",
) -> str:
    """Build this cache's member of Cache-Status (RFC 9211, section 2)."""
    parts = [NAME]
    if hit:
        parts.append("hit")
    if ttl is not None:
        parts.append(f"ttl={ttl}")
    if fwd:
        parts.append(f"fwd={fwd}")
    if fwd_status is not None:
        parts.append(f"fwd-status={fwd_status}")
    if stored:
        parts.append("stored")
    if collapsed:
        parts.append("collapsed")
    if detail:
        parts.append(f'detail="{detail}"')
    return "; ".join(parts)


@dataclass(frozen=True)
class MemberRead:
    """This cache's member of a Cache-Status that was received."""

    text: str
    """The whole field, as it was sent."""
    parameters: Mapping[str, str | bool] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Return the member; None if there is none."""
        found = None
        for member in _MEMBERS.findall(text):
            name, *rest = (each.strip() for each in _PARAMETERS.findall(member))
            # The last one is nearest to the client.
            if name.strip('"') == NAME:
                found = cls(text, dict(map(_parameter, rest)))
        return found

    @property
    def is_hit(self) -> bool:
        """Whether the response came from the cache."""
        return bool(self.parameters.get("hit"))

    @property
    def is_collapsed(self) -> bool:
        """Whether the response is that of a run for another request."""
        return bool(self.parameters.get("collapsed"))

    @property
    def is_stored(self) -> bool:
        """Whether the response was going to be stored."""
        return bool(self.parameters.get("stored"))

    @property
    def forwarded(self) -> str:
        """Why the request was not answered from the cache."""
        return str(self.parameters.get("fwd", ""))

    @property
    def reasons(self) -> Sequence[NotCached]:
        """Why the response is not stored."""
        if self.forwarded == "method":
            return [NotCached.METHOD]
        words = str(self.parameters.get("detail", "")).split(", ")
        return [_BY_WORD[word] for word in words if word in _BY_WORD]


def _parameter(text: str) -> tuple[str, str | bool]:
    name, is_given, value = text.partition("=")
    if not is_given:
        return name, True
    return name, re.sub(r"\\(.)", r"\1", value.strip()[1:-1]) if '"' in value else value.strip()
