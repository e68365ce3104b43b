"""One function under the decorator: its key, its calls, its invalidation."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Any

from aiocache.base import SENTINEL

from stream_cached.backends.binding import Binding
from stream_cached.backends.pending import InvalidatedBefore
from stream_cached.backends.resolve import resolve_alias, resolve_cache, resolve_fallback
from stream_cached.checks import require
from stream_cached.endpoint.arguments import Arguments
from stream_cached.endpoint.function import HIDDEN, Endpoint, closure_digest
from stream_cached.endpoint.route import effective_route, is_endpoint
from stream_cached.engine.header_rules import HeaderRules
from stream_cached.engine.invalidate import Invalidation
from stream_cached.engine.outcome import Call, RequestView
from stream_cached.engine.service import Hooks, Service
from stream_cached.engine.values import Use, using
from stream_cached.errors import ConfigurationError
from stream_cached.events import Reporter
from stream_cached.fallback_cache import FallbackCache
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.names import is_internal, version_key
from stream_cached.options import MIN_SECRET, NOT_GIVEN, check_arguments
from stream_cached.request.execution import Execution
from stream_cached.request.guard import TRACES
from stream_cached.request.incoming import Incoming
from stream_cached.request.observed import plain_scope
from stream_cached.responses.rendering import Rendering, Twins
from stream_cached.stores.aiocache import switched_off

if TYPE_CHECKING:
    from stream_cached.decorator import stream_cached

#: The switches of a single call, as in aiocache's decorators.
SWITCHES = frozenset({"cache_read", "cache_write", "aiocache_wait_for_write"})

#: For each name of a decorated function and its cache, the digests of up to two closures that were
#: decorated under that name: a factory that decorates twice causes one log line.
_closures: dict[tuple[str, str | int], set[str]] = {}


class Decorated:
    """A decorated function."""

    def __init__(self, function: Callable[..., Any], decorator: stream_cached) -> None:
        options = decorator.options
        self._decorator = decorator
        self._renders = self._renders_values()
        self.endpoint = endpoint = Endpoint(
            function, takes_request=options.request_key, takes_response=self._renders
        )
        self._twins = Twins(endpoint)
        #: What the decorator makes of the function.
        self.wrapper: Callable[..., Any] | None = None
        self._check()
        place = f" ({endpoint.place})" if endpoint.place else ""
        self.reporter = Reporter(f"{endpoint.name}{place}")
        self.arguments = Arguments(
            function,
            endpoint.declared,
            noself=decorator.noself,
            by_request=options.request_key,
            key_args=options.key_args,
            key_ignore=options.key_ignore,
        )
        taken, verbatim = self.arguments.headers(endpoint.headers)
        self.service = Service(
            version=version_key(endpoint.name),
            options=options,
            headers=HeaderRules(options, taken, verbatim),
            reporter=self.reporter,
            hooks=decorator.hooks,
            invalidated_before=InvalidatedBefore(time.monotonic),
        )
        self._invalidation = Invalidation(self.service, decorator.key)
        self._warn(verbatim)

    def _renders_values(self) -> bool:
        """Whether what an endpoint returns is stored as FastAPI renders it."""
        decorator, hooks = self._decorator, self._decorator.hooks
        options = decorator.options
        is_own = decorator.alias or decorator._serializer is not None or hooks.has_own_values
        is_asked_for = options.values == "response" and options.request_key
        return is_asked_for and hooks.keys_by_request and not is_own

    def _check(self) -> None:
        decorator, endpoint = self._decorator, self.endpoint
        taken = SWITCHES & endpoint.parameters
        require(
            not taken,
            f"{endpoint.name} has a parameter {', '.join(taken)}, which switches the cache of a "
            "single call: give it another name",
        )
        check_arguments(decorator.options, endpoint.declared.parameters, endpoint.name)
        require(
            decorator.options.request_key
            or decorator.key
            or decorator.key_builder
            or not endpoint.declares_request,
            f"{endpoint.name} takes a request, of which nothing would be part of the key: leave "
            "request_key=False out",
        )

    def _warn(self, verbatim: frozenset[str]) -> None:
        if any(len(secret) < MIN_SECRET for secret in self._decorator.options.secrets):
            self.reporter.warn(
                f"secret= has one of fewer than {MIN_SECRET} bytes, which can be guessed: pass 32 "
                "random bytes"
            )
        for header in sorted(TRACES & {name.lower() for name in verbatim}):
            self.reporter.warn(
                f"{header} is another one for each request, and part of the key, so that there "
                "will be no hits: take its parameter out of the key by key_ignore= or NotInKey"
            )

    def inform_of_twin(self) -> None:
        """Log that a factory has decorated the same function over another closure."""
        decorator, name = self._decorator, self.endpoint.name
        closure = closure_digest(self.endpoint.function)
        seen = _closures.setdefault((name, decorator.alias or id(decorator.cache)), {closure})
        if closure not in seen and len(seen) == 1:
            seen.add(closure)
            # A factory that is called again for each test is no mistake.
            self.reporter.inform(
                "it is decorated once more, over other values, by a factory perhaps: the two share "
                "entries where host, path, query and arguments agree; pass namespace= to part them"
            )

    # -- one call ---------------------------------------------------------------------------

    async def call(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        cache_read: bool = True,
        cache_write: bool = True,
        aiocache_wait_for_write: bool = True,
    ) -> Call:
        """Return a call as the engine answers it."""
        hooks = self.service.hooks
        request, kwargs = self.endpoint.take_request(args, kwargs)
        injected, kwargs = self.endpoint.take_response(kwargs)
        rendering = self._rendering(request, injected)
        incoming: Incoming | None = None
        key = ""
        findings: tuple[Finding, ...] = ()
        try:
            if hooks.is_switched_off():
                raise BypassError(Finding(NotCached.SWITCHED_OFF))
            incoming = self._incoming(request)
            if incoming is not None and rendering is not None:
                incoming.status = rendering.status
            key = await self._key(incoming, args, kwargs)
        except BypassError as exc:
            findings = exc.findings
        keyed = incoming is not None and hooks.keys_by_request
        terms = self.service.headers.terms if keyed else None
        return Call(
            service=self.service,
            execution=Execution(self.endpoint, args, kwargs, incoming, terms),
            key=key,
            request=None if incoming is None else RequestView.of(incoming),
            keyed=keyed,
            findings=findings,
            reads=cache_read,
            writes=cache_write,
            waits=aiocache_wait_for_write,
            rendering=rendering,
        )

    def _rendering(self, request: Any, injected: Any) -> Rendering | None:
        """Return how FastAPI renders what the function returns, where FastAPI gets it unchanged."""
        if not self._renders or request is None or injected is None:
            return None
        route = effective_route(plain_scope(request.scope))
        if not is_endpoint(self.wrapper, route):
            return None
        return Rendering(self._twins, route, request, injected)

    def _incoming(self, request: Any) -> Incoming | None:
        if request is None:
            return None
        headers = self.service.headers
        incoming = Incoming(request, headers.normalisers)
        identifying = headers.identifying(keyed=self.service.hooks.keys_by_request)
        incoming.check(self.service.options.methods, identifying)
        return incoming

    # -- the key ----------------------------------------------------------------------------

    async def cache_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the key of a call. Raise `BypassError` if the call is not for the cache."""
        endpoint = self.endpoint
        if "request" in kwargs and endpoint.hides_request and "request" not in endpoint.parameters:
            kwargs = dict(kwargs)
            kwargs[HIDDEN] = kwargs.pop("request")
        request, kwargs = endpoint.take_request(args, kwargs)
        _, kwargs = endpoint.take_response(kwargs)
        return await self._key(self._incoming(request), args, kwargs)

    async def _key(
        self, incoming: Incoming | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        decorator = self._decorator
        own = decorator.key or decorator.key_builder
        if not own and incoming is not None and incoming.may_have_body:
            await incoming.read_body()
        token = current_call.set((self, incoming))
        try:
            key = decorator.get_cache_key(self.endpoint.function, args, kwargs)
        finally:
            current_call.reset(token)
        if isinstance(key, Enum):
            key = key.value
        if not isinstance(key, str):
            raise ConfigurationError(
                f"the key of {self.endpoint.name} is of type {type(key).__name__}: let "
                "key_builder return a str"
            )
        if not decorator.hooks.keys_by_request and is_internal(key):
            raise BypassError(Finding(NotCached.ARGUMENT, "its key is one that the cache needs"))
        return key

    # -- invalidation -----------------------------------------------------------------------

    async def invalidate(self, key: str | None) -> bool:
        """Invalidate what is stored under a key, or (None) everything."""
        return self.service.hooks.is_invalidation_off() or await self._invalidation(key)


#: The function and the request whose key is built now.
current_call: ContextVar[tuple[Decorated, Incoming | None] | None] = ContextVar(
    "stream_cached_keyed", default=None
)


class AiocacheHooks(Hooks):
    """The cache of the decorator, as aiocache configures it."""

    def __init__(self, decorator: stream_cached, settings: dict[str, Any]) -> None:
        self._decorator = decorator
        self._settings = settings
        self._binding: Binding | None = None

    @property
    def keys_by_request(self) -> bool:
        decorator = self._decorator
        return not (decorator.key or decorator.key_builder or decorator.overrides("get_cache_key"))

    @property
    def has_own_values(self) -> bool:
        return self._decorator.overrides("get_from_cache")

    def is_switched_off(self) -> bool:
        return switched_off()

    def is_invalidation_off(self) -> bool:
        return switched_off()

    def bind_early(self, reporter: Reporter) -> None:
        alias = self._decorator.alias
        if self._binding is not None:
            return
        if alias is None:
            self.bind(resolve_cache(**self._settings))
            return
        own = ("serializer", "namespace", "plugins")
        given = [n for n, value in self._settings.items() if n in own and value is not None]
        for name in (*given, *self._settings["options"]):
            reporter.warn(f"alias={alias!r} has settings of its own; {name}= is ignored")
        # An alias that is configured later is looked for again at the first use.
        with contextlib.suppress(ConfigurationError):
            self.bind(resolve_alias(alias))

    def bind(self, cache: Any) -> Binding:
        decorator, options = self._decorator, self._decorator.options
        decorator.cache = cache
        timeout = SENTINEL if options.timeout is NOT_GIVEN else options.timeout
        if isinstance(cache, FallbackCache):
            self._binding = cache.binding(timeout, self.secrets())
        else:
            self._binding = Binding(
                cache,
                fallback=functools.partial(resolve_fallback, decorator.fallback),
                retry_interval=options.limits.retry_interval,
                timeout=timeout,
                secrets=self.secrets(),
            )
        return self._binding

    def secrets(self) -> tuple[bytes, ...]:
        return self._decorator.options.secrets

    def binding(self) -> Binding:
        return self._binding or self.bind(resolve_alias(self._decorator.alias))

    def ttl(self) -> float | None:
        ttl: Any = self._decorator.ttl
        return self.binding().cache.ttl or None if ttl is SENTINEL else ttl

    def keeps_objects(self, use: Use) -> bool:
        return use.keeps_objects and not self._decorator.overrides("set_in_cache")

    def accepts(self, call: Call, resource: Any, result: Any) -> bool:
        return not self._decorator.skip_cache_func(result)

    async def load_value(self, use: Use, key: str) -> Any:
        with using(use):
            return await self._decorator.get_from_cache(key)

    async def save_value(self, use: Use, key: str, value: Any) -> None:
        with using(use):
            await self._decorator.set_in_cache(key, value)
