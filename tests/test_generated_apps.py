"""Applications that are made up: nobody is given what was meant for someone else.

Each one is the text of a module, as somebody may write it: where an application learns who asks,
what it does with that, and what its endpoint reads. It is asked by several clients, beside the same
application without the decorator, which says what each of them has to be given.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from stream_cached import stream_cached
from tests.support.decorating import as_it_is
from tests.support.selection import examples

#: Where a dependency learns who asks: its parameters, and the value.
SOURCES = {
    "cookie": ("user: Annotated[str, Cookie()] = 'nobody'", "user"),
    "header": ("x_user: Annotated[str, Header()] = 'nobody'", "x_user"),
    "cookie of the request": ("request: Request", "request.cookies.get('user', 'nobody')"),
    "header of the request": ("request: Request", "request.headers.get('x-user', 'nobody')"),
    "any header of the request": ("request: Request", "dict(request.headers).get('x-user')"),
    "token": ("token: Annotated[Any, Depends(oauth2)]", "str(token)"),
    "query": ("user: str = 'nobody'", "user"),
    "path": ("tenant: str", "tenant"),
    "path of the request": ("request: Request", "request.path_params['tenant']"),
    "state of a middleware": ("request: Request", "request.state.user"),
    "scope of a middleware": ("request: Request", "request.scope['who']"),
    "nothing": ("", "'everybody'"),
}

#: What a dependency does with it: further parameters, and its last lines.
USES = {
    "returns it": ("", "return WHO"),
    "returns an account": ("", "return Account(WHO)"),
    "returns a plain object": ("", "return Plain(WHO)"),
    "returns a role": ("", "return 'member' if WHO else 'guest'"),
    "switches the session": ("db: DB", "db.info['user'] = WHO\n    return True"),
    "switches the session, and yields": ("db: DB", "db.info['user'] = WHO\n    yield"),
    "gives a client a token": ("api: Api", "api.headers['x-token'] = WHO\n    return None"),
    "writes into the state": ("request: Request", "request.state.tenant = WHO\n    return None"),
    "writes on the request": ("request: Request", "request._tenant = WHO\n    return None"),
    "writes on the response": ("response: Response", "response.headers['X-Who'] = WHO"),
    "rewrites the path": ("request: Request", "request.path_params['tenant'] = WHO"),
    "makes a service": ("db: DB", "return Service(db, WHO)"),
    "yields a session": ("", "yield OwnSession(tools.engine, info={'user': WHO})"),
}

#: What an endpoint has beside: its parameter, and what it reads.
READS = {
    "nothing": ("", "''"),
    "the session": ("db: DB", "db.info.get('user')"),
    "a session that it does not look at": ("db: DB", "'rows'"),
    "the client": ("api: Api", "api.headers.get('x-token')"),
    "the service": ("service: Annotated[Service, Depends()]", "service.db.info.get('user')"),
    "the state": ("request: Request", "getattr(request.state, 'tenant', None)"),
    "the request": ("request: Request", "getattr(request, '_tenant', None)"),
    "the response": ("response: Response", "response.headers.get('x-who')"),
    "the path": ("request: Request", "request.path_params['tenant']"),
    "a cookie": ("request: Request", "request.cookies.get('user')"),
    "the url": ("request: Request", "str(request.url)"),
}

#: How an endpoint answers.
ANSWERS = {
    "at hand": ("async def", "return PlainTextResponse(text)"),
    "in a thread": ("def", "return PlainTextResponse(text)"),
    "streamed": ("async def", "return StreamingResponse(iter([text, '.']))"),
    "a value": ("async def", "return {'text': text}"),
}

HEAD = """
from typing import Annotated, Any
import httpx
from fastapi import APIRouter, Cookie, Depends, FastAPI, Header, Request, Response
from fastapi.security import OAuth2PasswordBearer
from sqlalchemy.orm import Session
from starlette.responses import PlainTextResponse, StreamingResponse
from stream_cached import InKey
from tests.support import tools

oauth2 = OAuth2PasswordBearer("/login", auto_error=False)

def get_db():
    with Session(tools.engine) as session:
        yield session

def get_api():
    yield httpx.AsyncClient()

DB = Annotated[Session, Depends(get_db)]
Api = Annotated[httpx.AsyncClient, Depends(get_api)]

class Account:
    def __init__(self, name):
        self.name = name
        self.loader = object()
    def __str__(self):
        return self.name

class Plain(Account):
    def __init__(self, name):
        self.name = name

class Service:
    def __init__(self, db: DB, name: Any = Depends(lambda: "")):
        self.db, self._name = db, name
    def __str__(self):
        return f"{self.db.info.get('user')} {self._name}"

class OwnSession(Session):
    def __str__(self):
        return str(self.info.get("user"))

class Middleware:
    def __init__(self, app):
        self.app = app
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            user = dict(scope["headers"]).get(b"x-user", b"nobody").decode()
            scope["who"] = user
            scope.setdefault("state", {})["user"] = user
        await self.app(scope, receive, send)

app = FastAPI()
app.add_middleware(Middleware)
"""


@dataclass(frozen=True)
class Dependency:
    """One dependency of an application."""

    source: str
    use: str
    place: str
    """`argument`, `route` or `router`."""
    marker: str

    def lines(self, number: int) -> str:
        parameters, who = SOURCES[self.source]
        more, body = USES[self.use]
        both = ", ".join(sorted({each for each in (parameters, more) if each}, key=_has_default))
        return f"def d{number}({both}):\n    {body.replace('WHO', who)}\n"

    def as_argument(self, number: int) -> str:
        marker = ", InKey(str)" if self.marker == "InKey" else ""
        return f"d{number}: Annotated[Any, Depends(d{number}){marker}]"


def _has_default(parameter: str) -> bool:
    return "=" in parameter


@dataclass(frozen=True)
class Application:
    """An application, as the text of a module."""

    dependencies: tuple[Dependency, ...]
    reads: tuple[str, ...]
    answer: str

    def __repr__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        numbered = list(enumerate(self.dependencies))
        lines = [each.lines(number) for number, each in numbered]
        at = {place: [n for n, each in numbered if each.place == place] for place in _PLACES}
        arguments = [each.as_argument(n) for n, each in numbered if each.place == "argument"]
        parameters = {READS[each][0] for each in self.reads} - {""}
        values = [f"str(d{number})" for number in at["argument"]]
        values += [f"str({READS[each][1]})" for each in self.reads]
        kind, answer = ANSWERS[self.answer]
        return "\n".join(
            [
                HEAD,
                *lines,
                f"router = APIRouter(dependencies=[{_all(at['router'])}])",
                f'@router.get("/{{tenant}}/x", dependencies=[{_all(at["route"])}])',
                "@cached()",
                f"{kind} endpoint({', '.join(['tenant: str', *arguments, *sorted(parameters)])}):",
                f"    text = ' | '.join([tenant, {', '.join(values)}])",
                f"    {answer}",
                "app.include_router(router)",
            ]
        )

    def client(self, cached: Any) -> TestClient:
        scope: dict[str, Any] = {"__name__": "made_up", "cached": cached}
        exec(compile(self.text, "made_up.py", "exec", dont_inherit=True), scope)
        return TestClient(scope["app"])


def _all(numbers: list[int]) -> str:
    return ", ".join(f"Depends(d{number})" for number in numbers)


_PLACES = ("argument", "route", "router")

dependencies = st.builds(
    Dependency,
    source=st.sampled_from(sorted(SOURCES)),
    use=st.sampled_from(sorted(USES)),
    place=st.sampled_from(_PLACES),
    marker=st.sampled_from(["", "", "InKey"]),
)

#: Where an endpoint sees what a dependency has done.
SEEN = {
    "switches the session": "the session",
    "switches the session, and yields": "the session",
    "gives a client a token": "the client",
    "writes into the state": "the state",
    "writes on the request": "the request",
    "writes on the response": "the response",
    "rewrites the path": "the path",
}


@st.composite
def applications(draw: st.DrawFn) -> Application:
    chosen = draw(st.lists(dependencies, min_size=1, max_size=3))
    reads = {SEEN[each.use] for each in chosen if each.use in SEEN}
    reads |= draw(st.sets(st.sampled_from(sorted(READS)), max_size=1))
    answer = draw(st.sampled_from(sorted(ANSWERS)))
    return Application(tuple(chosen), tuple(sorted(reads)), answer)


#: Who asks, and for which tenant: two of them for the same one at first.
askers = st.builds(
    lambda first, more: [*first, *more],
    st.permutations([("alice", "one"), ("bob", "one")]),
    st.lists(
        st.tuples(st.sampled_from(["alice", "bob"]), st.sampled_from(["one", "other"])), max_size=3
    ),
)


def ask(
    client: TestClient, asker: tuple[str, str], sources: set[str]
) -> tuple[int, str, str | None]:
    """Ask with all that an application may know a client by; tokens and queries if it looks."""
    user, tenant = asker
    headers = {"Cookie": f"user={user}", "X-User": user}
    if "token" in sources:
        headers["Authorization"] = f"Bearer {user}"
    query = f"?user={user}" if "query" in sources else ""
    answer = client.get(f"/{tenant}/x{query}", headers=headers)
    return answer.status_code, answer.text, answer.headers.get("x-who")


_numbers = itertools.count()


@settings(examples(200), suppress_health_check=[HealthCheck.too_slow])
@given(application=applications(), asked=askers)
def test_nobody_is_given_another_ones_answer(
    application: Application, asked: list[tuple[str, str]]
) -> None:
    cache = f"memory://?max_bytes={(5 << 20) + next(_numbers)}"
    ours = application.client(lambda **settings: stream_cached(ttl=60, cache=cache, **settings))
    plain = application.client(as_it_is)
    sources = {each.source for each in application.dependencies}
    for asker in asked:
        assert ask(ours, asker, sources) == ask(plain, asker, sources)
