"""Encode and decode records and segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stream_cached.format import validation
from stream_cached.format.coding import Coding, inflated, require_known
from stream_cached.format.envelope import (
    PREFIX_SIZE,
    ForeignVersionError,
    Prefix,
    State,
    pack,
    unpack,
)
from stream_cached.format.lengths import lengths_of, packed_lengths
from stream_cached.format.records import (
    ClosedSegment,
    Entry,
    Index,
    Marker,
    Record,
    Segment,
    Value,
)
from stream_cached.format.validation import MALFORMED, optional, typed
from stream_cached.format.validation import UnsoundError as UnsoundError

#: The byte of an encoded segment that tells its state, where it is compressed.
CODED = bytes([State.CODED_SEGMENT])

#: The most bytes that the fields of a record take which are always about as long, that one length
#: of a chunk takes, and that a header takes beside its bytes.
_FIXED, _LENGTH, _FIELD = PREFIX_SIZE + 1024, 5, 11

#: Bytes that an ETag takes for the digest, which is between two quotes.
_DIGEST = 36

#: The fields of an entry that are there only if they have a value.
_OPTIONAL = ("replaces", "etag", "sizes", "validator", "took", "codings")


def encode_segment(
    segment: Segment | ClosedSegment, generation: bytes, index: int, kind: type[bytes] = bytes
) -> bytes:
    """Encode a segment; see `pack` for its `kind`."""
    head = (packed_lengths(segment.chunks), segment.continues)
    return pack(State.SEGMENT, generation, index, head, *segment.pieces, kind=kind)


def coded_segment(value: bytes, coding: Coding, compress: Callable[[bytes], bytes]) -> bytes | None:
    """Return an encoded segment with a compressed payload; None if that is not worth it."""
    prefix, table, payload = unpack(value)
    coded = compress(payload)
    if not is_worth_it(coded, payload):
        return None
    head = (*table, int(coding), len(payload))
    known = prefix.generation, prefix.revision
    return pack(State.CODED_SEGMENT, *known, head, coded, kind=type(value))


def is_worth_it(coded: bytes, plain: bytes) -> bool:
    """Whether so much is saved that each hit may take the time to inflate it."""
    return len(coded) <= len(plain) - len(plain) // 16 - 1


def decode_segment(
    data: bytes, generation: bytes, index: int, length: int | None = None
) -> Segment:
    """
    Decode a segment.

    Raises:
        UnsoundError: It is damaged, is not the one asked for, or has another `length` than that.
    """
    prefix, head, payload = unpack(data)
    is_coded = prefix.state is State.CODED_SEGMENT
    if not is_coded and prefix.state is not State.SEGMENT:
        raise UnsoundError("no segment")
    if (prefix.generation, prefix.revision) != (generation, index):
        raise UnsoundError("another segment")
    try:
        if is_coded:
            chunks, continues, coding, size = head
            if length is not None and size != length:
                raise UnsoundError("another length")
            payload = inflated(typed(int, coding), payload, typed(int, size))
        else:
            chunks, continues = head
        lengths = lengths_of(chunks, len(payload), least=1)
        return Segment(lengths, typed(bool, continues), payload, data[:PREFIX_SIZE])
    except ForeignVersionError:
        raise
    except MALFORMED as exc:
        raise UnsoundError("malformed table of chunks") from exc


def encode_record(
    record: Record, key: bytes | None = None, versions: Mapping[str, bytes] | None = None
) -> bytes:
    """Encode a record, bound to a key and to versions if they are not its own."""
    head: dict[str, Any]
    body = b""
    match record:
        case Entry():
            state = State.CODED_ENTRY if record.codings else State.ENTRY
            body = record.coded or record.body
            head = {
                "status": record.status,
                "headers": record.headers,
                "media_type": record.media_type,
                "charset": record.charset,
                "streamed": record.streamed,
                "stored_at": record.stored_at,
                "length": record.length,
                "chunks": packed_lengths(record.chunks),
                "segments": record.segments,
                "fresh_until": record.fresh_until,
                **optional(
                    replaces=record.replaces,
                    etag=record.etag,
                    sizes=record.sizes or None,
                    validator=record.validator,
                    took=record.took,
                    codings=record.codings or None,
                ),
            }
        case Index():
            state, head = State.INDEX, {"names": record.names, "variants": record.variants}
        case Marker():
            state, head = State.UNSTORABLE, {"detail": record.detail}
        case Value():
            state, head, body = State.VALUE, {"text": record.text}, record.payload
    head["key"] = record.key if key is None else key
    head["versions"] = dict(record.versions if versions is None else versions)
    return pack(state, record.generation, 0, head, body)


def fits(entry: Entry, body: Segment, size: int) -> bool:
    """Whether the record of an entry, with the body, has at most so many bytes. Its ETag, if any,
    has no digest yet."""
    size -= 0 if entry.etag is None else _DIGEST
    most = _FIXED + len(body.payload) + _LENGTH * len(body.chunks)
    most += sum([_FIELD + len(name) + len(value) for name, value in entry.headers])
    most += 4 * (len(entry.media_type or "") + len(entry.charset) + len(entry.etag or ""))
    if most <= size and entry.validator is None and entry.replaces is None:
        # For nearly all: encoding takes ten times as long.
        return True
    whole = replace(entry, chunks=body.chunks, body=body.payload)
    return len(encode_record(whole)) <= size


def decode_record(data: bytes) -> Record:
    """Decode a record; raise UnsoundError if it is damaged, or of another format version."""
    prefix, head, body = unpack(data)
    try:
        return _record(prefix, head, body)
    except ForeignVersionError:
        raise
    except MALFORMED as exc:
        raise UnsoundError("malformed head") from exc


def _record(prefix: Prefix, head: object, body: bytes) -> Record:
    generation = prefix.generation
    match prefix.state:
        case State.ENTRY | State.CODED_ENTRY:
            return _entry(head, generation, body, is_coded=prefix.state is State.CODED_ENTRY)
        case State.VALUE:
            fields = validation.fields(head, 3)
            return Value(*_common(fields), body, typed(bool, fields["text"]), generation)
        case State.SEGMENT | State.CODED_SEGMENT | State.LEASE | State.PROGRESS | State.OBJECT:
            raise UnsoundError(f"{prefix.state.name} where a record was expected")
    if body:
        raise UnsoundError("unexpected body")
    if prefix.state is State.INDEX:
        fields = validation.fields(head, 4)
        names = validation.name_sets(fields["names"])
        variants = validation.digests(fields["variants"])
        return Index(*_common(fields), names, variants, generation)
    fields = validation.fields(head, 3)
    return Marker(*_common(fields), validation.word(fields["detail"]), generation)


def _entry(head: object, generation: bytes, body: bytes, *, is_coded: bool) -> Entry:
    fields = validation.fields(head, 12, optional=_OPTIONAL)
    length, segments = typed(int, fields["length"]), _segments(fields["segments"])
    if segments and (body or fields["chunks"]):
        raise UnsoundError("a body in two places")
    codings, coded = b"", b""
    if is_coded != ("codings" in fields):
        raise UnsoundError("a coding in a record without one, or none in one with it")
    if is_coded:
        codings = _codings(fields["codings"], len(segments) or 1)
        if not segments:
            coded, body = body, inflated(codings[0], body, length)
    validation.partition(tuple([size for size, _ in segments]), length - len(body))
    status, media_type = typed(int, fields["status"]), fields["media_type"]
    key, versions = _common(fields)
    fresh_until = fields["fresh_until"]
    return Entry(
        key=key,
        versions=versions,
        status=status,
        headers=validation.header_fields(fields["headers"], status, length),
        media_type=None if media_type is None else validation.printable(media_type),
        charset=validation.printable(fields["charset"]),
        streamed=typed(bool, fields["streamed"]),
        stored_at=validation.moment(fields["stored_at"]),
        length=length,
        generation=generation,
        chunks=lengths_of(fields["chunks"], len(body)),
        body=body,
        segments=segments,
        sizes=validation.sizes(fields, _least_sizes(segments, codings)),
        fresh_until=None if fresh_until is None else validation.moment(fresh_until),
        replaces=validation.replaced(fields),
        etag=validation.etag(fields),
        validator=validation.validator(fields),
        took=validation.took(fields),
        codings=codings,
        coded=coded,
    )


def _codings(value: object, count: int) -> bytes:
    codings = typed(bytes, value)
    if len(codings) != count or not any(codings):
        raise UnsoundError("wrong codings")
    for number in {*codings} - {Coding.PLAIN}:
        require_known(number)
    return codings


def _least_sizes(segments: Sequence[tuple[int, int]], codings: bytes) -> list[int]:
    """Return what each part of an object is larger than."""
    pairs = zip(segments, codings or bytes(len(segments)), strict=bool(segments))
    return [PREFIX_SIZE + (0 if coding else size) for (size, _), coding in pairs]


def _segments(value: object) -> tuple[tuple[int, int], ...]:
    pairs: tuple[tuple[object, object], ...] = typed(tuple, value)
    return tuple([(typed(int, size), typed(int, crc)) for size, crc in pairs])


def _common(fields: Mapping[str, Any]) -> tuple[bytes, dict[str, bytes]]:
    return typed(bytes, fields["key"]), validation.versions(fields["versions"])
