"""An ordinary application with tokens: who hits, naive, and with two lines for all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from stream_cached import StreamCache, in_key, stream_cached
from stream_cached.endpoint import in_key as declarations
from tests.support.decorating import as_it_is
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS

# It has endpoints that yield.
token_app: Any = pytest.importorskip("tests.support.token_app")

#: The endpoints; the one whose user is known to its router alone comes last.
PATHS = (
    *("/health", "/settings", "/language", "/file", "/me", "/items?limit=1", "/items/1"),
    *("/service", "/search", "/export", "/lines", "/events", "/raw", "/client", "/admin"),
    *("/team/size", "/team/items"),
)

#: Those whose answer is the same for all users.
COMMON = ("/health", "/settings", "/language", "/team/size")


@pytest.fixture(autouse=True)
def filled() -> None:
    token_app.fill()


@pytest.fixture
def users_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declarations, "_declared", type(declarations._declared)())
    in_key(token_app.User, lambda user: user.id)


@pytest.fixture(scope="module")
def plain() -> Iterator[TestClient]:
    """The application without the decorator."""
    with TestClient(token_app.create_app(as_it_is)) as client:
        yield client


def ask(client: TestClient, path: str, user: str) -> Any:
    headers = {"Authorization": f"Bearer {user}"}
    if path == "/search":
        return client.post(path, json={"words": ["a"]}, headers=headers)
    return client.get(path, headers=headers)


def states(
    cached: Callable[..., Any], plain: TestClient, path: str, order: tuple[str, ...]
) -> list[str]:
    """Ask for one page by each user in turn; return Cache-Status."""
    found = []
    with TestClient(token_app.create_app(cached)) as client:
        for user in order:
            answer: httpx.Response = ask(client, path, user)
            expected: httpx.Response = ask(plain, path, user)
            assert (answer.status_code, answer.text) == (200, expected.text)
            assert answer.headers.get("content-type") == expected.headers.get("content-type")
            found.append(answer.headers["cache-status"])
    return found


@pytest.mark.matrix(share=3)
@pytest.mark.parametrize("path", PATHS)
def test_with_tokens_nothing_is_cached_unless_somebody_says_who_asks(
    path: str, plain: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    found = states(lambda **settings: stream_cached(ttl=60, **settings), plain, path, ("alice",))
    assert "authorization" in found[0]
    assert "InKey(lambda user: user.id)" in warnings(caplog)[0]


@pytest.mark.parametrize("order", [("alice", "bob") * 2, ("bob", "bob", "alice", "bob")])
@pytest.mark.parametrize("cache_url", ["memory", "redis"], indirect=True)
@pytest.mark.parametrize("path", PATHS[:-1])
@pytest.mark.matrix("path", "cache_url", share=6)
@pytest.mark.usefixtures("users_are_declared")
def test_two_lines_for_the_application_let_sixteen_of_seventeen_hit(
    path: str, order: tuple[str, ...], cache_url: str, plain: TestClient
) -> None:
    streams = StreamCache(cache_url, ttl=60, authorized="keyed")
    entries = ["" if path in COMMON else user for user in order]
    expected = [HIT if each in entries[:number] else MISS for number, each in enumerate(entries)]
    assert states(streams.cached, plain, path, order) == expected


@pytest.mark.usefixtures("users_are_declared")
def test_a_session_whose_user_only_the_router_knows_is_not_shared(
    plain: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    streams = StreamCache("memory://?max_bytes=23MiB", ttl=60, authorized="keyed")
    found = states(streams.cached, plain, PATHS[-1], ("alice", "bob"))
    assert all("argument" in status for status in found)
    assert "let the endpoint take who asks as a parameter of its own" in warnings(caplog)[0]
