"""Buckets: their URLs, credentials, processes and event loops, and how much memory they take."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stream_cached.bodies import buckets
from stream_cached.bodies.protocol import BodyStore
from stream_cached.bodies.urls import bodies_from_url
from stream_cached.errors import ConfigurationError, StoreError
from tests.bodies.test_contract import MIB, NAME, get, put
from tests.support.memory import resident
from tests.support.process import HOST, ROOT, free_port
from tests.support.proxy import DelayProxy
from tests.support.servers import S3Server

SECRETS: dict[str, Any] = {"access_key_id": "someone", "secret_access_key": "very-secret"}

_FORKED = """
import asyncio, os, sys
from stream_cached.bodies.urls import bodies_from_url
from stream_cached.errors import StoreError

bodies = bodies_from_url(sys.argv[1])

def ping():
    try:
        asyncio.run(bodies.ping())
    except StoreError as exc:
        return exc.fix
    return "pong"

if sys.argv[2] == "used":
    ping()
if not os.fork():
    print(ping(), flush=True)
    os._exit(0)
os.wait()
"""


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/some/prefix/", "s3://bucket/some/prefix"),
            ("s3://bucket/p%20q?region=eu-west-1&virtual_hosted_style=true", "s3://bucket/p q"),
            ("s3://bucket?access_key_id=a&secret_access_key=b&session_token=c", "s3://bucket"),
            (
                "s3://bucket?endpoint=http://host:9000&allow_http=true",
                "s3://bucket?endpoint=http://host:9000",
            ),
            ("gs://bucket/prefix?timeout=2.5&retries=0", "gs://bucket/prefix"),
            ("az://container/prefix?account_name=me&account_key=c2VjcmV0", "az://container/prefix"),
        ],
    )
    def test_a_bucket_is_called_by_its_url_without_secrets(self, url: str, name: str) -> None:
        assert bodies_from_url(url).name == name

    @pytest.mark.parametrize(
        ("url", "fix"),
        [
            ("s3:///prefix", "write s3://bucket/prefix"),
            ("s3://user:very-secret@bucket", "credentials into the query"),
            ("az:///prefix", "write az://container/prefix"),
            ("s3://bucket?regoin=eu-west-1", "unknown option 'regoin': use one of access_key_id"),
            ("gs://bucket?region=eu", "unknown option 'region': use one of allow_http"),
            ("s3://bucket?secret_access_key=very-secret", "write both access_key_id="),
            ("s3://bucket?timeout=0", "timeout=0: write a number of seconds above 0"),
            ("s3://bucket?upload_timeout=long", "write a number of seconds above 0"),
            ("s3://bucket?retries=-1", "retries=-1: write a whole number, 0 or more"),
            ("s3://bucket?virtual_hosted_style=maybe", "write true or false"),
            ("s3://bucket?endpoint=host:9000", "endpoint: write https://host:port"),
            ("s3://bucket?endpoint=https://me:very-secret@host", "without user and password"),
            ("s3://bucket?endpoint=http://host", "add allow_http=true"),
            ("az://container?account_name=me&account_key=very-secret", "correct the options"),
        ],
    )
    def test_others_are_refused_with_the_fix(self, url: str, fix: str) -> None:
        with pytest.raises(ConfigurationError, match=fix) as found:
            bodies_from_url(url)
        assert "very-secret" not in str(found.value)
        assert found.value.__cause__ is None

    def test_without_the_extra_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, buckets.__name__)
        monkeypatch.delattr("stream_cached.bodies.buckets")
        monkeypatch.setitem(sys.modules, "obstore.store", None)
        with pytest.raises(ConfigurationError, match=r'pip install "stream-cached\[bodies\]"'):
            bodies_from_url("s3://missing-extra")


@pytest.fixture
def strict_s3() -> Iterator[S3Server]:
    """An S3 that looks at signatures. It has no users, nor any bucket."""
    with S3Server(INITIAL_NO_AUTH_ACTION_COUNT="0") as server:
        yield server


class TestSettings:
    """What will not go away by itself has a fix, whatever is done, and tells no secret."""

    def failures(self, bodies: BodyStore) -> Any:
        async def upload(size: int) -> None:
            upload = bodies.upload(NAME)
            try:
                await upload.write(bytes(size))
                await upload.finish()
            finally:
                await upload.abort()

        async def main() -> Any:
            return await asyncio.gather(
                *(bodies.ping(), bodies.open(NAME), bodies.open(NAME, 1, 5)),
                *(upload(10), upload(6 * MIB), anext(bodies.listed(), None)),
                return_exceptions=True,
            )

        failures = asyncio.run(main())
        assert [type(failure) for failure in failures] == [StoreError] * 6, failures
        texts = [f"{failure} {failure.fix}" for failure in failures]
        assert not any("very-secret" in text or len(text) > 500 for text in texts)
        return failures

    def test_wrong_credentials(self, strict_s3: S3Server) -> None:
        failures = self.failures(bodies_from_url(strict_s3.url(**SECRETS)))
        assert {each.fix.partition(":")[0] for each in failures} == {"correct the credentials"}

    def test_a_missing_bucket(self, s3: S3Server) -> None:
        url = s3.url(**SECRETS).replace("s3://bodies/", "s3://missing/")
        [fix] = {each.fix for each in self.failures(bodies_from_url(url))}
        assert fix.startswith("create the bucket")

    def test_no_credentials_at_all(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
        # Where a machine of Amazon's would get some.
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://{HOST}:{free_port()}")
        url = s3.url(retries=1).replace("access_key_id=user&secret_access_key=secret&", "")
        with pytest.raises(StoreError) as found:
            asyncio.run(bodies_from_url(url).ping())
        assert found.value.fix.startswith("there are no credentials")

    def test_credentials_of_the_environment(
        self, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        url = s3.url(retries=2).replace("access_key_id=user&secret_access_key=secret&", "")
        asyncio.run(bodies_from_url(url).ping())


class TestProcesses:
    def test_a_store_serves_several_event_loops(self, s3: S3Server) -> None:
        bodies = bodies_from_url(s3.url())
        asyncio.run(put(bodies, NAME, b"body"))
        assert asyncio.run(get(bodies, NAME)) == b"body"
        found = list[bytes]()
        threads = [
            threading.Thread(target=lambda: found.append(asyncio.run(get(bodies, NAME))))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert found == [b"body"] * 3

    @pytest.mark.parametrize(
        ("before", "answer"),
        [
            ("used", "use the store only after the fork"),
            pytest.param("fresh", "pong", marks=pytest.mark.full),
        ],
    )
    def test_a_fork(self, s3: S3Server, before: str, answer: str) -> None:
        command = [sys.executable, "-W", "ignore", "-c", _FORKED, s3.url(), before]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        said = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=20, check=True
        )
        assert said.stdout.startswith(answer)


async def upload_and_read(bodies: BodyStore, size: int) -> tuple[int, int]:
    """Return by how many bytes this process has grown while it wrote a body, and read it."""
    piece = random.Random(1).randbytes(256 * 1024 - 64)
    before, most = resident(), 0
    upload = bodies.upload(NAME)
    for _ in range(0, size, len(piece)):
        await upload.write(piece)
        most = max(most, resident())
    await upload.finish()
    written, most, before = most - before, 0, resident()
    reading = await bodies.open(NAME)
    for _ in range(0, size, len(piece)):
        assert await reading.read(len(piece)) == piece
        most = max(most, resident())
    assert await reading.read(1) == b""
    await reading.close()
    return written, most - before


#: For it the S3 of the tests takes four times as much memory.
_GIB = pytest.param(1024 * MIB, marks=[pytest.mark.full, pytest.mark.rest])


@pytest.mark.parametrize("size", [pytest.param(64 * MIB, marks=pytest.mark.full), _GIB])
def test_memory_does_not_grow_with_the_body(size: int) -> None:
    # A server of its own: it keeps several times as much.
    with S3Server() as server:
        server.flush()
        written, read = asyncio.run(upload_and_read(bodies_from_url(server.url()), size))
    assert written < 40 * MIB
    assert read < 16 * MIB


@pytest.mark.full
def test_no_more_is_read_ahead_than_is_bounded(s3: S3Server) -> None:
    async def main() -> None:
        await put(bodies_from_url(s3.url()), NAME, bytes(64 * MIB))
        with DelayProxy(s3.port) as proxy:
            reading = await bodies_from_url(s3.url(proxy.port)).open(NAME)
            assert await reading.read(1) == b"\0"
            await asyncio.sleep(0.3)
            # Most of it is in the buffers of the system.
            assert proxy.replied < 16 * MIB
            await reading.close()

    asyncio.run(main())
