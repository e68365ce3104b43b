"""Patches cashews so that its own decorators store responses, streams included."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any, cast

from cashews import decorators
from cashews.backends.interface import Backend
from cashews.backends.memory import Memory
from cashews.contrib import fastapi as contrib
from cashews.decorators.cache import hit
from cashews.exceptions import UnSecureDataError
from cashews.serialize import Serializer
from cashews.wrapper.commands import CommandWrapper
from cashews.wrapper.decorators import DecoratorsWrapper
from starlette.requests import Request
from starlette.responses import Response

from stream_cached.cashews.encoding import NAME, PREFIX, decode, encode, refuse_list
from stream_cached.cashews.entries import reporter_of, service_of
from stream_cached.cashews.lookup import StoredStream
from stream_cached.cashews.recording import Recording
from stream_cached.cashews.shared import (
    copy_of,
    hand_out,
    is_for_one,
    is_stream,
    sender_of,
    type_of,
)
from stream_cached.cashews.shield import is_shielded, shield_task
from stream_cached.cashews.uncached import patch_get, patch_iterator, patch_set, patch_wrap
from stream_cached.entries.ids import new_id

#: The name of cashews' own decoder for streams.
_CASHEWS_NAME = b"StreamingResponse"

_Encode = Callable[[Serializer, Backend, str, Any, float | None], Awaitable[bytes | None]]

#: Restores what the patches have replaced.
_undo: list[Callable[[], object]] = []


def install() -> None:
    """
    Patch cashews so that its own decorators store responses byte for byte, streams included.

    `@cache(...)`, `@cache.hit` and `@cache.failover` then record a stream while it is sent, and
    serve it once its body is complete; until then, requests in the same process join the run. A
    response that must not be shared (Set-Cookie, `private`, `no-store`, any Vary) is not stored,
    and the log says so once. As in cashews, all statuses are stored (except 206 and 304, which are
    parts of another response), and `condition` decides. `@cache.early`, `@cache.soft` and
    `client_side=True` keep the response object: for a stream, they raise `ConfigurationError` at
    the first call.

    The keys are those of cashews, and the key alone decides which users share a response. A call
    whose key would hold a Request, or an object's address in memory, is not cached, and the log
    says so once: Python uses an address again, so that two calls could have one key.

    Call `install` before functions are decorated. If a function was decorated earlier, only a key
    that shows an address is refused. With `protected=True`, concurrent callers of such a function
    may be given one stream that is not stored: the first one gets the body, the others get an
    error, or an empty body if `condition` or `cache.disable` prevents the storing.

    A second call has no effect. `uninstall` removes the patches.
    """
    if _undo:
        return
    _replace(Serializer, "_custom_encode", _patch_custom_encode)
    _replace(Serializer, "_decode", _patch_unpickling)
    _replace(Serializer, "decode", _patch_decode)
    _replace(Memory, "expire", _patch_memory_expire)
    _replace(decorators, "thunder_protection", _patch_thunder_protection)
    _replace(DecoratorsWrapper, "_wrap", patch_wrap)
    _replace(DecoratorsWrapper, "_wrap_with_condition", patch_wrap)
    _replace(DecoratorsWrapper, "iterator", patch_iterator)
    _replace(CommandWrapper, "get", patch_get)
    _replace(CommandWrapper, "set", patch_set)
    _replace(hit, "_get_and_save", _patch_get_and_save)
    _replace(Request, "is_disconnected", _patch_is_disconnected)
    _replace(contrib, "_get_etag", _patch_get_etag)
    codecs = Serializer._type_mapping
    original = codecs.pop(_CASHEWS_NAME, None)
    codecs[NAME] = (cast(Any, _no_encoder), decode)
    _undo.append(partial(codecs.pop, NAME, None))
    if original is not None:
        _undo.append(partial(codecs.__setitem__, _CASHEWS_NAME, original))


def uninstall() -> None:
    """Remove the patches of `install`. The responses stored under them are misses from then on."""
    while _undo:
        _undo.pop()()
    # After the next `install`, each reason is logged once more.
    service_of.cache_clear()
    reporter_of.cache_clear()


def _replace(owner: Any, name: str, patch: Callable[[Any], Any]) -> None:
    original = vars(owner)[name]
    setattr(owner, name, patch(original))
    _undo.append(partial(setattr, owner, name, original))


# -- the serializer -----------------------------------------------------------------------------


async def _no_encoder(*args: Any) -> bytes:
    raise AssertionError("`_custom_encode` encodes responses before it looks for an encoder")


def _patch_custom_encode(original: _Encode) -> _Encode:
    async def _custom_encode(
        self: Serializer, backend: Backend, key: str, value: Any, expire: float | None
    ) -> bytes | None:
        if isinstance(value, Response) and type_of(value).__name__.encode() in self._type_mapping:
            # The application has registered its own encoder for this class.
            return await original(self, backend, key, value, expire)
        if isinstance(value, Response):
            encoded = await encode(value, backend, key, expire)
            return None if encoded is None else PREFIX + encoded
        if isinstance(value, list | tuple) and any(is_stream(part) for part in value):
            refuse_list()
        return await original(self, backend, key, value, expire)

    return _custom_encode


def _patch_unpickling(original: Callable[[Serializer, bytes], Any]) -> Any:
    def _decode(self: Serializer, value: bytes) -> Any:
        # The picklers for JSON and SQLAlchemy raise errors for these bytes that cashews does not
        # catch.
        if value.startswith((PREFIX, _CASHEWS_NAME + b":")):
            return value
        return original(self, value)

    return _decode


def _patch_decode(original: Callable[..., Awaitable[Any]]) -> Any:
    async def decode(self: Serializer, backend: Backend, key: str, value: Any, default: Any) -> Any:
        try:
            return await original(self, backend, key, value, default)
        except (EOFError, zlib.error):
            # The compressed value is truncated or damaged.
            return default
        except UnSecureDataError:
            # A response that was signed with another secret is a miss. For its own values, cashews
            # raises.
            unsigned = value.partition(b"_")[2]
            with suppress(Exception):
                unsigned = self._compressor.decompress(unsigned)
            if unsigned.startswith(PREFIX):
                return default
            raise

    return decode


def _patch_memory_expire(original: Callable[[Memory, str, float], Awaitable[None]]) -> Any:
    async def expire(self: Memory, key: str, timeout: float) -> None:
        _, value = self.store.get(key, (None, None))
        if not isinstance(value, bytes) or not await self._key_exist(key):
            await original(self, key, timeout)
            return
        # The original would store the decoded response, one object for all callers.
        self._set(key, value, timeout)

    return expire


# -- the decorators -----------------------------------------------------------------------------


def _patch_thunder_protection(original: Callable[..., Any]) -> Any:
    def thunder_protection(key: str | None = None) -> Any:
        protect = original(key=key)

        def decorate(func: Callable[..., Any]) -> Any:
            protected = protect(func)

            @wraps(func)
            async def call(*args: Any, **kwargs: Any) -> Any:
                result = await protected(*args, **kwargs)
                if not isinstance(result, Response):
                    return result
                sender = sender_of(result)
                if isinstance(sender, StoredStream):
                    # Each caller needs a response of its own, which another cache may store.
                    response = await sender.take(result)
                    return await func(*args, **kwargs) if response is None else response
                if is_stream(result) and is_for_one(result) and not hand_out(result):
                    return await func(*args, **kwargs)
                # A caller may change its response, which must not affect the other callers.
                return copy_of(result)

            return call

        return decorate

    return thunder_protection


def _patch_get_and_save(original: Callable[..., Awaitable[Any]]) -> Any:
    async def _get_and_save(*args: Any, **kwargs: Any) -> Any:
        task = asyncio.current_task()
        coroutine: Any = None if task is None else task.get_coro()
        if getattr(coroutine, "cr_code", None) is not _get_and_save.__code__:
            return await original(*args, **kwargs)
        # In a task of its own, this is a refresh: no client is sent the response, and the client
        # of the request may have left.
        with shield_task():
            result = await original(*args, **kwargs)
            sender = sender_of(result)
            if isinstance(sender, Recording):
                await sender.run_unsent()
        return result

    return _get_and_save


# -- requests -----------------------------------------------------------------------------------


def _patch_is_disconnected(original: Callable[[Request], Awaitable[bool]]) -> Any:
    async def is_disconnected(self: Request) -> bool:
        # A function that ends its body because the client has left would store a short body.
        return False if is_shielded(self) else await original(self)

    return is_disconnected


def _patch_get_etag(original: Callable[[Any], str]) -> Callable[[Any], str]:
    def _get_etag(cached_data: Any) -> str:
        if cached_data is not None and not is_stream(cached_data):
            return original(cached_data)
        # The body is not in memory, so the ETag is made from the id of the run. Without a run
        # (None: reading is disabled for the request), no two responses may have the same ETag.
        generation = getattr(cached_data, "generation", None)
        return original(new_id() if generation is None else generation)

    return _get_etag
