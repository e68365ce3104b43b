"""What is stored by default, what Cache-Status says of it, and the one warning with its fix."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI, Form, UploadFile
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.support.http_client import RawClient, RawResponse, fetch
from tests.support.logs import warnings

MISS = "stream-cached; fwd=uri-miss; stored"
HIT = "stream-cached; hit"
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]

_numbers = iter(range(10**6))


def memory() -> str:
    """A store that no other test has: equal URLs share one."""
    return f"memory://?max_bytes={(1 << 25) + next(_numbers)}"


def bypass(detail: str) -> str:
    # What an upload is, is known before the cache is looked into.
    fwd = "bypass" if detail == "upload" else "uri-miss"
    return f'stream-cached; fwd={fwd}; detail="{detail}"'


@dataclass
class Numbered:
    """An endpoint that streams the number of its run."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    async def __call__(self, request: Request) -> Response:
        self.runs += 1

        async def body() -> AsyncIterator[bytes]:
            if self.status not in (204, 304):
                yield b"run %d" % self.runs

        return StreamingResponse(body(), self.status, self.headers)

    def port(self, serve: Serve, **settings: Any) -> int:
        cached = stream_cached(**{"ttl": 60, "cache": memory(), **settings})(self.__call__)
        return serve(Starlette(routes=[Route("/", cached, methods=METHODS)])).port


def statuses(*responses: RawResponse) -> list[str | None]:
    return [response.header("Cache-Status") for response in responses]


# -- statuses, headers -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 203, 204, 300, 301, 308, 404, 410])
def test_these_statuses_are_stored(serve: Serve, status: int) -> None:
    port = Numbered(status).port(serve)
    assert statuses(fetch(port), fetch(port)) == [MISS, HIT]


@pytest.mark.parametrize(
    "status", [201, 202, 206, 302, 303, 304, 307, 400, 401, 403, 429, 500, 503]
)
def test_other_statuses_are_not_stored(
    serve: Serve, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Numbered(status)
    port = endpoint.port(serve)
    assert statuses(fetch(port), fetch(port)) == [bypass("status")] * 2
    assert endpoint.runs == 2
    assert not warnings(caplog)


def test_statuses_can_be_chosen(serve: Serve) -> None:
    port = Numbered(503).port(serve, statuses=(503,))
    assert statuses(fetch(port), fetch(port)) == [MISS, HIT]
    port = Numbered(200).port(serve, statuses=(503,))
    assert statuses(fetch(port), fetch(port)) == [bypass("status")] * 2


@pytest.mark.parametrize(
    ("headers", "detail", "fix"),
    [
        ({"Set-Cookie": "a=b"}, "set-cookie", "middleware"),
        ({"Cache-Control": "private"}, "cache-control", "Cache-Control"),
        ({"Cache-Control": "max-age=3, No-Store"}, "cache-control", "Cache-Control"),
        ({"Cache-Control": 'private="X-User", private'}, "cache-control", "Cache-Control"),
        ({"Vary": "*"}, "vary-any", "Vary"),
        ({"Vary": "Accept, *"}, "vary-any", "Vary"),
    ],
)
def test_a_response_that_is_one_clients_own_is_not_stored(
    serve: Serve,
    headers: dict[str, str],
    detail: str,
    fix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint = Numbered(headers=headers)
    port = endpoint.port(serve)
    assert statuses(*(fetch(port) for _ in range(3))) == [bypass(detail)] * 3
    assert endpoint.runs == 3
    (warning,) = warnings(caplog)
    assert fix in warning


@pytest.mark.parametrize("headers", [{"Cache-Control": "public, max-age=5"}, {"X": "no-store"}])
def test_a_response_that_may_be_shared_is_stored(serve: Serve, headers: dict[str, str]) -> None:
    port = Numbered(headers=headers).port(serve)
    assert statuses(fetch(port), fetch(port)) == [MISS, HIT]


def test_an_answer_to_authorization_is_not_stored_unless_it_is_in_vary(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    port = Numbered().port(serve)
    headers = {"Authorization": "Bearer x"}
    assert statuses(fetch(port, headers=headers)) == [bypass("authorization")]
    assert statuses(fetch(port), fetch(port)) == [MISS, HIT]
    assert statuses(fetch(port, headers=headers)) == [bypass("authorization")]
    (warning,) = warnings(caplog)
    assert 'authorized="vary"' in warning

    port = Numbered().port(serve, vary=("Authorization",))
    mine, again, yours = (
        fetch(port, headers={"Authorization": user}) for user in ("me", "me", "you")
    )
    assert statuses(mine, again, yours) == [MISS, HIT, MISS]
    assert mine.body == again.body != yours.body


@pytest.mark.parametrize("length", [3, 10])
def test_a_body_that_is_not_as_long_as_it_says_is_not_stored(
    serve: Serve, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Numbered(headers={"Content-Length": str(length)})  # b"run 1" has 5
    port = endpoint.port(serve)
    answers = [fetch(port) for _ in range(3)]
    assert [answer.complete for answer in answers] == [False] * 3
    assert endpoint.runs == 3
    assert any("Content-Length" in warning for warning in warnings(caplog))


# -- methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_not_stored(
    serve: Serve, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Numbered()
    port = endpoint.port(serve)
    answers = [fetch(port, method=method, body=b"x") for _ in range(2)]
    assert statuses(*answers) == ["stream-cached; fwd=method"] * 2
    assert endpoint.runs == 2
    (warning,) = warnings(caplog)
    assert "methods=" in warning


def test_head_is_answered_from_gets_entry_and_a_miss_is_passed_through(serve: Serve) -> None:
    endpoint = Numbered(headers={"X-Kept": "yes"})
    port = endpoint.port(serve)
    miss = fetch(port, method="HEAD")
    assert statuses(miss) == ["stream-cached; fwd=uri-miss"]
    assert miss.body == b""
    assert statuses(fetch(port)) == [MISS]
    assert endpoint.runs == 2
    hit = fetch(port, method="HEAD")
    assert statuses(hit) == [HIT]
    assert (hit.body, hit.complete) == (b"", True)
    assert hit.header("Content-Length") == "5"
    assert hit.header("X-Kept") == "yes"
    assert endpoint.runs == 2


def test_a_connection_goes_on_after_a_head(serve: Serve) -> None:
    port = Numbered().port(serve)
    fetch(port)
    with RawClient(port) as client:
        assert statuses(client.request("HEAD"), client.request(), client.request("HEAD")) == [
            HIT,
            HIT,
            HIT,
        ]


def test_a_post_is_keyed_by_its_body(serve: Serve) -> None:
    port = Numbered().port(serve, methods=("GET", "POST"))
    bodies = (b"a=1", b"a=1", b"a=2", b"")
    answers = [fetch(port, method="POST", body=body) for body in bodies]
    assert statuses(*answers) == [MISS, HIT, MISS, MISS]
    assert answers[0].body == answers[1].body
    assert statuses(fetch(port)) == [MISS]  # GET is another one


class Query(BaseModel):
    text: str
    limit: int = 5


def fastapi_app(register: Callable[[FastAPI, stream_cached], None]) -> FastAPI:
    app = FastAPI()
    register(app, stream_cached(ttl=60, cache=memory(), methods=("POST",)))
    return app


def test_a_json_body_is_part_of_the_key_in_fastapi(serve: Serve) -> None:
    def register(app: FastAPI, cached: stream_cached) -> None:
        runs = iter(range(100))

        @app.post("/")
        @cached
        async def endpoint(query: Query) -> Response:
            return Response(f"{next(runs)} {query.text}")

    port = serve(fastapi_app(register)).port
    headers = {"Content-Type": "application/json"}
    bodies = (b'{"text": "a"}', b'{"text": "a"}', b'{"text": "b"}')
    answers = [fetch(port, headers=headers, method="POST", body=body) for body in bodies]
    assert statuses(*answers) == [MISS, HIT, MISS]
    assert [answer.text for answer in answers] == ["0 a", "0 a", "1 b"]


def test_the_fields_of_a_form_are_part_of_the_key_in_fastapi(serve: Serve) -> None:
    def register(app: FastAPI, cached: stream_cached) -> None:
        @app.post("/")
        @cached
        async def endpoint(name: str = Form()) -> Response:
            return Response(name)

    port = serve(fastapi_app(register)).port
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    bodies = (b"name=a", b"name=a", b"name=b")
    answers = [fetch(port, headers=headers, method="POST", body=body) for body in bodies]
    assert statuses(*answers) == [MISS, HIT, MISS]
    assert [answer.text for answer in answers] == ["a", "a", "b"]


def test_an_upload_is_passed_through(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def register(app: FastAPI, cached: stream_cached) -> None:
        @app.post("/")
        @cached
        async def endpoint(file: UploadFile) -> Response:
            return Response(await file.read())

    port = serve(fastapi_app(register)).port
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for content in (b"one", b"two", b"two"):
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        body += content + b"\r\n--b--\r\n"
        answer = fetch(port, headers=headers, method="POST", body=body)
        assert answer.body == content
        assert statuses(answer) == [bypass("upload")]
    assert len(warnings(caplog)) == 1


# -- limits ---------------------------------------------------------------------------------------


def test_a_body_over_max_body_is_whole_for_its_client_and_remembered(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Numbered()
    port = endpoint.port(serve, max_body=4)
    answers = [fetch(port) for _ in range(3)]
    assert [answer.body for answer in answers] == [b"run 1", b"run 2", b"run 3"]
    assert statuses(*answers) == [MISS, bypass("max-body"), bypass("max-body")]
    (warning,) = warnings(caplog)
    assert "max_body=" in warning


def test_a_body_of_exactly_max_body_is_stored(serve: Serve) -> None:
    port = Numbered().port(serve, max_body=5)
    assert statuses(fetch(port), fetch(port)) == [MISS, HIT]


def test_a_run_over_max_duration_is_whole_for_its_client_and_remembered(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def endpoint(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.sleep(0.2)
            yield b"last"

        return StreamingResponse(body())

    cached = stream_cached(ttl=60, cache=memory(), max_duration=0.05)(endpoint)
    port = serve(Starlette(routes=[Route("/", cached)])).port
    answers = [fetch(port), fetch(port)]
    assert [answer.body for answer in answers] == [b"firstlast"] * 2
    assert statuses(*answers) == [MISS, bypass("max-duration")]
    (warning,) = warnings(caplog)
    assert "max_duration=" in warning


# -- a Response that the endpoint is given ---------------------------------------------------------


def test_a_value_beside_a_response_that_was_written_on_is_not_stored(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    app, runs = FastAPI(), iter(range(100))

    @app.get("/status")
    @stream_cached(ttl=60, cache=memory(), values="aiocache")
    async def status(response: Response) -> dict[str, int]:
        response.status_code = 404
        return {"run": next(runs)}

    @app.get("/headers")
    @stream_cached(ttl=60, cache=memory(), values="aiocache")
    async def headers(response: Response, request: Request) -> dict[str, int]:
        response.headers["X-User"] = request.headers["User"]
        response.set_cookie("user", request.headers["User"])
        return {"run": next(runs)}

    port = serve(app).port
    answers = [fetch(port, "/status") for _ in range(3)]
    assert [answer.status for answer in answers] == [404] * 3
    assert [answer.text for answer in answers] == [f'{{"run":{run}}}' for run in range(3)]
    (warning,) = warnings(caplog)
    assert "Response" in warning

    users = ["alice", "bob", "alice"]
    answers = [fetch(port, "/headers", {"User": user}) for user in users]
    assert [answer.header("X-User") for answer in answers] == users
    assert [answer.header("Set-Cookie") for answer in answers] == [
        f"user={user}; Path=/; SameSite=lax" for user in users
    ]
    assert next(runs) == 6
    assert len(warnings(caplog)) == 2


def test_a_value_beside_a_response_that_was_not_touched_is_stored(serve: Serve) -> None:
    app, runs = FastAPI(), iter(range(100))

    @app.get("/")
    @stream_cached(ttl=60, cache=memory())
    async def endpoint(response: Response) -> dict[str, int]:
        return {"run": next(runs)}

    port = serve(app).port
    assert [fetch(port).text for _ in range(2)] == ['{"run":0}'] * 2
