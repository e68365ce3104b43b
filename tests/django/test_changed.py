"""What middleware has put on a request, or changed of it, before a view is called."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from stream_cached.django import cache_stream
from tests.django.conftest import Site
from tests.django.test_answers import content


def private(request: Any, who: str) -> None:
    request._team = who


def changed_query(request: Any, who: str) -> None:
    request.GET = request.GET.copy()
    request.GET["who"] = who


def version(request: Any, who: str) -> None:
    request.version = who


def only_some(request: Any, who: str) -> None:
    if who == "grace":
        request.is_beta = True


CASES: dict[str, tuple[Callable[[Any, str], None], Callable[[Any], object]]] = {
    "an attribute with an underscore": (private, lambda request: request._team),
    "a query that was changed": (changed_query, lambda request: request.GET["who"]),
    "a version": (version, lambda request: request.version),
    "an attribute that not all have": (only_some, lambda request: hasattr(request, "is_beta")),
}


@pytest.mark.parametrize("order", [("ada", "grace"), ("grace", "ada")])
@pytest.mark.parametrize("name", CASES)
def test_nobody_is_given_what_was_for_another(
    name: str, order: tuple[str, str], site: Site
) -> None:
    prepare, read = CASES[name]

    def plain(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(read(request)))

    site()
    view = cache_stream(60)(plain)
    for who in (*order, *order):
        request, same = RequestFactory().get("/view"), RequestFactory().get("/view")
        prepare(request, who)
        prepare(same, who)
        assert content(view(request)) == plain(same).content


@pytest.mark.parametrize("order", [("ada", "grace"), ("grace", "ada")])
def test_users_without_a_key_have_no_entries(order: tuple[str, str], site: Site) -> None:
    @cache_stream(60, per_user=True)
    def view(request: Any) -> HttpResponse:
        return HttpResponse(request.user.name)

    site()
    for who in (*order, *order):
        request: Any = RequestFactory().get("/view")
        request.user = SimpleNamespace(name=who, pk=None)
        assert content(view(request)) == who.encode()
