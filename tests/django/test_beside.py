"""What a view leaves beside the status, the headers and the body, on a miss and on a hit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.test import AsyncClient
from django.utils import translation
from django.utils.decorators import sync_and_async_middleware

from stream_cached.django import cache_stream
from tests.django.conftest import Site

tenant: ContextVar[str] = ContextVar("tenant", default="none")


@sync_and_async_middleware
def tells_tenant(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Middleware that reads after the view what the view has set."""
    if not iscoroutinefunction(get_response):

        def middleware(request: HttpRequest) -> Any:
            response = get_response(request)
            response["Tenant"] = tenant.get()
            return response

        return middleware

    async def async_middleware(request: HttpRequest) -> Any:
        response = await get_response(request)
        response["Tenant"] = tenant.get()
        return response

    return markcoroutinefunction(async_middleware)


def _asks(client: Any, *, is_async: bool) -> Any:
    return asyncio.run(AsyncClient().get("/view")) if is_async else client.get("/view")


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_reason_phrase(site: Site, is_stream: bool) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
        if is_stream:
            return StreamingHttpResponse(iter(["a"]), reason="As Asked")
        return HttpResponse("a", reason="As Asked")

    client = site(view)
    for _ in range(2):
        response: Any = client.get("/view")
        assert response.getvalue() == b"a"
        assert response.reason_phrase == "As Asked"
    not_changed: Any = client.get("/view", headers={"If-None-Match": response["ETag"]})
    assert (not_changed.status_code, not_changed.reason_phrase) == (304, "Not Modified")


def test_where_a_redirection_leads_to(site: Site) -> None:
    @cache_stream(60, statuses=(302,))
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect("/other")

    client = site(view)
    for _ in range(2):
        response: Any = client.get("/view")
        assert response.url == "/other"
    # `Client` itself asks for it.
    assert client.get("/view", follow=True).redirect_chain == [("/other", 302)]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_language_that_a_view_has_activated(site: Site, is_async: bool, kind: str) -> None:
    """`LocaleMiddleware` makes a `Content-Language` of it."""

    def answer(request: HttpRequest) -> HttpResponse:
        translation.activate("de")
        return HttpResponse(translation.gettext("Yes"))

    async def aanswer(request: HttpRequest) -> HttpResponse:
        return answer(request)

    view: Any = cache_stream(60)(answer if kind == "sync" else aanswer)
    view.__name__ = "view"
    client = site(view)
    for _ in range(2):
        response = _asks(client, is_async=is_async)
        assert (response.content, response["Content-Language"]) == (b"Ja", "de")
    assert "hit" in response["Cache-Status"]


@pytest.mark.parametrize("is_async", [False, True])
def test_what_an_asynchronous_view_sets_of_its_context(site: Site, is_async: bool) -> None:
    @cache_stream(60)
    async def view(request: HttpRequest) -> HttpResponse:
        tenant.set("of the view")
        return HttpResponse("a")

    client = site(view, middleware=[f"{__name__}.tells_tenant"])
    before = tenant.set("none")
    try:
        assert _asks(client, is_async=is_async)["Tenant"] == "of the view"
    finally:
        tenant.reset(before)


@pytest.mark.parametrize("on_complete", [None, lambda *args: None])
def test_a_client_keeps_its_etag_from_a_miss_to_a_hit_and_on(site: Site, on_complete: Any) -> None:
    """`ConditionalGetMiddleware` makes one for a response that has none."""

    runs: list[int] = []

    @cache_stream(60, on_complete=on_complete)
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(1)
        return HttpResponse("a")

    client = site(view, middleware=["django.middleware.http.ConditionalGetMiddleware"])
    first: Any = client.get("/view")
    second: Any = client.get("/view")
    assert first["ETag"] == second["ETag"]
    asks = {"If-None-Match": first["ETag"]}
    assert client.get("/view", headers=asks).status_code == 304
    view.invalidate()
    assert client.get("/view", headers=asks).status_code == 304
    assert len(runs) == 2
