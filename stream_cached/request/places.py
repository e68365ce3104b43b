"""The global name by which a module holds an application: the same name in all processes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stream_cached.keys.modules import namespaces, shared_name


@dataclass(frozen=True, slots=True)
class Place:
    """A global of a module."""

    text: str
    variables: dict[str, Any]
    name: str

    def holds(self, value: object) -> bool:
        return self.variables.get(self.name) is value


#: By address: what returns an application, and where it was found.
_known: dict[int, tuple[Callable[[], object], Place | None]] = {}

#: The first application that was seen at each place.
_first: dict[str, Callable[[], object]] = {}

#: Places where more than one application has been seen.
_void: set[str] = set()


def place_of(app: Any) -> str:
    """Return the module and the name that hold an application; "" if there is none."""
    known = _known.get(id(app))
    if known is not None and known[0]() is app:
        place = known[1]
        if place is None:
            return ""
        if place.text not in _void:
            if place.holds(app):
                return place.text
            _void.add(place.text)
    try:
        reference = weakref.ref(app)
    except TypeError:
        return ""
    found = sorted(_found(app), key=lambda place: (place.text.count("."), place.text))
    for place in found:
        if _first.setdefault(place.text, reference)() is not app:
            _void.add(place.text)
    place = next((each for each in found if each.text not in _void), None)
    _known[id(app)] = reference, place
    return "" if place is None else place.text


def _found(app: object) -> Iterator[Place]:
    for module, variables in namespaces():
        for name, value in tuple(variables.items()):
            if value is app:
                yield Place(f"{shared_name(module)}.{name}", variables, name)
