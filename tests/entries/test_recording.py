"""A recording costs its readers no time, and a source gives the store the time that it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from stream_cached import MemoryCache, stream_cached
from stream_cached.entries import body_digest, recorder
from stream_cached.entries.chunks import ChunkPacker
from stream_cached.entries.ids import new_id
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.recorder import Recorder
from stream_cached.entries.resource import Resource
from stream_cached.format.records import Entry
from stream_cached.http.reasons import NotCached
from stream_cached.limits import Limits
from stream_cached.stores.memory import MemoryStore
from stream_cached.stores.protocol import Items
from stream_cached.streams import stream
from tests.support.asgi import Exchange, get
from tests.support.gates import run, until

CHUNK, COUNT = 100_000, 60


def _app(*, count: int = COUNT, suspends: bool = False) -> Starlette:
    @stream_cached(ttl=60, cache="memory://", max_pending=COUNT * CHUNK // 2)
    async def endpoint(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(count):
                if suspends:
                    await asyncio.sleep(0)
                yield bytes([number]) * CHUNK

        return StreamingResponse(chunks(), media_type="text/csv")

    return Starlette(routes=[Route("/", endpoint)])


class Quick(Exchange):
    """A request of a client that takes at once what it is sent."""

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


def _sent(exchange: Exchange) -> int:
    return sum(len(message.get("body", b"")) for message in exchange.sent)


async def _is_stored(exchange: Exchange) -> None:
    """Look whether the next one is given the same from the cache."""
    hit = await get(exchange.app)
    assert hit.cache_status == "stream-cached; hit"
    assert hit.body == exchange.body


def test_what_is_digested_was_sent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = Quick(_app())
    ahead: list[int] = []

    class Digest:
        """Notes how many bytes are sent that are not digested."""

        def __init__(self) -> None:
            self._digest: Any = body_digest.body_digest(sha256=True, has_tag=True)
            self._size = 0

        def update(self, data: Any) -> None:
            self._size += len(data)
            ahead.append(_sent(exchange) - self._size)
            self._digest.update(data)

        def hexdigest(self) -> str:
            return str(self._digest.hexdigest())

    monkeypatch.setattr(recorder, "body_digest", lambda **_: Digest())

    async def main() -> None:
        await exchange.run()
        assert ahead
        assert min(ahead) >= 0
        assert _sent(exchange) == CHUNK * COUNT
        await _is_stored(exchange)

    run(main)


def test_a_source_that_suspends_gives_the_store_time_to_catch_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_many = MemoryStore.set_many

    async def set_slowly(self: MemoryStore, items: Items, ttl: float | None) -> None:
        for _ in range(2 * COUNT):
            await asyncio.sleep(0)
        await set_many(self, items, ttl)

    monkeypatch.setattr(MemoryStore, "set_many", set_slowly)
    # It gives way to nothing else, and waits as long as it takes.
    monkeypatch.setattr(stream, "GIVE_WAY_AFTER", 600.0)
    monkeypatch.setattr(stream, "STORE_TURN", 600.0)

    async def main() -> None:
        exchange = Quick(_app(suspends=True))
        await exchange.run()
        await _is_stored(exchange)

    run(main)


def test_a_body_is_not_joined_to_see_that_the_record_can_not_hold_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined: list[int] = []
    as_it_is: Any = vars(ChunkPacker)["open"]

    def opened(packer: ChunkPacker) -> Any:
        joined.append(packer.filled)
        return as_it_is.fget(packer)

    monkeypatch.setattr(ChunkPacker, "open", property(opened))

    async def main() -> None:
        app = _app(count=5)
        await get(app)
        hit = await get(app)
        assert hit.cache_status == "stream-cached; hit"
        assert len(hit.body) == 5 * CHUNK
        assert not joined

    run(main)


class Owner:
    """A run with a reader that is slower than its source."""

    declared = lease = took = None
    has_slow_readers = True

    def objection(self) -> None:
        return None

    def recorder_moved(self) -> None:
        pass

    def unstored(self, reason: NotCached, cause: Exception | None) -> None:
        pass


class AskedChannel:
    """Takes its time to say that a process follows the run."""

    def __init__(self) -> None:
        self.is_asked, self.answers = asyncio.Event(), asyncio.Event()
        self.told: list[int] = []

    async def tell(self, segments: int, chunks: Sequence[int], tail: bytes, first: int = 0) -> None:
        self.told.append(segments)

    async def is_followed(self) -> bool:
        self.is_asked.set()
        await self.answers.wait()
        return True

    def complete(self, entry: Entry, *, stored: bool) -> None:
        raise NotImplementedError


def test_a_slow_reader_keeps_what_followers_were_to_be_told_when_the_limit_was_passed() -> None:
    async def main() -> None:
        channel = AskedChannel()
        resource = Resource(
            MemoryStore(MemoryCache()),
            "key",
            needs=(),
            lifetimes=Lifetimes(60, 600),
            select=None,
            max_variants=1,
        )
        await resource.begin()
        entry = Entry(b"", {}, 200, (), None, "utf-8", True, 0.0, 0, new_id())
        recording = Recorder(
            cast(Any, Owner()),
            resource,
            entry,
            varies_on=frozenset(),
            limits=Limits(max_body=CHUNK),
            channel=channel,
        )
        recording.start()
        recording.feed([b"x" * CHUNK])
        await channel.is_asked.wait()
        recording.feed([b"y"])
        channel.answers.set()
        await until(lambda: not recording.is_renewing)
        assert await recording.read(0) == [b"x" * CHUNK]
        recording.release()
        await recording.settled()
        assert not channel.told

    run(main)
