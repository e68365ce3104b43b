"""What middleware has put on a request, or changed of it, before a view is called."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.contrib.sites.requests import RequestSite
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.urls import path, resolve

from stream_cached.django import cache_stream
from tests.django.conftest import Site
from tests.django.test_answers import content

urlconf: Any = ModuleType("urlconf")
urlconf.urlpatterns = [path("", HttpResponse)]


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


def match_of_another_kind(request: Any, who: str) -> None:
    request.resolver_match = SimpleNamespace(kwargs={"team": who}, func=None)


def changed_match(request: Any, who: str) -> None:
    request.resolver_match = resolve("/", urlconf)
    request.resolver_match.kwargs["team"] = who


def match_with_more(request: Any, who: str) -> None:
    request.resolver_match = resolve("/", urlconf)
    request.resolver_match.team = who


def site_of(request: Any, who: str) -> None:
    request.site = RequestSite(RequestFactory().get("/", headers={"Host": f"{who}.example"}))


def changed_meta(name: str) -> Callable[[Any, str], None]:
    return lambda request, who: request.META.__setitem__(name, who)


def put(name: str) -> Callable[[Any, str], None]:
    return lambda request, who: setattr(request, name, who)


#: What middleware may put in the place of what Django puts there.
REPLACED = (
    *("LANGUAGE_CODE", "accepted_renderer", "authenticators", "current_app", "encoding", "parsers"),
    *("path", "path_info", "resolver_match", "site", "urlconf", "version"),
)

CASES: dict[str, tuple[Callable[[Any, str], None], Callable[[Any], object]]] = {
    "an attribute with an underscore": (private, lambda request: request._team),
    "a query that was changed": (changed_query, lambda request: request.GET["who"]),
    "a version": (version, lambda request: request.version),
    "an attribute that not all have": (only_some, lambda request: hasattr(request, "is_beta")),
    "a match that is none": (match_of_another_kind, lambda r: r.resolver_match.kwargs["team"]),
    "a match that was changed": (changed_match, lambda r: r.resolver_match.kwargs["team"]),
    "a match with an attribute": (match_with_more, lambda r: r.resolver_match.team),
    "a site": (site_of, lambda request: request.site.domain),
    "a site that not all have": (
        lambda request, who: site_of(request, who) if who == "ada" else None,
        lambda request: getattr(request, "site", None),
    ),
    "a site that no key can hold": (
        lambda request, who: setattr(request, "site", lambda: who) if who == "ada" else None,
        lambda request: hasattr(request, "site"),
    ),
    **{
        f"request.{name}": (put(name), lambda request, name=name: getattr(request, name))  # type: ignore[misc]
        for name in REPLACED
    },
    **{
        f"META {name}": (changed_meta(name), lambda request, name=name: request.META[name])  # type: ignore[misc]
        for name in ("PATH_INFO", "REQUEST_METHOD", "SCRIPT_NAME", "wsgi.url_scheme")
    },
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
