"""Middleware of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase

Next = Callable[[HttpRequest], HttpResponseBase]


def tenants(get_response: Next) -> Next:
    """Say whose request it is, by a header."""

    def middleware(request: Any) -> HttpResponseBase:
        request.tenant = request.headers.get("X-Tenant", "")
        return get_response(request)

    return middleware


def reads_everything(get_response: Next) -> Next:
    """Read what is one client's own, before the view and after it."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        read = dict(request.COOKIES), dict(request.headers), dict(request.META)
        response = get_response(request)
        assert read == (dict(request.COOKIES), dict(request.headers), dict(request.META))
        return response

    return middleware


def shouts(get_response: Next) -> Next:
    """Wrap what is streamed, by an iterator that knows nothing of event loops."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = cast(StreamingHttpResponse, get_response(request))
        content = cast(Iterator[bytes], response.streaming_content)
        response.streaming_content = map(bytes.upper, content)
        return response

    return middleware


def ages(get_response: Next) -> Next:
    """Say how old a response is."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response.headers["Age"] = "1"
        return response

    return middleware


class pads:  # noqa: N801
    """Send a stream without its length, as what changes its body has to."""

    def __init__(self, get_response: Next) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        del response.headers["Content-Length"]
        return response
