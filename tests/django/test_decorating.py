"""What can be decorated, and how it is invalidated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from django.core.cache import cache as django_cache
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import cache_page

from stream_cached.django import CachedStreamingHttpResponse, cache_stream, caches, decorators
from stream_cached.errors import ConfigurationError
from tests.django.conftest import Site
from tests.django.test_answers import content
from tests.support.gates import run


def test_a_method_decorator(site: Site) -> None:
    runs: list[int] = []

    @method_decorator(cache_stream(60), name="get")
    class Own(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            runs.append(1)
            return HttpResponse(request.GET.get("a", ""))

    view: Any = Own.as_view()
    view.__name__ = "view"
    client = site(view, middleware=())
    for query in ("a=1", "a=2", "a=1"):
        assert client.get(f"/view?{query}").content == query[2:].encode()
    assert len(runs) == 2
    get: Any = Own.get
    with pytest.raises(ConfigurationError, match="method_decorator"):
        get.invalidate()


def test_a_method_decorator_costs_little_and_keeps_nothing(site: Site) -> None:
    site()
    decorator = cache_stream(60)

    class Own(View):
        @method_decorator(decorator)
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("body")

    assert not [each for each in decorators._views if "dummy" in str(each[0])]
    method, own = Own.get, Own()

    def bound(request: HttpRequest) -> HttpResponse:
        return HttpResponse("body")

    # Calls, which no load of the machine changes: there are 13, and they take four microseconds.
    assert _calls(decorator, bound) <= 20
    request = RequestFactory().get("/")
    for _ in range(3):
        assert method(own, request).content == b"body"
    (place,) = decorators._views
    assert "Own.get" in str(place[0])


def _calls(decorator: cache_stream, view: Any) -> int:
    """How many Python functions run while a view is decorated that was decorated before."""
    decorator(view)
    calls = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(profile)
    try:
        decorator(view)
    finally:
        sys.setprofile(None)
    return calls


def test_invalidation_by_an_argument_and_of_all(site: Site) -> None:
    runs: list[int] = []

    @cache_stream(60, tags=("report:{number}",))
    def view(request: HttpRequest, number: int) -> HttpResponse:
        runs.append(number)
        return HttpResponse(str(len(runs)))

    client, own = site(view, middleware=()), view
    assert [client.get(f"/view/{number}").content for number in (1, 2, 1)] == [b"1", b"2", b"1"]
    assert own.invalidate(number=1)
    assert [client.get(f"/view/{number}").content for number in (1, 2)] == [b"3", b"2"]

    async def test() -> None:
        assert await own.ainvalidate()

    run(test)
    assert [client.get(f"/view/{number}").content for number in (1, 2)] == [b"4", b"5"]
    assert caches["default"].invalidate_tags("report:2")
    assert [client.get(f"/view/{number}").content for number in (1, 2)] == [b"4", b"6"]


def test_invalidation_of_a_method(site: Site) -> None:
    runs: list[int] = []

    class Own(View):
        @cache_stream(60)
        def get(self, request: HttpRequest) -> HttpResponse:
            runs.append(1)
            return HttpResponse(str(len(runs)))

    view: Any = Own.as_view()
    view.__name__ = "view"
    client = site(view, middleware=())
    assert [client.get("/view").content for _ in range(2)] == [b"1", b"1"]
    get: Any = Own.get
    assert get.invalidate()
    assert client.get("/view").content == b"2"


def test_a_subclass_has_answers_of_its_own(site: Site) -> None:
    class Base(View):
        name = "base"

        @cache_stream(60)
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse(self.name)

    class Other(Base):
        name = "other"

    site()
    for cls in (Base, Other, Base):
        response: Any = cls.as_view()(RequestFactory().get("/"))
        assert response.content == cls.name.encode()


def test_other_methods_pass_by(site: Site) -> None:
    runs: list[str] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(str(request.method))
        return HttpResponse(request.body)

    client = site(view, middleware=())
    for _ in range(2):
        assert client.post("/view", b"data", content_type="text/plain").content == b"data"
    assert runs == ["POST"] * 2


def test_a_body_is_part_of_the_key(site: Site) -> None:
    runs: list[bytes] = []

    @cache_stream(60, methods=("GET", "POST"))
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(request.body)
        return HttpResponse(request.POST.get("a", ""))

    client = site(view, middleware=())
    form = "application/x-www-form-urlencoded"
    for value in (b"1", b"2", b"1"):
        assert client.post("/view", b"a=" + value, content_type=form).content == value
    assert runs == [b"a=1", b"a=2"]


def test_a_response_that_a_view_makes_itself(site: Site) -> None:
    runs: list[int] = []

    def rows() -> Iterator[str]:
        runs.append(1)
        yield from ("a,", "b")

    def view(request: HttpRequest) -> StreamingHttpResponse:
        return CachedStreamingHttpResponse(
            rows(), key="rows", ttl=60, tags=("rows",), content_type="text/csv"
        )

    client = site(view, middleware=())
    for from_cache in (False, True):
        response: Any = client.get("/view")
        assert response.headers["Content-Type"] == "text/csv"
        assert content(response) == b"a,b"
        assert response.completed
        assert response.from_cache == from_cache
        assert response.construct_cacheable_response().content == b"a,b"
        response.close()
    assert len(runs) == 1
    caches["default"].invalidate_tags("rows")
    assert content(client.get("/view")) == b"a,b"
    assert len(runs) == 2


def test_a_view_that_calls_itself_does_not_wait_for_itself(site: Site) -> None:
    depths: list[int] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        depths.append(len(depths))
        inner = view(request).content if len(depths) < 3 else b""
        return HttpResponse(b"(" + inner + b")")

    client = site(view, middleware=())
    assert client.get("/view").content == b"((()))"
    assert depths == [0, 1, 2]


@pytest.mark.parametrize(
    "header",
    [
        {"Range": "bytes=1-4"},
        {"If-None-Match": "*"},
        {"If-Match": '"other"'},
        {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
    ],
)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("around", [cache_stream, cache_page])
def test_what_is_made_of_another_view_is_made_of_the_whole(
    around: Any, late: bool, header: dict[str, str], site: Site
) -> None:
    dated = {"Last-Modified": "Fri, 01 Jan 2010 00:00:00 GMT"}

    @cache_stream(60)
    def inner(request: HttpRequest) -> HttpResponse:
        return HttpResponse("0123456789", headers=dated)

    def view(request: HttpRequest) -> Any:
        def rows() -> Iterator[bytes]:
            yield b"<"
            yield content(inner(request))
            yield b">"

        return StreamingHttpResponse(rows()) if late else HttpResponse(b"".join(rows()))

    decorated: Any = around(60)(view)
    client = site(decorated, middleware=())
    assert content(client.get("/view")) == b"<0123456789>"
    if around is cache_stream:
        decorated.invalidate()
    django_cache.clear()
    for headers in (header, {}):
        assert content(client.get("/view", headers=headers)) == b"<0123456789>"


@pytest.mark.parametrize("kind", ["body", "read", "type", "length", "input", "target"])
def test_a_get_with_more_than_a_path_is_answered_by_itself(kind: str, site: Site) -> None:
    reads: dict[str, Any] = {
        "body": lambda request: request.body,
        "read": lambda request: request.read(),
        "type": lambda request: request.content_type,
        "length": lambda request: request.META.get("CONTENT_LENGTH"),
        "input": lambda request: request.META["wsgi.input"].read(),
        "target": lambda request: request.META.get("RAW_URI"),
    }
    given: dict[str, dict[str, Any]] = {
        "type": {"CONTENT_TYPE": "application/json"},
        "length": {"CONTENT_LENGTH": "0"},
        "input": {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": "", "data": b"data"},
        "target": {"RAW_URI": "/vie%77"},
    }

    def plain(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(reads[kind](request)))

    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        return plain(request)

    client: Any = site(view, plain, middleware=())
    sent = given.get(kind, {"data": b"data"})
    for each in (sent, {}, sent, {}):
        extra = {"RAW_URI": "/view"} if kind == "target" and not each else each
        found = [client.generic("GET", f"/{name}", **extra).content for name in ("view", "plain")]
        assert found[0] == found[1]
