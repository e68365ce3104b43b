"""The application of a request, as a part of its key: another one may answer otherwise."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from starlette.types import Scope

from stream_cached.endpoint.dependencies import overrides_of
from stream_cached.endpoint.value_forms import ValueForms
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.numbers import number_of
from stream_cached.keys.references import reference_to
from stream_cached.request.live_apps import (
    are_alike,
    changes,
    collect_dead,
    live_apps,
    mounted,
    note,
    reaches,
    root_of,
)
from stream_cached.request.places import place_of

#: Parts of a key by their names. They can be compared, and have a hash.
Form = dict[str, Hashable]

_NO_FORM: Form = {}

_FINDING = Finding(NotCached.APPLICATION)


def number_form(scope: Scope) -> Form:
    """
    Return the application of a request, and what overrides its dependencies, by a name in the key.

    It holds in this process only. A test that makes an application of its own, or overrides a
    dependency, is not given what another test has cached.
    """
    app = scope.get("app")
    if app is None:
        return _NO_FORM
    numbers: tuple[int, ...] = (number_of(app),)
    router = scope.get("router")
    if router is not None and router is not getattr(app, "router", None):
        # It is mounted within another one.
        numbers += (number_of(router),)
    overrides = overrides_of(scope)
    if not overrides:
        return {"<app>": numbers}
    pairs = sorted((number_of(given), number_of(used)) for given, used in overrides.items())
    return {"<app>": (numbers, tuple(pairs))}


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found out about an application when so many had come and gone."""

    changes: int
    app: Callable[[], object]
    root: Callable[[], object]
    place: str
    root_place: str
    form: Form | None
    """None if the call is not cached."""


class Applications:
    """
    The applications that have one function, where processes share its entries.

    Args:
        name: The module and the qualified name of the function.
        place: Its file and its first line.
        is_named: Whether `namespace=` was given, which says who shares entries.
    """

    def __init__(self, name: str, place: str, *, is_named: bool) -> None:
        self._name = name
        self._place = place
        self._is_named = is_named
        self._known: dict[tuple[int, int], _Known] = {}
        self._callers: WeakSet[Any] = WeakSet()

    def form(self, scope: Scope, namespace: object) -> Form:
        """
        Return the application by the global name of a module, which all processes have.

        Raises:
            BypassError: It has no such name, and is not the only one that reaches the function.
        """
        app = scope.get("app")
        if app is None:
            return _NO_FORM
        router = scope.get("router")
        known = self._known.get((id(app), id(router)))
        if known is None or known.app() is not app or not _still_holds(known):
            note(app)
            self._note_caller(app)
            known = self._found_out(app, root_of(app, router), namespace)
            if len(self._known) > 100:
                self._known.clear()
            self._known[id(app), id(router)] = known
        if known.form is None:
            raise BypassError(_FINDING)
        overrides = overrides_of(scope)
        return known.form | self._overriding(overrides) if overrides else known.form

    def holding(self, scope: Scope) -> Callable[[], bool]:
        """Return what tells whether `form` has found out anything else since it was asked last."""
        app, router = scope["app"], scope.get("router")
        return functools.partial(_still_holds, self._known[id(app), id(router)])

    def _overriding(self, overrides: Mapping[Any, Any]) -> Form:
        """Return the dependencies that others stand for, by names that all processes have."""
        forms = ValueForms(lambda _: None)
        pairs = [
            [forms.form("overrides", given), forms.form("overrides", used)]
            for given, used in overrides.items()
        ]
        if forms.unknown and not self._is_named:
            raise BypassError(_FINDING)
        return {"<overrides>": tuple(sorted(map(repr, pairs)))}

    def _found_out(self, app: Any, root: Any, namespace: object) -> _Known:
        place, root_place = place_of(app), place_of(root)
        path = None if root is app else mounted(root).get(id(app))
        own = place or path
        counted = app if root is not app and path is None else root
        form: Form | None = {"<app>": (root_place, own)} if own or root_place else _NO_FORM
        is_told = bool(place or (root_place and (path or root is app)))
        if not is_told and not self._is_named and self._is_shared(counted, root, namespace):
            form = None
        return _Known(changes(), reference_to(app), reference_to(root), place, root_place, form)

    def _note_caller(self, app: Any) -> None:
        # Only an application of another framework has no weak references, or no hash.
        with contextlib.suppress(TypeError):
            self._callers.add(app)

    def _is_shared(self, app: Any, root: Any, namespace: object) -> bool:
        """Whether another live application reaches the function, too."""
        if not self._others(app, root, namespace):
            return False
        collect_dead()
        return bool(self._others(app, root, namespace))

    def _others(self, app: Any, root: Any, namespace: object) -> bool:
        apps = live_apps()
        within = {address for each in apps for address in mounted(each)}
        others = [
            each for each in apps if each is not app and each is not root and id(each) not in within
        ]
        if reaches(app, self._name, self._place, namespace):
            return any(reaches(each, self._name, self._place, namespace) for each in others)
        # The routes don't show a helper that they call.
        return any(each in self._callers or are_alike(app, each) for each in others)


def _still_holds(known: _Known) -> bool:
    return (
        known.changes == changes()
        and (not known.place or place_of(known.app()) == known.place)
        and (not known.root_place or place_of(known.root()) == known.root_place)
    )
