"""Fuzzes the decoder: `python -m tests.support.fuzz_entry [seconds]`, where atheris is installed.

What is made up has right lengths and checksums, so that it gets to what is behind them.
"""

from __future__ import annotations

import importlib
import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import h11
import msgpack

from stream_cached.format import validation
from stream_cached.format.codec import (
    UnsoundError,
    decode_record,
    decode_segment,
    encode_record,
    encode_segment,
)
from stream_cached.format.envelope import PREFIX_SIZE, read_prefix
from stream_cached.format.records import Entry, Index, Marker, Segment, Value
from tests.support.forged import GENERATION, sealed

_KEY = bytes(16)
_VERSIONS = {"endpoint:version:1": bytes(range(16))}
_HEADERS = (
    (b"content-type", b"text/csv; charset=utf-8"),
    (b"content-length", b"9"),
    (b"vary", b"Accept"),
)


def _entry(**fields: Any) -> Entry:
    common: dict[str, Any] = {
        "key": _KEY,
        "versions": _VERSIONS,
        "status": 200,
        "headers": _HEADERS,
        "media_type": "text/csv",
        "charset": "utf-8",
        "streamed": True,
        "stored_at": 1234.5,
        "length": 9,
        "generation": GENERATION,
    }
    return Entry(**{**common, **fields})


SEEDS: tuple[bytes, ...] = (
    encode_record(_entry(chunks=(3, 0, 6), body=b"abcdefghi")),
    encode_record(_entry(segments=((4, 17), (5, 2**32 - 1)))),
    encode_record(_entry(status=204, headers=(), length=0, streamed=False)),
    encode_record(
        Index(_KEY, _VERSIONS, (("accept", "origin"), ()), ("0f" * 16, "a1" * 16), GENERATION)
    ),
    encode_record(Marker(_KEY, _VERSIONS, "set-cookie", GENERATION)),
    encode_record(Value(_KEY, _VERSIONS, b'{"a": 1}', True, GENERATION)),
    encode_segment(Segment((3, 0, 6), True, b"abcdefghi"), GENERATION, 0),
)


def check(data: bytes) -> None:
    """See that bytes are unsound, or are what our own encoder could have written."""
    _check_segment(data)
    try:
        record = decode_record(data)
        if isinstance(record, Entry):
            tuple(record.chunks)
    except UnsoundError:
        return
    assert decode_record(encode_record(record)) == record
    match record:
        case Entry():
            check_servable(record)
        case Index():
            assert all(name.encode("latin-1") for names in record.names for name in names)
        case Marker():
            assert set(record.detail) <= set("abcdefghijklmnopqrstuvwxyz-")
        case Value():
            assert len(record.payload) < len(data)


def _check_segment(data: bytes) -> None:
    try:
        prefix = read_prefix(data)
        segment = decode_segment(data, prefix.generation, prefix.revision)
        tuple(segment.chunks)
    except UnsoundError:
        return
    assert sum(segment.chunks) == len(segment.payload) < len(data)
    assert segment.chunks


def check_servable(entry: Entry) -> None:
    """See that a strict implementation of HTTP sends the entry, and that a client gets that."""
    if entry.length > 100_000:  # in segments, which are not there
        return
    assert (len(entry.body) == entry.length) != bool(entry.segments) or not entry.length
    body = entry.body or bytes(entry.length)
    server, client = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
    request = h11.Request(method="GET", target="/", headers=[("Host", "example.org")])
    server.receive_data(_sent(client, request, h11.EndOfMessage()))
    assert isinstance(server.next_event(), h11.Request)
    assert isinstance(server.next_event(), h11.EndOfMessage)
    head = h11.Response(status_code=entry.status, headers=list(entry.headers))
    client.receive_data(_sent(server, head, h11.Data(data=body), h11.EndOfMessage()))
    client.receive_data(b"")
    received = iter(client.next_event, None)
    response = next(received)
    assert isinstance(response, h11.Response)
    assert response.status_code == entry.status
    assert _end_to_end(response.headers) == _end_to_end(entry.headers)
    parts = []
    for event in received:
        if not isinstance(event, h11.Data):
            assert isinstance(event, h11.EndOfMessage)
            break
        parts.append(event.data)
    assert b"".join(parts) == body
    assert client.trailing_data[0] == b""


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the header fields that are none of h11's business; it sends a Host before others."""
    return sorted((name.lower(), value) for name, value in headers if name.lower() not in _HOP)


def _sent(connection: h11.Connection, *events: Any) -> bytes:
    return b"".join([connection.send(event) or b"" for event in events])


_HOP = frozenset({b"connection", b"content-length", b"transfer-encoding"})

Mutate = Callable[[bytes, int], bytes]

#: What takes the place of a number and the like.
_ODD: tuple[object, ...] = (
    *(None, True, False, -1, 0, 1, 9, 204, 304, 100, 600, 2**31, 2**32, 2**63, 2**64 - 1, -(2**63)),
    *(float("nan"), float("inf"), -1.0, 1e300, "", b"", (), {}, ((),), "\udc80", "a\r\nb"),
    *(msgpack.ExtType(5, b"x"), msgpack.Timestamp(2**33, 5), (9,), ((9, 0),), b" 9", b"x "),
    *((b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"9, 9")),
)


def mutator(mutate: Mutate) -> Callable[[bytes, int, int], bytes]:
    """
    Return what makes another input of one: mostly a change behind the checksums.

    Args:
        mutate: Changes bytes, up to a size, in a way of its own.
    """

    def changed(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        way = chance.randrange(5)
        if len(data) < PREFIX_SIZE:
            data = chance.choice(SEEDS)
        if way == 0:
            return mutate(data, max_size)
        if way == 1:
            other = chance.choice(SEEDS)
            cut = chance.randrange(len(data))
            return sealed(data[:cut] + other[chance.randrange(len(other)) :])[:max_size]
        if way == 2:
            return sealed(mutate(data, max_size))[:max_size]
        return _with_other_head(data, mutate, chance)[:max_size]

    return changed


def _with_other_head(data: bytes, mutate: Mutate, chance: random.Random) -> bytes:
    length = int.from_bytes(data[28:32], "big")
    edge = PREFIX_SIZE + length
    try:
        head = validation.unpacked(data[PREFIX_SIZE:edge])
        packed = msgpack.packb(_other(head, mutate, chance), unicode_errors="surrogatepass")
    # A number that msgpack has no room for, a key that it does not take.
    except (UnsoundError, ValueError, OverflowError):
        packed = mutate(data[PREFIX_SIZE:edge], len(data) + 16)
    prefix = data[:28] + len(packed).to_bytes(4, "big") + data[32:PREFIX_SIZE]
    return sealed(prefix + packed + data[edge:])


def _other(value: Any, mutate: Mutate, chance: random.Random) -> object:
    """Return a structure that differs in one place."""
    if chance.random() < 0.1:
        return chance.choice(_ODD)
    match value:
        case dict() if value:
            name = chance.choice(sorted(value, key=repr))
            return {**value, name: _other(value[name], mutate, chance)}
        case tuple() if value:
            at = chance.randrange(len(value))
            parts = [(_other(value[at], mutate, chance),), (), value[at : at + 1] * 2]
            return (*value[:at], *chance.choice(parts), *value[at + 1 :])
        case bytes():
            return mutate(value, len(value) + 8)
        case str():
            encoded = mutate(value.encode("utf-8", "surrogatepass"), len(value) + 8)
            return encoded.decode("utf-8", "surrogateescape")
        case _:
            return chance.choice(_ODD)


def main(seconds: int) -> None:
    """Fuzz for some seconds; what is found is printed, and the process fails."""
    atheris: Any = importlib.import_module("atheris")
    atheris.instrument_all()
    options = [
        f"-max_total_time={seconds}",
        "-max_len=65536",
        "-rss_limit_mb=1024",
        f"-artifact_prefix={tempfile.gettempdir()}/",
    ]
    # What is called `Mutate` is another function after `Setup`.
    change = mutator(lambda data, size: bytes(atheris.Mutate(data, size)))
    atheris.Setup([sys.argv[0], *options], check, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
