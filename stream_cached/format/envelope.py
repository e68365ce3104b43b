"""The common envelope of records and segments: a msgpack head behind a fixed, checksummed prefix.

Records and segments have one layout, so that one reader serves both::

    prefix (64 bytes)   magic, format version, state, generation, revision,
                        length and CRC-32 of head and body, CRC-32 of the prefix
    head                msgpack: what the response was, or the table of a segment's chunks
    body                the bytes of a small response, or of one segment

Nothing here trusts what it reads. Anything unsound raises `UnsoundError`, and nothing is allocated
that was not received. `validation` says what a head may hold.
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from typing import Any, NamedTuple

import msgpack

from stream_cached.format import validation
from stream_cached.format.validation import UnsoundError as UnsoundError

# 0xC1 is the one byte that msgpack never uses, no pickle opcode, and not the start of UTF-8.
MAGIC = b"\xc1strmch\n"
FORMAT_VERSION = 1

_FIELDS = struct.Struct(">8sBB2x16sIIQII")
_CHECKSUM = struct.Struct(">I")
PREFIX_SIZE = 64
_PADDING = bytes(PREFIX_SIZE - _FIELDS.size - _CHECKSUM.size)


class ForeignVersionError(UnsoundError):
    """A record of another format version: a miss, but nobody's mistake."""


class State(enum.IntEnum):
    """What a record says about its key."""

    ENTRY = 1
    """A complete response."""
    INDEX = 2
    """The resource varies: the names of the headers that select a variant."""
    UNSTORABLE = 3
    """The last response could not be stored (hit-for-miss): run, and do not record."""
    SEGMENT = 4
    """Part of a body; lives under a chunk key."""
    VALUE = 5
    """What is no response, as the cache's serializer wrote it."""
    LEASE = 6
    """Who runs the endpoint; under a key of its own."""
    PROGRESS = 7
    """What a run has come to; under a key of its own."""


_STATES = {int(state): state for state in State}


class Prefix(NamedTuple):
    """The fixed prefix, which can be read by itself."""

    state: State
    generation: bytes
    revision: int
    head_length: int
    body_length: int
    head_checksum: int
    body_checksum: int


def is_ours(data: bytes) -> bool:
    """Whether the bytes claim to be of this library's own format, also where they are cut."""
    return data[:8] == MAGIC or (0 < len(data) < 8 and MAGIC.startswith(data))


def key_digest(key: str) -> bytes:
    """Binds a record to its key, so that one moved elsewhere is not served there."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def checksum(data: bytes) -> int:
    """CRC-32: finds what breaks by accident; against intent there are signatures."""
    return zlib.crc32(data)


def pack(state: State, generation: bytes, revision: int, head: object, body: bytes) -> bytes:
    """Put a head and a body behind their prefix."""
    packed = msgpack.packb(head, unicode_errors="surrogatepass")
    fields = _FIELDS.pack(
        MAGIC,
        FORMAT_VERSION,
        state,
        generation,
        revision,
        len(packed),
        len(body),
        checksum(packed),
        checksum(body),
    )
    prefix = fields + _PADDING
    return b"".join((prefix, _CHECKSUM.pack(checksum(prefix)), packed, body))


def read_prefix(data: bytes) -> Prefix:
    """
    Read the fixed prefix.

    Raises:
        ForeignVersionError: It is of another format version.
        UnsoundError: It is cut or altered, or not ours.
    """
    if len(data) < PREFIX_SIZE or not is_ours(data):
        raise UnsoundError("no complete prefix")
    if data[8] != FORMAT_VERSION:
        raise ForeignVersionError(f"format version {data[8]}, not {FORMAT_VERSION}")
    edge = PREFIX_SIZE - _CHECKSUM.size
    if _CHECKSUM.unpack_from(data, edge)[0] != checksum(data[:edge]):
        raise UnsoundError("checksum of the prefix")
    _, _, number, *others = _FIELDS.unpack_from(data)
    state = _STATES.get(number)
    if state is None:
        raise UnsoundError(f"state {number}")
    return Prefix(state, *others)


def unpack(data: bytes) -> tuple[Prefix, Any, bytes]:
    """
    Take apart what `pack` put together.

    Raises:
        ForeignVersionError: It is of another format version.
        UnsoundError: It is cut or altered.
    """
    prefix = read_prefix(data)
    edge = PREFIX_SIZE + prefix.head_length
    if len(data) != edge + prefix.body_length:
        raise UnsoundError("length")
    head, body = data[PREFIX_SIZE:edge], data[edge:]
    if checksum(head) != prefix.head_checksum or checksum(body) != prefix.body_checksum:
        raise UnsoundError("checksum")
    return prefix, validation.unpacked(head), body
