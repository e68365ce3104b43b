"""Without an event loop of asyncio, as under trio, functions run past the cache."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stream_cached import aclose, lifespan, stream_cached
from stream_cached.endpoint.function import HIDDEN


def by_hand(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that waits for nothing: no event loop runs it."""
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


def a_request() -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "headers": []})


@pytest.mark.parametrize("settings", [{}, {"cache": "redis://127.0.0.1:1/0"}, {"resume": True}])
def test_functions_run_uncached_and_one_error_says_so(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    async def endpoint(number: int) -> Response:
        runs.append(number)
        return StreamingResponse(iter([f"run {len(runs)}"]))

    cached: Any = stream_cached(ttl=60, **settings)(endpoint)
    for number in range(2):
        response = by_hand(cached(number, **{HIDDEN: a_request()}))
        assert isinstance(response, StreamingResponse)
        assert by_hand(cached(number=number, cache_read=False)).status_code == 200
    assert runs == [0, 0, 1, 1]
    assert by_hand(cached.invalidate()) is False
    (record,) = [each for each in caplog.records if each.name == "stream_cached"]
    assert record.levelno == logging.ERROR
    assert "does not work under trio" in record.getMessage()


def test_the_end_of_an_application_without_asyncio_is_no_error() -> None:
    by_hand(aclose())

    async def application() -> None:
        async with lifespan(None):
            pass

    by_hand(application())
