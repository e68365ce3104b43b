"""What is decorated: the request it need not declare, and every kind of function and method."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import fastapi
import pytest
from aiocache.serializers import JsonSerializer
from starlette.applications import Starlette
from starlette.background import BackgroundTasks
from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stream_cached import stream_cached
from stream_cached.endpoint.function import HIDDEN, HIDDEN_RESPONSE, Endpoint

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

MISS = "stream-cached; fwd=uri-miss; stored"
HIT = "stream-cached; hit"

_numbers = iter(range(1, 10**6))


def cached(**settings: Any) -> stream_cached:
    """The decorator over a memory that no other test has."""
    settings.setdefault("cache", f"memory://?max_bytes={(8 << 20) + next(_numbers)}")
    return stream_cached(ttl=60, **settings)


def statuses(app: Any, *paths: str) -> list[str]:
    with TestClient(app) as client:
        responses = [client.get(path) for path in paths or ("/", "/")]
    assert {response.status_code for response in responses} == {200}
    return [response.headers.get("cache-status", "") for response in responses]


def stream(text: str) -> StreamingResponse:
    return StreamingResponse(iter([text]))


def api(endpoint: Any, path: str = "/") -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    app.get(path)(endpoint)
    return app


# -- the hidden request -----------------------------------------------------------------------


async def without() -> None: ...


async def with_values(a: int, /, b: str = "", *rest: str, c: float = 1.0) -> None: ...


async def with_kwargs(a: int, **others: str) -> None: ...


async def with_keyword_only(*, a: int, **others: str) -> None: ...


@pytest.mark.parametrize("function", [without, with_values, with_kwargs, with_keyword_only])
def test_a_request_and_a_response_are_added_before_any_kwargs(
    function: Callable[..., Any],
) -> None:
    declared = inspect.signature(function).parameters
    parameters = inspect.signature(cached()(function)).parameters
    added = [name for name in parameters if name not in declared]
    assert added == [HIDDEN, HIDDEN_RESPONSE]
    assert [name for name in parameters if name not in added] == list(declared)
    hidden = [parameters[name] for name in added]
    assert [each.kind for each in hidden] == [inspect.Parameter.KEYWORD_ONLY] * 2
    assert [each.annotation for each in hidden] == [Request, Response]
    after = list(parameters.values())[list(parameters).index(HIDDEN_RESPONSE) + 1 :]
    assert all(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in after)


async def declares_response(response: Response) -> None: ...


async def declares_response_annotated(response: Annotated[Response, 1]) -> None: ...


async def returns_responses() -> StreamingResponse:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (declares_response, {}),
        (declares_response_annotated, {}),
        (returns_responses, {}),
        (without, {"values": "aiocache"}),
        (without, {"serializer": JsonSerializer()}),
        (without, {"alias": "default"}),
        (without, {"key_builder": lambda *args, **kwargs: "key"}),
        (without, {"key": "key"}),
    ],
)
def test_no_response_is_added_where_none_is_needed(
    function: Callable[..., Any], options: dict[str, Any]
) -> None:
    parameters = inspect.signature(stream_cached(ttl=60, **options)(function)).parameters
    assert HIDDEN_RESPONSE not in parameters
    assert HIDDEN in parameters


def declares_request(request: Request) -> None: ...


def declares_it_in_a_string(request: "Request") -> None: ...  # noqa: UP037


def declares_it_annotated(request: Annotated[Request, "the request"]) -> None: ...


def declares_it_annotated_in_a_string(request: "Annotated[Request, 1]") -> None: ...  # noqa: UP037


def declares_an_optional(request: Request | None = None) -> None: ...


def declares_an_annotated_optional(request: Annotated[Request | None, 1] = None) -> None: ...


def declares_a_connection(connection: HTTPConnection) -> None: ...


def declares_fastapis(request: fastapi.Request) -> None: ...


def declares_it_beside_the_unknown(thing: Unknown, request: Request) -> None: ...


def declares_it_late(a: int, *, request: Request, **others: str) -> None: ...


class OwnRequest(Request):
    pass


def declares_a_subclass(request: OwnRequest) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        declares_request,
        declares_it_in_a_string,
        declares_it_annotated,
        declares_it_annotated_in_a_string,
        declares_an_optional,
        declares_an_annotated_optional,
        declares_a_connection,
        declares_fastapis,
        declares_it_beside_the_unknown,
        declares_it_late,
        declares_a_subclass,
    ],
)
def test_no_request_is_added_where_one_is_declared(function: Callable[..., Any]) -> None:
    endpoint = Endpoint(function)
    assert list(endpoint.signature.parameters) == list(inspect.signature(function).parameters)


def undeclared(request: int, others: list[str], thing: Unknown) -> None: ...


def test_a_request_is_added_where_only_a_name_looks_like_one() -> None:
    assert HIDDEN in Endpoint(undeclared).signature.parameters


def test_the_hidden_request_is_not_in_openapi_and_not_passed_on() -> None:
    seen: list[dict[str, Any]] = []

    @cached()
    async def report(item: int, limit: int = 5) -> Response:
        seen.append(dict(locals()))
        return stream(f"{item} {limit}")

    app = api(report, "/{item}")
    assert statuses(app, "/1?limit=2", "/1?limit=2", "/2?limit=2") == [MISS, HIT, MISS]
    assert seen[0] == {"item": 1, "limit": 2, "seen": seen}
    schema = str(app.openapi())
    assert HIDDEN not in schema
    assert "limit" in schema
    parameters = app.openapi()["paths"]["/{item}"]["get"]["parameters"]
    assert [parameter["name"] for parameter in parameters] == ["item", "limit"]


def test_kwargs_of_an_endpoint_do_not_get_the_hidden_request() -> None:
    seen: list[Any] = []

    async def report(**others: Any) -> Response:
        seen.append(others)
        return stream("")

    endpoint: Any = cached()(report)

    async def route(request: Request) -> Any:
        return await endpoint(**{HIDDEN: request, "a": 1})

    assert statuses(Starlette(routes=[Route("/", route)])) == [MISS, HIT]
    assert seen == [{"a": 1}]


def with_hidden_request(function: Callable[..., Any]) -> Callable[..., Any]:
    """Another decorator that asks FastAPI for a request, and keeps it to itself."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        request = kwargs.pop("_other_request")
        assert isinstance(request, Request)
        return await function(*args, **kwargs)

    signature = inspect.signature(function)
    other = inspect.Parameter("_other_request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    parameters = [*signature.parameters.values(), other]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapper


def test_another_decorators_hidden_request_is_used_again() -> None:
    async def report(limit: int = 5) -> Response:
        return stream(str(limit))

    endpoint = cached()(with_hidden_request(report))
    assert list(inspect.signature(endpoint).parameters) == ["limit", "_other_request"]
    assert statuses(api(endpoint), "/?limit=1", "/?limit=1", "/?limit=2") == [MISS, HIT, MISS]


@pytest.mark.parametrize("declared", [False, True])
def test_endpoints_of_fastapi_are_cached_with_or_without_a_request(declared: bool) -> None:
    if declared:

        @cached()
        async def report(word: str, request: Request) -> Response:
            return stream(word + request.url.path)

    else:

        @cached()
        async def report(word: str) -> Response:
            return stream(word)

    assert statuses(api(report), "/?word=a", "/?word=b", "/?word=a") == [MISS, MISS, HIT]


def test_infrastructure_is_no_part_of_the_key() -> None:
    @cached()
    async def report(
        response: fastapi.Response, tasks: fastapi.BackgroundTasks, connection: HTTPConnection
    ) -> Response:
        assert isinstance(tasks, BackgroundTasks)
        return stream("")

    assert statuses(api(report)) == [MISS, HIT]


# -- functions that are not coroutines --------------------------------------------------------


def test_a_plain_function_runs_in_the_thread_pool() -> None:
    threads: list[threading.Thread] = []

    @cached()
    def report(request: Request) -> Response:
        threads.append(threading.current_thread())
        return stream("")

    async def main_thread(request: Request) -> Response:
        threads.append(threading.current_thread())
        return Response()

    app = Starlette(routes=[Route("/", report), Route("/main", main_thread)])
    with TestClient(app) as client:
        seen = [client.get("/").headers["cache-status"] for _ in range(2)]
        client.get("/main")
    assert seen == [MISS, HIT]
    assert len(threads) == 2
    assert threads[0] is not threads[1]


def test_a_plain_function_may_return_an_awaitable() -> None:
    async def later() -> Response:
        return stream("later")

    def report(request: Request) -> Awaitable[Response]:
        return later()

    assert statuses(Starlette(routes=[Route("/", cached()(report))])) == [MISS, HIT]


def test_a_partial_is_an_endpoint() -> None:
    async def report(prefix: str, word: str) -> Response:
        return stream(prefix + word)

    def plain(prefix: str, request: Request) -> Response:
        return stream(prefix)

    app = fastapi.FastAPI()
    app.get("/a")(cached()(functools.partial(report, "a")))
    app.get("/b")(cached()(functools.partial(plain, "b")))
    assert statuses(app, "/a?word=1", "/a?word=2", "/a?word=1") == [MISS, MISS, HIT]
    assert statuses(app, "/b", "/b") == [MISS, HIT]


class AsyncCallable:
    async def __call__(self, request: Request) -> Response:
        return stream("called")


class PlainCallable:
    def __call__(self, request: Request) -> Response:
        return stream(str(threading.current_thread() is threading.main_thread()))


@pytest.mark.parametrize("make", [AsyncCallable, PlainCallable])
def test_an_instance_that_can_be_called_is_an_endpoint(make: Callable[[], Any]) -> None:
    endpoint = cached()(make())
    assert statuses(Starlette(routes=[Route("/", endpoint)])) == [MISS, HIT]
    assert statuses(api(endpoint)) == [MISS, HIT]


# -- methods ----------------------------------------------------------------------------------


def test_the_methods_of_an_http_endpoint_share_their_entries() -> None:
    class Report(HTTPEndpoint):
        @cached()
        async def get(self, request: Request) -> Response:
            return stream("report")

    assert statuses(Starlette(routes=[Route("/", Report)])) == [MISS, HIT]


def test_a_plain_method_of_an_http_endpoint_is_cached() -> None:
    class Report(HTTPEndpoint):
        @cached()
        def get(self, request: Request) -> Response:
            return stream("report")

    assert statuses(Starlette(routes=[Route("/", Report)])) == [MISS, HIT]


class Service:
    """A class-based endpoint of somebody's own."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def report(self, request: Request) -> Response:
        return stream(self.name)


def of_service(method: Any, *names: str) -> Any:
    services = iter([Service(name) for name in names])

    async def endpoint(request: Request) -> Any:
        return await method(next(services), request)

    return Starlette(routes=[Route("/", endpoint)])


def test_a_method_of_any_other_class_is_not_cached_and_the_warning_names_noself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "stream_cached")
    method = cached()(Service.report)
    assert (
        statuses(of_service(method, "a", "a"))
        == ['stream-cached; fwd=bypass; detail="argument"'] * 2
    )
    (record,) = caplog.records
    assert "noself=True" in record.getMessage()
    assert "Service.report" in record.getMessage()
    assert "0x" not in record.getMessage()


def test_noself_leaves_the_instance_out_of_the_key() -> None:
    method = cached(noself=True)(Service.report)
    assert statuses(of_service(method, "a", "b")) == [MISS, HIT]


def test_noself_holds_for_an_instance_that_is_passed_by_its_name() -> None:
    method: Any = cached(noself=True)(Service.report)

    async def endpoint(request: Request) -> Any:
        return await method(self=Service("a"), request=request)

    assert statuses(Starlette(routes=[Route("/", endpoint)])) == [MISS, HIT]


def test_a_bound_method_needs_no_noself() -> None:
    endpoint = cached()(Service("a").report)
    assert statuses(Starlette(routes=[Route("/", endpoint)])) == [MISS, HIT]


# -- arguments --------------------------------------------------------------------------------


def test_an_argument_without_a_canonical_form_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "stream_cached")

    @cached()
    async def report(session: Annotated[object, fastapi.Depends(object)]) -> Response:
        return stream("")

    assert statuses(api(report)) == ['stream-cached; fwd=bypass; detail="argument"'] * 2
    (record,) = caplog.records
    assert "session" in record.getMessage()
    assert "0x" not in record.getMessage()


def test_arguments_are_told_apart_by_value_and_name() -> None:
    calls: list[tuple[Any, Any]] = []

    async def report(request: Request, a: Any = None, b: Any = None) -> Response:
        calls.append((a, b))
        return stream("")

    endpoint: Any = cached()(report)
    given = iter([(1, None), (None, 1), ("1", None), (True, None), (1, None)])

    async def route(request: Request) -> Any:
        a, b = next(given)
        return await endpoint(request, a, b=b)

    app = Starlette(routes=[Route("/", route)])
    assert statuses(app, *"/////") == [MISS] * 4 + [HIT]
    assert len(calls) == 4


def test_positional_and_keyword_arguments_make_one_key() -> None:
    async def report(request: Request, a: int) -> Response:
        return stream(str(a))

    endpoint: Any = cached()(report)
    calls: Iterator[Callable[[Request], Any]] = iter(
        [
            lambda request: endpoint(request, 1),
            lambda request: endpoint(request, a=1),
            lambda request: endpoint(a=1, request=request),
        ]
    )

    async def route(request: Request) -> Any:
        return await next(calls)(request)

    assert statuses(Starlette(routes=[Route("/", route)]), *"///") == [MISS, HIT, HIT]


def test_header_and_cookie_parameters_are_found() -> None:
    def report(
        accept_language: Annotated[str, fastapi.Header()],
        x_raw: Annotated[str, fastapi.Header(convert_underscores=False)],
        named: str = fastapi.Header(alias="X-Named"),
        session: str = fastapi.Cookie(),
        plain: int = 1,
    ) -> None: ...

    assert Endpoint(report).headers == {
        "accept_language": ["accept-language"],
        "x_raw": ["x_raw"],
        "named": ["X-Named"],
        "session": ["Cookie"],
    }


# -- routers ----------------------------------------------------------------------------------


def test_endpoints_of_an_api_router_are_cached_under_every_prefix_by_itself() -> None:
    router = fastapi.APIRouter()

    @router.get("/{item}")
    @cached()
    async def report(item: str) -> Response:
        return stream(item)

    app = fastapi.FastAPI()
    app.include_router(router, prefix="/v1")
    app.include_router(router, prefix="/v2")
    assert statuses(app, "/v1/a", "/v2/a", "/v1/a", "/v1/b") == [MISS, MISS, HIT, MISS]


def test_a_wrapper_keeps_the_name_and_documentation_of_its_function() -> None:
    async def report(request: Request) -> Response:
        """A report."""
        return PlainTextResponse(await run_in_threadpool(str, 1))

    endpoint: Any = cached()(report)
    assert (endpoint.__name__, endpoint.__doc__) == ("report", "A report.")
    assert endpoint.__wrapped__ is report
    assert inspect.iscoroutinefunction(endpoint)


@pytest.mark.parametrize("name", ["f", "self", "function", "args", "request_key"])
def test_a_parameter_may_have_any_name(name: str) -> None:
    scope: dict[str, Any] = {"stream": stream, "Response": Response}
    exec(f"async def report({name}: str = 'd') -> Response: return stream({name})", scope)
    assert statuses(api(cached()(scope["report"]))) == [MISS, HIT]
