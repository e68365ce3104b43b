"""What a key has beside the request: arguments, context, the function and the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from stream_cached.endpoint.arguments import Arguments
from stream_cached.endpoint.classes import class_form
from stream_cached.endpoint.function import Endpoint
from stream_cached.endpoint.identity import Identity
from stream_cached.endpoint.inputs import RouteInputs
from stream_cached.keys.digest import digest
from stream_cached.request.application import Applications, Form, number_form
from stream_cached.request.context import ContextWatch
from stream_cached.request.incoming import Incoming
from stream_cached.request.injected import injected_forms
from stream_cached.request.kept import FRESH, replaced_parts
from stream_cached.request.observed import observer_of
from stream_cached.request.rendered import Rendered


class Cache(Protocol):
    """Where the entries of a function are."""

    @property
    def has_own_memory(self) -> bool: ...
    @property
    def is_in_process(self) -> bool: ...
    def binding(self) -> Any: ...


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
        self._rendered = Rendered(wrapper)
        self.inputs = RouteInputs(endpoint.function, wrapper)
        """What FastAPI parses of a request."""
        self.identity = Identity(
            endpoint.function,
            wrapper,
            endpoint.declared.parameters,
            name=endpoint.name,
            place=endpoint.place,
            namespace=namespace,
        )
        """Which function it is, with what it holds."""

    def check(self, scope: Scope, cache: Cache) -> None:
        """
        Look at what is the same for all calls on the route of a scope.

        Raises:
            BypassError: No call is for the cache.
        """
        self.identity.form(scope, in_memory=cache.is_in_process)
        self.around(object, scope, cache)

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
            if is_parsed and incoming.may_leave_out_body:
                incoming.leave_out_body()
        if names_user:
            incoming.is_authorized = False
        request = incoming.request
        is_plain = type(request) is Request and not request.__dict__.get("_form")
        if not is_plain or not FRESH.issuperset(request.__dict__):
            forms |= _replaced(request, incoming)
        if self._endpoint.injects:
            forms |= injected_forms((*args, *kwargs.values()))
        if identity := self.identity.form(scope, in_memory=is_in_process):
            forms["<function>"] = identity
        rare, application = self.around(type(args[0]) if args else object, scope, cache)
        return forms | rare | application

    def around(self, cls: type, scope: Scope, cache: Cache) -> tuple[dict[str, Any], Form]:
        """
        Return what is the same for calls of one class on a route: rare parts, and the application.

        The rare parts are the class of a method, and how the route renders where there are several.
        """
        rare, is_in_process = {}, cache.is_in_process
        if issubclass(cls, HTTPEndpoint) and (form := class_form(cls, in_memory=is_in_process)):
            rare["<class>"] = form
        if rendered := self._rendered.form(scope):
            rare["<route>"] = rendered
        if is_in_process:
            return rare, number_form(scope)
        return rare, self._applications.form(scope, cache.binding().cache.namespace)

    def holding(self, scope: Scope, cache: Cache) -> Callable[[], bool] | None:
        """Return what tells whether an application is still what it was; None if it always is."""
        return None if cache.is_in_process else self._applications.holding(scope)

    def is_alike(self, app: Any) -> bool:
        """Whether all routes of the function in an application render alike."""
        return self._rendered.is_single(app)

    def suffix(self, cache: Cache) -> str:
        """Return what a key of aiocache lacks of the function."""
        identity = self.identity
        is_named = hasattr(self._endpoint.function, "__name__")
        if is_named and (
            cache.has_own_memory or not (identity.is_made_each_time or identity.has_twins)
        ):
            return ""
        form = identity.form({}, in_memory=cache.is_in_process)
        return f":{digest(form)}" if form else ""


def _replaced(request: HTTPConnection, incoming: Incoming) -> dict[str, Any]:
    """Return what dependencies have replaced of a request: who has it as it came has other keys."""
    if (observer := observer_of(request)) is not None:
        request = observer.request
    replaced = replaced_parts(request, incoming.scope, has_body=incoming.has_body)
    return {"<request>": replaced} if replaced else {}
