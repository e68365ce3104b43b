"""Which function it is, as a part of a key: several may have one name, and hold different values.

A factory decorates a function over each tenant; an endpoint decorates one over its user; a loop
binds arguments. What such a function holds is part of its key, as it is at each call. A value that
has no form is left out where no other function of that name and line holds another one.
"""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from stream_cached.endpoint.cells import EMPTY, Part, is_at_its_name, parts_of
from stream_cached.endpoint.fingerprint import Fingerprint
from stream_cached.endpoint.held import path_of
from stream_cached.endpoint.infrastructure import is_infrastructure
from stream_cached.endpoint.made_late import is_in_request
from stream_cached.endpoint.value_forms import ValueForms, code_form, first_form
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.numbers import number_of

#: Values without a form, with their names.
Unknown = Sequence[tuple[str, Any]]


class _Alike:
    """The functions with one name, one line and one namespace that are alive."""

    def __init__(self) -> None:
        self.members: WeakSet[Identity] = WeakSet()
        self._collected = 0

    def others(self, one: Identity) -> list[Identity]:
        if len(self.members) > max(1, self._collected):
            # They are in cycles with what decorates them.
            gc.collect()
            self._collected = len(self.members)
        return [each for each in tuple(self.members) if each is not one]


_alike: WeakValueDictionary[tuple[str, str, object], _Alike] = WeakValueDictionary()


class Identity:
    """
    Which function it is.

    Args:
        function: The decorated function.
        wrapper: What the decorator makes of it.
        parameters: Its parameters.
        name: Its module and its qualified name.
        place: Its file and its first line.
        namespace: That of its keys, by which a user keeps functions apart.
    """

    def __init__(
        self,
        function: Any,
        wrapper: Any,
        parameters: Mapping[str, inspect.Parameter],
        *,
        name: str,
        place: str,
        namespace: object,
    ) -> None:
        self._name = name
        self._line: list[Any] = [place.rpartition(":")[2], *_code_of(function)]
        self._wrapper = weakref.ref(wrapper)
        self._parts = {part.name: part for part in parts_of(function, parameters)}
        self._is_late = is_in_request()
        self._is_named: bool | None = None
        self._first: dict[str, Any] = {}
        """The forms of what changes by itself, from before it did."""
        for part in self._parts.values():
            if part.is_own:
                self._first_form(part)
            elif part.get() is not EMPTY:
                # What it calls may change something, too.
                first_form(part)
        self._held: dict[tuple[int, str], weakref.ref[Any]] = {}
        """What it has held that has no form."""
        self._varies = False
        self._alike = _alike.setdefault((name, place, namespace), _Alike())
        self._alike.members.add(self)
        self.fingerprint = Fingerprint(tuple(self._parts.values()), self._alike.members)
        """Tells whether it holds what it held before."""

    @property
    def is_made_each_time(self) -> bool:
        """Whether each request may decorate another function of this name and line."""
        return self._is_late and not self._has_own_name

    @property
    def has_twins(self) -> bool:
        """Whether its name does not tell it from another function that is alive."""
        if len(self._line) > 1:
            return True
        if len(self._alike.members) < 2:
            return False
        own, unknown = self._now()
        others = self._alike.others(self)
        return any(each._now()[0] != own for each in others) or self._others_differ(unknown, {})

    def _now(self) -> tuple[list[Any], Unknown]:
        forms = ValueForms(lambda value: self._path_of(value, {}))
        return [self._form_of(part, forms) for part in self._parts.values()], forms.unknown

    def form(self, scope: Mapping[str, Any], *, in_memory: bool) -> list[Any]:
        """
        Return what the key has of the function beside its name.

        Args:
            scope: The scope of the request.
            in_memory: Whether the key is for this process alone.

        Raises:
            BypassError: It holds a value without a form, and others may hold another one.
        """
        form: list[Any] = [] if self._has_own_name else [*self._line]
        if self._parts:
            form += self._of_parts(scope, in_memory=in_memory)
        return form

    @property
    def holds_anything(self) -> bool:
        """Whether it holds values that may differ from those of its twins."""
        return bool(self._parts)

    @property
    def _has_own_name(self) -> bool:
        """Whether a module has it under its own name."""
        if self._is_named is None:
            self._is_named = is_at_its_name(self._wrapper())
        return self._is_named

    def _of_parts(self, scope: Mapping[str, Any], *, in_memory: bool) -> list[Any]:
        forms = ValueForms(lambda value: self._path_of(value, scope))
        found = [self._form_of(part, forms) for part in self._parts.values()]
        unknown = forms.unknown
        if not unknown or not (self._changes(unknown) or self._others_differ(unknown, scope)):
            return [found] if any(found) else []
        if not in_memory:
            names = ", ".join(dict.fromkeys(name for name, _ in unknown))
            raise BypassError(Finding(NotCached.CLOSURE, names))
        values = [value for _, value in unknown if _is_countable(value)]
        return [found, [number_of(self), *map(number_of, values)]]

    def _path_of(self, value: object, scope: Mapping[str, Any]) -> str | None:
        if not is_infrastructure(type(value)):
            return None
        return path_of(value, scope, (self._name, type(value).__qualname__))

    def _form_of(self, part: Part, forms: ValueForms) -> Any:
        form = self._first_form(part) if part.is_own else None
        return form or forms.form(part.name, part.get())

    def _first_form(self, part: Part) -> Any:
        form = self._first.get(part.name)
        if form is None and part.get() is not EMPTY:
            form = self._first[part.name] = first_form(part)
        return form

    # -- values without a form --------------------------------------------------------------

    def _changes(self, unknown: Unknown) -> bool:
        """Whether it may hold another value in the next request, or in another process."""
        for number, (name, value) in enumerate(unknown):
            if _is_countable(value):
                held = self._held.setdefault((number, name), weakref.ref(value))
                self._varies = self._varies or held() is not value
        return self._varies or self.is_made_each_time

    def _others_differ(self, unknown: Unknown, scope: Mapping[str, Any]) -> bool:
        return any(
            not other.holds(name, value, scope)
            for other in self._alike.others(self)
            for name, value in unknown
        )

    def holds(self, name: str, value: object, scope: Mapping[str, Any]) -> bool:
        """Whether it holds this value, which has no form, under the same name."""
        part = self._parts.get(name)
        if part is not None:
            return part.get() is value
        # A function that it holds may.
        forms = ValueForms(lambda value: self._path_of(value, scope))
        for each in self._parts.values():
            self._form_of(each, forms)
        found = [held for known, held in forms.unknown if known == name]
        return bool(found) and all(held is value for held in found)


def _is_countable(value: object) -> bool:
    """Whether a value can be told from one that takes its address later."""
    # It is negative where a class has it in front of its objects (Python 3.12 and later).
    return type(value).__weakrefoffset__ != 0


def _code_of(function: Any) -> list[Any]:
    """Return the form of the code of a lambda: all have one name, and several may have one line."""
    code = getattr(function, "__code__", None)
    return code_form(code) if code and code.co_name == "<lambda>" else []
