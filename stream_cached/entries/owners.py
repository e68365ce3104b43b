"""Whose an object is: what its header says, or the copy that follows the header."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stream_cached.bodies.protocol import StoredBody
from stream_cached.bodies.watched import WatchedBodies
from stream_cached.format.envelope import (
    MAGIC,
    PREFIX_SIZE,
    ForeignVersionError,
    State,
    read_prefix,
    unpack,
)
from stream_cached.format.validation import MALFORMED, MAX_HEAD, UnsoundError, fields, typed

#: Bytes at the begin of an object among which the copy of its header is looked for.
_BEGIN = 64 * 1024

#: The names that objects are given.
_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Owner:
    """The resource and the run that an object is of."""

    namespace: str
    key: str
    generation: bytes


async def read_owner(bodies: WatchedBodies, found: StoredBody) -> Owner | None:
    """
    Return whose an object is; None if that is for another version of this library to say.

    Raises:
        UnsoundError: Neither the header nor its copy can be read.
        StoreError: The store failed.
    """
    if not _NAME.fullmatch(found.name):
        return None
    is_foreign = False
    for read in (_header, _copy):
        try:
            return _owner(await read(bodies, found.name))
        except ForeignVersionError:
            is_foreign = True
        except MALFORMED:
            continue
    if is_foreign:
        return None
    raise UnsoundError("no header")


def _owner(header: bytes) -> Owner:
    prefix, head, _ = unpack(header)
    named = fields(head, 2)
    if prefix.state is not State.OBJECT:
        raise UnsoundError("no header of an object")
    return Owner(typed(str, named["namespace"]), typed(str, named["key"]), prefix.generation)


async def _header(bodies: WatchedBodies, name: str) -> bytes:
    reading = await bodies.open(name, 0, PREFIX_SIZE + MAX_HEAD)
    try:
        start = await reading.read(PREFIX_SIZE)
        return start + await reading.read(min(MAX_HEAD, read_prefix(start).head_length))
    finally:
        reading.close()


async def _copy(bodies: WatchedBodies, name: str) -> bytes:
    reading = await bodies.open(name, 0, _BEGIN)
    try:
        begin = await reading.read(_BEGIN)
    finally:
        reading.close()
    # No text and no number of a header has these bytes in it.
    start = begin.find(MAGIC, 1)
    if start < 0:
        return b""
    return begin[start : start + PREFIX_SIZE + read_prefix(begin[start:]).head_length]
