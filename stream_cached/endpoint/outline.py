"""What can be said of the arguments of a function before there is a call of it.

Where no value is needed, the declarations decide. Elsewhere an empty instance of the class stands
for the value, and the same code looks at it that looks at the arguments of a call. What that comes
to may be another thing for the real value, so it is certain only where that can't be.
"""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from stream_cached.endpoint.in_key import part_of_class
from stream_cached.endpoint.infrastructure import is_infrastructure, is_injected
from stream_cached.endpoint.signatures import (
    annotation_of,
    cookie_names,
    dependency_of,
    header_names,
)
from stream_cached.endpoint.taken import Taken
from stream_cached.endpoint.unkeyed import findings
from stream_cached.endpoint.values import CallValues, Rules
from stream_cached.http.reasons import BypassError, Finding, NotCached
from stream_cached.keys.canonical import class_has_form


class Way(enum.Enum):
    """How an argument is part of the key."""

    WHOLE = "in the key"
    HEADER = "in the key, as a header"
    COOKIE = "in the key, as a cookie"
    KEY_ARGS = "in the key by key_args="
    IN_KEY = "in the key by InKey"
    LEFT_OUT = "left out"
    KEY_IGNORE = "left out by key_ignore="
    MARKED = "left out by NotInKey"
    REQUEST = "what is read of it beside the key is noticed"
    INJECTED = "left out: of the framework"
    UNKNOWN = "depends on the request"
    REFUSED = "not cached"


@dataclass(frozen=True)
class Outline:
    """The arguments of a function on one route."""

    ways: Mapping[str, Way]
    certain: tuple[Finding, ...]
    """Why no call of it is cached."""
    possible: tuple[Finding, ...]
    """Why a call of it may not be."""
    names_user: bool
    """Whether an argument in the key names the one whose credentials a request carries."""
    taken: tuple[Taken, ...]
    """What the dependencies of the route take of who asks, beside what is in the key."""


def outlined(
    rules: Rules,
    ignored: Set[str],
    requests: Set[str],
    known: Mapping[str, object],
    scope: Mapping[str, Any],
) -> Outline:
    """
    Return what can be said of the arguments on the route of a scope.

    Args:
        rules: How they are put into keys.
        ignored: Those that are left out of the key.
        requests: Those that are the request.
        known: Those whose values are the same in each call.
        scope: The scope of a request for the route.
    """
    ways: dict[str, Way] = {}
    certain: list[Finding] = []
    possible: list[Finding] = []
    values = {name: _stand_in(p) for name, p in rules.parameters.items()}
    values.update(known)
    for name, parameter in rules.parameters.items():
        if name in requests:
            ways[name] = Way.REQUEST
            continue
        way = _declared(rules, ignored, name, parameter)
        if way is None or (name in known and way is Way.WHOLE):
            way, found, is_certain = _tried(rules, name, values[name], scope)
            (certain if is_certain or name in known else possible).extend(found)
        ways[name] = way
    given = {name: value for name, value in values.items() if name not in ignored | requests}
    call = CallValues(rules, given, scope)
    return Outline(ways, (*certain,), (*possible,), call.names_user, (*call.origins.taken(),))


def _declared(
    rules: Rules, ignored: Set[str], name: str, parameter: inspect.Parameter
) -> Way | None:
    """Return how an argument is part of the key, where its value does not matter."""
    cls = _class_of(parameter)
    way: Way | None = None
    if name in ignored:
        way = Way.KEY_IGNORE
    elif name in rules.key_args:
        way = Way.KEY_ARGS
    elif name in rules.parts or (cls is not None and part_of_class(cls) is not None):
        way = Way.IN_KEY
    elif name in rules.marked:
        way = Way.MARKED if cls is None or class_has_form(cls) else None
    elif cls is not None and is_injected(cls):
        way = Way.INJECTED
    elif cls is None:
        way = Way.UNKNOWN
    elif class_has_form(cls):
        way = _way_of_header(parameter)
    return way


def _way_of_header(parameter: inspect.Parameter) -> Way:
    if cookie_names(parameter):
        return Way.COOKIE
    return Way.HEADER if header_names(parameter) else Way.WHOLE


def _tried(
    rules: Rules, name: str, value: object, scope: Mapping[str, Any]
) -> tuple[Way, tuple[Finding, ...], bool]:
    """Return what the key of a call has of an empty instance, and whether that is certain."""
    call = CallValues(rules, {name: value}, scope)
    try:
        forms = call.forms()
        source = call.origins.who_asks(name, call.users, scope)
    except BypassError as exc:
        is_certain = _is_certain(rules, call, name, scope)
        if exc.reasons == (NotCached.UPLOAD,):
            # A call may come without a file that has a default.
            is_certain = rules.parameters[name].default is inspect.Parameter.empty
        return (Way.REFUSED if is_certain else Way.UNKNOWN), exc.findings, is_certain
    # An empty instance may break whatever looks at it.
    except Exception:
        if not _is_certain(rules, call, name, scope):
            return Way.UNKNOWN, (), False
        source = call.origins.who_asks(name, call.users, scope)
        refused = call.of_a_client(name, value, source)
        return Way.REFUSED, tuple(findings([refused], rules.parameters)), True
    if name in rules.marked:
        return Way.MARKED, (), True
    is_left_out = name not in forms and not source and call.origins.is_made(name)
    return (Way.LEFT_OUT if is_left_out else Way.UNKNOWN), (), True


def _is_certain(rules: Rules, call: CallValues, name: str, scope: Mapping[str, Any]) -> bool:
    """Whether an argument is one client's own, whatever its value is."""
    source = call.origins.who_asks(name, call.users, scope)
    if not source or "request.state." in source:
        return False
    # Otherwise the application may hold it, and then it is nobody's own.
    return name in rules.marked or call.origins.is_made(name)


def _class_of(parameter: inspect.Parameter) -> type | None:
    """Return the class of a parameter's values; None if there are several, or none is known."""
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return None
    annotation = annotation_of(parameter)
    if annotation is inspect.Parameter.empty:
        # FastAPI passes what is in the request as it is.
        return None if dependency_of(parameter) is not None else str
    if annotation in (Any, object):
        return None
    origin = get_origin(annotation)
    if isinstance(origin, type) and not _is_union(annotation):
        inner = [each for each in get_args(annotation) if isinstance(each, type)]
        return origin if all(map(class_has_form, inner)) else None
    members = get_args(annotation) if _is_union(annotation) else (annotation,)
    classes = [_origin(each) for each in members if each is not type(None)]
    found = [each for each in classes if isinstance(each, type)]
    if len(found) != len(classes) or not found:
        return None
    if len(found) > 1:
        # All of them have a form, or nothing is said of them.
        return found[0] if all(map(class_has_form, found)) else None
    return found[0]


def _origin(annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0])
    return get_origin(annotation) or annotation


def _is_union(annotation: object) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _stand_in(parameter: inspect.Parameter) -> object:
    """Return an empty instance of a parameter's class, or any object."""
    cls = _class_of(parameter)
    if cls is not None and is_infrastructure(cls):
        # It is known by its names. Half a connection is nothing to play with.
        return _namesake(cls)()
    try:
        return object() if cls is None else object.__new__(cls)
    # Classes that are written in C can't be made so.
    except TypeError:
        return object()


def _namesake(cls: type) -> type:
    """Return an empty class that has the names of a class and of its bases."""
    found: type = object
    for each in reversed(cls.__mro__[:-1]):
        names = {"__module__": each.__module__, "__qualname__": each.__qualname__}
        found = type(each.__name__, (found,), names)
    return found
