"""What this process keeps of entries: it is used only where the store holds the same bytes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from stream_cached.entries import local, records
from stream_cached.entries.found import Hit
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.local import LocalEntries
from stream_cached.entries.replay import Replay
from stream_cached.entries.resource import Resource
from stream_cached.format.codec import decode_record, encode_record, encode_segment
from stream_cached.format.envelope import key_digest
from stream_cached.format.records import Entry, Segment
from stream_cached.keys.names import segment_key
from stream_cached.stores.memory import MemoryCache, MemoryStore
from stream_cached.stores.protocol import Store, begin_so

KEY = "key"
VERSION, VERSION_ID = "version", b"\xc1" + bytes(15)
GENERATION = bytes(range(16))
SIZE = 1000
COUNT = 9


def _replay(resource: Resource, hit: Hit) -> Replay:
    return Replay(lambda: resource, hit)


class Counting(MemoryStore):
    """A store that notes what is read."""

    def __init__(self) -> None:
        super().__init__(MemoryCache())
        self.reads: list[list[str]] = []

    async def get_many(self, keys: Any) -> list[bytes | None]:
        self.reads.append(list(keys))
        # As from a server: never the same object twice.
        return [v and bytes(bytearray(v)) for v in await super().get_many(keys)]


class WithStarts(Counting):
    """One that can read how values begin."""

    async def get_many_and_compare(
        self, keys: Any, starts: Mapping[str, bytes]
    ) -> tuple[list[bytes | None], bool]:
        values = await super().get_many([*keys, *starts])
        self.reads[-1] = [*keys, *(f"start of {key}" for key in starts)]
        return values[: len(keys)], begin_so(values[len(keys) :], starts)


class Refused(WithStarts):
    """One whose server does not permit that."""

    may_compare = False


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[local._Memory]:
    memory = local._Memory(max_bytes=1_000_000)
    monkeypatch.setattr(local, "_memory", memory)
    yield memory
    assert 0 <= memory.used <= memory.max_bytes
    assert memory.used == sum(kept.size for kept in memory.kept.values())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    seen: list[bytes] = []

    def noting(data: bytes) -> Any:
        seen.append(data)
        return decode_record(data)

    monkeypatch.setattr(records, "decode_record", noting)
    return seen


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def entry_of(body: bytes, generation: bytes = GENERATION, **fields: Any) -> Entry:
    entry = Entry(
        key=key_digest(KEY),
        versions={VERSION: VERSION_ID},
        status=200,
        headers=((b"content-type", b"text/csv"),),
        media_type="text/csv",
        charset="utf-8",
        streamed=True,
        stored_at=1.0,
        length=len(body),
        generation=generation,
        chunks=(len(body),),
        body=body,
    )
    return replace(entry, **fields)


async def store_inline(store: Store, body: bytes, generation: bytes = GENERATION) -> None:
    value = encode_record(entry_of(body, generation))
    await store.set_many([(VERSION, VERSION_ID), (KEY, value)], 60)


async def store_segments(store: Store, letter: bytes = b"a", count: int = COUNT) -> bytes:
    resource = _resource(store, LocalEntries())
    body = resource.records.body(GENERATION)
    packed = [body.pack(n, Segment((SIZE,), False, letter * SIZE)) for n in range(count)]
    await body.write(packed)
    whole = letter * SIZE * count
    entry = entry_of(
        b"", length=len(whole), chunks=(), segments=tuple([each.seal for each in packed])
    )
    await store.set_many([(VERSION, VERSION_ID), (KEY, encode_record(entry))], 60)
    return whole


def _resource(store: Store, entries: LocalEntries) -> Resource:
    return Resource(
        store,
        KEY,
        needs=(VERSION,),
        lifetimes=Lifetimes(60, 60),
        select=None,
        max_variants=4,
        local=entries,
    )


async def hit(store: Store, entries: LocalEntries) -> Hit | None:
    found = await _resource(store, entries).look_up()
    return found if isinstance(found, Hit) else None


async def read(store: Store, entries: LocalEntries) -> bytes | None:
    resource = _resource(store, entries)
    found = await resource.look_up()
    if not isinstance(found, Hit):
        return None
    replay = _replay(resource, found)
    return await replay.whole() if await replay.open() else None


def _has_body(entries: LocalEntries) -> bool:
    kept = entries.kept(KEY)
    return kept is not None and kept.body is not None


def test_a_record_is_decoded_once(decoded: list[bytes]) -> None:
    async def test() -> None:
        store, entries = Counting(), LocalEntries()
        await store_inline(store, b"body")
        found = [await hit(store, entries) for _ in range(3)]
        assert len({id(each.entry) for each in found if each}) == 1
        assert len(decoded) == 1
        # The versions are read each time.
        assert store.reads == [[KEY, VERSION, f"{KEY}:revoked"]] * 3

    run(test())


def test_a_record_of_which_one_byte_differs_is_decoded_again(decoded: list[bytes]) -> None:
    async def test() -> None:
        store, entries = Counting(), LocalEntries()
        await store_inline(store, b"body")
        whole = encode_record(entry_of(b"body"))
        assert await hit(store, entries)
        for at in range(len(whole)):
            damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            await store.set_many([(KEY, damaged)], 60)
            assert await hit(store, entries) is None, at
        await store_inline(store, b"another", bytes(16))
        found = await hit(store, entries)
        assert found is not None
        assert found.entry.body == b"another"

    run(test())


def test_a_version_that_is_gone_or_another_is_a_miss(decoded: list[bytes]) -> None:
    async def test() -> None:
        store, entries = Counting(), LocalEntries()
        await store_inline(store, b"body")
        assert await hit(store, entries)
        await store.set_many([(VERSION, b"\xc1" + bytes([1] * 15))], 60)
        assert await hit(store, entries) is None
        await store.delete_many([VERSION])
        assert await hit(store, entries) is None
        await store_inline(store, b"body")
        await _resource(store, entries).revoke()
        assert await hit(store, entries) is None

    run(test())


def test_two_stores_keep_their_entries_apart() -> None:
    async def test() -> None:
        stores = [(Counting(), LocalEntries()) for _ in range(2)]
        for number, (store, _) in enumerate(stores):
            await store_inline(store, b"%d" % number)
        for _ in range(2):
            for number, (store, entries) in enumerate(stores):
                found = await hit(store, entries)
                assert found is not None
                assert found.entry.body == b"%d" % number

    run(test())


def test_a_body_of_segments_is_read_twice_and_then_only_how_they_begin() -> None:
    async def test() -> None:
        store, entries = WithStarts(), LocalEntries()
        whole = await store_segments(store)
        # The second time, too: most entries are hit once, if at all.
        for _ in range(2):
            store.reads.clear()
            assert await read(store, entries) == whole
            assert len(store.reads) == 4
        store.reads.clear()
        starts = [f"start of {segment_key(KEY, GENERATION, n)}" for n in range(COUNT)]
        for _ in range(2):
            assert await read(store, entries) == whole
        assert store.reads == [[KEY, VERSION, f"{KEY}:revoked", *starts]] * 2

    run(test())


@pytest.mark.parametrize("kind", [Counting, WithStarts])
@pytest.mark.parametrize("index", [0, 1, COUNT - 1])
@pytest.mark.parametrize("what", ["gone", "empty", "text", "another segment", "another body"])
def test_a_segment_that_is_not_the_same_is_a_miss(
    kind: type[Counting], index: int, what: str
) -> None:
    async def test() -> None:
        store, entries = kind(), LocalEntries()
        count = COUNT if kind is WithStarts else 4
        number = min(index, count - 1)
        whole = await store_segments(store, count=count)
        for _ in range(3):
            assert await read(store, entries) == whole
        key = segment_key(KEY, GENERATION, number)
        if what == "gone":
            await store.delete_many([key])
        else:
            other = Segment((SIZE,), False, b"b" * SIZE)
            value = {
                "empty": b"",
                "text": b"text",
                "another segment": encode_segment(other, GENERATION, number + 1),
                "another body": encode_segment(other, GENERATION, number),
            }[what]
            await store.set_many([(key, value)], 60)
        if number < 4 or what == "gone":
            assert await read(store, entries) is None
            assert await hit(store, entries) is None
        else:
            with pytest.raises(Exception, match="can't be read on"):
                await read(store, entries)

    run(test())


@pytest.mark.parametrize("kind", [Counting, Refused])
def test_a_long_body_is_not_kept_where_it_would_be_read_as_a_whole(
    memory: local._Memory, kind: type[Counting]
) -> None:
    async def test() -> None:
        store, entries = kind(), LocalEntries()
        whole = await store_segments(store)
        for _ in range(3):
            assert await read(store, entries) == whole
        assert memory.used < len(whole)

    run(test())


def test_the_chunks_of_a_kept_body_are_those_that_were_stored() -> None:
    async def test() -> None:
        store, entries = WithStarts(), LocalEntries()
        resource = _resource(store, entries)
        body = resource.records.body(GENERATION)
        # The second chunk goes on in the next two segments.
        pieces = [Segment((3, 2), True, b"abcde"), Segment((4,), True, b"fghi")]
        pieces += [Segment((1, 2), False, b"jkl")]
        packed = [body.pack(n, piece) for n, piece in enumerate(pieces)]
        await body.write(packed)
        seals = tuple([each.seal for each in packed])
        entry = entry_of(b"", length=12, chunks=(), segments=seals)
        await store.set_many([(VERSION, VERSION_ID), (KEY, encode_record(entry))], 60)
        for _ in range(3):
            resource = _resource(store, entries)
            found = await resource.look_up()
            assert isinstance(found, Hit)
            replay = _replay(resource, found)
            assert await replay.open(in_chunks=True)
            assert [chunk async for chunk in replay] == [b"abc", b"defghij", b"kl"]

    run(test())


def test_no_more_is_kept_than_was_allowed(memory: local._Memory) -> None:
    async def test() -> None:
        memory.max_bytes = 30_000
        stores = [(WithStarts(), LocalEntries()) for _ in range(12)]
        for store, entries in stores:
            whole = await store_segments(store)
            for _ in range(2):
                assert await read(store, entries) == whole
            assert memory.used <= memory.max_bytes
        assert 0 < len(memory.kept) < len(stores)
        # The most recently used are there.
        store, entries = stores[-1]
        assert _has_body(entries)
        store, entries = stores[0]
        assert not _has_body(entries)

    run(test())


def test_a_replay_that_is_given_up_lets_the_next_one_keep_the_body() -> None:
    async def test() -> None:
        store, entries = WithStarts(), LocalEntries()
        whole = await store_segments(store)
        assert await read(store, entries) == whole
        for end in ("closed", "dropped"):
            resource = _resource(store, entries)
            found = await resource.look_up()
            assert isinstance(found, Hit)
            replay = _replay(resource, found)
            assert await replay.open()
            await replay.part()
            if end == "closed":
                replay.close()
            del replay
            # The next window was being read.
            for _ in range(5):
                await asyncio.sleep(0)
            gc.collect()
            assert not _has_body(entries)
        assert await read(store, entries) == whole
        assert _has_body(entries)

    run(test())


def test_nothing_is_kept_of_an_endpoint_with_local_0(memory: local._Memory) -> None:
    memory.max_bytes = 0

    async def test() -> None:
        store, entries = WithStarts(), LocalEntries()
        whole = await store_segments(store)
        for _ in range(2):
            assert await read(store, entries) == whole
        assert not memory.kept

    run(test())
