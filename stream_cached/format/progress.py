"""What processes tell each other of a run, to bytes and back: whose it is, what it has come to."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from stream_cached.format import validation
from stream_cached.format.envelope import State, key_digest, pack, unpack
from stream_cached.format.records import Entry
from stream_cached.format.validation import MALFORMED, Headers, UnsoundError, typed
from stream_cached.keys.variants import ANY, Variant


class LeaseState(enum.StrEnum):
    """What a lease says of its run."""

    HELD = "held"
    """It goes on: wait for it, or follow it."""
    RELEASED = "released"
    """It is over: anybody may run next."""
    ALONE = "alone"
    """Its response could not be shared: nobody waits for anybody for a while (hit-for-miss)."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What stands under the key of a lease."""

    token: bytes
    """Of whoever holds it, and the generation of what he records."""
    state: LeaseState = LeaseState.HELD
    beat: int = 0
    """How often it was renewed: one that counts on is alive."""
    variant: Variant = ANY
    """What could not be shared, where it stands alone."""


@dataclass(frozen=True, slots=True)
class Head:
    """A response without its body, and what selects it."""

    status: int
    headers: Headers
    media_type: str | None
    charset: str
    names: tuple[str, ...]
    """The names of the headers that select it."""
    variant: str
    """The digest of their values; empty where there are none."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run has come to so far."""

    head: Head
    segments: int
    """How many segments are written for good."""
    chunks: tuple[int, ...] = ()
    """The lengths of the chunks that follow them, or of the part that does."""
    tail: bytes = b""
    """Those chunks."""
    length: int | None = None
    """Bytes of the whole body, once there is nothing more to come."""
    stored: bool = True
    """Whether that is one that is served, and not for those who follow it only."""

    @classmethod
    def of(cls, entry: Entry, head: Head, *, stored: bool = True) -> Progress:
        """Return that of a run which is over."""
        return cls(head, len(entry.segments), entry.chunks, entry.body, entry.length, stored)


def encode_claim(claim: LeaseRecord, key: str) -> bytes:
    """Encode what stands under the key of a lease."""
    names, variant = claim.variant
    head = {
        "key": key_digest(key),
        "standing": claim.state.value,
        "names": names,
        "variant": variant,
    }
    return pack(State.LEASE, claim.token, claim.beat, head, b"")


def decode_claim(data: bytes, key: str) -> LeaseRecord:
    """
    Decode what stands under the key of a lease.

    Raises:
        UnsoundError: It is cut, altered, or another one's.
    """
    prefix, head, body = unpack(data)
    try:
        fields = validation.fields(head, 4)
        if prefix.state is not State.LEASE or body or fields["key"] != key_digest(key):
            raise UnsoundError("another lease")
        variant = _variant(fields)
        state = LeaseState(typed(str, fields["standing"]))
        return LeaseRecord(prefix.generation, state, prefix.revision, variant)
    except MALFORMED as exc:
        raise UnsoundError("head") from exc


def encode_progress(progress: Progress, generation: bytes) -> bytes:
    """Encode what the run `generation` has come to."""
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
    }
    return pack(State.PROGRESS, generation, 0, head, progress.tail)


def decode_progress(data: bytes, generation: bytes) -> Progress:
    """
    Decode what the run `generation` has come to.

    Raises:
        UnsoundError: It is cut, altered, or another run's.
    """
    prefix, head, tail = unpack(data)
    if (prefix.state, prefix.generation) != (State.PROGRESS, generation):
        raise UnsoundError("another run")
    try:
        fields = validation.fields(head, 10)
        segments = typed(int, fields["segments"])
        if segments < 0:
            raise UnsoundError("number of segments")
        chunks = validation.partition(fields["chunks"], len(tail))
        length = fields["length"]
        length = None if length is None else typed(int, length)
        stored = typed(bool, fields["stored"])
        return Progress(_head(fields), segments, chunks, tail, length, stored)
    except MALFORMED as exc:
        raise UnsoundError("head") from exc


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
    )
