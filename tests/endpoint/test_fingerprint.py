"""The keys of functions that hold objects are remembered as long as they would be made again."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import random
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from stream_cached import MemoryCache, stream_cached
from stream_cached.http.reasons import BypassError
from tests.support.asgi import Exchange, get


class Opaque:
    """It has no form."""

    def method(self) -> None: ...


@dataclass(eq=False)
class Settings:
    """Its content is its form."""

    name: str

    def method(self) -> None: ...


class Counting:
    """It changes itself."""

    def __init__(self) -> None:
        self.count = 0

    def count_on(self) -> None:
        self.count += 1


class Proxy:
    """It stands for a function."""

    @property
    def __class__(self) -> Any:
        return type(named)

    @__class__.setter
    def __class__(self, cls: Any) -> None: ...


def named(*args: object, **kwargs: object) -> None: ...


class Site:
    """A function whose cell is given one value after the other."""

    def __init__(self, cache: str = "memory://", value: object = None) -> None:
        async def endpoint(request: Request) -> Response:
            return Response(repr(value))

        def give(other: object) -> None:
            nonlocal value
            value = other

        def take() -> None:
            nonlocal value
            del value

        self.give, self.take = give, take
        decorator = stream_cached(ttl=60, cache=cache, namespace="held")
        self.endpoint = decorator(endpoint)
        (function,) = decorator._functions.values()
        self._known = function._keys._known.keys

    def key(self) -> str:
        """Return the key of a call; what would be made again is the same."""
        keys = [self.ask(), self.ask()]
        self._known.clear()
        assert {*keys} == {self.ask()}
        return keys[0]

    def is_known(self) -> bool:
        self._known.clear()
        self.ask()
        return bool(self._known)

    def ask(self) -> str:
        async def key() -> str:
            try:
                made: str = await self.endpoint.cache_key(request=Request(Exchange(_app).scope))
            except BypassError as exc:
                return f"none: {exc.findings[0].reason}"
            return made

        return asyncio.run(key())


async def _app(scope: Any, receive: Any, send: Any) -> None: ...


def _helper(value: object, default: object = None) -> Callable[[], object]:
    def helper(default: object = default) -> object:
        return value, default

    return helper


def _local() -> object:
    class Local: ...

    return Local


VALUES: dict[str, Callable[[], object]] = {
    "object": Opaque,
    "function": lambda: named,
    "builtin": lambda: len,
    "module": lambda: asyncio,
    "class": lambda: Opaque,
    "helper over an object": lambda: _helper(Opaque()),
    "helper over text": lambda: _helper("a"),
    "helper over a helper": lambda: _helper(_helper(Opaque())),
    "partial": lambda: functools.partial(named, Opaque(), name="a"),
    "method": lambda: Opaque().method,
    "text": lambda: "a",
}

CHANGING: dict[str, Callable[[], object]] = {
    "dict": lambda: {"a": 1},
    "list": lambda: [1],
    "model": lambda: Settings("a"),
    "local class": _local,
    "counting": Counting,
    "proxy": Proxy,
    "helper over a dict": lambda: _helper({"a": 1}),
    "helper with a default": lambda: _helper("a", {"a": 1}),
    "partial over a list": lambda: functools.partial(named, [1]),
    "method of a model": lambda: Settings("a").method,
}


@pytest.mark.parametrize("cache", ["memory://", "redis://127.0.0.1:1"])
@pytest.mark.parametrize("name", VALUES)
def test_what_does_not_change_is_remembered(name: str, cache: str) -> None:
    site = Site(cache, VALUES[name]())
    assert site.is_known()
    assert site.key() == site.key()


@pytest.mark.parametrize("name", CHANGING)
def test_what_may_change_is_looked_at_each_time(name: str) -> None:
    assert not Site(value=CHANGING[name]()).is_known()


@pytest.mark.parametrize("cache", ["memory://", "redis://127.0.0.1:1"])
@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_key_that_would_be_made_again(cache: str, seed: int) -> None:
    choose: Any = random.Random(seed).choice
    makers: list[Any] = [*VALUES.values(), *CHANGING.values(), Opaque, lambda: 7]
    made = [make() for make in makers]
    sites = [Site(cache, choose(made))]
    for _ in range(30):
        site = choose(sites)
        match choose(["give", "give", "give", "ask", "take", "another", "content"]):
            case "give":
                site.give(choose(made))
            case "take":
                site.give(None)
                site.take()
            case "another" if len(sites) < 3:
                sites.append(Site(cache, choose(made)))
            case "content":
                _change(choose(made))
        for each in sites:
            each.key()


def _change(value: object) -> None:
    match value:
        case functools.partial(keywords={"name": str()}):
            value.keywords["name"] += "a"
        case FunctionType(__defaults__=("a" | None,)):
            value.__defaults__ = ("b",)
        case dict():
            value["b"] = len(value)
        case list():
            value.append(len(value))
        case Settings():
            value.name += "a"


def test_an_object_in_a_cell_of_a_helper_counts() -> None:
    held: object = Opaque()

    def helper() -> object:
        return held

    site = Site(value=helper)
    keys = []
    for held in (Opaque(), Opaque(), "a", "b", "b"):  # noqa: B007
        keys.append(site.key())
    assert len({*keys[1:]}) == 3
    assert keys[-1] == keys[-2]


def _keyword_defaults(function: Any) -> dict[str, object]:
    found: dict[str, object] = function.__kwdefaults__
    return found


def _changing(name: str) -> tuple[Callable[..., object], Callable[[], object]]:
    """Return something that is called, and what changes what it returns."""

    def helper(tenant: str = "a", *, site: str = "a") -> object:
        return tenant, site

    def another(tenant: str = "a", *, site: str = "a") -> object:
        return site, tenant

    bound: Any = functools.partial(helper, "a", site="a")
    ways: dict[str, tuple[Callable[..., object], Callable[[], object]]] = {
        "defaults": (helper, lambda: setattr(helper, "__defaults__", ("b",))),
        "keyword defaults": (helper, lambda: _keyword_defaults(helper).update(site="b")),
        "code": (helper, lambda: setattr(helper, "__code__", another.__code__)),
        "keywords of a partial": (bound, lambda: bound.keywords.update(site="b")),
        "one more of a partial": (bound, lambda: bound.keywords.update(tenant="b")),
        "names of a partial": (
            bound,
            lambda: bound.keywords.update(tenant=bound.keywords.pop("site")),
        ),
        "a partial": (bound, lambda: bound.__setstate__((helper, ("b",), {"site": "a"}, None))),
    }
    return ways[name]


@pytest.mark.parametrize(
    "name",
    [
        *("defaults", "keyword defaults", "code", "keywords of a partial"),
        *("one more of a partial", "names of a partial", "a partial"),
    ],
)
def test_what_is_changed_in_place_counts_from_then_on(name: str) -> None:
    value, change = _changing(name)
    site = Site(value=value)
    assert site.is_known()
    before = site.key()
    change()
    assert site.key() != before
    assert site.is_known()


@pytest.mark.parametrize("make", [Opaque, lambda: {"a": 1}.get])
def test_another_function_with_another_object_makes_both_count(
    make: Callable[[], object],
) -> None:
    one = Site(value=make())
    alone = one.key()
    other = Site(value=make())
    keys = {one.key(), other.key()}
    assert len(keys) == 2
    assert alone not in keys


def test_a_model_in_the_place_of_text_is_looked_at_each_time() -> None:
    site, settings = Site(value="a"), Settings("a")
    site.key()
    site.give(settings)
    before = site.key()
    settings.name = "b"
    assert site.key() != before


def test_what_was_held_is_kept_alive_by_nothing() -> None:
    site = Site(value=Opaque())
    gone = []
    for _ in itertools.repeat(None, 3):
        value = Opaque()
        gone.append(weakref.ref(value))
        site.give(value)
        site.ask()
        del value
    site.give("a")
    site.ask()
    gc.collect()
    assert [each() for each in gone] == [None] * 3


def test_what_changes_while_a_body_is_awaited_is_not_taken_for_what_was_before() -> None:
    async def main() -> None:
        tenant, may_go_on, waits = "a", asyncio.Event(), asyncio.Event()

        @stream_cached(ttl=60, cache=MemoryCache())
        async def endpoint(request: Request) -> Response:
            return Response(tenant)

        app = Starlette(routes=[Route("/", endpoint)])

        class Slow(Exchange):
            async def _receive(self) -> Message:
                waits.set()
                await may_go_on.wait()
                return await super()._receive()

        slow = Slow(app)
        slow.scope["headers"].append((b"transfer-encoding", b"chunked"))
        sending = asyncio.create_task(slow.run())
        await waits.wait()
        tenant = "b"
        may_go_on.set()
        await sending
        assert slow.body == b"b"
        tenant = "a"
        assert [(await get(app)).body for _ in range(3)] == [b"a"] * 3

    asyncio.run(main())


def test_what_another_thread_changes_meanwhile_is_not_taken_for_what_was_before() -> None:
    async def main() -> None:
        tenant, others = "a", ["b"]

        def switch(other: str) -> None:
            nonlocal tenant
            tenant = other

        def tags(request: Request) -> list[str]:
            # The key is made after the tags.
            while others:
                thread = threading.Thread(target=switch, args=[others.pop()])
                thread.start()
                thread.join()
            return []

        @stream_cached(ttl=60, cache=MemoryCache(), tags=tags)
        async def endpoint(request: Request) -> Response:
            return Response(tenant)

        app = Starlette(routes=[Route("/", endpoint)])
        assert (await get(app)).body == b"b"
        switch("a")
        assert [(await get(app)).body for _ in range(3)] == [b"a"] * 3

    asyncio.run(main())
