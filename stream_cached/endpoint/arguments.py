"""The arguments of a call: which arguments are part of the key, and in which form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, cast

from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection

from stream_cached.endpoint.dependencies import Origins
from stream_cached.endpoint.infrastructure import NotInKey, is_infrastructure
from stream_cached.endpoint.signatures import class_names, dependency_of, markers_of
from stream_cached.endpoint.startup import is_held
from stream_cached.endpoint.unkeyed import UnkeyedError, findings
from stream_cached.http.reasons import BypassError
from stream_cached.keys.canonical import PLAIN, TOO_DEEP, NoCanonicalFormError, canonical
from stream_cached.keys.digest import class_name, digest
from stream_cached.keys.names import holds_address

KeyArgs = Mapping[str, Callable[[Any], Any]]

_PLAIN_VALUE = "let the functions of key_args= return a plain value for every argument"

#: The attributes that Starlette sets on every `HTTPEndpoint`.
_ENDPOINT_ATTRIBUTES = frozenset({"scope", "receive", "send", "_allowed_methods"})

#: Replaces an argument that is not part of the key, in the arguments for aiocache's key.
_LEFT_OUT = type("LeftOut", (), {"__repr__": lambda self: "<not in key>"})()


class Arguments:
    """Converts the arguments of one endpoint for its keys.

    `by_request` says that the key also contains the request's path and query."""

    def __init__(
        self,
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
        self._key_args = {self._name_in_setting(name): key_args[name] for name in key_args}
        marked = (name for name, parameter in parameters.items() if _is_marked(parameter))
        self._ignored = {*map(self._name_in_setting, key_ignore), *marked}
        self._origins = Origins(parameters, by_request=by_request)

    def headers(self, taken: Mapping[str, Sequence[str]]) -> tuple[frozenset[str], frozenset[str]]:
        """Return the headers of all keyed parameters, and of those without `key_args`."""
        used = {name: headers for name, headers in taken.items() if name not in self._ignored}
        plain = {name: headers for name, headers in used.items() if name not in self._key_args}
        return frozenset(chain(*used.values())), frozenset(chain(*plain.values()))

    def forms(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], scope: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the keyed arguments in canonical form, or raise BypassError."""
        forms: dict[str, Any] = {}
        unkeyed: list[UnkeyedError] = []
        for name, value in self._named(args, kwargs).items():
            if name in self._ignored:
                continue
            if type(value) in PLAIN and name not in self._key_args:
                forms[name] = value
                continue
            try:
                replacement = self._replacement(name, value, scope)
                if replacement is not _LEFT_OUT:
                    forms[name] = canonical(replacement)
            except UnkeyedError as exc:
                unkeyed.append(exc)
            # The value's class may raise anything, which must not fail the request.
            except Exception as exc:
                unkeyed.append(self._without_form(name, value, exc, scope))
        if unkeyed:
            raise BypassError(*findings(unkeyed, self._parameters)) from _cause(unkeyed)
        return forms

    def as_for_aiocache(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], str]:
        """Return the arguments for aiocache's key, and a suffix for the key."""
        # aiocache's key consists of the arguments' `repr`. If a `repr` may hide a difference, the
        # arguments go into the suffix instead, as a digest of their canonical forms.
        names = [*self._positional, *(f"*{n}" for n in range(len(args)))]
        unkeyed: list[UnkeyedError] = []

        def shown(name: str, value: Any) -> Any:
            try:
                value = _LEFT_OUT if name in self._ignored else self._replacement(name, value, {})
            except UnkeyedError as exc:
                unkeyed.append(exc)
            if self._noself and name in (*names[: len(args)][:1], "self", "cls"):
                # aiocache leaves `self` out only if it is positional.
                return value if args else _LEFT_OUT
            if not _has_form(value) and holds_address(repr(value)):
                unkeyed.append(self._without_form(name, value, NoCanonicalFormError(), {}))
            return value

        positional = tuple(map(shown, names, args))
        named = {name: shown(self._name(name), value) for name, value in kwargs.items()}
        if unkeyed:
            raise BypassError(*findings(unkeyed, self._parameters)) from _cause(unkeyed)
        if self._by_request:
            return positional, named, ""
        forms = self.forms(args, kwargs, {})
        if all(map(_has_exact_repr, (*positional, *named.values()))):
            return positional, named, ""
        return (), {}, f":{digest(sorted(forms.items()))}"

    def _name(self, keyword: str) -> str:
        # A key of **kwargs may have the name of a positional-only parameter.
        return keyword if keyword in self._keywords else f"**{keyword}"

    def _name_in_setting(self, name: str) -> str:
        """Return our name of an argument in `key_args` or `key_ignore`."""
        return name if name in self._parameters or name.startswith("*") else f"**{name}"

    def _named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if not args and not self._noself and kwargs.keys() == self._keywords:
            # FastAPI passes all parameters as keywords.
            return kwargs
        named = dict(self._defaults)
        named.update(zip(self._positional, args, strict=False))
        for name, value in kwargs.items():
            named[self._name(name)] = value
        for index, value in enumerate(args[len(self._positional) :]):
            named[f"*{index}"] = value
        if self._noself:
            # Some class-based views pass `self` by keyword.
            first = self._positional[0] if self._positional else "*0"
            if args or first in ("self", "cls"):
                named.pop(first, None)
        return named

    def _replacement(self, name: str, value: Any, scope: Mapping[str, Any]) -> Any:
        """Return the part of an argument that belongs into the key, or `_LEFT_OUT`."""
        if name in self._key_args:
            try:
                return self._key_args[name](value)
            # An error in the user's function must not fail the request.
            except Exception as exc:
                what = f" ({exc.name})" if isinstance(exc, AttributeError) and exc.name else ""
                why = f"key_args[{name!r}] raised {type(exc).__name__}{what}"
                raise UnkeyedError(name, value, why, fix=_PLAIN_VALUE) from exc
        if isinstance(value, HTTPEndpoint):
            # Several classes may inherit the method. Attributes beside Starlette's were set for
            # this request.
            own = {n: i for n, i in vars(value).items() if n not in _ENDPOINT_ATTRIBUTES}
            return class_name(value), {
                n: i for n, i in own.items() if not _is_the_applications(i, value, scope)
            }
        if not is_infrastructure(type(value)):
            return value
        if not self._by_request and isinstance(value, HTTPConnection):
            why = f"{name} is a request, of which nothing is part of the key"
            fix = "leave request_key=False out"
            raise UnkeyedError(name, value, why, fix=fix)
        if client_source := self._origins.client_source(name, type(value), scope):
            why = f"{name} may belong to one client: it depends on {client_source}"
            raise UnkeyedError(name, value, why, client_source=client_source)
        return _LEFT_OUT

    def _without_form(
        self, name: str, value: object, exc: Exception, scope: Mapping[str, Any]
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
        if client_source := self._origins.client_source(name, type(value), scope):
            why += f", and depends on {client_source}"
        return UnkeyedError(name, value, why, client_source=client_source)


def _is_the_applications(item: object, endpoint: HTTPEndpoint, scope: Mapping[str, Any]) -> bool:
    """Whether an attribute of an `HTTPEndpoint`, which is made for one request, is for all."""
    module = type(endpoint).__module__
    return is_infrastructure(type(item)) and is_held(item, scope, module)


def _has_exact_repr(value: object) -> bool:
    """Whether the `repr` of two different values always differs."""
    if type(value) in (list, tuple):
        return all(map(_has_exact_repr, cast("Iterable[object]", value)))
    if type(value) is dict:
        return all(_has_exact_repr(item) for pair in value.items() for item in pair)
    # The order of a set's items in its `repr` differs between processes.
    return value is _LEFT_OUT or (
        type(value).__module__ in ("builtins", "datetime", "decimal", "pathlib", "uuid")
        and not isinstance(value, set | frozenset)
    )


def _cause(unkeyed: Iterable[UnkeyedError]) -> BaseException | None:
    """Return what a function of `key_args` has raised."""
    return next((one.__cause__ for one in unkeyed if one.__cause__ is not None), None)


def _is_marked(parameter: inspect.Parameter) -> bool:
    return any(m is NotInKey or isinstance(m, NotInKey) for m in markers_of(parameter))


def _default(parameter: inspect.Parameter) -> object:
    """Return a parameter's default; `Parameter.empty` if FastAPI computes the value."""
    default = parameter.default
    if dependency_of(parameter) is not None:
        return inspect.Parameter.empty
    if any(name.startswith("fastapi.params.") for name in class_names(type(default))):
        return getattr(default, "default", inspect.Parameter.empty)
    return default


def _has_form(value: object) -> bool:
    try:
        canonical(value)
    # The value's class may raise anything.
    except Exception:
        return False
    return not is_infrastructure(type(value))
