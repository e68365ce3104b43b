"""One class holds every kind of body to what recorder, replay and followers rely on."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

import stream_cached
from stream_cached.entries.body import RENEW_EVERY, RUN_TTL, WINDOW, Body, PackedSegment, Seal
from stream_cached.format.records import Segment
from stream_cached.format.validation import UnsoundError
from tests.stores.test_contract import Held, memcached, memory, redis

pytestmark = [pytest.mark.anyio, pytest.mark.every_store]

KEY, OTHER_KEY = "module.endpoint:0123", "module.endpoint:4567"
GENERATION, OTHER_GENERATION = bytes(range(16)), bytes(range(16, 32))

#: What a store's clock may be off by: memcached's ticks once a second.
TICK = 1.5

#: Segments of one byte, of every byte, of one chunk in two segments, and of a usual size.
SEGMENTS = [
    Segment((1,), False, b"\0"),
    Segment((256, 3, 0), False, bytes(range(256)) + b"\r\nE"),
    Segment((5000,), True, os.urandom(5000)),
    Segment((10, 90_000), False, os.urandom(90_010)),
    Segment((2, 0, 5), False, b"ND\r\nxyz"),
    Segment((200_000,), False, os.urandom(200_000)),
]
ALL = range(len(SEGMENTS))


class AnyBody(Protocol):
    """What is asked of a body, wherever it is kept."""

    def pack(self, index: int, segment: Segment) -> PackedSegment: ...
    async def write(self, segments: Sequence[PackedSegment]) -> None: ...
    async def read(self, indexes: range, seals: Sequence[Seal] | None = None) -> list[Segment]: ...
    async def renew(self, indexes: range, ttl: float | None) -> int: ...
    async def renew_if_due(self, indexes: range, ttl: float | None) -> None: ...
    async def drop(self, indexes: range) -> None: ...


@dataclass
class Place:
    """Where bodies are kept, and what a test asks of what is behind them."""

    open: Callable[[str, bytes], AnyBody]
    """Returns the body of a key and a generation."""
    raw: Callable[[AnyBody, int], Awaitable[bytes | None]]
    """Returns a segment as it is kept."""
    put_raw: Callable[[AnyBody, int, bytes | None], Awaitable[None]]
    """Replaces what is kept as a segment; None deletes it."""
    seconds_left: Callable[[AnyBody, int], float | None]
    """How long a segment has to live; None for ever."""

    def of(self, key: str = KEY, generation: bytes = GENERATION) -> AnyBody:
        return self.open(key, generation)


async def written(body: AnyBody, segments: Sequence[Segment] = SEGMENTS) -> list[Seal]:
    """Write a body in windows, as a recorder does, and return its seals."""
    packed = [body.pack(index, segment) for index, segment in enumerate(segments)]
    for start in range(0, len(packed), WINDOW):
        await body.write(packed[start : start + WINDOW])
    return [segment.seal for segment in packed]


class Clock:
    """The clock of the running loop, which a test puts forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real = loop.time
        self.passed = 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self.passed)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch, anyio_backend: str) -> AsyncIterator[Clock]:
    # Undone here, where the loop is: else it would be closed with a clock that has jumped.
    with monkeypatch.context() as patched:
        yield Clock(patched)


class BodyContract:
    """
    What holds for every kind of body.

    A kind of body is tested by a subclass for which a fixture `place` returns where it is kept.
    """

    # -- windows, byte for byte

    async def test_what_is_written_is_read(self, place: Place) -> None:
        seals = await written(place.of())
        assert await place.of().read(ALL) == SEGMENTS
        assert await place.of().read(ALL, seals) == SEGMENTS

    async def test_one_who_reads_need_not_be_the_one_who_writes(self, place: Place) -> None:
        body = place.of()
        await body.write([body.pack(0, SEGMENTS[0])])
        reader = place.of()
        assert await reader.read(range(1)) == SEGMENTS[:1]
        await body.write([body.pack(1, SEGMENTS[1])])
        assert await reader.read(range(1, 2)) == SEGMENTS[1:2]

    @pytest.mark.parametrize("window", [range(2, 5), range(5, 6), range(1), range(3, 6)])
    async def test_reading_begins_at_any_segment(self, place: Place, window: range) -> None:
        seals = await written(place.of())
        assert await place.of().read(window, seals) == SEGMENTS[window.start : window.stop]
        assert await place.of().read(window) == SEGMENTS[window.start : window.stop]

    async def test_reading_nothing_gives_nothing(self, place: Place) -> None:
        assert await place.of().read(range(0)) == []

    async def test_the_order_of_writing_does_not_matter(self, place: Place) -> None:
        body = place.of()
        packed = [body.pack(index, segment) for index, segment in enumerate(SEGMENTS)]
        await body.write(packed[::-1])
        assert await body.read(ALL, [segment.seal for segment in packed]) == SEGMENTS

    async def test_a_segment_that_is_written_again_is_the_later_one(self, place: Place) -> None:
        body = place.of()
        await written(body)
        await body.write([body.pack(0, SEGMENTS[1])])
        assert await body.read(range(2)) == [SEGMENTS[1], SEGMENTS[1]]

    async def test_a_seal_says_the_length_of_the_payload(self, place: Place) -> None:
        seals = await written(place.of())
        assert [length for length, _ in seals] == [len(each.payload) for each in SEGMENTS]

    # -- unsound

    async def test_a_missing_segment_is_unsound(self, place: Place) -> None:
        seals = await written(place.of())
        await place.of().drop(range(2, 3))
        for window in (range(2, 3), ALL):
            with pytest.raises(UnsoundError, match="segment 2 is missing"):
                await place.of().read(window, seals)
        assert await place.of().read(range(3, 6), seals) == SEGMENTS[3:]

    async def test_a_body_that_was_never_written_is_unsound(self, place: Place) -> None:
        with pytest.raises(UnsoundError, match="segment 0 is missing"):
            await place.of().read(range(1))

    async def test_a_replaced_segment_is_unsound(self, place: Place) -> None:
        """One that was written again, and is whole, is not the one that the entry knows."""
        body = place.of()
        seals = await written(body)
        same_length = Segment((1,), False, b"\1")
        await body.write([body.pack(0, same_length)])
        assert await body.read(range(1)) == [same_length]
        with pytest.raises(UnsoundError, match="segment 0 is not the one that was stored"):
            await body.read(range(1), seals)

    @pytest.mark.parametrize("where", [0, 5, 20, 40, -1])
    async def test_a_damaged_segment_is_unsound(self, place: Place, where: int) -> None:
        body = place.of()
        seals = await written(body)
        raw = bytearray(await place.raw(body, 1) or b"")
        raw[where] ^= 1
        await place.put_raw(body, 1, bytes(raw))
        for known in (seals, None):
            with pytest.raises(UnsoundError):
                await body.read(ALL, known)

    @pytest.mark.parametrize("rubbish", [b"", b"\0", b"rubbish", bytes(1000)])
    async def test_rubbish_is_unsound(self, place: Place, rubbish: bytes) -> None:
        body = place.of()
        await written(body)
        await place.put_raw(body, 1, rubbish)
        with pytest.raises(UnsoundError):
            await body.read(ALL)

    async def test_a_segment_that_was_cut_short_is_unsound(self, place: Place) -> None:
        body = place.of()
        await written(body)
        raw = await place.raw(body, 1)
        assert raw is not None
        for short in (raw[:-1], raw[: len(raw) // 2], raw + b"\0"):
            await place.put_raw(body, 1, short)
            with pytest.raises(UnsoundError):
                await body.read(ALL)

    async def test_swapped_segments_are_unsound(self, place: Place) -> None:
        body = place.of()
        await written(body)
        first, second = await place.raw(body, 0), await place.raw(body, 1)
        await place.put_raw(body, 0, second)
        await place.put_raw(body, 1, first)
        for index in range(2):
            with pytest.raises(UnsoundError):
                await body.read(range(index, index + 1))
        assert await body.read(range(2, 6)) == SEGMENTS[2:]

    async def test_a_segment_of_another_generation_is_unsound(self, place: Place) -> None:
        body, other = place.of(), place.of(KEY, OTHER_GENERATION)
        await written(body)
        await written(other)
        await place.put_raw(body, 0, await place.raw(other, 0))
        with pytest.raises(UnsoundError):
            await body.read(range(1))

    # -- how long it lives

    async def test_a_segment_lives_for_the_time_of_a_run(self, place: Place) -> None:
        body = place.of()
        await written(body)
        for index in ALL:
            assert lives(place, body, index, RUN_TTL)

    @pytest.mark.parametrize("ttl", [1000, 90.5, 40 * 24 * 3600])
    async def test_renewal_keeps_segments_alive(self, place: Place, ttl: float) -> None:
        body = place.of()
        await written(body)
        assert await body.renew(range(1, 4), ttl) == 3
        for index in ALL:
            assert lives(place, body, index, ttl if index in range(1, 4) else RUN_TTL)
        assert await body.read(ALL) == SEGMENTS

    async def test_renewal_without_an_end_keeps_segments_for_ever(self, place: Place) -> None:
        body = place.of()
        await written(body)
        assert await body.renew(ALL, None) == len(ALL)
        assert [place.seconds_left(body, index) for index in ALL] == [None] * len(ALL)

    async def test_renewal_says_how_many_segments_exist(self, place: Place) -> None:
        body = place.of()
        assert await body.renew(ALL, 1000) == 0
        await written(body)
        assert await body.renew(range(10), 1000) == len(ALL)
        await body.drop(range(1, 3))
        assert await body.renew(ALL, 1000) == len(ALL) - 2
        assert await body.renew(range(1, 3), 1000) == 0
        with pytest.raises(UnsoundError):
            await body.read(range(1, 2))

    async def test_segments_are_renewed_only_when_that_is_due(
        self, place: Place, clock: Clock
    ) -> None:
        body = place.of()
        await written(body)
        clock.passed = RENEW_EVERY - 5
        await body.renew_if_due(ALL, 1000)
        assert lives(place, body, 0, RUN_TTL)
        # What is written later does not put the renewal of the first segments off.
        await body.write([body.pack(6, SEGMENTS[0])])
        clock.passed = RENEW_EVERY
        await body.renew_if_due(range(7), 1000)
        assert all(lives(place, body, index, 1000) for index in range(7))
        await body.renew_if_due(range(7), 2000)
        assert lives(place, body, 0, 1000)
        clock.passed += RENEW_EVERY
        await body.renew_if_due(range(7), 2000)
        assert lives(place, body, 0, 2000)

    async def test_a_renewal_that_was_not_due_counts_like_one_that_was(
        self, place: Place, clock: Clock
    ) -> None:
        body = place.of()
        await written(body)
        clock.passed = RENEW_EVERY - 5
        await body.renew(ALL, 1000)
        clock.passed = RENEW_EVERY
        await body.renew_if_due(ALL, 2000)
        assert lives(place, body, 0, 1000)

    async def test_one_who_has_not_written_renews_at_once(self, place: Place) -> None:
        """The time of the last renewal is not known then."""
        await written(place.of())
        reader = place.of()
        await reader.renew_if_due(ALL, 1000)
        assert lives(place, reader, 0, 1000)

    # -- dropped

    async def test_what_is_dropped_is_gone(self, place: Place) -> None:
        body = place.of()
        await written(body)
        await place.of().drop(ALL)
        assert [await place.raw(body, index) for index in ALL] == [None] * len(ALL)
        await place.of().drop(ALL)  # what is gone already is no error

    # -- of thousands of segments

    async def test_thousands_of_segments_are_renewed_and_dropped(self, place: Place) -> None:
        body, count = place.of(), 1000
        packed = [body.pack(index, SEGMENTS[0]) for index in range(count)]
        await body.write(packed)
        assert await body.renew(range(count + 5), 1000) == count
        assert all(lives(place, body, index, 1000) for index in (0, 255, 256, 511, 512, 999))
        await body.drop(range(1, count))
        assert await body.renew(range(count), 1000) == 1

    # -- apart from others

    @pytest.mark.parametrize(
        ("key", "generation"),
        [(KEY, OTHER_GENERATION), (OTHER_KEY, GENERATION), (OTHER_KEY, OTHER_GENERATION)],
    )
    async def test_bodies_never_touch_each_other(
        self, place: Place, key: str, generation: bytes
    ) -> None:
        body, other = place.of(), place.of(key, generation)
        seals = await written(body)
        assert await other.renew(ALL, 1000) == 0
        others = await written(other, SEGMENTS[::-1])
        assert await body.read(ALL, seals) == SEGMENTS
        assert await other.read(ALL, others) == SEGMENTS[::-1]
        await other.renew(ALL, 1000)
        assert lives(place, body, 0, RUN_TTL)
        await other.drop(ALL)
        assert await body.read(ALL, seals) == SEGMENTS
        assert await body.renew(ALL, RUN_TTL) == len(ALL)

    async def test_two_bodies_are_written_at_the_same_time(self, place: Place) -> None:
        bodies = [place.of(), place.of(KEY, OTHER_GENERATION), place.of(OTHER_KEY)]
        contents = [SEGMENTS, SEGMENTS[::-1], [*SEGMENTS[3:], *SEGMENTS[:3]]]
        seals = await asyncio.gather(
            *(written(body, content) for body, content in zip(bodies, contents, strict=True))
        )
        for body, content, sealed in zip(bodies, contents, seals, strict=True):
            assert await body.read(ALL, sealed) == content


def lives(place: Place, body: AnyBody, index: int, seconds: float) -> bool:
    """Whether a segment was given so many seconds just now."""
    left = place.seconds_left(body, index)
    # A machine that is busy may have taken a while since.
    return left is not None and seconds - 15 < left <= math.ceil(seconds) + TICK


# -- bodies that are kept in the store of the records ---------------------------------------------


def in_store(held: Held) -> Place:
    """Return the place of bodies that are kept in a store, beside their records."""

    def key_of(body: AnyBody, index: int) -> str:
        assert isinstance(body, Body)
        (key,) = body.keys(range(index, index + 1))
        return key

    async def raw(body: AnyBody, index: int) -> bytes | None:
        return await held.get(key_of(body, index))

    async def put_raw(body: AnyBody, index: int, value: bytes | None) -> None:
        if value is None:
            await held.store.delete_many([key_of(body, index)])
        else:
            await held.set(key_of(body, index), value)

    return Place(
        open=lambda key, generation: Body(held.store, key, generation),
        raw=raw,
        put_raw=put_raw,
        seconds_left=lambda body, index: held.remaining(key_of(body, index)),
    )


class TestBodyInStore(BodyContract):
    """Bodies in memory, in Redis and in memcached."""

    @pytest.fixture(params=["memory", "redis", "memcached"])
    async def place(
        self, request: pytest.FixtureRequest, namespace: str, anyio_backend: str
    ) -> AsyncIterator[Place]:
        if request.param == "memory":
            yield in_store(memory(namespace))
            return
        request.getfixturevalue(f"{request.param}_url")  # running and empty
        server = request.getfixturevalue(f"{request.param}_server")
        async with contextlib.AsyncExitStack() as stack:
            opened = redis if request.param == "redis" else memcached
            yield in_store(await stack.enter_async_context(opened(server, namespace)))

    async def test_no_operation_has_to_be_through_with_thousands_of_segments_in_time(
        self, namespace: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = memory(namespace).store
        sizes: list[int] = []

        async def counted(keys: Sequence[str], *ttl: float | None) -> int:
            sizes.append(len(keys))
            return len(keys)

        monkeypatch.setattr(store, "touch_many", counted)
        monkeypatch.setattr(store, "delete_many", counted)
        body = Body(store, KEY, GENERATION)
        assert await body.renew(range(4000), 60) == 4000
        await body.drop(range(4000))
        assert sum(sizes) == 8000
        assert max(sizes) <= 256


# -- the keys of segments -------------------------------------------------------------------------


def uses(tree: ast.AST, name: str) -> bool:
    """Whether a module imports or mentions a name."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=found) | ast.Attribute(attr=found) | ast.alias(name=found):
                if found == name:
                    return True
    return False


def test_only_the_body_forms_keys_of_segments() -> None:
    package = Path(stream_cached.__file__).parent
    using = {
        module.relative_to(package).as_posix()
        for module in package.rglob("*.py")
        if uses(ast.parse(module.read_text(encoding="utf-8")), "segment_key")
    }
    assert using == {"entries/body.py"}
