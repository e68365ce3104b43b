"""The caches of the settings, and what `manage.py check` says of them."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.http import HttpRequest, HttpResponse
from django.test import override_settings

from stream_cached.django import cache_stream, caches
from stream_cached.errors import ConfigurationError
from tests.django.conftest import Site


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("redis://localhost", "STREAM_CACHED is no dictionary"),
        ({"default": "redis://localhost"}, "write a dictionary"),
        ({"default": {"URI": "redis://localhost"}}, "'URI', which is no option"),
        ({"default": {"url": "redis://localhost"}}, "'url', which is no option"),
        ({"default": {"URL": "http://localhost"}}, "redis"),
        ({"default": {"URL": 5}}, "write a text"),
        ({"default": {"TTL": "soon"}}, "ttl"),
        ({"default": {"MAX_BODY": "much"}}, "max_body"),
        ({"default": {"KEY": "x"}}, "'KEY', which is no option"),
    ],
)
def test_settings_that_are_wrong(setting: Any, message: str) -> None:
    with override_settings(STREAM_CACHED=setting):
        errors = [each for each in run_checks() if str(each.id).startswith("stream_cached.")]
        assert len(errors) == 1
        assert message in f"{errors[0].msg} {errors[0].hint}"
        assert errors[0].hint
        with pytest.raises(ConfigurationError):
            caches["default"].clear()


@pytest.mark.parametrize("setting", [{"default": {}}, {"default": {"TTL": "1m"}, "other": {}}])
def test_settings_that_are_right(setting: Any) -> None:
    with override_settings(STREAM_CACHED=setting):
        assert not [each for each in run_checks() if str(each.id).startswith("stream_cached.")]


def test_an_alias_that_is_not_there() -> None:
    with (
        override_settings(STREAM_CACHED={"default": {}}),
        pytest.raises(ConfigurationError, match="no cache 'other'"),
    ):
        caches["other"].clear()


def test_settings_that_are_overridden(site: Site) -> None:
    runs: list[int] = []

    @cache_stream(60)
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(1)
        return HttpResponse(str(len(runs)))

    client = site(view, middleware=())
    assert client.get("/view").content == b"1"
    with override_settings(STREAM_CACHED={"default": {"URL": "memory://?namespace=inner"}}):
        assert client.get("/view").content == b"2"
        assert client.get("/view").content == b"2"
    assert client.get("/view").content == b"1"
    assert caches["default"].clear()
    assert client.get("/view").content == b"3"


def test_options_that_are_wrong() -> None:
    for options, message in (
        ({"query": "declared"}, "query="),
        ({"per_user": 1}, "per_user="),
        ({"cache": 1}, "cache="),
        ({"key_builder": str}, "unknown parameter 'key_builder'"),
        ({"maximum": 1}, "unknown parameter 'maximum'"),
        ({"max_body": "much"}, "max_body"),
        ({"ttl": "soon"}, "ttl"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            cache_stream(**options)


def test_the_names_of_the_query_that_count(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    runs: list[int] = []

    @cache_stream(60, query=("page",))
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(1)
        return HttpResponse(request.GET.get("page", ""))

    @cache_stream(60, query=("page",))
    def other(request: HttpRequest) -> HttpResponse:
        runs.append(1)
        return HttpResponse(request.GET["utm"])

    client = site(view, other, middleware=())
    for query in ("page=1", "page=1&utm=x", "utm=y&page=1", "page=2"):
        client.get(f"/view?{query}")
    assert len(runs) == 2
    for value in (b"x", b"y"):
        assert client.get(f"/other?utm={value.decode()}").content == value
    assert "utm in the query" in caplog.records[0].getMessage()
