"""Responses as values of cashews: encodes them to bytes, and decodes them."""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NoReturn, cast

from cashews.backends.interface import Backend
from cashews.backends.memory import Memory
from cashews.serialize import DecodeError
from starlette.responses import Response

from stream_cached.cashews.entries import OPTIONS, CashewsEntries, EntryRef, reporter_of, service_of
from stream_cached.cashews.lookup import find_to_share, refs_with_entries
from stream_cached.cashews.recording import Recording
from stream_cached.cashews.shared import (
    SharedStream,
    UnstoredStream,
    is_for_one,
    is_stream,
    sender_of,
    share,
)
from stream_cached.entries.ids import new_id
from stream_cached.errors import ConfigurationError
from stream_cached.format.codec import UnsoundError, decode_record, encode_record
from stream_cached.format.envelope import is_ours, key_digest
from stream_cached.format.records import Entry
from stream_cached.http.cache_status import cache_status
from stream_cached.http.freshness import aged
from stream_cached.http.headers import (
    answers_ranges,
    content_length,
    end_to_end,
    vary_names,
)
from stream_cached.http.policy import why_not_stored
from stream_cached.http.reasons import Finding, NotCached
from stream_cached.responses.stored import stored_response

#: The name of the decoder in a value's prefix. cashews unpickles a value before it looks for a
#: decoder, so no pickle and no JSON may begin like this.
NAME = b"~stream_cached"
PREFIX = NAME + b":"

#: A pointer lists the entries of the newest run and of some earlier runs, the newest first.
_POINTER = b"stream 1\n"
_REF = struct.Struct(">16sd")

#: How many runs without an entry yet a pointer lists beside the newest. They are those of other
#: processes.
_MAX_RUNS = 7

#: The value for a response that is not stored.
_NOT_STORED = b"nothing 1\n"

_HIT = b"cache-status", cache_status(hit=True).encode()

_REPLACEMENT = "use @stream_cached.cashews.stream_cached(cache, ttl=...{}) instead"


# -- to bytes -----------------------------------------------------------------------------------


async def encode(
    response: Response, backend: Backend, key: str, expire: float | None
) -> bytes | None:
    """Return the value for a response; None if cashews encodes the response itself."""
    if hasattr(backend, "_local_cache"):
        if is_stream(response):
            await _refuse_local_cache(backend, key)
        return None
    reason = _why_not_stored(response)
    if reason is not None:
        reporter_of(function_of(key)).not_cached(Finding(reason))
    if not is_stream(response):
        return _pack_record(response, key) if reason is None else _NOT_STORED
    entries = CashewsEntries.of(backend)
    previous = await _previous_refs(entries, key)
    if reason is not None:
        if is_for_one(response) and not isinstance(response, SharedStream):
            share(response, UnstoredStream(response))
        return _pack_refs(previous)
    ref = EntryRef.new(entries, key, expire)
    sender = sender_of(response)
    if not isinstance(sender, Recording) or not sender.is_unchanged(response):
        sender = Recording(response, service_of(function_of(key)))
    sender.add(ref, previous)
    return _pack_refs([ref, *previous])


def refuse_list() -> NoReturn:
    """Raise the error for a list of values that contains a stream."""
    options = ", stale_while_revalidate=..., stale_if_error=..."
    raise ConfigurationError(
        f"@cache.early and @cache.soft can't store streams: {_REPLACEMENT.format(options)}"
    )


async def _refuse_local_cache(backend: Backend, key: str) -> NoReturn:
    """Raise the error for a stream in a cache with client_side=True."""
    # The backend has put the response object into its memory already.
    local, prefix = cast(Any, backend)._local_cache, cast(Any, backend)._prefix
    await local.delete(key.removeprefix(prefix))
    raise ConfigurationError(f"client_side=True can't store streams: {_REPLACEMENT.format('')}")


def _why_not_stored(response: Response) -> NotCached | None:
    headers = response.raw_headers
    if (content_length(headers) or 0) > OPTIONS.limits.max_body:
        return NotCached.BODY_SIZE
    if answers_ranges(headers):
        # cashews answers a hit without a look at the request, which may ask for a range.
        return NotCached.RANGE
    reason = why_not_stored(response.status_code, headers, OPTIONS.statuses)
    # The values of the headers in Vary are unknown here.
    return NotCached.NO_REQUEST if reason is None and vary_names(headers) else reason


def _pack_record(response: Response, key: str) -> bytes:
    body = bytes(response.body)
    return encode_record(
        Entry(
            key=key_digest(key),
            versions={},
            status=response.status_code,
            headers=tuple(end_to_end(response.raw_headers)),
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


def _pack_refs(refs: Sequence[EntryRef]) -> bytes:
    packed = [_REF.pack(ref.generation, ref.expire or 0.0) for ref in refs]
    return b"".join((_POINTER, *packed))


async def _previous_refs(entries: CashewsEntries, key: str) -> list[EntryRef]:
    """Return what the new pointer keeps of the current one, for use until the new entry exists."""
    _, value = await entries.read(key)
    refs = unpack_refs(value.removeprefix(PREFIX), entries, key)
    # The newest entry replaces all older ones. Runs without an entry may still be running.
    stored = (await refs_with_entries(refs))[:1]
    runs = refs[: refs.index(stored[0])] if stored else refs
    return [*runs[:_MAX_RUNS], *stored]


@lru_cache(maxsize=1000)
def function_of(key: str) -> str:
    """Return the function in a default key of cashews; "cashews" for a key without one."""
    parts = key.split(":")
    for module, name in pairwise(parts[:3]):
        if module in sys.modules:
            return f"{module}.{name}"
    return "cashews"


# -- from bytes ---------------------------------------------------------------------------------


async def decode(value: bytes, backend: Backend, key: str) -> Response:
    """Return the response of a value without its prefix; raise `DecodeError` if there is none."""
    if is_ours(value):
        return _unpack_record(value, key)
    if hasattr(backend, "_local_cache") or _is_memory_sweep():
        raise DecodeError
    refs = unpack_refs(value, CashewsEntries.of(backend), key)
    response = await find_to_share(refs, service_of(function_of(key)))
    if response is None:
        raise DecodeError
    return response


def _unpack_record(value: bytes, key: str) -> Response:
    try:
        entry = decode_record(value)
    except UnsoundError as exc:
        raise DecodeError from exc
    if not isinstance(entry, Entry) or entry.key != key_digest(key):
        raise DecodeError
    headers = aged(entry.headers, time.time() - entry.stored_at)
    return stored_response(entry, [*headers, _HIT], entry.body)


def unpack_refs(value: bytes, entries: CashewsEntries, key: str) -> list[EntryRef]:
    """Return the references in a pointer; none for any other value."""
    packed = value.removeprefix(_POINTER)
    if packed == value or len(packed) % _REF.size:
        return []
    return [
        EntryRef(entries, key, generation, expire or None)
        for generation, expire in _REF.iter_unpack(packed)
    ]


def _is_memory_sweep() -> bool:
    """Whether cashews' memory reads all values to drop the expired ones, as it does each second."""
    task = asyncio.current_task()
    code = getattr(None if task is None else task.get_coro(), "cr_code", None)
    return code is Memory._remove_expired.__code__
