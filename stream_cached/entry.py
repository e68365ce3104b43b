"""Records and segments to bytes and back: msgpack heads behind a fixed, checksummed prefix.

Both kinds have one layout, so that one reader serves both::

    prefix (64 bytes)   magic, format version, state, generation, revision,
                        length and CRC-32 of head and body, CRC-32 of the prefix
    head                msgpack: what the response was, or the table of a segment's chunks
    body                the bytes of a small response, or of one segment

Nothing here trusts what it reads: anything that is off raises `UnsoundError`, and nothing is
allocated that was not received. What a head may say is in `soundness`.
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from stream_cached import soundness
from stream_cached.soundness import MALFORMED, Headers, typed
from stream_cached.soundness import UnsoundError as UnsoundError

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
    headers: Headers
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
    fresh_until: float | None = None
    """Seconds since the epoch, by the same clock; None where it is never stale."""


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


@dataclass(frozen=True, slots=True)
class Value:
    """A plain value: what is no response."""

    key: bytes
    versions: Mapping[str, bytes]
    payload: bytes
    """What the cache's serializer made of it."""
    text: bool
    """Whether that was text, now encoded."""
    generation: bytes = b""


Record = Entry | Index | Marker | Value


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
    return prefix, soundness.unpacked(head), body


def encode_segment(segment: Segment, generation: bytes, index: int) -> bytes:
    """Encode one segment of the run `generation`."""
    return pack(
        State.SEGMENT, generation, index, (segment.chunks, segment.continues), segment.payload
    )


def decode_segment(data: bytes, generation: bytes, index: int) -> Segment:
    """
    Decode segment `index` of the run `generation`.

    Raises:
        UnsoundError: It is cut, altered, or another one.
    """
    prefix, head, payload = unpack(data)
    if (prefix.state, prefix.generation, prefix.revision) != (State.SEGMENT, generation, index):
        raise UnsoundError("another segment")
    try:
        chunks, continues = head
        lengths = soundness.partition(chunks, len(payload))
        if not lengths:
            raise UnsoundError("a segment without a chunk")
        return Segment(lengths, typed(bool, continues), payload)
    except MALFORMED as exc:
        raise UnsoundError("table of chunks") from exc


def encode_record(record: Record) -> bytes:
    """Encode what stands under an entry's key."""
    head: dict[str, Any]
    body = b""
    match record:
        case Entry():
            state, body = State.ENTRY, record.body
            head = {
                "status": record.status,
                "headers": record.headers,
                "media_type": record.media_type,
                "charset": record.charset,
                "streamed": record.streamed,
                "stored_at": record.stored_at,
                "length": record.length,
                "chunks": record.chunks,
                "segments": record.segments,
                "fresh_until": record.fresh_until,
            }
        case Index():
            state, head = State.INDEX, {"names": record.names, "variants": record.variants}
        case Marker():
            state, head = State.UNSTORABLE, {"detail": record.detail}
        case Value():
            state, head, body = State.VALUE, {"text": record.text}, record.payload
    head["key"] = record.key
    head["versions"] = dict(record.versions)
    return pack(state, record.generation, 0, head, body)


def decode_record(data: bytes) -> Record:
    """
    Decode what stands under an entry's key.

    Raises:
        ForeignVersionError: It is of another format version.
        UnsoundError: It is cut or altered.
    """
    prefix, head, body = unpack(data)
    try:
        return _record(prefix, head, body)
    except MALFORMED as exc:
        raise UnsoundError("head") from exc


def _record(prefix: Prefix, head: object, body: bytes) -> Record:
    generation = prefix.generation
    match prefix.state:
        case State.ENTRY:
            return _entry(head, generation, body)
        case State.VALUE:
            fields = soundness.fields(head, 3)
            return Value(*_common(fields), body, typed(bool, fields["text"]), generation)
        case State.SEGMENT | State.LEASE | State.PROGRESS:
            raise UnsoundError(f"{prefix.state.name} where a record was expected")
    if body:
        raise UnsoundError("a body where there is none")
    if prefix.state is State.INDEX:
        fields = soundness.fields(head, 4)
        names = soundness.vary_names(fields["names"])
        variants = soundness.digests(fields["variants"])
        return Index(*_common(fields), names, variants, generation)
    fields = soundness.fields(head, 3)
    return Marker(*_common(fields), soundness.word(fields["detail"]), generation)


def _entry(head: object, generation: bytes, body: bytes) -> Entry:
    fields = soundness.fields(head, 12)
    length, segments = typed(int, fields["length"]), _segments(fields["segments"])
    if segments and (body or fields["chunks"]):
        raise UnsoundError("a body in two places")
    soundness.partition(tuple([size for size, _ in segments]), length - len(body))
    status, media_type = typed(int, fields["status"]), fields["media_type"]
    key, versions = _common(fields)
    fresh_until = fields["fresh_until"]
    return Entry(
        key=key,
        versions=versions,
        status=status,
        headers=soundness.header_fields(fields["headers"], status, length),
        media_type=None if media_type is None else soundness.printable(media_type),
        charset=soundness.printable(fields["charset"]),
        streamed=typed(bool, fields["streamed"]),
        stored_at=soundness.moment(fields["stored_at"]),
        length=length,
        generation=generation,
        chunks=soundness.partition(fields["chunks"], len(body)),
        body=body,
        segments=segments,
        fresh_until=None if fresh_until is None else soundness.moment(fresh_until),
    )


def _segments(value: object) -> tuple[tuple[int, int], ...]:
    pairs: tuple[tuple[object, object], ...] = typed(tuple, value)
    return tuple([(typed(int, size), typed(int, crc)) for size, crc in pairs])


def _common(fields: Mapping[str, Any]) -> tuple[bytes, dict[str, bytes]]:
    return typed(bytes, fields["key"]), soundness.versions(fields["versions"])
