"""`compress=`: what is stored is smaller, and what clients are sent is the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_cached import Compression, MemoryCache
from stream_cached.bodies.files import FileBodies
from stream_cached.compression import Codec, has_zstd
from stream_cached.entries import coding
from stream_cached.entries.body import Body
from stream_cached.entries.coding import Coder
from stream_cached.format import coding as of_format
from stream_cached.format.coding import Coding, compressed
from stream_cached.format.envelope import State, pack, read_prefix
from stream_cached.format.records import Segment
from stream_cached.stores.memory import MemoryStore
from tests.conftest import Serve
from tests.responses.test_resumption import Reruns, lose_a_segment_under_a_hit
from tests.support.gates import run, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import CHUNK, HIT, MISS, HeldRuns, Runs, segments
from tests.support.servers import RedisServer, S3Server

TEXT = {"Content-Type": "text/csv; charset=utf-8"}
CODECS: list[Any] = [
    "zlib",
    pytest.param("zstd", marks=pytest.mark.skipif(not has_zstd(), reason="no zstd")),
]

each_codec = pytest.mark.parametrize("codec", CODECS)


def text_runs(chunks: int = 12, kind: type[Runs] = Runs) -> Runs:
    return kind(chunks, headers=dict(TEXT), is_text=True)


def plain(value: bytes) -> bool:
    return read_prefix(value).state in (State.ENTRY, State.SEGMENT)


@pytest.fixture
def keyspace(redis_server: RedisServer, redis_url: str) -> Keyspace:
    return Keyspace(redis_server.port)


def parts_of(keyspace: Keyspace) -> dict[str, bytes]:
    """The record and the segments."""
    return {key: value for key, value in keyspace.all().items() if ":version:" not in key}


def are_coded(keyspace: Keyspace) -> bool:
    """Whether there are segments, and none of those that are there now is as it was."""
    stored = keyspace.all()
    values = [value for key in segments(stored) if (value := stored[key]) is not None]
    return bool(values) and not any(map(plain, values))


# -- clients are sent the same --------------------------------------------------------------------


@pytest.mark.matrix("codec", "chunks", rest=4)
@pytest.mark.parametrize("replay", ["fast", "exact"])
@pytest.mark.parametrize("secret", [None, "s" * 32], ids=["unsigned", "signed"])
@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
@each_codec
def test_clients_are_sent_the_same(
    serve: Serve, cache_url: str, codec: Codec, chunks: int, secret: str | None, replay: str
) -> None:
    runs = text_runs(chunks)
    port = serve(runs.app(cache_url, compress=codec, secret=secret, replay=replay)).port
    miss, hit, kept = fetch(port), fetch(port), fetch(port)
    (body,) = runs.bodies
    assert (miss.header("Cache-Status"), hit.header("Cache-Status")) == (MISS, HIT)
    assert miss.body == hit.body == kept.body == fetch(port).body == body
    assert hit.header("Content-Length") == str(len(body))
    assert hit.header("Content-Encoding") is None
    etag = hit.header("ETag")
    assert etag is not None
    assert fetch(port, headers={"If-None-Match": etag}).status == 304
    middle = fetch(port, headers={"Range": "bytes=1000-99998"})
    end = fetch(port, headers={"Range": "bytes=-50"})
    assert (middle.status, middle.body) == (206, body[1000:99999])
    assert (end.status, end.body) == (206, body[-50:])
    assert fetch(port, method="HEAD").header("Content-Length") == str(len(body))


@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
@each_codec
def test_less_is_stored(
    serve: Serve, redis_url: str, keyspace: Keyspace, codec: Codec, chunks: int
) -> None:
    runs = text_runs(chunks)
    port = serve(runs.app(redis_url, compress=codec)).port
    fetch(port)
    stored = parts_of(keyspace)
    assert not any(map(plain, stored.values()))
    assert sum(map(len, stored.values())) < 0.65 * chunks * CHUNK


@pytest.mark.parametrize("secret", [None, "s" * 32], ids=["unsigned", "signed"])
@each_codec
def test_an_object_is_compressed(
    serve: Serve, redis_url: str, tmp_path: Path, codec: Codec, secret: str | None
) -> None:
    bodies = FileBodies(tmp_path / "bodies")
    runs = text_runs(30)
    app = runs.app(redis_url, bodies=bodies, compress=codec, secret=secret, local=0)
    port = serve(app).port
    assert fetch(port).body == fetch(port).body == runs.bodies[0]
    part = fetch(port, headers={"Range": "bytes=1000000-1000099"})
    assert part.body == runs.bodies[0][1_000_000:1_000_100]
    (path,) = bodies.root.glob("??/*")
    assert path.stat().st_size < 0.65 * 30 * CHUNK
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert not fetch(port).complete
    assert fetch(port).body == runs.bodies[1]


def test_an_object_in_s3_is_compressed(serve: Serve, redis_url: str, s3: S3Server) -> None:
    runs = text_runs(20)
    port = serve(runs.app(redis_url, bodies=s3.url(), compress="zlib", local=0)).port
    assert fetch(port).body == fetch(port).body == runs.bodies[0]
    part = fetch(port, headers={"Range": "bytes=1000000-1000099"})
    assert part.body == runs.bodies[0][1_000_000:1_000_100]
    assert int(s3.request("GET", f"/{s3.bucket}?list-type=2").split("<Size>")[1].split("<")[0]) < (
        0.65 * 20 * CHUNK
    )


@pytest.mark.usefixtures("apps_are_processes")
@pytest.mark.parametrize("bodies", [False, True], ids=["store", "files"])
def test_another_process_follows(
    serve: Serve, redis_url: str, keyspace: Keyspace, tmp_path: Path, bodies: bool
) -> None:
    runs = text_runs(12, HeldRuns)
    assert isinstance(runs, HeldRuns)
    runs.at = 11
    settings: dict[str, Any] = {"compress": "zlib", "key_host": False}
    if bodies:
        settings["bodies"] = f"file://{tmp_path}/bodies"
    servers = [serve(runs.app(redis_url, **settings)) for _ in range(2)]
    with RawClient(servers[0].port) as first, RawClient(servers[1].port) as follower:
        first.send()
        first.read_head()
        runs.reached.wait()
        wait_until(lambda: are_coded(keyspace))
        follower.send()
        follower.read_head()
        follower.read_until(9 * CHUNK)
        runs.gate.open()
        assert first.read_rest().body == follower.read_rest().body == runs.bodies[0]
    assert len(runs.bodies) == 1


def test_a_slow_reader_gets_what_was_compressed_meanwhile(serve: Serve, redis_url: str) -> None:
    runs = text_runs(100)
    settings = {"max_ahead": "200KB", "compress": "zlib", "max_body": "1GB", "spool_max": 1}
    port = serve(runs.app(redis_url, **settings)).port
    with RawClient(port, receive_buffer=1 << 16) as slow, RawClient(port) as quick:
        slow.send()
        slow.read_head()
        quick.send()
        assert quick.read_all().body == runs.bodies[0]
        assert slow.read_rest().body == runs.bodies[0]
    assert len(runs.bodies) == 1


@each_codec
def test_a_body_is_bounded_by_its_length_as_it_is_sent(
    serve: Serve, redis_url: str, keyspace: Keyspace, codec: Codec
) -> None:
    runs = text_runs(12)
    port = serve(runs.app(redis_url, compress=codec, max_body=11 * CHUNK)).port
    assert fetch(port).complete
    wait_until(lambda: not segments(keyspace.all()))
    assert fetch(port).header("Cache-Status") != HIT


# -- what is compressed ---------------------------------------------------------------------------


@pytest.mark.matrix(rest=2)
@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
@pytest.mark.parametrize(
    ("headers", "compress", "is_text"),
    [
        ({"Content-Type": "image/png"}, "zlib", True),
        ({}, "zlib", True),
        (TEXT | {"Content-Encoding": "br"}, "zlib", True),
        (TEXT, Compression(media_types=("application/json",)), True),
        (TEXT, Compression(min_size="1MiB"), True),
        (TEXT, "zlib", False),
        (TEXT, None, True),
    ],
    ids=["image", "unknown", "encoded", "other type", "too small", "no smaller", "off"],
)
def test_what_is_stored_as_it_is(
    serve: Serve,
    redis_url: str,
    keyspace: Keyspace,
    headers: dict[str, str],
    compress: Any,
    is_text: bool,
    chunks: int,
) -> None:
    runs = Runs(chunks, headers=headers, is_text=is_text)
    port = serve(runs.app(redis_url, compress=compress)).port
    assert fetch(port).body == fetch(port).body == runs.bodies[0]
    assert all(map(plain, parts_of(keyspace).values()))


@pytest.mark.usefixtures("apps_are_processes")
@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
@pytest.mark.parametrize("compress", ["zlib", None])
def test_who_reads_need_not_be_told(
    serve: Serve, redis_url: str, compress: Codec | None, chunks: int
) -> None:
    runs = text_runs(chunks)
    settings = [compress, "zlib" if compress is None else None]
    ports = [serve(runs.app(redis_url, compress=each, key_host=False)).port for each in settings]
    assert fetch(ports[0]).body == fetch(ports[1]).body == runs.bodies[0]
    assert fetch(ports[1]).header("Cache-Status") == HIT


def test_large_parts_are_compressed_and_inflated_in_threads(
    serve: Serve, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    def noted(*args: Any) -> bytes:
        threads.add(threading.current_thread().name)
        return compressed(*args)

    monkeypatch.setattr(coding, "compressed", noted)
    runs = text_runs(12)
    server = serve(runs.app(redis_url, compress="zlib", local=0))
    assert fetch(server.port).body == fetch(server.port).body
    assert threads
    assert all(name.startswith("stream-cached") for name in threads)


def test_where_compression_does_not_keep_up_parts_are_stored_as_they_are() -> None:
    body = Body(MemoryStore(MemoryCache()), "key", bytes(16))
    payload = b"a line\n" * 30_000
    window = [body.pack(n, Segment((len(payload),), False, payload)) for n in range(4)]
    coder = Coder(Compression())

    async def main() -> None:
        # A store that is much slower itself has less to write then.
        cases = ((False, 0.0, 4), (True, 0.0, 0), (True, 8.0, 0), (True, 60.0, 4))
        for is_half_full, written_in, count in cases:
            coder.written_in, coder._took = written_in, 1.0
            coded = await coder.coded(window, lambda full=is_half_full: full)  # type: ignore[misc]
            assert [segment.coding for segment in coded] == [1] * count + [0] * (4 - count)

    run(main)


# -- what is damaged or strange -------------------------------------------------------------------


def _bomb(value: bytes) -> bytes:
    """The same segment, with right checksums, which inflates to far more."""
    prefix = read_prefix(value)
    data = compressed(Coding.ZLIB, 1, bytes(50_000_000))
    head = (b"\x91\xce\x02\xfa\xf0\x80", False, int(Coding.ZLIB), 50_000_000)
    return pack(State.CODED_SEGMENT, prefix.generation, prefix.revision, head, data)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda value: None,
    "halved": lambda value: value[: len(value) // 2],
    "altered": lambda value: value[:-5] + bytes([value[-5] ^ 1]) + value[-4:],
    "a bomb": _bomb,
}


@pytest.mark.matrix(rest=2)
@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_segment_is_a_miss_or_a_break(
    serve: Serve, redis_url: str, keyspace: Keyspace, kind: str, which: int
) -> None:
    runs = text_runs(30)
    port = serve(runs.app(redis_url, compress="zlib", local=0)).port
    fetch(port)
    found = keyspace.all()
    key = sorted(segments(found), key=lambda key: int(key.rpartition(":")[2]))[which]
    keyspace.set(key, DAMAGE[kind](found[key]))
    damaged, following = fetch(port), fetch(port)
    # How many segments there are is known before the first byte.
    assert runs.is_whole(damaged) == (which == 0 or kind == "deleted")
    assert runs.is_whole(following)
    assert following.body == runs.bodies[1]


def test_a_hit_that_loses_a_segment_goes_on_from_another_run(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    runs = Reruns()
    runs.headers = {"content-type": "text/csv"}
    known = redis_server, redis_url, runs
    answer = lose_a_segment_under_a_hit(serve, *known, lambda body: {}, compress="zlib")
    assert answer.header("Cache-Status") == HIT
    assert answer.complete
    assert answer.body == runs.body
    assert runs.count == 2


def test_a_damaged_inline_body_is_a_miss(serve: Serve, redis_url: str, keyspace: Keyspace) -> None:
    runs = text_runs(1)
    port = serve(runs.app(redis_url, compress="zlib", local=0)).port
    fetch(port)
    ((key, value),) = parts_of(keyspace).items()
    keyspace.set(key, value[:-5] + bytes([value[-5] ^ 1]) + value[-4:])
    assert fetch(port).body == runs.bodies[1]
    assert fetch(port).header("Cache-Status") == HIT


@pytest.mark.usefixtures("apps_are_processes")
@pytest.mark.skipif(not has_zstd(), reason="no zstd")
@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
def test_a_process_without_the_codec_takes_the_record_for_a_miss(
    serve: Serve, redis_url: str, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = text_runs(chunks)
    fetch(serve(runs.app(redis_url, compress="zstd", key_host=False)).port)
    monkeypatch.setattr(of_format, "_zstd", lambda: None)
    other = serve(runs.app(redis_url, key_host=False)).port
    assert fetch(other).body == fetch(other).body == runs.bodies[1]
