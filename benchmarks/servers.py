"""The servers that are measured: uvicorn in processes of its own, and a Redis."""

from __future__ import annotations

import sys

from tests.support.app_server import AppProcess
from tests.support.servers import RedisServer, ServerMissingError


def redis_server() -> RedisServer:
    """Return a Redis that is not started yet."""
    try:
        return RedisServer()
    except ServerMissingError as exc:
        sys.exit(str(exc))


def app_server(
    redis: RedisServer, app: str = "benchmarks.app:app", *, workers: int = 1
) -> AppProcess:
    """Return an application over a Redis, not started yet, behind uvicorn as it is deployed."""
    environment = {"BENCHMARK_REDIS": redis.url()}
    # A connection is idle while another server is asked, sometimes for seconds.
    options = ("--timeout-keep-alive", "600", "--workers", str(workers))
    return AppProcess(app, environment, "httptools", loop="uvloop", options=options)
