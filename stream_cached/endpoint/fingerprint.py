"""Whether a function holds what it held before, without a look into what it holds.

A form of a function that is held is made of what that holds itself, and an object without a form
is left out, or has a number. So as long as all cells, functions and partials hold the same objects,
the form is the same. What has a form by its content (a dict, a model) may change, and has no
fingerprint.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence, Sized
from itertools import chain
from operator import attrgetter, is_
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

from stream_cached.endpoint.cells import Part, cells_of, is_at_its_name
from stream_cached.endpoint.held import is_proxy
from stream_cached.endpoint.value_forms import is_lazy
from stream_cached.keys.canonical import EXACT, class_has_form

#: How many values are looked at.
_MAX_VALUES = 200

_content = attrgetter("cell_contents")

#: What of functions and of partials can be set later.
_of_function = attrgetter("__code__", "__defaults__", "__kwdefaults__")
_of_partial = attrgetter("func", "args", "keywords")


class _NoFingerprintError(Exception):
    """A value may change, and stay the same object."""


class _Cells:
    """All cells that lead to what a function holds."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.cells: list[CellType] = []
        self.contents: list[object] = []
        """What they held. It is kept, so that no other object has its address."""
        self._functions: list[FunctionType] = []
        self._partials: list[functools.partial[Any]] = []
        self._keywords: list[dict[str, Any]] = []
        """Those of the functions and the partials."""
        self._names: list[tuple[str, ...]] = []
        self._held: tuple[list[object], ...] = [], [], []
        """What each of the three held."""
        self.plain: list[CellType] = []
        """Those that held a plain value, which is told by its value."""
        self.has_fingerprint = True
        self.has_objects = False
        """Whether there are objects without a form among them."""
        self.token = object()
        """Stands for these objects, and keeps none of them alive."""
        self._seen: set[int] = set()
        try:
            for part in parts:
                self._add_part(part)
        except _NoFingerprintError:
            self.has_fingerprint = False
        self._objects = [*chain.from_iterable(self._held)]
        self.has_more = bool(self._objects)
        """Whether there are functions or partials, on which something can be set."""

    def has_same_more(self) -> bool:
        """Whether nothing was set on the functions and the partials."""
        held = chain(
            map(_of_function, self._functions),
            map(_of_partial, self._partials),
            map(dict.values, self._keywords),
        )
        return [*map(tuple, self._keywords)] == self._names and all(
            map(is_, chain.from_iterable(held), self._objects)
        )

    def _add_part(self, part: Part) -> None:
        if part.is_own:
            raise _NoFingerprintError
        cell = part.cell
        if cell is None:
            self._add(part.get())
            return
        value = _content(cell)
        if type(value) in EXACT:
            self.plain.append(cell)
            return
        self.cells.append(cell)
        self.contents.append(value)
        self._add(value)

    def _add(self, value: Any) -> None:
        cls = type(value)
        if cls in EXACT or id(value) in self._seen:
            return
        self._seen.add(id(value))
        # What stands for another object may stand for another one each time.
        if len(self._seen) > _MAX_VALUES or is_lazy(cls) or is_proxy(value):
            raise _NoFingerprintError
        match value:
            case FunctionType():
                self._add_function(value)
            case MethodType():
                self._add_all((value.__self__, value.__func__))
            case functools.partial():
                self._add_partial(value)
            case BuiltinFunctionType() | ModuleType():
                # A method in C has an object, a function in C has a module.
                of = getattr(value, "__self__", value)
                self.has_objects |= not isinstance(of, ModuleType)
            case type() if is_at_its_name(value):
                pass
            case type():
                raise _NoFingerprintError
            case _ if class_has_form(cls):
                raise _NoFingerprintError
            case _:
                self.has_objects = True

    def _add_all(self, values: Iterable[object]) -> None:
        for value in values:
            self._add(value)

    def _add_function(self, function: FunctionType) -> None:
        if is_at_its_name(function):
            return
        _, defaults, keywords = held = _of_function(function)
        self._functions.append(function)
        self._held[0].extend(held)
        self._add_all(defaults or ())
        if keywords:
            self._add_keywords(keywords)
        for part in cells_of(function):
            self._add_part(part)

    def _add_partial(self, partial: functools.partial[Any]) -> None:
        function, args, keywords = held = _of_partial(partial)
        self._partials.append(partial)
        self._held[1].extend(held)
        self._add_all((function, *args))
        self._add_keywords(keywords)

    def _add_keywords(self, keywords: dict[str, Any]) -> None:
        given = dict(keywords)
        self._keywords.append(keywords)
        self._names.append(tuple(given))
        self._held[2].extend(given.values())
        self._add_all(given.values())


class Fingerprint:
    """
    What tells whether a function holds what it held before.

    Args:
        parts: What the function brings along.
        alike: All functions of its name, with itself. Whether an object without a form counts
            depends on what the others hold.
    """

    def __init__(self, parts: Sequence[Part], alike: Sized) -> None:
        self._parts = parts
        self._alike = alike
        self._held: _Cells | None = None

    def __call__(self) -> tuple[object, ...] | None:
        """Return what differs where the function holds something else; None if it can't be told."""
        held = self._held
        try:
            if (
                held is None
                or not all(map(is_, map(_content, held.cells), held.contents))
                or (held.has_more and not held.has_same_more())
            ):
                held = self._held = _Cells(self._parts)
            if not held.has_fingerprint or (held.has_objects and len(self._alike) > 1):
                return None
            values = [*map(_content, held.plain)]
        # A cell is empty.
        except ValueError:
            return None
        classes = tuple(map(type, values))
        if not EXACT.issuperset(classes):
            # Where a plain value was, there is an object.
            self._held = None
            return None
        return (held.token, *values, *classes)
