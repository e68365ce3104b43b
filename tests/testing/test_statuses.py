"""Reading Cache-Status, which other caches write into, too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stream_cached.http.reasons import Finding, NotCached
from stream_cached.testing.statuses import CacheStatus, status_of


def read(field: str) -> CacheStatus | None:
    response: Any = SimpleNamespace(headers={"Cache-Status": field})
    return status_of(response)


@pytest.mark.parametrize(
    ("field", "parameters"),
    [
        ("stream-cached; hit", {"hit": True}),
        ("stream-cached; hit; ttl=-3", {"hit": True, "ttl": "-3"}),
        ('"stream-cached";hit', {"hit": True}),
        ("nginx; fwd=miss, stream-cached; hit", {"hit": True}),
        ("stream-cached; hit, nginx; fwd=miss", {"hit": True}),
        ("stream-cached; hit, stream-cached; fwd=uri-miss", {"fwd": "uri-miss"}),
        ('nginx; detail="a, stream-cached; hit"', None),
        (r'stream-cached; fwd=bypass; detail="a; b\""', {"fwd": "bypass", "detail": 'a; b"'}),
        ("stream-cached-too; hit", None),
        ("", None),
    ],
)
def test_the_member_of_this_library_is_found(field: str, parameters: Any) -> None:
    status = read(field)
    assert (status and status.parameters) == parameters


def test_all_reasons_are_explained() -> None:
    status = read('stream-cached; fwd=bypass; detail="set-cookie, authorization"')
    assert status is not None
    assert status.reasons == [NotCached.SET_COOKIE, NotCached.AUTHORIZATION]
    noted = [Finding(NotCached.SET_COOKIE, "session", "set it elsewhere")]
    text = status.explained(noted)
    assert text.startswith(f"{NotCached.SET_COOKIE.sentence} (session). Fix: set it elsewhere; and")
    assert NotCached.AUTHORIZATION.fix in text


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("fwd=uri-miss", "only the second request"),
        ("fwd=vary-miss", "pass vary="),
        ("fwd=stale", "longer ttl="),
        ("fwd=request", "honor_request"),
        ("fwd=miss", "another function with the same key"),
        ("fwd=method", 'methods=("GET", "POST")'),
        ("fwd=uri-miss; collapsed", "wait for the end of the first response"),
        ('fwd=stale; fwd-status=503; detail="stale-if-error"', "longer ttl="),
    ],
)
def test_each_way_past_the_cache_has_a_fix(field: str, words: str) -> None:
    status = read(f"stream-cached; {field}")
    assert status is not None
    assert words in status.explained()
