"""A server that goes on to refuse until somebody changes a setting: one ERROR says which one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shlex
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis import exceptions
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import State, StoreError, health, stream_cached
from stream_cached.stores import refusals
from stream_cached.stores.refusals import fix_of
from tests.conftest import server_or_skip
from tests.support.asgi import get
from tests.support.gates import wait_until
from tests.support.process import HOST, ROOT
from tests.support.runs import FALLBACK_HIT, FALLBACK_MISS, HIT, MISS, segments
from tests.support.servers import RedisServer

#: Of a server that no one trusts.
PEM = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgFtNZ0Ww3X21G9N6C
6VWPLRArqJcxC09Lg8qEPEFvfw+hRANCAASonmwO4k5u82ZGuHKIhHJZ4LeIVfc7
+dq3fI6ApGdW3hwfJucW8Z9kwNUWXAKaenlyYzoVURrh4meUwmBXA0g8
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUW7vM0TzDVlCANczDfKatvMr+N5QwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyOTEwMDcwM1oYDzIxMjYxMTA1
MTAwNzAzWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASonmwO4k5u82ZGuHKIhHJZ4LeIVfc7+dq3fI6ApGdW3hwfJucW8Z9k
wNUWXAKaenlyYzoVURrh4meUwmBXA0g8o1MwUTAdBgNVHQ4EFgQU0kQf/HsKb4ud
ihfXJwquSzU6wKUwHwYDVR0jBBgwFoAU0kQf/HsKb4udihfXJwquSzU6wKUwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiBuxTKrpZqbV7G4glr7FTGA
g79ZyWdmmdI0YrsjMY5wDQIhAO+8j332Uf/9HGzHdDYxz99vdzKiktuDN3bWbcud
11zo
-----END CERTIFICATE-----
"""


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stream_cached")


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    records = [record for record in caplog.records if record.name == "stream_cached"]
    return [(record.levelname, record.getMessage()) for record in records]


def an_app(url: str, **settings: Any) -> Starlette:
    runs = iter(range(1000))

    @stream_cached(**{"ttl": 60, "cache": url, "retry_interval": 0.05, **settings})
    async def endpoint(request: Request) -> Response:
        return StreamingResponse(iter([f"run {next(runs)} ", "y" * 300_000]))

    return Starlette(routes=[Route("/", endpoint), Route("/{name}", endpoint)])


async def asked(app: Starlette, times: int, seconds: float = 0.0) -> list[str]:
    answers = []
    for _ in range(times):
        answers.append(await get(app))
        await asyncio.sleep(seconds)
    assert all(answer.complete for answer in answers)
    return [answer.cache_status for answer in answers]


@pytest.fixture
def cluster() -> Iterator[RedisServer]:
    """A single node in cluster mode that holds all slots."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            server_or_skip(lambda: RedisServer("--cluster-enabled", "yes"))  # type: ignore[arg-type]
        )
        server.execute("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        wait_until(lambda: b"cluster_state:ok" in (server.execute("CLUSTER", "INFO") or b""))
        yield server


@pytest.mark.full
def test_a_redis_in_cluster_mode_is_told_once_and_memory_stands_in(
    cluster: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    # Pings at intervals of 0.05 seconds or a little more find it away each time.
    answers = asyncio.run(asked(an_app(cluster.url()), 20, 0.05))
    assert answers[1:] == [FALLBACK_HIT] * 19
    ((level, line),) = told(caplog)
    assert level == "ERROR"
    assert "cluster mode" in line
    assert "will not recover by itself" in line
    assert "use a Redis without cluster mode" in line


@pytest.mark.parametrize("user", ["", "nobody:wrong@", ":wrong@"])
def test_a_wrong_password_is_told_once_until_it_is_right(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, user: str
) -> None:
    url = own_redis.url().replace("//", f"//{user}")
    own_redis.execute("CONFIG", "SET", "requirepass", "secret")

    def is_back() -> bool:
        (state,) = [each for each in health() if f":{own_redis.port}/" in each.store]
        return state.state is State.AVAILABLE

    async def test() -> None:
        app = an_app(url)
        assert await asked(app, 10, 0.05) == [FALLBACK_MISS, *[FALLBACK_HIT] * 9]
        if not user:
            with own_redis.connect() as connection:
                connection.sendall(b"AUTH secret\r\nCONFIG SET requirepass ''\r\n")
                await asyncio.to_thread(connection.recv, 100)
            await asyncio.to_thread(wait_until, is_back)
            assert await asked(app, 2) == [MISS, HIT]

    asyncio.run(test())
    (level, line), *others = told(caplog)
    assert level == "ERROR"
    assert "correct them in the cache's URL" in line
    assert "will not recover by itself" in line
    assert "wrong" not in line.replace("wrong:", "")
    assert [level for level, _ in others] == ([] if user else ["INFO"])


class LockableServer(RedisServer):
    """It counts as started once it answers, whatever that is."""

    def answers(self) -> bool:
        try:
            return super().answers()
        except OSError as exc:
            return "NOAUTH" in str(exc)


def test_a_password_that_becomes_wrong_in_an_outage_is_told_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(server: RedisServer) -> None:
        app = an_app(server.url())
        assert await asked(app, 1) == [MISS]
        server.stop()
        assert await asked(app, 1) == [FALLBACK_MISS]
        server.options = ("--requirepass", "secret")
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(wait_until, lambda: len(told(caplog)) == 2)

    with server_or_skip(LockableServer) as server:
        asyncio.run(test(server))
    assert [level for level, _ in told(caplog)] == ["WARNING", "ERROR"]


@pytest.mark.parametrize("forbidden", ["-mget", "-set", "-get", "resetkeys ~other:*"])
def test_a_missing_permission_is_told_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, forbidden: str
) -> None:
    own_redis.execute("ACL", "SETUSER", "web", "on", ">pw", "~*", "+@all", *forbidden.split())
    app = an_app(own_redis.url().replace("//", "//web:pw@"))
    asyncio.run(asked(app, 5, 0.05))
    if forbidden == "-get":
        # Nothing needs it.
        return
    errors = [line for level, line in told(caplog) if level == "ERROR"]
    assert len(errors) == 1
    for line in errors:
        assert "ACL SETUSER" in line
        assert "will not recover by itself" in line
    assert not [line for level, line in told(caplog) if level == "WARNING"]


def test_the_permissions_of_the_documentation_are_all_that_is_needed(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    text = (ROOT / "docs" / "stores.md").read_text(encoding="utf-8")
    found = re.search(r"redis-cli (ACL SETUSER web .*?)\n```", text, re.DOTALL)
    assert found
    own_redis.execute(*shlex.split(found[1].replace("\\\n", " ")))
    app = an_app(own_redis.url().replace("//", "//web:password@") + "?namespace=web")

    async def several() -> list[str]:
        # The second miss after another one takes its lease with the look-up.
        paths = "/a", "/b", "/c", "/c"
        return [(await get(app, path)).cache_status for path in paths]

    assert asyncio.run(several()) == [MISS, MISS, MISS, HIT]
    with redis.Redis.from_url(own_redis.url()) as client:
        assert client.acl_log() == []
    assert not told(caplog)


@pytest.mark.parametrize("forbidden", ["-eval", "-get", "-del"])
def test_what_only_a_script_needs_may_be_forbidden(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, forbidden: str
) -> None:
    own_redis.execute("ACL", "SETUSER", "web", "on", ">pw", "~*", "+@all", forbidden)
    app = an_app(own_redis.url().replace("//", "//web:pw@"))
    assert asyncio.run(asked(app, 3)) == [MISS, HIT, HIT]
    assert not told(caplog)


def test_what_a_script_has_done_before_it_was_refused_is_kept_for_ever(
    own_redis: RedisServer,
) -> None:
    own_redis.execute("ACL", "SETUSER", "web", "on", ">pw", "~*", "+@all", "-del")
    app = an_app(own_redis.url().replace("//", "//web:pw@"), ttl=None)
    assert asyncio.run(asked(app, 1)) == [MISS]
    client = redis.Redis.from_url(own_redis.url(), decode_responses=True)
    found = segments(set(client.scan_iter()))
    assert found
    assert {client.ttl(key) for key in found} == {-1}


def test_a_replica_that_has_lost_its_master_comes_back_by_itself(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.execute("CONFIG", "SET", "replica-serve-stale-data", "no")
    # No server listens there.
    own_redis.execute("REPLICAOF", HOST, "1")

    async def test() -> None:
        app = an_app(own_redis.url())
        assert await asked(app, 2) == [FALLBACK_MISS, FALLBACK_HIT]
        own_redis.execute("REPLICAOF", "NO", "ONE")
        await asyncio.to_thread(wait_until, lambda: len(told(caplog)) == 2)
        assert await asked(app, 2) == [MISS, HIT]

    asyncio.run(test())
    assert [level for level, _ in told(caplog)] == ["WARNING", "INFO"]


def test_a_database_that_is_not_there_is_told(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(asked(an_app(own_redis.url().replace("/0", "/99")), 2))
    errors = [line for level, line in told(caplog) if level == "ERROR"]
    assert errors
    assert "no database of this number" in errors[0]


# -- TLS ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _tls_server(directory: Path) -> AsyncIterator[int]:
    """A server that answers no one who speaks without TLS."""
    (directory / "server.pem").write_text(PEM)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "server.pem")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("scheme", "fix"),
    [
        ("redis", "write rediss:// for redis://"),
        ("rediss", "ssl_ca_certs, ssl_certfile, ssl_keyfile"),
    ],
)
def test_a_server_with_another_tls_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scheme: str, fix: str
) -> None:
    async def test() -> None:
        async with _tls_server(tmp_path) as port:
            app = an_app(f"{scheme}://{HOST}:{port}/0")
            assert (await asked(app, 5, 0.05))[1:] == [FALLBACK_HIT] * 4

    asyncio.run(test())
    errors = [line for level, line in told(caplog) if level == "ERROR"]
    assert len(told(caplog)) == len(errors) == 1
    assert fix in errors[0]
    assert "will not recover by itself" in errors[0]


def test_a_server_without_tls_is_told_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    app = an_app(own_redis.url(timeout=0.2).replace("redis://", "rediss://"))
    asyncio.run(asked(app, 3, 0.5))
    ((level, line),) = told(caplog)
    assert level == "ERROR"
    assert "write redis:// for rediss://" in line


def test_a_server_that_is_not_there_is_no_question_of_tls(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.stop()
    for scheme in ("redis", "rediss"):
        caplog.clear()
        asyncio.run(asked(an_app(own_redis.url(db=3).replace("redis://", f"{scheme}://")), 2))
        assert [level for level, _ in told(caplog)] in (["WARNING"], [])


# -- what is said ---------------------------------------------------------------------------------


def chained(exc: Exception, cause: BaseException) -> Exception:
    exc.__cause__ = cause
    return exc


@pytest.mark.parametrize(
    ("exc", "fix"),
    [
        (
            exceptions.ClusterCrossSlotError("Keys in request don't hash to the same slot"),
            "CLUSTER",
        ),
        (exceptions.ResponseError("CROSSSLOT Keys in request"), "CLUSTER"),
        (exceptions.AuthenticationError("WRONGPASS"), "PASSWORD"),
        (exceptions.NoPermissionError("NOPERM"), "PERMISSION"),
        (exceptions.ResponseError("unknown command 'EVAL'"), "COMMAND"),
        (exceptions.ConnectionError("Invalid Database"), "DATABASE"),
        (chained(exceptions.ConnectionError(), ssl.SSLCertVerificationError()), "CERTIFICATE"),
        (chained(exceptions.ConnectionError(), ssl.SSLEOFError()), None),
        (exceptions.ConnectionError("Connection refused"), None),
        (exceptions.TimeoutError(), None),
        (exceptions.BusyLoadingError(), None),
        (exceptions.ReadOnlyError(), None),
        (exceptions.MasterDownError("Link with MASTER is down"), None),
        (exceptions.OutOfMemoryError(), None),
        (StoreError("unknown command"), None),
        (ValueError("unknown command"), None),
    ],
)
def test_what_may_pass_by_itself_is_no_error(exc: Exception, fix: str | None) -> None:
    assert fix_of(exc) == ("" if fix is None else getattr(refusals, fix))
