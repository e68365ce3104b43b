"""What one call uses of its cache: plain values, and the hooks of plugins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiocache.plugins import BasePlugin
from aiocache.serializers import NullSerializer

from stream_cached.backends.binding import Backend
from stream_cached.backends.pending import InvalidatedBefore
from stream_cached.connections.deadline import Deadline
from stream_cached.engine.copies import copied
from stream_cached.entries.found import StoredValue
from stream_cached.entries.resource import Resource
from stream_cached.errors import StoreError
from stream_cached.events import Reporter
from stream_cached.format.envelope import is_ours
from stream_cached.runs.run import Run
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from stream_cached.engine.outcome import Call, View


_NO_BOUND = nullcontext()


@dataclass(slots=True)
class Use:
    """What one call uses of its cache."""

    backend: Backend
    """The cache, or the memory that stands in for it."""
    deadline: Deadline
    """How long the store may still hold up the call."""
    configured: Any
    """The cache as it was configured: plugins see this one."""
    invalidated_before: InvalidatedBefore
    reporter: Reporter

    def within(self) -> AbstractContextManager[None]:
        """Return what bounds the time of an operation of the engine: a memory needs none."""
        return _NO_BOUND if self.backend.server is None else self.deadline

    @property
    def keeps_objects(self) -> bool:
        """Whether the cache keeps values as they are, and not what a serializer makes of them."""
        return type(getattr(self.backend.cache, "serializer", None)) is NullSerializer

    async def get(self, key: str) -> Any:
        """Return a plain value by the cache's public `get`; None if there is none."""
        cache = self.backend.cache
        try:
            with self.deadline:
                value = await cache.get(key)
            if isinstance(value, bytes) and is_ours(value):
                # The record of a response, which is no longer current.
                return None
            return copied(value) if self.keeps_objects else value
        except StoreError as exc:
            self.reporter.store_failed(exc, "reading")
        # As in aiocache: an exception of the cache or of the serializer is a miss.
        except Exception as exc:
            self.unreadable(exc)
        return None

    async def set(self, key: str, value: Any, ttl: float | None) -> None:
        backend = self.backend
        try:
            # Its caller may go on to change it.
            value = copied(value) if self.keeps_objects else value
            await backend.cache.set(key, value, ttl=backend.public_ttl(ttl))
            if not backend.is_fallback:
                self.invalidated_before.was_set(key)
        except StoreError as exc:
            self.reporter.store_failed(exc, "writing")
        # As in aiocache: the caller gets its value all the same.
        except Exception as exc:
            self.unwritable(exc, value)

    def may_be_older(self, key: str, ttl: float | None) -> bool:
        """Whether a plain value may be one that was invalidated."""
        if self.backend.is_fallback:
            return False
        return self.invalidated_before.refuses(key, ttl)

    # -- in signed records ------------------------------------------------------------------

    def loaded(self, stored: StoredValue) -> Any:
        """Return the value of a signed record; None if the serializer refuses it."""
        try:
            text = stored.payload.decode("utf-8", "surrogatepass") if stored.text else None
            return self.configured.serializer.loads(stored.payload if text is None else text)
        # See above.
        except Exception as exc:
            self.unreadable(exc)
            return None

    async def publish(self, resource: Resource, value: Any) -> None:
        try:
            dumped = self.configured.serializer.dumps(value)
            is_text = isinstance(dumped, str)
            payload = dumped.encode("utf-8", "surrogatepass") if is_text else dumped
            if not isinstance(payload, bytes):
                self.reporter.warn(
                    f"the serializer returned {type(payload).__name__}, which can't be signed, and "
                    "so not stored: pass a serializer that returns str or bytes"
                )
                return
            if await resource.publish_value(payload, text=is_text) is None:
                await self.was_set(resource.key)
        except StoreError as exc:
            self.reporter.store_failed(exc, "writing")
        # See above.
        except Exception as exc:
            self.unwritable(exc, value)

    def unreadable(self, exc: Exception) -> None:
        self.reporter.warn(
            f"a plain value could not be read: {type(exc).__name__}. It counts as a miss, and the "
            "next value replaces it"
        )

    def unwritable(self, exc: Exception, value: Any) -> None:
        kind = type(value).__qualname__
        self.reporter.warn(
            f"a plain value of type {kind} could not be stored: {type(exc).__name__}. Let the "
            "function return what the cache and its serializer take, or a Response"
        )

    # -- plugins ----------------------------------------------------------------------------

    async def was_set(self, key: str) -> None:
        """Tell the log and the plugins of a write that bypassed the cache's `set`."""
        self.reporter.store_works("writing")
        await self.call_plugins("set", key, b"", took=0.0, ret=True)

    async def call_plugins(self, command: str, *args: Any, took: float, ret: Any) -> None:
        """Call the plugins' hooks, which direct calls of the store bypass."""
        cache = self.configured
        plugin: BasePlugin | None = None
        try:
            for plugin in cache.plugins or ():
                await getattr(plugin, f"pre_{command}")(cache, *args)
            for plugin in cache.plugins or ():
                await getattr(plugin, f"post_{command}")(cache, *args, took=took, ret=ret)
        # A plugin is a user's code, and must not fail a request.
        except Exception as exc:
            name, kind = type(plugin).__name__, type(exc).__name__
            self.reporter.warn(
                f"the plugin {name} raised {kind} in a hook of {command}, so that it and those "
                "after it miss this call: let its hooks handle what they raise"
            )


async def store_value(call: Call, view: View, value: Any, run: Run | None, *, wait: bool) -> None:
    """Store a plain value; with `wait`, wait for that as long as the store may hold up a call."""
    if run is not None:
        run.bring_value(view.resource.versions)
    write = spawn(_store_value(call, view, value, run))
    if wait:
        await asyncio.wait({write}, timeout=view.use.deadline.left)


async def _store_value(call: Call, view: View, value: Any, run: Run | None) -> None:
    try:
        await _publish_value(call, view, value)
    finally:
        if run is not None:
            run.withdraw()
    if run is not None:
        await run.released()


async def _publish_value(call: Call, view: View, value: Any) -> None:
    hooks, use, resource = call.service.hooks, view.use, view.resource
    if hooks.signs_values(use.backend):
        await use.publish(resource, value)
        return
    try:
        is_current = await resource.is_current()
    except StoreError as exc:
        use.reporter.store_failed(exc, "writing")
        return
    if is_current:
        call.service.plain_values.are_there = True
        await hooks.save_value(use, resource.key, value)


#: What the running call uses of its cache.
_current: ContextVar[Use | None] = ContextVar("stream_cached_use", default=None)


def current_use() -> Use | None:
    """Return what the running call uses; None outside of one."""
    return _current.get()


@contextmanager
def using(use: Use) -> Iterator[None]:
    """Let plain values be read from and written to what this call uses."""
    token = _current.set(use)
    try:
        yield
    finally:
        _current.reset(token)
