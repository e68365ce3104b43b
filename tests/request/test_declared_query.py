"""`query="declared"`: what of the query is part of the key."""

import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, cast

import pytest
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyQuery
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, model_validator
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from stream_cached import ConfigurationError, NotInKey, stream_cached
from stream_cached.decorated.generator import _streams_generators
from stream_cached.request.guard import Guard, Terms
from tests.support.decorating import F
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS

Build = Callable[[FastAPI], None]

not_by_old_fastapi = pytest.mark.skipif(
    not _streams_generators(), reason="this version of FastAPI knows no such alias"
)

_seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="")


def declared(**settings: Any) -> Callable[[F], F]:
    return cast("Callable[[F], F]", stream_cached(ttl=60, query="declared", **settings))


def statuses(app: Any, *queries: str) -> list[str]:
    with TestClient(app) as client:
        answers = [client.get(f"/x?{query}") for query in queries]
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    return [answer.headers["cache-status"] for answer in answers]


# -- what the function itself declares, and what nobody does --------------------------------------


def plain(app: FastAPI) -> None:
    @app.get("/x")
    @declared()
    async def endpoint(limit: int = 10) -> int:
        return limit


def aliased(app: FastAPI) -> None:
    @app.get("/x")
    @declared()
    async def endpoint(size: Annotated[int, Query(alias="limit")] = 10) -> int:
        return size


def model(app: FastAPI) -> None:
    class Page(BaseModel):
        limit: int = 10

    @app.get("/x")
    @declared()
    async def endpoint(page: Annotated[Page, Query()]) -> int:
        return page.limit


def with_request(app: FastAPI) -> None:
    @app.get("/x")
    @declared()
    async def endpoint(request: Request, limit: int = 10) -> str:
        return f"{request.method} {limit}"


def with_dependency(app: FastAPI) -> None:
    async def language(request: Request) -> str:
        return request.headers.get("accept-language", "en")

    @app.get("/x")
    @declared()
    async def endpoint(language: Annotated[str, Depends(language)], limit: int = 10) -> str:
        return f"{language} {limit}"


def generator(app: FastAPI) -> None:
    if not _streams_generators():
        pytest.skip("this version of FastAPI does not stream what an endpoint yields")

    @app.get("/x")
    @declared()
    async def endpoint(limit: int = 10) -> AsyncIterator[int]:
        yield limit


def on_a_router(app: FastAPI) -> None:
    router = APIRouter()
    plain(cast(FastAPI, router))
    app.include_router(router)


@pytest.mark.parametrize(
    "build", [plain, aliased, model, with_request, with_dependency, generator, on_a_router]
)
def test_what_the_function_takes_counts_by_its_value(build: Build) -> None:
    app = FastAPI()
    build(app)
    found = statuses(app, "limit=5", "limit=05", "limit=5&x=1", "x&limit=%35", "limit=6")
    assert found == [MISS, HIT, HIT, HIT, MISS]


def test_a_default_is_the_default() -> None:
    app = FastAPI()
    plain(app)
    assert statuses(app, "", "limit=10", "limit=010&utm_source=x") == [MISS, HIT, HIT]


def test_what_the_function_ignores_does_not_count() -> None:
    app = FastAPI()

    @app.get("/x")
    @declared()
    async def endpoint(trace: Annotated[str, NotInKey] = "", limit: int = 10) -> int:
        return limit

    assert statuses(app, "trace=1", "trace=2") == [MISS, HIT]


# -- what others declare --------------------------------------------------------------------------


async def noted(lang: str = "en") -> None:
    _seen.set(lang)


async def noted_by_alias(language: Annotated[str, Query(alias="lang")] = "en") -> None:
    _seen.set(language)


async def noted_by_choice(
    language: Annotated[str, Query(validation_alias=AliasChoices("lang", "hl"))] = "en",
) -> None:
    _seen.set(language)


async def nothing() -> None: ...


class Locale(BaseModel):
    language: str = Field("en", alias="lang")


async def noted_by_model(locale: Annotated[Locale, Query()]) -> None:
    _seen.set(locale.language)


def behind(dependency: Callable[..., Any]) -> Build:
    def build(app: FastAPI) -> None:
        async def outer(inner: Annotated[None, Depends(dependency)]) -> None: ...

        @app.get("/x", dependencies=[Depends(outer)])
        @declared(key_context=())
        async def endpoint() -> str:
            return _seen.get()

    return build


def of_router(app: FastAPI) -> None:
    router = APIRouter()

    @router.get("/x")
    @declared(key_context=())
    async def endpoint() -> str:
        return _seen.get()

    app.include_router(router, dependencies=[Depends(noted)])


def of_override(app: FastAPI) -> None:
    app.dependency_overrides[nothing] = noted
    behind(nothing)(app)


def of_scheme(app: FastAPI) -> None:
    behind(noted_by_scheme)(app)


async def noted_by_scheme(
    key: Annotated[str | None, Security(APIKeyQuery(name="lang", auto_error=False))],
) -> None:
    _seen.set(str(key))


@pytest.mark.parametrize(
    "build",
    [
        *(behind(noted), behind(noted_by_alias), of_router, of_override, of_scheme),
        pytest.param(behind(noted_by_choice), marks=not_by_old_fastapi),
        pytest.param(behind(noted_by_model), marks=not_by_old_fastapi),
    ],
)
def test_what_others_take_counts_as_it_is_written(build: Build) -> None:
    app = FastAPI()
    build(app)
    with TestClient(app) as client:
        answers = [
            client.get(f"/x?{query}")
            for query in ("lang=de", "x=1&lang=de", "lang=fr", "l%61ng=it&y", "lang=%64e")
        ]
    assert [answer.json() for answer in answers] == ["de", "de", "fr", "it", "de"]
    found = [answer.headers["cache-status"] for answer in answers]
    assert found == [MISS, HIT, MISS, MISS, MISS]


# -- where more may be read -----------------------------------------------------------------------


def read(get: Callable[[Request], str]) -> Build:
    def build(app: FastAPI) -> None:
        @app.get("/x")
        @declared()
        async def endpoint(request: Request) -> str:
            return get(request)

    return build


def reads_params(app: FastAPI) -> None:
    @app.get("/x")
    @declared()
    async def endpoint(request: Request) -> str:
        return str(request.query_params)


def reads_url(app: FastAPI) -> None:
    @app.get("/x")
    @declared()
    async def endpoint(request: Request) -> str:
        return str(request.url)


def reads_scope(app: FastAPI) -> None:
    @app.get("/x")
    @declared()
    async def endpoint(request: Request) -> str:
        return str(request.scope["query_string"])


def dependency_reads(app: FastAPI) -> None:
    async def note(request: Request) -> None:
        _seen.set(request.url.query)

    behind(note)(app)


def dependency_hands_it_on(app: FastAPI) -> None:
    async def note(request: Request) -> None:
        _seen.set(str(vars(request)["scope"]["query_string"]))

    behind(note)(app)


def override_reads(app: FastAPI) -> None:
    async def note(request: Request) -> None:
        _seen.set(request.url.query)

    app.dependency_overrides[nothing] = note
    behind(nothing)(app)


def open_model(app: FastAPI) -> None:
    class Open(BaseModel, extra="allow"): ...

    async def note(filters: Annotated[Open, Query()]) -> None:
        _seen.set(str(filters))

    behind(note)(app)


def model_that_sees_all(app: FastAPI) -> None:
    class Noted(BaseModel):
        text: str = ""

        @model_validator(mode="before")
        @classmethod
        def _note(cls, value: Any) -> Any:
            return {"text": str(dict(value))}

    async def note(filters: Annotated[Noted, Query()]) -> None:
        _seen.set(str(filters))

    behind(note)(app)


def model_made_of_all(app: FastAPI) -> None:
    class Noted(BaseModel):
        text: str = ""

    def whole(value: Any) -> Any:
        return {"text": str(dict(value))}

    async def note(filters: Annotated[Noted, Query(), BeforeValidator(whole)]) -> None:
        _seen.set(str(filters))

    behind(note)(app)


def route_reads(app: FastAPI) -> None:
    class Reading(APIRoute):
        def get_route_handler(self) -> Any:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Any:
                _seen.set(request.url.query)
                return await handler(request)

            return handle

    router = APIRouter(route_class=Reading)
    behind(nothing)(cast(FastAPI, router))
    app.include_router(router)


@pytest.mark.parametrize(
    "build",
    [
        *(reads_params, reads_url, reads_scope, dependency_reads, dependency_hands_it_on),
        *(override_reads, open_model, model_that_sees_all, model_made_of_all, route_reads),
        read(lambda request: str(request.query_params)),
    ],
)
def test_where_more_may_be_read_all_of_it_counts(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    build(app)
    assert statuses(app, "a=1", "a=2", "a=1") == [MISS, MISS, HIT]
    assert 'in spite of query="declared"' in "".join(warnings(caplog))


def test_without_fastapi_all_of_it_counts(caplog: pytest.LogCaptureFixture) -> None:
    @declared()
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(request.url.query)

    app = Starlette(routes=[Route("/x", endpoint)])
    assert statuses(app, "a=1", "a=2", "a=1") == [MISS, MISS, HIT]
    (warning,) = warnings(caplog)
    assert "route of FastAPI" in warning


@pytest.mark.parametrize(
    "get",
    [
        lambda request: request.query_params,
        lambda request: request.url,
        lambda request: request.scope["query_string"],
        lambda request: request.scope.get("raw_path"),
        lambda request: dict(request.scope),
    ],
)
def test_a_read_that_no_code_shows_is_noticed(get: Callable[[Request], Any]) -> None:
    terms = Terms(frozenset(), host=True, unguarded=frozenset({"headers"}))
    plain = Request({"type": "http", "path": "/", "query_string": b"a=1", "headers": []})
    _ = plain.query_params
    for left_out, expected in ((frozenset[str](), 0), (frozenset({"query"}), 1)):
        guard = Guard(plain, terms, with_body=False, left_out=left_out)
        (request,), _ = guard.given((plain,), {})
        get(request)
        assert len(guard.findings(frozenset())) == expected


@pytest.mark.parametrize("settings", [{"query": "some"}, {"query": None}])
def test_another_value_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match='pass "all" or "declared"'):
        stream_cached(ttl=60, **settings)


def test_it_is_about_the_request() -> None:
    with pytest.raises(ConfigurationError, match="request_key=False"):
        stream_cached(ttl=60, query="declared", request_key=False)
