"""Two versions of the record format over one store: what one has written is a miss to the other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.format import envelope
from tests.support.asgi import get
from tests.support.runs import HIT, MISS


@pytest.mark.anyio
async def test_each_version_answers_whole_and_writes_its_own_entry(
    redis_url: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = 0

    # Without `local`, each request decodes what the store holds.
    @stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}", local=0)
    async def endpoint(request: Request) -> StreamingResponse:
        nonlocal runs
        runs += 1

        async def rows() -> AsyncIterator[str]:
            for number in range(3):
                yield f"{number}\n"

        return StreamingResponse(rows())

    app = Starlette(routes=[Route("/", endpoint)])
    statuses = []
    for version in (2, 3, 3, 2, 2):
        monkeypatch.setattr(envelope, "FORMAT_VERSION", version)
        exchange = await get(app)
        assert exchange.complete
        assert exchange.body == b"0\n1\n2\n"
        statuses.append(exchange.cache_status)

    assert statuses == [MISS, MISS, HIT, MISS, HIT]
    assert runs == 3
    assert not caplog.records
