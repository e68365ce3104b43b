"""One decorated view: its key, its tags, its calls, its invalidation."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from stream_cached.backends.pending import InvalidatedBefore
from stream_cached.checks import require
from stream_cached.django.calling import called, for_django, has_functions
from stream_cached.django.conf import Cache
from stream_cached.django.execution import Place, ViewExecution
from stream_cached.django.forms import Forms, Known, is_of_route, note_page_cache, refusal
from stream_cached.django.hooks import DjangoHooks, ViewReporter
from stream_cached.django.requests import DjangoConnection, changed_query, incoming_of, is_wrapped
from stream_cached.django.selves import attributes_of, changed_arguments, owner_of
from stream_cached.django.surroundings import around
from stream_cached.django.validating import ViewValidator
from stream_cached.endpoint.tags import Tagging
from stream_cached.engine.header_rules import HeaderRules
from stream_cached.engine.invalidate import Invalidation, Version
from stream_cached.engine.outcome import Call
from stream_cached.engine.request_view import RequestView
from stream_cached.engine.service import Service
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.http.wishes import NO_WISHES, Wishes
from stream_cached.keys.canonical import NoCanonicalFormError, canonical
from stream_cached.keys.names import version_key
from stream_cached.options import Options, Vary
from stream_cached.request.context import ContextWatch
from stream_cached.request.incoming import Incoming

T = TypeVar("T")

#: What the instance of a view that is a method is called in options.
_SELF = "self"

_FIX_OF_SELF = (
    'pass key_args={"self": lambda view: ...} with a function that returns what the answer depends '
    'on, or key_ignore=("self",) if it depends on nothing that is set on the view before its method'
)

#: No user was asked for.
NO_USER = ""


@dataclass(frozen=True)
class Settings:
    """
    The options of one decorator.

    Args:
        alias: The name of the cache in the settings of the project.
        per_user: Whether the key has the user.
        query: The names of the query that are part of the key; None for all.
        options: The other ones, for `StreamCache.cached`.
    """

    alias: str
    per_user: bool
    query: frozenset[str] | None
    options: Mapping[str, Any]


class View:
    """
    What is the same for all calls of one view.

    Args:
        name: Its module and qualified name.
        signature: Its signature from the request on.
        cache: Where its responses are.
        chosen: The options of its decorator.
        baseline: The context in which the decorator was made.
    """

    def __init__(
        self,
        name: str,
        signature: inspect.Signature,
        cache: Cache,
        chosen: Settings,
        baseline: Context,
    ) -> None:
        decorator = cache.streams.cached(**chosen.options)
        #: What stands for the decorator of a function in other frameworks.
        self.decorator = decorator
        self.options: Options = decorator.options
        self._chosen = chosen
        self._signature = signature
        self._names = [
            each.name
            for each in signature.parameters.values()
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
        self._name = name
        self._has_functions = has_functions(self.options)
        self._check()
        self.reporter = ViewReporter(name, hook=self.options.on_event)
        self._context = ContextWatch(self.options.key_context, self.reporter, baseline)
        self._tagging = Tagging(
            name, signature, self.options.tags, self.options.invalidate_by, has_namespace=True
        )
        self.service = Service(
            version=version_key(name),
            options=self.options,
            headers=self._rules(self.options.vary),
            reporter=self.reporter,
            hooks=DjangoHooks(decorator.hooks),
            invalidated_before=InvalidatedBefore(time.monotonic),
            validator=self.options.validator
            and ViewValidator(self.options.validator, signature, name),
        )
        #: With the header by which Django REST Framework chooses a renderer, as it has understood
        #: that header.
        self._negotiated = replace(
            self.service, headers=self._rules({**self.options.vary, "Accept": _unchanged})
        )
        self._invalidation = Invalidation(self.service, None)

    @property
    def is_per_user(self) -> bool:
        """Whether the key has the user."""
        return self._chosen.per_user

    @property
    def query(self) -> frozenset[str] | None:
        """The names of the query that are part of the key; None for all."""
        return self._chosen.query

    @property
    def request_name(self) -> str:
        """The parameter that is the request; empty where none has a name."""
        return self._names[0] if self._names else ""

    @property
    def arguments(self) -> list[str]:
        """The parameters beside the request."""
        return [*self._signature.parameters][1:]

    def _check(self) -> None:
        parameters = self._signature.parameters.values()
        if any(each.kind is each.VAR_KEYWORD for each in parameters):
            return
        for option in ("key_args", "key_ignore"):
            known = self._signature.parameters.keys() | {_SELF}
            unknown = sorted(set(getattr(self.options, option)) - known)
            require(
                not unknown,
                f"{option}= names {', '.join(unknown)}, but {self._name} takes "
                f"{', '.join(self._signature.parameters)}",
            )

    def _rules(self, vary: Vary) -> HeaderRules:
        rules = HeaderRules(self.options, frozenset(), frozenset(), vary=vary)
        if self._chosen.per_user:
            users = {"auth", "user"}
            rules.terms = replace(rules.terms, unguarded=rules.terms.unguarded | users)
        return rules

    # -- one call ---------------------------------------------------------------------------

    async def call(
        self,
        known: Known,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        connection: DjangoConnection,
        place: Place,
        user: object,
    ) -> Call:
        """Return a call as the engine answers it."""
        request = connection.django
        service = self._negotiated if is_wrapped(request) else self.service
        own = args[_place_of(request, args) + 1 :]
        incoming: Incoming | None = None
        key, versions, findings = "", tuple[str, ...](), tuple[Finding, ...]()
        in_key: frozenset[str] = frozenset()
        try:
            if service.hooks.is_switched_off():
                raise BypassError(Finding(NotCached.SWITCHED_OFF))
            versions = await self._called(
                place, lambda: self._tagging.versions((request, *own), kwargs)
            )
            incoming = self._incoming(connection, service)
            if incoming.may_have_body:
                await place.call(connection.read_body)
                await incoming.read_body()
            if self._chosen.query is not None:
                incoming.leave_out_query(self._chosen.query)
            of_request, in_key = around(request, own, kwargs, host=self.options.key_host)
            forms = self._of_user(user) | self._context.forms() | of_request
            key = await self._called(
                place, functools.partial(self._key, incoming, known, request, args, kwargs, forms)
            )
        except BypassError as exc:
            findings = exc.findings
            if exc.__cause__ is not None:
                self.reporter.function_failed(exc.__cause__)
        wishes, refreshes = NO_WISHES, False
        if incoming is not None:
            wishes, refreshes = await self._called(place, functools.partial(self._wishes, incoming))
        terms = service.headers.terms
        return Call(
            service=service,
            execution=ViewExecution(
                *(known.view, request, args, kwargs, incoming, terms, place, self._chosen.query),
                in_key=in_key,
                merge=not self.options.exact,
            ),
            key=key,
            versions=versions,
            tags_of=self._tagging.of_response((request, *own), kwargs),
            request=None if incoming is None else RequestView(incoming, wishes),
            keyed=incoming is not None,
            findings=findings,
            reads=not (refreshes or wishes.no_cache),
            writes=not wishes.no_store,
            whole_max=self.options.limits.inline_max,
        )

    async def _called(self, place: Place, function: Callable[[], T]) -> T:
        """Call what may call functions of the application, which may use its database."""
        return await called(function, place, in_thread=self._has_functions)

    def _incoming(self, connection: DjangoConnection, service: Service) -> Incoming:
        normalisers = service.headers.normalisers
        if service is self._negotiated:
            chosen = str(getattr(connection.django, "accepted_media_type", ""))
            normalisers = {**normalisers, b"accept": lambda value: chosen}
        refresh = self.options.refresh
        incoming = incoming_of(
            connection,
            normalisers,
            refresh=refresh and for_django(refresh),
            ignored=self.options.ignored_query,
        )
        identifying = service.headers.identifying(keyed=True)
        if self._chosen.per_user:
            identifying = identifying | {"authorization"}
        incoming.check(self.options.methods, identifying)
        return incoming

    def _wishes(self, incoming: Incoming) -> tuple[Wishes, bool]:
        """Return what the request asks of the cache, and whether it refreshes its entry."""
        honour = self.options.honor_request
        honour = for_django(honour) if callable(honour) else honour
        return incoming.wishes(honour, self.reporter), incoming.refreshes(self.reporter)

    def _key(
        self,
        incoming: Incoming,
        known: Known,
        request: Any,
        all_args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        more: dict[str, Any],
    ) -> str:
        owner = owner_of(known.view, request, all_args)
        note_page_cache(incoming, request, known.view, owner)
        args = all_args[_place_of(request, all_args) + 1 :]
        more |= self._changed(owner, request, args, kwargs) | self._of_view(known, owner, request)
        named = dict(zip(self._names[1:], args, strict=False))
        rest = args[len(named) :]
        given: dict[str, Any] = {**named, **kwargs}
        forms = {name: self._form(name, value) for name, value in given.items() if self._has(name)}
        if rest:
            forms["*"] = self._form("*", list(rest))
        taken = self._names[0] if self._names else ""
        if taken in self.options.key_args:
            forms[taken] = self._form(taken, request)
        return incoming.key(self._name, forms | more, host=self.options.key_host)

    def _of_user(self, user: object) -> dict[str, Any]:
        if user is None:
            raise BypassError(Finding(NotCached.ARGUMENT, "request.user: it has no pk"))
        return {} if user == NO_USER else {"<user>": self._form("<user>", user)}

    def _changed(
        self, owner: Any, request: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments and the query where they are not those of the call any more."""
        changed = changed_arguments(owner, args, kwargs) | changed_query(request)
        return {name: self._form(name, value) for name, value in changed.items()}

    def _of_view(self, known: Known, owner: Any, request: Any) -> dict[str, Any]:
        """Return what the view holds, and what is set on the instance of one that is a method."""
        forms = Forms(request, self._name)
        found = {"<function>": known.form(forms)}
        if owner is not None:
            found["<class>"] = forms.form("self", type(owner))
            found |= self._of_owner(owner, request, forms)
        if forms.unknown and not is_of_route(request, known.view, owner):
            raise BypassError(refusal(forms))
        return {name: form for name, form in found.items() if form is not None}

    def _of_owner(self, owner: Any, request: Any, forms: Forms) -> dict[str, Any]:
        """Return what is set on the instance of a view that is a method: by `setup`, perhaps."""
        if _SELF in self.options.key_ignore:
            return {}
        if _SELF in self.options.key_args:
            return {_SELF: self._form(_SELF, owner)}
        try:
            return {f"self.{name}": form for name, form in attributes_of(owner, request, forms)}
        except NoCanonicalFormError as exc:
            raise BypassError(Finding(NotCached.ARGUMENT, str(exc), _FIX_OF_SELF)) from None

    def _has(self, name: str) -> bool:
        return name not in self.options.key_ignore

    def _form(self, name: str, value: Any) -> Any:
        function = self.options.key_args.get(name)
        try:
            return canonical(value if function is None else function(value))
        except NoCanonicalFormError as exc:
            raise BypassError(Finding(NotCached.ARGUMENT, f"{name}: {exc}")) from None
        # A user's function that fails must not fail the request.
        except Exception as exc:
            if function is None:
                raise
            subject = f"key_args= for {name} raised {type(exc).__name__}"
            raise BypassError(Finding(NotCached.FUNCTION, subject)) from exc

    # -- invalidation -----------------------------------------------------------------------

    async def invalidate(self, arguments: Mapping[str, Any]) -> bool:
        """Invalidate what is stored for an argument, or, without one, everything."""
        versions = self._tagging.named(arguments) if arguments else []
        if self.service.hooks.is_invalidation_off():
            return False
        if versions:
            return all([await self._invalidation(Version(each)) for each in versions])
        return await self._invalidation(None)


def _unchanged(value: str) -> str:
    return value


def _place_of(request: Any, args: tuple[Any, ...]) -> int:
    return 0 if args[0] is request else 1
