"""Let cashews' own decorators store responses, also streams: `install()` once, at the start."""

from __future__ import annotations

import asyncio
import struct
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache, partial, wraps
from itertools import pairwise
from typing import Any, cast

from cashews import decorators
from cashews.backends.interface import Backend
from cashews.backends.memory import Memory
from cashews.contrib import fastapi as contrib
from cashews.decorators.cache import hit
from cashews.exceptions import UnSecureDataError
from cashews.serialize import DecodeError, Serializer
from starlette.requests import Request
from starlette.responses import Response

from stream_cached.cashews import recording
from stream_cached.cashews.entries import OPTIONS, CashewsEntries, EntryRef, reporter_of, service_of
from stream_cached.cashews.recording import (
    Found,
    Once,
    Recording,
    Shared,
    is_for_one,
    is_stream,
    own,
    sending_of,
    share,
    type_of,
)
from stream_cached.entries.ids import new_id
from stream_cached.errors import ConfigurationError, StoreError
from stream_cached.format.codec import UnsoundError, decode_record, encode_record
from stream_cached.format.envelope import is_ours, key_digest
from stream_cached.format.records import Entry
from stream_cached.http.cache_status import cache_status
from stream_cached.http.headers import content_length, vary_names
from stream_cached.http.policy import why_not_stored
from stream_cached.http.reasons import Finding, NotCached
from stream_cached.responses.stored import stored_response

#: Stands before what is written here. No pickle begins like this, nor does JSON: cashews unpickles
#: what it reads before it looks for a decoder.
_NAME = b"~stream_cached"
_PREFIX = _NAME + b":"

#: What cashews' own decoder reads.
_THEIR_NAME = b"StreamingResponse"

#: A pointer: the places of the newest run and of some before it, the newest first.
_POINTER = b"stream 1\n"
_PLACE = struct.Struct(">16sd")

#: Of how many other runs that are not stored yet a pointer tells: those of other processes.
_OTHERS = 7

#: Stands for a response that is not stored.
_NOTHING = b"nothing 1\n"

_HIT = b"cache-status", cache_status(hit=True).encode()

_INSTEAD = "use @stream_cached.cashews.stream_cached(cache, ttl=...{}) instead"

_Encode = Callable[[Serializer, Backend, str, Any, float | None], Awaitable[bytes | None]]

#: What was there before `install`: puts each of them back.
_undo: list[Callable[[], object]] = []


def install() -> None:
    """
    Let cashews' own decorators store what Starlette's responses send, byte for byte.

    `@cache(...)`, `@cache.hit` and `@cache.failover` then store streams of every kind while they
    are sent, and answer with them once they are complete; until then, whoever asks in this process
    joins the run. What must not be stored (Set-Cookie, `private`, `no-store`, a status that is not
    cacheable, any Vary) is not, and said once in the log. `@cache.early`, `@cache.soft` and
    `client_side=True` raise a `ConfigurationError` over a stream, since they keep the object.

    The keys are cashews': who may be given what stands under one is not looked at. Call it before
    anything is decorated: of a function that was decorated earlier, with `protected=True`, several
    callers may be given one stream that is not stored. Only the first of them gets its body; the
    others get an error, or an empty body where `condition` or `cache.disable` keeps it from us.

    Doing it twice does no harm. `uninstall` undoes it.
    """
    if _undo:
        return
    _replace(Serializer, "_custom_encode", _encoding)
    _replace(Serializer, "_decode", _not_unpickling)
    _replace(Serializer, "decode", _missing_what_is_unsound)
    _replace(Memory, "expire", _keeping_bytes)
    _replace(decorators, "thunder_protection", _protecting)
    _replace(hit, "_get_and_save", _saving)
    _replace(Request, "is_disconnected", _shielding)
    _replace(contrib, "_get_etag", _tagging)
    names = Serializer._type_mapping
    theirs = names.pop(_THEIR_NAME, None)
    names[_NAME] = (cast(Any, _no_encoder), _decode)
    _undo.append(partial(names.pop, _NAME, None))
    if theirs is not None:
        _undo.append(partial(names.__setitem__, _THEIR_NAME, theirs))


def uninstall() -> None:
    """Put back everything that `install` has replaced; what it has stored are misses, then."""
    while _undo:
        _undo.pop()()
    # What was said once may be said again.
    service_of.cache_clear()
    reporter_of.cache_clear()


def _replace(owner: Any, name: str, replacement: Callable[[Any], Any]) -> None:
    original = vars(owner)[name]
    setattr(owner, name, replacement(original))
    _undo.append(partial(setattr, owner, name, original))


# -- what is replaced ---------------------------------------------------------------------------


def _encoding(original: _Encode) -> _Encode:
    async def _custom_encode(
        self: Serializer, backend: Backend, key: str, value: Any, expire: float | None
    ) -> bytes | None:
        if isinstance(value, Response) and type_of(value).__name__.encode() in self._type_mapping:
            # The application has registered a codec of its own.
            return await original(self, backend, key, value, expire)
        if isinstance(value, Response):
            encoded = await _encode(value, backend, key, expire)
            return None if encoded is None else _PREFIX + encoded
        if isinstance(value, list | tuple) and any(is_stream(part) for part in value):
            raise ConfigurationError(
                "@cache.early and @cache.soft can't store streams: "
                + _INSTEAD.format(", stale_while_revalidate=..., stale_if_error=...")
            )
        return await original(self, backend, key, value, expire)

    return _custom_encode


def _not_unpickling(original: Callable[[Serializer, bytes], Any]) -> Any:
    def _decode(self: Serializer, value: bytes) -> Any:
        # The picklers of JSON and of SQLAlchemy raise over them what cashews does not expect.
        if value.startswith((_PREFIX, _THEIR_NAME + b":")):
            return value
        return original(self, value)

    return _decode


def _missing_what_is_unsound(original: Callable[..., Awaitable[Any]]) -> Any:
    async def decode(self: Serializer, backend: Backend, key: str, value: Any, default: Any) -> Any:
        try:
            return await original(self, backend, key, value, default)
        except (EOFError, zlib.error):
            # What is compressed is cut, or altered.
            return default
        except UnSecureDataError:
            # Of another secret. Over a value of its own, cashews raises.
            unsigned = value.partition(b"_")[2]
            with suppress(Exception):
                unsigned = self._compressor.decompress(unsigned)
            if unsigned.startswith(_PREFIX):
                return default
            raise

    return decode


def _keeping_bytes(original: Callable[[Memory, str, float], Awaitable[None]]) -> Any:
    async def expire(self: Memory, key: str, timeout: float) -> None:
        _, value = self.store.get(key, (None, None))
        if not isinstance(value, bytes) or not await self._key_exist(key):
            await original(self, key, timeout)
            return
        # It would put there what it has made of it: one object for all.
        self._set(key, value, timeout)

    return expire


def _protecting(original: Callable[..., Any]) -> Any:
    def thunder_protection(key: str | None = None) -> Any:
        protect = original(key=key)

        def decorate(func: Callable[..., Any]) -> Any:
            protected = protect(func)

            @wraps(func)
            async def call(*args: Any, **kwargs: Any) -> Any:
                result = await protected(*args, **kwargs)
                if not isinstance(result, Response):
                    return result
                sending = sending_of(result)
                if isinstance(sending, Found):
                    # Each of them may be stored once more, and has a body to read.
                    found = await sending.take(result)
                    return await func(*args, **kwargs) if found is None else found
                if is_stream(result) and is_for_one(result):
                    if "_stream_cached_is_taken" in result.__dict__:
                        return await func(*args, **kwargs)
                    result.__dict__["_stream_cached_is_taken"] = True
                # Others are given the same: what happens to this one is not to show on theirs.
                return own(result)

            return call

        return decorate

    return thunder_protection


def _saving(original: Callable[..., Awaitable[Any]]) -> Any:
    async def _get_and_save(*args: Any, **kwargs: Any) -> Any:
        task = asyncio.current_task()
        coroutine: Any = None if task is None else task.get_coro()
        if getattr(coroutine, "cr_code", None) is not _get_and_save.__code__:
            return await original(*args, **kwargs)
        # A task of its own makes it anew: nobody is sent it, and whose request it is made for may
        # long have left.
        with recording.shielded():
            result = await original(*args, **kwargs)
            sending = sending_of(result)
            if isinstance(sending, Recording):
                await sending.run_unsent()
        return result

    return _get_and_save


def _shielding(original: Callable[[Request], Awaitable[bool]]) -> Any:
    async def is_disconnected(self: Request) -> bool:
        # A body that ends since its client has left would be stored, and be short.
        return False if recording.is_shielded(self) else await original(self)

    return is_disconnected


def _tagging(original: Callable[[Any], str]) -> Callable[[Any], str]:
    def _get_etag(cached_data: Any) -> str:
        if cached_data is not None and not is_stream(cached_data):
            return original(cached_data)
        # There is no body at hand: that of one run is not that of another. Nor is there where
        # reading is switched off for the request, and so nothing was found.
        generation = getattr(cached_data, "generation", None)
        return original(new_id() if generation is None else generation)

    return _get_etag


# -- to bytes -----------------------------------------------------------------------------------


async def _no_encoder(*args: Any) -> bytes:
    raise AssertionError("what it encodes is found by its type")


async def _encode(
    response: Response, backend: Backend, key: str, expire: float | None
) -> bytes | None:
    """Return what stands for a response; None where cashews is to do as it does without us."""
    if hasattr(backend, "_local_cache"):
        if not is_stream(response):
            return None
        # It keeps the object itself, before it asks for its bytes.
        local, prefix = cast(Any, backend)._local_cache, cast(Any, backend)._prefix
        await local.delete(key.removeprefix(prefix))
        raise ConfigurationError("client_side=True can't store streams: " + _INSTEAD.format(""))
    finding = _why_not_stored(response)
    if finding is not None:
        reporter_of(_function_of(key)).not_cached(Finding(finding))
    if not is_stream(response):
        return _as_record(response, key) if finding is None else _NOTHING
    shelf = CashewsEntries.of(backend)
    previous = await _places_before(shelf, key)
    if finding is not None:
        if is_for_one(response) and not isinstance(response, Shared):
            share(response, Once(response))
        return _as_pointer(previous)
    place = EntryRef.new(shelf, key, expire)
    _record(response, place, previous)
    return _as_pointer([place, *previous])


def _why_not_stored(response: Response) -> NotCached | None:
    headers = response.raw_headers
    if (content_length(headers) or 0) > OPTIONS.limits.max_body:
        return NotCached.BODY_SIZE
    reason = why_not_stored(response.status_code, headers, OPTIONS.statuses)
    # What the key is made of does not show here.
    return NotCached.NO_REQUEST if reason is None and vary_names(headers) else reason


def _as_record(response: Response, key: str) -> bytes:
    body = bytes(response.body)
    return encode_record(
        Entry(
            key=key_digest(key),
            versions={},
            status=response.status_code,
            headers=tuple(response.raw_headers),
            media_type=response.media_type,
            charset=response.charset,
            streamed=False,
            stored_at=time.time(),
            length=len(body),
            generation=new_id(),
            chunks=(len(body),),
            body=body,
        )
    )


def _as_pointer(places: list[EntryRef]) -> bytes:
    packed = [_PLACE.pack(place.generation, place.expire or 0.0) for place in places]
    return b"".join((_POINTER, *packed))


def _record(response: Response, place: EntryRef, previous: list[EntryRef]) -> None:
    async def retire() -> None:
        for old in previous:
            with suppress(StoreError):
                await old.retire()

    sending = sending_of(response)
    if (
        not isinstance(response, Shared)
        or not isinstance(sending, Recording)
        or not sending.is_of(response)
    ):
        sending = Recording(response, service_of(_function_of(place.key)))
    sending.add(place, retire)


async def _places_before(shelf: CashewsEntries, key: str) -> list[EntryRef]:
    """Return the places of what stands under a key now, which is good until there is a new one."""
    _, value = await shelf.value(key)
    places = _places(value.removeprefix(_PREFIX), shelf, key)
    # One that is stored makes older ones needless; of the others, it is not known how they ended.
    stored = (await recording.those_with_entries(places))[:1]
    others = places[: places.index(stored[0])] if stored else places
    return [*others[:_OTHERS], *stored]


@lru_cache(maxsize=1000)
def _function_of(key: str) -> str:
    """Return the function that cashews has named a key after, as far as it shows."""
    parts = key.split(":")
    for module, name in pairwise(parts[:3]):
        if module in sys.modules:
            return f"{module}.{name}"
    return "cashews"


# -- and back -----------------------------------------------------------------------------------


async def _decode(value: bytes, backend: Backend, key: str) -> Response:
    if is_ours(value):
        return _from_record(value, key)
    if hasattr(backend, "_local_cache") or _is_sweeping():
        raise DecodeError
    shelf = CashewsEntries.of(backend)
    find = partial(recording.find, _places(value, shelf, key), service_of(_function_of(key)))
    response = await find()
    if response is None:
        raise DecodeError
    return Found.shared(response, find)


def _from_record(value: bytes, key: str) -> Response:
    try:
        entry = decode_record(value)
    except UnsoundError as exc:
        raise DecodeError from exc
    if not isinstance(entry, Entry) or entry.key != key_digest(key):
        raise DecodeError
    return stored_response(entry, [*entry.headers, _HIT], entry.body)


def _places(value: bytes, shelf: CashewsEntries, key: str) -> list[EntryRef]:
    packed = value.removeprefix(_POINTER)
    if packed == value or len(packed) % _PLACE.size:
        return []
    return [EntryRef(shelf, key, made, ttl or None) for made, ttl in _PLACE.iter_unpack(packed)]


def _is_sweeping() -> bool:
    """Whether it is cashews' memory that reads, each second everything, to drop what is expired."""
    task = asyncio.current_task()
    code = getattr(None if task is None else task.get_coro(), "cr_code", None)
    return code is Memory._remove_expired.__code__
