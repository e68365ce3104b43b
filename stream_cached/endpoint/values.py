"""The values of one call: what stands for each argument in the key, or why nothing can."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection

from stream_cached.endpoint.in_key import PartOf, part_of_class
from stream_cached.endpoint.infrastructure import is_declared, is_infrastructure, is_injected
from stream_cached.endpoint.objects import Finder, UnknownEngineError, UnknownOriginError, form_of
from stream_cached.endpoint.origins import NOBODY, Origins, RouteOrigins, Users
from stream_cached.endpoint.reads import only_selects
from stream_cached.endpoint.shown import Shown, shows_all
from stream_cached.endpoint.signatures import annotation_of, class_names
from stream_cached.endpoint.taken import part_of
from stream_cached.endpoint.unkeyed import UnkeyedError, findings
from stream_cached.http.reasons import BypassError
from stream_cached.keys.canonical import (
    PLAIN,
    TOO_DEEP,
    NoCanonicalFormError,
    canonical,
    state_of,
)
from stream_cached.keys.digest import class_name, digest
from stream_cached.keys.made_classes import plain_attributes

_PLAIN_VALUE = "let the functions of key_args= return a plain value for every argument"
_PLAIN_PART = "let the function of InKey or in_key() return a plain value"

_SCOPES = "fastapi.security.oauth2.SecurityScopes"

#: The attributes that Starlette sets on every `HTTPEndpoint`.
_ENDPOINT_ATTRIBUTES = frozenset({"scope", "receive", "send", "_allowed_methods"})


#: Replaces an argument that is not part of the key.
LEFT_OUT = Shown("not in key")


@dataclass(frozen=True)
class Rules:
    """How the arguments of one function are put into keys."""

    function: str
    parameters: Mapping[str, inspect.Parameter]
    origins: Origins
    by_request: bool
    """Whether the key also contains the request."""
    key_args: Mapping[str, Callable[[Any], Any]]
    parts: Mapping[str, PartOf]
    """The functions of `InKey`."""
    marked: frozenset[str]
    """The parameters that are declared `NotInKey`."""
    cookies: frozenset[str]
    """The cookies that are parameters, and so no reason to refuse an object."""

    def part_of_none(self, name: str) -> PartOf | None:
        """Return the function for the class that a parameter may have instead of None."""
        classes = get_args(annotation_of(self.parameters[name])) if name in self.parameters else ()
        parts = (part_of_class(cls) for cls in classes if isinstance(cls, type))
        return next((part for part in parts if part is not None), None)


class CallValues:
    """Values that are no plain ones, of one call."""

    def __init__(self, rules: Rules, values: Mapping[str, Any], scope: Mapping[str, Any]) -> None:
        self._rules = rules
        self._values = values
        self._scope = scope
        self._unkeyed: list[UnkeyedError] = []
        self.whole: set[str] = set()
        """The values that stand in the key with all that they contain."""
        self._route: RouteOrigins | None = None
        self._parts = {name: part for name in values if (part := self._part_of(name)) is not None}
        self.users = self._find_users()

    def forms(self) -> dict[str, Any]:
        """Return the canonical forms of the values; raise BypassError if one has none."""
        forms: dict[str, Any] = {}
        for name, value in self._values.items():
            try:
                form = self._form(name, value)
            except UnkeyedError as exc:
                self._unkeyed.append(exc)
            else:
                if form is not LEFT_OUT:
                    forms[name] = form
        self.check()
        return forms

    def identity(self) -> dict[str, Any]:
        """Return the headers and cookies, beside credentials, that say who asks."""
        # A parameter may have converted its cookie, or have the default of one that is absent.
        parts = {*self.users.parts, *(("cookie", name) for name in self._rules.cookies)}
        if not parts:
            return {}
        return {"<users>": [[*each, part_of(self._scope, *each)] for each in sorted(parts)]}

    @property
    def names_user(self) -> bool:
        """Whether arguments name the one whose credentials the request carries."""
        # A request with credentials for nobody may still be somebody's.
        nobody = any(self._values[name] is None for name in self._parts)
        return self.users.names_credentials and not nobody

    def shown(self, name: str, value: Any) -> Any:
        """Return what stands for a value in the arguments for aiocache's key."""
        try:
            if name in self._rules.key_args:
                value = self._by_key_args(name, value)
            elif name in self._parts or self._is_object(name, value):
                form = self._form(name, value)
                return form if form is LEFT_OUT else Shown(repr(form))
        except UnkeyedError as exc:
            self._unkeyed.append(exc)
            return value
        if not _has_form(value):
            self._unkeyed.append(self._without_form(name, value, NoCanonicalFormError()))
        elif self._rules.by_request and not shows_all(value):
            # The `repr` leaves something out, such as a secret.
            return Shown(f"{class_name(value)} {digest(canonical(value))}")
        return value

    def check(self) -> None:
        if self._unkeyed:
            cause = next((e.__cause__ for e in self._unkeyed if e.__cause__ is not None), None)
            raise BypassError(*findings(self._unkeyed, self._rules.parameters)) from cause

    # -- users ------------------------------------------------------------------------------

    def _part_of(self, name: str) -> PartOf | None:
        value = self._values[name]
        if value is None and name not in self._rules.parts:
            return self._rules.part_of_none(name)
        return self._rules.parts.get(name) or part_of_class(type(value))

    def _find_users(self) -> Users:
        marked = (self._rules.key_args.keys() | self._rules.parts.keys()) & self._values.keys()
        declared = self._parts.keys() - marked
        if not (marked or declared):
            return NOBODY
        return self.origins.users(frozenset(marked), frozenset(declared), self._scope)

    @property
    def origins(self) -> RouteOrigins:
        if self._route is None:
            self._route = self._rules.origins.of(self._scope)
        return self._route

    def _who_asks(self, name: str, *, is_held: bool = False) -> str:
        return self.origins.who_asks(name, self.users, self._scope, is_held=is_held)

    # -- one value --------------------------------------------------------------------------

    def _is_object(self, name: str, value: object) -> bool:
        is_tool = is_infrastructure(type(value)) or isinstance(value, HTTPEndpoint)
        return is_tool or name in self._rules.marked

    def _form(self, name: str, value: Any) -> Any:
        """Return what stands for a value in the key, or `LEFT_OUT`."""
        if name in self._rules.key_args:
            return self._canonical(name, self._by_key_args(name, value))
        if name in self._parts:
            return self._by_part(name, value)
        if name in self._rules.marked and _has_form(value):
            return LEFT_OUT
        if name in self._rules.marked or is_declared(type(value)):
            return self._left_out(name, value)
        if not self._is_object(name, value):
            return self._canonical(name, value)
        if is_injected(type(value)) and self.origins.dependency(name) is None:
            if not self._rules.by_request and isinstance(value, HTTPConnection):
                why = f"{name} is a request, of which nothing is part of the key"
                raise UnkeyedError(name, value, why, fix="leave request_key=False out")
            # One route may depend on a function with several lists of scopes.
            return list(value.scopes) if _SCOPES in class_names(type(value)) else LEFT_OUT
        return self._object(name, value, NoCanonicalFormError(class_name(value)))

    def _canonical(self, name: str, value: Any) -> Any:
        try:
            form = canonical(value)
        except NoCanonicalFormError as exc:
            if name in self._rules.key_args:
                raise self._without_form(name, value, exc) from exc
            return self._object(name, value, exc)
        # The value's class may raise anything, which must not fail the request.
        except Exception as exc:
            raise self._without_form(name, value, exc) from exc
        if name not in self._rules.key_args:
            self.whole.add(name)
        return form

    def _by_key_args(self, name: str, value: Any) -> Any:
        return self._called(
            self._rules.key_args[name], f"key_args[{name!r}]", name, value, _PLAIN_VALUE
        )

    def _by_part(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        what = f"the function of {name}'s InKey"
        part = self._called(self._parts[name], what, name, value, _PLAIN_PART)
        try:
            return [class_name(value), canonical(part)]
        except Exception as exc:
            why = f"{what} returned a value of type {class_name(part)}"
            raise UnkeyedError(name, value, why, fix=_PLAIN_PART) from exc

    def _called(self, function: PartOf, what: str, name: str, value: Any, fix: str) -> Any:
        try:
            return function(value)
        # An error in the user's function must not fail the request.
        except Exception as exc:
            attribute = f" ({exc.name})" if isinstance(exc, AttributeError) and exc.name else ""
            why = f"{what} raised {type(exc).__name__}{attribute}"
            raise UnkeyedError(name, value, why, fix=fix) from exc

    def _left_out(self, name: str, value: object) -> Any:
        """Leave out a value of which the application says that it is the same for everybody."""
        if source := self._who_asks(name):
            raise self.of_a_client(name, value, source)
        return LEFT_OUT

    def _object(self, name: str, value: Any, exc: NoCanonicalFormError) -> Any:
        """Return what stands for a value without a canonical form."""
        finder = self._finder(name)
        try:
            if isinstance(value, HTTPEndpoint):
                return self._instance(value, finder)
            form = form_of(value, finder)
        except UnknownOriginError as unknown:
            raise self._of_unknown_origin(name, value, unknown, exc) from None
        is_held = isinstance(form, list) and form[0] == "held"
        source = self._who_asks(name, is_held=is_held)
        if is_held and source and self.origins.only_selected(name, only_selects):
            source = ""
        source = source or self.origins.who_changes(finder.held, self.users, self._scope)
        if source:
            raise self.of_a_client(name, value, source)
        return LEFT_OUT if form is None else form

    def _finder(self, name: str) -> Finder:
        return Finder(
            scope=self._scope,
            asker=f"{self._rules.function} {name}",
            is_given=self.origins.dependency(name) is not None,
            is_made=self.origins.is_made(name),
            holds_made=self.origins.holds_made(name),
        )

    def _instance(self, value: HTTPEndpoint, finder: Finder) -> Any:
        """Return the class of an `HTTPEndpoint`, and what was set on it for this request."""
        # Several classes may inherit the method.
        forms = []
        for name, item in sorted(state_of(value).items()):
            if name in _ENDPOINT_ATTRIBUTES:
                continue
            try:
                forms.append([name, canonical(item)])
            except NoCanonicalFormError:
                forms.append([name, form_of(item, finder)])
        of_class = plain_attributes(type(value), PLAIN)
        return ["endpoint", class_name(value), of_class, forms]

    # -- why not ----------------------------------------------------------------------------

    def of_a_client(
        self, name: str, value: object, source: str, *, is_known: bool = True
    ) -> UnkeyedError:
        """Return why a value is not in the key that may be one client's own."""
        why = f"{name} may belong to one client: it depends on {source}"
        return UnkeyedError(name, value, why, client_source=source, is_known=is_known)

    def _of_unknown_origin(
        self, name: str, value: object, unknown: UnknownOriginError, exc: NoCanonicalFormError
    ) -> UnkeyedError:
        if not is_infrastructure(type(value)):
            return self._without_form(name, value, exc, str(unknown))
        if source := self._who_asks(name):
            return self.of_a_client(name, value, source, is_known=False)
        why = f"nothing says whose {name} is, which is of type {unknown}"
        of_engine = isinstance(unknown, UnknownEngineError)
        return UnkeyedError(name, value, why, is_known=False, of_engine=of_engine)

    def _without_form(
        self, name: str, value: object, exc: Exception, what: str = ""
    ) -> UnkeyedError:
        if name in self._rules.key_args:
            why = f"key_args[{name!r}] returned a value of type {exc}"
            return UnkeyedError(name, value, why, fix=_PLAIN_VALUE)
        why = f"{name} is of type {class_name(value)}"
        if not isinstance(exc, NoCanonicalFormError):
            why += f", and raised {type(exc).__name__}"
        elif str(exc) == TOO_DEEP:
            why += f", {TOO_DEEP}"
        elif inner := next((i for i in (str(exc), what) if i not in ("", class_name(value))), ""):
            why += f", which holds a {inner}"
        if source := self._who_asks(name):
            why += f", and depends on {source}"
        return UnkeyedError(name, value, why, client_source=source)


def _has_form(value: object) -> bool:
    try:
        canonical(value)
    # The value's class may raise anything.
    except Exception:
        return False
    return not is_infrastructure(type(value))
