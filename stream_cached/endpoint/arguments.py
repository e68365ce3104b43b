"""The arguments of a call: which arguments are part of the key, and in which form."""

from __future__ import annotations

import datetime
import decimal
import inspect
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import chain
from typing import Any, get_args

from starlette.requests import Request

from stream_cached.endpoint.declarations import declarations
from stream_cached.endpoint.in_key import part_of_class, part_of_parameter
from stream_cached.endpoint.infrastructure import NotInKey, is_declared
from stream_cached.endpoint.origins import Origins
from stream_cached.endpoint.outline import Outline, outlined
from stream_cached.endpoint.shown import are_exact
from stream_cached.endpoint.signatures import (
    annotation_of,
    class_names,
    cookie_names,
    dependency_of,
    header_names,
    markers_of,
)
from stream_cached.endpoint.taken import Keyed, name_of
from stream_cached.endpoint.values import LEFT_OUT, CallValues, Rules
from stream_cached.keys.canonical import EXACT, PLAIN, canonical, has_form
from stream_cached.keys.digest import digest

KeyArgs = Mapping[str, Callable[[Any], Any]]

#: Classes of arguments that need no look at where they come from.
_SIMPLE = frozenset({Request, datetime.date, datetime.timedelta, decimal.Decimal, uuid.UUID})

#: No default of a parameter.
_OTHER = object()


class Arguments:
    """Converts the arguments of one endpoint for its keys.

    `keyed` says what of a request is part of the key beside them."""

    def __init__(
        self,
        function: Callable[..., Any],
        signature: inspect.Signature,
        *,
        noself: bool,
        keyed: Keyed,
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
        #: Defaults that are the same in every call, and can't be told from another value.
        self._constants = {
            name: value
            for name, value in defaults.items()
            if name not in self._defaults and value is not inspect.Parameter.empty
        }
        self._noself = noself
        self._by_request = keyed.request
        self._key_args = {self._name_in_setting(name): key_args[name] for name in key_args}
        self._parts = {n: part for n, p in parameters.items() if (part := part_of_parameter(p))}
        self._marked = {name for name, parameter in parameters.items() if _is_marked(parameter)}
        self._ignored = {*map(self._name_in_setting, key_ignore)}
        in_key = self._with_parameters(keyed)
        self._rules = Rules(
            function=name_of(function),
            parameters=parameters,
            origins=Origins(function, parameters, in_key),
            by_request=keyed.request,
            key_args=self._key_args,
            parts=self._parts,
            marked=frozenset(self._marked),
            cookies=in_key.cookies if keyed.request else frozenset(),
        )
        marked = {*self._key_args, *self._parts, *self._marked}
        is_free = keyed.request and not in_key.cookies
        self._unmarked = frozenset(parameters.keys() - marked) if is_free else frozenset()

    def _with_parameters(self, keyed: Keyed) -> Keyed:
        """Add the headers and cookies that arguments hold as they are."""
        out = {*self._key_args, *self._parts, *self._marked, *self._ignored}
        plain = [p for name, p in self._parameters.items() if name not in out and _is_text(p)]
        cookies = chain(*map(cookie_names, plain))
        headers = chain(*(header_names(p) for p in plain if not cookie_names(p)))
        return keyed.with_names(map(str.lower, headers), cookies)

    def headers(self, taken: Mapping[str, Sequence[str]]) -> tuple[frozenset[str], frozenset[str]]:
        """Return the headers of all keyed parameters, and of those without `key_args`."""
        out = self._ignored | self._marked
        used = {name: headers for name, headers in taken.items() if name not in out}
        plain = {name: headers for name, headers in used.items() if name not in self._key_args}
        return frozenset(chain(*used.values())), frozenset(chain(*plain.values()))

    def outline(
        self, scope: Mapping[str, Any], requests: Set[str], instance: object = None
    ) -> Outline:
        """
        Return what can be said of the arguments before there is a call on a route.

        Args:
            scope: The scope of a request for the route.
            requests: The arguments that are the request.
            instance: What a bound method belongs to; None for a function.
        """
        first = self._positional[:1]
        left_out = {*first} if self._noself and first else set[str]()
        known = {} if instance is None or left_out else dict.fromkeys(first, instance)
        return outlined(self._rules, self._ignored | left_out, requests, known, scope)

    def forms(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], scope: Mapping[str, Any]
    ) -> tuple[dict[str, Any], bool, Set[str]]:
        """
        Return the keyed arguments in canonical form, whether they name who asks, and which of them
        stand in the key with all that they contain.

        Raises:
            BypassError: An argument can't be part of the key.
        """
        forms: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in self._named(args, kwargs).items():
            if name in self._ignored or self._constants.get(name, _OTHER) is value:
                continue
            cls = type(value)
            if cls in _SIMPLE and self._is_free(name, cls):
                if cls is not Request:
                    forms[name] = canonical(value)
                    continue
                if value.scope is scope:
                    # It is part of the key, or guarded, by itself.
                    continue
            if cls in PLAIN and not self._is_converted(name, value):
                if name not in self._marked:
                    forms[name] = value
            else:
                others[name] = value
        whole = forms.keys()
        if not others:
            return forms, False, whole
        call = CallValues(self._rules, others, scope)
        more = call.forms() | call.identity()
        return forms | more, call.names_user, whole | call.whole

    def in_key_as_they_are(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> list[int] | None:
        """
        Return which arguments, in their order, are part of the key as they are.

        That is so of all calls with arguments of the same names and classes, as long as no more is
        declared of classes. The request is none of them. None if an argument needs a closer look.
        """
        counted = self._named(args, kwargs).keys() - self._ignored
        more = [f"*{index}" for index in range(len(args) - len(self._positional))]
        names = [*self._positional[: len(args)], *more, *map(self._name, kwargs)]
        values = (*args, *kwargs.values())
        found: list[int] = []
        for index, (name, value) in enumerate(zip(names, values, strict=True)):
            if name in counted:
                if not self._is_as_it_is(name, value):
                    return None
                if type(value) is not Request:
                    found.append(index)
        defaults = [(name, self._defaults[name]) for name in counted.difference(names)]
        return found if all(self._is_as_it_is(*each) for each in defaults) else None

    def _is_as_it_is(self, name: str, value: object) -> bool:
        """Whether a value stands in the key as it is, or by a form that its class alone decides."""
        cls = type(value)
        if cls in EXACT:
            return name in self._unmarked and not self._is_converted(name, value)
        return cls in _SIMPLE and cls is not decimal.Decimal and self._is_free(name, cls)

    def _is_free(self, name: str, cls: type) -> bool:
        """Whether nothing is said of an argument, nor of its class."""
        is_said = declarations.count and (is_declared(cls) or part_of_class(cls))
        return name in self._unmarked and not is_said

    def _is_converted(self, name: str, value: object) -> bool:
        """Whether a function of the application says what stands for a value in the key."""
        if name in self._key_args or name in self._parts:
            return True
        return value is None and self._rules.part_of_none(name) is not None

    def as_for_aiocache(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], str]:
        """Return the arguments for aiocache's key, and a suffix for the key."""
        # aiocache's key consists of the arguments' `repr`. If a `repr` may hide a difference, the
        # arguments go into the suffix instead, as a digest of their canonical forms.
        names = [*self._positional, *(f"*{n}" for n in range(len(args)))]
        named = {
            **dict(zip(names, args, strict=False)),
            **{self._name(name): value for name, value in kwargs.items()},
        }
        call = CallValues(self._rules, self._others(named), {})

        def shown(name: str, value: Any) -> Any:
            if self._noself and name in (*names[: len(args)][:1], "self", "cls"):
                # aiocache leaves `self` out only if it is positional.
                return value if args else LEFT_OUT
            return LEFT_OUT if name in self._ignored else call.shown(name, value)

        positional = tuple(map(shown, names, args))
        keywords = {name: shown(self._name(name), value) for name, value in kwargs.items()}
        call.check()
        if self._by_request:
            return positional, keywords, ""
        forms, *_ = self.forms(args, kwargs, {})
        if are_exact((*positional, *keywords.values())):
            return positional, keywords, ""
        return (), {}, f":{digest(sorted(forms.items()))}"

    def _others(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in values.items()
            if name not in self._ignored and self._constants.get(name, _OTHER) is not value
        }

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


def _is_text(parameter: inspect.Parameter) -> bool:
    """Whether a parameter's value is a header or a cookie as it is."""
    annotation = annotation_of(parameter)
    parts = get_args(annotation) or (annotation,)
    return all(part in (str, type(None), inspect.Parameter.empty) for part in parts)


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
    return value is not inspect.Parameter.empty and has_form(value)
