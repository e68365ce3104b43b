"""One function under the decorator: its key, its calls, its invalidation."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stream_cached.backends.pending import InvalidatedBefore
from stream_cached.checks import require
from stream_cached.decorated.asked import Asked
from stream_cached.decorated.declared import SWITCHES, check, warn
from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.decorated.keys import Keys
from stream_cached.endpoint.arguments import Arguments
from stream_cached.endpoint.function import HIDDEN, Endpoint
from stream_cached.endpoint.known import note_decorated
from stream_cached.endpoint.route import effective_route, is_endpoint
from stream_cached.endpoint.tags import Tagging
from stream_cached.endpoint.validator import Validator
from stream_cached.engine.answer import answer
from stream_cached.engine.at_hand import FirstLook, answer_at_hand, answer_ready
from stream_cached.engine.header_rules import HeaderRules, keyed_of
from stream_cached.engine.invalidate import Invalidation, Version
from stream_cached.engine.outcome import Call
from stream_cached.engine.service import Service
from stream_cached.events import Reporter
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.names import version_key
from stream_cached.options import Options, Vary
from stream_cached.request.context import ContextWatch
from stream_cached.request.incoming import Incoming
from stream_cached.request.known_calls import Seen
from stream_cached.request.observed import plain_scope
from stream_cached.responses.rendering import Rendering, Twins
from stream_cached.tasks import has_event_loop

if TYPE_CHECKING:
    from starlette.types import Scope

    from stream_cached.decorated.base import Decorator


def _sends_hits_as_they_are(endpoint: Endpoint, options: Options) -> bool:
    """Whether a hit that is at hand is what a plain request is sent."""
    of_request = options.refresh or options.resume == "event-id" or endpoint.generates
    return not (of_request or options.exact or options.targets or options.client_cache_control)


def _without_switches(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in SWITCHES}


class Decorated:
    """A decorated function."""

    def __init__(
        self, function: Callable[..., Any], decorator: Decorator, hooks: AiocacheHooks
    ) -> None:
        options = decorator.options
        self._decorator = decorator
        self.hooks = hooks
        self._refresh, self._ignored_query = options.refresh, options.ignored_query
        self._asked: set[bool] = set()
        """Whether it was called with a request, without one, or both."""
        self._renders = self._renders_values()
        self.endpoint = endpoint = Endpoint(
            function, takes_request=options.request_key, takes_response=self._renders
        )
        self._twins = Twins(endpoint)
        #: What the decorator makes of the function.
        self.wrapper: Callable[..., Any] | None = None
        check(endpoint, decorator)
        place = f" ({endpoint.place})" if endpoint.place else ""
        self.reporter = Reporter(f"{endpoint.name}{place}", endpoint.name, options.on_event)
        note_decorated(function, self.reporter)
        context = ContextWatch(options.key_context, self.reporter, function=function)
        self.arguments = Arguments(
            function,
            endpoint.declared,
            noself=decorator.noself,
            keyed=keyed_of(options),
            key_args=options.key_args,
            key_ignore=options.key_ignore,
        )
        self._keys = Keys(endpoint, self.arguments, context, decorator, hooks, self.reporter)
        self._tagging = Tagging(
            endpoint.name,
            endpoint.declared,
            options.tags,
            options.invalidate_by,
            has_namespace=hooks.is_late,
            key_of=hooks.tag_key,
        )
        taken, verbatim = self.arguments.headers(endpoint.headers)
        self.service = Service(
            version=version_key(endpoint.name),
            options=options,
            headers=HeaderRules(options, taken, verbatim),
            reporter=self.reporter,
            hooks=hooks,
            invalidated_before=InvalidatedBefore(time.monotonic),
            validator=options.validator
            and Validator(options.validator, endpoint.declared, endpoint.name),
        )
        self._invalidation = Invalidation(self.service, decorator.key)
        self._varied: dict[str, tuple[str, Callable[[str], str] | None]] = {}
        """What `vary_on_headers` has added, by the lower-cased name."""
        warn(options, verbatim, self.reporter)
        self._may_be_at_hand = hooks.keys_by_request and _sends_hits_as_they_are(endpoint, options)

    def _renders_values(self) -> bool:
        """Whether what an endpoint returns is stored as FastAPI renders it."""
        decorator, hooks = self._decorator, self._decorator.hooks
        options = decorator.options
        is_own = decorator.alias or decorator._serializer is not None or hooks.has_own_values
        is_asked_for = options.values == "response" and options.request_key
        return is_asked_for and hooks.keys_by_request and not is_own

    def has_made(self, wrapper: Callable[..., Any]) -> None:
        """Note what the decorator has made of the function, once it may have a cache."""
        self.wrapper = wrapper
        self._keys.has_made(wrapper)

    def vary_on(self, vary: Vary) -> None:
        """Let more headers select among the responses, as `vary_on_headers` says."""
        options = self.service.options
        require(
            options.request_key,
            f"vary_on_headers() is about the request, which request_key=False leaves out of "
            f"account: leave one of them off {self.endpoint.name}",
        )
        self._varied |= {name.lower(): (name, function) for name, function in vary.items()}
        names = {
            name: each for name, each in options.vary.items() if name.lower() not in self._varied
        }
        every = {**names, **dict(self._varied.values())}
        taken, verbatim = self.arguments.headers(self.endpoint.headers)
        self.service = replace(
            self.service, headers=HeaderRules(options, taken, verbatim, vary=every)
        )
        self._keys.vary_on(dict(self._varied.values()))
        if not self.endpoint.generates and self.wrapper is not None:
            # For the Vary of a plain value.
            self.endpoint.ask_for_response()
            vars(self.wrapper)["__signature__"] = self.endpoint.signature
        # What is stored under `key=` is now stored under several keys.
        self._invalidation = Invalidation(self.service, None)

    @property
    def decorator(self) -> Decorator:
        """The decorator whose function it is."""
        return self._decorator

    def check(self, scope: Scope) -> None:
        """Raise `BypassError` if no call on the route of a scope has a key."""
        self._keys.check(scope)

    # -- one call ---------------------------------------------------------------------------

    def look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Seen | None, Any]:
        """Return a call as it was seen before, and its answer if one is ready; None for unknown."""
        if not self._may_be_at_hand or (kwargs and not SWITCHES.isdisjoint(kwargs)):
            return None, None
        service = self.service
        seen = self._keys.look(args, kwargs, service.headers.normalisers)
        return seen, None if seen is None else answer_ready(service, seen)

    async def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any], seen: Seen | None) -> Any:
        """Answer a call for which nothing is ready: from the cache, or by running the function."""
        if not self._may_be_at_hand or not SWITCHES.isdisjoint(kwargs):
            return await self.answer_whole_way(args, kwargs)
        # `can_cache` looks at the same, and says why not.
        if not has_event_loop() and not self.can_cache():
            return await self.run_uncached(args, kwargs)
        service, asked, rendering = self.service, None, None
        versions = self._tagging.always
        key = "" if seen is None or versions is None or self._varied else seen.plain_key()
        if key and seen is not None and versions is not None:
            if seen.injected is not None:
                rendering = self._rendering(seen.request, seen.injected)
            found = await answer_at_hand(service, seen, key, versions, rendering)
        else:
            asked = await self._ask(args, kwargs, seen)
            # A key of another kind, which a test may have put there, is not shown as it is.
            incoming = asked.incoming if asked.keyed else None
            if asked.findings or incoming is None or not incoming.is_plain_get:
                return await self.perform(asked.call())
            found = await answer_at_hand(
                service, incoming, asked.key, asked.versions, asked.rendering
            )
        if found is None or isinstance(found, FirstLook):
            asked = asked or await self._ask(args, kwargs, seen)
            return await self.perform(asked.call(looked=found))
        return found

    async def answer_whole_way(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_reported: bool = True
    ) -> Any:
        """Do the same, whatever is at hand."""
        switches = {name: kwargs[name] for name in SWITCHES & kwargs.keys()}
        kwargs = _without_switches(kwargs)
        if not self.can_cache():
            return await self.run_uncached(args, kwargs)
        call = await self.call(args, kwargs, **switches)
        return await self.perform(call if is_reported else call.for_the_rest())

    def perform(self, call: Call) -> Awaitable[Any]:
        """Answer a call."""
        return answer(call)

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
        seen = self._keys.look(args, kwargs, self.service.headers.normalisers)
        asked = await self._ask(args, kwargs, seen)
        return asked.call(reads=cache_read, writes=cache_write, waits=aiocache_wait_for_write)

    async def _ask(self, args: tuple[Any, ...], kwargs: dict[str, Any], seen: Seen | None) -> Asked:
        """Return what a call asks for."""
        hooks = self.service.hooks
        by_request, given = hooks.keys_by_request, kwargs
        request, kwargs = self.endpoint.take_request(args, kwargs)
        self._asked.add(request is not None)
        injected, kwargs = self.endpoint.take_response(kwargs)
        rendering = self._rendering(request, injected)
        if injected is not None and (self.endpoint.generates or (self._varied and not rendering)):
            # What gets its head from FastAPI.
            injected.raw_headers[:] = self.service.headers.with_vary(injected.raw_headers)
        asked = Asked(self.service, self.endpoint, self._tagging, args, kwargs, rendering)
        try:
            if hooks.is_switched_off():
                raise BypassError(Finding(NotCached.SWITCHED_OFF))
            asked.versions = self._tagging.versions(args, kwargs)
            asked.incoming = incoming = self._incoming(request, keyed=by_request, seen=seen)
            asked.keyed = incoming is not None and by_request
            if incoming is not None and rendering is not None:
                incoming.status = rendering.status
            if incoming is not None and incoming.may_have_body:
                seen = await self._keys.read_body(
                    incoming, seen, (args, given, self.service.headers.normalisers)
                )
            asked.key = self._keys.key(incoming, args, kwargs, by_request=by_request, seen=seen)
        except BypassError as exc:
            asked.findings = exc.findings
            if exc.__cause__ is not None:
                self.reporter.function_failed(exc.__cause__)
        else:
            if not asked.keyed:
                self._keys.note(asked.key)
        return asked

    def _rendering(self, request: Any, injected: Any) -> Rendering | None:
        """Return how FastAPI renders what the function returns, where FastAPI gets it unchanged."""
        if not self._renders or request is None or injected is None:
            return None
        route = effective_route(plain_scope(request.scope))
        is_own = is_endpoint(self.wrapper, route)
        return self._rendering_on(route, request, injected) if is_own else None

    def _rendering_on(self, route: Any, request: Any, injected: Any) -> Rendering:
        return Rendering(self._twins, route, request, injected)

    def _incoming(self, request: Any, *, keyed: bool, seen: Seen | None = None) -> Incoming | None:
        if request is None:
            return None
        headers, methods = self.service.headers, self.service.options.methods
        lines, selected = (None, None) if seen is None else (seen.lines, seen.selected)
        incoming = Incoming(
            request, headers.normalisers, self._refresh, self._ignored_query, lines, selected
        )
        incoming.check(methods, headers.identifying(keyed=keyed))
        return incoming

    def can_cache(self) -> bool:
        """Whether anything can be cached here; otherwise say once why not."""
        if has_event_loop():
            return True
        self.reporter.error(
            "nothing is cached, because no event loop of asyncio runs: the library needs asyncio, "
            "and does not work under trio"
        )
        return False

    async def run_uncached(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function where nothing can be cached."""
        _, kwargs = self.endpoint.take_request(args, kwargs)
        _, kwargs = self.endpoint.take_response(kwargs)
        return await self.endpoint.run(args, kwargs)

    def generate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function past the cache, for what is going to iterate over its result."""
        self.reporter.not_cached(Finding(NotCached.ITERATOR))
        _, kwargs = self.endpoint.take_request(args, kwargs)
        _, kwargs = self.endpoint.take_response(kwargs)
        return self.endpoint.function(*args, **_without_switches(kwargs))

    async def cache_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the key of a call. Raise `BypassError` if the call is not for the cache."""
        endpoint = self.endpoint
        if "request" in kwargs and endpoint.hides_request and "request" not in endpoint.parameters:
            kwargs = dict(kwargs)
            kwargs[HIDDEN] = kwargs.pop("request")
        given = args, kwargs, self.service.headers.normalisers
        seen = self._keys.look(*given)
        if seen is not None and (key := seen.plain_key()):
            return key
        request, kwargs = endpoint.take_request(args, kwargs)
        by_request = self.hooks.keys_by_request
        if request is None and by_request:
            self._check_key_without_request()
        _, kwargs = endpoint.take_response(kwargs)
        incoming = self._incoming(request, keyed=by_request, seen=seen)
        if incoming is not None and incoming.may_have_body:
            seen = await self._keys.read_body(incoming, seen, given)
        return self._keys.key(incoming, args, kwargs, by_request=by_request, seen=seen)

    def _check_key_without_request(self) -> None:
        fix = "pass the request of the call whose key it is, as request=; invalidate() takes no key"
        if self.endpoint.needs_request:
            reason = NotCached.NO_REQUEST
            raise BypassError(Finding(reason, "its key is made from the request", fix))
        if self._asked == {True}:
            # It may be called without a request, too.
            self.reporter.warn(
                f"cache_key() returns the key of a call without a request, and all calls so far "
                f"had one: {fix}"
            )

    # -- invalidation -----------------------------------------------------------------------

    async def invalidate(self, key: str | None, arguments: Mapping[str, Any]) -> bool:
        """Invalidate what is stored under a key, for an argument, or (without both) everything."""
        require(
            not (key and arguments), "invalidate() takes a key or an argument: pass one of them"
        )
        versions = self._tagging.named(arguments) if arguments else []
        if self.service.hooks.is_invalidation_off() or not self.can_cache():
            return False
        if versions:
            return all([await self._invalidation(Version(each)) for each in versions])
        return await self._invalidation(key)
