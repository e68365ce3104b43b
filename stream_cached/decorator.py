"""The front door: `stream_cached`, the subclass of `aiocache.cached`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from datetime import timedelta
from enum import Enum
from typing import Any, Literal, ParamSpec, TypeVar, overload

from aiocache.base import SENTINEL
from starlette.responses import Response

from stream_cached.backends.resolve import OWN_MEMORY, resolve_fallback
from stream_cached.bodies.protocol import BodyStore
from stream_cached.checks import require, require_function, require_ttl, takes_response
from stream_cached.compression import Codec, Compression
from stream_cached.decorated.base import Decorator
from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.endpoint.cached import CachedEndpoint, CachedGenerator
from stream_cached.endpoint.tags import Tags
from stream_cached.endpoint.validator import Validates
from stream_cached.engine.completed import OnComplete
from stream_cached.events import Event
from stream_cached.http.policy import DEFAULT_STATUSES
from stream_cached.limits import Limits, take_limits
from stream_cached.option_checks import NOT_GIVEN
from stream_cached.options import (
    NO_KEY_ARGS,
    Authorized,
    CompleteWhen,
    ETag,
    KeyArgs,
    OnDisconnect,
    Options,
    QueryKey,
    ReplayMode,
    Resume,
    Values,
    Vary,
)
from stream_cached.request.context import KeyContext
from stream_cached.stores.memory import MemoryCache

#: How long an entry is fresh.
Ttl = float | timedelta | str | None

P = ParamSpec("P")
R = TypeVar("R")


class stream_cached(Decorator):  # noqa: N801
    """
    Cache the response of a Starlette or FastAPI endpoint while it is streamed to its first client.

    Put the decorator directly over the function, below the route decorator. All parameters of
    `aiocache.cached` are taken and mean the same. So do the switches of a single call:
    `cache_read`, `cache_write` and `aiocache_wait_for_write`. What the endpoint of a FastAPI route
    returns is stored as the response that FastAPI makes of it; any other result that is no
    response is cached as aiocache does.

    Args:
        ttl: How long an entry is fresh once it is complete: seconds, a `timedelta`, a text such as
            `"10m"`, None for ever, or a function of the response; 0 stores nothing. With
            `"response"`, the response itself says so (RFC 9111, section 4.2). Without it, the ttl
            of the cache counts.
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
        resume: With True, the endpoint is deterministic: a body whose run or segment is lost
            continues from another run, provided that the bytes sent so far are the same. With
            `"event-id"`, server-sent events have ids that name their run, and a client that sends
            one as Last-Event-ID goes on after that event.
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
        query: What of the query is part of the key: `"all"` of it, or `"declared"`, which is what
            parameters of the endpoint and of dependencies take of it.
        query_ignore: Names in the query that are left out of the key, as `("utm_*", "fbclid")`.
        key_context: Context variables, and functions without arguments, whose values are part of
            the key; `()` says that the answer depends on no context variable. None warns of
            variables that are set.
        tags: Texts by which entries are invalidated together: templates of arguments, such as
            `"item:{item}"` or `"user:{user.id}"`, or a function of the arguments; of the response,
            too, if it has a parameter `response`.
        invalidate_by: Names of arguments by which `invalidate(NAME=value)` invalidates entries.
        refresh: A function of the request: if it returns true, a new run replaces the entry.
        honor_request: Whether a request may ask for a newer response than the stored one, by
            Cache-Control or Pragma (RFC 9111, section 5.2.1); or a function of the request that
            says so. A client could wear the endpoint down by it.
        heuristic: The part of the time since Last-Modified, such as 0.1, for which a response is
            fresh that does not say so itself (RFC 9111, section 4.2.2); with `ttl="response"`.
        targets: Names of fields that this cache obeys instead of Cache-Control, as
            `("App-Cache-Control",)` (RFC 9213). The first valid one counts; none of them is sent.
        client_cache_control: The Cache-Control that clients are sent with what is stored, instead
            of the endpoint's own.
        etag: Whether a response without an ETag is given one, made of its body: True, False, or
            `"weak"`. It is sent from the second request on.
        validator: An async function of the arguments, or of some of them, that returns an ETag, a
            datetime, or both. If it returns the same as before the run, an entry that is no longer
            fresh is fresh again, and the endpoint does not run.
        unguarded: What the endpoint may read of its request although it is not part of the key,
            because it does not show in the response: names of headers, `"client"`, `"cookies"`,
            `"session"`, `"user"`, `"auth"`, `"host"`, `"headers"`, `"state.NAME"`, `"scope.NAME"`,
            `"request.NAME"`.
        on_complete: A function, or a coroutine function, that is called with each response once it
            is stored: a `Completed`, whose body can be read in chunks. A function is called in a
            thread. What it raises is logged, and no client notices it.
        bodies: Where bodies are kept that are larger than `inline_max`, instead of the store: a URL
            (`file:///var/cache/app?max_bytes=10GiB`, `s3://bucket/prefix`, `gs://…`, `az://…`), or
            a `BodyStore`.
        compress: How bodies are compressed in the store and in `bodies`: `"zlib"`, `"zstd"`, or a
            `Compression` with a level, a smallest size and media types. Clients are sent the same.
        on_event: A function that is called with what happens: an `Answered` for each call, a
            `RunBegan` and a `RunEnded` for each run, a `StoreAway` and a `StoreBack`. It must be
            quick. What it raises is logged once, and no client notices it.
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
        resume: Resume = False,
        values: Values = "response",
        authorized: Authorized = "bypass",
        key_host: bool = True,
        request_key: bool = True,
        key_args: KeyArgs = NO_KEY_ARGS,
        key_ignore: Collection[str] = (),
        query: QueryKey = "all",
        query_ignore: Collection[str] = (),
        key_context: KeyContext | None = None,
        tags: Tags = (),
        invalidate_by: Collection[str] = (),
        refresh: Callable[[Any], bool] | None = None,
        honor_request: bool | Callable[[Any], bool] = False,
        heuristic: float = 0.0,
        targets: Collection[str] = (),
        client_cache_control: str | None = None,
        etag: ETag = True,
        validator: Validates | None = None,
        unguarded: Collection[str] = (),
        on_complete: OnComplete | None = None,
        bodies: str | BodyStore | None = None,
        compress: Codec | Compression | None = None,
        on_event: Callable[[Event], None] | None = None,
        **kwargs: Any,
    ) -> None:
        limits = take_limits(limits, kwargs)
        self.options = Options.among(locals())
        super().__init__(
            self._take_ttl(ttl),
            *(key, namespace, key_builder, skip_cache_func),
            *(cache, serializer, plugins, alias, noself),
            **kwargs,
        )
        self._set_up(fallback)

    def _take_ttl(self, ttl: Any) -> Any:
        """Return the ttl of all entries, if they have the same one."""
        self.ttl_of = ttl if takes_response(ttl) else None
        self.by_response = ttl == "response"
        has_own = ttl is SENTINEL or self.ttl_of or self.by_response
        return SENTINEL if has_own else require_ttl(ttl)

    def _set_up(self, fallback: MemoryCache | str | Literal[False]) -> None:
        self.fallback = fallback
        self._check_parameters()
        self.hooks = AiocacheHooks(self, self._cache_settings())

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
            self.ttl is not None or not self.options.kept,
            "with ttl=None nothing becomes stale: pass a ttl, or leave stale_while_revalidate, "
            "stale_if_error and validator out",
        )
        require(
            self.by_response or not self.options.heuristic,
            'heuristic= is for responses that say how long they are fresh: pass ttl="response", or '
            "leave it out",
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
        return self.decorate(f)
