"""What a view sees of requests that the key takes for the same, and beside its request."""

from __future__ import annotations

import contextvars
import datetime
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib import messages
from django.contrib.messages.storage.cookie import CookieStorage
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from django.urls import clear_script_prefix, set_urlconf
from django.utils import timezone, translation

from stream_cached.django import cache_stream
from stream_cached.errors import BrokenStreamError
from tests.django.asking import PKS, answered, nobody_is_given_what_is_anothers, request_of
from tests.django.conftest import Site
from tests.django.test_answers import status
from tests.support.gates import Gate

#: Two requests for the same, and what a view may see of them.
ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Any], object]]] = {
    "case of the host": (
        {"HTTP_HOST": "A.example"},
        {"HTTP_HOST": "a.example"},
        lambda request: request.get_host(),
    ),
    "server name": (
        {"HTTP_HOST": "a.example", "SERVER_NAME": "one"},
        {"HTTP_HOST": "a.example", "SERVER_NAME": "two"},
        lambda request: request.META["SERVER_NAME"],
    ),
    "port": (
        {"HTTP_HOST": "a.example", "SERVER_PORT": "81"},
        {"HTTP_HOST": "a.example", "SERVER_PORT": "82"},
        lambda request: request.get_port(),
    ),
    "protocol": (
        {"SERVER_PROTOCOL": "HTTP/1.0"},
        {"SERVER_PROTOCOL": "HTTP/1.1"},
        lambda request: request.META["SERVER_PROTOCOL"],
    ),
    "method": ({"REQUEST_METHOD": "HEAD"}, {}, lambda request: request.method),
    "method in META": (
        {"REQUEST_METHOD": "HEAD"},
        {},
        lambda request: request.META["REQUEST_METHOD"],
    ),
    "mount path": (
        {"SCRIPT_NAME": "/a", "PATH_INFO": "/b/c"},
        {"SCRIPT_NAME": "/a/b", "PATH_INFO": "/c"},
        lambda request: request.path_info,
    ),
    "headers": (
        {"HTTP_X_OWN": "1"},
        {"HTTP_X_OWN": "2"},
        lambda request: request.headers._store["x-own"],
    ),
    "text of META": ({"HTTP_X_OWN": "1"}, {"HTTP_X_OWN": "2"}, lambda r: "'1'" in str(r.META)),
    "META as JSON": (
        {"HTTP_X_OWN": "1"},
        {"HTTP_X_OWN": "2"},
        lambda request: json.dumps(request.META, default=lambda value: "")[-300:].count("1"),
    ),
    "items of META": (
        {"HTTP_X_OWN": "1"},
        {"HTTP_X_OWN": "2"},
        lambda request: [value for name, value in request.META.items() if name[:6] == "HTTP_X"],
    ),
    "copy of META": (
        {"HTTP_X_OWN": "1"},
        {"HTTP_X_OWN": "2"},
        lambda request: {**request.META.copy(), **request.META}["HTTP_X_OWN"],
    ),
    "a changed META": (
        {"HTTP_X_OWN": "1"},
        {"HTTP_X_OWN": "2"},
        lambda request: (
            request.META.__ior__({"A": "1"})["A"],
            isinstance(request.META, dict),
            next(reversed(request.META)),
        ),
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_requests_that_are_taken_for_the_same(name: str, site: Site) -> None:
    one, other, read = ALIKE[name]

    def asked(who: str) -> Any:
        return RequestFactory().generic("GET", "/view", **(one if who == "ada" else other))

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(read(request)))

    site()
    nobody_is_given_what_is_anothers(lambda cached: cached(view), cache_stream(60), asked)


def test_a_method_that_is_read_late(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(str(request.method) for _ in range(1))

    site()
    for _ in range(2):
        assert answered(view, request_of("ada")) == b"GET"
    assert status(view(request_of("ada"))) != "hit"
    (record,) = caplog.records
    assert "let the view read request.method before" in record.getMessage()


def test_get_and_head_share_entries_otherwise(site: Site) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("body")

    @cache_stream(60)
    def reads(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.method)

    client = site(view, reads, middleware=())
    client.get("/view")
    assert status(client.head("/view")) == "hit"
    client.get("/reads")
    assert status(client.head("/reads")) != "hit"
    assert status(client.get("/reads")) == "hit"


# -- messages -----------------------------------------------------------------------------------


def with_messages(who: str) -> Any:
    request = request_of(who)
    request._messages = CookieStorage(request)
    messages.info(request, f"for {who}")
    assert len(request._messages) == 1
    return request


MESSAGES: dict[str, Callable[[Any], object]] = {
    "iterated": lambda request: [str(each) for each in messages.get_messages(request)],
    "counted": lambda request: len(request._messages),
    "contained": lambda request: "for ada" in [str(e) for e in request._messages._queued_messages],
    "shown": lambda request: repr(request._messages._queued_messages),
    "added": lambda request: messages.info(request, "more"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_that_were_there_before(
    name: str, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(MESSAGES[name](request))[:20])

    site()
    nobody_is_given_what_is_anothers(lambda cached: cached(view), cache_stream(60), with_messages)
    assert "messages for its client" in caplog.records[0].getMessage()


def test_messages_that_are_only_passed_on(site: Site) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        assert messages.get_messages(request) is not None
        return HttpResponse("a")

    site()
    assert [status(view(with_messages(who))) for who in PKS] == ["fwd=uri-miss", "hit"]


def test_a_user_that_is_no_lazy_one(site: Site) -> None:
    def view(request: Any) -> HttpResponse:
        shown = type(request.user).__name__, vars(request.user)["username"], request.user is None
        return HttpResponse(str(shown))

    site()
    nobody_is_given_what_is_anothers(lambda cached: cached(view), cache_stream(60))


# -- beside the request -------------------------------------------------------------------------

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")


def test_a_context_variable_is_told(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(tenant.get())

    def ask(cached: Any) -> None:
        for who in ("ada", "grace"):
            token = tenant.set(who)
            answered(cached, request_of("ada"))
            tenant.reset(token)

    site()
    ask(cache_stream(60)(view))
    (record,) = caplog.records
    assert "key_context=(tenant,)" in record.getMessage()
    caplog.clear()
    ask(cache_stream(60, key_context=())(view))
    keyed = cache_stream(60, key_context=(tenant,))(view)
    for who in ("ada", "grace"):
        token = tenant.set(who)
        assert answered(keyed, request_of("ada")) == who.encode()
        tenant.reset(token)
    assert not caplog.records


class Fixed(datetime.tzinfo):
    def __init__(self, hours: int) -> None:
        self.hours = hours

    def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(hours=self.hours)

    def dst(self, when: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(0)

    def tzname(self, when: datetime.datetime | None) -> str:
        return "local"


ZONES: dict[str, dict[str, datetime.tzinfo]] = {
    "of one name": {
        who: datetime.timezone(datetime.timedelta(hours=hours), "local")
        for who, hours in (("ada", 2), ("grace", 5))
    },
    "of a class of the project": {"ada": Fixed(2), "grace": Fixed(5)},
    "of the standard library": {"ada": ZoneInfo("Europe/Berlin"), "grace": ZoneInfo("Asia/Tokyo")},
}


@pytest.fixture
def _as_before() -> Iterator[None]:
    yield
    # Tests share the thread.
    timezone.deactivate()
    translation.deactivate()
    set_urlconf(None)
    clear_script_prefix()


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.usefixtures("_as_before")
def test_time_zones(name: str, site: Site) -> None:
    def asked(who: str) -> Any:
        timezone.activate(ZONES[name][who])
        return request_of("ada")

    def view(request: HttpRequest) -> HttpResponse:
        noon = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
        return HttpResponse(str(timezone.localtime(noon)))

    site()
    nobody_is_given_what_is_anothers(lambda cached: cached(view), cache_stream(60), asked)


@pytest.mark.usefixtures("_as_before")
def test_routes_of_each_tenant(site: Site) -> None:
    from django.urls import get_urlconf

    def asked(who: str) -> Any:
        set_urlconf(f"urls_of_{who}")
        return request_of("ada")

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(get_urlconf()))

    site()
    nobody_is_given_what_is_anothers(lambda cached: cached(view), cache_stream(60), asked)


# -- streams ------------------------------------------------------------------------------------


_gate = Gate()


@cache_stream(60)
def _shows_the_user_late(request: Any) -> StreamingHttpResponse:
    def rows() -> Iterator[str]:
        yield "begun "
        _gate.wait()
        yield request.user.username

    return StreamingHttpResponse(rows())


@pytest.mark.usefixtures("_as_before")
def test_a_stream_that_reads_the_user_at_its_end_breaks_for_those_who_joined(site: Site) -> None:
    view, joined, found = _shows_the_user_late, Gate(), list[bytes]()

    def ask(who: str) -> Any:
        # The same in each thread.
        set_urlconf(None)
        translation.activate("en")
        return view(request_of(who))

    def join() -> None:
        response = ask("grace")
        try:
            for part in response.streaming_content:
                found.append(part)
                joined.open()
        except BrokenStreamError:
            found.append(b"broken")

    site()
    parts = ask("ada").streaming_content
    assert next(parts) == b"begun "
    other = threading.Thread(target=join)
    other.start()
    joined.wait()
    _gate.open()
    assert b"".join(parts) == b"ada"
    other.join(10)
    # What it was sent already can't be taken back, but it does not end as if it were whole.
    assert found == [b"begun ", b"broken"]
    # From now on, nobody joins.
    for who in PKS:
        assert answered(view, request_of(who)) == b"begun " + who.encode()
