"""The common envelope of records and segments: a fixed prefix with checksums, a head, a body.

Records and segments have the same layout::

    prefix (64 bytes)   magic, format version, state, generation, revision,
                        length and CRC-32 of head and body, CRC-32 of the prefix
    head                msgpack: the response's metadata, or the chunk lengths of a segment
    body                the bytes of a small response, or of one segment

The decoder does not trust its input. Unsound bytes raise `UnsoundError`, and a length in the
input never causes an allocation of that size. `validation` defines the valid heads.
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from typing import Any, NamedTuple

import msgpack

from stream_cached.format import validation
from stream_cached.format.validation import UnsoundError

# 0xC1 starts no msgpack value, no pickle opcode and no UTF-8 text.
MAGIC = b"\xc1strmch\n"
FORMAT_VERSION = 2

_FIELDS = struct.Struct(">8sBB2x16sIIQII")
_CHECKSUM = struct.Struct(">I")
PREFIX_SIZE = 64
_PADDING = bytes(PREFIX_SIZE - _FIELDS.size - _CHECKSUM.size)


class ForeignVersionError(UnsoundError):
    """The record has another format version: a miss, but no damage."""


class State(enum.IntEnum):
    """The kind of a record."""

    ENTRY = 1
    """A complete response."""
    INDEX = 2
    """The resource varies: the names of the headers that select a variant."""
    UNSTORABLE = 3
    """The last response could not be stored (hit-for-miss): run without recording."""
    SEGMENT = 4
    """Part of a body, under a key of its own."""
    VALUE = 5
    """A value that is no response, as the cache's serializer encoded it."""
    LEASE = 6
    """Which process runs the endpoint, under a key of its own."""
    PROGRESS = 7
    """The progress of a run, under a key of its own."""


_STATES = {int(state): state for state in State}


class Prefix(NamedTuple):
    """The fields of the fixed prefix."""

    state: State
    generation: bytes
    revision: int
    head_length: int
    body_length: int
    head_checksum: int
    body_checksum: int


def is_ours(data: bytes) -> bool:
    """Whether the bytes start with our magic, or are a truncated magic."""
    return data[:8] == MAGIC or (0 < len(data) < 8 and MAGIC.startswith(data))


def key_digest(key: str) -> bytes:
    """Return the digest that binds a record to its key."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def checksum(data: bytes) -> int:
    """Return the CRC-32, which detects accidents; signatures detect forgery."""
    return zlib.crc32(data)


def pack(state: State, generation: bytes, revision: int, head: object, body: bytes) -> bytes:
    packed = msgpack.packb(head, unicode_errors="surrogatepass")
    lengths, checksums = (len(packed), len(body)), (checksum(packed), checksum(body))
    fields = _FIELDS.pack(MAGIC, FORMAT_VERSION, state, generation, revision, *lengths, *checksums)
    prefix = fields + _PADDING
    return b"".join((prefix, _CHECKSUM.pack(checksum(prefix)), packed, body))


def read_prefix(data: bytes) -> Prefix:
    """Read the prefix; raise UnsoundError if it is damaged, or of another format version."""
    if len(data) < PREFIX_SIZE or not is_ours(data):
        raise UnsoundError("no complete prefix")
    if data[8] != FORMAT_VERSION:
        raise ForeignVersionError(f"format version {data[8]}, not {FORMAT_VERSION}")
    edge = PREFIX_SIZE - _CHECKSUM.size
    if _CHECKSUM.unpack_from(data, edge)[0] != checksum(data[:edge]):
        raise UnsoundError("wrong checksum of the prefix")
    _, _, number, *others = _FIELDS.unpack_from(data)
    state = _STATES.get(number)
    if state is None:
        raise UnsoundError(f"state {number}")
    return Prefix(state, *others)


def head_edge(data: bytes) -> int:
    """Return where the head of a sound value ends, and its body begins."""
    return PREFIX_SIZE + read_prefix(data).head_length


def unpack(data: bytes) -> tuple[Prefix, Any, bytes]:
    """Return prefix, head and body; raise UnsoundError if the bytes are damaged."""
    prefix = read_prefix(data)
    edge = PREFIX_SIZE + prefix.head_length
    if len(data) != edge + prefix.body_length:
        raise UnsoundError("wrong length")
    head, body = data[PREFIX_SIZE:edge], data[edge:]
    if checksum(head) != prefix.head_checksum or checksum(body) != prefix.body_checksum:
        raise UnsoundError("wrong checksum")
    return prefix, validation.unpacked(head), body
