"""Memory in the place of each store, for as long as one test runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stream_cached.backends.binding import Binding
from stream_cached.backends.resolve import LateCache, with_settings
from stream_cached.backends.urls import from_url
from stream_cached.bodies.watched import WatchedBodies
from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.engine.service import Service
from stream_cached.errors import ConfigurationError
from stream_cached.events import Reporter
from stream_cached.format.codec import decode_record
from stream_cached.format.envelope import is_ours
from stream_cached.format.items import is_of_items
from stream_cached.format.records import Entry
from stream_cached.format.validation import UnsoundError
from stream_cached.http.reasons import Finding
from stream_cached.request.known_calls import KnownCalls
from stream_cached.stores.clients import Clients, is_mock
from stream_cached.stores.memory import MemoryCache, partition_of
from stream_cached.stream_cache import StreamCache
from stream_cached.testing.clock import MovedTime

_bound = AiocacheHooks.binding


class Replaced:
    """What stands for the stores of one test."""

    def __init__(self, patch: pytest.MonkeyPatch, clock: MovedTime) -> None:
        self._patch = patch
        self._clock = clock
        self.url: str | None = None
        """The URL of a real store; None for memory."""
        self.namespace = f"test-{uuid.uuid4().hex[:12]}"
        self.is_disabled = False
        self.noted: list[Finding] = []
        """Why responses were not stored."""
        self._undo: list[Callable[[], None]] = []
        self._services: set[int] = set()
        self._cashews: Any = None
        """The backends of cashews; None where nobody has imported it."""
        self.forget()

    def forget(self) -> None:
        """Begin with nothing stored."""
        self.memory = MemoryCache(clock=self._clock.time)
        self._bindings: dict[int, tuple[AiocacheHooks, Binding]] = {}
        self._parts: dict[object, tuple[object, MemoryCache]] = {}
        self.noted.clear()
        if self._cashews is not None:
            self._cashews.forget()

    # -- for the time of a test ---------------------------------------------------------------

    def begin(self) -> None:
        """Let all decorators use what is here."""
        patch = self._patch
        for kind in _kinds_of_hooks():
            patch.setattr(kind, "is_switched_off", self._switched_off(kind.is_switched_off))
        patch.setattr(AiocacheHooks, "binding", lambda hooks: self._binding_of(hooks))
        # What names an application in memory names another one in a server, after the test.
        patch.setattr(KnownCalls, "keeps_place", False)
        patch.setattr(Service, "resource", self._noting_service(Service.resource))
        patch.setattr(Reporter, "not_cached", self._noting_findings(Reporter.not_cached))
        # Large bodies are in the memory, too: nothing of a test is in a bucket, or is swept there.
        patch.setattr(Service, "_kept_bodies", lambda service, backend: None)
        patch.setattr(StreamCache, "sweep", _nothing_to_sweep)
        for name in ("ping", "try_out"):
            patch.setattr(WatchedBodies, name, _do_nothing)
        patch.setattr(WatchedBodies, "warn_unless_shared", lambda bodies, *, is_shared: None)
        for reporter in list(Reporter.all):
            self._restart(reporter)
        if "cashews" in sys.modules:
            from stream_cached.testing.cashews_backends import CashewsBackends

            self._cashews = CashewsBackends(patch, self._clock.time)

    def end(self) -> None:
        """Leave everything as it was before. `begin` is undone by its patch."""
        for undo in reversed(self._undo):
            undo()
        if self.url is not None:
            # A test must not fail because its server is gone.
            with contextlib.suppress(Exception):
                asyncio.run(_cleared(self.url, self.namespace))

    def use(self, url: str) -> None:
        """Let a real store stand for all caches."""
        from_url(url)
        self.url = url
        self._bindings.clear()

    def _switched_off(self, original: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda hooks: self.is_disabled or original(hooks)

    def _restart(self, reporter: Reporter) -> None:
        """Let a function have no counts, and no line in the log that is said only once."""
        before = dict(vars(reporter))
        Reporter.__init__(reporter, before["_endpoint"], reporter.name, reporter.hook)
        self._undo.append(lambda: vars(reporter).update(before))

    def _noting_service(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def resource(service: Service, call: Any, backend: Any) -> Any:
            if id(service) not in self._services:
                self._services.add(id(service))
                self._undo.append(_forgetting_runs(service))
            return original(service, call, backend)

        return resource

    def _noting_findings(self, original: Callable[..., None]) -> Callable[..., None]:
        def not_cached(reporter: Reporter, *findings: Finding) -> None:
            self.noted.extend(findings)
            original(reporter, *findings)

        return not_cached

    # -- the stores ---------------------------------------------------------------------------

    def _binding_of(self, hooks: AiocacheHooks) -> Binding:
        if type(hooks).binding is not AiocacheHooks.binding:
            # cashews has backends of its own.
            return _bound(hooks)
        known = self._bindings.get(id(hooks))
        if known is None:
            known = self._bindings[id(hooks)] = hooks, self._made(hooks)
        return known[1]

    def _made(self, hooks: AiocacheHooks) -> Binding:
        configured = _configured(hooks)
        if configured is not None and is_mock(configured.cache):
            return configured
        cache = None if configured is None else configured.cache
        server: Any = hooks._decorator.alias
        if configured is not None:
            server = configured.breaker or Clients.of(cache)
        view = self._view(server, cache, hooks)
        binding = Binding(view, secrets=hooks.secrets())
        self._show(hooks, binding.cache)
        return binding

    def _view(self, server: Any, cache: Any, hooks: AiocacheHooks) -> Any:
        """Return what stands for a cache: what shared its keys before still does."""
        _, part = self._parts.get(server) or (None, None)
        if part is None:
            part = partition_of(self.memory, str(len(self._parts)))
            self._parts[server] = server, part
        names = ("namespace", "serializer", "plugins", "ttl")
        settings = {} if cache is None else {name: getattr(cache, name) for name in names}
        if self.url is None:
            return with_settings(part, settings)
        number = list(self._parts).index(server)
        settings["serializer"] = hooks._settings.get("serializer")
        namespace = f"{self.namespace}:{number}:{settings.get('namespace') or ''}"
        given = {name: value for name, value in settings.items() if value is not None}
        return with_settings(from_url(self.url), {**given, "namespace": namespace})

    def _show(self, hooks: AiocacheHooks, view: Any) -> None:
        """Let the attribute `cache` of the decorated functions be what stands for it."""
        for function in hooks._decorator._functions.values():
            if function.hooks is hooks and (wrapper := getattr(function, "wrapper", None)):
                before = wrapper.cache
                wrapper.cache = view
                self._undo.append(lambda w=wrapper, c=before: setattr(w, "cache", c))  # type: ignore[misc]

    def holds(self, response: Any, *, exactly: bool) -> bool:
        """Whether there is an entry like a response; True if that can't be seen from here."""
        if self.url is not None:
            return True
        body = None
        # A body that was not read, and one that a client has decoded, can't be compared.
        if exactly and not response.headers.get("Content-Encoding"):
            with contextlib.suppress(Exception):
                body = response.content
        return any(
            entry.status == response.status_code
            and (body is None or is_of_items(entry.media_type) or entry.length == len(body))
            for entry in self._entries()
        )

    def _entries(self) -> Iterator[Entry]:
        """Yield the entries in the memory."""
        with self.memory.memory._lock:
            values = [item.value for item in self.memory.memory._items.values()]
        if self._cashews is not None:
            values += self._cashews.values()
        for value in values:
            if isinstance(value, bytes) and is_ours(value):
                with contextlib.suppress(UnsoundError):
                    if isinstance(record := decode_record(value), Entry):
                        yield record


def _kinds_of_hooks() -> list[Any]:
    """Return the classes that say whether a cache is switched off."""
    module = sys.modules.get("stream_cached.cashews.hooks")
    return [AiocacheHooks] if module is None else [AiocacheHooks, module.CashewsHooks]


def _configured(hooks: AiocacheHooks) -> Binding | None:
    """Return a cache as it is configured, which is not used by that; None for an unknown alias."""
    decorator, late = hooks._decorator, hooks._settings.get("cache")
    before = hooks._binding, decorator.cache
    is_used = getattr(late, "_is_used", None)
    try:
        return _bound(hooks)
    except ConfigurationError:
        if decorator.alias is None:
            raise
        return None
    finally:
        hooks._binding, decorator.cache = before
        if isinstance(late, LateCache) and is_used is not None:
            vars(late)["_is_used"] = is_used


def _forgetting_runs(service: Service) -> Callable[[], None]:
    """Let a function know nothing of earlier runs; return what gives that back."""
    bound, values = service.request_bound, service.plain_values
    before = bound.is_known, values.are_there
    bound.is_known = values.are_there = False

    def undo() -> None:
        bound.is_known, values.are_there = before

    return undo


async def _do_nothing(bodies: WatchedBodies) -> None:
    return


async def _nothing_to_sweep(streams: StreamCache) -> int:
    return 0


async def _cleared(url: str, namespace: str) -> None:
    cache = from_url(url)
    try:
        here = Clients.of(cache).in_loop(cache, asyncio.get_running_loop(), os.getpid())
        await here.clear(namespace=namespace)
    finally:
        await Clients.close_here()
