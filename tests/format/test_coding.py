"""Bounded inflation, and records that say how their bodies are coded."""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cached.compression import has_zstd
from stream_cached.format import coding as of_format
from stream_cached.format.codec import (
    coded_segment,
    decode_record,
    decode_segment,
    encode_record,
    encode_segment,
)
from stream_cached.format.coding import Coding, compressed, inflate, inflated
from stream_cached.format.envelope import ForeignVersionError, State, pack
from stream_cached.format.records import Entry, Segment
from stream_cached.format.validation import UnsoundError
from stream_cached.limits import VALUE_SIZE

GENERATION = bytes(range(16))
BODY = b"a line of text\n" * 1000
CODINGS = [Coding.ZLIB, *([Coding.ZSTD] if has_zstd() else [])]

each_coding = pytest.mark.parametrize("coding", CODINGS)


def entry(**fields: Any) -> Entry:
    known: dict[str, Any] = {
        "key": bytes(16),
        "versions": {},
        "status": 200,
        "headers": (),
        "media_type": "text/plain",
        "charset": "utf-8",
        "streamed": True,
        "stored_at": 1.0,
        "length": len(BODY),
        "generation": GENERATION,
    }
    return Entry(**{**known, **fields})


def inline(coding: Coding) -> Entry:
    coded = compressed(coding, 1, BODY)
    return entry(chunks=(len(BODY),), body=BODY, codings=bytes([coding]), coded=coded)


@each_coding
@given(data=st.binary(min_size=1, max_size=3000))
def test_what_is_compressed_is_inflated_to_its_very_length(coding: Coding, data: bytes) -> None:
    coded = compressed(coding, 1, data)
    assert inflated(coding, coded, len(data)) == data
    for size in (len(data) - 1, len(data) + 1, 2 * len(data) + 1):
        with pytest.raises(UnsoundError):
            inflated(coding, coded, size)
    for other in (coded[:-1], coded + b"\0", coded[:5], b""):
        with pytest.raises(UnsoundError):
            inflated(coding, other, len(data))


@each_coding
@given(data=st.binary(max_size=300), size=st.integers(-1, 400))
def test_no_bytes_inflate_to_anything_else(coding: Coding, data: bytes, size: int) -> None:
    with contextlib.suppress(UnsoundError):
        assert len(inflated(coding, data, size)) == size


@each_coding
def test_a_bomb_takes_no_memory(coding: Coding) -> None:
    bomb = compressed(coding, 9, bytes(100_000_000))
    tracemalloc.start()
    try:
        for size in (10, VALUE_SIZE, VALUE_SIZE + 1, 100_000_000):
            with pytest.raises(UnsoundError):
                inflated(coding, bomb, size)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_value_as_long_as_it_may_be_is_inflated() -> None:
    for size in range(1, 300):
        assert inflate(zlib.compress(bytes(size)), size) == bytes(size)
        with pytest.raises(ValueError, match="more than"):
            inflate(zlib.compress(bytes(size + 1)), size)


@each_coding
def test_a_record_with_a_compressed_body(coding: Coding) -> None:
    record = inline(coding)
    value = encode_record(record)
    assert len(value) < len(BODY) / 10
    found = decode_record(value)
    assert found == record
    assert isinstance(found, Entry)
    assert (found.body, found.coded) == (BODY, record.coded)
    assert encode_record(found) == value


@each_coding
def test_a_segment_that_is_compressed(coding: Coding) -> None:
    segment = Segment((10, len(BODY) - 10), True, BODY)
    value = encode_segment(segment, GENERATION, 3)
    coded = coded_segment(value, coding, lambda data: compressed(coding, 1, data))
    assert coded is not None
    assert len(coded) < len(value) / 10
    assert decode_segment(coded, GENERATION, 3) == segment
    assert decode_segment(coded, GENERATION, 3, len(BODY)) == segment
    for generation, index, length in (
        (bytes(16), 3, None),
        (GENERATION, 4, None),
        (GENERATION, 3, 5),
    ):
        with pytest.raises(UnsoundError):
            decode_segment(coded, generation, index, length)


def test_a_segment_that_does_not_shrink_stays_as_it_is() -> None:
    value = encode_segment(Segment((3,), False, b"abc"), GENERATION, 0)
    assert coded_segment(value, Coding.ZLIB, lambda data: zlib.compress(data)) is None


def test_a_record_says_how_each_segment_is_coded() -> None:
    record = entry(segments=((10_000, 1), (5_000, 2)), sizes=(1, 10_100, 80), codings=b"\0\1")
    assert decode_record(encode_record(record)) == record
    for sizes in ((1, 10_050, 80), (1, 10_100, 60)):
        with pytest.raises(UnsoundError):
            decode_record(encode_record(replace(record, sizes=sizes)))
    for codings in (b"\0\0", b"\1", b"\1\1\1"):
        with pytest.raises(UnsoundError):
            decode_record(encode_record(replace(record, codings=codings)))


@pytest.mark.parametrize("number", [3, 99, 255])
def test_a_coding_that_is_not_known_is_foreign(number: int) -> None:
    value = encode_record(replace(inline(Coding.ZLIB), codings=bytes([number])))
    with pytest.raises(ForeignVersionError):
        decode_record(value)
    segments = entry(segments=((len(BODY), 1),), codings=bytes([number]))
    with pytest.raises(ForeignVersionError):
        decode_record(encode_record(segments))
    head = (msgpack.packb((5,)), False, number, 5)
    with pytest.raises(ForeignVersionError):
        decode_segment(pack(State.CODED_SEGMENT, GENERATION, 0, head, b"abc"), GENERATION, 0)


def test_a_coding_whose_library_is_missing_is_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_format, "_zstd", lambda: None)
    record = replace(inline(Coding.ZLIB), codings=bytes([Coding.ZSTD]))
    with pytest.raises(ForeignVersionError):
        decode_record(encode_record(record))


def test_the_states_are_no_others() -> None:
    plain = encode_record(entry(chunks=(len(BODY),), body=BODY))
    # A version that knows of no codings takes this for damage, which is a miss.
    assert plain[9] == State.ENTRY
    assert encode_record(inline(Coding.ZLIB))[9] == State.CODED_ENTRY


@pytest.mark.parametrize(
    "head",
    [
        (),
        (b"", False),
        (b"\x91\x05", False, 1),
        (b"\x91\x05", False, "1", 5),
        (b"\x91\x05", False, 1, "5"),
        (b"\x91\x05", False, 1, -5),
        (b"\x91\x05", False, 1, True),
        (b"\x91\x05", False, True, 5),
        (b"\x91\x05", False, 0, 5),
        (b"\x91\x04", False, 1, 5),
        (b"\x91\x05", 1, 1, 5),
    ],
)
def test_a_malformed_head_of_a_compressed_segment_is_unsound(head: tuple[object, ...]) -> None:
    value = pack(State.CODED_SEGMENT, GENERATION, 0, head, zlib.compress(b"abcde"))
    with pytest.raises(UnsoundError):
        len(decode_segment(value, GENERATION, 0).chunks)
