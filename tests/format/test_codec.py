"""Records and segments: what is written comes back, and anything else is an `UnsoundError`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_cached.format.codec import (
    UnsoundError,
    decode_record,
    decode_segment,
    encode_record,
    encode_segment,
    fits,
)
from stream_cached.format.envelope import (
    FORMAT_VERSION,
    MAGIC,
    PREFIX_SIZE,
    ForeignVersionError,
    Own,
    State,
    checksum,
    is_ours,
    key_digest,
    read_prefix,
    size_of_value,
)
from stream_cached.format.progress import (
    Head,
    LeaseRecord,
    LeaseState,
    Progress,
    decode_lease,
    decode_progress,
    encode_lease,
    encode_progress,
)
from stream_cached.format.records import Entry, Index, Marker, Record, Segment, Value
from stream_cached.http.reasons import NotCached
from tests.support.forged import GENERATION, altered, body_of, head_of, pack

OTHER_GENERATION = bytes(range(1, 17))

# -- what there may be

generations = st.binary(min_size=16, max_size=16)
versions: st.SearchStrategy[Mapping[str, bytes]] = st.dictionaries(
    st.text(max_size=20), st.binary(max_size=16), max_size=3
)
bodies = st.lists(st.binary(max_size=40), max_size=6)
printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)
token = st.text("!#$%&'*+-.^_`|~09AZaz", min_size=1, max_size=20).map(str.encode)
field_value = st.binary(max_size=20).filter(lambda value: not set(value) & set(b"\0\n\v\f\r"))
headers = st.lists(
    st.tuples(token.map(lambda name: b"x" + name), field_value.map(bytes.strip)), max_size=4
).map(tuple)
segment_tables: st.SearchStrategy[tuple[tuple[int, int], ...]] = st.lists(
    st.tuples(st.integers(0, 2**40), st.integers(0, 2**32 - 1)), max_size=4
).map(tuple)
header_names = st.text("abz-\xe4 ", min_size=1, max_size=20)
words = st.text("abcxyz-", min_size=1, max_size=64)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    chunks = draw(bodies)
    body = b"".join(chunks)
    segments = () if chunks else draw(segment_tables)
    length = len(body) + sum(length for length, _ in segments)
    return Entry(
        key=draw(st.binary(max_size=16)),
        versions=draw(versions),
        status=draw(st.integers(200, 599).filter(lambda status: status not in (204, 304))),
        headers=draw(headers),
        media_type=draw(st.none() | printable),
        charset=draw(printable),
        streamed=draw(st.booleans()),
        stored_at=draw(st.floats(0, allow_infinity=False)),
        length=length,
        generation=draw(generations),
        chunks=tuple(map(len, chunks)),
        body=body,
        segments=segments,
        replaces=draw(st.none() | st.lists(header_names, max_size=2).map(tuple)),
        took=draw(st.none() | st.floats(0, allow_infinity=False)),
    )


indexes = st.builds(
    Index,
    key=st.binary(max_size=16),
    versions=versions,
    names=st.lists(st.lists(header_names, max_size=4).map(tuple), min_size=1, max_size=4).map(
        tuple
    ),
    variants=st.lists(st.text("0af", min_size=32, max_size=32), max_size=4).map(tuple),
    generation=generations,
)
markers = st.builds(
    Marker,
    key=st.binary(max_size=16),
    versions=versions,
    detail=words,
    generation=generations,
)
values = st.builds(
    Value,
    key=st.binary(max_size=16),
    versions=versions,
    payload=st.binary(max_size=100),
    text=st.booleans(),
    generation=generations,
)
records: st.SearchStrategy[Record] = entries() | indexes | markers | values


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    chunks = draw(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
    return Segment(tuple(map(len, chunks)), draw(st.booleans()), b"".join(chunks))


ENTRY = Entry(
    key=key_digest("a key"),
    versions={"endpoint": b"version"},
    status=200,
    headers=((b"content-type", b"text/csv"), (b"x-two", b"1"), (b"x-two", b"2")),
    media_type="text/csv",
    charset="utf-8",
    streamed=True,
    stored_at=1234.5,
    length=9,
    generation=GENERATION,
    chunks=(3, 0, 6),
    body=b"abcdefghi",
)
IN_SEGMENTS = replace(
    ENTRY, chunks=(), body=b"", length=700, segments=((400, 17), (300, 2**32 - 1))
)
VARIANTS = ("0f" * 16, "a1" * 16)
RENDERED = replace(ENTRY, replaces=())
REPLACED = replace(ENTRY, replaces=("x-user", "vary"))
INDEX = Index(b"k" * 16, {"endpoint": b"version"}, (("accept", "origin"), ()), VARIANTS, GENERATION)
MARKER = Marker(b"k" * 16, {"endpoint": b"version"}, "set-cookie", GENERATION)
VALUE = Value(b"k" * 16, {"endpoint": b"version"}, b'{"a": 1}', True, GENERATION)
SEGMENT = Segment((3, 0, 6), True, b"abcdefghi")

RECORDS: dict[str, Record] = {
    "entry": ENTRY,
    "in segments": IN_SEGMENTS,
    "rendered": RENDERED,
    "replaced": REPLACED,
    "index": INDEX,
    "marker": MARKER,
    "value": VALUE,
}


def _record(data: bytes) -> object:
    """Decode a record, and look at the lengths of its chunks, too."""
    record = decode_record(data)
    if isinstance(record, Entry):
        tuple(record.chunks)
    return record


def _segment(data: bytes) -> object:
    segment = decode_segment(data, GENERATION, 7)
    tuple(segment.chunks)
    return segment


HEAD = Head(201, ((b"vary", b"Accept"),), "text/csv", "utf-8", ("accept",), "0f" * 16)
PROGRESS = Progress(HEAD, 3, (3, 0, 6), b"abcdefghi")
OF_RENDERED = replace(PROGRESS, head=replace(HEAD, replaces=("x-user",)))
CLAIM = LeaseRecord(GENERATION, LeaseState.ALONE, 7, (("accept",), "0f" * 16))


def _progress(data: bytes) -> object:
    return decode_progress(data, GENERATION)


def _claim(data: bytes) -> object:
    return decode_lease(data, "key")


SAMPLES: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "progress": (encode_progress(PROGRESS, GENERATION), _progress),
    "progress of a rendered value": (encode_progress(OF_RENDERED, GENERATION), _progress),
    "lease": (encode_lease(CLAIM, "key"), _claim),
    **{name: (encode_record(record), _record) for name, record in RECORDS.items()},
    "segment": (encode_segment(SEGMENT, GENERATION, 7), _segment),
}

each_sample = pytest.mark.parametrize(("data", "decode"), list(SAMPLES.values()), ids=list(SAMPLES))


def assert_unsound(data: bytes) -> None:
    """Neither reader takes it, and neither raises anything else."""
    for decode in (_record, _segment):
        with pytest.raises(UnsoundError):
            decode(data)


# -- round trips


@settings(deadline=None)
@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    data = encode_record(record)
    assert decode_record(data) == record
    assert is_ours(data)
    assert read_prefix(data).generation == record.generation


@settings(deadline=None)
@given(segments(), generations, st.integers(0, 2**32 - 1))
def test_a_segment_comes_back_as_it_was(segment: Segment, generation: bytes, index: int) -> None:
    data = encode_segment(segment, generation, index)
    assert decode_segment(data, generation, index) == segment
    assert is_ours(data)
    prefix = read_prefix(data)
    assert (prefix.state, prefix.revision) == (State.SEGMENT, index)


@settings(deadline=None)
@given(records)
def test_encoding_what_was_decoded_gives_the_same_bytes(record: Record) -> None:
    data = encode_record(record)
    assert encode_record(decode_record(data)) == data


@settings(deadline=None)
@given(entries(), segments(), st.integers(0, 3_000), st.text(max_size=700))
def test_a_record_fits_where_it_has_at_most_that_size(
    entry: Entry, body: Segment, size: int, text: str
) -> None:
    entry = replace(entry, versions={}, segments=(), media_type=text)
    whole = len(encode_record(replace(entry, chunks=body.chunks, body=body.payload)))
    for limit in (size, whole - 1, whole):
        assert fits(entry, body, limit) == (whole <= limit)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 300_000])
def test_a_body_of_any_size_comes_back(size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    entry = replace(ENTRY, body=body, chunks=(size,), length=size)
    assert decode_record(encode_record(entry)) == entry
    segment = Segment((size,), False, body)
    assert decode_segment(encode_segment(segment, GENERATION, 0), GENERATION, 0) == segment


def test_a_value_of_this_process_has_the_very_body_and_no_copy_of_it_does() -> None:
    segment = Segment((3, 6), False, b"abcabcdef")
    value = encode_segment(segment, GENERATION, 0, Own)
    assert decode_segment(value, GENERATION, 0).payload is segment.payload
    assert size_of_value(value) == len(encode_segment(segment, GENERATION, 0))
    for copied in (bytes(value), value + segment.payload):
        with pytest.raises(UnsoundError):
            decode_segment(copied, GENERATION, 0)


def test_a_table_of_many_chunks_comes_back() -> None:
    entry = replace(ENTRY, body=b"x" * 100_000, chunks=(1,) * 100_000, length=100_000)
    assert decode_record(encode_record(entry)) == entry


def test_the_prefix_can_be_read_by_itself() -> None:
    data = encode_record(ENTRY)
    assert read_prefix(data[:PREFIX_SIZE]) == read_prefix(data)
    assert read_prefix(data).body_length == 9
    assert read_prefix(data).body_checksum == checksum(ENTRY.body)


def test_the_layout_is_the_documented_one() -> None:
    for name in RECORDS:
        data, _ = SAMPLES[name]
        assert pack(read_prefix(data).state, head_of(data), body_of(data)) == data
    data, _ = SAMPLES["segment"]
    table = msgpack.packb(SEGMENT.chunks)
    assert pack(State.SEGMENT, (table, True), SEGMENT.payload, revision=7) == data


# -- damage


@each_sample
def test_every_truncation_is_unsound(data: bytes, decode: Callable[[bytes], object]) -> None:
    for size in range(len(data)):
        with pytest.raises(UnsoundError):
            decode(data[:size])


@each_sample
def test_every_flipped_byte_is_unsound(data: bytes, decode: Callable[[bytes], object]) -> None:
    for position in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[position] ^= mask
            with pytest.raises(UnsoundError):
                decode(bytes(damaged))


@each_sample
@pytest.mark.parametrize("tail", [b"\0", b"x" * 100, MAGIC])
def test_trailing_bytes_are_unsound(
    data: bytes, decode: Callable[[bytes], object], tail: bytes
) -> None:
    with pytest.raises(UnsoundError):
        decode(data + tail)
    with pytest.raises(UnsoundError):
        decode(tail + data)
    with pytest.raises(UnsoundError):
        decode(data + data)


@each_sample
def test_bytes_taken_out_or_put_in_are_unsound(
    data: bytes, decode: Callable[[bytes], object]
) -> None:
    for position in range(len(data)):
        for damaged in (
            data[:position] + data[position + 1 :],
            data[:position] + b"\0" + data[position:],
        ):
            # Out of a run of equal bytes, any one is the same.
            if damaged[: len(data)] != data:
                with pytest.raises(UnsoundError):
                    decode(damaged)


@pytest.mark.parametrize("first", SAMPLES)
def test_two_spliced_at_any_place_are_unsound(first: str) -> None:
    one = SAMPLES[first][0]
    for two, _ in SAMPLES.values():
        for cut in range(1, min(len(one), len(two))):
            spliced = one[:cut] + two[cut:]
            if spliced not in (one, two):
                assert_unsound(spliced)


@settings(deadline=None)
@given(st.data(), records, records)
def test_two_records_spliced_are_one_of_them_or_unsound(
    data: st.DataObject, first: Record, second: Record
) -> None:
    one, two = encode_record(first), encode_record(second)
    spliced = (
        one[: data.draw(st.integers(0, len(one)))] + two[data.draw(st.integers(0, len(two))) :]
    )
    try:
        decoded = decode_record(spliced)
    except UnsoundError:
        return
    assert spliced in (one, two)
    assert decoded in (first, second)


def test_the_parts_of_two_runs_of_equal_lengths_do_not_fit() -> None:
    other = replace(ENTRY, generation=OTHER_GENERATION, stored_at=99.5, body=b"ABCDEFGHI")
    one, two = encode_record(ENTRY), encode_record(other)
    assert len(one) == len(two)
    edge = PREFIX_SIZE + read_prefix(one).head_length
    parts = [
        (one[:PREFIX_SIZE], two[:PREFIX_SIZE]),
        (one[PREFIX_SIZE:edge], two[PREFIX_SIZE:edge]),
        (one[edge:], two[edge:]),
    ]
    for choice in range(1, 7):
        mixed = b"".join(pair[choice >> position & 1] for position, pair in enumerate(parts))
        assert_unsound(mixed)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_unsound(data: bytes) -> None:
    assert_unsound(data)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_behind_the_magic_are_unsound(data: bytes) -> None:
    assert_unsound(MAGIC + data)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_behind_the_magic_and_the_version_are_unsound(data: bytes) -> None:
    assert_unsound(MAGIC + bytes([FORMAT_VERSION]) + data)


@settings(deadline=None)
@given(st.sampled_from(State), st.binary(max_size=100), st.binary(max_size=50))
def test_an_arbitrary_head_with_right_checksums_is_unsound(
    state: State, packed: bytes, body: bytes
) -> None:
    assert_unsound(pack(state, None, body, packed=packed))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 5), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.sampled_from(State), plain, st.binary(max_size=9))
def test_any_structure_for_a_head_is_unsound(state: State, head: object, body: bytes) -> None:
    with pytest.raises(UnsoundError):
        decode_record(pack(state, head, body))


@pytest.mark.parametrize("name", RECORDS)
@settings(deadline=None)
@given(st.data())
def test_any_value_in_place_of_a_field_is_unsound_or_sound_as_a_whole(
    name: str, data: st.DataObject
) -> None:
    original, _ = SAMPLES[name]
    prefix, head = read_prefix(original), head_of(original)
    body = body_of(original)
    field = data.draw(st.sampled_from(sorted(head)))
    value = data.draw(plain)
    try:
        decoded = _record(pack(prefix.state, {**head, field: value}, body))
    except UnsoundError:
        return
    # What was taken is what our own encoder would write, apart from the way it packs it.
    assert type(decoded) is type(RECORDS[name])
    assert isinstance(decoded, Record)
    assert decode_record(encode_record(decoded)) == decoded or value != value
    del head[field]
    if field != "replaces":
        assert_unsound(pack(prefix.state, head, body))


@settings(deadline=None)
@given(plain, st.binary(max_size=9))
def test_any_structure_for_a_table_of_chunks_is_unsound_or_fits(head: object, body: bytes) -> None:
    for stored in (head, (msgpack.packb(head), False)):
        segment = None
        with suppress(UnsoundError):
            segment = decode_segment(pack(State.SEGMENT, stored, body), GENERATION, 0)
            tuple(segment.chunks)
        if segment is not None and not _is_unsound(segment):
            assert sum(segment.chunks) == len(segment.payload) == len(body)
            assert segment.chunks


def _is_unsound(segment: Segment) -> bool:
    try:
        return not segment.chunks
    except UnsoundError:
        return True


@pytest.mark.parametrize(
    "head",
    [
        ((3, 6), 1),
        ((3, 6), None),
        ((3, 7), False),
        ((-1, 10), False),
        ((9.0,), False),
        ((True, 8), False),
        ((), False),
        (9, False),
        ("abc", False),
        ({9: 9}, False),
        ((3, 6),),
        ((3, 6), False, False),
        None,
        {"chunks": (9,), "continues": False},
    ],
)
def test_a_table_of_chunks_that_does_not_fit_is_unsound(head: object) -> None:
    assert_unsound(pack(State.SEGMENT, head, b"abcdefghi", revision=7))
    if isinstance(head, tuple):
        packed = (msgpack.packb(head[0]), *head[1:])
        assert_unsound(pack(State.SEGMENT, packed, b"abcdefghi", revision=7))


@pytest.mark.parametrize("table", [(), b"", b"\x90", b"\xc1", b"\xdd\xff\xff\xff\xff"])
def test_a_segment_without_a_chunk_is_unsound(table: object) -> None:
    assert_unsound(pack(State.SEGMENT, (table, False), b"", revision=7))


def test_lengths_are_unpacked_only_when_they_are_looked_at() -> None:
    entry = decode_record(altered(encode_record(ENTRY), chunks=msgpack.packb((3, 5))))
    segment = decode_segment(
        pack(State.SEGMENT, (b"\xdd\xff\xff\xff\xff", True), b"abc", revision=7), GENERATION, 7
    )
    assert isinstance(entry, Entry)
    assert (entry.body, segment.payload) == (ENTRY.body, b"abc")
    for chunks in (entry.chunks, segment.chunks):
        for look in (len, tuple, hash, lambda lengths: lengths[0], lambda lengths: lengths == (3,)):
            with pytest.raises(UnsoundError):
                look(chunks)


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 8},
        {"length": 10},
        {"length": -9},
        {"chunks": (3, 5)},
        {"chunks": (10, -1)},
        {"chunks": ()},
        {"segments": ((1, 0),)},
        {"segments": ((-9, 0),), "length": 0},
        {"segments": ((5, 0), (-5, 0))},
        {"segments": (5,)},
        {"segments": ((5, 0, 0),)},
        {"status": True},
        {"status": "200"},
        {"headers": (("name", b"value"),)},
        {"headers": (b"ab",)},
        {"headers": {b"ab": 1}},
        {"media_type": b"text/csv"},
        {"charset": None},
        {"streamed": 1},
        {"stored_at": 1},
        {"versions": ()},
        {"versions": {"name": "text"}},
        {"versions": {b"name": b"value"}},
        {"key": "text"},
    ],
    ids=str,
)
def test_an_entry_whose_fields_do_not_fit_is_unsound(fields: dict[str, object]) -> None:
    head = head_of(encode_record(ENTRY))
    assert_unsound(pack(State.ENTRY, {**head, **fields}, ENTRY.body))
    if "chunks" in fields:
        head["chunks"] = msgpack.packb(fields["chunks"])
        assert_unsound(pack(State.ENTRY, head, ENTRY.body))


@pytest.mark.parametrize(
    "fields",
    [
        {"chunks": (0,)},
        {"length": 701},
        {"length": 1, "segments": ((True, 0),)},
        {"length": 0, "segments": ((False, 0),)},
        *({"segments": ((400, crc), (300, 1))} for crc in (True, None, 1.0, b"\x01", (1,))),
        *({"segments": ((size, 1), (300, 1))} for size in ("400", 400.0, None, (400,))),
        {"segments": ((400, 1), (300,))},
        {"segments": ((400, 1), 300)},
        {"segments": ((400, 1), (-1, 1), (301, 1))},
        {"segments": {400: 1, 300: 1}},
        {"segments": {(400, 1): 1}},
        {"segments": ()},
    ],
    ids=str,
)
def test_a_table_of_segments_that_does_not_fit_is_unsound(fields: dict[str, object]) -> None:
    assert_unsound(altered(encode_record(IN_SEGMENTS), **fields))


LENGTH = b"content-length"
CODING = b"transfer-encoding"


@pytest.mark.parametrize(
    "fields",
    [
        *({"status": status} for status in (-200, 0, 99, 101, 199, 600, 999, 2**64 - 1, 200.0)),
        *({"status": status} for status in (204, 304)),  # with a body
        *({"stored_at": float(text)} for text in ("nan", "inf", "-inf", "-1", "-1e300")),
        *({"media_type": text} for text in ("text/csv\r\nx: y", "a\0", "\x7f", "\x85", "\u2028")),
        *({"charset": text} for text in ("utf-8\n", "\x1b[2J", 8)),
        *({"streamed": other} for other in (0, None, "yes")),
        *({"length": other} for other in (True, 9.0, 2**64 - 1, None, b"9")),
        {"chunks": (3, True, 5)},
        {"chunks": (3, 0, 6.0)},
        {"chunks": (2**63, 2**63)},
        {"chunks": {9: 9}},
        {"chunks": b"\x09"},
        {"chunks": b""},
        {"chunks": b"\x93\x03\x00"},
        {"segments": ((0, 0),)},  # a body in two places
        {"segments": ((True, 0),)},
        {"segments": {0: 0}},
        {"segments": None},
        {"key": bytearray(b"key").decode()},
        {"versions": {"name": None}},
        {"versions": ((b"name", b"value"),)},
        {"media_type": msgpack.ExtType(5, b"text/csv")},
        {"stored_at": msgpack.Timestamp(1)},
        {"headers": msgpack.ExtType(127, bytes(8))},
    ],
    ids=str,
)
def test_an_entry_that_says_what_can_not_be_is_unsound(fields: dict[str, object]) -> None:
    assert_unsound(altered(encode_record(ENTRY), **fields))


@pytest.mark.parametrize(
    "fields",
    [
        *(((name, b"x"),) for name in (b"", b" ", b"x y", b"x:", b"x\r\ny", b"x\0", b"\xe4", b'"')),
        *(((b"x", value),) for value in (b"a\rb", b"a\nb", b"a\0b", b"a\r\nset-cookie: b", b"\n")),
        *(((b"x", value),) for value in (b"a\vb", b"\f", b"a\r")),
        ((b"x", b"a"), (b"y", b"b\n"), (b"z", b"c")),
        ((LENGTH, b"8"),),
        ((LENGTH, b"9"), (LENGTH, b"8")),
        ((b"Content-LENGTH", b"8"), (LENGTH, b"9")),
        ((b"Content-Length", b"8"),),
        ((b"Content-Length", b"9"), (b"Transfer-Encoding", b"chunked")),
        ((LENGTH, b"0" * 20 + b"9"),),
        *(((LENGTH, value),) for value in (b"", b"9, 9", b"+9", b"-9", b"9.0", b"0x9", b"\xb29")),
        ((LENGTH, b"9" * 5000),),
        ((LENGTH, b"0" * 5000 + b"9"),),
        ((LENGTH, b"9"), (CODING, b"chunked")),
        ((CODING, b"gzip"),),
        ((CODING, b"gzip, chunked"),),
        ((CODING, b"chunked"), (CODING, b"chunked")),
        ((b"x", b"a", b"b"),),
        ((b"x",),),
        ((b"x", b"a"), (b"x",)),
        ((b"x", None),),
        (("x", b"a"),),
        ((b"x", "a"),),
        (("x", "a"),),
        (None,),
        (((b"x", b"a"),),),
        [b"xa"],
        b"xa",
        None,
    ],
    ids=repr,
)
def test_header_fields_that_no_server_can_send_as_they_are_are_unsound(fields: object) -> None:
    assert_unsound(altered(encode_record(ENTRY), headers=fields))


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ((LENGTH, b"9"),),
        ((LENGTH, b"9"), (b"CONTENT-length", b"009")),
        ((CODING, b"Chunked"),),
        ((b"X-Any_name!#$%&'*+.^`|~", b'\x80\xff \t any, "value"\x01\x7f'),),
        ((b"x-empty", b""),),
    ],
    ids=repr,
)
def test_header_fields_that_a_server_sends_are_sound(fields: object) -> None:
    entry = decode_record(altered(encode_record(ENTRY), headers=fields))
    assert isinstance(entry, Entry)
    assert entry.headers == fields


@pytest.mark.parametrize("value", [b" x", b"x ", b"\tx \t", b" "])
def test_white_space_around_a_value_is_no_part_of_it(value: bytes) -> None:
    # RFC 9110, section 5.5; and there are servers that refuse it.
    entry = decode_record(encode_record(replace(ENTRY, headers=((b"x-two", value),))))
    assert isinstance(entry, Entry)
    assert entry.headers == ((b"x-two", value.strip()),)


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_is_sound_without_one(status: int) -> None:
    entry = replace(ENTRY, status=status, length=0, chunks=(), body=b"")
    assert decode_record(encode_record(entry)) == entry


@pytest.mark.parametrize(
    "fields",
    [
        *({"names": (names,)} for names in (("",), ("accept\n",), ("a\r\nb",), ("\u0100",))),
        *({"names": (names,)} for names in (("\0",), ("\x7f",), (b"accept",), "", "accept", None)),
        *({"names": names} for names in ((), "accept", None, ("accept",), (("accept",), "a"))),
        {"names": (("accept", "a", ""),)},
        {"names": (("accept",), {"a": 1})},
        {"names": {"accept": 1}},
        *({"variants": (variant,)} for variant in ("", "0f" * 15, "0F" * 16, "0f" * 16 + "\n", 7)),
        {"variants": ("0f" * 32,)},
        {"variants": ("0f" * 16 + "\n" + "0f" * 16,)},
        {"variants": "0f" * 16},
    ],
    ids=str,
)
def test_an_index_that_selects_nothing_is_unsound(fields: dict[str, object]) -> None:
    assert_unsound(altered(encode_record(INDEX), **fields))


def test_an_index_of_thousands_of_variants_comes_back() -> None:
    index = replace(INDEX, variants=tuple(f"{number:032x}" for number in range(30_000)))
    assert decode_record(encode_record(index)) == index


@pytest.mark.parametrize(
    "detail",
    ["", "a" * 65, "Set-Cookie", "a b", 'a"; hit', "a\r\nx: y", "a\n", "é", b"status", None, 1],
)
def test_a_marker_whose_detail_is_no_word_is_unsound(detail: object) -> None:
    assert_unsound(altered(encode_record(MARKER), detail=detail))


@pytest.mark.parametrize("reason", NotCached)
def test_every_reason_may_stand_in_a_marker(reason: NotCached) -> None:
    marker = replace(MARKER, detail=reason.word)
    assert decode_record(encode_record(marker)) == marker


@pytest.mark.parametrize("text", [0, 1, None, "yes"])
def test_a_value_that_is_neither_text_nor_bytes_is_unsound(text: object) -> None:
    assert_unsound(altered(encode_record(VALUE), text=text))


@pytest.mark.parametrize("name", ["index", "marker"])
def test_a_body_where_there_is_none_is_unsound(name: str) -> None:
    data, _ = SAMPLES[name]
    assert_unsound(pack(read_prefix(data).state, head_of(data), b"x"))


def test_a_lone_surrogate_in_the_key_of_a_version_comes_back() -> None:
    marker = replace(MARKER, versions={"\udc80:revoked": b"version"})
    assert decode_record(encode_record(marker)) == marker


def test_a_lone_surrogate_elsewhere_is_unsound() -> None:
    text = "\udc80"
    assert_unsound(altered(encode_record(ENTRY), media_type=text))
    assert_unsound(altered(encode_record(ENTRY), charset=text))
    assert_unsound(altered(encode_record(INDEX), names=((text,),)))
    assert_unsound(altered(encode_record(MARKER), detail=text))


@pytest.mark.parametrize("name", RECORDS)
def test_a_head_that_lacks_a_field_is_unsound(name: str) -> None:
    data, _ = SAMPLES[name]
    prefix, head = read_prefix(data), head_of(data)
    # A record without `replaces` is that of a response.
    for field in head.keys() - {"replaces"}:
        without = {other: value for other, value in head.items() if other != field}
        assert_unsound(pack(prefix.state, without, body_of(data)))


@pytest.mark.parametrize("name", RECORDS)
def test_a_head_with_one_field_more_is_unsound(name: str) -> None:
    assert_unsound(altered(SAMPLES[name][0], other=None))


@pytest.mark.parametrize("name", RECORDS)
def test_of_a_field_that_is_there_twice_the_last_one_counts(name: str) -> None:
    data, _ = SAMPLES[name]
    head = head_of(data)
    once = msgpack.packb(head)
    twice = bytes([once[0] + 1]) + b"\xa3key\xc4\x01x" + once[1:]
    assert (
        decode_record(pack(read_prefix(data).state, None, body_of(data), packed=twice))
        == RECORDS[name]
    )
    twice = bytes([once[0] + 1]) + once[1:] + b"\xa3key\xa1x"
    assert_unsound(pack(read_prefix(data).state, None, body_of(data), packed=twice))


@pytest.mark.matrix("opening", "depth")
@pytest.mark.parametrize("depth", [100, 511, 512, 1024, 5_000, 1_000_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\x01", b"\x81"], ids=["list", "dict", "keys"])
@pytest.mark.parametrize("state", State)
def test_a_deep_head_with_right_checksums_is_unsound(
    state: State, opening: bytes, depth: int
) -> None:
    assert_unsound(pack(state, None, packed=opening * depth + b"\xc0"))
    assert_unsound(pack(state, None, packed=opening * depth))


@pytest.mark.matrix
@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\xc0\xc0",
        b"\xdd\xff\xff\xff\xff",  # 4 GiB of items
        b"\xdf\xff\xff\xff\xff",  # 4 GiB of pairs
        b"\xc6\xff\xff\xff\xff",  # 4 GiB of bytes
        b"\xdb\xff\xff\xff\xff",  # 4 GiB of text
        b"\xa2\xff\xfe",  # text that is not UTF-8
        b"\x81\x80\x01",  # a dict for a key
        b"\x81\x91\x90\x01",
        b"\xd6\xff\xff\xff\xff\xff",  # a timestamp
        b"\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp beyond time
        b"\xc7\x03\xff\x00\x00\x00",  # one of a wrong length
        b"\xd4\x05\x00",  # an extension
    ],
    ids=bytes.hex,
)
@pytest.mark.parametrize("state", State)
def test_a_malformed_head_with_right_checksums_is_unsound(state: State, packed: bytes) -> None:
    assert_unsound(pack(state, None, packed=packed))


@pytest.mark.parametrize("field", ["head_length", "body_length"])
@pytest.mark.parametrize("length", [2**31, 2**32 - 1])
def test_a_huge_declared_length_is_unsound(field: str, length: int) -> None:
    head = head_of(encode_record(ENTRY))
    if field == "head_length":
        data = pack(State.ENTRY, head, ENTRY.body, head_length=length)
    else:
        data = pack(State.ENTRY, head, ENTRY.body, body_length=length)
    assert_unsound(data)


@pytest.mark.parametrize("length", [2**40, 2**63, 2**64 - 1])
def test_a_body_declared_larger_than_any_memory_is_unsound(length: int) -> None:
    head = head_of(encode_record(ENTRY))
    assert_unsound(pack(State.ENTRY, head, ENTRY.body, body_length=length))


def test_lengths_that_only_fit_together_are_unsound() -> None:
    data = encode_record(ENTRY)
    prefix, head = read_prefix(data), head_of(data)
    for shift in (-1, 1):
        assert_unsound(
            pack(
                State.ENTRY,
                head,
                ENTRY.body,
                head_length=prefix.head_length + shift,
                body_length=prefix.body_length - shift,
            )
        )


# -- one in the place of another


def test_a_segment_of_another_generation_is_unsound() -> None:
    data = encode_segment(SEGMENT, GENERATION, 7)
    with pytest.raises(UnsoundError, match="another segment"):
        decode_segment(data, OTHER_GENERATION, 7)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_segment_of_another_index_is_unsound(index: int) -> None:
    data = encode_segment(SEGMENT, GENERATION, index)
    for other in (index - 1, index + 1, 0 if index else 1):
        with pytest.raises(UnsoundError, match="another segment"):
            decode_segment(data, GENERATION, other)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_where_a_segment_is_expected_is_unsound(name: str) -> None:
    with pytest.raises(UnsoundError):
        decode_segment(SAMPLES[name][0], GENERATION, 0)


def test_a_segment_where_a_record_is_expected_is_unsound() -> None:
    with pytest.raises(UnsoundError):
        decode_record(SAMPLES["segment"][0])


def test_the_head_of_one_state_under_another_is_unsound() -> None:
    for data, _ in SAMPLES.values():
        prefix, head = read_prefix(data), head_of(data)
        for state in set(range(256)) - {prefix.state}:
            assert_unsound(pack(state, head, body_of(data), revision=prefix.revision))


# -- versions and the magic


@each_sample
def test_another_format_version_is_foreign(data: bytes, decode: Callable[[bytes], object]) -> None:
    for version in range(256):
        if version == FORMAT_VERSION:
            continue
        other = data[:8] + bytes([version]) + data[9:]
        with pytest.raises(ForeignVersionError, match=f"format version {version}"):
            decode(other)


def test_a_foreign_version_need_not_have_our_layout() -> None:
    data = MAGIC + bytes([FORMAT_VERSION + 1]) + bytes(range(100))
    with pytest.raises(ForeignVersionError):
        decode_record(data)
    with pytest.raises(ForeignVersionError):
        read_prefix(data)
    assert issubclass(ForeignVersionError, UnsoundError)


@pytest.mark.matrix
@pytest.mark.parametrize("size", range(PREFIX_SIZE))
def test_what_is_cut_within_the_prefix_is_nobodys_version(size: int) -> None:
    data = MAGIC + bytes([FORMAT_VERSION + 1]) + bytes(100)
    with pytest.raises(UnsoundError) as unsound:
        read_prefix(data[:size])
    assert type(unsound.value) is UnsoundError


def test_bytes_with_our_magic_claim_to_be_ours_also_where_they_are_cut() -> None:
    data = encode_record(ENTRY)
    for size in range(1, len(data) + 1):
        assert is_ours(data[:size])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": 1}',
        b"\x80\x04K\x01.",
        b"\xc0",
        b"strmch\n",
        b"\xc1strmch ",
        b"\xc1strmcX",
    ],
)
def test_other_bytes_do_not_claim_to_be_ours(data: bytes) -> None:
    assert not is_ours(data)


@settings(deadline=None)
@given(plain)
def test_nothing_that_msgpack_writes_claims_to_be_ours(value: object) -> None:
    assert not is_ours(msgpack.packb(value))


@settings(deadline=None)
@given(st.text(min_size=1))
def test_no_text_claims_to_be_ours(text: str) -> None:
    assert not is_ours(text.encode("utf-8", "surrogatepass"))


# -- digests


@settings(deadline=None)
@given(st.text(), st.text())
def test_two_keys_have_two_digests(one: str, two: str) -> None:
    assert (key_digest(one) == key_digest(two)) == (one == two)
    assert len(key_digest(one)) == 16


def test_a_key_with_a_lone_surrogate_has_a_digest() -> None:
    assert key_digest("\udc80") != key_digest("\udc81")
