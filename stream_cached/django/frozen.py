"""Header fields of a response that stay as they are, whatever middleware does."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from django.core.signals import setting_changed
from django.http.response import HttpResponseBase, ResponseHeaders

from stream_cached.checks import require
from stream_cached.errors import StreamCachedError

logger = logging.getLogger("stream_cached")

Fields = Sequence[tuple[bytes, bytes]]

#: Tells, in what is stored, which fields are frozen. It is never sent.
MARK = b"x-stream-cached-frozen"

_CODING = "content-encoding"

#: Fields that belong to the body that is sent, which may be a part, or none.
_OF_BODY = frozenset({"content-length", "content-range", "content-type", "transfer-encoding"})

#: Modules that change a field for someone else.
_GO_BETWEENS = (__name__, "django.http.response", "django.utils.cache")

#: How often it was warned of what: the same middleware sees each response.
_warned: Counter[tuple[str, ...]] = Counter()
_MOST_WARNINGS = 1024

#: Warnings of what one place does outside of a request: nothing says whether it is the same again.
_MOST_OUTSIDE = 10

#: Conditions of a request that nothing is compared with if a field is frozen while it is absent.
_CONDITIONS = {
    "etag": frozenset({b"if-match", b"if-none-match"}),
    "last-modified": frozenset({b"if-modified-since", b"if-unmodified-since"}),
}


class FrozenHeaderError(StreamCachedError):
    """Something sets or deletes a field that is frozen, with `strict=True`."""


@dataclass(frozen=True)
class _Frozen:
    """One frozen field."""

    name: str
    value: str | None
    """What it is; None if it is absent."""
    strict: bool
    by: str
    """The code that has frozen it."""
    warned: set[str] = field(default_factory=set, compare=False)
    """Who has tried to change it."""


class FrozenHeaders(ResponseHeaders):
    """The headers of a response, some of which are frozen."""

    _store: dict[str, tuple[str, str]]
    frozen: dict[str, _Frozen]

    def __setitem__(self, key: Any, value: Any) -> None:
        frozen = self._frozen_as(key)
        if frozen is None:
            super().__setitem__(key, value)
        elif _text(value) != frozen.value:
            _drop(frozen, "sets")

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def pop(self, key: str, default: Any = None) -> Any:
        frozen = self._frozen_as(key)
        if frozen is None:
            return super().pop(key, default)
        if frozen.value is None:
            return default
        _drop(frozen, "deletes")
        return self._store[key.lower()]

    def setdefault(self, key: str, value: Any) -> None:
        if key.lower() not in self._store:
            self[key] = value

    def __contains__(self, key: object) -> bool:
        # What compresses a body asks for this one, and passes by.
        return isinstance(key, str) and (key.lower() in self._store or self._has_coding(key))

    def __getitem__(self, key: str) -> str:
        # What has asked may read it, too.
        if key.lower() not in self._store and self._has_coding(key):
            return "identity"
        value: str = super().__getitem__(key)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key.lower() in self._store else default

    def _has_coding(self, key: str) -> bool:
        return key.lower() == _CODING and _CODING in self.frozen

    def _frozen_as(self, key: object) -> _Frozen | None:
        return self.frozen.get(_text(key).lower())


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def freeze_header(response: HttpResponseBase, name: str, strict: bool = False) -> None:
    """
    Keep a field of a response as it is now, or absent if it is.

    Whatever sets or deletes it later has no effect, and one warning says who it was.

    Args:
        response: The response; it need not be one of a decorated view.
        name: The name of the field.
        strict: Whether to raise `FrozenHeaderError` instead of the warning.
    """
    require(
        isinstance(name, str) and name.strip() == name != "",
        f'name={name!r}: pass the name of a header, as in freeze_header(response, "ETag")',
    )
    _freeze(response, name, strict=strict, by=_place(sys._getframe(1)))


def header_is_frozen(response: HttpResponseBase, name: str) -> bool:
    """
    Whether a field of a response is frozen.

    Args:
        response: The response.
        name: The name of the field.
    """
    return name.lower() in frozen_in(response)


def frozen_in(response: HttpResponseBase) -> dict[str, _Frozen]:
    """Return the frozen fields of a response, by lower-cased names."""
    headers: Any = response.headers
    return headers.frozen if isinstance(headers, FrozenHeaders) else {}


def _freeze(response: HttpResponseBase, name: str, *, strict: bool, by: str) -> None:
    headers: Any = response.headers
    if not isinstance(headers, FrozenHeaders):
        made = FrozenHeaders({})
        made._store, made.frozen = headers._store, {}
        response.headers = headers = made
    value = headers._store.get(name.lower(), (name, None))[1]
    headers.frozen[name.lower()] = _Frozen(name, value, strict, by)


def thaw_coding(response: HttpResponseBase) -> None:
    """Let a response have no Content-Encoding."""
    headers: Any = response.headers
    frozen = frozen_in(response).get(_CODING)
    if frozen is not None and frozen.value is not None:
        del headers.frozen[_CODING]
    headers.pop("Content-Encoding", None)


# -- in what is stored --------------------------------------------------------------------------


def marked(response: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    """Return the fields that tell the cache what is frozen."""
    fields = frozen_in(response)
    if not fields:
        return []
    told = [[each.name, each.value, each.strict, each.by] for each in fields.values()]
    return [(MARK, json.dumps([response.status_code, told]).encode("ascii"))]


def freeze_again(response: HttpResponseBase, mark: bytes) -> None:
    """Freeze the fields of a response that were frozen in the one that is stored."""
    status, told = json.loads(mark)
    is_whole = response.status_code == status
    store: Any = response.headers
    for name, value, strict, by in told:
        if not is_whole and name.lower() in _OF_BODY:
            continue
        if value is None:
            store.pop(name, None)
        elif is_whole or name in response.headers:
            response.headers[name] = value
        _freeze(response, name, strict=strict, by=by)


def heeded(asked: Fields, stored: Fields) -> Fields:
    """Return those fields of a request that a stored response may be compared with."""
    mark = next((value for name, value in stored if name == MARK), None)
    if mark is None:
        return asked
    absent = {name.lower() for name, value, _, _ in json.loads(mark)[1] if value is None}
    names = {name.lower() for name, _ in asked}
    unheeded: set[bytes] = set()
    for each in absent & _CONDITIONS.keys():
        unheeded |= _CONDITIONS[each]
    if "etag" in absent:
        # A date does not count beside a tag.
        unheeded |= {b"if-modified-since"} if b"if-none-match" in names else set()
        unheeded |= {b"if-unmodified-since"} if b"if-match" in names else set()
    return [line for line in asked if line[0].lower() not in unheeded]


# -- who it was ---------------------------------------------------------------------------------


def _drop(frozen: _Frozen, what: str) -> None:
    who, most = _who(sys._getframe(2))
    if frozen.strict:
        raise FrozenHeaderError(f"{who} {what} {frozen.name}, which {frozen.by} has frozen")
    place, writer = (frozen.name.lower(), frozen.by, who), who.rpartition(":")[0] or who
    if writer in frozen.warned or _warned[place] >= most:
        return
    if len(_warned) >= _MOST_WARNINGS:
        _warned.clear()
    _warned[place] += 1
    frozen.warned.add(writer)
    state = "absent" if frozen.value is None else "as it is"
    logger.warning(
        "%s %s %s, which %s has frozen: it stays %s", who, what, frozen.name, frozen.by, state
    )


def _who(frame: FrameType | None) -> tuple[str, int]:
    """Return the middleware that changes a field, or else the place of the code, and how often to
    warn of it."""
    place, now = "", frame
    while now is not None:
        module = now.f_globals.get("__name__", "")
        if module.startswith("django.core.handlers"):
            return place, 1
        own = now.f_locals.get("self")
        if "get_response" in getattr(own, "__dict__", ()):
            return f"{type(own).__module__}.{type(own).__qualname__}", 1
        if callable(now.f_locals.get("get_response")):
            return f"{module}.{now.f_code.co_qualname.partition('.<locals>')[0]}", 1
        if not place and not module.startswith(_GO_BETWEENS):
            place = _place(now)
        now = now.f_back
    return place, _MOST_OUTSIDE


def _place(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}:{frame.f_lineno}"


def _forget(**kwargs: object) -> None:
    """Warn again under other settings."""
    _warned.clear()


setting_changed.connect(_forget, dispatch_uid=__name__)
