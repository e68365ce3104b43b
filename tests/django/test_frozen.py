"""Header fields that stay as they are, whatever middleware does."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, RequestFactory
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.views.decorators.cache import cache_page

from stream_cached import ConfigurationError
from stream_cached.django import (
    FrozenHeaderError,
    cache_stream,
    caches,
    freeze_header,
    header_is_frozen,
)
from tests.django.conftest import Site
from tests.django.test_answers import content, status
from tests.support.gates import Gate

GZIP = "django.middleware.gzip.GZipMiddleware"
COMMON = "django.middleware.common.CommonMiddleware"
CONDITIONAL = "django.middleware.http.ConditionalGetMiddleware"
UPDATE, FETCH = (
    f"django.middleware.cache.{name}CacheMiddleware" for name in ("Update", "FetchFrom")
)

TAG, DATE = '"my-own"', "Wed, 21 Oct 2015 07:28:00 GMT"
BODY = [b"x" * 1000, b"y" * 1000]
DECORATORS: list[Callable[[Any], Any]] = [lambda view: view, cache_stream(60)]


def frozen_response(*, stream: bool = True, **fields: str | None) -> Any:
    """A response with these fields, all frozen; None stands for an absent one."""
    response: Any = StreamingHttpResponse(iter(BODY)) if stream else HttpResponse(b"".join(BODY))
    for name, value in fields.items():
        field = name.replace("_", "-")
        if value is not None:
            response[field] = value
        freeze_header(response, field)
    return response


def viewed(**options: Any) -> Callable[..., Any]:
    def view(request: HttpRequest) -> Any:
        return frozen_response(**options)

    return view


# -- one response -------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[HttpResponse], object]] = {
    "set": lambda response: response.__setitem__("vary", "other"),
    "delete": lambda response: response.__delitem__("VARY"),
    "set-in-headers": lambda response: response.headers.__setitem__("Vary", "other"),
    "delete-in-headers": lambda response: response.headers.__delitem__("Vary"),
    "pop": lambda response: response.headers.pop("Vary"),
    "setdefault": lambda response: response.setdefault("Vary", "other"),
    "setdefault-in-headers": lambda response: response.headers.setdefault("Vary", "other"),
    "patch": lambda response: patch_vary_headers(response, ["other"]),
}


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("how", CHANGES)
def test_changes_are_dropped(how: str, is_there: bool, caplog: pytest.LogCaptureFixture) -> None:
    changes = (not how.startswith("setdefault")) if is_there else not how.startswith(("del", "pop"))
    for strict in (False, True):
        response = HttpResponse()
        if is_there:
            response["Vary"] = "own"
        freeze_header(response, "vary", strict=strict)
        assert header_is_frozen(response, "Vary")
        if strict and changes:
            with pytest.raises(FrozenHeaderError, match="test_frozen"):
                CHANGES[how](response)
        else:
            CHANGES[how](response)
        assert response.get("Vary") == ("own" if is_there else None)
        assert response.has_header("Vary") == is_there
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == (1 if changes else 0)
    assert all("tests.django.test_frozen" in each for each in warnings)


def test_other_fields_of_the_response_change() -> None:
    response: Any = frozen_response(stream=False, ETag=None)
    response["Vary"] = "a"
    response.set_cookie("a", "b")
    assert response["Vary"] == "a"
    assert not header_is_frozen(response, "Vary")
    assert not header_is_frozen(HttpResponse(), "ETag")
    del response["Vary"]
    assert not response.has_header("Vary")
    assert response.cookies["a"].value == "b"
    assert header_is_frozen(pickle.loads(pickle.dumps(response)), "etag")


def test_a_name_that_is_none() -> None:
    for name in ("", " ETag", None):
        with pytest.raises(ConfigurationError, match="freeze_header"):
            freeze_header(HttpResponse(), name)  # type: ignore[arg-type]


# -- through the cache --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_miss_join_and_hit_have_the_same_fields(site: Site, stream: bool) -> None:
    gate = Gate()

    @cache_stream(60, vary=("X-Other",))
    def view(request: HttpRequest) -> Any:
        def rows() -> Iterator[bytes]:
            yield BODY[0]
            gate.wait()
            yield BODY[1]

        response = frozen_response(
            stream=stream,
            ETag=TAG,
            Vary="X-Own",
            Age=None,
            Cache_Status=None,
            Content_Length=None,
            Content_Encoding=None,
            Last_Modified=DATE,
            X_None=None,
        )
        if stream:
            response.streaming_content = rows()
        return response

    client = site(view, middleware=())
    first = client.get("/view")
    joined = Client().get("/view") if stream else first
    gate.open()
    responses = [first, joined]
    bodies = [content(each) for each in responses]
    responses.append(client.get("/view"))
    bodies.append(content(responses[-1]))
    assert bodies == [b"".join(BODY)] * 3
    for response in responses:
        kept = {name: response.headers.get(name) for name in ("ETag", "Vary", "Last-Modified")}
        assert kept == {"ETag": TAG, "Vary": "X-Own", "Last-Modified": DATE}
        for name in ("Age", "Cache-Status", "Content-Length", "Content-Encoding"):
            assert response.headers.get(name) is None
        assert {name.lower() for name in response.headers} >= {"etag", "vary"}
        assert not any(name.lower().startswith("x-stream") for name in response.headers)
        assert header_is_frozen(response, "X-None")
        response["X-None"] = "1"
        assert "X-None" not in response.headers
    part = client.get("/view", headers={"Range": "bytes=0-9"})
    assert (part.status_code, content(part)) == (206, b"x" * 10)
    assert part.headers["Content-Length"] == "10"
    assert part.headers["ETag"] == TAG


def test_a_field_that_is_frozen_while_absent_answers_no_condition(site: Site) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> Any:
        return frozen_response(ETag=None, Last_Modified=None)

    @cache_stream(60)
    def dated(request: HttpRequest) -> Any:
        response = frozen_response(ETag=None)
        response["Last-Modified"] = DATE
        return response

    client = site(view, dated, middleware=(CONDITIONAL,))
    tomorrow = "Fri, 21 Oct 2050 07:28:00 GMT"
    asked = [
        {"If-None-Match": "*"},
        {"If-Modified-Since": tomorrow},
        {"If-None-Match": '"x"', "If-Modified-Since": tomorrow},
        {"If-Match": '"x"'},
        {"If-Unmodified-Since": "Mon, 01 Jan 1990 00:00:00 GMT"},
    ]
    for _ in range(2):
        for headers in asked:
            response = client.get("/view", headers=headers)
            assert response.status_code == 200
            assert content(response) == b"".join(BODY)
            assert not {"ETag", "Last-Modified"} & set(response.headers)
    content(client.get("/dated"))
    assert client.get("/dated", headers=asked[0]).status_code == 200
    unmodified = client.get("/dated", headers=asked[1])
    assert unmodified.status_code == 304
    assert not unmodified.has_header("ETag")
    assert client.get("/dated", headers=asked[2]).status_code == 200


def test_a_copy_of_what_is_stored_has_no_coding(site: Site) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> Any:
        return frozen_response(Content_Encoding="x-own", ETag=None)

    client = site(view, middleware=())
    response: Any = client.get("/view")
    content(response)
    copy = response.construct_cacheable_response()
    assert not copy.has_header("Content-Encoding")
    assert not copy.has_header("ETag")
    assert header_is_frozen(copy, "ETag")


# -- what they are for --------------------------------------------------------------------------


@pytest.mark.parametrize("decorate", DECORATORS)
@pytest.mark.parametrize("stream", [True, False])
def test_own_validators_are_kept(
    decorate: Any, stream: bool, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    view = decorate(viewed(stream=stream, ETag=TAG, Last_Modified=DATE))
    client = site(view, middleware=(CONDITIONAL, GZIP, COMMON))
    for _ in range(2):
        response = client.get("/view", headers={"Accept-Encoding": "gzip"})
        assert len(content(response)) < len(b"".join(BODY))
        # The middleware for compression would make it weak.
        assert response.headers["ETag"] == TAG
        assert response.headers["Last-Modified"] == DATE
        for condition in ({"If-None-Match": TAG}, {"If-Modified-Since": DATE}):
            unmodified = client.get("/view", headers=condition)
            assert unmodified.status_code == 304
            assert unmodified.headers["ETag"] == TAG
    (warning,) = caplog.records
    assert "GZipMiddleware sets ETag" in warning.getMessage()


@pytest.mark.parametrize("decorate", DECORATORS)
@pytest.mark.parametrize("stream", [True, False])
def test_compression_is_prevented(decorate: Any, stream: bool, site: Site) -> None:
    client = site(decorate(viewed(stream=stream, Content_Encoding=None)), middleware=(GZIP, COMMON))
    for _ in range(2):
        response = client.get("/view", headers={"Accept-Encoding": "gzip"})
        assert content(response) == b"".join(BODY)
        assert response.has_header("Content-Encoding")
        assert "content-encoding" not in dict(response.items())
        assert not response.has_header("Vary")


def counted(made: list[int], **fields: str | None) -> Callable[..., Any]:
    def view(request: HttpRequest) -> Any:
        made.append(1)
        return frozen_response(stream=False, **fields)

    return view


def test_no_caching_on_the_server_while_clients_may(site: Site) -> None:
    made: list[int] = []
    told = {"Cache_Control": "public, max-age=3600", "Expires": None}
    client = site(cache_page(0)(counted(made, **told)), middleware=())
    for _ in range(2):
        response = client.get("/view")
        assert response["Cache-Control"] == "public, max-age=3600"
        assert not response.has_header("Expires")
    assert len(made) == 2


def test_caching_on_the_server_while_clients_may_not(site: Site) -> None:
    made: list[int] = []
    view = cache_page(60, key_prefix="frozen")(counted(made, Cache_Control=None, Expires=None))
    client = site(view, middleware=(UPDATE, COMMON, FETCH))
    for _ in range(2):
        response = client.get("/view")
        assert not {"Cache-Control", "Expires"} & set(response.headers)
    assert len(made) == 1


def test_the_cache_of_streams_heeds_what_is_frozen(site: Site) -> None:
    made: list[int] = []

    def view(request: HttpRequest) -> HttpResponse:
        made.append(1)
        response: HttpResponse = frozen_response(stream=False, Cache_Control="max-age=60")
        add_never_cache_headers(response)
        return response

    client = site(cache_stream(60)(view), middleware=())
    for _ in range(2):
        assert client.get("/view")["Cache-Control"] == "max-age=60"
    assert len(made) == 1


@pytest.mark.parametrize("decorate", DECORATORS)
def test_a_long_response_keeps_its_length_and_its_chunks(decorate: Any, site: Site) -> None:
    view = decorate(viewed(Content_Length="2000", Content_Encoding=None))
    client = site(view, middleware=("tests.django.middleware.pads", GZIP, COMMON))
    for number in range(2):
        response: Any = client.get("/view", headers={"Accept-Encoding": "gzip"})
        assert response.headers["Content-Length"] == "2000"
        parts = list(response.streaming_content)
        assert b"".join(parts) == b"".join(BODY)
        assert number or parts[0].startswith(BODY[0])


def test_one_warning_for_each_middleware(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    @cache_stream(60)
    def view(request: HttpRequest) -> Any:
        return frozen_response(stream=False, Vary=None, Content_Length=None, Age=None)

    client = site(view, middleware=(GZIP, COMMON, "tests.django.middleware.ages"))
    for _ in range(3):
        response = client.get("/view")
        assert not {"Vary", "Content-Length", "Age"} & set(response.headers)
    warnings = sorted(record.getMessage().partition(",")[0] for record in caplog.records)
    assert warnings == [
        "django.middleware.common.CommonMiddleware sets Content-Length",
        "django.middleware.gzip.GZipMiddleware sets Vary",
        "tests.django.middleware.ages sets Age",
    ]
    assert all("frozen_response" in record.getMessage() for record in caplog.records)


def test_strict(site: Site) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        response = HttpResponse("body")
        freeze_header(response, "Content-Length", strict=True)
        return response

    for decorated in (view, cache_stream(60)(view)):
        client = site(decorated, middleware=(COMMON,))
        for _ in range(2):
            with pytest.raises(FrozenHeaderError, match=r"CommonMiddleware sets Content-Length"):
                client.get("/view")


def test_a_request_without_a_server() -> None:
    response = cache_stream(60)(viewed(stream=False, ETag=None))(RequestFactory().get("/frozen"))
    assert header_is_frozen(response, "ETag")
    assert status(response) == "fwd=uri-miss"
    caches["default"].clear()
