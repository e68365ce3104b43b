"""What a view reads outside the key keeps its answer out of the cache."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib import messages
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.messages.storage.cookie import CookieStorage
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.middleware.csrf import get_token, rotate_token
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, RequestFactory
from django.views.decorators.csrf import csrf_protect

from stream_cached.django import cache_stream
from tests.django.conftest import Site
from tests.django.test_answers import content, status
from tests.support.gates import Gate

#: What a view may read, and whether that keeps its answer out of the cache.
READS: dict[str, tuple[Callable[[Any], object], str]] = {
    "cookies": (lambda request: request.COOKIES.get("a"), "cookies"),
    "cookie-header": (lambda request: request.headers.get("Cookie"), "cookies"),
    "cookie-meta": (lambda request: request.META.get("HTTP_COOKIE"), "cookies"),
    "signed-cookie": (lambda request: request.get_signed_cookie("a", None), "cookies"),
    "session": (lambda request: request.session.get("a"), "session"),
    "user": (lambda request: request.user.is_authenticated, "request.user"),
    "auser": (lambda request: request.auser, "request.user"),
    "header": (lambda request: request.headers.get("X-Own"), "x-own"),
    "no-header": (lambda request: "X-Other" in request.headers, "x-other"),
    "meta": (lambda request: "HTTP_X_OTHER" in request.META, "x-other"),
    "all-headers": (lambda request: dict(request.headers), "as a whole"),
    "all-meta": (lambda request: dict(request.META), "x-own"),
    "vars": (vars, "as a whole"),
    "environ": (lambda request: request.environ, "as a whole"),
    "address": (lambda request: request.META["REMOTE_ADDR"], "address"),
    "certificate": (lambda request: request.META.get("SSL_CLIENT_S_DN"), "SSL_CLIENT_S_DN"),
    "accepts": (lambda request: request.accepts("text/html"), "accept"),
    "csrf": (get_token, "CSRF"),
    "new-csrf": (rotate_token, "CSRF"),
}


def set_own(request: Any) -> object:
    request.own = 1
    return request.own


HARMLESS: dict[str, Callable[[Any], object]] = {
    "path": lambda request: (request.path, request.path_info, request.META["PATH_INFO"]),
    "query": lambda request: (request.GET.get("a"), request.get_full_path()),
    "host": lambda request: (request.get_host(), request.build_absolute_uri()),
    "scheme": lambda request: (request.scheme, request.is_secure()),
    "body": lambda request: (request.body, request.POST, request.FILES),
    "unread-user": lambda request: request.user,
    "own": lambda request: set_own(request),
    "resolver": lambda request: request.resolver_match.kwargs,
}


def counting(read: Callable[[Any], object], runs: list[int], *, late: bool) -> Callable[..., Any]:
    def view(request: HttpRequest) -> Any:
        def items() -> Iterator[str]:
            yield "begun "
            read(request)
            yield "ended"

        runs.append(1)
        if late:
            return StreamingHttpResponse(items())
        read(request)
        return HttpResponse("body")

    return view


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", READS)
def test_reads_outside_the_key(
    name: str, late: bool, site: Site, caplog: pytest.LogCaptureFixture, database: None
) -> None:
    read, shown = READS[name]
    runs: list[int] = []
    client = site(cache_stream(60)(counting(read, runs, late=late)))
    for number in (1, 2):
        content(client.get("/view", headers={"X-Own": "1"}))
        assert len(runs) == number
    (record,) = caplog.records
    assert shown in record.getMessage()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", HARMLESS)
def test_reads_that_are_in_the_key(name: str, late: bool, site: Site, database: None) -> None:
    runs: list[int] = []
    client = site(cache_stream(60)(counting(HARMLESS[name], runs, late=late)))
    for _ in range(2):
        content(client.get("/view?a=1"))
    assert len(runs) == 1


def test_fixes_that_the_warning_names(site: Site, database: None) -> None:
    runs: list[int] = []
    headers = cache_stream(60, vary=("X-Own",))(
        counting(lambda request: request.headers["X-Own"], runs, late=False)
    )
    client = site(headers)
    for value in ("1", "1", "2", "2"):
        client.get("/view", headers={"X-Own": value})
    assert len(runs) == 2
    exempt = cache_stream(60, unguarded=("session",))(
        counting(lambda request: request.session.get("a"), runs, late=False)
    )
    client = site(exempt, url="memory://?namespace=other")
    for _ in range(2):
        client.get("/view")
    assert len(runs) == 3


def test_attributes_that_middleware_has_set(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    runs: list[int] = []

    def view(request: Any) -> HttpResponse:
        runs.append(1)
        return HttpResponse(request.tenant)

    site(cache_stream(60)(view), middleware=("tests.django.middleware.tenants",))
    keyed = cache_stream(
        60, key_args={"request": lambda request: request.tenant}, unguarded=("request.tenant",)
    )(view)
    for name in ("a", "b"):
        assert Client(headers={"X-Tenant": name}).get("/view").content == name.encode()
    assert len(runs) == 2
    assert "request.tenant" in caplog.records[0].getMessage()
    site(keyed, middleware=("tests.django.middleware.tenants",), url="memory://?namespace=other")
    for name in ("a", "b", "a", "b"):
        assert Client(headers={"X-Tenant": name}).get("/view").content == name.encode()
    assert len(runs) == 4


def test_reads_by_middleware_do_not_count(site: Site, database: None) -> None:
    runs: list[int] = []
    for kind in (iter, _as_async):
        gate = Gate()

        @cache_stream(60, vary=("X-Kind",))
        def view(request: HttpRequest, gate: Gate = gate, kind: Any = kind) -> Any:
            def rows() -> Iterator[str]:
                yield "begun"
                gate.wait()
                yield "ended"

            runs.append(1)
            return StreamingHttpResponse(kind(rows()))

        client = site(view, middleware=("tests.django.middleware.reads_everything",))
        for expected in ("fwd=uri-miss", "hit"):
            response = client.get("/view", headers={"X-Kind": kind.__name__})
            assert status(response) == expected
            gate.open()
            content(response)
    assert len(runs) == 2


async def _as_async(rows: Iterator[str]) -> AsyncIterator[str]:
    for row in rows:
        yield row


def test_the_request_is_as_it_was_afterwards(site: Site) -> None:
    request = RequestFactory().get("/view")
    request.user = AnonymousUser()
    kind, names = type(request), set(vars(request))
    site()

    @cache_stream(60)
    def view(request: HttpRequest) -> StreamingHttpResponse:
        assert isinstance(request, kind)
        return StreamingHttpResponse(iter(["a"]))

    assert content(view(request)) == b"a"
    assert type(request) is kind
    assert set(vars(request)) == names


def test_a_template_that_shows_no_user_is_cached(site: Site, database: None) -> None:
    runs: list[int] = []

    def made(text: str) -> Callable[..., Any]:
        def view(request: HttpRequest) -> TemplateResponse:
            from django.template import engines

            runs.append(1)
            return TemplateResponse(request, engines["django"].from_string(text))

        return cache_stream(60)(view)

    client = site(made("hello"))
    for _ in range(2):
        assert client.get("/view").content == b"hello"
    assert len(runs) == 1
    client = site(made("hello {{ user }}"), url="memory://?namespace=other")
    for _ in range(2):
        assert client.get("/view").content == b"hello AnonymousUser"
    assert len(runs) == 3


def test_a_view_around_another_one(site: Site, database: None) -> None:
    runs: list[str] = []

    @cache_stream(60, per_user=True)
    def inner(request: Any) -> HttpResponse:
        runs.append("inner")
        return HttpResponse(str(request.user))

    @cache_stream(60)
    def outer(request: Any) -> HttpResponse:
        runs.append("outer")
        return HttpResponse(inner(request).content)

    client = site(outer)
    for _ in range(2):
        assert client.get("/outer").content == b"AnonymousUser"
    assert runs == ["outer", "inner", "outer"]


def test_a_form_with_a_token(site: Site) -> None:
    runs: list[int] = []

    @cache_stream(60)
    @csrf_protect
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(1)
        return HttpResponse(get_token(request))

    client = site(view, middleware=())
    tokens = {Client().get("/view").content for _ in range(2)}
    assert len(tokens) == 2
    assert len(runs) == 2
    assert client.get("/view").cookies["csrftoken"].value


@pytest.mark.parametrize("name", ["_cached_user", "_user", "_auth"])
def test_where_a_user_is_kept(name: str, site: Site) -> None:
    runs: list[int] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(1)
        return HttpResponse(getattr(request, name))

    site()
    for user in ("ada", "grace"):
        request = RequestFactory().get("/view")
        setattr(request, name, user)
        assert content(view(request)) == user.encode()
    assert len(runs) == 2


def test_messages_for_one_client(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    @cache_stream(60)
    def adds(request: HttpRequest) -> HttpResponse:
        messages.info(request, "of this client")
        return HttpResponse("added")

    @cache_stream(60)
    def adds_late(request: HttpRequest) -> StreamingHttpResponse:
        def items() -> Iterator[str]:
            yield "begun "
            messages.info(request, "of this client")
            yield "ended"

        return StreamingHttpResponse(items())

    def added(request: HttpRequest) -> int:
        return len(cast(Any, request)._messages._queued_messages)

    site(adds, adds_late)
    for view in (adds, adds_late):
        caplog.clear()
        for _ in range(2):
            request: Any = RequestFactory().get("/messages")
            request._messages = CookieStorage(request)
            content(view(request))
            assert added(request) == 1
        (record,) = caplog.records
        assert "(messages for its client)" in record.getMessage()


@pytest.mark.parametrize("kind", ["user", "auser", "late"])
@pytest.mark.parametrize("by", ["wsgi", "asgi"])
def test_the_session_is_read_to_find_the_user(
    kind: str, by: str, site: Site, database: None, caplog: pytest.LogCaptureFixture
) -> None:
    users = [User.objects.create_user(f"found-{kind}-{by}-{number}") for number in range(2)]

    @cache_stream(60, per_user=True)
    async def view(request: Any) -> Any:
        async def items() -> AsyncIterator[str]:
            yield (await request.auser()).username

        if kind == "late":
            return StreamingHttpResponse(items())
        if kind == "auser":
            return HttpResponse((await request.auser()).username)
        return HttpResponse(await sync_to_async(lambda: request.user.username)())

    site(view)
    statuses = []
    for user in (*users, *users):
        if by == "wsgi":
            client = Client()
            client.force_login(user)
            response: Any = client.get("/view")
        else:
            aclient = AsyncClient()
            aclient.force_login(user)
            response = async_to_sync(aclient.get)("/view")
        assert b"".join(response) == user.username.encode()
        statuses.append(status(response))
    assert statuses == ["fwd=uri-miss"] * 2 + ["hit"] * 2
    assert not caplog.records
    for user in users:
        user.delete()
