"""The front door: `stream_cached`, the subclass of `aiocache.cached`."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from datetime import timedelta
from enum import Enum
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from aiocache import cached
from aiocache.base import SENTINEL
from starlette.responses import Response

from stream_cached.backends.resolve import OWN_MEMORY, resolve_fallback
from stream_cached.checks import require, require_function, require_ttl, takes_response
from stream_cached.connections.deadline import Deadline
from stream_cached.decorated import Decorated, current_call
from stream_cached.decorated_generator import DecoratedGenerator
from stream_cached.endpoint.cached import CachedEndpoint, CachedGenerator
from stream_cached.endpoint.function import is_generator
from stream_cached.endpoint.tags import Tags
from stream_cached.engine.answer import answer
from stream_cached.engine.values import Use, current_use
from stream_cached.events import EndpointStats
from stream_cached.hooks import AiocacheHooks
from stream_cached.http.policy import DEFAULT_STATUSES
from stream_cached.limits import Limits, take_limits
from stream_cached.options import (
    NO_KEY_ARGS,
    NOT_GIVEN,
    Authorized,
    CompleteWhen,
    KeyArgs,
    OnDisconnect,
    Options,
    ReplayMode,
    Values,
    Vary,
)
from stream_cached.request.context import KeyContext
from stream_cached.responses.resumption import resume_from
from stream_cached.stores.memory import MemoryCache
from stream_cached.wrapping import wrapped

#: How long an entry is fresh.
Ttl = float | timedelta | str | None

P = ParamSpec("P")
R = TypeVar("R")


class stream_cached(cached):  # type: ignore[misc]  # noqa: N801
    """
    Cache the response of a Starlette or FastAPI endpoint while it is streamed to its first client.

    Put the decorator directly over the function, below the route decorator. All parameters of
    `aiocache.cached` are taken and mean the same. So do the switches of a single call:
    `cache_read`, `cache_write` and `aiocache_wait_for_write`. What the endpoint of a FastAPI route
    returns is stored as the response that FastAPI makes of it; any other result that is no
    response is cached as aiocache does.

    Args:
        ttl: How long an entry is fresh once it is complete: seconds, a `timedelta`, a text such as
            `"10m"`, None for ever, or a function of the response; 0 stores nothing. Without it, the
            ttl of the cache counts.
        key: One key for everything that the function returns. Without `key` and `key_builder`, the
            key is built from the request and the arguments; for a call without a request, it is
            the key of aiocache.
        namespace: Text before each key, instead of the cache's own namespace.
        key_builder: Called with the function and its arguments; returns the key. It is given the
            request if it has a parameter `request`.
        skip_cache_func: Called with what the function returned; if it returns true, that is not
            stored.
        cache: The store: a URL (`memory://?max_bytes=64MiB`, `redis://…`, `rediss://…`,
            `unix://…`, `memcached://…`), a class (`Cache.REDIS`, with its arguments in `kwargs`)
            or an instance. Equal URLs share one client per process and event loop. By default, each
            function has keys of its own in one memory of this process, which is bounded as
            `memory://` is.
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
        complete_when: Called with the last bytes of a stream that has ended, or with a list of the
            last items of a generator. If it returns false, the stream has merely stopped, and is
            not stored.
        timeout: Seconds that one operation of the store may take; None or 0 for no bound. Without
            it, the time-out of the cache counts: 0.5 unless another was chosen.
        fallback: The memory that is used while the store is away: a `memory://` URL, an alias of
            `caches.set_config`, or a `MemoryCache`. With False, requests bypass the cache.
        secret: A secret, or several, that sign what is written to a server (HMAC-SHA256). The first
            one signs, all verify. An entry without a valid signature is a miss.
        replay: How a hit is sent: `"fast"` merges chunks, `"exact"` sends each chunk by itself.
        resume: Whether the endpoint is deterministic. If it is, a body whose run or segment is lost
            continues from another run, provided that the bytes sent so far are the same.
        values: How a value of the endpoint of a FastAPI route is stored: `"response"`, as the
            response that FastAPI makes of it; `"aiocache"`, by the serializer of the cache. With
            `alias`, `serializer`, `key` or `key_builder` it is the latter.
        authorized: What happens to a request with Authorization. `"bypass"`: its response is not
            stored unless it says that it may be (RFC 9111, section 3.5). `"vary"`: each credential
            has its own entry. `"keyed"`: the arguments or the key name the user. `"share"`: all
            users get the same response.
        key_host: Whether the host is part of the key.
        request_key: Whether the request is part of the key; without it, the key is aiocache's.
        key_args: Functions by the name of an argument; each returns what stands for that argument
            in the key.
        key_ignore: Names of arguments that are left out of the key.
        query_ignore: Names in the query that are left out of the key, as `("utm_*", "fbclid")`.
        key_context: Context variables, and functions without arguments, whose values are part of
            the key; `()` says that the answer depends on no context variable. None warns of
            variables that are set.
        tags: Texts by which entries are invalidated together: templates of arguments, such as
            `"item:{item}"` or `"user:{user.id}"`, or a function of the arguments.
        invalidate_by: Names of arguments by which `invalidate(NAME=value)` invalidates entries.
        refresh: A function of the request: if it returns true, a new run replaces the entry.
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
        ttl: Ttl | Callable[[Response], Ttl] = SENTINEL,
        key: str | None = None,
        namespace: str | None = None,
        key_builder: Callable[..., str] | None = None,
        skip_cache_func: Callable[[Any], bool] = lambda result: False,
        cache: Any = OWN_MEMORY,
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
        complete_when: CompleteWhen | None = None,
        timeout: float | None = NOT_GIVEN,
        fallback: MemoryCache | str | Literal[False] = "memory://?max_bytes=64MiB",
        secret: str | bytes | Collection[str | bytes] | None = None,
        replay: ReplayMode = "fast",
        resume: bool = False,
        values: Values = "response",
        authorized: Authorized = "bypass",
        key_host: bool = True,
        request_key: bool = True,
        key_args: KeyArgs = NO_KEY_ARGS,
        key_ignore: Collection[str] = (),
        query_ignore: Collection[str] = (),
        key_context: KeyContext | None = None,
        tags: Tags = (),
        invalidate_by: Collection[str] = (),
        refresh: Callable[[Any], bool] | None = None,
        unguarded: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        limits = take_limits(limits, kwargs)
        #: The function of the response that `ttl` is, if it is one.
        self.ttl_of: Any = ttl if takes_response(ttl) else None
        #: The options, checked.
        self.options = Options.among(locals())
        super().__init__(
            SENTINEL if ttl is SENTINEL or self.ttl_of else require_ttl(ttl),
            *(key, namespace, key_builder, skip_cache_func),
            cache=cache,
            serializer=serializer,
            plugins=plugins,
            alias=alias,
            noself=noself,
            **kwargs,
        )
        self.fallback = fallback
        self._check_parameters()
        self.hooks: AiocacheHooks = AiocacheHooks(self, self._cache_settings())
        # By identity: a callable instance need not be hashable.
        self._functions: dict[int, Decorated] = {}

    def _cache_settings(self) -> dict[str, Any]:
        """Return what `resolve_cache` makes the cache of."""
        return {
            "cache": self._cache,
            "serializer": self._serializer,
            "plugins": self._plugins,
            "namespace": self._namespace,
            "options": self._kwargs,
        }

    def _check_parameters(self) -> None:
        """Check the parameters that are no `Options`."""
        require(
            self.ttl is not None or not self.options.stale,
            "with ttl=None nothing becomes stale: pass a ttl, or leave stale_while_revalidate and "
            "stale_if_error out",
        )
        require(self.key is None or isinstance(self.key, str | Enum), f"key={self.key!r} is no str")
        if self.key_builder is not None:
            require_function("key_builder", self.key_builder)
        require_function("skip_cache_func", self.skip_cache_func)
        if not isinstance(self.fallback, str) or "://" in self.fallback:
            # An alias may be configured later.
            resolve_fallback(self.fallback)

    @overload
    def __call__(self, f: Callable[P, Awaitable[R]]) -> CachedEndpoint[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, f: Callable[P, AsyncIterator[R]]
    ) -> CachedGenerator[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, f: Callable[P, Iterator[R]]
    ) -> CachedGenerator[P, R]: ...
    @overload
    def __call__(self, f: Callable[P, R]) -> CachedEndpoint[P, R]: ...
    def __call__(self, f: Callable[P, Any]) -> Any:
        hooks = self.hooks.for_function(f)
        kind = DecoratedGenerator if is_generator(f) else Decorated
        function = self._functions[id(f)] = kind(f, self, hooks)
        hooks.bind_early(function.reporter)

        return wrapped(function, self.cache, functools.partial(self.decorator, f))

    async def decorator(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Answer one call of `f`: from the cache, or by running it and recording its answer."""
        result = await self._answer(f, True, *args, **kwargs)
        if self.options.resume:
            # The response that goes on from it reports all that was sent.
            resume_from(result, functools.partial(self._answer, f, False, *args, **kwargs))
        return result

    async def _answer(
        self,
        f: Callable[..., Any],
        is_reported: bool,
        /,
        *args: Any,
        cache_read: bool = True,
        cache_write: bool = True,
        aiocache_wait_for_write: bool = True,
        **kwargs: Any,
    ) -> Any:
        function = self._functions[id(f)]
        if not function.can_cache():
            return await function.run_uncached(args, kwargs)
        call = await function.call(
            args,
            kwargs,
            cache_read=cache_read,
            cache_write=cache_write,
            aiocache_wait_for_write=aiocache_wait_for_write,
        )
        call = call if is_reported else call.withholding()[0]
        if isinstance(function, DecoratedGenerator):
            return await function.open(call)
        return await answer(call)

    async def clear(self) -> bool:
        """
        Invalidate the entries of all functions that this decorator has decorated.

        Returns:
            True if it was carried out, False if it waits for the store's return.

        Raises:
            StoreError: The store refused; old responses may still be served.
        """
        return all([await each.invalidate(None, {}) for each in self._functions.values()])

    def stats(self) -> Mapping[str, EndpointStats]:
        """Return what this process has answered for each function, by its name."""
        return {each.endpoint.name: each.reporter.stats for each in self._functions.values()}

    # -- what a subclass may override -------------------------------------------------------

    def overrides(self, name: str) -> bool:
        """Whether a subclass has a method of its own."""
        return getattr(type(self), name) is not getattr(stream_cached, name)

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
        current = current_call.get()
        if self.key_builder and current is not None:
            kwargs = current[0].for_key_builder(args, kwargs, current[1])
        if self.key or self.key_builder or current is None:
            return cast(str, super().get_cache_key(f, args, kwargs))
        function, incoming = current
        if incoming is None:
            args, kwargs, lacking = function.arguments.as_for_aiocache(args, kwargs)
            lacking += function.parts.suffix(function.hooks)
            return f"{super().get_cache_key(f, args, kwargs)}{lacking}"
        forms = function.parts.forms(args, kwargs, incoming, function.hooks)
        return incoming.key(function.endpoint.name, forms, host=self.options.key_host)

    def _key_from_args(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        if hasattr(func, "__name__"):
            return cast(str, super()._key_from_args(func, args, kwargs))
        # aiocache has no key for a partial, nor for an instance that can be called.
        function = self._functions[id(func)]
        positional = args[1:] if self.noself else args
        return f"{function.endpoint.name}{positional}{sorted(kwargs.items())}"

    async def get_from_cache(self, key: str) -> Any:
        """Return a plain value by the cache's public `get`; None if there is none."""
        use = current_use() or await self._use()
        return await use.get(key)

    async def set_in_cache(self, key: str, value: Any) -> None:
        """Store a plain value by the cache's public `set`."""
        use = current_use() or await self._use()
        await use.set(key, value, self.hooks.ttl())

    async def _use(self) -> Use:
        """Return what a call uses of the cache, for a call from outside."""
        binding = self.hooks.binding()
        deadline = Deadline(binding.timeout)
        service = next(iter(self._functions.values())).service
        backend = await binding.backend(deadline)
        return Use(backend, deadline, binding.cache, service.invalidated_before, service.reporter)
