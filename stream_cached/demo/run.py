"""Runs the demo: it starts the servers, sends the requests, and prints the report."""

import asyncio
import http.client
import importlib.util
import json
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from stream_cached.demo import on_redis, report
from stream_cached.demo.client import Answer, ask
from stream_cached.demo.processes import HOST, Server, UnableError, running

PATHS = ("/export.csv", "/records.ndjson", "/tokens")


def compare(cache: str, bodies: str = "") -> int:
    """Request every stream twice and print the comparison; return the exit status."""
    _require(cache)
    if not on_redis.is_redis(cache):
        with running(cache, bodies, [0]) as servers:
            return _compare(cache, bodies, servers)
    cache = on_redis.with_namespace(cache, private=True)
    try:
        with running(cache, bodies, [0, 0]) as servers:
            return _compare(cache, bodies, servers)
    finally:
        asyncio.run(on_redis.forget(cache))


def serve(cache: str, bodies: str, host: str, port: int) -> int:
    """Say where the page is, and run the servers until Ctrl-C; return the exit status."""
    _require(cache)
    ports = [port]
    if on_redis.is_redis(cache):
        cache = on_redis.with_namespace(cache, private=False)
        ports.append(port + 1 if port else 0)
    with running(cache, bodies, ports, host) as servers:
        introduction = report.introduction(cache, bodies, servers)
        print(f"{introduction}\n\n{report.page(servers)}\n\n{report.commands(servers)}", flush=True)
        try:
            servers[0].process.wait()
        except KeyboardInterrupt:
            print()
            return 0
    print("stream-cached demo: the server ended unexpectedly", file=sys.stderr)
    return 1


def _compare(cache: str, bodies: str, servers: Sequence[Server]) -> int:
    print(f"{report.introduction(cache, bodies, servers)}\n\n{report.explanation(servers)}\n")
    print(report.head(), flush=True)
    answers: dict[str, tuple[Answer, Answer]] = {}
    stored: list[tuple[str, int]] = []
    found: list[str] = []
    for path in PATHS:
        try:
            answers[path] = _ask_twice(path, servers)
            # Listed after the first stream, so that the store holds only the keys of this stream.
            stored = stored or _stored_keys(servers[0])
        except (OSError, http.client.HTTPException) as exc:
            found.append(f"{path}: no complete answer ({exc}).")
            break
        found += report.problems(path, *answers[path])
    print()
    if found:
        print("The comparison failed:", *found, sep="\n  ")
        return 1
    print(f"{report.verdict(answers)}\n\n{report.listing(PATHS[0], stored)}", flush=True)
    return 0


def _ask_twice(path: str, servers: Sequence[Server]) -> tuple[Answer, Answer]:
    first_name, second_name = ("1st, A", "2nd, B") if len(servers) > 1 else ("1st", "2nd")
    first = ask(HOST, servers[0].port, path)
    print(report.row(path, first_name, first), flush=True)
    second = ask(HOST, servers[-1].port, path)
    print(report.row("", second_name, second), flush=True)
    return first, second


def _stored_keys(server: Server) -> list[tuple[str, int]]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        connection.request("GET", "/_keys")
        response = connection.getresponse()
        if response.status != 200:
            raise http.client.HTTPException(f"/_keys had status {response.status}")
        return [(key, size) for key, size in json.load(response)]
    finally:
        connection.close()


def _require(cache: str) -> None:
    for module in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise UnableError(f"{module} is missing: pip install 'stream-cached[demo]'")
    if on_redis.is_redis(cache):
        _require_redis(cache)
    elif urlsplit(cache).scheme != "memory":
        raise UnableError("--cache takes memory:// or redis://host:port/0?namespace=name")


def _require_redis(cache: str) -> None:
    if importlib.util.find_spec("redis") is None:
        raise UnableError("redis is missing: pip install 'stream-cached[redis]'")
    from redis import RedisError

    try:
        asyncio.run(on_redis.ping(cache))
    except (RedisError, OSError, ValueError) as exc:
        reason = str(exc).rstrip(".") or type(exc).__name__
        raise UnableError(f"no Redis answers at {on_redis.shown(cache)}: {reason}") from exc
