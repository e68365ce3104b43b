"""What a key has beside the request: arguments, context, the function and the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.endpoints import HTTPEndpoint
from starlette.types import Scope

from stream_cached.endpoint.arguments import Arguments
from stream_cached.endpoint.classes import class_form
from stream_cached.endpoint.dependencies import overrides_of
from stream_cached.endpoint.function import Endpoint
from stream_cached.endpoint.identity import Identity
from stream_cached.endpoint.inputs import RouteInputs
from stream_cached.keys.digest import digest
from stream_cached.keys.references import Reference, reference_to
from stream_cached.request.application import Applications, Form, number_form
from stream_cached.request.context import ContextWatch
from stream_cached.request.incoming import Incoming
from stream_cached.request.injected import injected_forms
from stream_cached.request.rendered import Rendered, is_of_fastapi


class Cache(Protocol):
    """Where the entries of a function are."""

    @property
    def has_own_memory(self) -> bool: ...
    @property
    def is_in_process(self) -> bool: ...
    def binding(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """Where the last plain request came in, and what that adds to a key."""

    app: Reference
    router: Reference
    cls: type
    """The class of the first argument."""
    around: tuple[object, ...]

    def is_of(self, app: object, router: object, cls: type) -> bool:
        return self.app() is app and self.router() is router and self.cls is cls


class KeyParts:
    """
    What the keys of one function have beside the request.

    Args:
        endpoint: The function.
        wrapper: What the decorator has made of it.
        arguments: Its arguments.
        context: Its context variables.
        own_namespace: The `namespace=` of the decorator; None without one.
        namespace: The namespace of its keys.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        wrapper: Callable[..., Any],
        arguments: Arguments,
        context: ContextWatch,
        *,
        own_namespace: str | None,
        namespace: object,
    ) -> None:
        self._endpoint = endpoint
        self._arguments = arguments
        self._context = context
        self._applications = Applications(
            endpoint.name, endpoint.place, is_named=own_namespace is not None
        )
        self._may_be_plain = not (endpoint.injects or context.is_in_key)
        self._rendered = Rendered(wrapper)
        self._seen: _Seen | None = None
        self.inputs = RouteInputs(endpoint.function, wrapper)
        """What FastAPI parses of a request."""
        self._identity = Identity(
            endpoint.function,
            wrapper,
            endpoint.declared.parameters,
            name=endpoint.name,
            place=endpoint.place,
            namespace=namespace,
        )

    def check(self, scope: Scope, cache: Cache) -> None:
        """
        Look at what is the same for all calls on the route of a scope.

        Raises:
            BypassError: No call is for the cache.
        """
        self._identity.form(scope, in_memory=cache.is_in_process)
        self._around(object, scope, cache)

    def forms(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], incoming: Incoming, cache: Cache
    ) -> dict[str, Any]:
        """Return the parts by names."""
        scope, is_in_process = incoming.scope, cache.is_in_process
        forms, names_user, whole = self._arguments.forms(args, kwargs, scope)
        forms |= self._context.forms()
        # A validator may have noted there what it has found in the body.
        if incoming.may_have_body and not self._context.has_told:
            body = self.inputs.of(scope).body
            is_parsed = body and body <= whole and not any(type(forms[n]) is bytes for n in body)
            if is_parsed and incoming.may_be_parsed:
                incoming.parse_body()
        if names_user:
            incoming.is_authorized = False
        if self._endpoint.injects:
            forms |= injected_forms((*args, *kwargs.values()))
        if identity := self._identity.form(scope, in_memory=is_in_process):
            forms["<function>"] = identity
        rare, application = self._around(type(args[0]) if args else object, scope, cache)
        return forms | rare | application

    def _around(self, cls: type, scope: Scope, cache: Cache) -> tuple[dict[str, Any], Form]:
        """Return the class of a method and how a route renders, if there is more than one; and the
        application."""
        rare, is_in_process = {}, cache.is_in_process
        if issubclass(cls, HTTPEndpoint) and (form := class_form(cls, in_memory=is_in_process)):
            rare["<class>"] = form
        if rendered := self._rendered.form(scope):
            rare["<route>"] = rendered
        if is_in_process:
            return rare, number_form(scope)
        return rare, self._applications.form(scope, cache.binding().cache.namespace)

    def fingerprint(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        incoming: Incoming,
        cache: Cache,
        *,
        host: bool,
    ) -> tuple[object, ...] | None:
        """
        Return all that a key is made of, as it is; None for a call that needs a closer look.

        Equal ones have equal keys, so that a key need not be made again.

        Raises:
            BypassError: The call is not for the cache.
        """
        if not self._may_be_plain:
            return None
        self._context.look()
        scope = incoming.scope
        given = self._arguments.fingerprint(args, kwargs, scope)
        own = None if given is None else self._identity.fingerprint()
        request = None if own is None else incoming.fingerprint(host=host)
        if given is None or own is None or request is None:
            return None
        around = self._fingerprint_around(type(args[0]) if args else object, scope, cache)
        return None if around is None else (*request, *given, *own, *around)

    def _fingerprint_around(
        self, cls: type, scope: Scope, cache: Cache
    ) -> tuple[object, ...] | None:
        """Return what `_around` is made of; None for what is rare."""
        app, router = scope.get("app"), scope.get("router")
        # A reference to what is gone returns None.
        is_plain = app is not None and router is not None and not is_of_fastapi(scope)
        is_plain = is_plain and not overrides_of(scope) and cache.is_in_process
        if is_plain and (seen := self._seen) is not None and seen.is_of(app, router, cls):
            return seen.around
        rare, application = self._around(cls, scope, cache)
        around = tuple(application.items())
        if is_plain and not rare:
            self._seen = _Seen(reference_to(app), reference_to(router), cls, around)
        return None if rare else around

    def suffix(self, cache: Cache) -> str:
        """Return what a key of aiocache lacks of the function."""
        is_nameless = not hasattr(self._endpoint.function, "__name__")
        if not is_nameless and (cache.has_own_memory or not self._identity.is_made_each_time):
            return ""
        form = self._identity.form({}, in_memory=cache.is_in_process)
        return f":{digest(form)}" if form else ""
