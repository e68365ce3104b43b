"""The origins of an endpoint's arguments: what their dependencies take of who asks.

An object that a dependency makes for a request may be one client's own, such as a session with the
rights of a user. It is not as long as no dependency behind it, and none that is given the same
object, takes anything of who asks. What is part of the key anyway is no such thing.
"""

from __future__ import annotations

import datetime
import decimal
import inspect
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stream_cached.endpoint.changed import changed_by, changes_anything
from stream_cached.endpoint.dependencies import (
    Call,
    among,
    dependant_of,
    given_by_fastapi,
    overrides_of,
    runs,
    touched_above,
    tree_of,
)
from stream_cached.endpoint.held import ABSENT, is_proxy, names_registry, returned_by
from stream_cached.endpoint.infrastructure import is_shared_infrastructure
from stream_cached.endpoint.reads import is_generator
from stream_cached.endpoint.route import dependencies_of
from stream_cached.endpoint.signatures import dependency_of, signature_of
from stream_cached.endpoint.startup import is_of_lifespan
from stream_cached.endpoint.taken import Keyed, Taken, name_of, takes_inputs, what_it_takes
from stream_cached.keys.canonical import has_form

#: Types of values that several dependencies can be given, and none can change.
_IMMUTABLE = (
    *(bool, bytes, datetime.date, datetime.timedelta, decimal.Decimal, float, int, str, type(None)),
    uuid.UUID,
)

#: Types of values that a dependency fills for another one, such as the context of a request.
_CONTAINERS = (bytearray, dict, list, set)


@dataclass(frozen=True)
class Users:
    """The arguments that name the one who asks, and what follows from that."""

    calls: tuple[Call, ...] = ()
    """All dependencies behind those arguments."""
    parts: tuple[tuple[str, str], ...] = ()
    """The headers and cookies that they take, which belong into the key."""
    names_credentials: bool = False
    """Whether they, and no others, take the credentials of the request."""


NOBODY = Users()


class Origins:
    """The origins of the arguments of one function.

    `in_key` says what of a request is part of the key."""

    def __init__(
        self,
        function: Callable[..., Any],
        parameters: Mapping[str, inspect.Parameter],
        in_key: Keyed,
    ) -> None:
        self._function = function
        self._in_key = in_key
        calls = {name: dependency_of(parameter) for name, parameter in parameters.items()}
        self._declared = {name: call for name, call in calls.items() if call is not None}
        # The values keep a reference to the objects whose ids are in the keys, so that the ids
        # are not reused.
        self._routes: dict[tuple[object, ...], tuple[RouteOrigins, object]] = {}

    def of(self, scope: Mapping[str, Any]) -> RouteOrigins:
        """Return the origins on the route of a request."""
        overrides, dependant = overrides_of(scope), dependant_of(scope)
        replaced = tuple((id(call), id(other)) for call, other in overrides.items())
        key = (id(dependant), replaced)
        if key not in self._routes:
            route = RouteOrigins(
                self._function, self._declared, self._in_key, dependant, dict(overrides)
            )
            self._routes[key] = route, (dependant, dict(overrides))
        return self._routes[key][0]


class RouteOrigins:
    """The origins of the arguments of one function on one route."""

    def __init__(
        self,
        function: Callable[..., Any],
        declared: Mapping[str, Call],
        in_key: Keyed,
        dependant: Any,
        overrides: Mapping[Call, Call],
    ) -> None:
        self._function = function
        self._in_key = in_key
        self._overrides = overrides
        touched = touched_above(dependant, function)
        is_given = touched is not None
        self._given = given_by_fastapi(dependant, function, overrides) if is_given else {}
        # A function that is called by hand has its values from somewhere else, but may be given
        # what its signature says.
        calls = {**declared, **self._given}
        self._own = {name: tree_of(call, overrides) for name, call in calls.items()}
        made = {
            name: [is_generator(call) for call in tree]
            for name, tree in self._own.items()
            if touched is not None and name not in touched and not any(map(names_registry, tree))
        }
        self._made = {name for name, each in made.items() if name in self._given and each[0]}
        self._holding_made = {name for name, each in made.items() if any(each)}
        self._trees = [tree_of(call, overrides) for call in dependencies_of(dependant)]
        # With the call, so that its id is not reused.
        self._taken: dict[int, tuple[Call, list[Taken]]] = {}
        self._known: dict[tuple[object, ...], Any] = {}
        every = {id(call): call for tree in self._trees for call in tree}.values()
        self._changing = [call for call in every if changes_anything(call)]

    def dependency(self, name: str) -> Call | None:
        """Return the dependency whose value FastAPI passes as an argument."""
        return self._given.get(name)

    def taken(self) -> list[Taken]:
        """Return what all dependencies of the route take of who asks, and is not in the key."""
        calls = {id(call): call for tree in (*self._trees, *self._own.values()) for call in tree}
        return [each for call in calls.values() for each in self._asked_by(call)]

    def is_made(self, name: str) -> bool:
        """Whether an argument is what a `yield` dependency yields, and so made for this request."""
        return name in self._made

    def holds_made(self, name: str) -> bool:
        """Whether an argument may hold what a `yield` dependency yields."""
        return name in self._holding_made

    def only_selected(self, name: str, selects: Callable[[Call], bool]) -> bool:
        """Whether every dependency behind an argument that knows who asks passes a test."""
        own = self._own.get(name, ())
        return all(selects(call) for call in own if self._knows_who_asks(call))

    def _knows_who_asks(self, call: Call) -> bool:
        return any(map(self._asked_by, tree_of(call, self._overrides)))

    def who_asks(
        self, name: str, users: Users, scope: Mapping[str, Any], *, is_held: bool = False
    ) -> str:
        """
        Return what makes an argument depend on who asks, or "".

        Args:
            name: The argument.
            users: What `users` has returned.
            scope: The scope of the request.
            is_held: Whether the application holds it, so that it is no client's own.
        """
        key = (name, users, is_held)
        if key not in self._known:
            self._known[key] = self._sources(name, users, scope, is_held)
        taken: Sequence[Taken] = self._known[key]
        sources = [each.source for each in taken if not _is_for_all(each, scope)]
        return ", ".join(dict.fromkeys(sources))

    def who_changes(self, held: Sequence[object], users: Users, scope: Mapping[str, Any]) -> str:
        """Return what dependencies that change one of these objects take of who asks, or ""."""
        for call in self._changing:
            tree = tree_of(call, self._overrides)
            taken = [each.by(name_of(call)) for c in tree for each in self._asked_by(c, users)]
            sources = [each.source for each in taken if not _is_for_all(each, scope)]
            if sources and _meets(held, changed_by(call, self._overrides, scope)):
                return ", ".join(dict.fromkeys(sources))
        return ""

    def users(
        self, marked: frozenset[str], declared: frozenset[str], scope: Mapping[str, Any]
    ) -> Users:
        """
        Return the users that arguments name.

        Args:
            marked: The arguments that the endpoint itself says identify the one who asks.
            declared: Those of a class that the application says does.
            scope: The scope of the request.
        """
        key = ("users", marked, declared)
        if key not in self._known:
            self._known[key] = self._find_users(marked, declared, scope)
        users, states = self._known[key]
        return users if all(_is_of_application(each, scope) for each in states) else NOBODY

    def _find_users(
        self, marked: frozenset[str], declared: frozenset[str], scope: Mapping[str, Any]
    ) -> tuple[Users, Sequence[Taken]]:
        names = [name for name in marked if name in self._given]
        for name in declared & self._given.keys():
            # An item's author is not the one who asks.
            if not any(takes_inputs(call) for call in self._own[name]):
                names.append(name)
        calls = list({id(call): call for name in names for call in self._own[name]}.values())
        taken = [each for call in calls for each in self._asked_by(call)]
        states = [each for each in taken if each.state]
        named = [each for each in taken if each.variable is None]
        others = [each for each in named if not (each.state or each.is_credential)]
        if not calls or any(each.by_request for each in others):
            return NOBODY, ()
        outside = [call for tree in self._trees for call in tree if not among(call, calls)]
        if any(self._may_identify(call, scope) for call in outside):
            return NOBODY, ()
        parts = tuple(sorted({(each.kind, each.name) for each in others}))
        names_credentials = any(each.is_credential for each in taken)
        return Users(tuple(calls), parts, names_credentials), states

    def _may_identify(self, call: Call, scope: Mapping[str, Any]) -> bool:
        """Whether a dependency may know another user than the arguments name."""
        reaches = any(among(call, tree) for tree in self._own.values())
        for each in self._asked_by(call):
            if each.is_credential or each.kind == "cookie":
                return True
            if each.by_request and not each.kind and (reaches or self._shares(call, scope)):
                return True
        return False

    def _shares(self, call: Call, scope: Mapping[str, Any]) -> bool:
        trees = [tree for tree in self._trees if among(call, tree)]
        return any(_share(tree, own, scope) for tree in trees for own in self._own.values())

    def _sources(
        self, name: str, users: Users, scope: Mapping[str, Any], is_held: bool
    ) -> list[Taken]:
        own = self._own.get(name, [])
        sources = [each for call in own for each in self._asked_by(call, users)]
        given = own[1:] if is_held else own
        for tree in self._trees:
            if own and not among(tree[0], own[:1]) and _share(tree, given, scope):
                by = name_of(tree[0])
                more = [each for call in tree for each in self._asked_by(call, users)]
                sources += [each.by(by) for each in more if each not in sources]
        return sources

    def _asked_by(self, call: Call, users: Users = NOBODY) -> list[Taken]:
        """Return what a dependency itself takes of who asks, and is no part of the key."""
        if runs(call, self._function) or among(call, users.calls):
            return []
        if id(call) not in self._taken:
            taken = what_it_takes(call, self._in_key)
            self._taken[id(call)] = call, [each for each in taken if not self._in_key.has(each)]
        return self._taken[id(call)][1]


def _is_for_all(taken: Taken, scope: Mapping[str, Any]) -> bool:
    """Whether it is the same for all clients: of the lifespan, or a variable that is not set."""
    if taken.variable is not None:
        return taken.variable.get(ABSENT) is ABSENT
    return _is_of_application(taken, scope)


def _is_of_application(taken: Taken, scope: Mapping[str, Any]) -> bool:
    """Whether it is something in the state that the lifespan has put there."""
    state = scope.get("state") or {}
    return bool(taken.state) and is_of_lifespan(scope, taken.state, state.get(taken.state))


def _meets(held: Sequence[object], others: Iterable[object]) -> bool:
    return any(each is other for other in others for each in held)


def _share(tree: Sequence[Call], own: Sequence[Call], scope: Mapping[str, Any]) -> bool:
    """Whether two trees share a dependency whose value may be made one client's own."""
    return any(among(call, own) and not _is_fixed(call, scope) for call in tree)


def _is_fixed(call: Call, scope: Mapping[str, Any]) -> bool:
    """Whether a dependency returns what no other one can make its client's own."""
    try:
        returned = signature_of(call).return_annotation
    except (TypeError, ValueError):
        return False
    if inspect.isclass(returned) and issubclass(returned, _IMMUTABLE):
        return True
    value = returned_by(call, scope)
    if value is ABSENT or is_proxy(value):
        return False
    if isinstance(value, _CONTAINERS):
        return False
    return is_shared_infrastructure(type(value)) or has_form(value)
