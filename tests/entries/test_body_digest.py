"""The digest that an ETag is made of, with and without xxhash."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import xxhash
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import MemoryCache, stream_cached
from stream_cached.engine.completed import Completed
from stream_cached.entries import body_digest as digests
from tests.support.asgi import get
from tests.support.gates import run, runs_over


def _without_xxhash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "xxh3_128", None)


async def _tag(chunks: list[bytes], **options: Any) -> str:
    """Return the ETag of what is stored."""

    @stream_cached(ttl=60, cache=MemoryCache(), **options)
    async def endpoint(request: Request) -> StreamingResponse:
        async def made() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return StreamingResponse(made(), media_type="video/mp4")

    app = Starlette(routes=[Route("/", endpoint)])
    await get(app)
    await runs_over()
    exchange = await get(app)
    assert exchange.body == b"".join(chunks)
    return str(dict(exchange.sent[0]["headers"])[b"etag"].decode())


@pytest.mark.parametrize("has_xxhash", [True, False])
@pytest.mark.parametrize("size", [10, 300_000])
def test_a_tag_is_made_of_the_bytes_and_not_of_the_chunks(
    has_xxhash: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_xxhash:
        _without_xxhash(monkeypatch)

    async def main() -> None:
        whole = b"%09d" % size * size
        tag = await _tag([whole])
        made = xxhash.xxh3_128(whole) if has_xxhash else hashlib.sha256(whole)
        assert tag == f'"{made.hexdigest()[:32]}"'
        assert tag == await _tag([whole[:7], whole[7:]])
        assert tag != await _tag([whole[:-1]])
        assert tag != await _tag([whole[:-1] + b"x"])
        assert re.fullmatch(r'W/"[0-9a-f]{32}"', await _tag([whole], etag="weak"))

    run(main)


@pytest.mark.parametrize("etag", [True, False])
def test_what_is_told_of_a_stored_body_is_its_sha_256(etag: bool) -> None:
    async def main() -> None:
        told: asyncio.Queue[Completed] = asyncio.Queue()
        await _tag_or_none([b"body"], etag=etag, on_complete=told.put)
        assert (await told.get()).digest == hashlib.sha256(b"body").hexdigest()

    async def _tag_or_none(chunks: list[bytes], **options: Any) -> None:
        if options["etag"]:
            tag = await _tag(chunks, **options)
            assert tag == f'"{hashlib.sha256(b"body").hexdigest()[:32]}"'
        else:
            with pytest.raises(KeyError):
                await _tag(chunks, **options)

    run(main)


def test_nothing_is_digested_for_nothing() -> None:
    assert digests.body_digest(sha256=False, has_tag=False) is None
