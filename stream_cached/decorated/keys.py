"""The key of a call: from its request and arguments, or as the user says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from stream_cached.backends.users import user_of
from stream_cached.decorated.hooks import AiocacheHooks
from stream_cached.endpoint.arguments import Arguments
from stream_cached.endpoint.function import Endpoint
from stream_cached.endpoint.signatures import taking_request
from stream_cached.errors import ConfigurationError
from stream_cached.events import Reporter
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.names import is_internal, shows_object
from stream_cached.request.context import ContextWatch
from stream_cached.request.incoming import Incoming, Normalisers
from stream_cached.request.key_parts import KeyParts
from stream_cached.request.known_calls import KnownCalls, Seen
from stream_cached.request.selecting import Selecting

if TYPE_CHECKING:
    from stream_cached.decorated.base import Decorator

#: What `look` looks at.
Call = tuple[tuple[Any, ...], dict[str, Any], Normalisers]

#: What is said of a key that holds an address, and what to write.
_ADDRESS = (
    "key_builder returned a key with the address of an object, which another one is given later",
    "let it name what the answer depends on: request.url.path instead of request",
)


#: What a test may put on a decorator, where a subclass would have a method of its own.
_OVERRIDDEN = "get_cache_key"


class Keys:
    """The keys of one decorated function."""

    def __init__(
        self,
        endpoint: Endpoint,
        arguments: Arguments,
        context: ContextWatch,
        decorator: Decorator,
        hooks: AiocacheHooks,
        reporter: Reporter,
    ) -> None:
        self._endpoint = endpoint
        self._arguments = arguments
        self._context = context
        self._decorator = decorator
        self._hooks = hooks
        self._reporter = reporter
        self._signature = taking_request(decorator.key_builder)
        self._selecting: Selecting | None = None
        self._parses_query = decorator.options.query == "declared"
        self._is_unusual = self._parses_query or not hooks.keys_by_request

    def has_made(self, wrapper: Callable[..., Any]) -> None:
        """Note what the decorator has made of the function, once it may have a cache."""
        own = self._hooks.namespace
        self._parts = KeyParts(
            self._endpoint,
            wrapper,
            self._arguments,
            self._context,
            own_namespace=own,
            namespace=own or getattr(self._decorator.cache, "namespace", None),
        )
        host = self._decorator.options.key_host
        self._known = KnownCalls(
            self._endpoint, self._arguments, self._context, self._parts, host=host
        )

    def vary_on(self, vary: Mapping[str, Callable[[str], str] | None]) -> None:
        """Let headers select, however the keys are made."""
        self._selecting = Selecting(self._endpoint.declared, vary)
        self._known.keys.clear()

    def look(self, args: tuple[Any, ...], kwargs: dict[str, Any], vary: Normalisers) -> Seen | None:
        """Return a call as it was seen before; None for one that needs a closer look."""
        own, hooks = vars(self._decorator), self._hooks
        try:
            # A subclass may have properties instead.
            if self._is_unusual or own["key"] or own["key_builder"] or _OVERRIDDEN in own:
                return None
            return None if hooks.is_switched_off() else self._known.look(args, kwargs, vary, hooks)
        # The closer look finds why, and says so. It also takes what can't be compared: a middleware
        # may put anything into the scope.
        except Exception:
            return None

    def _selected(
        self, incoming: Incoming | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """Return what a key that is not made from the request lacks."""
        if self._selecting is None or self._hooks.keys_by_request:
            return ""
        request = None if incoming is None else incoming.request
        return self._selecting.suffix(request, args, kwargs)

    async def read_body(self, incoming: Incoming, seen: Seen | None, call: Call) -> Seen | None:
        """
        Make the body part of the key. Raise `BypassError` if that can't be done.

        Return the call as it is seen now: what its key is made of may have changed meanwhile.
        """
        if self._decorator.key or self._decorator.key_builder:
            return seen
        await incoming.read_body()
        return None if seen is None or incoming.has_body else self.look(*call)

    def key(
        self,
        incoming: Incoming | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        by_request: bool,
        seen: Seen | None = None,
    ) -> str:
        """Return the key of a call whose body was read. Raise `BypassError` if it has none."""
        decorator = self._decorator
        try:
            if incoming is not None and by_request and _OVERRIDDEN not in vars(decorator):
                return self.of_request(incoming, args, kwargs, seen)
            key = self._by_decorator(incoming, args, kwargs)
            lacking = self._selected(incoming, args, kwargs)
        except (BypassError, ConfigurationError):
            raise
        # A user's function that fails must not fail the request.
        except Exception as exc:
            subject = f"{self._maker} raised {type(exc).__name__}"
            raise BypassError(Finding(NotCached.FUNCTION, subject)) from exc
        if isinstance(key, Enum):
            key = key.value
        if not isinstance(key, str):
            subject = f"{self._maker} returned a value of type {type(key).__name__}"
            raise BypassError(Finding(NotCached.FUNCTION, subject, "let it return a str"))
        # The function itself has the same address as long as its keys are made.
        if decorator.key_builder and shows_object(key.replace(repr(self._endpoint.function), "")):
            raise BypassError(Finding(NotCached.ARGUMENT, *_ADDRESS))
        if not decorator.hooks.keys_by_request and is_internal(key):
            raise BypassError(Finding(NotCached.ARGUMENT, "its key is one that the cache needs"))
        return f"{key}{lacking}" if lacking else key

    def _by_decorator(
        self, incoming: Incoming | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        token = current_call.set((self, incoming))
        try:
            return self._decorator.get_cache_key(self._endpoint.function, args, kwargs)
        finally:
            current_call.reset(token)

    @property
    def _maker(self) -> str:
        return "get_cache_key" if self._decorator.overrides("get_cache_key") else "key_builder"

    def for_key_builder(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], incoming: Incoming | None
    ) -> dict[str, Any]:
        """Return the keyword arguments for `key_builder`, which may ask for the request."""
        if incoming is None or "request" in kwargs or self._signature is None:
            return kwargs
        try:
            given = self._signature.bind_partial(self._endpoint.function, *args, **kwargs)
        except TypeError:
            # It says so itself once it is called.
            return kwargs
        return kwargs if "request" in given.arguments else {**kwargs, "request": incoming.request}

    def check(self, scope: Scope) -> None:
        """Raise `BypassError` if no call on the route of a scope has a key."""
        if self._hooks.keys_by_request:
            self._parts.check(scope, self._hooks)

    def of_request(
        self,
        incoming: Incoming,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        seen: Seen | None = None,
    ) -> str:
        """Return the key that is made from a request."""
        # Its body is part of the key, and of nothing that was seen.
        if incoming.has_body:
            seen = None
        if seen is not None and seen.known is not None:
            return seen.known.key
        forms = self._parts.forms(args, kwargs, incoming, self._hooks)
        if self._parses_query:
            self._leave_out_query(incoming)
        key = incoming.key(self._endpoint.name, forms, host=self._decorator.options.key_host)
        if seen is not None:
            self._known.note(seen, key)
        return key

    def _leave_out_query(self, incoming: Incoming) -> None:
        """Let only what is declared of the query count, if nothing else may be read of it."""
        inputs = self._parts.inputs.of(incoming.scope)
        if not inputs.whole_query:
            incoming.leave_out_query(inputs.query)
            return
        self._reporter.warn(
            f'the whole query is part of the key in spite of query="declared", because '
            f"{inputs.whole_query}"
        )

    def for_aiocache(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], str]:
        """Return arguments as aiocache makes a key of them, and what its key then lacks."""
        args, kwargs, lacking = self._arguments.as_for_aiocache(args, kwargs)
        return args, kwargs, lacking + self._parts.suffix(self._hooks)

    def note(self, key: str) -> None:
        """Warn if another function uses the same key. Keys of requests name their function."""
        hooks, name = self._hooks, self._endpoint.name
        if hooks.has_own_memory:
            return
        other = user_of(hooks.binding(), key, name)
        if other != name:
            self._reporter.warn(
                f"it has a key that {other} has, too, so that each is given what the other one "
                "returned: pass another key=, key_builder= or namespace= to one of them"
            )


#: The keys of the function, and the request, whose key is made now.
current_call: ContextVar[tuple[Keys, Incoming | None] | None] = ContextVar(
    "stream_cached_keyed", default=None
)
