"""The front door: `stream_cached`, the subclass of `aiocache.cached`."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Sequence,
)
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from aiocache import cached
from aiocache.base import SENTINEL
from starlette.responses import Response

from stream_cached.backends.binding import Backend, Binding
from stream_cached.backends.resolve import resolve_alias, resolve_cache, resolve_fallback
from stream_cached.checks import require, require_function, require_ttl
from stream_cached.connections.deadline import Deadline
from stream_cached.endpoint.arguments import Arguments
from stream_cached.endpoint.cached import CachedEndpoint
from stream_cached.endpoint.function import HIDDEN, Endpoint, closure_digest, response_heads
from stream_cached.engine.collapse import Collapsing, Opened
from stream_cached.engine.invalidate import Invalidation
from stream_cached.engine.record import Engine, Run, Stale
from stream_cached.engine.stale import Revalidation
from stream_cached.engine.values import Use, current_use, using
from stream_cached.entries.resource import Foreign, Miss, Resource, StoredValue, Unstorable
from stream_cached.errors import ConfigurationError, StoreError, StoreUnavailableError
from stream_cached.events import Reporter
from stream_cached.fallback_cache import FallbackCache
from stream_cached.http.policy import DEFAULT_STATUSES
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.names import is_internal, version_key
from stream_cached.limits import Limits, take_limits
from stream_cached.options import (
    MIN_SECRET,
    NO_KEY_ARGS,
    NOT_GIVEN,
    Authorized,
    KeyArgs,
    OnDisconnect,
    Options,
    ReplayMode,
    Vary,
    check_arguments,
)
from stream_cached.request.guard import TRACES, Guard
from stream_cached.request.incoming import DisconnectShield, Incoming
from stream_cached.responses.live import LiveResponse, ReplayResponse
from stream_cached.responses.resumption import Resumption
from stream_cached.runs.registry import Turn, within
from stream_cached.stores.aiocache import switched_off
from stream_cached.stores.memory import MemoryCache
from stream_cached.tasks import spawn

P = ParamSpec("P")
R = TypeVar("R")

#: The call-time switches of aiocache's decorators.
_SWITCHES = frozenset({"cache_read", "cache_write", "aiocache_wait_for_write"})


@dataclass(frozen=True, slots=True)
class _Function:
    """A decorated function, and what belongs to it."""

    endpoint: Endpoint
    arguments: Arguments
    engine: Engine
    reporter: Reporter
    invalidation: Invalidation


@dataclass(slots=True)
class _Call:
    """What `get_cache_key` knows beside its arguments."""

    function: _Function
    incoming: Incoming | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What one call asks for: the key, and what it stands for."""

    engine: Engine
    key: str
    incoming: Incoming | None
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_call: ContextVar[_Call | None] = ContextVar("stream_cached_call", default=None)


#: By the name of a decorated function and its cache, what it was made over: what came first, and
#: one that differs.
_closures: dict[tuple[str, str | int], set[str]] = {}


class stream_cached(cached):  # type: ignore[misc]  # noqa: N801
    """
    Cache the response of a Starlette or FastAPI endpoint while it is streamed to its first client.

    Put the decorator directly over the function, below the route decorator. All parameters of
    `aiocache.cached` are taken and mean the same. So do the switches of a single call:
    `cache_read`, `cache_write` and `aiocache_wait_for_write`. A result that is no response is
    cached as aiocache does.

    Args:
        ttl: Seconds that an entry is fresh once it is complete; None for ever. Without it, the ttl
            of the cache counts.
        key: One key for everything that the function returns. Without `key` and `key_builder`, the
            key is built from the request and the arguments; for a call without a request, it is
            the key of aiocache.
        namespace: Text before each key, instead of the cache's own namespace.
        key_builder: Called with the function and its arguments; returns the key.
        skip_cache_func: Called with what the function returned; if it returns true, that is not
            stored.
        cache: The store: a URL (`memory://?max_bytes=64MiB`, `redis://…`, `rediss://…`,
            `unix://…`, `memcached://…`), a class (`Cache.REDIS`, with its arguments in `kwargs`)
            or an instance. Equal URLs share one client per process and event loop.
        serializer: The serializer of plain values, instead of the cache's own.
        plugins: The plugins of the cache, instead of its own.
        alias: An alias of `caches.set_config`, instead of `cache`.
        noself: Whether the first argument (of a method) is left out of keys.
        vary: Request headers that select among responses (RFC 9110, section 12.5.5). A mapping
            gives for each header a function that normalises its value, or None.
        methods: The methods whose responses are stored. HEAD is answered from the entry of GET.
        statuses: The statuses that are stored.
        limits: Sizes and time-outs, see `Limits`. Each field is also taken as a keyword argument
            of the decorator, which overrides it: `max_body="1GiB"`.
        on_disconnect: What happens to a run whose last reader leaves: `"finish"` completes and
            stores it, `"stop"` closes it at once.
        stale_while_revalidate: Seconds past its ttl for which an entry is served at once while a
            run makes the new one (RFC 5861, section 3).
        stale_if_error: Seconds past its ttl for which an entry is served where the endpoint raises,
            or answers 500, 502, 503 or 504, before its first byte (RFC 5861, section 4).
        timeout: Seconds that one operation of the store may take; None or 0 for no bound. Without
            it, the time-out of the cache counts: 0.5 unless another was chosen.
        fallback: The memory that is used while the store is away: a `memory://` URL, an alias of
            `caches.set_config`, or a `MemoryCache`. Equal URLs share one memory per process. With
            False, requests bypass the cache. A `FallbackCache` has its own.
        secret: A secret, or several, that sign what is written to a server (HMAC-SHA256), for a
            server that others can write to. The first one signs, all verify. An entry without a
            valid signature is a miss.
        replay: How a hit is sent: `"fast"` merges chunks, `"exact"` sends each chunk by itself.
        resume: Whether the endpoint is deterministic. If it is, a body whose run or segment is lost
            continues from another run, provided that the bytes sent so far are the same.
        authorized: What happens to a request with Authorization. `"bypass"`: its response is not
            stored unless it says that it may be (RFC 9111, section 3.5). `"vary"`: each credential
            has its own entry. `"keyed"`: the arguments or the key name the user. `"share"`: all
            users get the same response.
        key_host: Whether the host is part of the key.
        request_key: Whether the request is part of the key. Without it, the key is that of a call
            without a request; this is for helpers that FastAPI calls as dependencies.
        key_args: Functions by the name of an argument; each returns what stands for that argument
            in the key.
        key_ignore: Names of arguments that are left out of the key.
        unguarded: What the endpoint may read of its request although it is not part of the key,
            because it does not show in the response: names of headers, `"client"`, `"cookies"`,
            `"session"`, `"user"`, `"auth"`, `"host"`, `"headers"`, `"state.NAME"`, `"scope.NAME"`,
            `"request.NAME"`.
        kwargs: Fields of `Limits`; all others are arguments of a `cache` that is a class.

    Raises:
        ConfigurationError: A parameter has no valid value; the message says what to write.
    """

    def __init__(
        self,
        ttl: float | None = SENTINEL,
        key: str | None = None,
        namespace: str | None = None,
        key_builder: Callable[..., str] | None = None,
        skip_cache_func: Callable[[Any], bool] = lambda result: False,
        cache: Any = "memory://",
        serializer: Any = None,
        plugins: Any = None,
        alias: str | None = None,
        noself: bool = False,
        *,
        vary: Collection[str] | Vary = (),
        methods: Collection[str] = ("GET",),
        statuses: Collection[int] = DEFAULT_STATUSES,
        limits: Limits = Limits(),
        on_disconnect: OnDisconnect = "finish",
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
        timeout: float | None = NOT_GIVEN,
        fallback: MemoryCache | str | Literal[False] = "memory://?max_bytes=64MiB",
        secret: str | bytes | Collection[str | bytes] | None = None,
        replay: ReplayMode = "fast",
        resume: bool = False,
        authorized: Authorized = "bypass",
        key_host: bool = True,
        request_key: bool = True,
        key_args: KeyArgs = NO_KEY_ARGS,
        key_ignore: Collection[str] = (),
        unguarded: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        limits = take_limits(limits, kwargs)
        self._options = Options.among(locals())
        super().__init__(
            ttl=ttl if ttl is SENTINEL else require_ttl(ttl),
            key=key,
            namespace=namespace,
            key_builder=key_builder,
            skip_cache_func=skip_cache_func,
            cache=cache,
            serializer=serializer,
            plugins=plugins,
            alias=alias,
            noself=noself,
            **kwargs,
        )
        self._fallback = fallback
        self._check_parameters()
        # By identity: a callable instance need not be hashable.
        self._functions: dict[int, _Function] = {}
        self._binding: Binding | None = None

    def _check_parameters(self) -> None:
        """Check the parameters that are no `Options`."""
        require(
            self.ttl is not None or not self._options.stale,
            "with ttl=None nothing becomes stale: pass a ttl, or leave stale_while_revalidate and "
            "stale_if_error out",
        )
        require(self.key is None or isinstance(self.key, str | Enum), f"key={self.key!r} is no str")
        if self.key_builder is not None:
            require_function("key_builder", self.key_builder)
        require_function("skip_cache_func", self.skip_cache_func)
        if not isinstance(self._fallback, str) or "://" in self._fallback:
            # An alias may be configured later.
            resolve_fallback(self._fallback)

    @overload
    def __call__(self, f: Callable[P, Awaitable[R]]) -> CachedEndpoint[P, R]: ...
    @overload
    def __call__(self, f: Callable[P, R]) -> CachedEndpoint[P, R]: ...
    def __call__(self, f: Callable[P, Any]) -> CachedEndpoint[P, Any]:
        options = self._options
        endpoint = Endpoint(f, takes_request=options.request_key)
        self._check(endpoint)
        reporter = Reporter(
            f"{endpoint.name} ({endpoint.place})" if endpoint.place else endpoint.name
        )
        arguments = Arguments(
            f,
            endpoint.declared,
            noself=self.noself,
            by_request=options.request_key,
            key_args=options.key_args,
            key_ignore=options.key_ignore,
        )
        headers = arguments.headers(endpoint.headers)
        engine = Engine(
            version=version_key(endpoint.name),
            headers=headers,
            options=options,
            reporter=reporter,
        )
        invalidation = Invalidation(engine, self.key, self._bound, self._ttl)
        self._functions[id(f)] = _Function(endpoint, arguments, engine, reporter, invalidation)
        self._bind_early(reporter)
        self._tell_of_twins(f, endpoint, reporter)
        if any(len(secret) < MIN_SECRET for secret in options.secrets):
            reporter.warn(
                f"secret= has one of fewer than {MIN_SECRET} bytes, which can be guessed: pass 32 "
                "random bytes"
            )
        for header in sorted(TRACES & {name.lower() for name in headers[1]}):
            reporter.warn(
                f"{header} is another one for each request, and part of the key, so that there "
                "will be no hits: take its parameter out of the key by key_ignore= or NotInKey"
            )

        @functools.wraps(f)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            if decorated.cache is None:
                decorated.cache = self._bound().cache
            return await self.decorator(f, *args, **kwargs)

        async def invalidate(*, key: str | None = None) -> bool:
            return self._invalidates_nothing() or await invalidation(key)

        async def cache_key(*args: Any, **kwargs: Any) -> str:
            return await self._cache_key(f, args, kwargs)

        decorated: Any = wrapper
        decorated.cache = self.cache
        decorated.invalidate = invalidate
        decorated.cache_key = cache_key
        decorated.__signature__ = endpoint.signature
        return cast(CachedEndpoint[P, Any], decorated)

    def _check(self, endpoint: Endpoint) -> None:
        """Check that the options fit the function."""
        taken = _SWITCHES & endpoint.parameters
        require(
            not taken,
            f"{endpoint.name} has a parameter {', '.join(taken)}, which switches the cache of a "
            "single call: give it another name",
        )
        check_arguments(self._options, endpoint.declared.parameters, endpoint.name)
        require(
            self._options.request_key
            or self.key
            or self.key_builder
            or not endpoint.declares_request,
            f"{endpoint.name} takes a request, of which nothing would be part of the key: leave "
            "request_key=False out",
        )

    def _tell_of_twins(
        self, function: Callable[..., Any], endpoint: Endpoint, reporter: Reporter
    ) -> None:
        closure = closure_digest(function)
        made_over = _closures.setdefault((endpoint.name, self.alias or id(self.cache)), {closure})
        if closure not in made_over and len(made_over) == 1:
            made_over.add(closure)
            # A factory that is called again for each test is no mistake.
            reporter.inform(
                "it is decorated once more, over other values, by a factory perhaps: the two share "
                "entries where host, path, query and arguments agree; pass namespace= to part them"
            )

    # -- the cache --------------------------------------------------------------------------

    def _bind_early(self, reporter: Reporter) -> None:
        """Resolve the cache at decoration, where it is known already."""
        if self._binding is not None:
            return
        if self.alias is None:
            self._bind(
                resolve_cache(
                    self._cache,
                    serializer=self._serializer,
                    plugins=self._plugins,
                    namespace=self._namespace,
                    options=self._kwargs,
                )
            )
            return
        settings = ("serializer", "namespace", "plugins")
        ignored = [name for name in settings if getattr(self, f"_{name}") is not None]
        for name in (*ignored, *self._kwargs):
            reporter.warn(f"alias={self.alias!r} has settings of its own; {name}= is ignored")
        try:
            self._bind(resolve_alias(self.alias))
        except ConfigurationError:
            # It may be configured later, and is looked for again at the first use.
            return

    def _bind(self, cache: Any) -> Binding:
        self.cache = cache
        timeout = self._options.timeout
        if timeout is NOT_GIVEN:
            timeout = SENTINEL
        if isinstance(cache, FallbackCache):
            self._binding = cache.binding(timeout, self._options.secrets)
            return self._binding
        self._binding = Binding(
            cache,
            fallback=functools.partial(resolve_fallback, self._fallback),
            retry_interval=self._options.limits.retry_interval,
            timeout=timeout,
            secrets=self._secrets(),
        )
        return self._binding

    def _bound(self) -> Binding:
        return self._binding or self._bind(resolve_alias(self.alias))

    def _ttl(self) -> float | None:
        if self.ttl is SENTINEL:
            return self._bound().cache.ttl or None
        return cast("float | None", self.ttl)

    # -- one call ---------------------------------------------------------------------------

    async def decorator(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Answer one call of `f`: from the cache, or by running it and recording its answer."""
        result = await self._answer(f, *args, **kwargs)
        if self._options.resume and isinstance(result, LiveResponse | ReplayResponse):
            result.resumption = Resumption(functools.partial(self._answer, f, *args, **kwargs))
        return result

    async def _answer(
        self,
        f: Callable[..., Any],
        /,
        *args: Any,
        cache_read: bool = True,
        cache_write: bool = True,
        aiocache_wait_for_write: bool = True,
        **kwargs: Any,
    ) -> Any:
        function = self._functions[id(f)]
        engine = function.engine
        request, kwargs = function.endpoint.take_request(args, kwargs)
        incoming = None
        turn: Turn | None = None
        collapsing: Collapsing | None = None
        try:
            if self._is_switched_off():
                raise BypassError(Finding(NotCached.SWITCHED_OFF))
            incoming = engine.incoming(request, keyed=self._keys_by_request())
            key = await self._key(f, function, incoming, args, kwargs)
            asked = Asked(engine, key, incoming, f, args, kwargs)
            open_it = functools.partial(self._open, function, asked, cache_read, cache_write)
            opened = await open_it()
            if not isinstance(opened.found, Miss | Stale | Unstorable):
                return opened.found

            async def run(opened: Opened, turn: Turn | None, is_refresh: bool) -> Any:
                fwd = opened.fwd if cache_read else "request"
                if not opened.records:
                    return engine.unrecorded(await function.endpoint.run(args, kwargs), fwd)
                return await self._run(
                    function,
                    opened,
                    asked,
                    fwd,
                    wait=aiocache_wait_for_write or is_refresh,
                    turn=turn,
                    is_refresh=is_refresh,
                )

            revalidation = Revalidation(engine, self._options, function.reporter, incoming, run)
            if cache_read and not (incoming is not None and incoming.is_authorized):
                collapsing = Collapsing(engine, open_it, self._options.limits.wait_timeout)
            if isinstance(opened.found, Stale):
                stale = await revalidation.serve(opened, opened.found, collapsing)
                if stale is not None:
                    return stale
            if collapsing is not None:
                decided = await collapsing.decide(opened)
                if decided.response is not None:
                    return decided.response
                opened, turn = decided.opened, decided.turn
        except BypassError as exc:
            return await self._go_past(function, incoming, args, kwargs, exc.findings)
        except StoreError as exc:
            function.reporter.store_failed(exc, "reading")
            return await self._go_past(function, None, args, kwargs, [Finding(NotCached.STORE)])
        found = opened.found
        if isinstance(found, Unstorable):
            return engine.bypass(await function.endpoint.run(args, kwargs), found.detail)
        if not isinstance(found, Miss | Stale):
            return found
        if isinstance(found, Stale):
            return await revalidation.run(opened, found, turn)
        async with within(turn):
            return await run(opened, turn, False)

    async def _run(
        self,
        function: _Function,
        opened: Opened,
        asked: Asked,
        fwd: str,
        *,
        wait: bool,
        turn: Turn | None,
        is_refresh: bool,
    ) -> Any:
        """Run the function, and record what it returns."""
        engine, resource = function.engine, opened.resource
        incoming, args, kwargs = asked.incoming, asked.args, asked.kwargs
        nothing = nullcontext(DisconnectShield())
        instance, deadline = next(iter(args), None), self._options.effective_finish_timeout
        with incoming.shielded(instance, deadline) if incoming else nothing as shield:
            head = response_heads(args, kwargs)
            guard = self._guard(function, incoming)
            result = await function.endpoint.run(*_given(guard, args, kwargs))
            findings = []
            if not self._is_wanted(asked, resource, result):
                findings = [Finding(NotCached.SKIPPED)]
            elif isinstance(result, Iterator | AsyncIterator):
                findings = [Finding(NotCached.ITERATOR)]
            elif isinstance(result, Response):
                recording = Run(
                    resource=resource,
                    backend=opened.use.backend,
                    deadline=opened.use.deadline,
                    incoming=incoming,
                    keyed=incoming is not None and self._keys_by_request(),
                    fwd=fwd,
                    wait=wait,
                    shield=shield,
                    guard=guard,
                    on_stored=functools.partial(self._was_stored, opened),
                    turn=turn,
                    is_refresh=is_refresh,
                    is_backed=isinstance(opened.found, Stale),
                )
                return await engine.record(result, recording)
        if not findings:
            findings = engine.of_one_client((), incoming, guard)
            if response_heads(args, kwargs) != head:
                findings.append(Finding(NotCached.RESPONSE))
        if findings:
            if turn is not None:
                turn.end(shared=False)
            return engine.pass_on(result, *findings)
        if turn is not None:
            turn.bring_value(resource.versions)
        write = spawn(self._store_value(opened.use, resource, result, turn))
        if wait:
            await asyncio.wait({write}, timeout=opened.use.deadline.left)
        return result

    @staticmethod
    async def _was_stored(opened: Opened) -> None:
        key = opened.resource.key
        opened.use.backend.flights.share_again(key, opened.resource.select)
        await opened.use.was_set(key)

    def _guard(self, function: _Function, incoming: Incoming | None) -> Guard | None:
        """Return what watches over a run, unless its key is somebody else's affair."""
        if incoming is None or not self._keys_by_request():
            return None
        return function.engine.guard(incoming)

    async def _go_past(
        self,
        function: _Function,
        incoming: Incoming | None,
        args: Any,
        kwargs: Any,
        findings: Sequence[Finding],
    ) -> Any:
        """Run the function for a call that is not for the cache, and say all that forbids it."""
        by_argument = any(finding.reason is NotCached.ARGUMENT for finding in findings)
        guard = self._guard(function, incoming) if by_argument else None
        try:
            result = await function.endpoint.run(*_given(guard, args, kwargs))
        finally:
            if guard is not None:
                guard.release(args)
        headers = result.raw_headers if isinstance(result, Response) else ()
        more = function.engine.of_one_client(headers, incoming, guard) if by_argument else []
        return function.engine.pass_on(result, *findings, *more)

    async def _open(self, function: _Function, asked: Asked, read: bool, write: bool) -> Opened:
        """Find what stands under the key, in the store or in what stands in for it."""
        use = await self._use(function)
        try:
            return await self._open_in(use, asked, read, write)
        except StoreUnavailableError:
            use = self._used(function, self._bound().stand_in(), use.deadline)
            return await self._open_in(use, asked, read, write)

    async def _open_in(self, use: Use, asked: Asked, read: bool, write: bool) -> Opened:
        resource, incoming = self._resource(asked, use.backend), asked.incoming
        seen = use.backend.flights.ended
        if read:
            found = await self._find(use, asked.engine, resource, incoming)
        else:
            found = Miss()
            with use.deadline:
                await resource.look_up()
        is_head = incoming is not None and incoming.is_head
        lacks = write and isinstance(found, Miss | Stale)
        if lacks and not is_head:
            with use.deadline:
                await resource.begin()
        return Opened(use, resource, found, lacks and not is_head, lacks and is_head, seen)

    async def _find(
        self, use: Use, engine: Engine, resource: Resource, incoming: Incoming | None
    ) -> Any:
        """Return what is handed out, or why there is nothing."""
        started = time.monotonic()
        found: Any
        with use.deadline:
            found = await engine.look_up(resource, incoming, is_fallback=use.backend.is_fallback)
        use.reporter.store_works("reading")
        if incoming is not None and incoming.is_authorized and not isinstance(found, Response):
            # A plain value can't say that it may answer another user's request.
            return found if isinstance(found, Unstorable) else Miss()
        if isinstance(found, Foreign):
            # An unsigned one may be anybody's.
            if self._signs_values(use) or use.may_be_older(resource.key, self._ttl()):
                return Miss()
            return await self._plain_value(use, resource, Miss())
        if isinstance(found, StoredValue):
            value = use.loaded(found)
            found = Miss() if value is None else value
        elif isinstance(found, Miss) and self._has_own_values:
            found = await self._plain_value(use, resource, found)
        ret = None if isinstance(found, Miss | Unstorable | Stale) else found
        took = time.monotonic() - started
        await use.call_plugins("get", resource.key, took=took, ret=ret)
        return found

    async def _plain_value(self, use: Use, resource: Resource, otherwise: Miss) -> Any:
        with using(use):
            value = await self.get_from_cache(resource.key)
        return otherwise if value is None else value

    # -- what a subclass may see to ---------------------------------------------------------

    def _is_switched_off(self) -> bool:
        """Whether nothing is to be cached now."""
        return switched_off()

    def _secrets(self) -> Sequence[bytes]:
        """Return what signs entries in the store."""
        return self._options.secrets

    def _signs_values(self, use: Use) -> bool:
        """Whether plain values are stored in signed records, and not by the cache itself."""
        return use.backend.signs

    def _invalidates_nothing(self) -> bool:
        """Whether nothing is to be invalidated now."""
        return switched_off()

    def _resource(self, asked: Asked, backend: Backend) -> Resource:
        """Return a call's view of what it asks for."""
        return asked.engine.resource(backend.store, asked.key, asked.incoming, self._ttl())

    def _is_wanted(self, asked: Asked, resource: Resource, result: Any) -> bool:
        """Whether a result is to be stored; how long it lives may be settled now."""
        return not self.skip_cache_func(result)

    # -- the key ----------------------------------------------------------------------------

    @property
    def _has_own_values(self) -> bool:
        """Whether a subclass keeps plain values elsewhere, too."""
        return type(self).get_from_cache is not stream_cached.get_from_cache

    async def _key(
        self,
        f: Callable[..., Any],
        function: _Function,
        incoming: Incoming | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> str:
        own = self.key or self.key_builder
        if not own and incoming is not None and incoming.may_have_body:
            await incoming.read_body()
        token = _call.set(_Call(function, incoming))
        try:
            key = self.get_cache_key(f, args, kwargs)
        finally:
            _call.reset(token)
        if isinstance(key, Enum):
            key = key.value
        if not isinstance(key, str):
            raise ConfigurationError(
                f"the key of {function.endpoint.name} is of type {type(key).__name__}: let "
                "key_builder return a str"
            )
        if not self._keys_by_request() and is_internal(key):
            raise BypassError(Finding(NotCached.ARGUMENT, "its key is one that the cache needs"))
        return key

    async def _cache_key(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        function = self._functions[id(f)]
        endpoint = function.endpoint
        if "request" in kwargs and endpoint.hides_request and "request" not in endpoint.parameters:
            kwargs = dict(kwargs)
            kwargs[HIDDEN] = kwargs.pop("request")
        request, kwargs = endpoint.take_request(args, kwargs)
        incoming = function.engine.incoming(request, keyed=self._keys_by_request())
        return await self._key(f, function, incoming, args, kwargs)

    def _keys_by_request(self) -> bool:
        """Whether a request's key is the one that is built here, of all that it has to hold."""
        overridden = type(self).get_cache_key is not stream_cached.get_cache_key
        return not (self.key or self.key_builder or overridden)

    def get_cache_key(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """
        Return the key of a call; override it for keys of your own.

        Args:
            f: The decorated function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        call = _call.get()
        if self.key or self.key_builder or call is None:
            return cast(str, super().get_cache_key(f, args, kwargs))
        function, incoming = call.function, call.incoming
        if incoming is None:
            args, kwargs, lacking = function.arguments.as_for_aiocache(args, kwargs)
            return f"{super().get_cache_key(f, args, kwargs)}{lacking}"
        forms = function.arguments.forms(args, kwargs, incoming.scope)
        return incoming.key(function.endpoint.name, forms, host=self._options.key_host)

    def _key_from_args(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        if hasattr(func, "__name__"):
            return cast(str, super()._key_from_args(func, args, kwargs))
        # A partial, or an instance that can be called: aiocache has no key for those.
        function = self._functions[id(func)]
        bound = function.arguments.bound or ""
        positional = args[1:] if self.noself else args
        return f"{function.endpoint.name}{bound}{positional}{sorted(kwargs.items())}"

    # -- plain values -----------------------------------------------------------------------

    async def get_from_cache(self, key: str) -> Any:
        """Return a plain value by the cache's public `get`; None where there is none."""
        use = current_use() or await self._use(self._any_function)
        return await use.get(key)

    async def set_in_cache(self, key: str, value: Any) -> None:
        """Store a plain value by the cache's public `set`."""
        use = current_use() or await self._use(self._any_function)
        await use.set(key, value, self._ttl())

    @property
    def _any_function(self) -> _Function:
        return next(iter(self._functions.values()))

    async def _use(self, function: _Function) -> Use:
        """Return what a call uses: the cache, or what stands in for it."""
        binding = self._bound()
        deadline = Deadline(binding.timeout)
        return self._used(function, await binding.backend(deadline), deadline)

    def _used(self, function: _Function, backend: Backend, deadline: Deadline) -> Use:
        invalidated_before = function.invalidation.invalidated_before
        return Use(backend, deadline, self._bound().cache, invalidated_before, function.reporter)

    async def _store_value(
        self, use: Use, resource: Resource, value: Any, turn: Turn | None
    ) -> None:
        try:
            await self._publish_value(use, resource, value)
        finally:
            if turn is not None:
                turn.end()
        if turn is not None:
            await turn.released()

    async def _publish_value(self, use: Use, resource: Resource, value: Any) -> None:
        if self._signs_values(use):
            await use.publish(resource, value)
            return
        try:
            is_current = await resource.is_current()
        except StoreError as exc:
            use.reporter.store_failed(exc, "writing")
            return
        if is_current:
            with using(use):
                await self.set_in_cache(resource.key, value)


def _given(guard: Guard | None, args: Any, kwargs: Any) -> Any:
    return (args, kwargs) if guard is None else guard.given(args, kwargs)
