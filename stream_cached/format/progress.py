"""Encode and decode the records that processes share about a run: its lease and its progress."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from stream_cached.format import validation
from stream_cached.format.envelope import State, key_digest, pack, unpack
from stream_cached.format.records import Entry
from stream_cached.format.validation import MALFORMED, Headers, UnsoundError, optional, typed
from stream_cached.keys.variants import ANY, Variant


class LeaseState(enum.StrEnum):
    """The state of a run, as its lease states it."""

    HELD = "held"
    """The run is active: other processes wait for it or follow it."""
    RELEASED = "released"
    """The run has ended: another process may lead."""
    ALONE = "alone"
    """The response could not be shared: for a while, no request waits (hit-for-miss)."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The value of a lease key."""

    token: bytes
    """The random id of the holder, and the generation of its segments."""
    state: LeaseState = LeaseState.HELD
    beat: int = 0
    """The number of renewals. While it grows, the holder is alive."""
    variant: Variant = ANY
    """In the state ALONE: the variant that could not be shared."""


@dataclass(slots=True)
class Head:
    """A response without its body, and the variant that it is."""

    # Made for each run, and not frozen: to set its fields would cost three times as much.

    status: int
    headers: Headers
    media_type: str | None
    charset: str
    names: tuple[str, ...]
    """The names of the headers that select the variant."""
    variant: str
    """The digest of the values of these headers; empty without such headers."""
    replaces: tuple[str, ...] | None = None
    """See `Entry.replaces`."""
    validated: str | None = None
    """What the validator said before the run, of a response that each request has to validate."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run: its head and the part of its body that exists so far."""

    head: Head
    segments: int
    """The number of complete segments in the store."""
    chunks: tuple[int, ...] = ()
    """The lengths of the chunks in `tail`; the first may be the rest of a split chunk."""
    tail: bytes = b""
    """The bytes after the last complete segment."""
    length: int | None = None
    """The length of the whole body in bytes, once the run is complete."""
    stored: bool = True
    """False if only followers of the run read the body, and no entry was stored."""
    first: int = 0
    """The number of the first segment that is still in the store."""
    sizes: tuple[int, ...] = ()
    """See `Entry.sizes`."""

    def tells_more_than(self, known: Progress | None) -> bool:
        """Whether it is of a later time than what was known before."""
        if known is None or self.length is not None:
            return True
        return (self.segments, len(self.chunks)) > (known.segments, len(known.chunks))

    @classmethod
    def of(cls, entry: Entry, head: Head, *, stored: bool = True) -> Progress:
        return cls(
            head,
            len(entry.segments),
            tuple(entry.chunks),
            entry.body,
            entry.length,
            stored,
            sizes=entry.sizes,
        )


def encode_lease(claim: LeaseRecord, key: str) -> bytes:
    names, variant = claim.variant
    head = {
        "key": key_digest(key),
        "standing": claim.state.value,
        "names": names,
        "variant": variant,
    }
    return pack(State.LEASE, claim.token, claim.beat, head, b"")


def decode_lease(data: bytes, key: str) -> LeaseRecord:
    """Decode a lease; raise UnsoundError if it is damaged or of another key."""
    prefix, head, body = unpack(data)
    try:
        fields = validation.fields(head, 4)
        if prefix.state is not State.LEASE or body or fields["key"] != key_digest(key):
            raise UnsoundError("another lease")
        variant = _variant(fields)
        state = LeaseState(typed(str, fields["standing"]))
        return LeaseRecord(prefix.generation, state, prefix.revision, variant)
    except MALFORMED as exc:
        raise UnsoundError("malformed head") from exc


def encode_progress(progress: Progress, generation: bytes) -> bytes:
    head = {
        "status": progress.head.status,
        "headers": progress.head.headers,
        "media_type": progress.head.media_type,
        "charset": progress.head.charset,
        "names": progress.head.names,
        "variant": progress.head.variant,
        "segments": progress.segments,
        "chunks": progress.chunks,
        "length": progress.length,
        "stored": progress.stored,
        **optional(
            replaces=progress.head.replaces,
            validated=progress.head.validated,
            first=progress.first or None,
            sizes=progress.sizes or None,
        ),
    }
    return pack(State.PROGRESS, generation, 0, head, progress.tail)


def decode_progress(data: bytes, generation: bytes) -> Progress:
    """Decode a run's progress; raise UnsoundError if it is damaged or of another run."""
    prefix, head, tail = unpack(data)
    if (prefix.state, prefix.generation) != (State.PROGRESS, generation):
        raise UnsoundError("another run")
    try:
        names = ("replaces", "validated", "first", "sizes")
        fields = validation.fields(head, 10, optional=names)
        segments = typed(int, fields["segments"])
        if segments < 0:
            raise UnsoundError("negative number of segments")
        chunks = validation.partition(fields["chunks"], len(tail))
        length = fields["length"]
        length = None if length is None else typed(int, length)
        stored = typed(bool, fields["stored"])
        first = typed(int, fields.get("first", 0))
        sizes = validation.sizes(fields, [0] * segments)
        return Progress(_head(fields), segments, chunks, tail, length, stored, first, sizes)
    except MALFORMED as exc:
        raise UnsoundError("malformed head") from exc


def _variant(fields: Mapping[str, object]) -> Variant:
    names: tuple[str, ...] = typed(tuple, fields["names"])
    variant = typed(str, fields["variant"])
    if names:
        validation.vary_names(names)
        validation.digests((variant,))
    return names, variant


def _head(fields: Mapping[str, object]) -> Head:
    status, media_type = typed(int, fields["status"]), fields["media_type"]
    names, variant = _variant(fields)
    return Head(
        status=status,
        headers=validation.header_fields(fields["headers"], status, None),
        media_type=None if media_type is None else validation.printable(media_type),
        charset=validation.printable(fields["charset"]),
        names=names,
        variant=variant,
        replaces=validation.replaced(fields),
        validated=validation.printable(fields["validated"]) if "validated" in fields else None,
    )
