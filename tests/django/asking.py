"""Two users ask, in both orders, twice: with the decorator and without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import User
from django.test import RequestFactory

from stream_cached.django import caches
from tests.django.test_answers import content

#: Makes a view: `make(decorator)`.
Make = Callable[[Any], Callable[..., Any]]

PKS = {"ada": 1, "grace": 2}


def request_of(who: str, target: str = "/view", **meta: Any) -> Any:
    """A request of a user."""
    request: Any = RequestFactory().get(target, **meta)
    request.user = User(pk=PKS[who], username=who, is_staff=who == "grace")
    request.session = {"who": who}
    request.COOKIES = {"who": who}
    return request


def answered(view: Callable[..., Any], request: Any) -> bytes:
    """The body of an answer, or what was raised."""
    try:
        response = view(request)
        if not getattr(response, "is_rendered", True):
            response.render()
        return content(response)
    except Exception as exc:
        return repr(exc).encode()


def nobody_is_given_what_is_anothers(
    make: Make, decorator: Any, request: Callable[[str], Any] = request_of
) -> None:
    """Compare the answers to two users with those of the same view without the decorator."""
    plain, cached = make(lambda view: view), make(decorator)
    for order in (("ada", "grace"), ("grace", "ada")):
        caches["default"].clear()
        for who in (*order, *order):
            assert answered(cached, request(who)) == answered(plain, request(who)), (who, order)
