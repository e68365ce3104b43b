"""What a store holds, decoded: entries, indexes of variants, markers, plain values, segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stream_cached.format.validation import Headers
from stream_cached.format.validation import UnsoundError as UnsoundError


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
