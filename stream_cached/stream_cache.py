"""One cache object for an application: settings that are said once, and what concerns all of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from weakref import WeakSet

from aiocache.base import SENTINEL
from starlette.responses import Response

from stream_cached.backends.breaker import health_of
from stream_cached.backends.breaker_state import Health, State
from stream_cached.backends.resolve import LateCache
from stream_cached.backends.urls import from_url
from stream_cached.bodies.watched import WatchedBodies
from stream_cached.checks import require
from stream_cached.decorator import Ttl, stream_cached
from stream_cached.endpoint.tags import NAMESPACE
from stream_cached.engine.invalidate import TagInvalidation
from stream_cached.entries.sweep import sweep
from stream_cached.events import EndpointStats
from stream_cached.lifespan import aclose, warn_of_passed_over
from stream_cached.limits import Limits
from stream_cached.options import Authorized
from stream_cached.stores.memory import MemoryCache
from stream_cached.stores.protocol import Store
from stream_cached.tasks import spawn

if TYPE_CHECKING:
    from fastapi.routing import APIRoute

#: The environment variable with the URL of a cache that is given none.
URL_VARIABLE = "STREAM_CACHED_URL"

#: Options that concern one endpoint.
_OF_ONE = frozenset(
    {
        *("invalidate_by", "key", "key_args", "key_builder", "key_ignore"),
        *("noself", "plugins", "serializer", "tags", "validator"),
    }
)


class StreamCache(LateCache):
    """
    One cache for the endpoints of an application.

    Nothing is resolved or connected when it is made, so that it can stand in a module that is
    imported before the application is configured:

    ```python
    streams = StreamCache(ttl="10m")

    @app.get("/items/{item}")
    @streams.cached(tags=("item:{item}",))
    async def item(item: int) -> Item: ...

    app = FastAPI(lifespan=streams.lifespan)
    ```

    Args:
        url: The URL of the store. Without it, that of `configure` counts, or else that of the
            environment variable `STREAM_CACHED_URL`, or else `memory://`.
        namespace: Text before each key.
        ttl: How long an entry is fresh, for endpoints that are given no ttl of their own; see
            `stream_cached`.
        limits: Sizes and time-outs of all endpoints.
        authorized: What happens to requests with Authorization; see `stream_cached`.
        fallback: The memory that is used while the store is away; see `stream_cached`.
        secret: A secret, or several, that sign what is written to a server.
        options: Other keyword arguments of `stream_cached`, but for those that concern one
            endpoint.

    Raises:
        ConfigurationError: A parameter has no valid value; the message says what to write.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        ttl: Ttl | Callable[[Response], Ttl] = SENTINEL,
        limits: Limits = Limits(),
        authorized: Authorized = "bypass",
        fallback: MemoryCache | str | Literal[False] = "memory://?max_bytes=64MiB",
        secret: Any = None,
        **options: Any,
    ) -> None:
        require("cache" not in options, "cache= is the first argument: StreamCache('redis://host')")
        require(
            "alias" not in options,
            "alias= is not for a StreamCache: pass it to stream_cached, over each endpoint",
        )
        for name in sorted(_OF_ONE & options.keys()):
            require(False, f"{name}= concerns one endpoint: pass it to .cached()")
        self._url = url
        self._is_used = False
        self._decorators: WeakSet[stream_cached] = WeakSet()
        self._settings = {
            "namespace": namespace,
            "ttl": ttl,
            "limits": limits,
            "authorized": authorized,
            "fallback": fallback,
            "secret": secret,
            **options,
        }
        # It checks the settings, and reaches the store for what concerns all endpoints.
        self._own = stream_cached(cache=self, **self._settings)
        # One object for all endpoints: it logs once that it fails.
        self._settings["on_event"] = self._own.options.on_event
        longest = self._own.options.longest_run
        # Looked up at each call: a test may put another one there.
        self._invalidate = TagInvalidation(lambda: self._own.hooks.binding(), longest)

    def configure(self, url: str) -> None:
        """
        Set the URL of the store, before the first request.

        Raises:
            ConfigurationError: The URL is not one of a store, or the cache is in use.
        """
        require(
            not self._is_used,
            "the cache is in use: call configure() before the first request, where the application "
            "is made",
        )
        from_url(url)
        self._url = url

    def resolve(self) -> Any:
        """Return the aiocache cache of the URL."""
        self._is_used = True
        return from_url(self._url or os.environ.get(URL_VARIABLE) or "memory://")

    def cached(
        self, ttl: Ttl | Callable[[Response], Ttl] = SENTINEL, **options: Any
    ) -> stream_cached:
        """
        Return the decorator for an endpoint.

        Args:
            ttl: How long an entry is fresh: seconds, a `timedelta`, a text such as `"10m"`, None
                for ever, or a function of the response. By default the ttl of the cache.
            options: Keyword arguments of `stream_cached`; they override those of the cache.

        Raises:
            ConfigurationError: A parameter has no valid value; the message says what to write.
        """
        for name in ("alias", "cache"):
            require(name not in options, f"{name}= is that of the StreamCache: leave it out")
        given = options if ttl is SENTINEL else {"ttl": ttl, **options}
        decorator = stream_cached(cache=self, **{**self._settings, **given})
        self._decorators.add(decorator)
        return decorator

    @property
    def Route(self) -> type[APIRoute]:  # noqa: N802
        """
        The route class of FastAPI whose hits of endpoints that yield are prepared responses.

        Pass it as `APIRouter(route_class=streams.Route)`, or set `app.router.route_class`. Of an
        endpoint that yields, the response is stored, and not the items: a hit has a Content-Length,
        and FastAPI does not render it once more. Other endpoints are those of FastAPI's own class.

        Raises:
            ConfigurationError: FastAPI is not installed.
        """
        try:
            from stream_cached.decorated.route import Route
        except ModuleNotFoundError as exc:
            is_missing = (exc.name or "").partition(".")[0] == "fastapi"
            require(not is_missing, 'Route needs FastAPI: install "stream-cached[fastapi]"')
            raise
        return Route

    # -- the application --------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """
        Resolve the URL at the start of an application, and close connections and runs at its end.

        Pass it as `FastAPI(lifespan=streams.lifespan)`, or write `async with streams.lifespan(app)`
        in a lifespan of your own. It warns of a decorator that stands above the route decorator,
        so that the framework never calls it.

        Args:
            app: The application.

        Raises:
            ConfigurationError: The URL is not one of a store.
        """
        async with self:
            warn_of_passed_over(app)
            yield

    async def __aenter__(self) -> Self:
        binding, bodies = self._own.hooks.binding(), self._own.options.bodies
        if bodies is not None:
            bodies.warn_unless_shared(is_shared=binding.breaker is not None)
            # It says in the log what has to be changed.
            spawn(bodies.try_out())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await aclose()

    async def ping(self) -> None:
        """
        Ask the store for an answer, and the store of large bodies, too.

        Raises:
            StoreError: One of them does not answer, or can't be written to.
        """
        await self._own.hooks.binding().probe.store.ping()
        if self._own.options.bodies is not None:
            await self._own.options.bodies.ping()

    def health(self) -> Health:
        """
        Return the state of the store, as this process sees it; memory is always available.

        Its field `bodies` is the state of the store of large bodies.
        """
        breaker = self._own.hooks.binding().breaker
        memory = Health("memory", State.AVAILABLE, 0.0, 0, None, 0)
        health, bodies = memory if breaker is None else breaker.health, self._own.options.bodies
        return health if bodies is None else replace(health, bodies=health_of(bodies))

    def stats(self) -> Mapping[str, EndpointStats]:
        """Return what this process has answered since its start, by the name of the endpoint."""
        return {name: each for d in self._decorators for name, each in d.stats().items()}

    async def sweep(self) -> int:
        """
        Delete the objects of `bodies` that no record leads to any more, and return how many.

        These are objects of entries that have expired, or of processes that have ended. One that
        was changed, or read from a directory, within `max_duration` and `grace` is left alone.

        Raises:
            StoreError: A store failed.
        """
        found: dict[int, tuple[WatchedBodies, dict[str, Store], float]] = {}
        for decorator in (self._own, *self._decorators):
            bodies, limits = decorator.options.bodies, decorator.options.limits
            if bodies is None:
                continue
            _, stores, age = found.setdefault(id(bodies), (bodies, {}, 0.0))
            backend = decorator.hooks.binding().primary
            stores[backend.cache.namespace or ""] = backend.server or backend.store
            longest = max(age, limits.max_duration + limits.kept_for)
            found[id(bodies)] = bodies, stores, longest
        return sum([await sweep(*each) for each in found.values()])

    # -- invalidation -----------------------------------------------------------------------

    async def invalidate_tags(self, *tags: str, soft: bool = False) -> bool:
        """
        Invalidate all entries that have one of these tags, of all endpoints and processes.

        Args:
            tags: The tags, as `"item:7"`.
            soft: Whether the entries become stale instead: they are served within the windows of
                `stale_while_revalidate` and `stale_if_error`.

        Returns:
            True if it was carried out, False if it waits for the store's return.

        Raises:
            StoreError: The store refused; old responses may still be served.
            ConfigurationError: A tag is no text.
        """
        for tag in tags:
            require(isinstance(tag, str) and tag, f"invalidate_tags({tag!r}): pass texts")
        return await self._invalidate(tags, soft=soft)

    async def clear(self) -> bool:
        """
        Invalidate all entries of this cache, those of other processes with its namespace included.

        Returns:
            True if it was carried out, False if it waits for the store's return.

        Raises:
            StoreError: The store refused; old responses may still be served.
        """
        return await self._invalidate([NAMESPACE], soft=False)
