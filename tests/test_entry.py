"""Records and segments: what is written comes back, and anything else is an `UnsoundError`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_cached.entry import (
    FORMAT_VERSION,
    MAGIC,
    PREFIX_SIZE,
    Entry,
    ForeignVersionError,
    Index,
    Marker,
    Record,
    Segment,
    State,
    UnsoundError,
    checksum,
    decode_record,
    decode_segment,
    encode_record,
    encode_segment,
    is_ours,
    key_digest,
    read_prefix,
)

GENERATION = bytes(range(16))
OTHER_GENERATION = bytes(range(1, 17))

# -- what there may be

generations = st.binary(min_size=16, max_size=16)
versions: st.SearchStrategy[Mapping[str, bytes]] = st.dictionaries(
    st.text(max_size=20), st.binary(max_size=16), max_size=3
)
names = st.lists(st.text(max_size=20), max_size=4).map(tuple)
bodies = st.lists(st.binary(max_size=40), max_size=6)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    chunks = draw(bodies)
    body = b"".join(chunks)
    segments = tuple(
        draw(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**32 - 1)), max_size=4))
    )
    return Entry(
        key=draw(st.binary(max_size=16)),
        versions=draw(versions),
        status=draw(st.integers(100, 599)),
        headers=tuple(
            draw(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=4))
        ),
        media_type=draw(st.none() | st.text(max_size=20)),
        charset=draw(st.text(max_size=10)),
        streamed=draw(st.booleans()),
        stored_at=draw(st.floats(allow_nan=False)),
        length=len(body) + sum(length for length, _ in segments),
        generation=draw(generations),
        chunks=tuple(map(len, chunks)),
        body=body,
        segments=segments,
    )


indexes = st.builds(
    Index,
    key=st.binary(max_size=16),
    versions=versions,
    names=names,
    variants=names,
    generation=generations,
)
markers = st.builds(
    Marker,
    key=st.binary(max_size=16),
    versions=versions,
    detail=st.text(max_size=20),
    generation=generations,
)
records: st.SearchStrategy[Record] = entries() | indexes | markers


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
INDEX = Index(b"k" * 16, {"endpoint": b"version"}, ("accept", "origin"), ("a", "b"), GENERATION)
MARKER = Marker(b"k" * 16, {"endpoint": b"version"}, "Set-Cookie", GENERATION)
SEGMENT = Segment((3, 0, 6), True, b"abcdefghi")

RECORDS: dict[str, Record] = {
    "entry": ENTRY,
    "in segments": IN_SEGMENTS,
    "index": INDEX,
    "marker": MARKER,
}


def _record(data: bytes) -> object:
    return decode_record(data)


def _segment(data: bytes) -> object:
    return decode_segment(data, GENERATION, 7)


SAMPLES: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    **{name: (encode_record(record), _record) for name, record in RECORDS.items()},
    "segment": (encode_segment(SEGMENT, GENERATION, 7), _segment),
}

each_sample = pytest.mark.parametrize(("data", "decode"), list(SAMPLES.values()), ids=list(SAMPLES))


def assert_unsound(data: bytes) -> None:
    """Neither reader takes it, and neither raises anything else."""
    for decode in (_record, _segment):
        with pytest.raises(UnsoundError):
            decode(data)


def pack(
    state: int,
    head: object,
    body: bytes = b"",
    *,
    generation: bytes = GENERATION,
    revision: int = 0,
    version: int = FORMAT_VERSION,
    magic: bytes = MAGIC,
    head_length: int | None = None,
    body_length: int | None = None,
    packed: bytes | None = None,
) -> bytes:
    """What `entry.py` documents, written down once more; all checksums are right."""
    packed = msgpack.packb(head) if packed is None else packed
    assert packed is not None
    prefix = struct.pack(
        ">8sBB2x16sIIQII12x",
        magic,
        version,
        state,
        generation,
        revision,
        len(packed) if head_length is None else head_length,
        len(body) if body_length is None else body_length,
        zlib.crc32(packed),
        zlib.crc32(body),
    )[: PREFIX_SIZE - 4].ljust(PREFIX_SIZE - 4, b"\0")
    return prefix + struct.pack(">I", zlib.crc32(prefix)) + packed + body


def head_of(data: bytes) -> Any:
    """The head of a record, to be changed and packed again."""
    prefix = read_prefix(data)
    packed = data[PREFIX_SIZE : PREFIX_SIZE + prefix.head_length]
    return msgpack.unpackb(packed, use_list=False)


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


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 300_000])
def test_a_body_of_any_size_comes_back(size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    entry = replace(ENTRY, body=body, chunks=(size,), length=size)
    assert decode_record(encode_record(entry)) == entry
    segment = Segment((size,), False, body)
    assert decode_segment(encode_segment(segment, GENERATION, 0), GENERATION, 0) == segment


def test_a_table_of_many_chunks_comes_back() -> None:
    entry = replace(ENTRY, body=b"x" * 100_000, chunks=(1,) * 100_000, length=100_000)
    assert decode_record(encode_record(entry)) == entry


def test_the_prefix_can_be_read_by_itself() -> None:
    data = encode_record(ENTRY)
    assert read_prefix(data[:PREFIX_SIZE]) == read_prefix(data)
    assert read_prefix(data).body_length == 9
    assert read_prefix(data).body_checksum == checksum(ENTRY.body)


def test_the_layout_is_the_documented_one() -> None:
    for name in ("entry", "index", "marker"):
        data, _ = SAMPLES[name]
        prefix = read_prefix(data)
        body = data[PREFIX_SIZE + prefix.head_length :]
        assert pack(prefix.state, head_of(data), body) == data
    data, _ = SAMPLES["segment"]
    assert pack(State.SEGMENT, (SEGMENT.chunks, True), SEGMENT.payload, revision=7) == data


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
@pytest.mark.parametrize("second", SAMPLES)
def test_two_spliced_at_any_place_are_unsound(first: str, second: str) -> None:
    one, two = SAMPLES[first][0], SAMPLES[second][0]
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
@given(st.sampled_from([State.ENTRY, State.INDEX, State.UNSTORABLE]), plain, st.binary(max_size=9))
def test_any_structure_for_a_head_is_unsound(state: State, head: object, body: bytes) -> None:
    assert_unsound(pack(state, head, body))


@pytest.mark.parametrize("name", RECORDS)
@settings(deadline=None)
@given(st.data())
def test_any_value_in_place_of_a_field_is_unsound_or_sound_as_a_whole(
    name: str, data: st.DataObject
) -> None:
    original, _ = SAMPLES[name]
    prefix, head = read_prefix(original), head_of(original)
    body = original[PREFIX_SIZE + prefix.head_length :]
    field = data.draw(st.sampled_from(sorted(head)))
    value = data.draw(plain)
    try:
        decoded = decode_record(pack(prefix.state, {**head, field: value}, body))
    except UnsoundError:
        return
    # What was taken is what our own encoder would write, apart from the way it packs it.
    assert type(decoded) is type(RECORDS[name])
    assert decode_record(encode_record(decoded)) == decoded or value != value
    del head[field]
    assert_unsound(pack(prefix.state, head, body))


@settings(deadline=None)
@given(plain, st.binary(max_size=9))
def test_any_structure_for_a_table_of_chunks_is_unsound_or_fits(head: object, body: bytes) -> None:
    try:
        segment = decode_segment(pack(State.SEGMENT, head, body), GENERATION, 0)
    except UnsoundError:
        return
    assert sum(segment.chunks) == len(segment.payload) == len(body)
    assert segment.chunks


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


def test_a_segment_without_a_chunk_is_unsound() -> None:
    assert_unsound(pack(State.SEGMENT, ((), False), b"", revision=7))


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


@pytest.mark.parametrize("name", ["entry", "index", "marker"])
def test_a_head_that_lacks_a_field_is_unsound(name: str) -> None:
    data, _ = SAMPLES[name]
    prefix, head = read_prefix(data), head_of(data)
    body = data[PREFIX_SIZE + prefix.head_length :]
    for field in head:
        without = {other: value for other, value in head.items() if other != field}
        assert_unsound(pack(prefix.state, without, body))


@pytest.mark.parametrize("depth", [100, 511, 512, 1024, 5_000, 1_000_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\x01", b"\x81"], ids=["list", "dict", "keys"])
@pytest.mark.parametrize("state", State)
def test_a_deep_head_with_right_checksums_is_unsound(
    state: State, opening: bytes, depth: int
) -> None:
    assert_unsound(pack(state, None, packed=opening * depth + b"\xc0"))
    assert_unsound(pack(state, None, packed=opening * depth))


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


@pytest.mark.parametrize("state", range(256))
def test_the_head_of_one_state_under_another_is_unsound(state: int) -> None:
    for name in ("entry", "index", "marker", "segment"):
        data, _ = SAMPLES[name]
        prefix, head = read_prefix(data), head_of(data)
        if prefix.state != state:
            body = data[PREFIX_SIZE + prefix.head_length :]
            assert_unsound(pack(state, head, body, revision=prefix.revision))


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
