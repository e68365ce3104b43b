"""Endpoints whose every run has another body, and which a test can hold or break in mid-stream."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_cached import stream_cached
from tests.support.gates import Gate
from tests.support.http_client import RawResponse

CHUNK = 100_000
MISS = "stream-cached; fwd=uri-miss; stored"
HIT = "stream-cached; hit"
FALLBACK_MISS = f'{MISS}; detail="fallback"'
FALLBACK_HIT = f'{HIT}; detail="fallback"'

_SEGMENT = re.compile(r":[0-9a-f]{32}:\d+$")


def segments(keys: set[str] | dict[str, bytes]) -> set[str]:
    """Those of the keys that hold a part of a body."""
    return {key for key in keys if _SEGMENT.search(key)}


@dataclass
class Runs:
    """An endpoint whose body is another one at each run; `before(run, n)` precedes chunk n."""

    chunks: int = 10
    chunk: int = CHUNK
    headers: dict[str, str] = field(default_factory=dict)
    is_text: bool = False
    """Whether the body can be compressed to two thirds or less."""
    bodies: list[bytes] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    closed: list[Gate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate, self.reached = Gate(), Gate()

    async def before(self, run: int, number: int) -> None:
        return

    async def __call__(self, request: Request) -> Response:
        run = len(self.bodies)
        seed = os.urandom(self.chunk)
        if self.is_text:
            seed = seed[: (self.chunk + 1) // 2].hex().encode()[: self.chunk]

        def chunks() -> Iterator[bytes]:
            return (bytes([run, number]) + seed[2:] for number in range(self.chunks))

        self.bodies.append(b"".join(chunks()))
        self.made.append(0)
        self.closed.append(Gate())

        async def body() -> AsyncIterator[bytes]:
            try:
                for number, chunk in enumerate(chunks()):
                    await self.before(run, number)
                    yield chunk
                    self.made[run] += 1
                await self.before(run, self.chunks)
            finally:
                self.closed[run].open()

        return StreamingResponse(body(), headers=self.headers)

    def app(self, cache: str, **settings: object) -> Starlette:
        cached = stream_cached(**{"ttl": 60, "cache": cache, **settings})  # type: ignore[arg-type]
        return Starlette(routes=[Route("/", cached(self.__call__))])

    def is_whole(self, response: RawResponse) -> bool:
        return response.complete and response.body in self.bodies


class FailingRuns(Runs):
    """The first run raises before chunk `at`."""

    at = 0

    async def before(self, run: int, number: int) -> None:
        if run == 0 and number == self.at:
            raise RuntimeError("the source broke")


class HeldRuns(Runs):
    """The first run waits before chunk `at`; `reached` says that it does."""

    at = 5

    async def before(self, run: int, number: int) -> None:
        if run == 0 and number == self.at:
            self.reached.open()
            await self.gate.passed()
