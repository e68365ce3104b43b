"""The ids of server-sent events, wherever a chunk ends: what a client has, and what comes after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cached.http.event_ids import (
    AfterEvent,
    EventIds,
    name_of_run,
    number_of,
    without_ids,
)
from tests.support.event_stream import parsed
from tests.support.selection import examples

GENERATION = b"\xc1" + bytes(range(15))
RUN = name_of_run(GENERATION).decode()

LINES = st.sampled_from(
    [
        *(b"data: one", b"data:two", b"data", b"data:", b": comment", b"event: kind", b"retry: 5"),
        *(b"id: own", b"id:7", b"id:  ", b"id: a\0b", b"id:", b"id: ", b"id", b"idx: 1", b"i"),
        *(
            b"id: " + "ä:1.2".encode(),
            b"data: id: 7",
            b" id: 7",
            b"",
            b"",
            b"",
            b"\xef\xbb\xbfid: 1",
        ),
    ]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
BODIES = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf"]), st.lists(st.tuples(LINES, ENDS), max_size=24)
).map(lambda drawn: drawn[0] + b"".join(line + end for line, end in drawn[1]))
CUTS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def cut(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = number = 0
    while at < len(body):
        size = sizes[number % len(sizes)]
        yield body[at : at + size]
        at, number = at + size, number + 1


def with_ids(body: bytes, sizes: list[int] | None = None) -> bytes:
    ids = EventIds(GENERATION)
    return b"".join(map(ids.add, cut(body, sizes or [len(body) or 1])))


def after(body: bytes, number: int, sizes: list[int]) -> bytes | None:
    event, rest = AfterEvent(GENERATION, number), None
    for chunk in cut(body, sizes):
        rest = event.rest(chunk) if rest is None else rest + chunk
    return rest


@examples(400)
@given(BODIES, CUTS)
def test_a_client_has_the_same_events_with_ids_that_name_them(
    body: bytes, sizes: list[int]
) -> None:
    sent = with_ids(body)
    assert with_ids(body, sizes) == sent
    assert without_ids(sent, GENERATION) == body
    plain, found = parsed(body), parsed(sent)
    assert [(event.data, event.type) for event in found] == [
        (event.data, event.type) for event in plain
    ]
    for before, event in zip(plain, found, strict=True):
        if not event.last_id:
            # The endpoint has reset it.
            assert not before.last_id
            continue
        run, _, rest = event.last_id.partition(".")
        number, colon, own = rest.partition(":")
        assert run == RUN
        assert number_of(event.last_id.encode(), GENERATION) == int(number)
        assert not colon or own == before.last_id


@examples(400)
@given(BODIES, CUTS)
def test_a_client_goes_on_after_the_event_that_it_has_had_last(
    body: bytes, sizes: list[int]
) -> None:
    sent = with_ids(body)
    events = parsed(sent)
    last = 0
    for at, event in enumerate(events):
        number = number_of(event.last_id.encode(), GENERATION)
        if number is None or number == last:
            continue
        last = number
        rest = after(sent, number, sizes)
        assert rest is not None
        assert rest.lstrip(b"\n") in sent
        assert [each.data for each in parsed(rest)] == [each.data for each in events[at + 1 :]]
    assert after(sent, last + 100, sizes) is None


def test_the_ids_of_an_endpoint_stay_recognisable_and_no_event_is_counted_twice() -> None:
    body = (
        b"data: a\n\nid: 7\ndata: b\n\n: ping\n\nid: 7\nid: 8\ndata: c\n\nevent: e\n\ndata: d\n\n"
    )
    ids = [event.last_id for event in parsed(with_ids(body))]
    assert ids == [f"{RUN}.1", f"{RUN}.2:7", f"{RUN}.3:8", f"{RUN}.4"]


@pytest.mark.parametrize("ignored", [b"id: \0\n\n", b"id: 7\nid\n\n", b"id: 7\nid:\ndata: a\n\n"])
def test_no_two_events_have_one_number(ignored: bytes) -> None:
    sent = with_ids(ignored + b"data: b\n\ndata: c\n\n")
    *_, before, last = parsed(sent)
    assert number_of(before.last_id.encode(), GENERATION) == 2
    rest = after(sent, 2, [len(sent)])
    assert rest is not None
    assert parsed(rest) == [last]


@pytest.mark.parametrize("size", range(1, 9))
def test_no_byte_is_held_back(size: int) -> None:
    body = b"id: 7\r\ndata: a\r\n\r\ndata: b\r\r"
    ids, fed, sent = EventIds(GENERATION), b"", b""
    for chunk in cut(body, [size]):
        fed, sent = fed + chunk, sent + ids.add(chunk)
        plain = sent.replace(f"{RUN}.1:".encode(), b"").replace(f"id: {RUN}.2\n".encode(), b"")
        assert plain == fed


@pytest.mark.parametrize(
    "sent",
    [
        *("", "7", "1", f"{RUN}", f"{RUN}.", f"{RUN}.x", f"{RUN}.0", f"{RUN}.-1", f"{RUN}.1x"),
        *(
            f"{RUN}.{'9' * 5000}",
            f" {RUN}.1",
            f"{RUN}.1 ",
            f"{'x' * 16}.1",
            "\n",
            "\0",
            "x" * 10_000,
        ),
        *(f"{RUN}.1\n", f"{RUN}.\u0661", f"{RUN[:-1]}.1", f"{RUN}:1", f"{RUN}.01"),
    ],
)
def test_any_other_id_names_no_event(sent: str) -> None:
    assert number_of(sent.encode(), GENERATION) is None
    assert number_of(f"{RUN}.1".encode(), b"another generation") is None


def test_a_huge_line_is_read_in_time() -> None:
    body = b"data: " + b"x" * 5_000_000 + b"\n\n" + b"id: " + b"y" * 5_000_000 + b"\ndata: b\n\n"
    sent = with_ids(body, [65536])
    assert parsed(sent)[1].last_id == f"{RUN}.2:" + "y" * 5_000_000
    assert after(sent, 1, [65536]) == sent[sent.index(b"\n\n") + 2 :]
