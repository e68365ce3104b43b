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
import itertools
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from stream_cached.format import validation
from stream_cached.format.validation import UnsoundError
from stream_cached.keys.packing import pack_any_text

try:
    # The same sums in an eighth of the time.
    from zlib_ng.zlib_ng import crc32
except ImportError:
    from zlib import crc32

# 0xC1 starts no msgpack value, no pickle opcode and no UTF-8 text.
MAGIC = b"\xc1strmch\n"
FORMAT_VERSION = 2

_FIELDS = struct.Struct(">8sBB2x16sIIQII")
_CHECKSUM = struct.Struct(">I")
_SEAL, _SEAL_AT = struct.Struct(">Q4xI"), 36
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
    OBJECT = 8
    """The header of an object: the key of the record that leads to it."""
    CODED_ENTRY = 9
    """A complete response, of which the body or a part of it is compressed."""
    CODED_SEGMENT = 10
    """Part of a body that is compressed."""


_numbers = itertools.count()

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


def checksum(data: bytes | memoryview) -> int:
    """Return the CRC-32, which detects accidents; signatures detect forgery."""
    return crc32(data)


def _checksum_of(pieces: Sequence[bytes | memoryview]) -> int:
    found = 0
    for piece in pieces:
        found = crc32(piece, found)
    return found


class InPieces(bytes):
    """
    A value whose bytes are the prefix and the head. The body is not copied into them.

    Only what knows of the pieces may be given it.
    """

    pieces: Sequence[bytes | memoryview]
    size: int
    """How many bytes its body has."""

    @property
    def body(self) -> bytes:
        """The body, joined when it is read."""
        if len(self.pieces) != 1 or type(self.pieces[0]) is not bytes:
            self.pieces = (b"".join(self.pieces),)
        return cast(bytes, self.pieces[0])

    @property
    def joined(self) -> bytes:
        """All of it."""
        return b"".join((self, *self.pieces))


class Own(InPieces):
    """
    A value that this process has packed, and keeps as the same object: nothing changes it.

    Its body has no checksum.
    """


def is_of_segment(start: bytes) -> bool:
    """Whether a sound value is a segment, given its prefix, at least: its key has no other one."""
    return start[9] in (State.SEGMENT, State.CODED_SEGMENT)


def size_told_by(start: bytes) -> int:
    """Return the bytes of a sound value of which the prefix, at least, is given."""
    *_, head_length, body_length, _, _ = _FIELDS.unpack_from(start)
    return PREFIX_SIZE + cast(int, head_length) + cast(int, body_length)


def size_of_value(value: bytes) -> int:
    """Return the bytes of a packed value, with its body."""
    return len(value) + value.size if isinstance(value, InPieces) else len(value)


def pack(
    state: State,
    generation: bytes,
    revision: int,
    head: object,
    *body: bytes | memoryview,
    kind: type[bytes] = bytes,
) -> bytes:
    """
    Pack a value.

    Args:
        state: What it is.
        generation: The random id of its run.
        revision: The number of a segment, or of a renewal.
        head: What msgpack packs.
        body: The pieces of what comes after the head.
        kind: `InPieces` for a value that need not be joined; `Own` for one that stays in this
            process. In the place of the checksum of its body it has a number that no other one has.
    """
    packed = pack_any_text(head)
    of_body = next(_numbers) % 2**32 if kind is Own else _checksum_of(body)
    size = sum(map(len, body))
    lengths, checksums = (len(packed), size), (checksum(packed), of_body)
    fields = _FIELDS.pack(MAGIC, FORMAT_VERSION, state, generation, revision, *lengths, *checksums)
    prefix = fields + _PADDING
    start = prefix, _CHECKSUM.pack(checksum(prefix)), packed
    if kind is bytes:
        return b"".join((*start, *body))
    value = cast(type[InPieces], kind)(b"".join(start))
    value.pieces, value.size = body, size
    return value


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


def seal_of(packed: bytes) -> tuple[int, int]:
    """Return the length and the checksum of the body of a value that was packed here."""
    return cast(tuple[int, int], _SEAL.unpack_from(packed, _SEAL_AT))


def head_edge(data: bytes) -> int:
    """Return where the head of a sound value ends, and its body begins."""
    return PREFIX_SIZE + read_prefix(data).head_length


def unpack(data: bytes) -> tuple[Prefix, Any, bytes]:
    """Return prefix, head and body; raise UnsoundError if the bytes are damaged."""
    prefix = read_prefix(data)
    edge = PREFIX_SIZE + prefix.head_length
    head, body = data[PREFIX_SIZE:edge], data.body if isinstance(data, InPieces) else data[edge:]
    if len(head) != prefix.head_length or len(body) != prefix.body_length:
        raise UnsoundError("wrong length")
    is_sound = type(data) is Own or checksum(body) == prefix.body_checksum
    if not is_sound or checksum(head) != prefix.head_checksum:
        raise UnsoundError("wrong checksum")
    return prefix, validation.unpacked(head), body
