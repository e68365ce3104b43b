"""The decoded values of a store: entries, variant indexes, markers, plain values, segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stream_cached.format.validation import Headers

#: Bytes, or a part of them.
Piece = bytes | memoryview


@dataclass(slots=True)
class Segment:
    """Consecutive chunks, packed for storage under one key."""

    # Not frozen, as an entry is not. Nothing changes it.

    chunks: Sequence[int]
    """The length of each chunk, or of the part of the chunk in this segment."""
    continues: bool
    """Whether the last chunk continues in the next segment."""
    payload: bytes
    start: bytes = field(default=b"", compare=False, repr=False)
    """The prefix of what was decoded, which tells whether the store still holds the same."""

    @property
    def pieces(self) -> Sequence[bytes]:
        """What it is made of."""
        return (self.payload,)


@dataclass(slots=True)
class ClosedSegment:
    """A segment as a run has made it. Its bytes are joined only where that is needed."""

    # Not frozen, as a segment is not. Nothing changes it.

    chunks: Sequence[int]
    continues: bool
    pieces: Sequence[Piece]
    """What it is made of: chunks that are large, or parts of them, or all of it."""
    size: int
    """Bytes of them together."""

    @property
    def payload(self) -> bytes:
        """The bytes, joined at each access."""
        return b"".join(self.pieces)


@dataclass(slots=True)
class Entry:
    """A complete response, as stored under one key."""

    # Not frozen: to set its fields would cost three times as much. Its run sets what it has come to
    # before it is stored; then nothing changes it any more.

    key: bytes
    """`key_digest` of the key under which the entry was stored."""
    versions: Mapping[str, bytes]
    """The versions at the start of the run, by version key."""
    status: int
    headers: Headers
    media_type: str | None
    charset: str
    streamed: bool
    """False for a response whose body existed before it was sent (`Response.body`)."""
    stored_at: float
    """Seconds since the epoch, by the clock of the process that stored the entry."""
    length: int
    """Bytes of the whole body."""
    generation: bytes = b""
    chunks: Sequence[int] = ()
    """Lengths of the chunks of `body`, unpacked when looked at; none if the body is in segments."""
    body: bytes = b""
    segments: tuple[tuple[int, int], ...] = ()
    """Length and CRC-32 of each segment's payload."""
    sizes: tuple[int, ...] = ()
    """If the segments are an object of a store of bodies: the sizes of its header, and of each
    segment as it is stored there. Empty if they are in the store of the records."""
    fresh_until: float | None = None
    """Seconds since the epoch, by the same clock; None if the entry never becomes stale."""
    replaces: tuple[str, ...] | None = None
    """For a value that FastAPI has rendered: the names of the headers by dependencies which the
    endpoint has replaced or removed. None for a response that the endpoint has returned."""
    etag: str | None = None
    """The ETag that the library has made for it, if any; what is before its quotes until then."""
    validator: tuple[str, float] | None = None
    """What the validator said before the run, and the seconds for which the entry is fresh again
    as long as it says the same; None if it said nothing."""
    took: float | None = None
    """Seconds that its run took; None if nobody has asked for that."""
    codings: bytes = b""
    """The `Coding` of each segment, or that of `body`; empty if none is compressed."""
    coded: bytes = field(default=b"", compare=False, repr=False)
    """`body` as the record holds it, if that is compressed."""


@dataclass(frozen=True, slots=True)
class Index:
    """The headers that select among the variants of a resource (RFC 9111, section 4.1)."""

    key: bytes
    versions: Mapping[str, bytes]
    names: tuple[tuple[str, ...], ...]
    """The sets of headers that responses had in their Vary, the last one first."""
    variants: tuple[str, ...]
    """Digests of the stored variants, each by the names in its own Vary, oldest first."""
    generation: bytes = b""


@dataclass(frozen=True, slots=True)
class Marker:
    """A record without a response: it says why the last response could not be stored."""

    key: bytes
    versions: Mapping[str, bytes]
    detail: str
    generation: bytes = b""


@dataclass(frozen=True, slots=True)
class Value:
    """A plain value, that is a return value which is no response."""

    key: bytes
    versions: Mapping[str, bytes]
    payload: bytes
    """The output of the cache's serializer."""
    text: bool
    """Whether the serializer's output was text, which `payload` holds encoded."""
    generation: bytes = b""


Record = Entry | Index | Marker | Value
