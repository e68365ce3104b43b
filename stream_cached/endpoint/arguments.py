"""The arguments of an endpoint's calls: which of them are part of the key, and in what form."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection

from stream_cached.endpoint.dependencies import Origins
from stream_cached.endpoint.infrastructure import NotInKey, is_plumbing
from stream_cached.endpoint.signatures import class_names, dependency_of, markers_of
from stream_cached.endpoint.unkeyed import UnkeyedError, findings
from stream_cached.http.reasons import BypassError
from stream_cached.keys.canonical import PLAIN, TOO_DEEP, NoCanonicalFormError, canonical
from stream_cached.keys.digest import class_name, digest
from stream_cached.keys.names import holds_address

KeyArgs = Mapping[str, Callable[[Any], Any]]

_PLAIN_VALUE = "let the functions of key_args= return a plain value for every argument"

#: What Starlette gives every `HTTPEndpoint`.
_OF_ENDPOINT = frozenset({"scope", "receive", "send", "_allowed_methods"})

_NO_SCOPE: Mapping[str, Any] = MappingProxyType({})

#: What an argument that is left out looks like in a key of aiocache's.
_LEFT_OUT = type("LeftOut", (), {"__repr__": lambda self: "<not in key>"})()


class Arguments:
    """
    Sees to the arguments of one endpoint.

    Args:
        function: The endpoint's function.
        signature: Its signature.
        noself: Whether its first argument is left out of keys.
        by_request: Whether keys are built from the request, too.
        key_args: Functions of arguments, by name, that return what stands for them in keys.
        key_ignore: Names of arguments that are left out of keys.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        signature: inspect.Signature,
        *,
        noself: bool,
        by_request: bool,
        key_args: KeyArgs,
        key_ignore: frozenset[str],
    ) -> None:
        parameters = signature.parameters
        kinds = inspect.Parameter
        self._parameters = parameters
        self._positional = [
            name
            for name, parameter in parameters.items()
            if parameter.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        ]
        keywords = (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
        self._keywords = {name for name, p in parameters.items() if p.kind in keywords}
        defaults = {name: _default(parameter) for name, parameter in parameters.items()}
        self._defaults = {name: value for name, value in defaults.items() if _has_form(value)}
        self._noself = noself
        self._by_request = by_request
        self._key_args = {self._of_setting(name): key_args[name] for name in key_args}
        marked = (name for name, parameter in parameters.items() if _is_marked(parameter))
        self._ignored = {*map(self._of_setting, key_ignore), *marked}
        self._origins = Origins(parameters, by_request=by_request)
        self.bound = _bound(function)

    def headers(self, taken: Mapping[str, Sequence[str]]) -> tuple[frozenset[str], frozenset[str]]:
        """
        Return the headers that arguments in the key are taken from, and those taken as they are.

        Args:
            taken: The names of headers, by that of the parameter that is taken from them.
        """
        used = {name: headers for name, headers in taken.items() if name not in self._ignored}
        plain = {name: headers for name, headers in used.items() if name not in self._key_args}
        return (
            frozenset(header for headers in used.values() for header in headers),
            frozenset(header for headers in plain.values() for header in headers),
        )

    def forms(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], scope: Mapping[str, Any]
    ) -> dict[str, Any]:
        """
        Return the arguments in canonical form by name, without plumbing.

        Args:
            args: The positional arguments of a call.
            kwargs: Its keyword arguments.
            scope: The request's scope.

        Raises:
            BypassError: Some can't be part of a key; it names them all.
        """
        forms: dict[str, Any] = {"": self.bound} if self.bound else {}
        unkeyed: list[UnkeyedError] = []
        for name, value in self._named(args, kwargs).items():
            if name in self._ignored:
                continue
            if type(value) in PLAIN and name not in self._key_args:
                forms[name] = value
                continue
            try:
                stands = self._stands_for(name, value, scope)
                if stands is not _LEFT_OUT:
                    forms[name] = canonical(stands)
            except UnkeyedError as exc:
                unkeyed.append(exc)
            # Whatever a value's own class raises: it must not fail the request.
            except Exception as exc:
                unkeyed.append(self._without_form(name, value, exc, scope))
        if unkeyed:
            raise BypassError(*findings(unkeyed, self._parameters))
        return forms

    def as_for_aiocache(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], str]:
        """
        Return the arguments as they stand in a key of aiocache's, and what that key lacks.

        It is made of what `repr` shows. Of helpers that FastAPI calls, whose arguments may be
        users, the canonical forms of what may show less than it is are added.

        Raises:
            BypassError: Some can't be part of a key; it names them all.
        """
        names = [*self._positional, *(f"*{n}" for n in range(len(args)))]
        unkeyed: list[UnkeyedError] = []

        def shown(name: str, value: Any) -> Any:
            try:
                value = _LEFT_OUT if name in self._ignored else self._stands_for(name, value, {})
            except UnkeyedError as exc:
                unkeyed.append(exc)
            if self._noself and name in (*names[: len(args)][:1], "self", "cls"):
                # aiocache leaves it out only where it is positional.
                return value if args else _LEFT_OUT
            if not _has_form(value) and holds_address(repr(value)):
                unkeyed.append(self._without_form(name, value, NoCanonicalFormError()))
            return value

        positional = tuple(map(shown, names, args))
        named = {name: shown(self._name(name), value) for name, value in kwargs.items()}
        if unkeyed:
            raise BypassError(*findings(unkeyed, self._parameters))
        if self._by_request:
            return positional, named, ""
        forms = self.forms(args, kwargs, {})
        if all(map(_shows, (*positional, *named.values()))):
            return positional, named, ""
        return (), {}, f":{digest(sorted(forms.items()))}"

    def _name(self, keyword: str) -> str:
        """Return what a keyword argument is called here."""
        # What goes into **kwargs may be called as a positional-only parameter is.
        return keyword if keyword in self._keywords else f"**{keyword}"

    def _of_setting(self, name: str) -> str:
        """Return what an argument that a setting names is called here."""
        return name if name in self._parameters or name.startswith("*") else f"**{name}"

    def _named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if not args and not self._noself and kwargs.keys() == self._keywords:
            # As FastAPI calls.
            return kwargs
        named = dict(self._defaults)
        named.update(zip(self._positional, args, strict=False))
        for name, value in kwargs.items():
            named[self._name(name)] = value
        for index, value in enumerate(args[len(self._positional) :]):
            named[f"*{index}"] = value
        if self._noself:
            # Some class-based views pass it by its name.
            first = self._positional[0] if self._positional else "*0"
            if args or first in ("self", "cls"):
                named.pop(first, None)
        return named

    def _stands_for(self, name: str, value: Any, scope: Mapping[str, Any]) -> Any:
        """
        Return what stands for an argument in a key.

        Raises:
            UnkeyedError: Nothing can.
        """
        if name in self._key_args:
            try:
                return self._key_args[name](value)
            # The user's function: a failing one must not fail the request.
            except Exception as exc:
                what = f" ({exc.name})" if isinstance(exc, AttributeError) and exc.name else ""
                why = f"key_args[{name!r}] raised {type(exc).__name__}{what}"
                raise UnkeyedError(name, value, why, fix=_PLAIN_VALUE) from exc
        if isinstance(value, HTTPEndpoint):
            # A method may be inherited by several. What it was given for this request is its own.
            given = {n: item for n, item in vars(value).items() if n not in _OF_ENDPOINT}
            return class_name(value), {n: i for n, i in given.items() if not is_plumbing(type(i))}
        if not is_plumbing(type(value)):
            return value
        if not self._by_request and isinstance(value, HTTPConnection):
            why = f"{name} is a request, of which nothing is part of the key"
            fix = "leave request_key=False out"
            raise UnkeyedError(name, value, why, fix=fix)
        if of_client := self._origins.looks_at_client(name, type(value), scope):
            why = f"{name} may belong to one client: it depends on {of_client}"
            raise UnkeyedError(name, value, why, of_client=of_client)
        return _LEFT_OUT

    def _without_form(
        self, name: str, value: object, exc: Exception, scope: Mapping[str, Any] = _NO_SCOPE
    ) -> UnkeyedError:
        if name in self._key_args:
            why = f"key_args[{name!r}] returned a value of type {exc}"
            return UnkeyedError(name, value, why, fix=_PLAIN_VALUE)
        why = f"{name} is of type {class_name(value)}"
        if not isinstance(exc, NoCanonicalFormError):
            why += f", and raised {type(exc).__name__}"
        elif str(exc) == TOO_DEEP:
            why += f", {TOO_DEEP}"
        elif str(exc) not in ("", class_name(value)):
            why += f", which holds a {exc}"
        if of_client := self._origins.looks_at_client(name, type(value), scope):
            why += f", and depends on {of_client}"
        return UnkeyedError(name, value, why, of_client=of_client)


def _shows(value: object) -> bool:
    """Whether `repr` shows all that a value is."""
    if type(value) in (list, tuple):
        return all(map(_shows, cast("Iterable[object]", value)))
    if type(value) is dict:
        return all(_shows(item) for pair in value.items() for item in pair)
    # A set shows its items in another order in another process.
    return value is _LEFT_OUT or (
        type(value).__module__ in ("builtins", "datetime", "decimal", "pathlib", "uuid")
        and not isinstance(value, set | frozenset)
    )


def _is_marked(parameter: inspect.Parameter) -> bool:
    return any(
        marker is NotInKey or isinstance(marker, NotInKey) for marker in markers_of(parameter)
    )


def _default(parameter: inspect.Parameter) -> object:
    """Return what a parameter is where it is not given; if that is open, what has no form."""
    default = parameter.default
    if dependency_of(parameter) is not None:
        return inspect.Parameter.empty
    if any(name.startswith("fastapi.params.") for name in class_names(type(default))):
        return getattr(default, "default", inspect.Parameter.empty)
    return default


def _has_form(value: object) -> bool:
    """Whether a value can be part of a key."""
    try:
        canonical(value)
    # Whatever its class raises.
    except Exception:
        return False
    return not is_plumbing(type(value))


def _bound(function: Any) -> dict[str, Any]:
    """Return, in canonical form, what partials pass to a function in each of its calls."""
    bound: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        for name, value in (*enumerate(function.args), *function.keywords.items()):
            # What it works with (a client, a service) is one and the same in every call.
            with contextlib.suppress(NoCanonicalFormError):
                bound[f"{len(bound)} {name}"] = canonical(value)
        function = function.func
    return bound
