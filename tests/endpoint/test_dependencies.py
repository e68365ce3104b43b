"""Whose session it is: what a dependency takes says whether its value may be one client's own."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, NamedTuple

import fastapi.security
import pydantic
import pytest
from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, Header, Security
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from stream_cached import InKey, not_in_key, stream_cached
from stream_cached.endpoint.origins import NOBODY, Origins
from stream_cached.endpoint.startup import remember_state
from stream_cached.endpoint.taken import Keyed
from tests.support.logs import warnings
from tests.support.runs import HIT, MISS
from tests.support.selection import share

ARGUMENT = 'stream-cached; fwd=bypass; detail="argument"'

_numbers = iter(range(1, 10**6))


class Session:
    """What endpoints work with; one of it may still belong to one client."""


not_in_key(Session)

SESSION = Session()


async def nothing() -> None: ...


def accepts(*values: object) -> None: ...


def cached(**settings: Any) -> stream_cached:
    """The decorator over a memory that no other test has."""
    settings.setdefault("cache", f"memory://?max_bytes={(310 << 20) + next(_numbers)}")
    return stream_cached(ttl=60, **settings)


def with_state(app: ASGIApp) -> ASGIApp:
    """A lifespan has put a pool into the state, and a middleware says whose request it is."""
    remember_state(app, {"pool": SESSION, "other": SESSION})

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["state"] = {"pool": SESSION, "other": SESSION, "tenant": "one of them"}
        await app(scope, receive, send)

    return marked


def states(
    marker: Any, *, path: str = "/", asked: tuple[str, ...] = ("/", "/"), **settings: Any
) -> list[str]:
    """Ask an endpoint that has a session from such a dependency; return Cache-Status."""
    app = FastAPI()
    app.state.pool = SESSION

    @app.get(path)
    @cached(**settings)
    async def endpoint(session: Session = marker) -> Response:
        assert isinstance(session, Session)
        return PlainTextResponse("rows")

    headers = {"X-User": "alice", "Cookie": "user=alice"}
    client = TestClient(with_state(app), headers=headers)
    answers = [client.get(each) for each in asked]
    assert {answer.text for answer in answers} == {"rows"}
    return [answer.headers["cache-status"] for answer in answers]


def assert_is_infrastructure(caplog: pytest.LogCaptureFixture, dependency: Any) -> None:
    assert states(Depends(dependency)) == [MISS, HIT], warnings(caplog)


def taken_for(parameter: inspect.Parameter) -> str:
    """What the parameter's argument is made of that may be another one for each client."""
    origins = Origins(nothing, {"session": parameter}, Keyed())
    return origins.of({}).who_asks("session", NOBODY, {})


def assert_is_of_a_client(caplog: pytest.LogCaptureFixture, dependency: Any, culprit: str) -> None:
    assert states(Depends(dependency)) == [ARGUMENT] * 2
    (warning,) = warnings(caplog)
    assert "session may belong to one client: it depends on" in warning
    assert culprit in warning


# -- forms of dependencies, and what each does with its request -----------------------------------

#: Each of them takes a request, and does `...` with it.
FORMS: dict[str, str] = {
    "function": """
def dependency(request: Request):
    ...
    return Session()
""",
    "async function": """
async def dependency(request: Request):
    await nothing()
    ...
    await nothing()
    return Session()
""",
    "generator": """
def dependency(request: Request):
    session = Session()
    try:
        ...
        yield session
    finally:
        accepts(session)
""",
    "async generator": """
async def dependency(request: Request):
    await nothing()
    ...
    yield Session()
    await nothing()
""",
    "class": """
class dependency(Session):
    def __init__(self, request: Request):
        ...
""",
    "instance": """
class Makes:
    def __call__(self, request: Request):
        ...
        return Session()
dependency = Makes()
""",
    "async instance": """
class Makes:
    async def __call__(self, request: Request):
        await nothing()
        ...
        return Session()
dependency = Makes()
""",
    "partial": """
def makes(name, request: Request):
    ...
    return Session()
dependency = functools.partial(makes, "name")
""",
    "partial of an async partial": """
async def makes(name, size, request: Request):
    ...
    return Session()
dependency = functools.partial(functools.partial(makes, "name"), 5)
""",
    "method": """
class Makes:
    def session(self, request: Request):
        ...
        return Session()
dependency = Makes().session
""",
    "class method": """
class Makes:
    @classmethod
    def session(cls, request: Request):
        ...
        return Session()
dependency = Makes.session
""",
    "static method": """
class Makes:
    @staticmethod
    async def session(request: Request):
        ...
        return Session()
dependency = Makes.session
""",
    "keyword only": """
def dependency(*, name: str = "", request: Request):
    ...
    return Session()
""",
    "nested": """
def innermost(request: Request):
    ...
    return Session()
def inner(session: Session = Depends(innermost), size: int = 1):
    return session
async def dependency(session: Annotated[Session, Security(inner, scopes=["a"])]):
    return session
""",
    "beside another": """
def inner(request: Request):
    ...
def dependency(request: Request, unused: None = Depends(inner)):
    request.app
    return Session()
""",
    "an annotation in a string": """
def dependency(request: "Request"):
    ...
    return Session()
""",
    "an optional": """
def dependency(request: Request = None):
    ...
    return Session()
""",
    "a connection": """
def dependency(request: HTTPConnection):
    ...
    return Session()
""",
    "annotated": """
def dependency(request: Annotated[Request, "the request"]):
    ...
    return Session()
""",
}

#: What may be done with a request, and what of it is one client's own.
HARMLESS: dict[str, str] = {
    "nothing": "pass",
    "app": "request.app",
    "app.state": "accepts(request.app.state.pool)",
    "app.state, called": "request.app.state.__class__()",
    "app, in several places": "accepts(request.app, 1, request.app.state); request.app.state.pool",
    "app, in a variable": "app = request.app; accepts(app.state.pool)",
    "app, in a loop": "for _ in range(2): accepts(request.app.state)",
    "app, in a condition": "accepts(request.app if request.app else None)",
    "state.pool": "accepts(request.state.pool)",
    "state.pool, and more of it": "accepts(request.state.pool.__class__.__name__)",
    "state.pool, called": "request.state.pool.__repr__()",
    "two of state": "accepts(request.state.pool, request.state.other)",
    "method": "accepts(request.method)",
    "path_params": "accepts(request.path_params.get('tenant'))",
    "path": "accepts(request.url.path)",
    "query": "accepts(request.query_params['page'] if request.url.query else 1)",
    "host": "accepts(request.url.hostname, request.url.netloc, request.url.port)",
    "the host's header": "accepts(request.headers['host'])",
}
PRIVATE: dict[str, tuple[str, str]] = {
    "state.tenant": ("accepts(request.state.tenant)", "request.state.tenant"),
    "state.tenant, called": ("request.state.tenant.upper()", "request.state.tenant"),
    "a pool and a tenant": (
        "accepts(request.state.pool, request.state.tenant)",
        "request.state.tenant",
    ),
    "state, by getattr": ("getattr(request.state, 'tenant', None)", "request.state.tenant"),
    "state, by hasattr": ("hasattr(request.state, 'tenant')", "request.state.tenant"),
    "state, by any name": ("name = 'a'; getattr(request.state, name, None)", "the request"),
    "state, by another function": ("str(request.state)", "the request"),
    "state, in a variable": ("state = request.state; accepts(state.tenant)", "the request"),
    "state, written": ("request.state.mine = 1", "the request"),
    "headers": ("accepts(request.headers)", "the request"),
    "a header": ("accepts(request.headers.get('X-User'))", "the header x-user"),
    "a header, as an item": ("accepts(request.headers['x-user'])", "the header x-user"),
    "a header of any name": ("name = 'a'; accepts(request.headers.get(name))", "the request"),
    "headers, other methods": ("accepts(request.headers.keys())", "the request"),
    "cookies": ("accepts(request.cookies)", "the request"),
    "a cookie": ("accepts(request.cookies.get('user', 'nobody'))", "the cookie user"),
    "a cookie, as an item": ("accepts(request.cookies['user'])", "the cookie user"),
    "url": ("accepts(request.url)", "the request"),
    "base_url": ("accepts(request.base_url)", "the request"),
    "scope": ("accepts(request.scope['headers'])", "the request"),
    "an item": ("accepts(request['headers'])", "the request"),
    "after app": ("accepts(request.app); accepts(request.headers)", "the request"),
    "before app": ("accepts(request.headers, request.app)", "the request"),
    "passed on": ("accepts(request)", "the request"),
    "passed on with others": ("a = b = 1; accepts(a, request, b)", "the request"),
    "passed on after another": ("a = 1; accepts(a, request)", "the request"),
    "passed on twice": ("accepts(request, request)", "the request"),
    "passed on beside its app": ("accepts(request, request.app)", "the request"),
    "passed on behind its app": ("accepts(request.app, request)", "the request"),
    "passed on beside its pool": ("accepts(request, request.state.pool)", "the request"),
    "stored over": ("request.app; request = request.headers", "the request"),
    "passed on by name": ("dict(request=request)", "the request"),
    "passed on with a star": ("accepts(*[request])", "the request"),
    "in a variable": ("other = request; accepts(other.headers)", "the request"),
    "in a walrus": ("accepts((other := request), other.headers)", "the request"),
    "in a list": ("[request][0].headers", "the request"),
    "in a tuple": ("a, b = request, 1; accepts(a.headers)", "the request"),
    "in an f-string": ("f'{request}'", "the request"),
    "in a lambda": ("(lambda: request.headers)()", "the request"),
    "in a lambda, app only": ("(lambda: request.app)()", "the request"),
    "as a default": ("(lambda r=request: r.headers)()", "the request"),
    "in a comprehension": ("[request.headers for _ in range(2)]", "the request"),
    "over a comprehension": ("[r.headers for r in [request]]", "the request"),
    "by getattr": ("getattr(request, 'headers')", "the request"),
    "by another name": ("vars(request)", "the request"),
    "in a condition": ("accepts(request.headers if request.app else None)", "the request"),
    "in a try": ("try: accepts(request.app)\n    finally: accepts(request.headers)", "the request"),
}


def made(form: str, take: str) -> Any:
    """A dependency of such a form that does this with its request."""
    lines = FORMS[form].splitlines()
    index = next(number for number, line in enumerate(lines) if line.strip() == "...")
    indent = lines[index].removesuffix("...")
    lines[index] = "\n".join(indent + line.strip() for line in take.splitlines())
    scope: dict[str, Any] = {"__name__": "an.application"}
    exec("import functools\nfrom typing import Annotated", scope)
    scope |= {
        "Depends": Depends,
        "HTTPConnection": HTTPConnection,
        "Request": Request,
        "Security": Security,
        "Session": Session,
        "accepts": accepts,
        "nothing": nothing,
    }
    exec(compile("\n".join(lines), "application.py", "exec", dont_inherit=True), scope)
    return scope["dependency"]


@pytest.mark.parametrize("form", FORMS)
def test_a_session_of_the_application_is_infrastructure_in_every_form_of_dependency(
    caplog: pytest.LogCaptureFixture, form: str
) -> None:
    for take in share(HARMLESS, FORMS, form):
        assert_is_infrastructure(caplog, made(form, take))


@pytest.mark.parametrize("form", FORMS)
def test_a_session_of_a_client_is_none_in_any_form_of_dependency(
    caplog: pytest.LogCaptureFixture, form: str
) -> None:
    for take, culprit in share(PRIVATE, FORMS, form):
        caplog.clear()
        assert_is_of_a_client(caplog, made(form, take), culprit)


@pytest.mark.parametrize("take", HARMLESS.values(), ids=HARMLESS)
def test_the_same_for_every_client_is_harmless(caplog: pytest.LogCaptureFixture, take: str) -> None:
    assert_is_infrastructure(caplog, made("function", take))


@pytest.mark.parametrize(("take", "culprit"), PRIVATE.values(), ids=PRIVATE)
def test_what_may_differ_from_client_to_client_is_named(
    caplog: pytest.LogCaptureFixture, take: str, culprit: str
) -> None:
    dependency = made("function", take)
    culprit = "the request, in dependency" if culprit == "the request" else culprit
    assert_is_of_a_client(caplog, dependency, culprit)


@pytest.mark.parametrize("form", ["async function", "async generator"])
@pytest.mark.parametrize(
    "take",
    [
        "accepts(await request.body())",
        "accepts(request.headers, await nothing())",
        "accepts(await nothing(), request)",
    ],
)
def test_what_is_read_around_an_await_is_seen(
    caplog: pytest.LogCaptureFixture, form: str, take: str
) -> None:
    assert_is_of_a_client(caplog, made(form, take), "the request, in dependency")


@pytest.mark.parametrize("take", ["locals()['request'].headers", "eval('request.headers')"])
def test_a_request_that_is_taken_from_locals_is_seen(
    caplog: pytest.LogCaptureFixture, take: str
) -> None:
    assert_is_of_a_client(caplog, made("function", take), "the request")


# -- what is no function, or is wrapped -----------------------------------------------------------


def decorated(wraps: bool) -> Any:
    """A dependency whose decorator looks at the request, which the dependency does not."""

    def makes(request: Request) -> Session:
        return Session()

    def wrapper(*args: Any, **kwargs: Any) -> Session:
        accepts(kwargs["request"].headers["x-user"])
        return makes(*args, **kwargs)

    if wraps:
        return functools.wraps(makes)(wrapper)
    wrapper.__signature__ = inspect.signature(makes, eval_str=True)  # type: ignore[attr-defined]
    return wrapper


def answers_of(dependency: Any, **headers: str) -> list[str]:
    """As `states`, with headers that a dependency can't do without."""
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(session: Session = Depends(dependency)) -> Response:  # noqa: B008
        return PlainTextResponse("rows")

    client = TestClient(with_state(app), headers=headers)
    return [client.get("/").headers["cache-status"] for _ in range(2)]


def test_a_decorator_may_look_at_the_request_itself() -> None:
    assert answers_of(decorated(wraps=True), **{"X-User": "alice"}) == [ARGUMENT] * 2


def test_a_wrapper_with_a_signature_of_its_own_may_look_at_the_request() -> None:
    assert answers_of(decorated(wraps=False), **{"X-User": "alice"}) == [ARGUMENT] * 2


class ModelSession(pydantic.BaseModel, Session, arbitrary_types_allowed=True):
    """Keeps its request; its signature is made of its fields."""

    request: Request

    @property
    def user(self) -> str:
        return self.request.headers["X-User"]


TupleSession = NamedTuple("TupleSession", [("request", Request)])  # noqa: UP014


def test_a_model_that_keeps_its_request_is_of_a_client() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(session: ModelSession = Depends()) -> Response:  # noqa: B008
        return PlainTextResponse(session.user)

    client = TestClient(app)
    for user in ("alice", "bob"):
        assert client.get("/", headers={"X-User": user}).text == user


def test_a_named_tuple_that_keeps_its_request_is_of_a_client() -> None:
    parameter = inspect.Parameter(
        "session", inspect.Parameter.KEYWORD_ONLY, default=Depends(TupleSession)
    )
    assert "TupleSession" in taken_for(parameter)


class NewSession(Session):
    """Looks at its request before it is initialised."""

    def __new__(cls, request: Request) -> NewSession:
        session = super().__new__(cls)
        session.user = request.headers["X-User"]
        return session

    user: str

    def __init__(self, request: Request) -> None:
        super().__init__()


def test_what_new_takes_of_a_request_is_seen() -> None:
    assert answers_of(NewSession, **{"X-User": "alice"}) == [ARGUMENT] * 2


class ServiceSession(Session):
    """A class that FastAPI makes by `Depends()`, of a request and a header."""

    def __init__(self, x_user: Annotated[str, Header()] = "") -> None:
        self.user = x_user


class PlainSession(Session):
    def __init__(self, request: Request, size: int = 1) -> None:
        self.pool = request.app.state.pool


def managed(request: Request) -> Iterator[Session]:
    accepts(request.app.state)
    yield SESSION


def managed_for_client(request: Request) -> Iterator[Session]:
    accepts(request.headers)
    yield SESSION


async def managed_async(request: Request) -> AsyncIterator[Session]:
    accepts(request.app)
    yield SESSION


@pytest.mark.parametrize("manage", [contextlib.contextmanager, contextlib.asynccontextmanager])
def test_what_contextlib_wraps_is_read_as_the_function_that_it_is(
    manage: Callable[[Any], Any],
) -> None:
    is_async = manage is contextlib.asynccontextmanager
    for function, expected in [
        (managed_async if is_async else managed, ""),
        (managed_for_client, "the request, in managed_for_client"),
    ]:
        marker = Depends(manage(function))
        parameter = inspect.Parameter("session", inspect.Parameter.KEYWORD_ONLY, default=marker)
        assert taken_for(parameter) == expected


def test_what_contextlib_wraps_around_another_decorator_is_of_a_client() -> None:
    wrapped: Any = contextlib.contextmanager(decorated(wraps=True))
    parameter = inspect.Parameter(
        "session", inspect.Parameter.KEYWORD_ONLY, default=Depends(wrapped)
    )
    assert "the request" in taken_for(parameter)


def test_a_cached_dependency_is_seen_through() -> None:
    """`functools.cache` over what takes nothing, as for settings."""
    assert states(Depends(functools.cache(of_everybody))) == [MISS, HIT]
    assert states(Depends(functools.cache(of_user))) == [ARGUMENT] * 2


def test_depends_without_a_function_is_the_class_of_the_parameter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()
    app.state.pool = SESSION

    @app.get("/plain")
    @cached()
    async def plain(session: Annotated[PlainSession, Depends()]) -> Response:
        return PlainTextResponse("rows")

    @app.get("/service")
    @cached()
    async def service(session: ServiceSession = Depends()) -> Response:  # noqa: B008
        return PlainTextResponse("rows")

    client = TestClient(app)
    found = [client.get("/plain").headers["cache-status"] for _ in range(2)]
    assert found == [MISS, HIT], warnings(caplog)
    found = [client.get("/service").headers["cache-status"] for _ in range(2)]
    assert found == [ARGUMENT] * 2
    (warning,) = warnings(caplog)
    assert "the header x-user" in warning


def of_everybody() -> Session:
    return SESSION


def of_user(x_user: Annotated[str, Header()] = "") -> Session:
    return SESSION


Common = Annotated[Session, Depends(of_everybody)]


def test_the_last_of_two_dependencies_is_the_one_that_counts() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(session: Annotated[Common, Depends(of_user)]) -> Response:
        return PlainTextResponse("rows")

    client = TestClient(app)
    assert [client.get("/").headers["cache-status"] for _ in range(2)] == [ARGUMENT] * 2


def test_the_builtin_of_no_signature_is_of_a_client() -> None:
    parameter = inspect.Parameter("session", inspect.Parameter.KEYWORD_ONLY, default=Depends(dict))
    assert "dict, which has no signature" in taken_for(parameter)


def one(session: Any = None) -> Any: ...


def other(session: Any = Depends(one)) -> Any: ...  # noqa: B008


def test_dependencies_in_a_circle_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI refuses them; to look at them must not take for ever."""
    monkeypatch.setattr(one, "__defaults__", (Depends(other),))
    parameter = inspect.Parameter("session", inspect.Parameter.KEYWORD_ONLY, default=Depends(one))
    assert taken_for(parameter) == ""


def test_a_parameter_that_no_dependency_makes_has_no_origin() -> None:
    parameter = inspect.Parameter("session", inspect.Parameter.KEYWORD_ONLY, annotation=Session)
    assert taken_for(parameter) == ""


# -- other things that a dependency takes ---------------------------------------------------------


def takes_query(page: int = 1) -> Session:
    return SESSION


def takes_path(item: str) -> Session:
    return SESSION


def takes_body_of_fastapi(response: Response, tasks: BackgroundTasks) -> Session:
    return SESSION


def takes_scopes(scopes: fastapi.security.SecurityScopes) -> Session:
    return SESSION


def takes_header(x_user: Annotated[str, Header()] = "") -> Session:
    return SESSION


def takes_header_default(x_user: str = Header("")) -> Session:
    return SESSION


class HeaderModel(pydantic.BaseModel):
    x_user: str = ""


def takes_header_model(who: Annotated[HeaderModel, Header()]) -> Session:
    return SESSION


def takes_cookie(name: Annotated[str, Cookie()] = "") -> Session:
    return SESSION


def takes_optional_request(request: Request | None = None) -> Session:
    accepts(request)
    return SESSION


def nests_header(session: Annotated[Session, Depends(takes_header)]) -> Session:
    return session


async def nests_deeper(
    page: int = 1,
    session: Session = Depends(nests_header),  # noqa: B008
) -> Session:
    return session


@pytest.mark.parametrize(
    ("dependency", "culprit"),
    [
        (takes_header, "the header x-user"),
        (takes_header_default, "the header x-user"),
        (takes_header_model, "the header x-user"),
        (takes_cookie, "the cookie name"),
        (nests_header, "the header x-user"),
        (nests_deeper, "the header x-user"),
    ],
)
def test_a_session_that_is_made_for_a_header_or_a_cookie_is_named_with_it(
    caplog: pytest.LogCaptureFixture, dependency: Any, culprit: str
) -> None:
    assert_is_of_a_client(caplog, dependency, culprit)


@pytest.mark.parametrize("dependency", [takes_query, takes_body_of_fastapi, takes_scopes])
def test_what_is_in_the_key_anyhow_may_be_taken(
    caplog: pytest.LogCaptureFixture, dependency: Any
) -> None:
    assert_is_infrastructure(caplog, dependency)


def test_a_session_of_a_path_or_a_query_is_told_apart_by_them() -> None:
    asked: tuple[str, ...] = ("/1", "/2", "/1", "/1?page=2")
    assert states(Depends(takes_path), path="/{item}", asked=asked) == [MISS, MISS, HIT, MISS]
    asked = ("/?page=1", "/?page=2", "/?page=1")
    assert states(Depends(takes_query), asked=asked) == [MISS, MISS, HIT]


def takes_unknown(thing: Unknown) -> Session:  # type: ignore[name-defined]  # noqa: F821
    return SESSION


def takes_unknown_and_more(
    thing: Unknown,  # type: ignore[name-defined]  # noqa: F821
    x_user: Annotated[str, Header()] = "",
) -> Session:
    return SESSION


@pytest.mark.parametrize(
    ("dependency", "culprits"),
    [
        (takes_unknown, ["thing of takes_unknown"]),
        (takes_unknown_and_more, ["thing of takes_unknown_and_more", "the header x-user"]),
        (takes_optional_request, ["the request, in takes_optional_request"]),
    ],
)
def test_what_can_not_be_understood_is_of_a_client(dependency: Any, culprits: list[str]) -> None:
    """FastAPI refuses the unknown ones, unless somebody else makes the call."""
    parameter = inspect.Parameter(
        "session", inspect.Parameter.KEYWORD_ONLY, default=Depends(dependency)
    )
    assert taken_for(parameter) == ", ".join(culprits)


SCHEMES: list[Any] = [
    fastapi.security.APIKeyCookie(name="name", auto_error=False),
    fastapi.security.APIKeyHeader(name="X-Key", auto_error=False),
    fastapi.security.HTTPBasic(auto_error=False),
    fastapi.security.HTTPBearer(auto_error=False),
    fastapi.security.HTTPDigest(auto_error=False),
    fastapi.security.OAuth2(auto_error=False),
    fastapi.security.OAuth2AuthorizationCodeBearer("/authorize", "/token", auto_error=False),
    fastapi.security.OAuth2PasswordBearer("/token", auto_error=False),
    fastapi.security.OpenIdConnect(openIdConnectUrl="/connect", auto_error=False),
]

#: What it takes is part of the key, with the rest of the query.
OF_QUERY = fastapi.security.APIKeyQuery(name="key", auto_error=False)


class OwnScheme(fastapi.security.OAuth2PasswordBearer):
    async def __call__(self, request: HTTPConnection) -> str | None:
        return "somebody"


@pytest.mark.parametrize("marker", [Depends, Security])
@pytest.mark.parametrize(
    "scheme", [*SCHEMES, OwnScheme("/token")], ids=lambda scheme: type(scheme).__name__
)
def test_every_security_scheme_is_of_a_client(
    caplog: pytest.LogCaptureFixture, scheme: Any, marker: Callable[[Any], Any]
) -> None:

    def dependency(credentials: Any = marker(scheme)) -> Session:  # noqa: B008
        return SESSION

    assert_is_of_a_client(caplog, dependency, f"the security scheme {type(scheme).__name__}")


def test_all_kinds_of_security_schemes_are_known() -> None:
    kinds = {
        cls
        for cls in vars(fastapi.security).values()
        if inspect.isclass(cls) and "__call__" in vars(cls)
    }
    assert kinds == {type(scheme) for scheme in (*SCHEMES, OF_QUERY)}


# -- the state at the time of a call --------------------------------------------------------------


def of_state(request: Request) -> Session:
    session: Session = request.state.chosen
    return session


def test_the_same_name_in_state_may_be_a_pool_or_a_tenant() -> None:
    """What stands there is looked at in each call: a lifespan's, or a middleware's."""
    app = FastAPI()

    class Chosen(str):
        __slots__ = ()

    @app.get("/{number}")
    @cached()
    async def endpoint(number: int, session: Any = Depends(of_state)) -> Response:  # noqa: B008
        return PlainTextResponse("rows")

    chosen: list[Any] = []
    remember_state(app, {"chosen": SESSION})

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["state"] = {"chosen": chosen[0]}
        await app(scope, receive, send)

    client = TestClient(marked)
    found = []
    for value in (SESSION, SESSION, logging.getLogger("a"), "alice", "bob"):
        chosen[:] = [value]
        found.append(client.get("/1").headers["cache-status"])
    # A string is an argument like any other.
    assert found == [MISS, HIT, ARGUMENT, MISS, MISS]


def session_of_tenant(request: Request) -> Session:
    accepts(request.state.tenant)
    return SESSION


def test_a_warning_says_how_such_a_session_is_cached_after_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert states(Depends(session_of_tenant)) == [ARGUMENT] * 2
    (warning,) = warnings(caplog)
    assert "user: Annotated[User, Depends(current_user), InKey(lambda user: user.id)]" in warning
    assert 'pass key_ignore=("session",) if every client is given the same answer' in warning
    assert states(Depends(session_of_tenant), key_ignore=("session",)) == [MISS, HIT]


def tenant_of(request: Request) -> str:
    return str(request.headers["X-User"])


def test_what_tells_clients_apart_as_a_parameter_is_in_the_key() -> None:
    app = FastAPI()

    @app.get("/")
    @cached(key_ignore=("session",))
    async def endpoint(
        tenant: Annotated[str, Depends(tenant_of)],
        session: Annotated[Session, Depends(session_of_tenant)],
    ) -> Response:
        return PlainTextResponse(tenant)

    client = TestClient(with_state(app))
    answers = [client.get("/", headers={"X-User": user}) for user in ("alice", "bob", "alice")]
    assert [answer.text for answer in answers] == ["alice", "bob", "alice"]
    assert [answer.headers["cache-status"] for answer in answers] == [MISS, MISS, HIT]


class ScopedSession(Session):
    user = "nobody"


def unscoped() -> ScopedSession:
    return ScopedSession()


def scoped(
    session: Annotated[ScopedSession, Depends(unscoped)], x_user: Annotated[str, Header()]
) -> None:
    """As a database's row-level security is set up: FastAPI makes one session for a request."""
    session.user = x_user


def test_a_session_that_another_dependency_makes_a_clients_own_is_one() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(
        session: Annotated[ScopedSession, Depends(unscoped)],
        _: Annotated[None, Depends(scoped)],
    ) -> Response:
        return PlainTextResponse(session.user)

    client = TestClient(app)
    for user in ("alice", "bob"):
        assert client.get("/", headers={"X-User": user}).text == user


def test_a_session_that_the_route_makes_a_clients_own_is_one() -> None:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(scoped)])
    @cached()
    async def endpoint(session: Annotated[ScopedSession, Depends(unscoped)]) -> Response:
        return PlainTextResponse(session.user)

    client = TestClient(app)
    for user in ("alice", "bob"):
        assert client.get("/", headers={"X-User": user}).text == user


def test_what_overrides_a_dependency_is_looked_at() -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(session: Annotated[Session, Depends(of_everybody)]) -> Response:
        return PlainTextResponse("rows")

    app.dependency_overrides[of_everybody] = of_user
    client = TestClient(app)
    assert [client.get("/").headers["cache-status"] for _ in range(2)] == [ARGUMENT] * 2


# -- without a request ----------------------------------------------------------------------------


def helper_app(dependency: Any) -> tuple[FastAPI, list[str]]:
    """A helper that FastAPI calls as a dependency, with a session."""
    app = FastAPI()
    runs: list[str] = []

    @cached(request_key=False)
    async def helper(session: Session = Depends(dependency)) -> str:  # noqa: B008
        runs.append("run")
        return "rows"

    @app.get("/{item}")
    async def route(item: str, rows: str = Depends(helper)) -> str:
        return rows

    app.state.pool = SESSION
    return app, runs


@pytest.mark.parametrize(
    ("dependency", "culprit"),
    [
        (takes_query, "page of takes_query"),
        (takes_path, "item of takes_path"),
        (takes_header, "the header x-user"),
        (session_of_tenant, "request.state.tenant"),
    ],
)
def test_where_the_request_is_not_in_the_key_path_and_query_are_not_either(
    caplog: pytest.LogCaptureFixture, dependency: Any, culprit: str
) -> None:
    app, runs = helper_app(dependency)
    client = TestClient(with_state(app))
    assert {client.get(path).text for path in ("/1", "/1", "/2")} == {'"rows"'}
    assert len(runs) == 3
    (warning,) = warnings(caplog)
    assert culprit in warning


def plain_session(request: Request, response: Response) -> Session:
    session: Session = request.app.state.pool
    return session


@pytest.mark.parametrize("dependency", [plain_session, takes_body_of_fastapi, of_everybody])
def test_a_helper_with_a_session_of_the_application_runs_once(dependency: Any) -> None:
    app, runs = helper_app(dependency)
    client = TestClient(app)
    assert {client.get(path).text for path in ("/1", "/2")} == {'"rows"'}
    assert len(runs) == 1


# -- what is made for one request, and given to several -------------------------------------------


def opened() -> Iterator[ScopedSession]:
    yield ScopedSession()


Opened = Annotated[ScopedSession, Depends(opened)]
XUser = Annotated[str, Header()]


def yields_nothing(session: Opened, x_user: XUser) -> Iterator[Any]:
    session.user = x_user
    yield
    session.user = ""


def returns_the_user(session: Opened, x_user: XUser) -> str:
    session.user = x_user
    return x_user


def nests_a_switch(_: Annotated[None, Depends(yields_nothing)]) -> bool:
    return True


@functools.wraps(returns_the_user)
def wrapped(**kwargs: Any) -> Any:
    return returns_the_user(**kwargs)


def of_opened(session: Opened) -> ScopedSession:
    return session


@pytest.mark.parametrize("given", [opened, of_opened])
@pytest.mark.parametrize(
    "switch", [yields_nothing, returns_the_user, nests_a_switch, wrapped], ids=lambda f: f.__name__
)
def test_whatever_the_route_does_with_a_session_makes_it_a_clients_own(
    switch: Any, given: Any
) -> None:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(switch)])
    @cached()
    async def endpoint(session: ScopedSession = Depends(given)) -> Response:  # noqa: B008
        return PlainTextResponse(session.user)

    client = TestClient(app)
    for user in ("alice", "bob"):
        assert client.get("/", headers={"X-User": user}).text == user


def returns_early(session: Opened, x_user: XUser):  # type: ignore[no-untyped-def]
    session.user = x_user
    if not x_user:
        return
    session.user = str(x_user)


@pytest.mark.parametrize("switch", [yields_nothing, nests_a_switch, returns_early])
def test_a_switch_beside_the_session_makes_it_a_clients_own(switch: Any) -> None:
    app = FastAPI()

    @app.get("/")
    @cached()
    async def endpoint(session: Opened, _: Any = Depends(switch)) -> Response:  # noqa: B008
        return PlainTextResponse(session.user)

    client = TestClient(app)
    for user in ("alice", "bob"):
        assert client.get("/", headers={"X-User": user}).text == user


TheUser = Annotated[str, Depends(returns_the_user), InKey(str)]


def test_what_a_user_was_found_with_is_left_out_where_the_user_is_in_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A plain argument does not say that it is the one who asks."""
    app = FastAPI()

    @app.get("/plain")
    @cached()
    async def plain(session: Opened, user: Annotated[str, Depends(returns_the_user)]) -> Response:
        return PlainTextResponse(f"{session.user} {user}")

    @app.get("/in-key")
    @cached()
    async def in_key(session: Opened, user: TheUser) -> Response:
        return PlainTextResponse(f"{session.user} {user}")

    client = TestClient(app)
    for path, states in [("/plain", [ARGUMENT] * 4), ("/in-key", [MISS, MISS, HIT, HIT])]:
        answers = [client.get(path, headers={"X-User": user}) for user in ("alice", "bob") * 2]
        assert [answer.text for answer in answers] == ["alice alice", "bob bob"] * 2
        assert [answer.headers["cache-status"] for answer in answers] == states
    (warning,) = warnings(caplog)
    assert "session may belong to one client: it depends on the header x-user" in warning
