"""The `EventSource` of a browser: cold, joined, warm, and once its connection was lost.

A headless Chromium that is on the PATH; without one, these tests are skipped.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.conftest import Serve
from tests.support.browser import CHROMIUM, NEEDS_CHROMIUM, OPTIONS
from tests.support.gates import Gate, wait_until

pytestmark = [pytest.mark.full, NEEDS_CHROMIUM]

PAGE = """
<!doctype html>
<script>
const name = location.hash.slice(1);
const tell = (text) => fetch("/tell/" + name, {method: "POST", body: text});
let told = Promise.resolve();
const events = new EventSource("/events");
events.onmessage = (event) => {
    told = told.then(() => tell(event.data + " " + event.lastEventId.split(".")[1]));
    if (event.data === "end") events.close();
};
</script>
"""


class World:
    """An application that sends events, the last of which ends them, and hears what came."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.told: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.runs = 0
        self.loses = False
        """Whether the first connection is lost after the second event."""

    async def events(self) -> AsyncIterator[str]:
        self.runs += 1
        yield "retry: 50\n\n"
        for number, data in enumerate(["a", "b", "c", "d", "end"]):
            if number == 2:
                await self.gate.passed(60)
            own = "id: own\n" if data == "b" else ""
            yield f"{own}data: {data}\n\n"

    def app(self) -> Any:
        async def page(request: Request) -> Response:
            return HTMLResponse(PAGE)

        async def tell(request: Request) -> Response:
            text = (await request.body()).decode()
            self.told.setdefault(request.path_params["name"], []).append(text)
            return Response()

        @stream_cached(ttl=600, resume="event-id")
        async def events(request: Request) -> Response:
            return StreamingResponse(self.events(), media_type="text/event-stream")

        async def asked(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["path"] != "/events":
                await app(scope, receive, send)
                return
            self.asked.append(dict(scope["headers"]).get(b"last-event-id", b"").decode())
            is_lost = self.loses and len(self.asked) == 1

            async def sending(message: Any) -> None:
                await send(message)
                if is_lost and b"data: b\n" in message.get("body", b""):
                    raise RuntimeError("the connection is lost")

            await app(scope, receive, sending)

        routes = [Route("/", page), Route("/events", events)]
        routes.append(Route("/tell/{name}", tell, methods=["POST"]))
        app = Starlette(routes=routes)
        return asked


@contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def test_a_browser_has_the_same_events_cold_joined_and_warm(serve: Serve, tmp_path: Path) -> None:
    world = World()
    server = serve(world.app())
    cold, joined, warm = (f"{server.url}/#{name}" for name in ("cold", "joined", "warm"))
    all_of_them = ["a 1", "b 2:own", "c 3", "d 4", "end 5"]
    with browser(cold, tmp_path / "cold"), browser(joined, tmp_path / "joined"):
        wait_until(lambda: [*map(len, world.told.values())] == [2, 2], 60)
        world.gate.open()
        wait_until(lambda: [*map(len, world.told.values())] == [5, 5], 60)
    with browser(warm, tmp_path / "warm"):
        wait_until(lambda: len(world.told.get("warm", [])) == 5, 60)
    assert world.told == dict.fromkeys(("cold", "joined", "warm"), all_of_them)
    assert world.runs == 1
    assert world.asked == ["", "", ""]


def test_a_browser_whose_connection_was_lost_goes_on(serve: Serve, tmp_path: Path) -> None:
    world = World()
    world.loses = True
    server = serve(world.app())
    with browser(f"{server.url}/#lost", tmp_path / "lost"):
        wait_until(lambda: len(world.asked) > 1, 60)
        world.gate.open()
        wait_until(lambda: len(world.told["lost"]) == 5, 60)
    assert world.told["lost"] == ["a 1", "b 2:own", "c 3", "d 4", "end 5"]
    assert world.asked[1].endswith(".2:own")
    assert world.runs == 1
