"""An application as people write them: what each user is given, and what the log says of it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.conftest import Serve
from tests.support.app_server import AppServer
from tests.support.gates import Gate, wait_until
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.logs import warnings
from tests.support.real_users import ANONYMOUS, PUBLIC, USERS, lines, token_of, told
from tests.support.runs import HIT, MISS
from tests.support.selection import share

pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
    InMemorySpanExporter,
)
from opentelemetry.trace import SpanKind

pytestmark = pytest.mark.filterwarnings(
    "ignore:'asyncio.iscoroutinefunction' is deprecated:DeprecationWarning:slowapi"
)


class Hold:
    """What each stream awaits after its first line."""

    def __init__(self) -> None:
        self._gate = Gate()
        self._gate.open()

    async def __call__(self) -> None:
        await self._gate.passed()

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Hold the streams that begin meanwhile, until the end of the block."""
        self._gate = Gate()
        try:
            yield
        finally:
            self.open()

    def open(self) -> None:
        self._gate.open()


def csv(owner: str) -> str:
    return "".join(lines(owner))


def common(user: str) -> str:
    return PUBLIC


def own(user: str) -> str:
    return user


@dataclass(frozen=True)
class Page:
    """An endpoint, and what is to be expected of it."""

    path: str
    owner: Callable[[str], str]
    """Whose body a user is given."""
    entries: Literal["one", "of each", "none"]
    """Whether there is one for all, one of each user, or nothing is stored."""
    detail: str = ""
    said: tuple[str, ...] = ()
    """What the one warning says, if there is one."""
    headers: Callable[[str], dict[str, str]] = lambda user: {}
    body: Callable[[str], bytes] = lambda user: b""
    written: Callable[[str], str] = csv
    vary: tuple[str, ...] = ()

    def text(self, user: str) -> str:
        return self.written(self.owner(user))

    def statuses(self, users: Sequence[str]) -> list[str]:
        """What Cache-Status says to users that come one after the other, the first one cold."""
        if self.entries == "none":
            # What the endpoint has read is known once it has answered.
            fwd = "uri-miss" if self.detail == "request-read" else "bypass"
            return [f'stream-cached; fwd={fwd}; detail="{self.detail}"'] * len(users)
        entries = [user if self.entries == "of each" else "" for user in users]
        return [HIT if entry in entries[:number] else MISS for number, entry in enumerate(entries)]


def with_token(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token_of(user)}"}


def in_language(user: str) -> dict[str, str]:
    return {"Lang": user}


def as_json(user: str) -> dict[str, str]:
    return {"Content-Type": "application/json"}


def prompt(user: str) -> bytes:
    return json.dumps({"text": user}).encode()


READ = "the endpoint read something from its request that is not part of the key"
BY_DEPENDENCY = "so that the endpoint has it as an argument, which is part of the key"

PAGES = [
    Page("/export", common, "one"),
    Page("/imprint", common, "one"),
    Page("/theme", common, "one"),
    Page("/calculation", common, "one"),
    Page("/calculation/by-argument", common, "one"),
    Page(
        "/orders",
        own,
        "none",
        "argument, authorization",
        (
            "(user is of type tests.support.real_app.User, and depends on the security scheme",
            "the request carries Authorization",
            'pass key_args={"user": lambda user: user.id}',
            'pass authorized="keyed"',
        ),
        with_token,
    ),
    Page("/orders/fixed", own, "of each", headers=with_token),
    Page("/orders/in-key", own, "of each", headers=with_token),
    Page(
        "/greeting",
        own,
        "none",
        "request-read",
        (READ, "(the session)", "let a dependency read the session", BY_DEPENDENCY),
    ),
    Page("/greeting/fixed", own, "of each"),
    Page(
        "/profile",
        own,
        "none",
        "request-read",
        (READ, "(request.state.user)", "let a dependency read request.state.user", BY_DEPENDENCY),
    ),
    Page("/profile/fixed", own, "of each"),
    Page(
        "/stock",
        own,
        "none",
        "argument",
        (
            "session may belong to one client: it depends on the cookie tenant",
            "as a parameter of its own",
            "session: Annotated[AsyncSession, Depends(get_tenant_session), NotInKey]",
            'key_ignore=("session",)',
        ),
    ),
    Page("/stock/fixed", own, "of each", vary=("cookie",)),
    Page("/stock/ignored", own, "of each"),
    Page("/report", common, "one"),
    Page("/report/fixed", common, "one"),
    Page("/report/ignored", common, "one"),
    Page("/report/declared", common, "one"),
    Page("/chat", own, "of each", headers=as_json, body=prompt, written=told),
    Page("/chat/by-request", own, "of each", headers=as_json, body=prompt, written=told),
    Page("/localised", own, "of each", headers=in_language, vary=("lang",)),
    Page(
        "/traced",
        common,
        "none",
        "request-read",
        (READ, "the header x-request-id", 'unguarded=("x-request-id",)'),
    ),
    Page("/traced/fixed", common, "one"),
    Page("/classes/catalogue", common, "one"),
    Page(
        "/classes/basket",
        own,
        "none",
        "request-read",
        (READ, "(the cookies)", "let a dependency read the cookies", BY_DEPENDENCY),
    ),
    Page(
        "/sales",
        common,
        "none",
        "argument",
        ("self is of type", "pass noself=True if all instances give the same answer"),
    ),
    Page("/sales/fixed", common, "one"),
]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)


def pages_of(name: str) -> pytest.MarkDecorator:
    """The pages that one of the two long tests asks for: in a quick run each has half of them."""
    pages = share({page.path: page for page in PAGES}, ("at once", "after another"), name)
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.path)


# What takes long is asked of two: that all of them keep entries apart is shown first.
two_caches = pytest.mark.parametrize("cache_url", ["memory", "redis"], indirect=True)


@dataclass
class Site:
    """The application at work, with two users who have logged in."""

    server: AppServer
    hold: Hold
    sessions: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return self.server.port

    def log_in(self, user: str) -> None:
        answer = fetch(self.port, f"/login?user={user}", method="POST")
        self.sessions[user] = (answer.header("Set-Cookie") or "").partition(";")[0]

    def headers(self, user: str, page: Page) -> dict[str, str]:
        """All that tells a user from another, whether the page asks for it or not."""
        return {
            "Cookie": f"{self.sessions[user]}; user={user}; tenant={user}",
            "User-Agent": f"the browser of {user}",
            "X-User": user,
            "X-Request-ID": f"of {user}",
            **page.headers(user),
        }

    def send(self, client: RawClient, page: Page, user: str, cold: object = "") -> None:
        """Ask for a page; another `cold` is one that nobody has asked for yet."""
        body = page.body(user)
        method = "POST" if body else "GET"
        client.send(method, f"{page.path}?cold={cold}", self.headers(user, page), body)

    def ask(self, page: Page, user: str, cold: object = "") -> RawResponse:
        with RawClient(self.port) as client:
            self.send(client, page, user, cold)
            return client.read_all()


@pytest.fixture(scope="module")
def real_app() -> Any:
    """The module of the application. A process that runs no test of it imports none of it."""
    for needed in (
        "aiosqlite",
        "itsdangerous",
        "openai",
        "opentelemetry.instrumentation.asgi",
        "slowapi",
        "sqlalchemy",
    ):
        pytest.importorskip(needed)
    return importlib.import_module("tests.support.real_app")


@pytest.fixture(scope="module")
def databases(real_app: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("databases")
    asyncio.run(real_app.make_databases(directory))
    return directory


@pytest.fixture(scope="module")
def model_url(real_app: Any) -> Iterator[str]:
    with AppServer(real_app.create_model()) as server:
        yield server.url


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def site(
    serve: Serve,
    cache_url: str,
    real_app: Any,
    databases: Path,
    model_url: str,
    spans: InMemorySpanExporter,
) -> Site:
    hold = Hold()
    app = real_app.create_app(
        cache_url, databases=databases, model_url=model_url, spans=spans, pause=hold
    )
    site = Site(serve(app), hold)
    for user in USERS:
        site.log_in(user)
    return site


def assert_own(answer: RawResponse, page: Page, user: str) -> None:
    """It is whole, and the user's."""
    assert (answer.status, answer.error) == (200, None)
    assert answer.text == page.text(user)


# -- one endpoint at a time -----------------------------------------------------------------------


@pytest.mark.matrix(share=3)
@each_page
def test_everybody_is_given_their_own_in_any_order_and_told_how(
    site: Site, page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    for order in (USERS, USERS[::-1]):
        users = order * 2
        answers = [site.ask(page, user, cold=order[0]) for user in users]
        for user, answer in zip(users, answers, strict=True):
            assert_own(answer, page, user)
            vary = (answer.header("Vary") or "").lower().split(", ")
            assert set(page.vary) <= set(vary)
        assert [answer.header("Cache-Status") for answer in answers] == page.statuses(users)
    said = warnings(caplog)
    assert len(said) == bool(page.said)
    for words in page.said:
        assert words in said[0]


@pytest.mark.matrix(share=3)
@two_caches
@pages_of("at once")
def test_two_who_ask_at_once_are_given_their_own(site: Site, page: Page) -> None:
    for order in (USERS, USERS[::-1]):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(RawClient(site.port)) for _ in order]
            with site.hold.closed():
                for client, user in zip(clients, order, strict=True):
                    site.send(client, page, user, cold=order[0])
                    client.read_head()
                    assert client.read_until(1)
            for client, user in zip(clients, order, strict=True):
                assert_own(client.read_rest(), page, user)
        for user in order:
            answer = site.ask(page, user, cold=order[0])
            assert_own(answer, page, user)
            assert (answer.header("Cache-Status") == HIT) == (page.entries != "none")


@pytest.mark.matrix(share=3)
@two_caches
@pages_of("after another")
def test_after_one_who_left_half_way_everybody_is_given_their_own_and_all_of_it(
    site: Site, page: Page
) -> None:
    for leaves, comes in (USERS, USERS[::-1]):
        with site.hold.closed(), RawClient(site.port) as client:
            site.send(client, page, leaves, cold=leaves)
            client.read_head()
            assert client.read_until(1) in page.text(leaves).encode()
            assert not client.response.complete
            client.close()
            with RawClient(site.port) as next_one:
                site.send(next_one, page, comes, cold=leaves)
                next_one.read_head()
                assert next_one.read_until(1)
                site.hold.open()
                assert_own(next_one.read_rest(), page, comes)
        wait_until(lambda: not site.server.requests_running)
        for user in (leaves, comes):
            answer = site.ask(page, user, cold=leaves)
            assert_own(answer, page, user)
            assert (answer.header("Cache-Status") == HIT) == (page.entries != "none")


# -- what lies around the endpoints ---------------------------------------------------------------


def test_a_hit_is_compressed_for_those_who_take_it_and_whole_for_all(site: Site) -> None:
    for takes_it in (True, False, True, False):
        headers = {"Accept-Encoding": "gzip"} if takes_it else {}
        answer = fetch(site.port, "/export", headers)
        assert answer.header("Content-Encoding") == ("gzip" if takes_it else None)
        assert (gzip.decompress(answer.body) if takes_it else answer.body) == csv(PUBLIC).encode()
    assert answer.header("Cache-Status") == HIT


def test_a_hit_is_for_the_origin_that_asks(site: Site) -> None:
    origins = [f"https://{user}.example" for user in USERS] * 2
    answers = [fetch(site.port, "/export", {"Origin": origin}) for origin in origins]
    assert [answer.header("Access-Control-Allow-Origin") for answer in answers] == origins
    assert [answer.header("Cache-Status") for answer in answers] == [MISS, HIT, HIT, HIT]
    assert fetch(site.port, "/export").header("Access-Control-Allow-Origin") is None


def test_hits_count_for_a_limit_above_the_cache(site: Site) -> None:
    answers = [fetch(site.port, "/imprint") for _ in range(3)]
    assert [answer.header("Cache-Status") for answer in answers] == [MISS, HIT, HIT]
    left = [int(answer.header("X-RateLimit-Remaining") or 0) for answer in answers]
    assert left == [left[0], left[0] - 1, left[0] - 2]


def test_a_host_that_is_not_trusted_is_refused_what_is_cached(site: Site) -> None:
    assert fetch(site.port, "/export").header("Cache-Status") == MISS
    refused = fetch(site.port, "/export", {"Host": "elsewhere.example"})
    assert (refused.status, refused.header("Cache-Status")) == (400, None)


def test_each_hit_is_traced_by_itself(site: Site, spans: InMemorySpanExporter) -> None:
    for _ in range(3):
        fetch(site.port, "/export?traced=1")
    wait_until(lambda: not site.server.requests_running)
    served = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
    paths = [(span.attributes or {}).get("http.target") for span in served]
    assert paths.count("/export") == 3


def test_a_question_of_another_temperature_has_an_answer_of_its_own(site: Site) -> None:
    bodies = [{"text": "alice"}, {"text": "alice", "temperature": 1.0}] * 2
    answers = [
        fetch(site.port, "/chat", as_json("alice"), method="POST", body=json.dumps(body).encode())
        for body in bodies
    ]
    assert [answer.text for answer in answers] == [told("alice")] * 4
    assert [answer.header("Cache-Status") for answer in answers] == [MISS, MISS, HIT, HIT]


def test_who_is_not_known_is_refused_what_is_cached_of_those_who_are(site: Site) -> None:
    for user in USERS * 2:
        assert fetch(site.port, "/orders/fixed", with_token(user)).text == csv(user)
        for credential in ({}, {"Authorization": "Bearer stolen"}):
            refused = fetch(site.port, "/orders/fixed", credential)
            assert (refused.status, refused.header("Cache-Status")) == (401, None)


# -- all the ways to know who asks ----------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """An endpoint that greets its client, and what that is known by."""

    name: str
    credential: Callable[[Site, str], dict[str, str]]
    said: bool = True
    """Whether the log says that nothing is stored."""


def by_cookie(site: Site, user: str) -> dict[str, str]:
    return {"Cookie": f"user={user}"}


def by_token(site: Site, user: str) -> dict[str, str]:
    return with_token(user)


def by_header(site: Site, user: str) -> dict[str, str]:
    return {"X-User": user}


def by_session(site: Site, user: str) -> dict[str, str]:
    return {"Cookie": site.sessions[user]}


WAYS = [
    Way("cookie", by_cookie),
    Way("cookie-dependency", by_cookie),
    Way("argument", by_cookie, said=False),
    Way("bearer", by_token),
    Way("bearer-dependency", by_token),
    Way("bearer-of-route", by_token),
    Way("middleware", by_header),
    Way("middleware", by_cookie),
    Way("session", by_session),
    Way("session-in-state", by_cookie),
    Way("session-by-dependency", by_cookie),
    Way("other-argument", by_cookie),
    Way("dependency-of-route", by_cookie),
    Way("stream", by_cookie),
]


def known_by(way: Way) -> str:
    return f"{way.name} {way.credential.__name__}"


@pytest.mark.matrix(share=3)
@two_caches
@pytest.mark.parametrize("way", WAYS, ids=known_by)
def test_nobody_is_given_the_body_of_another_however_they_are_known(
    site: Site, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    for number, order in enumerate(itertools.permutations((*USERS, ANONYMOUS))):
        for user in order * 2:
            credential = {} if user == ANONYMOUS else way.credential(site, user)
            answer = fetch(site.port, f"/visitors/{way.name}?cold={number}", credential)
            assert (answer.status, answer.error, answer.text) == (200, None, csv(user))
    assert bool(warnings(caplog)) == way.said
