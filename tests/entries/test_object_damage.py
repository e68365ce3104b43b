"""Whatever becomes of an object, nobody is handed a short or mixed body, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.entries.test_damage import DAMAGE
from tests.entries.test_leftovers import STEPS, App, Varying, again
from tests.support.gates import wait_until
from tests.support.http_client import RawClient, fetch
from tests.support.keyspace import Keyspace
from tests.support.objects import FileObjects, Objects, S3Objects
from tests.support.runs import CHUNK, HIT, FailingRuns, HeldRuns, Runs, segments
from tests.support.servers import RedisServer


@pytest.fixture(params=["files", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "files":
        return FileObjects(tmp_path / "bodies")
    return S3Objects(request.getfixturevalue("s3"))


@pytest.fixture
def keys(redis_server: RedisServer, redis_url: str) -> Keyspace:
    return Keyspace(redis_server.port)


# -- damage ---------------------------------------------------------------------------------------


def header_size(value: bytes) -> int:
    """Where the first part of an object begins: after a header that stands there twice."""
    magic = value[:8]
    return value.find(magic, value.find(magic, 8) + 8)


PARTS: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "the object": lambda value: (0, len(value)),
    "its header": lambda value: (0, header_size(value)),
    "its first part": lambda value: (header_size(value), header_size(value) + 250_000),
    "a part that is read ahead": lambda value: (len(value) // 2, len(value) // 2 + 250_000),
    "its last part": lambda value: (len(value) - 100_000, len(value)),
}


@pytest.mark.matrix(share=3, rest=8)
@pytest.mark.parametrize("compress", [None, "zlib"], ids=["plain", "compressed"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_an_object_costs_a_run_and_no_client_a_byte(
    serve: Serve,
    redis_url: str,
    objects: Objects,
    kind: str,
    part: str,
    compress: str | None,
) -> None:
    headers = {"Content-Type": "text/csv"}
    runs = Runs(30, headers=headers, is_text=compress is not None)
    app = runs.app(redis_url, bodies=objects.url, local=0, grace=0.1, compress=compress)
    port = serve(app).port
    fetch(port)
    assert fetch(port).header("Cache-Status") == HIT
    (name,) = objects.names()
    value = objects.get(name)
    start, stop = PARTS[part](value)
    damaged = DAMAGE[kind](value[start:stop])
    if damaged is None and part != "the object":
        damaged = b""
    objects.put(name, None if damaged is None else value[:start] + damaged + value[stop:])

    answer, following = fetch(port), fetch(port)

    assert runs.is_whole(answer) or not answer.complete
    assert runs.is_whole(following)
    assert fetch(port).body == following.body
    assert len(runs.bodies) <= 2
    if following.body != runs.bodies[0]:
        # What it was is deleted once nobody reads it any more.
        wait_until(lambda: name not in objects.names())
    assert len(objects.names()) == 1


@pytest.mark.matrix(share=3, rest=8)
@pytest.mark.parametrize("part", ["record", "version"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_what_leads_to_an_object_costs_a_run(
    serve: Serve, redis_url: str, keys: Keyspace, objects: Objects, kind: str, part: str
) -> None:
    runs = Runs(12)
    port = serve(runs.app(redis_url, bodies=objects.url, local=0)).port
    fetch(port)
    wait_until(lambda: not segments(keys.all()))
    stored = keys.all()
    (key,) = (key for key in stored if (":version:" in key) == (part == "version"))
    keys.set(key, DAMAGE[kind](stored[key]))

    damaged, following = fetch(port), fetch(port)

    assert runs.is_whole(damaged)
    assert runs.is_whole(following)
    assert fetch(port).body == following.body
    assert len(runs.bodies) == 2
    assert not keys.without_ttl()


@pytest.mark.matrix(share=3, rest=8)
@pytest.mark.parametrize("replay", ["fast", "exact"])
def test_objects_in_the_place_of_each_other_are_not_served(
    serve: Serve, redis_url: str, objects: Objects, replay: str
) -> None:
    runs = Runs(17)
    port = serve(runs.app(redis_url, bodies=objects.url, local=0, replay=replay)).port
    first, other = fetch(port, "/?one"), fetch(port, "/?another")
    names = objects.names()
    for name, value in zip(names, [objects.get(name) for name in reversed(names)], strict=True):
        objects.put(name, value)
    for target, before in (("/?one", first), ("/?another", other)):
        damaged, following = fetch(port, target), fetch(port, target)
        assert runs.is_whole(damaged) or not damaged.complete
        assert damaged.body not in (first.body, other.body)
        assert runs.is_whole(following)
        assert following.body != before.body


# -- leftovers ------------------------------------------------------------------------------------


@pytest.mark.matrix(share=3, rest=8)
@pytest.mark.parametrize("ttl", [60, None])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("kind", [Runs, Varying], ids=["plain", "varying"])
def test_only_objects_that_a_record_leads_to_are_left(
    serve: Serve,
    redis_server: RedisServer,
    redis_url: str,
    objects: Objects,
    kind: type[Runs],
    steps: tuple[str, ...],
    ttl: float | None,
) -> None:
    app = App(serve, redis_server, kind(10), ttl=ttl, bodies=objects.url, grace=0.1)
    app.get()
    again(app, *steps)
    app.settle()
    if steps and steps[-1] == "invalidate":
        # An entry that was invalidated is replaced by the next one.
        app.get()
    wait_until(lambda: len(objects.names()) == (2 if "/?other" in steps else 1))
    wait_until(lambda: not segments(app.keys.all()))
    assert objects.unfinished() == []
    if ttl is not None:
        assert not app.keys.without_ttl()


@pytest.mark.matrix(share=3, rest=8)
@pytest.mark.parametrize("ttl", [60, None])
@pytest.mark.parametrize("why", ["raised", "over the limit", "overtaken", "private"])
def test_a_run_that_is_not_stored_leaves_no_object(
    serve: Serve,
    redis_server: RedisServer,
    redis_url: str,
    objects: Objects,
    why: str,
    ttl: float | None,
) -> None:
    runs = {"raised": FailingRuns, "overtaken": HeldRuns}.get(why, Runs)(60)
    if isinstance(runs, FailingRuns | HeldRuns):
        runs.at = 59
    elif why == "private":
        runs.headers = {"Set-Cookie": "a=b"}
    limit = 58 * CHUNK if why == "over the limit" else "64MiB"
    app = App(serve, redis_server, runs, ttl=ttl, bodies=objects.url, max_body=limit)
    with RawClient(app.server.port) as client:
        client.send()
        if isinstance(runs, HeldRuns):
            client.read_head()
            client.read_until(58 * CHUNK)
            runs.reached.wait()
            app.invalidate()
            runs.gate.open()
        answer = client.read_rest() if isinstance(runs, HeldRuns) else client.read_all()
        assert answer.complete == (why != "raised")
    app.settle()
    wait_until(lambda: not segments(app.keys.all()))
    wait_until(lambda: not objects.unfinished())
    assert objects.names() == []
