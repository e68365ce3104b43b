"""With a secret, nothing that somebody else wrote into the cache is taken for ours."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import pickle
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_cached.entries.found import Foreign, Found, Hit, Miss, StoredValue
from stream_cached.entries.lifetimes import Lifetimes
from stream_cached.entries.replay import Replay
from stream_cached.entries.resource import Resource
from stream_cached.entries.versions import renew_version
from stream_cached.format.codec import decode_record, encode_record, encode_segment
from stream_cached.format.envelope import MAGIC, is_ours, key_digest, read_prefix
from stream_cached.format.records import Entry, Marker, Record, Segment, Value
from stream_cached.http.reasons import NotCached
from stream_cached.keys.digest import digest
from stream_cached.keys.names import segment_key
from stream_cached.stores.memory import MemoryCache, MemoryStore
from stream_cached.stores.protocol import FOREIGN, Store
from stream_cached.stores.signed import UNSOUND, SignedStore
from tests.support.forged import GENERATION
from tests.support.fuzz_entry import SEEDS
from tests.support.selection import examples

SECRET, NEXT, OTHER = (bytes([number]) * 32 for number in (1, 2, 3))
KEY, ANOTHER, VERSION = "key", "another key", "endpoint:version"
RECORD = SEEDS[0]
BODY = b"the body"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def bare() -> MemoryStore:
    return MemoryStore(MemoryCache())


def signed(store: Store, *secrets: bytes, context: str = "web") -> SignedStore:
    return SignedStore(store, secrets or [SECRET], context)


async def value_of(store: Store, key: str = KEY) -> bytes | None:
    (value,) = await store.get_many([key])
    return value


async def written(key: str, value: bytes, *secrets: bytes, context: str = "web") -> bytes:
    """What a signed store writes."""
    store = bare()
    await signed(store, *secrets, context=context).set_many([(key, value)], None)
    stored = await value_of(store, key)
    assert stored is not None
    return stored


async def read(key: str, stored: bytes, *secrets: bytes, context: str = "web") -> bytes | None:
    """What a signed store makes of what it finds."""
    store = bare()
    await store.set_many([(key, stored)], None)
    return await value_of(signed(store, *secrets, context=context), key)


def refused(stored: bytes) -> bytes:
    return UNSOUND if is_ours(stored) else FOREIGN


# -- what is signed -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"", b"\0", b"x" * 16, RECORD, os.urandom(300_000)])
@pytest.mark.parametrize("key", ["", "key", "schl\u00fcssel", "\udc80"])
def test_what_is_written_is_the_value_and_the_documented_signature(value: bytes, key: str) -> None:
    def delimited(text: str) -> bytes:
        encoded = text.encode("utf-8", "surrogatepass")
        return len(encoded).to_bytes(8, "big") + encoded

    label = b"stream_cached: signed value, version 1\n"
    message = label + delimited("web") + delimited(key) + value
    signature = hmac.new(SECRET, message, hashlib.sha256).digest()

    async def test() -> None:
        assert await written(key, value) == value + signature
        assert await read(key, value + signature) == value
        store = bare()
        view = signed(store)
        assert await view.add(key, value, None)
        assert await value_of(store, key) == value + signature
        await view.set_many([(key, b"other")], None)
        assert await view.compare_and_set(key, b"other", value, None)
        assert await value_of(store, key) == value + signature

    run(test())


@pytest.mark.parametrize("value", [b"x" * 16, RECORD], ids=["version", "record"])
def test_a_value_with_any_byte_changed_is_refused(value: bytes) -> None:
    async def test() -> None:
        stored = await written(KEY, value)
        for at in range(len(stored)):
            for mask in (1, 0x80, 0xFF):
                other = stored[:at] + bytes([stored[at] ^ mask]) + stored[at + 1 :]
                assert await read(KEY, other) == refused(other)

    run(test())


@pytest.mark.parametrize("value", [b"", b"x" * 16, RECORD], ids=["nothing", "version", "record"])
def test_a_value_that_is_cut_or_goes_on_is_refused(value: bytes) -> None:
    async def test() -> None:
        stored = await written(KEY, value)
        cuts = [stored[:size] for size in range(len(stored))]
        others = [stored + b"\0", stored + stored, stored[1:], value, value + bytes(32)]
        for other in (*cuts, *others):
            assert await read(KEY, other) == refused(other)

    run(test())


@pytest.mark.parametrize("value", [b"x" * 16, RECORD], ids=["version", "record"])
def test_a_value_is_refused_under_another_key_in_another_namespace_and_with_another_secret(
    value: bytes,
) -> None:
    async def test() -> None:
        stored = await written(KEY, value)
        assert await read(KEY, stored) == value
        for key in (ANOTHER, "", KEY + "\0", "ke", "webkey"):
            assert await read(key, stored) == refused(value)
        for context in ("", "we", "web2", "webk"):
            assert await read(KEY, stored, context=context) == refused(value)
        assert await read(KEY, stored, OTHER) == refused(value)
        assert await read(KEY, stored, OTHER, NEXT) == refused(value)

    run(test())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("web", "key"), ("we", "bkey")),
        (("web", "key"), ("webk", "ey")),
        (("", "webkey"), ("webkey", "")),
        (("w", "\0\0\0\0\0\0\0\3key"), ("w\0\0\0\0\0\0\0\3", "key")),
    ],
)
def test_namespace_and_key_do_not_run_into_each_other(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    async def test() -> None:
        stored = await written(one[1], RECORD, context=one[0])
        assert await read(one[1], stored, context=one[0]) == RECORD
        assert await read(other[1], stored, context=other[0]) == UNSOUND

    run(test())


def test_key_and_value_do_not_run_into_each_other() -> None:
    async def test() -> None:
        stored = await written("key", b"abc" + RECORD)
        assert await read("keyabc", stored[3:]) == UNSOUND

    run(test())


# -- secrets --------------------------------------------------------------------------------------


def test_the_first_secret_signs_and_all_of_them_verify() -> None:
    async def test() -> None:
        for value in (RECORD, b"x" * 16):
            old = await written(KEY, value, SECRET)
            new = await written(KEY, value, NEXT, SECRET)
            assert new == await written(KEY, value, NEXT)
            assert old != new
            for stored in (old, new):
                assert await read(KEY, stored, NEXT, SECRET) == value
                assert await read(KEY, stored, SECRET, NEXT) == value
                assert await read(KEY, stored, OTHER, NEXT, SECRET) == value
            assert await read(KEY, old, NEXT) == refused(value)
            assert await read(KEY, new, SECRET) == refused(value)

    run(test())


@pytest.mark.parametrize("signer", [SECRET, NEXT])
def test_a_value_that_any_secret_signed_can_be_compared_and_set(signer: bytes) -> None:
    async def test() -> None:
        store = bare()
        await store.set_many([(KEY, await written(KEY, b"old", signer))], None)
        view = signed(store, NEXT, SECRET)
        assert not await view.compare_and_set(KEY, b"another", b"new", None)
        assert await view.compare_and_set(KEY, b"old", b"new", None)
        assert await value_of(store) == await written(KEY, b"new", NEXT)

    run(test())


@pytest.mark.parametrize("planted", [b"x" * 16, b"x" * 48, b"", b"\0", MAGIC, RECORD])
def test_what_is_not_signed_can_be_replaced_once_it_was_seen(planted: bytes) -> None:
    async def test() -> None:
        store = bare()
        view = signed(store)
        await store.set_many([(KEY, planted)], None)
        assert not await view.compare_and_set(KEY, planted + b"?", b"new", None)
        assert await value_of(store) == planted
        seen = await value_of(view)
        assert seen is not None
        assert await view.compare_and_set(KEY, seen, b"new", None)
        assert await value_of(view) == b"new"
        assert not await view.compare_and_set(KEY, seen, b"newer", None)

    run(test())


def test_of_what_changes_meanwhile_nothing_is_replaced() -> None:
    class Changing(MemoryStore):
        async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
            values = await super().get_many(keys)
            await self.set_many([(KEY, await written(KEY, b"changed"))], None)
            return values

    async def test() -> None:
        store = Changing(MemoryCache())
        await store.set_many([(KEY, await written(KEY, b"old"))], None)
        assert not await signed(store).compare_and_set(KEY, b"old", b"new", None)
        assert await value_of(signed(store)) == b"changed"

    run(test())


def test_the_bound_of_the_store_behind_it_is_its_own() -> None:
    assert signed(MemoryStore(MemoryCache(max_bytes=1000))).capacity == 1000


# -- a resource -----------------------------------------------------------------------------------


def resource(store: Store, key: str = KEY, ttl: float | None = 60) -> Resource:
    return Resource(
        store,
        key,
        needs=[VERSION],
        lifetimes=Lifetimes(ttl, 60),
        select=lambda names: digest([[name, "value"] for name in names]),
        max_variants=4,
    )


def entry(body: bytes = BODY, **fields: Any) -> Entry:
    common: dict[str, Any] = {
        "key": b"",
        "versions": {},
        "status": 200,
        "headers": (),
        "media_type": None,
        "charset": "utf-8",
        "streamed": True,
        "stored_at": 1234.5,
        "length": len(body),
        "generation": GENERATION,
    }
    if "segments" not in fields:
        common |= {"chunks": (len(body),), "body": body}
    return Entry(**{**common, **fields})


async def publish(
    store: Store, key: str = KEY, body: bytes = BODY, varies_on: frozenset[str] = frozenset()
) -> None:
    view = resource(store, key)
    await view.look_up()
    await view.begin()
    assert await view.publish(entry(body), varies_on) is None


async def publish_value(store: Store, key: str = KEY, payload: bytes = b"{}") -> None:
    view = resource(store, key)
    await view.look_up()
    await view.begin()
    assert await view.publish_value(payload, text=True) is None


async def look_up(store: Store, key: str = KEY) -> Found:
    return await resource(store, key).look_up()


async def body_of(store: Store, key: str = KEY) -> bytes | None:
    """The body that is served, None where there is none."""
    view = resource(store, key)
    found = await view.look_up()
    if not isinstance(found, Hit):
        return None
    replay = Replay(lambda: view, found)
    return await replay.whole() if await replay.open() else None


def _flip(value: bytes) -> list[bytes]:
    return [value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :] for at in range(len(value))]


@pytest.mark.parametrize("key", [KEY, VERSION])
def test_with_any_byte_of_a_record_or_a_version_changed_there_is_a_miss(key: str) -> None:
    async def test() -> None:
        store = bare()
        view = signed(store)
        await publish(view)
        assert await body_of(view) == BODY
        stored = await value_of(store, key)
        assert stored is not None
        for planted in _flip(stored):
            await store.set_many([(key, planted)], None)
            expected = Foreign() if key == KEY and not is_ours(planted) else Miss()
            assert await look_up(view) == expected
            left = await value_of(store, key)
            assert left == (None if is_ours(planted) and key == KEY else planted)
            await publish(view)
            assert await body_of(view) == BODY
            await store.set_many([(key, stored)], None)

    run(test())


PLANTED: dict[str, bytes] = {
    "16 bytes": b"v" * 16,
    "48 bytes": b"v" * 48,
    "nothing": b"",
    "JSON": b'{"a": 1}',
    "a pickle": pickle.dumps({"a": 1}),
    "our magic": MAGIC,
    "a record": RECORD,
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize("varies_on", [frozenset(), frozenset({"accept"})], ids=["one", "varied"])
def test_what_is_not_signed_is_a_miss_and_costs_a_run(
    planted: bytes, varies_on: frozenset[str]
) -> None:
    async def test() -> None:
        for key in (KEY, VERSION, f"{KEY}:revoked"):
            store = bare()
            view = signed(store)
            await publish(view, varies_on=varies_on)
            assert await body_of(view) == BODY
            await store.set_many([(key, planted)], None)
            assert isinstance(await look_up(view), Miss | Foreign)
            await publish(view, body=b"another", varies_on=varies_on)
            assert await body_of(view) == b"another"

    run(test())


def _forged(store: MemoryStore, record: Callable[[bytes, dict[str, bytes]], Record]) -> bytes:
    """A record for the versions that are there, as somebody writes it who can read the cache."""
    stored = store._memory.get(VERSION)
    return encode_record(record(key_digest(KEY), {VERSION: stored[:16]}))


FORGED: dict[str, Callable[[bytes, dict[str, bytes]], Record]] = {
    "entry": lambda key, versions: entry(b"forged", key=key, versions=versions),
    "marker": lambda key, versions: Marker(key, versions, "status"),
    "value": lambda key, versions: Value(key, versions, pickle.dumps("forged"), False),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_record_that_is_right_but_not_signed_is_a_miss_and_is_deleted(kind: str) -> None:
    async def test() -> None:
        for more in (b"", bytes(32)):
            store = bare()
            view = signed(store)
            await publish(view)
            planted = _forged(store, FORGED[kind])
            await store.set_many([(KEY, planted + more)], None)
            assert await look_up(view) == Miss()
            assert await value_of(store) is None
            # Without a secret it would have been one.
            version = await value_of(store, VERSION)
            assert version is not None
            await store.set_many([(KEY, planted), (VERSION, version[:16])], None)
            assert not isinstance(await look_up(store), Miss)

    run(test())


def test_an_unsigned_version_does_not_bring_an_old_entry_back_to_life() -> None:
    async def test() -> None:
        store = bare()
        view = signed(store)
        await publish(view)
        version = await value_of(store, VERSION)
        assert version is not None
        await renew_version(view, VERSION, Lifetimes(60, 60).versions)
        assert await body_of(view) is None
        await store.set_many([(VERSION, version[:16])], None)
        assert await body_of(view) is None

    run(test())


def test_with_a_secret_what_was_stored_without_one_is_a_miss_and_the_other_way_round() -> None:
    async def test() -> None:
        for first, second in ((False, True), (True, False)):
            store = bare()
            views: dict[bool, Store] = {False: store, True: signed(store)}
            await publish(views[first])
            assert await body_of(views[first]) == BODY
            assert await body_of(views[second]) is None
            await publish(views[second], body=b"another")
            assert await body_of(views[second]) == b"another"
            assert await body_of(views[first]) is None

    run(test())


def test_secrets_are_exchanged_without_a_miss() -> None:
    async def test() -> None:
        store = bare()
        old, both, new = signed(store), signed(store, NEXT, SECRET), signed(store, NEXT)
        varies_on = frozenset({"accept"})
        await publish(old)
        await publish(old, ANOTHER, varies_on=varies_on)
        for key in (KEY, ANOTHER):
            assert await body_of(both, key) == BODY
        await publish(both, ANOTHER, b"another", varies_on)
        assert await body_of(both, ANOTHER) == b"another"
        # What the old secret signed is gone with it, the version too.
        assert await body_of(new) is None
        await publish(new, body=b"new")
        assert await body_of(new) == b"new"
        assert await body_of(both) == b"new"

    run(test())


# -- one in the place of another ------------------------------------------------------------------


def test_two_records_of_one_cache_can_not_be_swapped() -> None:
    async def test() -> None:
        for put in (publish, publish_value):
            store = bare()
            view = signed(store)
            await put(view, KEY)
            await put(view, ANOTHER)
            one, another = await store.get_many([KEY, ANOTHER])
            assert one is not None
            assert another is not None
            await store.set_many([(KEY, another), (ANOTHER, one)], None)
            assert await look_up(view, KEY) == Miss()
            assert await look_up(view, ANOTHER) == Miss()
            assert await store.get_many([KEY, ANOTHER]) == [None, None]

    run(test())


def test_a_value_comes_back_unless_somebody_changed_it() -> None:
    async def test() -> None:
        store = bare()
        view = signed(store)
        await publish_value(view, payload=b'{"a": 1}')
        assert await look_up(view) == StoredValue(b'{"a": 1}', True)
        stored = await value_of(store)
        assert stored is not None
        for planted in _flip(stored)[8:]:
            await store.set_many([(KEY, planted)], None)
            assert await look_up(view) == Miss()

    run(test())


PARTS = (Segment((4,), True, b"the "), Segment((1, 3), False, b"body"))
OTHER_GENERATION = bytes(16)


async def in_segments(store: Store, key: str, generation: bytes, parts: Sequence[Segment]) -> None:
    values = [encode_segment(part, generation, index) for index, part in enumerate(parts)]
    keys = [segment_key(key, generation, index) for index in range(len(parts))]
    await store.set_many(list(zip(keys, values, strict=True)), 60)
    prefixes = [read_prefix(value) for value in values]
    table = tuple((prefix.body_length, prefix.body_checksum) for prefix in prefixes)
    view = resource(store, key)
    await view.look_up()
    await view.begin()
    made = entry(segments=table, generation=generation)
    assert await view.publish(made, frozenset()) is None


def test_segments_can_not_be_taken_from_another_run_another_place_or_another_key() -> None:
    async def test() -> None:
        store = bare()
        view = signed(store)
        part = Segment((4,), False, b"the ")
        same = (part, part)  # of equal lengths and checksums
        await in_segments(view, ANOTHER, GENERATION, same)
        await in_segments(view, KEY, OTHER_GENERATION, same)
        old = [segment_key(KEY, OTHER_GENERATION, index) for index in range(2)]
        of_another = segment_key(ANOTHER, GENERATION, 0)
        await in_segments(view, KEY, GENERATION, same)
        keys = [segment_key(KEY, GENERATION, index) for index in range(2)]
        assert await body_of(view) == b"the the "
        sound = await value_of(store, keys[0])
        record = await value_of(store)
        assert sound is not None
        assert record is not None
        for taken in (old[0], keys[1], of_another):
            planted = await value_of(store, taken)
            assert planted is not None
            await store.set_many([(keys[0], planted)], None)
            assert await value_of(view, keys[0]) == UNSOUND
            assert await body_of(view) is None
            await store.set_many([(keys[0], sound), (KEY, record)], None)
            assert await body_of(view) == b"the the "

    run(test())


def test_a_segment_with_any_byte_changed_is_not_served() -> None:
    async def test() -> None:
        store = bare()
        view = signed(store)
        await in_segments(view, KEY, GENERATION, PARTS)
        assert await body_of(view) == BODY
        key = segment_key(KEY, GENERATION, 1)
        stored, record = await store.get_many([key, KEY])
        assert stored is not None
        assert record is not None
        for planted in _flip(stored):
            await store.set_many([(key, planted), (KEY, record)], None)
            assert await body_of(view) is None
            assert await value_of(store) is None

    run(test())


@examples(300)
@given(
    st.sampled_from([KEY, VERSION, f"{KEY}:revoked"]),
    st.binary(max_size=100)
    | st.binary(max_size=100).map(lambda data: MAGIC + data)
    | st.sampled_from([*SEEDS, *PLANTED.values()]),
)
def test_whatever_is_planted_nothing_is_served_and_nothing_of_others_is_deleted(
    key: str, planted: bytes
) -> None:
    async def test() -> None:
        store = bare()
        view = signed(store)
        await publish(view)
        await store.set_many([(key, planted)], None)
        assert isinstance(await look_up(view), Miss | Foreign)
        left = await value_of(store, key)
        assert left == (None if key == KEY and is_ours(planted) else planted)
        await publish(view, body=b"another")
        assert await body_of(view) == b"another"

    run(test())


def test_a_value_is_not_published_under_a_version_that_was_renewed() -> None:
    async def test() -> None:
        view = signed(bare())
        before = resource(view)
        await before.look_up()
        await before.begin()
        await renew_version(view, VERSION, Lifetimes(60, 60).versions)
        assert await before.publish_value(b"{}", text=True) is NotCached.OVERTAKEN
        assert await look_up(view) == Miss()

    run(test())


def test_records_are_what_is_signed() -> None:
    async def test() -> None:
        store = bare()
        await publish(signed(store))
        stored = await value_of(store)
        assert stored is not None
        assert isinstance(decode_record(stored[:-32]), Entry)

    run(test())
