"""Encode and decode records and segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_cached.format import validation
from stream_cached.format.envelope import PREFIX_SIZE, Prefix, State, pack, unpack
from stream_cached.format.lengths import lengths_of, packed_lengths
from stream_cached.format.records import Entry, Index, Marker, Record, Segment, Value
from stream_cached.format.validation import MALFORMED, optional, typed
from stream_cached.format.validation import UnsoundError as UnsoundError

#: The fields of an entry that are there only if they have a value.
_OPTIONAL = ("replaces", "etag", "sizes", "validator", "took")


def encode_segment(
    segment: Segment, generation: bytes, index: int, kind: type[bytes] = bytes
) -> bytes:
    """Encode a segment; see `pack` for its `kind`."""
    head = (packed_lengths(segment.chunks), segment.continues)
    return pack(State.SEGMENT, generation, index, head, segment.payload, kind=kind)


def decode_segment(data: bytes, generation: bytes, index: int) -> Segment:
    """Decode a segment; raise UnsoundError if it is damaged or not the one asked for."""
    prefix, head, payload = unpack(data)
    if (prefix.state, prefix.generation, prefix.revision) != (State.SEGMENT, generation, index):
        raise UnsoundError("another segment")
    try:
        chunks, continues = head
        lengths = lengths_of(chunks, len(payload), least=1)
        return Segment(lengths, typed(bool, continues), payload, data[:PREFIX_SIZE])
    except MALFORMED as exc:
        raise UnsoundError("malformed table of chunks") from exc


def encode_record(record: Record) -> bytes:
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
                "chunks": packed_lengths(record.chunks),
                "segments": record.segments,
                "fresh_until": record.fresh_until,
                **optional(
                    replaces=record.replaces,
                    etag=record.etag,
                    sizes=record.sizes or None,
                    validator=record.validator,
                    took=record.took,
                ),
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
    """Decode a record; raise UnsoundError if it is damaged, or of another format version."""
    prefix, head, body = unpack(data)
    try:
        return _record(prefix, head, body)
    except MALFORMED as exc:
        raise UnsoundError("malformed head") from exc


def _record(prefix: Prefix, head: object, body: bytes) -> Record:
    generation = prefix.generation
    match prefix.state:
        case State.ENTRY:
            return _entry(head, generation, body)
        case State.VALUE:
            fields = validation.fields(head, 3)
            return Value(*_common(fields), body, typed(bool, fields["text"]), generation)
        case State.SEGMENT | State.LEASE | State.PROGRESS | State.OBJECT:
            raise UnsoundError(f"{prefix.state.name} where a record was expected")
    if body:
        raise UnsoundError("unexpected body")
    if prefix.state is State.INDEX:
        fields = validation.fields(head, 4)
        names = validation.vary_names(fields["names"])
        variants = validation.digests(fields["variants"])
        return Index(*_common(fields), names, variants, generation)
    fields = validation.fields(head, 3)
    return Marker(*_common(fields), validation.word(fields["detail"]), generation)


def _entry(head: object, generation: bytes, body: bytes) -> Entry:
    fields = validation.fields(head, 12, optional=_OPTIONAL)
    length, segments = typed(int, fields["length"]), _segments(fields["segments"])
    if segments and (body or fields["chunks"]):
        raise UnsoundError("a body in two places")
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
        sizes=validation.sizes(fields, [size + PREFIX_SIZE for size, _ in segments]),
        fresh_until=None if fresh_until is None else validation.moment(fresh_until),
        replaces=validation.replaced(fields),
        etag=validation.etag(fields),
        validator=validation.validator(fields),
        took=validation.took(fields),
    )


def _segments(value: object) -> tuple[tuple[int, int], ...]:
    pairs: tuple[tuple[object, object], ...] = typed(tuple, value)
    return tuple([(typed(int, size), typed(int, crc)) for size, crc in pairs])


def _common(fields: Mapping[str, Any]) -> tuple[bytes, dict[str, bytes]]:
    return typed(bytes, fields["key"]), validation.versions(fields["versions"])
