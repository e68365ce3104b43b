"""Functions of one name that hold other values: nobody is given what another one has answered."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from sqlalchemy import create_engine
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from stream_cached import stream_cached
from stream_cached.endpoint.cells import changed_by
from tests.support.asgi import Exchange
from tests.support.runs import HIT, MISS

REFUSED = 'stream-cached; fwd=bypass; detail="closure"'
USERS = ("alice", "bob")

Endpoint = Callable[..., Any]
Decorate = Callable[[Endpoint], Endpoint]
Make = Callable[[str, Decorate], Endpoint]


class Owner:
    """Has no form for a key."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def report(self, request: Request) -> Response:
        return PlainTextResponse(self.name)

    def show(self) -> str:
        return self.name


@dataclasses.dataclass
class Known:
    """Has a form."""

    name: str

    async def report(self, request: Request) -> Response:
        return PlainTextResponse(self.name)

    async def __call__(self, request: Request) -> Response:
        return PlainTextResponse(self.name)


async def report_of(owner: Any, request: Request) -> Response:
    return PlainTextResponse(getattr(owner, "name", owner))


# -- what a function may hold ---------------------------------------------------------------------


def a_cell(name: str, decorate: Decorate) -> Endpoint:
    @decorate
    async def report(request: Request) -> Response:
        return PlainTextResponse(name)

    return report


def a_cell_of_the_body(name: str, decorate: Decorate) -> Endpoint:
    @decorate
    async def report(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            yield name

        return StreamingResponse(body())

    return report


def a_list(name: str, decorate: Decorate) -> Endpoint:
    names = [name]

    @decorate
    async def report(request: Request) -> Response:
        return PlainTextResponse(names[0])

    return report


def a_list_that_it_changes(name: str, decorate: Decorate) -> Endpoint:
    names = [name]

    @decorate
    async def report(request: Request) -> Response:
        names.append("once more")
        return PlainTextResponse(names[0])

    return report


def a_function(name: str, decorate: Decorate) -> Endpoint:
    def show() -> str:
        return name

    @decorate
    async def report(request: Request) -> Response:
        return PlainTextResponse(show())

    return report


def a_lambda(name: str, decorate: Decorate) -> Endpoint:
    show: Callable[[], str] = (lambda: "alice") if name == "alice" else (lambda: "bob")

    @decorate
    async def report(request: Request) -> Response:
        return PlainTextResponse(show())

    return report


def a_default(name: str, decorate: Decorate) -> Endpoint:
    async def report(request: Request, show: Any = lambda: name) -> Response:
        return PlainTextResponse(show())

    return decorate(report)


def a_decorator(name: str, decorate: Decorate) -> Endpoint:
    async def report(request: Request) -> Response:
        return PlainTextResponse(name)

    @functools.wraps(report)
    async def wrapper(request: Request) -> Response:
        return await report(request)

    return decorate(wrapper)


def a_bound_argument(name: str, decorate: Decorate) -> Endpoint:
    return decorate(functools.partial(report_of, name))


def a_bound_function(name: str, decorate: Decorate) -> Endpoint:
    async def report(show: Callable[[], str], request: Request) -> Response:
        return PlainTextResponse(show())

    return decorate(functools.partial(report, lambda: name))


def a_bound_method(name: str, decorate: Decorate) -> Endpoint:
    return decorate(Known(name).report)


def an_instance(name: str, decorate: Decorate) -> Endpoint:
    return decorate(Known(name))


def a_line(name: str, decorate: Decorate) -> Endpoint:
    if name == "alice":

        @decorate
        async def report(request: Request) -> Response:
            return PlainTextResponse("alice")

    else:

        @decorate
        async def report(request: Request) -> Response:
            return PlainTextResponse("bob")

    return report


def a_list_that_a_function_changes(name: str, decorate: Decorate) -> Endpoint:
    names = [name]

    def show() -> str:
        names.append("once more")
        return names[0]

    return _over(show, decorate)


def a_function_as_default_of_a_function(name: str, decorate: Decorate) -> Endpoint:
    def show(get: Callable[[], str] = lambda: name) -> str:
        return get()

    return _over(show, decorate)


WITH_FORM: list[Make] = [
    *(a_cell, a_cell_of_the_body, a_list, a_list_that_it_changes, a_function, a_lambda),
    *(a_default, a_decorator, a_bound_argument, a_bound_function, a_bound_method, an_instance),
    *(a_line, a_list_that_a_function_changes, a_function_as_default_of_a_function),
]


def object_in_a_cell(name: str, decorate: Decorate) -> Endpoint:
    owner = Owner(name)

    @decorate
    async def report(request: Request) -> Response:
        return PlainTextResponse(owner.name)

    return report


def object_in_a_function(name: str, decorate: Decorate) -> Endpoint:
    return a_function(name, decorate) if not name else _over(Owner(name).show, decorate)


def _over(show: Callable[[], str], decorate: Decorate) -> Endpoint:
    @decorate
    async def report(request: Request) -> Response:
        return PlainTextResponse(show())

    return report


class Renamed(Owner):
    """Has no form, and changes itself, as a row of a database does."""

    def rename(self, name: str) -> None:
        self.name = name


def row_in_a_function(name: str, decorate: Decorate) -> Endpoint:
    row = Renamed(name)
    return _over(lambda: row.name, decorate)


def row_in_a_function_that_changes(name: str, decorate: Decorate) -> Endpoint:
    row = Renamed(name)

    get: Callable[[], str] | None = lambda: row.name  # noqa: E731

    @decorate
    async def report(request: Request) -> Response:
        nonlocal get
        get = get or str
        return PlainTextResponse(get())

    return report


def row_as_default_of_a_function(name: str, decorate: Decorate) -> Endpoint:
    def show(row: Renamed = Renamed(name)) -> str:  # noqa: B008
        return row.name

    return _over(show, decorate)


def row_behind_many_functions(name: str, decorate: Decorate) -> Endpoint:
    row = Renamed(name)

    def around(inner: Callable[[], str]) -> Callable[[], str]:
        return lambda: inner()

    show: Callable[[], str] = lambda: row.name  # noqa: E731
    for _ in range(20):
        show = around(show)
    return _over(show, decorate)


def object_as_self(name: str, decorate: Decorate) -> Endpoint:
    return decorate(Owner(name).report)


def object_as_argument(name: str, decorate: Decorate) -> Endpoint:
    return decorate(functools.partial(report_of, Owner(name)))


def object_as_default(name: str, decorate: Decorate) -> Endpoint:
    async def report(request: Request, *, owner: Any = Owner(name)) -> Response:  # noqa: B008
        return PlainTextResponse(owner.name)

    return decorate(report)


def class_in_a_cell(name: str, decorate: Decorate) -> Endpoint:
    class Named:
        own = name

    @decorate
    async def report(request: Request) -> Response:
        return PlainTextResponse(Named.own)

    return report


WITHOUT_FORM: list[Make] = [
    *(object_in_a_cell, object_in_a_function, object_as_self, object_as_argument),
    *(object_as_default, class_in_a_cell, row_in_a_function, row_in_a_function_that_changes),
    *(row_as_default_of_a_function, row_behind_many_functions),
]


# -- who asks -------------------------------------------------------------------------------------


async def ask(app: Any, user: str) -> Exchange:
    exchange = Exchange(app)
    exchange.scope["headers"] = [*exchange.scope["headers"], (b"x-user", user.encode())]
    await exchange.run()
    return exchange


def answers(app: Any, *users: str) -> list[Exchange]:
    async def test() -> list[Exchange]:
        return [await ask(app, user) for user in users]

    return asyncio.run(test())


def bodies(given: list[Exchange]) -> list[str]:
    return [each.body.decode() for each in given]


def statuses(given: list[Exchange]) -> list[str]:
    return [each.cache_status for each in given]


def app_over(choose: Callable[[Request], Endpoint]) -> Starlette:
    """One path, and a function for each user."""

    async def page(request: Request) -> Any:
        return await choose(request)(request)

    return Starlette(routes=[Route("/", page)])


def made_before(make: Make, decorate: Decorate) -> Starlette:
    made = {user: make(user, decorate) for user in USERS}
    return app_over(lambda request: made[request.headers["x-user"]])


def made_for_each_request(make: Make, decorate: Decorate) -> Starlette:
    return app_over(lambda request: make(request.headers["x-user"], decorate))


async def at_once(app: Any) -> list[str]:
    return [each.body.decode() for each in await asyncio.gather(*[ask(app, u) for u in USERS * 3])]


ORDERS = [USERS * 2, ("bob", "alice", "alice", "bob")]


@pytest.mark.matrix
@pytest.mark.parametrize("users", ORDERS)
@pytest.mark.parametrize("setting", [made_before, made_for_each_request])
@pytest.mark.parametrize("make", [*WITH_FORM, *WITHOUT_FORM])
def test_everybody_is_given_their_own(
    cache_url: str, make: Make, setting: Any, users: tuple[str, ...]
) -> None:
    app = setting(make, stream_cached(ttl=60, cache=cache_url))
    assert bodies(answers(app, *users)) == [*users]
    assert asyncio.run(at_once(app)) == [*USERS * 3]


@pytest.mark.matrix
@pytest.mark.parametrize("setting", [made_before, made_for_each_request])
@pytest.mark.parametrize("make", WITH_FORM)
def test_what_has_a_form_is_in_the_key(cache_url: str, make: Make, setting: Any) -> None:
    app = setting(make, stream_cached(ttl=60, cache=cache_url))
    assert statuses(answers(app, *USERS * 2)) == [MISS, MISS, HIT, HIT]


@pytest.mark.parametrize("make", WITHOUT_FORM)
def test_what_has_none_keeps_functions_apart_in_memory(make: Make) -> None:
    app = made_before(make, stream_cached(ttl=60, cache="memory://?max_bytes=10000001"))
    assert statuses(answers(app, *USERS * 2)) == [MISS, MISS, HIT, HIT]


@pytest.mark.parametrize("setting", [made_before, made_for_each_request])
@pytest.mark.parametrize("make", WITHOUT_FORM)
def test_what_has_none_is_refused_on_a_server(
    redis_url: str, namespace: str, make: Make, setting: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "stream_cached")
    app = setting(make, stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}"))
    # The first of them, too: another process may have made the other one.
    assert statuses(answers(app, *USERS)) == [REFUSED] * 2
    assert all("pass namespace=" in message for message in caplog.messages)


@pytest.mark.parametrize("make", WITHOUT_FORM)
def test_a_namespace_for_each_gives_hits_on_a_server(
    redis_url: str, namespace: str, make: Make
) -> None:
    made = {
        user: make(user, stream_cached(ttl=60, cache=redis_url, namespace=f"{namespace}:{user}"))
        for user in USERS
    }
    app = app_over(lambda request: made[request.headers["x-user"]])
    assert statuses(answers(app, *USERS * 2)) == [MISS, MISS, HIT, HIT]


@pytest.mark.parametrize("make", [*WITH_FORM, *WITHOUT_FORM])
def test_a_factory_that_is_called_once_gives_hits(cache_url: str, make: Make) -> None:
    made = make("alice", stream_cached(ttl=60, cache=cache_url))
    app = app_over(lambda request: made)
    assert statuses(answers(app, *USERS)) == [MISS, HIT]


@pytest.mark.matrix(share=2)
@pytest.mark.parametrize("make", [*WITH_FORM, *WITHOUT_FORM])
def test_what_is_gone_does_not_count(redis_url: str, namespace: str, make: Make) -> None:
    """A test of an application calls its factory, as the test before did."""
    for number in range(3):
        made = make("alice", stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}"))
        app = app_over(lambda request, made=made: made)  # type: ignore[misc]
        assert statuses(answers(app, "alice")) == [HIT if number else MISS]
        del made, app


# -- what changes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("as_value", [str, Owner])
def test_a_variable_that_is_set_for_each_request_is_seen(
    cache_url: str, as_value: Callable[[str], Any]
) -> None:
    current: Any = None

    @stream_cached(ttl=60, cache=cache_url)
    async def report(request: Request) -> Response:
        return PlainTextResponse(getattr(current, "name", current))

    def choose(request: Request) -> Endpoint:
        nonlocal current
        current = as_value(request.headers["x-user"])
        return report

    assert bodies(answers(app_over(choose), *USERS * 2)) == [*USERS * 2]


def test_counters_and_logs_of_a_function_cost_no_hit(redis_url: str, namespace: str) -> None:
    runs, log, by_name = 0, list[str](), dict[str, int]()

    @stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")
    async def report(request: Request) -> Response:
        nonlocal runs
        runs += 1
        log.append(request.url.path)
        by_name["report"] = by_name.get("report", 0) + 1
        return PlainTextResponse("report")

    assert statuses(answers(app_over(lambda request: report), *USERS * 2)) == [MISS, *[HIT] * 3]
    assert (runs, len(log), by_name) == (1, 1, {"report": 1})


def test_what_the_functions_of_a_function_count_costs_no_hit(
    redis_url: str, namespace: str
) -> None:
    runs, log, seen, owner = 0, list[str](), dict[str, int](), Renamed("shared")

    def count(name: str) -> str:
        nonlocal runs
        runs += 1
        log.append(name)
        seen[name] = seen.get(name, 0) + 1
        owner.rename(f"{runs}")
        return "report"

    def make() -> Endpoint:
        return _over(lambda: count("report"), stream_cached(ttl=60, cache=url))

    url = f"{redis_url}?namespace={namespace}"
    # They hold the same.
    made = itertools.cycle([make(), make()])
    assert statuses(answers(app_over(lambda request: next(made)), *USERS * 2)) == [MISS, *[HIT] * 3]
    assert (runs, len(log), seen) == (1, 1, {"report": 1})


class Absent:
    """Stands for an object of which there is none now, as a proxy of werkzeug may."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("there is none")

    @__class__.setter
    def __class__(self, cls: Any) -> None: ...


def test_an_object_that_does_not_say_what_it_is_fails_nothing(cache_url: str) -> None:
    absent = Absent()
    report = _over(lambda: str(absent is None), stream_cached(ttl=60, cache=cache_url))
    assert bodies(answers(app_over(lambda request: report), *USERS)) == ["False"] * 2


@dataclasses.dataclass
class Counting:
    """Has a form, and changes itself."""

    name: str
    runs: int = 0

    async def report(self, request: Request) -> Response:
        self.runs += 1
        return PlainTextResponse(self.name)


class Numbered(Owner):
    """Has none, and changes itself."""

    runs = 0

    async def report(self, request: Request) -> Response:
        self.runs += 1
        return PlainTextResponse(self.name)


@pytest.mark.parametrize("make", [Counting, Numbered])
def test_an_object_that_counts_its_calls_costs_no_hit(
    cache_url: str, make: Callable[[str], Any]
) -> None:
    decorate = stream_cached(ttl=60, cache=cache_url)
    made = {user: decorate(make(user).report) for user in USERS}
    given = answers(app_over(lambda request: made[request.headers["x-user"]]), *USERS * 2)
    assert bodies(given) == [*USERS * 2]
    if make is Counting or cache_url.startswith("memory"):
        assert statuses(given) == [MISS, MISS, HIT, HIT]
    else:
        assert statuses(given) == [REFUSED] * 4


def test_what_a_function_changes_shows_in_its_code() -> None:
    number, rows, table, other, read = 0, [0], {"a": 0}, [0], [1]

    def function() -> Any:
        nonlocal number
        number = read[0]
        table["a"] += 1
        del other[0]

        def within() -> None:
            rows.append(read[0])

        return within

    assert changed_by(function.__code__) == {"number", "rows", "table", "other"}


# -- dependencies ---------------------------------------------------------------------------------


class OnHeader(APIRoute):
    """A route for the requests of one user."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        is_here = Headers(scope=scope)["x-user"] == self.name
        return (found, child) if is_here else (Match.NONE, {})


def annotated(source: Endpoint, decorate: Decorate) -> Endpoint:
    async def report(owner: Any) -> str:
        return str(owner)

    # The annotation is a text here, whose names are those of this function.
    report.__annotations__ = {"owner": Annotated[Any, Depends(source)]}
    return decorate(report)


def as_default(source: Endpoint, decorate: Decorate) -> Endpoint:
    async def report(owner: Any = Depends(source)) -> str:  # noqa: B008
        return str(owner)

    return decorate(report)


@pytest.mark.parametrize("declare", [annotated, as_default])
def test_a_dependency_that_a_factory_makes_is_a_part_of_the_function(
    cache_url: str, declare: Callable[[Endpoint, Decorate], Endpoint]
) -> None:
    decorate = stream_cached(ttl=60, cache=cache_url, key_ignore=("owner",))

    def made(user: str) -> Endpoint:
        def source() -> Iterator[str]:
            yield user

        return declare(source, decorate)

    app = FastAPI()
    for user in USERS:
        app.router.add_api_route("/", made(user), name=user, route_class_override=OnHeader)
    given = answers(app, *USERS * 2)
    assert [each.body for each in given] == [b'"alice"', b'"bob"'] * 2
    assert statuses(given) == [MISS, MISS, HIT, HIT]


# -- classes --------------------------------------------------------------------------------------


class Base(HTTPEndpoint):
    """Its subclasses differ by an attribute."""

    owner: Any = None

    def show(self) -> str:
        return str(getattr(self.owner, "name", self.owner))


def with_attribute(owner: Any, decorate: Decorate) -> type[Base]:
    class Report(Base):
        @decorate
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(self.show())

    Report.owner = owner
    return Report


def with_method(owner: Any, decorate: Decorate) -> type[HTTPEndpoint]:
    class Report(HTTPEndpoint):
        @decorate
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(self.show())

        def show(self) -> str:
            return str(getattr(owner, "name", owner))

    return Report


def with_property(owner: Any, decorate: Decorate) -> type[HTTPEndpoint]:
    class Report(HTTPEndpoint):
        @decorate
        async def get(self, request: Request) -> Response:
            return PlainTextResponse(self.shown)

        @property
        def shown(self) -> str:
            return str(getattr(owner, "name", owner))

    return Report


class ForUser(Route):
    """A route for the requests of one user."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        is_here = Headers(scope=scope)["x-user"] == self.name
        return (found, child) if is_here else (Match.NONE, {})


@pytest.mark.parametrize("as_value", [str, Owner])
@pytest.mark.parametrize("make", [with_attribute, with_method, with_property])
def test_a_class_that_a_factory_has_made_is_told_apart(
    cache_url: str, make: Callable[..., type], as_value: Callable[[str], Any]
) -> None:
    decorate = stream_cached(ttl=60, cache=cache_url)
    routes = [ForUser("/", make(as_value(user), decorate), name=user) for user in USERS]
    given = answers(Starlette(routes=routes), *USERS * 2)
    assert bodies(given) == [*USERS * 2]
    if as_value is str or cache_url.startswith("memory"):
        assert statuses(given) == [MISS, MISS, HIT, HIT]
    else:
        assert statuses(given) == [REFUSED] * 4


def test_subclasses_of_one_name_that_inherit_the_method_are_told_apart(cache_url: str) -> None:
    base = with_attribute(None, stream_cached(ttl=60, cache=cache_url))
    routes = [ForUser("/", type("Report", (base,), {"owner": u}), name=u) for u in USERS]
    given = answers(Starlette(routes=routes), *USERS * 2)
    assert bodies(given) == [*USERS * 2]
    assert statuses(given) == [MISS, MISS, HIT, HIT]


@pytest.mark.parametrize("as_value", [str, Owner])
def test_a_class_that_a_factory_makes_once_has_hits(
    redis_url: str, namespace: str, as_value: Callable[[str], Any]
) -> None:
    decorate = stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")

    class Once(HTTPEndpoint):
        shown = as_value("alice")

        @decorate
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("report")

    # Caches by class keep that of the other parameter alive.
    Once.__qualname__ = f"Once{as_value.__name__}"
    assert statuses(answers(Starlette(routes=[Route("/", Once)]), *USERS)) == [MISS, HIT]


# -- what the application holds -------------------------------------------------------------------

FREE, PAID = create_engine("sqlite://"), create_engine("sqlite:///paid.db")


def test_engines_that_a_module_holds_are_told_apart_on_a_server(
    redis_url: str, namespace: str
) -> None:
    def made(engine: Any) -> Endpoint:
        @stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")
        async def report(request: Request) -> Response:
            return PlainTextResponse(str(engine.url))

        return report

    engines = {"alice": made(FREE), "bob": made(PAID)}
    given = answers(app_over(lambda request: engines[request.headers["x-user"]]), *USERS * 2)
    assert bodies(given) == ["sqlite://", "sqlite:///paid.db"] * 2
    assert statuses(given) == [MISS, MISS, HIT, HIT]


# -- decorators, one above the other --------------------------------------------------------------


class Limiter:
    """Has no form, as most that decorators keep."""

    def __init__(self) -> None:
        self.calls = itertools.count()

    def limit(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(function)
        async def limited(*args: Any, **kwargs: Any) -> Any:
            next(self.calls)
            return await function(*args, **kwargs)

        return limited


limiter = Limiter()


@contextmanager
def held_by_module(**values: Any) -> Iterator[None]:
    globals().update(values)
    try:
        yield
    finally:
        for name in values:
            del globals()[name]


@pytest.mark.parametrize("over", [True, False])
def test_decorators_on_one_another_keep_their_hits(
    redis_url: str, namespace: str, over: bool
) -> None:
    decorate = stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")

    async def report(request: Request) -> Response:
        return PlainTextResponse("report")

    report.__qualname__ = "report"
    stacked = limiter.limit(decorate(report)) if over else decorate(limiter.limit(report))
    with held_by_module(report=stacked):
        given = answers(app_over(lambda request: stacked), *USERS)
    assert statuses(given) == [MISS, HIT]


def test_one_function_under_two_decorators_is_one_function(redis_url: str, namespace: str) -> None:
    owner = Owner("alice")

    async def report(request: Request) -> Response:
        return PlainTextResponse(owner.name)

    for _ in range(2):
        made = stream_cached(ttl=60, cache=f"{redis_url}?namespace={namespace}")(report)
        assert statuses(answers(app_over(lambda request, made=made: made), "bob")) != [REFUSED]  # type: ignore[misc]


# -- without a request ----------------------------------------------------------------------------


def test_a_helper_that_is_decorated_for_each_request_is_told_apart(cache_url: str) -> None:
    def choose(request: Request) -> Endpoint:
        user = request.headers["x-user"]

        @stream_cached(ttl=60, cache=cache_url)
        async def total() -> str:
            return user

        async def page(request: Request) -> Response:
            return PlainTextResponse(await total())

        return page

    assert bodies(answers(app_over(choose), *USERS * 2)) == [*USERS * 2]


async def in_a_task(total: Callable[[], Awaitable[str]]) -> Response:
    (found,) = await asyncio.gather(total())
    return PlainTextResponse(found)


async def in_a_body(total: Callable[[], Awaitable[str]]) -> Response:
    async def body() -> AsyncIterator[str]:
        yield await total()

    return StreamingResponse(body())


@pytest.mark.parametrize("answer", [in_a_task, in_a_body])
def test_a_helper_that_a_task_of_a_request_decorates_is_told_apart(
    cache_url: str, answer: Callable[..., Awaitable[Response]]
) -> None:
    async def page(request: Request) -> Response:
        user = request.headers["x-user"]

        async def load() -> str:
            @stream_cached(ttl=60, cache=cache_url)
            async def total() -> str:
                return user

            return str(await total())

        return await answer(load)

    assert bodies(answers(app_over(lambda request: page), *USERS * 2)) == [*USERS * 2]


def test_a_helper_that_an_application_around_all_others_decorates_is_told_apart(
    cache_url: str,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        user = Headers(scope=scope)["x-user"]

        @stream_cached(ttl=60, cache=cache_url)
        async def total() -> str:
            return user

        await PlainTextResponse(await total())(scope, receive, send)

    assert bodies(answers(app, *USERS * 2)) == [*USERS * 2]


def test_a_helper_that_is_decorated_once_has_the_key_of_aiocache() -> None:
    from aiocache import cached

    owner = "alice"

    async def total(number: int) -> str:
        return owner

    async def made_in_the_main_task() -> str:
        return await stream_cached(ttl=60, cache="memory://?max_bytes=10000002")(total).cache_key(1)

    plain = cached()
    ours = stream_cached(ttl=60, cache="memory://?max_bytes=10000002")(total)
    key = plain.get_cache_key(total, (1,), {})
    assert [asyncio.run(ours.cache_key(1)), asyncio.run(made_in_the_main_task())] == [key] * 2


def helper_over(owner: Any, cache: str) -> Callable[[int], Awaitable[str]]:
    @stream_cached(ttl=60, cache=cache)
    async def total(number: int) -> str:
        return str(getattr(owner, "name", owner))

    return total


async def all_of(*helpers: Callable[[int], Awaitable[str]]) -> list[str]:
    return [await each(1) for each in helpers * 2]


@pytest.mark.parametrize("of", [str, Known, Owner])
def test_helpers_of_a_factory_that_is_called_for_each_tenant_are_told_apart(
    cache_url: str, of: Callable[[str], Any]
) -> None:
    helpers = [helper_over(of(name), cache_url) for name in USERS]
    assert asyncio.run(all_of(*helpers)) == [*USERS * 2]


def test_helpers_of_a_factory_that_hold_the_same_have_the_key_of_aiocache() -> None:
    from aiocache import cached

    one, other = (helper_over("alice", "memory://?max_bytes=10000003") for _ in range(2))
    key = cached().get_cache_key(one, (1,), {})
    assert [asyncio.run(each.cache_key(1)) for each in (one, other)] == [key] * 2  # type: ignore[attr-defined]


def test_lambdas_of_one_line_are_told_apart(cache_url: str) -> None:
    decorate = stream_cached(ttl=60, cache=cache_url)
    alice, bob = decorate(lambda number: "alice"), decorate(lambda number: "bob")
    assert asyncio.run(all_of(alice, bob)) == [*USERS * 2]


def test_lambdas_of_one_line_that_answer_requests_are_told_apart(cache_url: str) -> None:
    decorate = stream_cached(ttl=60, cache=cache_url)
    made = [decorate(lambda request: PlainTextResponse("alice")), decorate(lambda request: PlainTextResponse("bob"))]  # fmt: skip  # noqa: E501

    def choose(request: Request) -> Endpoint:
        return made[USERS.index(request.headers["x-user"])]

    assert bodies(answers(app_over(choose), *USERS * 2)) == [*USERS * 2]
