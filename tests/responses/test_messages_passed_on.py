"""ASGI messages beside the head and the body reach the client of the request that they answer.

The same application without the decorator is the oracle.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from stream_cached import stream_cached
from stream_cached.streams import asides
from tests.support.asgi import Exchange
from tests.support.gates import Gate, run, runs_over
from tests.support.runs import HIT, MISS

BYPASS = 'stream-cached; fwd=uri-miss; detail="asgi-message"'

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"x-from", b"app")]}
HINT: Message = {"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]}
PUSH: Message = {"type": "http.response.push", "path": "/style.css", "headers": []}
DEBUG: Message = {"type": "http.response.debug", "info": {"template": "a template"}}
ZEROCOPY: Message = {"type": "http.response.zerocopysend", "file": 3, "more_body": True}
LAST_TRAILERS: Message = {"type": "http.response.trailers", "headers": [(b"x-sum", b"2")]}
TRAILERS: Message = {**LAST_TRAILERS, "headers": [(b"x-sum", b"1")], "more_trailers": True}

EXTENSIONS: dict[str, Any] = {
    "http.response.debug": {},
    "http.response.early_hint": {},
    "http.response.pathsend": {},
    "http.response.trailers": {},
    "http.response.zerocopysend": {},
}


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


END = part(b"", more=False)

#: What an app sends: messages, and gates that it waits for.
Script = Sequence[Message | Gate]

STORED: dict[str, Script] = {
    "debug before the head": [DEBUG, START, part(b"ab"), part(b"c"), END],
    "debug twice": [DEBUG, DEBUG, START, part(b"a", more=False)],
    "debug in the body": [START, part(b"ab"), DEBUG, part(b"c"), END],
    "another field": [{**START, "trailers": False, "x": 1}, part(b"a"), END],
}

UNSTORED: dict[str, Script] = {
    "a hint": [HINT, START, part(b"ab"), part(b"c"), END],
    "hints and debug": [HINT, DEBUG, HINT, START, part(b"ab", more=False)],
    "a push before a head": [PUSH, START, part(b"ab"), END],
    "a push after a head": [START, PUSH, part(b"ab"), END],
    "in the body": [START, part(b"ab"), PUSH, part(b"c"), PUSH, HINT, part(b"d"), END],
    "many": [START, part(b"a"), *[PUSH] * 50, part(b"b"), *[HINT] * 50, END],
    "before the end": [START, part(b"ab"), PUSH, END],
    "after the end": [START, part(b"ab"), END, PUSH],
    "a file in the body": [START, part(b"ab"), ZEROCOPY, part(b"c"), END],
    "trailers": [{**START, "trailers": True}, part(b"ab"), part(b"c"), END, LAST_TRAILERS],
    "more trailers": [{**START, "trailers": True}, part(b"", more=False), TRAILERS, LAST_TRAILERS],
    "trailers and more": [
        *(HINT, {**START, "trailers": True}, part(b"ab"), PUSH, DEBUG, part(b"c", more=False)),
        *(TRAILERS, LAST_TRAILERS),
    ],
    "unannounced trailers": [START, part(b"ab"), END, LAST_TRAILERS],
}


class Scripted(Response):
    """Sends what it is told to send, like a response class of an application."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for each in self.script:
            if isinstance(each, Gate):
                await each.passed()
            else:
                # A server may change the message that it is given.
                await send({**each})
                if each.get("more_body", False):
                    await asyncio.sleep(0)


class ScriptedStream(StreamingResponse):
    """The same, from its `stream_response`."""

    def __init__(self, script: Script) -> None:
        super().__init__(iter(()))
        self.script = script

    async def stream_response(self, send: Send) -> None:
        await Scripted(self.script)({}, _nothing, send)


async def _nothing() -> Message:
    raise AssertionError


Make = Callable[[], Response]


def application(make: Make, cache: str, *, sync: bool = False, **settings: Any) -> Starlette:
    async def endpoint(request: Request) -> Response:
        return make()

    def in_thread(request: Request) -> Response:
        return make()

    cached = stream_cached(ttl=60, cache=cache, **settings)
    decorated = cached(in_thread if sync else endpoint)
    return Starlette(routes=[Route("/plain", endpoint), Route("/", decorated)])


def ask(app: Starlette, path: str = "/", spec_version: str = "2.3") -> Exchange:
    exchange = Exchange(app, spec_version, path)
    exchange.scope["extensions"] = {name: {} for name in EXTENSIONS}
    return exchange


async def answered(app: Starlette, path: str = "/", spec_version: str = "2.3") -> Exchange:
    exchange = ask(app, path, spec_version)
    await exchange.run()
    return exchange


def seen(exchange: Exchange) -> list[Message]:
    """What a server is sent, without where a body is divided."""
    merged: list[Message] = []
    for message in exchange.sent:
        message = {"body": b"", "more_body": False, **message} if "body" in message else message
        if "headers" in message:
            headers = [pair for pair in message["headers"] if pair[0] != b"cache-status"]
            message = {**message, "headers": headers}
        if merged and message["type"] == merged[-1]["type"] == "http.response.body":
            assert merged[-1]["more_body"]
            message = {**message, "body": merged.pop()["body"] + message["body"]}
        merged.append(message)
    return merged


def status(exchange: Exchange) -> str:
    (head,) = (each for each in exchange.sent if each["type"] == "http.response.start")
    return str(dict(head["headers"])[b"cache-status"], "ascii")


async def came(condition: Callable[[], bool]) -> None:
    """Wait for what nothing announces: `run` bounds this."""
    for _ in iter(condition, True):
        await asyncio.sleep(0)


@pytest.mark.matrix(one_store=True)
@pytest.mark.parametrize("replay", ["merge", "exact"])
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("form", [Scripted, ScriptedStream])
@pytest.mark.parametrize("name", UNSTORED)
@pytest.mark.parametrize("sync", [False, True])
def test_they_reach_the_client_and_nothing_is_stored(
    cache_url: str, sync: bool, name: str, form: type[Scripted], spec_version: str, replay: str
) -> None:
    async def test() -> None:
        settings = {"replay": replay} if replay == "exact" else {}
        app = application(lambda: form(UNSTORED[name]), cache_url, sync=sync, **settings)
        plain = await answered(app, "/plain", spec_version)
        for _ in range(2):
            exchange = await answered(app, "/", spec_version)
            assert seen(exchange) == seen(plain)
            assert status(exchange) in (MISS, BYPASS)
            await runs_over()

    run(test)


@pytest.mark.parametrize("name", ["a hint", "trailers", "a push before a head"])
def test_the_reason_is_in_cache_status_where_the_head_knows_it(
    cache_url: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        exchange = await answered(application(lambda: Scripted(UNSTORED[name]), cache_url))
        assert status(exchange) == BYPASS

    run(test)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "another ASGI message" in warning
    assert f"(http.response.{name.replace('a ', 'early_').split()[0]})" in warning or "push" in name


@pytest.mark.parametrize("form", [Scripted, ScriptedStream])
@pytest.mark.parametrize("name", STORED)
def test_what_is_for_tests_alone_does_not_prevent_storing(
    cache_url: str, name: str, form: type[Scripted]
) -> None:
    async def test() -> None:
        app = application(lambda: form(STORED[name]), cache_url)
        plain = await answered(app, "/plain")
        miss = await answered(app)
        assert seen(miss) == seen(plain)
        assert status(miss) == MISS
        await runs_over()
        hit = await answered(app)
        assert hit.cache_status == HIT
        assert hit.body == plain.body
        assert [each["type"] for each in seen(hit)] == [START["type"], END["type"]]

    run(test)


@pytest.mark.parametrize("form", [Scripted, ScriptedStream])
def test_trailers_come_when_they_are_sent(cache_url: str, form: type[Scripted]) -> None:
    async def test() -> None:
        gate = Gate()
        head = {**START, "trailers": True}
        script: Script = [head, part(b"ab"), END, TRAILERS, gate, LAST_TRAILERS]
        exchange = ask(application(lambda: form(script), cache_url))
        sending = asyncio.create_task(exchange.run())
        await came(lambda: exchange.sent[-1:] == [TRAILERS])
        assert not sending.done()
        gate.open()
        await sending
        assert exchange.sent[-1] == LAST_TRAILERS

    run(test)


@pytest.mark.parametrize("form", [Scripted, ScriptedStream])
def test_a_failure_before_the_trailers_is_raised(cache_url: str, form: type[Scripted]) -> None:
    async def test() -> None:
        script: Script = [{**START, "trailers": True}, part(b"ab"), END, {"type": ""}]

        class Failing(form):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                super().__init__(script[:-1])

            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                await super().__call__(scope, receive, send)
                raise LookupError("no trailers")

        for path in ("/plain", "/"):
            with pytest.raises(LookupError, match="no trailers"):
                await answered(application(Failing, cache_url), path)

    run(test)


def test_a_client_that_leaves_before_the_trailers(cache_url: str) -> None:
    async def test() -> None:
        # Under 2.3, Starlette ends such a response at the disconnect of its client.
        script: Script = [{**START, "trailers": True}, part(b"ab"), END, Gate()]
        app = application(lambda: ScriptedStream(script), cache_url)
        for path in ("/plain", "/"):
            exchange = ask(app, path)
            sending = asyncio.create_task(exchange.run())
            await came(lambda exchange=exchange: exchange.complete)  # type: ignore[misc]
            assert not sending.done()
            exchange.left.set()
            async with asyncio.timeout(1):
                await sending

    run(test)


def test_after_the_last_trailers_the_client_has_left(cache_url: str) -> None:
    class Waiting(Scripted):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await super().__call__(scope, receive, send)
            while (await receive())["type"] != "http.disconnect":
                pass

    async def test() -> None:
        exchange = await answered(application(lambda: Waiting(UNSTORED["trailers"]), cache_url))
        assert exchange.sent[-1] == LAST_TRAILERS

    run(test)


def test_who_has_joined_is_not_given_a_body_that_lacks_something(cache_url: str) -> None:
    async def test() -> None:
        first, second = Gate(), Gate()
        script: Script = [START, part(b"ab"), first, ZEROCOPY, second, part(b"c"), END]
        app = application(lambda: Scripted(script), cache_url)
        leader, joiner = ask(app), ask(app)
        leading = asyncio.create_task(leader.run())
        await leader.received.wait()
        joining = asyncio.create_task(joiner.run())
        await joiner.received.wait()
        first.open()
        with pytest.raises(Exception, match="a part of it can't be sent"):
            await joining
        assert not joiner.complete
        second.open()
        await leading
        assert ZEROCOPY in leader.sent
        assert leader.complete

    run(test)


def test_who_waits_gets_messages_of_its_own(cache_url: str) -> None:
    async def test() -> None:
        gate = Gate()
        script: Script = [HINT, gate, START, part(b"ab"), END]
        app = application(lambda: Scripted(script), cache_url)
        exchanges = [ask(app) for _ in range(5)]
        sending = [asyncio.create_task(exchange.run()) for exchange in exchanges]
        for _ in range(100):
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*sending)
        plain = await answered(app, "/plain")
        for exchange in exchanges:
            assert seen(exchange) == seen(plain)

    run(test)


@pytest.mark.parametrize("message", [PUSH, DEBUG])
def test_it_is_passed_on_while_the_source_is_silent(cache_url: str, message: Message) -> None:
    async def test() -> None:
        silent, gate = Gate(), Gate()
        script: Script = [START, part(b"ab"), silent, message, gate, END]
        exchange = ask(application(lambda: Scripted(script), cache_url))
        sending = asyncio.create_task(exchange.run())
        await exchange.received.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        silent.open()
        await came(lambda: exchange.sent[-1:] == [message])
        assert not sending.done()
        gate.open()
        await sending

    run(test)


class Slow(Exchange):
    """A client that takes five messages, and then as many as a test allows."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(app)
        self.allowed = asyncio.Semaphore(5)

    async def _send(self, message: Message) -> None:
        await self.allowed.acquire()
        await super()._send(message)


def test_memory_is_bounded_where_the_client_is_slow(cache_url: str) -> None:
    async def test() -> None:
        sent = 0
        gate = Gate()

        class Endless(Response):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                nonlocal sent
                await send(START)
                while not gate.is_open:
                    await send(PUSH)
                    sent += 1
                await send(END)

        exchange = Slow(application(Endless, cache_url))
        sending = asyncio.create_task(exchange.run())
        for _ in range(500):
            await asyncio.sleep(0)
        assert sent <= asides._MAX_WAITING + 10
        gate.open()
        for _ in range(100):
            exchange.allowed.release()
        await sending
        assert exchange.complete

    run(test)


@pytest.mark.parametrize("name", [*STORED, "in the body", "after the end", "trailers"])
def test_two_decorators(cache_url: str, namespace: str, name: str) -> None:
    script = {**STORED, **UNSTORED}[name]

    async def test() -> None:
        @stream_cached(ttl=60, cache=cache_url)
        @stream_cached(ttl=60, cache=f"memory://?namespace={namespace}-inner")
        async def endpoint(request: Request) -> Response:
            return Scripted(script)

        plain = await answered(application(lambda: Scripted(script), cache_url), "/plain")
        exchange = await answered(Starlette(routes=[Route("/", endpoint)]))
        assert seen(exchange) == seen(plain)

    run(test)


async def _marked(body: Any) -> AsyncIterator[bytes]:
    async for chunk in body:
        yield b"<" + chunk + b">"


def wrapping(function: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """A decorator of an application, that changes a body."""

    async def wrapper(request: Request) -> Response:
        response = await function(request)
        response.body_iterator = _marked(response.body_iterator)
        response.headers["x-by"] = "the wrapper"
        return response  # type: ignore[no-any-return]

    return wrapper


@pytest.mark.parametrize("name", ["a hint", "in the body", "after the end", "trailers"])
def test_another_decorator_changes_the_body(cache_url: str, name: str) -> None:
    async def test() -> None:
        @wrapping
        @stream_cached(ttl=60, cache=cache_url)
        async def endpoint(request: Request) -> Response:
            return Scripted(UNSTORED[name])

        exchange = await answered(Starlette(routes=[Route("/", endpoint)]))
        plain = await answered(application(lambda: Scripted(UNSTORED[name]), cache_url), "/plain")
        types = [each["type"] for each in seen(exchange)]
        assert types == [each["type"] for each in seen(plain)]
        assert exchange.body.replace(b"<", b"").replace(b">", b"") == plain.body
        (head,) = (each for each in exchange.sent if each["type"] == START["type"])
        assert head.get("trailers", False) == (name == "trailers")

    run(test)


# -- the extensions that a server announces ------------------------------------------------------


class Announced(Response):
    """Keeps what its server announces."""

    seen: list[set[str]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(set(scope.get("extensions", {"none": {}})))
        await super().__call__(scope, receive, send)


@pytest.mark.parametrize("asked", [[], [(b"range", b"bytes=0-")]])
def test_a_recorded_run_is_offered_all_but_bodies_from_elsewhere(
    cache_url: str, asked: list[tuple[bytes, bytes]]
) -> None:
    async def test() -> None:
        names: list[set[str]] = []
        Announced.seen = names
        app = application(lambda: Announced(b"a"), cache_url)
        plain, exchange = ask(app, "/plain"), ask(app)
        exchange.scope["headers"].extend(asked)
        for each in (plain, exchange):
            await each.run()
        left_out = {"http.response.pathsend", "http.response.zerocopysend"}
        assert names == [set(EXTENSIONS), set(EXTENSIONS) - left_out]

    run(test)


def test_where_a_server_announces_nothing(cache_url: str) -> None:
    async def test() -> None:
        names: list[set[str]] = []
        Announced.seen = names
        app = application(lambda: Announced(b"a"), cache_url)
        for path in ("/plain", "/"):
            await Exchange(app, path=path).run()
        assert names[0] == names[1] == {"none"}

    run(test)


def test_a_file_is_recorded_by_its_bytes_and_sent_by_its_path_past_the_cache(
    cache_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(b"the bytes of the file")

    async def test() -> None:
        app = application(lambda: FileResponse(file), cache_url)
        plain = await answered(app, "/plain")
        assert plain.sent[-1]["type"] == "http.response.pathsend"
        miss, hit = await answered(app), await answered(app)
        assert [miss.cache_status, hit.cache_status] == [MISS, HIT]
        assert miss.body == hit.body == file.read_bytes()
        # Past the cache: the environment switches it off.
        switched_off = stream_cached(ttl=60, cache=cache_url, methods=("POST",))

        @switched_off
        async def endpoint(request: Request) -> Response:
            return FileResponse(file)

        past = await answered(Starlette(routes=[Route("/", endpoint)]))
        assert seen(past) == seen(plain)

    run(test)


# -- Starlette's TestClient ----------------------------------------------------------------------


class TemplateResponse(HTMLResponse):
    """What starlette.templating does, without Jinja."""

    def __init__(self, template: str, context: dict[str, Any]) -> None:
        self.template = template
        self.context = context
        super().__init__(template.format(**context))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = self.context.get("request", {})
        if "http.response.debug" in request.get("extensions", {}):
            info = {"template": self.template, "context": self.context}
            await send({"type": "http.response.debug", "info": info})
        await super().__call__(scope, receive, send)


async def _middleware(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


@pytest.mark.parametrize("has_middleware", [False, True])
@pytest.mark.parametrize("has_lifespan", [False, True])
@pytest.mark.parametrize("sync", [False, True])
def test_the_template_and_its_context_are_at_hand(
    cache_url: str, sync: bool, has_lifespan: bool, has_middleware: bool
) -> None:
    async def endpoint(request: Request) -> Response:
        return TemplateResponse("Hello {name}", {"request": request, "name": "you"})

    def in_thread(request: Request) -> Response:
        return TemplateResponse("Hello {name}", {"request": request, "name": "you"})

    decorated = stream_cached(ttl=60, cache=cache_url)(in_thread if sync else endpoint)
    app = Starlette(routes=[Route("/plain", endpoint), Route("/", decorated)])
    if has_middleware:
        app.add_middleware(BaseHTTPMiddleware, dispatch=_middleware)
    client = TestClient(app)
    if has_lifespan:
        with client:
            _expect_template(client)
    else:
        _expect_template(client)


def _expect_template(client: TestClient) -> None:
    plain, miss, hit = client.get("/plain"), client.get("/"), client.get("/")
    assert [each.headers.get("cache-status") for each in (plain, miss, hit)] == [None, MISS, HIT]
    assert plain.text == miss.text == hit.text == "Hello you"
    for response in (plain, miss):
        assert response.template == "Hello {name}"  # type: ignore[attr-defined]
        assert response.context["name"] == "you"  # type: ignore[attr-defined]
    assert not hasattr(hit, "template")


def test_debug_messages_follow_the_head_at_once(cache_url: str) -> None:
    """Starlette's TestClient makes its response from another thread, once it has the head."""
    app = application(lambda: Scripted([START, DEBUG, part(b"a"), END]), cache_url)
    turned, in_time = False, False

    async def send(message: Message) -> None:
        nonlocal turned, in_time
        if message == DEBUG:
            in_time = not turned
        elif message["type"] == "http.response.start":
            asyncio.get_running_loop().call_soon(turn)

    def turn() -> None:
        nonlocal turned
        turned = True

    async def test() -> None:
        exchange = ask(app)
        await app(exchange.scope, exchange._receive, send)

    run(test)
    assert turned
    assert in_time
