"""Names in the query that are left out of the key."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient

from stream_cached import ConfigurationError, stream_cached
from tests.support.runs import HIT, MISS


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *(("/x", HIT), ("/x?", HIT), ("/x?utm_source=a", HIT), ("/x?utm_medium&fbclid=1", HIT)),
        *(("/x?utm%5Fsource=b", HIT), ("/x?utm_+x=1", HIT), ("/x?q=1", MISS), ("/x?UTM_a=1", MISS)),
        *(("/x?autm_a=1", MISS), ("/x?fbclid2=1", MISS), ("/x?fbclid=1&q=2", MISS)),
    ],
)
def test_they_make_no_difference(path: str, expected: str) -> None:
    app = FastAPI()

    @app.get("/x")
    @stream_cached(ttl=60, query_ignore=("utm_*", "fbclid"))
    async def endpoint() -> Response:
        return PlainTextResponse("rows")

    client = TestClient(app)
    assert client.get("/x?utm_campaign=first").headers["cache-status"] == MISS
    assert client.get(path).headers["cache-status"] == expected


def test_one_that_the_endpoint_has_as_a_parameter_is_an_argument_as_ever() -> None:
    app = FastAPI()

    @app.get("/x")
    @stream_cached(ttl=60, query_ignore=("utm_*",))
    async def endpoint(utm_source: str = "") -> Response:
        return PlainTextResponse(utm_source)

    client = TestClient(app)
    for source in ("a", "b", "a"):
        assert client.get(f"/x?utm_source={source}").text == source


@pytest.mark.parametrize("given", ["utm_*", (1,), ("",), 5])
def test_what_is_no_name_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="query_ignore="):
        stream_cached(ttl=60, query_ignore=given)
