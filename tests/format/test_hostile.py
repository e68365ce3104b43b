"""Whatever somebody else writes into the cache is a miss: no exception, and no wrong answer."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pickle
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import msgpack.fallback
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stream_cached import stream_cached
from stream_cached.entries.found import Foreign, Hit, Miss, StoredValue, Unstorable
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.replay import Replay
from stream_cached.entries.resource import Resource
from stream_cached.errors import StoreError
from stream_cached.format import validation
from stream_cached.format.codec import (
    UnsoundError,
    decode_record,
    decode_segment,
    encode_record,
    encode_segment,
)
from stream_cached.format.envelope import (
    FORMAT_VERSION,
    MAGIC,
    ForeignVersionError,
    State,
    is_ours,
    key_digest,
    read_prefix,
)
from stream_cached.format.records import Entry, Index, Marker, Segment
from stream_cached.http.reasons import NotCached
from stream_cached.keys.digest import digest
from stream_cached.keys.names import revocation_key, segment_key, variant_key
from stream_cached.stores.memory import MemoryCache, MemoryStore
from tests.conftest import Serve
from tests.support.app_server import HttpParser
from tests.support.forged import GENERATION, altered, pack
from tests.support.fuzz_entry import SEEDS, check, check_servable, mutator
from tests.support.http_client import fetch
from tests.support.keyspace import Keyspace
from tests.support.process import ROOT
from tests.support.runs import HIT, MISS, Runs, segments
from tests.support.selection import examples
from tests.support.servers import RedisServer

# -- memory ---------------------------------------------------------------------------------------


@pytest.fixture(params=["C", "Python"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """
    Both of msgpack's implementations: the second is for platforms without the first.

    Returns how many bytes each can be made to unpack while every allocation is traced.
    """
    if request.param == "C":
        return 100_000
    implementation = SimpleNamespace(
        Unpacker=msgpack.fallback.Unpacker,
        unpackb=msgpack.fallback.unpackb,
        UnpackException=msgpack.UnpackException,
    )
    monkeypatch.setattr(validation, "msgpack", implementation)
    return 10_000


def peak(function: Callable[[], object]) -> int:
    """The most bytes that a function held at a time, beyond those that were there before."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def nested(opening: bytes, count: int, size: int) -> bytes:
    """Containers in each other, each of which says how much there is in it."""
    head = (opening[:1] + count.to_bytes(4, "big") + opening[1:]) * min(1000, size // 10)
    return head + b"\xc0" * (size - len(head))


def counted(opening: bytes, item: bytes, size: int) -> bytes:
    """A container that is as large as it says."""
    count = size // len(item)
    return opening + count.to_bytes(4, "big") + item * count


def declared(opening: bytes, size: int) -> bytes:
    """Something that says that it is larger than any memory."""
    return opening + b"\xff" * 4 + bytes(size)


BOMBS: dict[str, Callable[[int], bytes]] = {
    "nested arrays": lambda size: nested(b"\xdd", size, size),
    "nested maps": lambda size: nested(b"\xdf\x01", size, size),
    "nested maps of half the size": lambda size: nested(b"\xdf\x01", size // 2 - 1, size),
    "arrays side by side": lambda size: counted(b"\xdd", b"\xdd\0\0\xff\xff", size),
    "empty maps": lambda size: counted(b"\xdd", b"\x80", size),
    "arrays of one": lambda size: counted(b"\xdd", b"\x91\xc0", size),
    "negative numbers": lambda size: counted(b"\xdd", b"\xe0", size),
    "extensions": lambda size: counted(b"\xdd", b"\xd4\x05\0", size),
    "timestamps": lambda size: counted(b"\xdd", b"\xd6\xff\xff\xff\xff\xff", size),
    "a map of one name": lambda size: counted(b"\xdf", b"\xa1a\x01", size),
    "a long text": lambda size: counted(b"\xdb", b"\xc3\xa4", size),
    "more text than there is": lambda size: declared(b"\xdb", size),
    "more bytes than there are": lambda size: declared(b"\xc6", size),
    "a larger extension than there is": lambda size: declared(b"\xc9", size),
    "more items than there are": lambda size: declared(b"\xdd", size),
    "more pairs than there are": lambda size: declared(b"\xdf", size),
}


@pytest.mark.matrix(share=6)
@pytest.mark.parametrize("name", BOMBS)
def test_no_head_takes_much_more_memory_than_it_has_bytes(name: str, size: int) -> None:
    for state in (State.ENTRY, State.SEGMENT):
        data = pack(state, None, packed=BOMBS[name](size))

        def decode(data: bytes = data) -> None:
            with pytest.raises(UnsoundError):
                decode_record(data)
            with pytest.raises(UnsoundError):
                decode_segment(data, GENERATION, 0)

        assert peak(decode) < 120 * len(data) + 100_000


@pytest.mark.parametrize("state", State)
def test_a_head_larger_than_any_of_ours_is_not_unpacked(state: State) -> None:
    data = pack(state, {"names": "x" * validation.MAX_HEAD})
    with pytest.raises(UnsoundError, match="length of the head"):
        decode_record(data)
    with pytest.raises(UnsoundError, match="length of the head"):
        decode_segment(data, GENERATION, 0)


@pytest.mark.parametrize("lengths", [(2**32 - 1, 0), (0, 2**64 - 1), (2**32 - 1, 2**64 - 1)])
def test_a_prefix_that_declares_any_length_makes_no_room_for_it(lengths: tuple[int, int]) -> None:
    data = pack(State.ENTRY, {}, head_length=lengths[0], body_length=lengths[1])

    def decode() -> None:
        with pytest.raises(UnsoundError):
            decode_record(data)

    assert peak(decode) < 100_000


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("depth", [400, 1_000, 5_000, 300_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\x92\xc0", b"\x82\x01\xc0\xa1a"])
def test_a_head_as_deep_as_can_be_is_unsound(opening: bytes, depth: int) -> None:
    for end in (b"\xc0", b"", b"\x90", b"\xc1"):
        with pytest.raises(UnsoundError):
            decode_record(pack(State.ENTRY, None, packed=opening * depth + end))


# -- the decoder ----------------------------------------------------------------------------------


def _change(chance: random.Random) -> Callable[[bytes, int], bytes]:
    """A change of a few bytes, as a fuzzer makes it."""

    def change(data: bytes, size: int) -> bytes:
        at = chance.randrange(len(data) + 1)
        new = chance.randbytes(chance.randrange(4))
        return (data[:at] + new + data[at + chance.randrange(4) :])[:size]

    return change


def _made_up(seed: int) -> bytes:
    """A record of ours that was changed behind its checksums, once or more often."""
    chance = random.Random(seed)
    data, mutate = chance.choice(SEEDS), mutator(_change(chance))
    for _ in range(chance.randrange(1, 4)):
        data = mutate(data, 1 << 16, chance.randrange(1 << 32))
    return data


made_up = st.integers(0, 2**64 - 1).map(_made_up)


@examples(500)
@given(made_up)
def test_what_is_made_up_is_unsound_or_can_be_served(data: bytes) -> None:
    check(data)


@pytest.mark.full
def test_a_fuzzer_finds_nothing() -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    command = [sys.executable, "-m", "tests.support.fuzz_entry", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Done \d{4,} runs", done.stderr)


# -- the resource ---------------------------------------------------------------------------------

KEY, VERSION = "key", "endpoint:version"
NEWER = MAGIC + bytes([FORMAT_VERSION + 1])
VERSION_ID = bytes(range(100, 116))
REVOCATION = revocation_key(KEY)
BODY = b"the body"


def _select(names: Sequence[str]) -> str:
    return digest([[name, name.encode("latin-1")] for name in names])


#: What a version id, or a made-up record, would be for this resource.
SELECTED = variant_key(KEY, GENERATION, _select(("accept", "origin")))
KEYS = (KEY, VERSION, REVOCATION, SELECTED)


def resource(store: MemoryStore, ttl: float | None = 60) -> Resource:
    return Resource(
        store,
        KEY,
        needs=[VERSION],
        lifetimes=Lifetimes(ttl, 60),
        select=_select,
        max_variants=4,
    )


def entry(**fields: Any) -> Entry:
    """An entry of the resource that can be served."""
    common: dict[str, Any] = {
        "key": key_digest(KEY),
        "versions": {VERSION: VERSION_ID},
        "status": 200,
        "headers": ((b"content-type", b"text/csv"),),
        "media_type": "text/csv",
        "charset": "utf-8",
        "streamed": True,
        "stored_at": 1234.5,
        "length": len(BODY),
        "generation": GENERATION,
    }
    if "segments" not in fields:
        common |= {"chunks": (len(BODY),), "body": BODY}
    return Entry(**{**common, **fields})


def _for(key: str, data: bytes) -> bytes:
    """A record that says that it belongs under this key, if it is one."""
    try:
        return altered(data, key=key_digest(key), versions={VERSION: VERSION_ID})
    except (ValueError, TypeError):
        return data


anything = (
    st.binary(max_size=100)
    | st.binary(min_size=16, max_size=16)
    | st.binary(max_size=100).map(lambda data: MAGIC + data)
    | st.binary(min_size=55, max_size=99).map(lambda data: NEWER + data)
    | st.integers(0, 8).map(lambda size: MAGIC[:size])
    | st.sampled_from([b"", b"\0", b"{}", b"\x80\x04K\x01.", pickle.dumps(Path("x")), VERSION_ID])
    | made_up
    | st.sampled_from(SEEDS)
)


def under(key: str) -> st.SearchStrategy[bytes | None]:
    return st.none() | anything | made_up.map(lambda data: _for(key, data))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@examples(300)
@given(
    st.tuples(
        under(KEY) | st.sampled_from(SEEDS).map(lambda data: _for(KEY, data)),
        st.just(VERSION_ID) | under(VERSION),
        st.none() | under(REVOCATION),
        under(SELECTED),
    ),
    st.sampled_from([60, None]),
)
def test_whatever_stands_under_its_keys_a_resource_is_looked_up_and_can_be_published(
    values: tuple[bytes | None, ...], ttl: float | None
) -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        planted = dict(zip(KEYS, values, strict=True))
        await store.set_many(
            [(key, value) for key, value in planted.items() if value is not None], 60
        )
        view = resource(store, ttl)
        _can_be_served(await view.look_up())
        left = dict(zip(KEYS, await store.get_many(KEYS), strict=True))
        for key, value in planted.items():
            if not _is_unsound(value):
                assert left[key] == value
            elif key == KEY:
                assert left[key] is None
            elif key == SELECTED:  # where an index led to it
                assert left[key] in (None, value)

        await view.begin()
        assert await view.publish(entry(), frozenset()) is None
        found = await resource(store, ttl).look_up()
        assert isinstance(found, Hit)
        assert found.entry.body == BODY

    run(test())


def _is_unsound(value: bytes | None) -> bool:
    """Whether it is ours, but not as we wrote it."""
    if not value or not is_ours(value):
        return False
    try:
        decode_record(value)
    except ForeignVersionError:
        return False
    except UnsoundError:
        return True
    return False


def _can_be_served(found: object) -> None:
    match found:
        case Hit():
            check_servable(found.entry)
        case Unstorable():
            assert re.fullmatch("[a-z-]{1,64}", found.detail)
        case _:
            assert isinstance(found, Miss | Foreign | StoredValue)


@settings(deadline=None)
@given(
    st.binary(max_size=40).filter(lambda value: len(value) != 16),
    st.sampled_from([VERSION, REVOCATION]),
)
def test_with_a_damaged_version_nothing_is_served(value: bytes, key: str) -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        made_under = {VERSION: VERSION_ID, REVOCATION: VERSION_ID}
        record = encode_record(entry(versions=made_under))
        await store.set_many([(KEY, record), (VERSION, VERSION_ID), (REVOCATION, VERSION_ID)], 60)
        assert isinstance(await resource(store).look_up(), Hit)
        await store.set_many([(key, value)], 60)
        assert await resource(store).look_up() == Miss()

    run(test())


def test_without_a_version_a_record_that_names_an_empty_one_is_not_served() -> None:
    async def test() -> None:
        for version in (None, b"", b"\0"):
            store = MemoryStore(MemoryCache())
            record = encode_record(entry(versions={VERSION: version or b""}))
            await store.set_many([(KEY, record)], 60)
            if version is not None:
                await store.set_many([(VERSION, version)], 60)
            assert await resource(store).look_up() == Miss()

    run(test())


@pytest.mark.parametrize("key", KEYS)
def test_an_object_under_any_key_is_left_where_it_is(key: str) -> None:
    async def test() -> None:
        cache = MemoryCache()
        store = MemoryStore(cache)
        index = Index(
            key_digest(KEY), {VERSION: VERSION_ID}, (("accept", "origin"),), (), GENERATION
        )
        await store.set_many([(KEY, encode_record(index)), (VERSION, VERSION_ID)], 60)
        planted = ["object"]
        cache.memory.set(key, planted, None)
        view = resource(store)
        expected = Foreign() if key == KEY else Miss(varied=key == SELECTED)
        assert await view.look_up() == expected
        if key == VERSION:
            with pytest.raises(StoreError):
                await view.begin()
        assert cache.memory.get(key) is planted

    run(test())


def test_a_version_that_is_damaged_is_replaced_and_a_sound_one_is_kept() -> None:
    async def test() -> None:
        for planted in (b"rubbish", b"", MAGIC, bytes(48), b"\x80\x04K\x01."):
            store = MemoryStore(MemoryCache())
            await store.set_many([(VERSION, planted)], 60)
            view = resource(store)
            await view.look_up()
            await view.begin()
            (version,) = await store.get_many([VERSION])
            assert version is not None
            assert len(version) == 16
            another = resource(store)
            await another.look_up()
            await another.begin()
            assert await store.get_many([VERSION]) == [version]

    run(test())


def test_what_ran_before_a_revocation_is_not_published_though_that_is_damaged() -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        view = resource(store)
        await view.look_up()
        await view.begin()
        await resource(store).revoke()
        await store.set_many([(REVOCATION, b"rubbish")], 60)
        assert not await view.is_current()
        assert await view.publish(entry(), frozenset()) is NotCached.OVERTAKEN
        later = resource(store)
        await later.look_up()
        await later.begin()
        assert await later.publish(entry(), frozenset()) is None
        assert isinstance(await resource(store).look_up(), Hit)

    run(test())


@pytest.mark.parametrize("ttl", [60, None])
def test_an_index_of_thousands_of_variants_is_cut_to_what_is_kept(ttl: float | None) -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        variants = tuple(f"{number:032x}" for number in range(20_000))
        index = Index(key_digest(KEY), {VERSION: VERSION_ID}, (("accept",),), variants, GENERATION)
        await store.set_many([(KEY, encode_record(index)), (VERSION, VERSION_ID)], 60)
        view = resource(store, ttl)
        assert await view.look_up() == Miss(varied=True)
        await view.begin()
        assert await view.publish(entry(), frozenset()) is None
        assert isinstance(await resource(store, ttl).look_up(), Hit)
        (value,) = await store.get_many([KEY])
        assert value is not None
        grown = decode_record(value)
        assert isinstance(grown, Index)
        assert grown.variants == (*variants[-3:], _select(()))

    run(test())


# -- segments -------------------------------------------------------------------------------------

PARTS = [Segment((4,), True, b"the "), Segment((1, 3), False, b"body")]


def _segment_keys() -> list[str]:
    return [segment_key(KEY, GENERATION, index) for index in range(len(PARTS))]


async def _in_segments(store: MemoryStore, ttl: float | None = 60) -> None:
    values = [encode_segment(part, GENERATION, index) for index, part in enumerate(PARTS)]
    table = tuple(
        (len(p.payload), read_prefix(v).body_checksum) for p, v in zip(PARTS, values, strict=True)
    )
    items = [(KEY, encode_record(entry(segments=table))), (VERSION, VERSION_ID)]
    await store.set_many([*items, *zip(_segment_keys(), values, strict=True)], ttl)


@examples(150)
@given(st.integers(0, 1), anything | made_up, st.booleans())
def test_whatever_stands_in_the_place_of_a_segment_no_other_body_is_served(
    at: int, value: bytes, exact: bool
) -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        await _in_segments(store)
        await store.set_many([(_segment_keys()[at], value)], 60)
        view = resource(store)
        found = await view.look_up()
        assert isinstance(found, Hit)
        replay = Replay(lambda: view, found)
        if await replay.open():
            body = b"".join([chunk async for chunk in replay]) if exact else await replay.whole()
            assert body == BODY
        else:
            assert await store.get_many([KEY]) == [None]
            assert await resource(store).look_up() == Miss()

    run(test())


def test_a_body_in_segments_is_served_where_nothing_is_planted() -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        await _in_segments(store)
        view = resource(store)
        found = await view.look_up()
        assert isinstance(found, Hit)
        replay = Replay(lambda: view, found)
        assert await replay.open()
        assert await replay.whole() == BODY

    run(test())


# -- plain values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("payload", [b"", b"{}", pickle.dumps({"a": 1}), MAGIC])
def test_a_published_value_is_found(payload: bytes, text: bool) -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        view = resource(store)
        assert await view.look_up() == Miss()
        await view.begin()
        assert await view.publish_value(payload, text=text) is None
        assert await resource(store).look_up() == StoredValue(payload, text)
        (value,) = await store.get_many([KEY])
        assert value is not None
        await store.set_many([("another key", value)], 60)
        other = resource(store)
        other.key = "another key"
        assert await other.look_up() == Miss()

    run(test())


def test_a_value_is_not_published_once_it_is_invalidated() -> None:
    async def invalidate(store: MemoryStore, key: str) -> None:
        await store.set_many([(key, os.urandom(16))], 60)

    async def test() -> None:
        for key in (VERSION, REVOCATION):
            store = MemoryStore(MemoryCache())
            view = resource(store)
            await view.look_up()
            await view.begin()
            await invalidate(store, key)
            assert await view.publish_value(b"{}", text=True) is NotCached.OVERTAKEN
            assert await store.get_many([KEY]) == [None]

    run(test())


def test_a_value_is_no_longer_found_once_it_is_invalidated() -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        for _ in range(2):
            view = resource(store)
            assert await view.look_up() == Miss()
            await view.begin()
            assert await view.publish_value(b"{}", text=True) is None
            assert isinstance(await resource(store).look_up(), StoredValue)
            await store.set_many([(VERSION, os.urandom(16))], 60)

    run(test())


def test_a_value_that_was_published_late_may_have_been_revoked() -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        view = resource(store)
        await view.look_up()
        await view.begin()
        view.records.lifetimes = Lifetimes(60, -1)
        assert await view.publish_value(b"{}", text=True) is NotCached.OVERTAKEN

    run(test())


def test_a_published_value_keeps_its_version_and_lets_go_of_what_it_replaces() -> None:
    async def test() -> None:
        now = 1000.0
        cache = MemoryCache(clock=lambda: now)
        store = MemoryStore(cache)
        await _in_segments(store, None)
        view = resource(store, ttl=None)
        await view.look_up()
        await view.begin()
        cache.memory.touch(VERSION, 10)
        await view.publish_value(b"{}", text=True)
        assert cache.memory._items[VERSION].deadline is None
        for key in _segment_keys():
            assert cache.memory._items[key].deadline == now + view.lifetimes.longest_run

    run(test())


def test_a_value_is_not_replaced_by_a_marker_of_another_run() -> None:
    async def test() -> None:
        store = MemoryStore(MemoryCache())
        view = resource(store)
        await view.look_up()
        await view.begin()
        await view.publish_value(b"{}", text=True)
        await view.mark_unstorable(NotCached.BODY_SIZE, frozenset())
        assert await resource(store).look_up() == StoredValue(b"{}", True)

    run(test())


# -- a server -------------------------------------------------------------------------------------


class Planted:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _headers(*fields: tuple[bytes, bytes]) -> Callable[[bytes], bytes]:
    """Another entry of the same resource with these header fields."""
    return lambda value: _if_record(value, headers=fields)


def _if_record(value: bytes, **fields: object) -> bytes:
    if not value.startswith(MAGIC) or read_prefix(value).state is not State.ENTRY:
        return pack(State.ENTRY, fields)
    return altered(value, **fields)


def _marker(detail: str) -> Callable[[bytes], bytes]:
    def planted(value: bytes) -> bytes:
        if not value.startswith(MAGIC) or read_prefix(value).state is not State.ENTRY:
            return pack(State.UNSTORABLE, {"detail": detail})
        record = decode_record(value)
        return encode_record(Marker(record.key, record.versions, detail, GENERATION))

    return planted


def _index(*names: str) -> Callable[[bytes], bytes]:
    def planted(value: bytes) -> bytes:
        if not value.startswith(MAGIC) or read_prefix(value).state is not State.ENTRY:
            return pack(State.INDEX, {"names": (names,), "variants": ()})
        record = decode_record(value)
        return encode_record(Index(record.key, record.versions, (names,), (), GENERATION))

    return planted


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda value: b"rubbish",
    # JSON would be a plain value for the serializer.
    "a version": lambda value: bytes(16),
    "our magic": lambda value: MAGIC,
    "half of our magic": lambda value: MAGIC[:4],
    "another format version": lambda value: NEWER + bytes(100),
    "nested arrays": lambda value: pack(State.ENTRY, None, packed=BOMBS["nested arrays"](10_000)),
    "empty maps": lambda value: pack(State.ENTRY, None, packed=BOMBS["empty maps"](10_000)),
    "a deep head": lambda value: pack(State.ENTRY, None, packed=b"\x91" * 100_000),
    "a body larger than any memory": lambda value: pack(State.ENTRY, {}, body_length=2**64 - 1),
    "a split response": _headers((b"x", b"a\r\n\r\nHTTP/1.1 200 OK\r\ninjected: 1")),
    "a split name": _headers((b"x: a\r\ninjected", b"1")),
    "a NUL": _headers((b"x", b"a\0b")),
    "an empty name": _headers((b"", b"x")),
    "a short content-length": _headers((b"content-length", b"3")),
    "a long content-length": _headers((b"content-length", b"9" * 30)),
    "two content-lengths": _headers((b"content-length", b"3"), (b"content-length", b"1000")),
    "a content-length beside a transfer-encoding": _headers(
        (b"content-length", b"3"), (b"transfer-encoding", b"chunked")
    ),
    "another transfer-encoding": _headers((b"transfer-encoding", b"gzip")),
    "an informational status": lambda value: _if_record(value, status=101),
    "a status beyond all": lambda value: _if_record(value, status=1000),
    "a status without a body": lambda value: _if_record(value, status=204),
    "no time": lambda value: _if_record(value, stored_at=float("nan")),
    "a charset in two lines": lambda value: _if_record(value, charset="utf-8\r\ninjected: 1"),
    "a marker that says more": _marker('x"; hit\r\ninjected: 1'),
    "an index of names beyond Latin-1": _index("\u0100"),
    "an index of names in two lines": _index("a\r\nb"),
}


@pytest.mark.matrix(share=2)
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("chunks", [1, 4], ids=["inline", "in segments"])
def test_a_value_that_somebody_else_made_up_costs_a_run_and_no_client_anything(
    serve: Serve, redis_server: RedisServer, redis_url: str, chunks: int, http: HttpParser
) -> None:
    runs = Runs(chunks)
    port = serve(runs.app(redis_url), http=http).port
    keys = Keyspace(redis_server.port)
    for name, make in HOSTILE.items():
        for index in range(2 + (chunks > 1)):
            redis_server.flush()
            fetch(port)
            assert fetch(port).header("Cache-Status") == HIT
            stored = keys.all()
            key = sorted(stored)[index]
            keys.set(key, make(stored[key]))

            planted, following = fetch(port), fetch(port)

            for response in (planted, following):
                assert runs.is_whole(response), (name, key)
                assert response.status == 200
                assert b"injected" not in repr(response.headers).encode()
            assert planted.header("Cache-Status") == MISS, (name, key)
            assert following.header("Cache-Status") == HIT, (name, key)
            assert following.body == planted.body == runs.bodies[-1]


@pytest.mark.parametrize("value", [b"rubbish", b"", MAGIC, b"\x80\x04K\x01."])
def test_a_revocation_that_somebody_else_made_up_costs_a_run(
    serve: Serve, redis_server: RedisServer, redis_url: str, value: bytes
) -> None:
    runs = Runs(1)
    port = serve(runs.app(redis_url)).port
    keys = Keyspace(redis_server.port)
    fetch(port)
    stored = keys.all()
    # The lease may not be released yet.
    (key,) = (k for k in stored if stored[k].startswith(MAGIC) and ":lease:" not in k)
    keys.set(revocation_key(key), value)
    assert [fetch(port).header("Cache-Status") for _ in range(2)] == [MISS, HIT]
    assert len(runs.bodies) == 2


@pytest.mark.parametrize("kind", ["record", "version", "segment", "revocation", "value"])
def test_a_pickle_is_not_loaded_by_the_default_serializer(
    serve: Serve, redis_server: RedisServer, redis_url: str, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "made by a pickle"
    planted = pickle.dumps(Planted(target))
    pickle.loads(planted)
    target.rmdir()  # it would work

    runs = Runs(4)
    plain = stream_cached(ttl=60, cache=redis_url)(_plain)
    app = Starlette(routes=[*runs.app(redis_url).routes, Route("/plain", _as_json(plain))])
    port = serve(app).port
    keys = Keyspace(redis_server.port)
    path = "/plain" if kind == "value" else "/"
    first = fetch(port, path)
    stored = keys.all()
    records = {key for key in stored if ":version:" not in key} - segments(stored)
    (record,) = records
    targets = {
        "record": record,
        "value": record,
        "version": next(iter(set(stored) - records - segments(stored))),
        "segment": min(segments(stored), default=""),
        "revocation": revocation_key(record),
    }
    keys.set(targets[kind], planted)

    answers = [fetch(port, path) for _ in range(3)]

    assert not target.exists()
    for answer in answers:
        assert answer.complete
        assert answer.status == 200
        assert answer.body == first.body if kind == "value" else runs.is_whole(answer)


async def _plain(request: Request) -> dict[str, int]:
    return {"a": 1}


def _as_json(endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return JSONResponse(await endpoint(request))

    return answer
