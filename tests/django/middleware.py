"""Middleware of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
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
