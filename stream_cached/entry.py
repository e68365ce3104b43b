"""Records and segments to bytes and back: msgpack heads behind a fixed, checksummed prefix.

Both kinds have one layout, so that one reader serves both::

    prefix (64 bytes)   magic, format version, state, generation, revision,
                        length and CRC-32 of head and body, CRC-32 of the prefix
    head                msgpack: what the response was, or the table of a segment's chunks
    body                the bytes of a small response, or of one segment

Nothing here trusts what it reads: anything that is off raises `UnsoundError`, and nothing is
allocated that was not received.
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack

# 0xC1 is the one byte that msgpack never uses, no pickle opcode, and not the start of UTF-8.
MAGIC = b"\xc1strmch\n"
FORMAT_VERSION = 1

_FIELDS = struct.Struct(">8sBB2x16sIIQII")
_CHECKSUM = struct.Struct(">I")
PREFIX_SIZE = 64
_PADDING = bytes(PREFIX_SIZE - _FIELDS.size - _CHECKSUM.size)

T = TypeVar("T")

# What reading a malformed head can raise.
_MALFORMED = (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException)


class UnsoundError(ValueError):
    """Bytes with our magic that are not what we wrote: cut, altered or spliced."""


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


@dataclass(frozen=True, slots=True)
class Prefix:
    """The fixed prefix, which can be read by itself."""

    state: State
    generation: bytes
    revision: int
    head_length: int
    body_length: int
    head_checksum: int
    body_checksum: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive chunks packed for storage: the unit of a chunk key."""

    chunks: tuple[int, ...]
    """The length of each chunk, or of the part of it that lies in this segment."""
    continues: bool
    """Whether the last chunk goes on in the next segment."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A complete response, as stored under one key."""

    key: bytes
    """`key_digest` of the key that it was stored under."""
    versions: Mapping[str, bytes]
    """The versions that it was made under, by version key."""
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    media_type: str | None
    charset: str
    streamed: bool
    """False for a response that had its body at hand (`Response.body`)."""
    stored_at: float
    """Seconds since the epoch, by the clock of whoever stored it."""
    length: int
    """Bytes of the whole body."""
    generation: bytes = b""
    chunks: tuple[int, ...] = ()
    """Lengths of the chunks of `body`; empty where the body is in segments."""
    body: bytes = b""
    segments: tuple[tuple[int, int], ...] = ()
    """Length and CRC-32 of each segment's payload."""


@dataclass(frozen=True, slots=True)
class Index:
    """The headers that select among the variants of a resource (RFC 9111, section 4.1)."""

    key: bytes
    versions: Mapping[str, bytes]
    names: tuple[str, ...]
    variants: tuple[str, ...]
    """Digests of the variants that were stored, oldest first."""
    generation: bytes = b""


@dataclass(frozen=True, slots=True)
class Marker:
    """A record without a response: why the last one could not be stored."""

    key: bytes
    versions: Mapping[str, bytes]
    detail: str
    generation: bytes = b""


Record = Entry | Index | Marker


def is_ours(data: bytes) -> bool:
    """Whether the bytes claim to be of this library's own format, also where they are cut."""
    return data[:8] == MAGIC or (0 < len(data) < 8 and MAGIC.startswith(data))


def key_digest(key: str) -> bytes:
    """Binds a record to its key, so that one moved elsewhere is not served there."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def checksum(data: bytes) -> int:
    """CRC-32: finds what breaks by accident; against intent there are signatures."""
    return zlib.crc32(data)


def _pack(state: State, generation: bytes, revision: int, head: Any, body: bytes) -> bytes:
    packed = msgpack.packb(head)
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
    _, _, state, generation, revision, head, body, head_sum, body_sum = _FIELDS.unpack_from(data)
    try:
        return Prefix(State(state), generation, revision, head, body, head_sum, body_sum)
    except ValueError:
        raise UnsoundError(f"state {state}") from None


def _unpack(data: bytes) -> tuple[Prefix, Any, bytes]:
    prefix = read_prefix(data)
    edge = PREFIX_SIZE + prefix.head_length
    if len(data) != edge + prefix.body_length:
        raise UnsoundError("length")
    head, body = data[PREFIX_SIZE:edge], data[edge:]
    if checksum(head) != prefix.head_checksum or checksum(body) != prefix.body_checksum:
        raise UnsoundError("checksum")
    try:
        return prefix, msgpack.unpackb(head, use_list=False), body
    except _MALFORMED as exc:
        raise UnsoundError("head") from exc


def encode_segment(segment: Segment, generation: bytes, index: int) -> bytes:
    """Encode one segment of the run `generation`."""
    return _pack(
        State.SEGMENT, generation, index, (segment.chunks, segment.continues), segment.payload
    )


def decode_segment(data: bytes, generation: bytes, index: int) -> Segment:
    """
    Decode segment `index` of the run `generation`.

    Raises:
        UnsoundError: It is cut, altered, or another one.
    """
    prefix, head, payload = _unpack(data)
    if (prefix.state, prefix.generation, prefix.revision) != (State.SEGMENT, generation, index):
        raise UnsoundError("another segment")
    try:
        chunks, continues = head
        if not _is_partition(chunks, len(payload)) or not chunks or type(continues) is not bool:
            raise UnsoundError("table of chunks")
    except _MALFORMED as exc:
        raise UnsoundError("table of chunks") from exc
    return Segment(chunks, continues, payload)


def encode_record(record: Record) -> bytes:
    """Encode what stands under an entry's key."""
    match record:
        case Entry():
            state, body = State.ENTRY, record.body
            head: dict[str, Any] = {
                "status": record.status,
                "headers": record.headers,
                "media_type": record.media_type,
                "charset": record.charset,
                "streamed": record.streamed,
                "stored_at": record.stored_at,
                "length": record.length,
                "chunks": record.chunks,
                "segments": record.segments,
            }
        case Index():
            state, body = State.INDEX, b""
            head = {"names": record.names, "variants": record.variants}
        case Marker():
            state, body = State.UNSTORABLE, b""
            head = {"detail": record.detail}
    head["key"] = record.key
    head["versions"] = dict(record.versions)
    return _pack(state, record.generation, 0, head, body)


def decode_record(data: bytes) -> Record:
    """
    Decode what stands under an entry's key.

    Raises:
        ForeignVersionError: It is of another format version.
        UnsoundError: It is cut or altered.
    """
    prefix, head, body = _unpack(data)
    try:
        match prefix.state:
            case State.ENTRY:
                return _entry(head, prefix.generation, body)
            case State.INDEX:
                return Index(
                    generation=prefix.generation,
                    names=_strings(head["names"]),
                    variants=_strings(head["variants"]),
                    **_common(head),
                )
            case State.UNSTORABLE:
                return Marker(
                    generation=prefix.generation,
                    detail=_of(str, head["detail"]),
                    **_common(head),
                )
            case State.SEGMENT:
                raise UnsoundError("a segment where a record was expected")
    except _MALFORMED as exc:
        raise UnsoundError("head") from exc


def _entry(head: Any, generation: bytes, body: bytes) -> Entry:
    segments = tuple((_of(int, length), _of(int, crc)) for length, crc in head["segments"])
    entry = Entry(
        generation=generation,
        status=_of(int, head["status"]),
        headers=tuple((_of(bytes, name), _of(bytes, value)) for name, value in head["headers"]),
        media_type=None if head["media_type"] is None else _of(str, head["media_type"]),
        charset=_of(str, head["charset"]),
        streamed=_of(bool, head["streamed"]),
        stored_at=_of(float, head["stored_at"]),
        length=_of(int, head["length"]),
        chunks=head["chunks"],
        body=body,
        segments=segments,
        **_common(head),
    )
    lengths = tuple(length for length, _ in segments)
    in_segments = entry.length - len(body)
    if not _is_partition(entry.chunks, len(body)) or not _is_partition(lengths, in_segments):
        raise UnsoundError("lengths")
    return entry


def _common(head: Any) -> dict[str, Any]:
    versions = _of(dict, head["versions"])
    return {
        "key": _of(bytes, head["key"]),
        "versions": {_of(str, name): _of(bytes, value) for name, value in versions.items()},
    }


def _of(kind: type[T], value: object) -> T:
    if type(value) is not kind:
        raise UnsoundError(f"{type(value).__name__} where {kind.__name__} was expected")
    return value


def _strings(values: Sequence[object]) -> tuple[str, ...]:
    return tuple(_of(str, value) for value in values)


def _is_partition(chunks: object, total: int) -> bool:
    return (
        type(chunks) is tuple
        and set(map(type, chunks)) <= {int}
        and min(chunks, default=0) >= 0
        and sum(chunks) == total
    )
