"""Whatever breaks, nobody is handed a clean short or mixed body."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.format.codec import decode_segment, encode_segment
from tests.conftest import Serve, Spawn
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.keyspace import Keyspace
from tests.support.runs import CHUNK, HIT, MISS, FailingRuns, HeldRuns, Runs, segments
from tests.support.servers import RedisServer


@pytest.fixture
def redis_url(redis_url: str) -> str:
    """A machine that is busy is no outage."""
    return f"{redis_url}?timeout=5"


# -- a source that fails --------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("at", [0, 1, 9, 10])
@pytest.mark.parametrize("chunk", [10, CHUNK])
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_after_a_run_that_raised_the_next_client_gets_a_whole_one(
    serve: Serve, cache_url: str, at: int, chunk: int, http: str
) -> None:
    runs = FailingRuns(chunk=chunk)
    runs.at = at
    port = serve(runs.app(cache_url), http=http).port  # type: ignore[arg-type]

    broken, whole, hit = fetch(port), fetch(port), fetch(port)

    assert not broken.complete
    assert runs.bodies[0].startswith(broken.body)
    assert whole.complete
    assert hit.complete
    assert whole.body == hit.body == runs.bodies[1]
    assert hit.header("Cache-Status") == HIT


def test_what_a_run_that_raised_has_written_is_deleted(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    keys = Keyspace(redis_server.port)
    runs = HeldRuns(chunk=300_000)

    async def fail(run: int, number: int) -> None:
        await HeldRuns.before(runs, run, number)
        if number == 6:
            raise RuntimeError("the source broke")

    runs.before = fail  # type: ignore[method-assign]
    port = serve(runs.app(redis_url)).port
    with RawClient(port) as client:
        client.send()
        wait_until(lambda: segments(keys.all()))
        runs.gate.open()
        assert not client.read_all().complete

    wait_until(lambda: not segments(keys.all()))
    assert len(keys.all()) == 1  # the version
    assert not keys.without_ttl()


# -- a server that is killed ----------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("ttl", ["60", pytest.param("none", marks=pytest.mark.full)])
def test_what_a_killed_server_leaves_expires_and_is_never_served(
    spawn: Spawn, redis_server: RedisServer, redis_url: str, ttl: str
) -> None:
    headers = {"Host": "example.org"}
    environment = {"CACHE": redis_url, "TTL": ttl}
    keys = Keyspace(redis_server.port)
    first = spawn("tests.support.stream_app:app", environment)
    with RawClient(first.port) as client:
        client.send("GET", "/endless", headers)
        client.read_head()
        client.read_until(10 * CHUNK)
        wait_until(lambda: segments(keys.all()))
        first.kill()
        assert not client.read_rest().complete

    left = keys.all()
    assert segments(left) <= keys.with_ttl()
    if ttl != "none":
        assert keys.with_ttl() == set(left)
    second = spawn("tests.support.stream_app:app", environment)
    with RawClient(second.port) as client:
        client.send("GET", "/endless", headers)
        assert client.read_head().header("Cache-Status") == MISS
        client.abort()
    second.kill()


# -- keys that are damaged ------------------------------------------------------------------------


def _flipped(value: bytes, at: int) -> bytes:
    return value[:at] + bytes([value[at] ^ 0x41]) + value[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda value: None,
    "emptied": lambda value: b"",
    "halved": lambda value: value[: len(value) // 2],
    "one byte short": lambda value: value[:-1],
    "one byte long": lambda value: value + b"\0",
    "altered at its start": lambda value: _flipped(value, 0),
    "altered in its prefix": lambda value: _flipped(value, min(40, len(value) - 1)),
    "altered in its middle": lambda value: _flipped(value, len(value) // 2),
    "altered at its end": lambda value: _flipped(value, len(value) - 1),
    "replaced": lambda value: b"\xffrubbish",
}


PARTS = ["record", "version", "first segment", "segment that is read ahead", "last segment"]


def part_of(stored: dict[str, bytes], part: str) -> str:
    """Return the key of a part of the one entry that there is."""
    # How many segments there are depends on how soon one chunk came after the other.
    of_body = sorted(segments(stored), key=lambda key: int(key.rpartition(":")[2]))
    (version,) = (key for key in stored if ":version:" in key)
    (record,) = stored.keys() - {version, *of_body}
    match part:
        case "record":
            return record
        case "version":
            return version
        case _:
            assert len(of_body) > 4
            return of_body[{"first segment": 0, "last segment": -1}.get(part, -2)]


@pytest.mark.matrix
@pytest.mark.parametrize("chunks", [1, 12], ids=["inline", "in segments"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_any_key_costs_a_run_and_no_client_a_byte(
    serve: Serve, redis_server: RedisServer, redis_url: str, chunks: int, kind: str
) -> None:
    runs = Runs(chunks)
    port = serve(runs.app(redis_url)).port
    keys = Keyspace(redis_server.port)
    for part in PARTS if chunks > 1 else PARTS[:2]:
        redis_server.flush()
        fetch(port)
        assert fetch(port).header("Cache-Status") == HIT
        stored = keys.all()
        key = part_of(stored, part)
        keys.set(key, DAMAGE[kind](stored[key]))

        damaged, following = fetch(port), fetch(port)

        assert runs.is_whole(damaged) or not damaged.complete, key
        assert runs.is_whole(following), key
        assert fetch(port).body == following.body
        assert not keys.without_ttl()


def test_of_an_entry_that_lacks_a_segment_nothing_stays_for_ever(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    runs = Runs(12)
    port = serve(runs.app(redis_url, ttl=None)).port
    keys = Keyspace(redis_server.port)
    fetch(port)
    damaged = segments(keys.all())
    keys.set(min(damaged), None)
    assert fetch(port).body == fetch(port).body == runs.bodies[1]
    assert damaged & set(keys.all()) <= keys.with_ttl()


@pytest.mark.parametrize("replay", ["fast", "exact"])
def test_a_last_segment_that_goes_on_is_no_end(
    serve: Serve, redis_server: RedisServer, redis_url: str, replay: str
) -> None:
    runs = Runs(12)
    port = serve(runs.app(redis_url, replay=replay)).port
    keys = Keyspace(redis_server.port)
    fetch(port)
    last = max(segments(keys.all()), key=lambda key: int(key.rpartition(":")[2]))
    value = keys.all()[last]
    index = int(last.rpartition(":")[2])
    generation = bytes.fromhex(last.rsplit(":", 2)[1])
    segment = decode_segment(value, generation, index)
    going_on = dataclasses.replace(segment, continues=True)
    keys.set(last, encode_segment(going_on, generation, index))

    fetch(port)
    assert fetch(port).body == fetch(port).body == runs.bodies[-1]
    assert len(runs.bodies) == 2


def test_a_segment_in_the_place_of_another_is_not_served(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    runs = Runs(17)
    port = serve(runs.app(redis_url)).port
    keys = Keyspace(redis_server.port)
    fetch(port, "/?one"), fetch(port, "/?another")
    of_runs = sorted(segments(keys.all()))
    values = keys.all()
    for key, other in zip(of_runs, reversed(of_runs), strict=True):
        keys.set(key, values[other])

    for target in ("/?one", "/?another"):
        damaged, following = fetch(port, target), fetch(port, target)
        assert runs.is_whole(damaged) or not damaged.complete
        assert runs.is_whole(following)


def test_a_range_of_what_is_damaged_is_a_miss(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    runs = Runs(30)
    port = serve(runs.app(redis_url, local=0)).port
    keys = Keyspace(redis_server.port)
    fetch(port)
    *_, last = sorted(segments(keys.all()), key=lambda key: int(key.rpartition(":")[2]))
    keys.set(last, DAMAGE["altered at its end"](keys.all()[last]))
    answer = fetch(port, headers={"Range": "bytes=-100"})
    assert (answer.complete, answer.body) == (True, runs.bodies[1])


@pytest.mark.matrix(share=2)
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("replay", ["fast", "exact"])
def test_a_hit_whose_segments_vanish_breaks_visibly(
    serve: Serve, redis_server: RedisServer, redis_url: str, replay: str, http: str
) -> None:
    runs = Runs(10, 1_000_000)
    port = serve(runs.app(redis_url, replay=replay, max_pending="64MiB"), http=http).port  # type: ignore[arg-type]
    keys = Keyspace(redis_server.port)
    fetch(port)
    with RawClient(port, receive_buffer=1 << 16) as client:
        client.send()
        assert client.read_head().header("Cache-Status") == HIT
        for key in segments(keys.all()):
            keys.set(key, None)
        assert not client.read_rest().complete

    assert fetch(port).body == runs.bodies[1]
    assert fetch(port).header("Cache-Status") == HIT


def test_a_cache_that_is_flushed_in_mid_stream_costs_the_entry_only(
    serve: Serve, redis_server: RedisServer, redis_url: str
) -> None:
    runs = HeldRuns()
    port = serve(runs.app(redis_url)).port
    with RawClient(port) as client:
        client.send()
        wait_until(lambda: segments(Keyspace(redis_server.port).all()))
        redis_server.flush()
        runs.gate.open()
        first = client.read_all()

    assert first.complete
    assert first.body == runs.bodies[0]
    assert fetch(port).body == runs.bodies[1]
    assert fetch(port).header("Cache-Status") == HIT


# -- runs that overlap or take long ---------------------------------------------------------------


@pytest.mark.matrix("chunks", "last")
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("chunks", [2, 10])
def test_two_runs_that_overlap_never_mix(
    serve: Serve, cache_url: str, chunks: int, last: int
) -> None:
    runs = Runs(chunks)
    halfway = [Gate(), Gate()]
    go_on = [Gate(), Gate()]

    async def before(run: int, number: int) -> None:
        if number == chunks // 2 and run < 2:
            halfway[run].open()
            await go_on[run].passed()

    runs.before = before  # type: ignore[method-assign]
    cached = stream_cached(ttl=60, cache=cache_url)(runs.__call__)

    async def endpoint(request: Request) -> Response:
        # A client that asks again joins nobody.
        return await cached(request, cache_read="insists" not in request.headers)  # type: ignore[call-arg]

    port = serve(Starlette(routes=[Route("/", endpoint)])).port
    with RawClient(port) as first, RawClient(port) as second:
        for client, gate in ((first, halfway[0]), (second, halfway[1])):
            client.send(headers={"Insists": "yes"})
            gate.wait()
        go_on[1 - last].open()
        answers = [first, second]
        done = [answers[1 - last].read_all()]
        go_on[last].open()
        done.append(answers[last].read_all())

    assert all(response.complete for response in done)
    assert {response.body for response in done} <= set(runs.bodies)
    hit = fetch(port)
    assert hit.header("Cache-Status") == HIT
    assert hit.body in runs.bodies


@pytest.mark.full
def test_a_stream_may_take_longer_than_its_ttl(serve: Serve, cache_url: str) -> None:
    runs = HeldRuns()
    runs.at = 9
    port = serve(runs.app(cache_url, ttl=1)).port
    with RawClient(port) as client:
        client.send()
        client.read_head()
        with pytest.raises(TimeoutError):  # held for more than the ttl
            client.read_until(10 * CHUNK, timeout=1.2)
        runs.gate.open()
        miss = client.read_rest()

    hit = fetch(port)
    assert (miss.complete, miss.error) == (True, None)
    assert hit.header("Cache-Status") == HIT
    assert hit.body == miss.body == runs.bodies[0]
