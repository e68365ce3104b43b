"""
Compare what caches do, not how quickly: `python -m benchmarks.compare` prints the table.

Each cell is a small application with one decorator (or middleware) as its documentation has it,
behind uvicorn, and what its clients then saw. The packages are those of the `bench` extra.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp

from stream_cached import lifespan, stream_cached
from tests.support.app_server import AppServer
from tests.support.http_client import RawClient, RawResponse, fetch, fetch_many
from tests.support.process import HOST

#: The stream: so many rows of so many bytes, with a pause before each.
ROWS, SIZE, PAUSE = 10, 1_000, 0.1
WHOLE = b"".join(b"%d" % number * (SIZE - 1) + b"\n" for number in range(ROWS))
TTL = 60
CLIENTS = 20

#: Seconds after which a client gives up.
PATIENCE = 8.0

#: Seconds after which what a cache stores behind its answer is there.
SETTLED = 0.3

_numbers = itertools.count()


@dataclass
class Endpoints:
    """What is cached, and how often each of it ran."""

    runs: dict[str, int] = field(default_factory=lambda: {"stream": 0, "report": 0})

    def functions(self) -> dict[str, Any]:
        """Return new functions: no cache takes them for those of another application."""

        async def rows() -> AsyncIterator[bytes]:
            for number in range(ROWS):
                await asyncio.sleep(PAUSE)
                yield b"%d" % number * (SIZE - 1) + b"\n"

        async def stream() -> StreamingResponse:
            self.runs["stream"] += 1
            # hishel goes by this header. Of a type with a charset, cashews makes a wrong one.
            head = {"Cache-Control": f"max-age={TTL}"}
            return StreamingResponse(rows(), media_type="application/x-ndjson", headers=head)

        async def report() -> dict[str, Any]:
            self.runs["report"] += 1
            await asyncio.sleep(PAUSE)
            return {"rows": list(range(100))}

        async def me(request: Request) -> dict[str, str]:
            return {"user": request.headers["authorization"]}

        async def me_by_parameter(authorization: Annotated[str, Header()]) -> dict[str, str]:
            return {"user": authorization}

        made = (stream, report, me, me_by_parameter)
        return {function.__name__: function for function in made}


Build = Callable[[Endpoints, str | None], ASGIApp]


def _served(endpoints: Endpoints, decorate: Callable[[Any], Any], **settings: Any) -> FastAPI:
    app = FastAPI(**settings)
    for name, function in endpoints.functions().items():
        decorated = decorate(function)
        app.add_api_route(f"/{name}", decorated, response_model=None)
    return app


def _ours(endpoints: Endpoints, redis: str | None) -> ASGIApp:
    decorate = stream_cached(ttl=TTL, cache=redis or f"memory://?namespace={_new()}")
    return _served(endpoints, decorate, lifespan=lifespan)


def _aiocache(endpoints: Endpoints, redis: str | None) -> ASGIApp:
    aiocache: Any = importlib.import_module("aiocache")
    serializers: Any = importlib.import_module("aiocache.serializers")

    def decorate(function: Any) -> Any:
        if redis is None:
            return aiocache.cached(ttl=TTL, namespace=_new())(function)
        port = int(redis.rpartition(":")[2].partition("/")[0])
        pickles = serializers.PickleSerializer()
        kind = aiocache.Cache.REDIS
        return aiocache.cached(ttl=TTL, cache=kind, endpoint=HOST, port=port, serializer=pickles)(
            function
        )

    return _served(endpoints, decorate)


def _cashews(endpoints: Endpoints, redis: str | None) -> ASGIApp:
    cashews: Any = importlib.import_module("cashews")
    importlib.import_module("cashews.contrib.fastapi")
    cache = cashews.Cache()
    cache.setup(redis or "mem://")
    return _served(endpoints, cache(ttl=TTL))


def _fastapi_cache2(endpoints: Endpoints, redis: str | None) -> ASGIApp:
    cache2: Any = importlib.import_module("fastapi_cache")
    decorator: Any = importlib.import_module("fastapi_cache.decorator")
    if redis is None:
        backend = importlib.import_module("fastapi_cache.backends.inmemory").InMemoryBackend()
    else:
        from redis.asyncio import Redis

        kind: Any = importlib.import_module("fastapi_cache.backends.redis")
        backend = kind.RedisBackend(Redis.from_url(redis))
    cache2.FastAPICache.reset()
    cache2.FastAPICache.init(backend, prefix=_new())
    return _served(endpoints, decorator.cache(expire=TTL))


def _hishel(endpoints: Endpoints, redis: str | None, rfc: bool = True) -> ASGIApp:
    hishel: Any = importlib.import_module("hishel")
    asgi: Any = importlib.import_module("hishel.asgi")
    if redis is None:
        path = f"{tempfile.mkdtemp()}/hishel.db"
        storage = hishel.AsyncSqliteStorage(database_path=path, default_ttl=TTL)
    else:
        from redis.asyncio import Redis

        storage = hishel.AsyncRedisStorage(client=Redis.from_url(redis), default_ttl=TTL)
    # By the rules of HTTP, it stores what says how long it is fresh.
    fresh = importlib.import_module("hishel.fastapi").cache(max_age=TTL) if rfc else None
    settings: dict[str, Any] = {"dependencies": [fresh]} if rfc else {}
    app = _served(endpoints, lambda function: function, **settings)
    return asgi.ASGICacheMiddleware(app, storage=storage, rfc=rfc)  # type: ignore[no-any-return]


def _hishel_by_url(endpoints: Endpoints, redis: str | None) -> ASGIApp:
    return _hishel(endpoints, redis, rfc=False)


def _new() -> str:
    return f"compare-{next(_numbers)}"


#: The name and the distribution of each.
LIBRARIES: dict[str, tuple[str, Build]] = {
    "stream_cached": ("stream-cached", _ours),
    "aiocache.cached": ("aiocache", _aiocache),
    "cashews": ("cashews", _cashews),
    "fastapi-cache2": ("fastapi-cache2", _fastapi_cache2),
    "hishel": ("hishel", _hishel),
    "hishel, rfc=False": ("hishel", _hishel_by_url),
}


class Serving:
    """An application of one library while it is asked; a context manager."""

    def __init__(self, build: Build, redis: str | None = None) -> None:
        self.endpoints = Endpoints()
        self._server = AppServer(build(self.endpoints, redis))

    def __enter__(self) -> Serving:
        self._server.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._server.__exit__(*exc_info)

    @property
    def port(self) -> int:
        """Where it is asked."""
        return self._server.port

    def get(self, path: str, user: str = "", **headers: str) -> RawResponse:
        """Ask once, and wait for all of the answer."""
        if user:
            headers["Authorization"] = user
        answer = fetch(self.port, path, headers, timeout=PATIENCE)
        time.sleep(SETTLED)
        return answer

    def ran(self, name: str) -> str:
        """Say how often an endpoint ran."""
        return _counted(self.endpoints.runs[name], "run")


# -- the questions: each asks an application, and says in a few words what came -------------------


def first_byte(build: Build) -> str:
    """A stream that nobody has asked for: first byte"""
    with Serving(build) as app:
        answer = app.get("/stream")
        if answer.status != 200 or not answer.complete:
            return _flaw(answer)
        took = answer.ended_at or 0.0
        return "live" if answer.pieces[0][0] < took / 2 else "after the last one is made"


def second_request(build: Build) -> str:
    """The same stream again"""
    with Serving(build) as app:
        app.get("/stream")
        answer = app.get("/stream")
        return f"{_body(answer)}; {app.ran('stream')}"


def after_leaving(build: Build) -> str:
    """After a client that left half-way"""
    with Serving(build) as app:
        with RawClient(app.port, timeout=PATIENCE) as client:
            client.send("GET", "/stream")
            try:
                client.read_head()
                client.read_until(ROWS * SIZE // 2)
            except (OSError, AssertionError):
                return "no stream to leave"
            client.abort()
        time.sleep(ROWS * PAUSE + SETTLED)
        answers = [app.get("/stream") for _ in range(2)]
        first, second = (_body(answer) for answer in answers)
        bodies = first if first == second else f"{first}, then {second}"
        return f"{bodies}; {app.ran('stream')}"


def cold_stream(build: Build) -> str:
    """20 clients at once, cold: the stream"""
    return _cold(build, "stream")


def cold_report(build: Build) -> str:
    """20 clients at once, cold: a dict"""
    return _cold(build, "report")


def _cold(build: Build, name: str) -> str:
    with Serving(build) as app:
        answers = fetch_many(app.port, f"/{name}", count=CLIENTS, timeout=PATIENCE)
        bodies = Counter(_body(answer, whole=name == "stream") for answer in answers)
        said = ", ".join(f"{count} {body}" for body, count in bodies.most_common())
        return app.ran(name) if set(bodies) == {"whole"} else f"{app.ran(name)}; {said}"


def users_by_request(build: Build) -> str:
    """Two users of `/me`, which reads Authorization off the request"""
    return _users(build, "/me")


def users_by_parameter(build: Build) -> str:
    """Two users of `/me`, which has Authorization as a parameter"""
    return _users(build, "/me_by_parameter")


def _users(build: Build, path: str) -> str:
    with Serving(build) as app:
        wrong = 0
        for user in ("anna", "boris") * 10:
            answer = app.get(path, user)
            if answer.status != 200:
                return _flaw(answer)
            wrong += user.encode() not in answer.body
        return f"{wrong} of 20 were another user's" if wrong else "own answers"


def fields_of_stream(build: Build) -> str:
    """A hit of the stream has"""
    return _fields(build, "stream")


def fields_of_report(build: Build) -> str:
    """A hit of a dict has"""
    return _fields(build, "report")


def _fields(build: Build, name: str) -> str:
    with Serving(build) as app:
        app.get(f"/{name}")
        answer = app.get(f"/{name}")
        if app.endpoints.runs[name] != 1 or not answer.complete or answer.status != 200:
            return "no hit"
        found = [each for each in ("Content-Length", "ETag") if answer.header_values(each)]
        if etag := "".join(answer.header_values("ETag")):
            again = app.get(f"/{name}", **{"If-None-Match": etag})
            found += ["304"] * (again.status == 304)
        part = app.get(f"/{name}", Range="bytes=10-19")
        found += ["ranges"] * (part.status == 206 and len(part.body) == 10)
        return ", ".join(found) or "none of these"


def refusing_redis(build: Build) -> str:
    """A Redis that refuses connections: a dict"""
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        return _without_redis(build, nobody.getsockname()[1])


def hanging_redis(build: Build) -> str:
    """A Redis that never answers: a dict"""
    with socket.create_server((HOST, 0), backlog=128) as silent:
        return _without_redis(build, silent.getsockname()[1])


def _without_redis(build: Build, port: int) -> str:
    with Serving(build, f"redis://{HOST}:{port}/0") as app:
        said = []
        for _ in range(2):
            start = time.monotonic()
            try:
                answer = app.get("/report")
            except TimeoutError:
                return f"none in {PATIENCE:.0f} s"
            took = time.monotonic() - start - SETTLED
            said.append(f"{answer.status or 'broken'} in {took:.1f} s")
        return said[0] if said[0] == said[1] else ", then ".join(said)


def _body(answer: RawResponse, *, whole: bool = True) -> str:
    if answer.status != 200 or not answer.complete:
        return _flaw(answer)
    if not whole or answer.body == WHOLE:
        return "whole"
    return f"ends cleanly after {len(answer.body):,} of {len(WHOLE):,} bytes"


def _flaw(answer: RawResponse) -> str:
    return f"status {answer.status}" if answer.status != 200 else "broken off"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" + "s" * (count != 1)


QUESTIONS: tuple[Callable[[Build], str], ...] = (
    *(first_byte, second_request, after_leaving, cold_stream, cold_report),
    *(users_by_request, users_by_parameter, fields_of_stream, fields_of_report),
    *(refusing_redis, hanging_redis),
)


def table() -> str:
    """Ask everything of everybody, and return the table."""
    heads = [f"{name} {version(package)}" for name, (package, _) in LIBRARIES.items()]
    lines = [["", *heads], ["---"] * (len(heads) + 1)]
    for question in QUESTIONS:
        cells = []
        for name, (_, build) in LIBRARIES.items():
            print(f"{question.__name__}: {name}", file=sys.stderr)
            cells.append(question(build))
        lines.append([question.__doc__ or "", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the table."""
    logging.disable()
    print(table())


if __name__ == "__main__":
    main()
