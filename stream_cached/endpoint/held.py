"""Objects that the application holds: engines, pools and clients, and the path that leads to each.

The path stands in the key in place of the object, so that it is the same in every process:

- `package.module.NAME`, and up to two plain attributes of that (`package.db.instance.client`);
- `package.module.function()`, where `functools.cache` keeps the one value of the function, and one
  plain attribute of it (`get_settings().client`);
- `app.state.NAME`, and `state.NAME` for what the lifespan has put into the state.

A path that has led to two objects holds nothing: a global that is set for each request, say. A path
to a session or a connection counts from the second look-up on, and so does one to what came into
`app.state` after the start of the application.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import types
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from stream_cached.endpoint.cells import variables_of
from stream_cached.endpoint.infrastructure import is_per_request
from stream_cached.endpoint.reads import code_of, function_of, selected
from stream_cached.endpoint.signatures import class_names, without_partials
from stream_cached.endpoint.startup import is_there_since_start, lifespan_states, state_of_app
from stream_cached.keys.modules import namespaces, shared_name
from stream_cached.keys.references import Reference, reference_to

#: Registries, which give one session to all that ask while a request is answered.
_REGISTRIES = frozenset(
    {
        "sqlalchemy.ext.asyncio.scoping.async_scoped_session",
        "sqlalchemy.orm.scoping.scoped_session",
    }
)

#: Classes that stand for another object, which may be another one in each request.
_PROXIES = _REGISTRIES | frozenset(
    {
        "celery.local.Proxy",
        "peewee.Proxy",
        "structlog._config.BoundLoggerLazyProxy",
    }
)

#: Factories of sessions, which keep the engine that they bind each session to.
_SESSION_FACTORIES = frozenset(
    {
        "sqlalchemy.ext.asyncio.session.async_sessionmaker",
        "sqlalchemy.orm.session.sessionmaker",
    }
)

#: What is no instance with attributes of its own.
_NO_HOLDERS = (
    *(types.BuiltinFunctionType, types.FunctionType, types.MethodType, types.ModuleType, type),
    *(bool, bytes, dict, float, frozenset, int, list, set, str, tuple, type(None)),
    threading.local,
)

#: How many attributes lead from a global to an object.
_MAX_ATTRIBUTES = 2

#: No value.
ABSENT = object()

#: The path of an object, by the object's address, and the object.
_paths: dict[int, tuple[Reference, str]] = {}

#: The object that a path has led to; None if it has led to several.
_led: dict[Hashable, Reference | None] = {}

#: How often an object was looked for in vain, by what it was looked for.
_misses: dict[Hashable, int] = {}


def path_of(value: object, scope: Mapping[str, Any], asker: Hashable) -> str | None:
    """
    Return the path that leads to an object; None if the application does not hold it.

    Args:
        value: The object.
        scope: The scope of the request.
        asker: What the object is for. The modules are searched when it asks for the first time,
            and then less and less often, until something is found.
    """
    if is_proxy(value):
        return None
    path = _path_in_app(value, scope)
    if path is None and (found := _path_in_modules(value, asker)) is not None:
        module_name, _, names = found.partition(":")
        path = f"{shared_name(module_name)}:{names}"
    return path


def returned_by(call: Any, scope: Mapping[str, Any]) -> object:
    """Return what a dependency finds in a module or an application, and only returns."""
    value = _cached_value(call)
    names = selected(call)
    if value is not ABSENT or not names:
        return value
    name, *attributes = names
    if attributes[:2] == ["app", "state"]:
        of_app = state_of_app(scope.get("app"))
        return of_app.get(attributes[2], ABSENT) if len(attributes) == 3 else ABSENT
    value = getattr(without_partials(call), "__globals__", {}).get(name, ABSENT)
    for attribute in attributes:
        of_module = vars(value) if isinstance(value, types.ModuleType) else None
        value = (of_module or attributes_of(value)).get(attribute, ABSENT)
    return value


def names_registry(call: Any) -> bool:
    """Whether a dependency's code names a registry, which gives the same session to others."""
    code, function = code_of(call), function_of(call)
    if code is None or function is None:
        return False
    found = [function.__globals__[n] for n in code.co_names if n in function.__globals__]
    for module in [each for each in found if isinstance(each, types.ModuleType)]:
        found += [vars(module)[n] for n in code.co_names if n in vars(module)]
    found += variables_of(function).values()
    return any(not _REGISTRIES.isdisjoint(class_names(type(each))) for each in found)


def is_proxy(value: object) -> bool:
    """Whether an object stands for another one, as those of werkzeug and wrapt do."""
    try:
        cls = value.__class__
    # It asks the object that it stands for, and there may be none.
    except Exception:
        return True
    return cls is not type(value) or not _PROXIES.isdisjoint(class_names(cls))


def _path_in_app(value: object, scope: Mapping[str, Any]) -> str | None:
    app = scope.get("app")
    if app is None:
        return None
    if app is value:
        return "app"
    for path in _paths_in("app.state", state_of_app(app), value):
        is_late = not is_there_since_start(app, path.split(".")[2])
        if _leads_to((id(app), path), value, app, is_late=is_late):
            return path
    states = lifespan_states(scope)
    return next((path for state in states for path in _paths_in("state", state, value)), None)


def _paths_in(name: str, state: Mapping[str, Any], value: object) -> Iterator[str]:
    for attribute, item in tuple(state.items()):
        if item is value:
            yield f"{name}.{attribute}"
        elif _is_session_factory(type(item)) and attributes_of(item).get("bind") is value:
            yield f"{name}.{attribute}.bind"


def _path_in_modules(value: object, asker: Hashable) -> str | None:
    known = _paths.get(id(value))
    if known is not None and known[0]() is value:
        path = known[1]
        if _at(path) is value and _leads_to(path, value):
            return path
        # The path leads elsewhere now.
        del _paths[id(value)]
    misses = _misses.get(asker, 0)
    _misses[asker] = misses + 1
    if misses & (misses - 1):
        # Neither 0 nor a power of two.
        return None
    found = sorted(_search(value), key=lambda path: (path.count("."), path))
    path = next((each for each in found if _at(each) is value and _leads_to(each, value)), "")
    if not path:
        return None
    _paths[id(value)] = reference_to(value), path
    del _misses[asker]
    return path


def _search(value: object) -> Iterator[str]:
    """Yield the paths that may lead to an object from a module."""
    seen: dict[int, int] = {}
    for module_name, variables in sorted(namespaces(), key=itemgetter(0)):
        for name, item in tuple(variables.items()):
            if item is value:
                yield f"{module_name}:{name}"
            elif type(item) is functools._lru_cache_wrapper:
                cached = _cached_value(item)
                if cached is value:
                    yield f"{module_name}:{name}()"
                for way in _ways(cached, value, seen, _MAX_ATTRIBUTES - 1):
                    yield f"{module_name}:{name}().{way}"
            else:
                for way in _ways(item, value, seen, _MAX_ATTRIBUTES):
                    yield f"{module_name}:{name}.{way}"


def _ways(holder: Any, value: object, seen: dict[int, int], attributes: int) -> list[str]:
    """Return the attributes that lead from an instance to an object."""
    # One that was seen further away may lead to more from here.
    if seen.get(id(holder), 0) >= attributes:
        return []
    seen[id(holder)] = attributes
    found = []
    for name, item in tuple(_dict_of(holder).items()):
        if item is value:
            found.append(name)
        elif attributes > 1 and not issubclass(type(item), _NO_HOLDERS):
            found += [f"{name}.{way}" for way in _ways(item, value, seen, attributes - 1)]
    return found


def attributes_of(holder: Any) -> Mapping[str, Any]:
    """Return the plain attributes of an instance that stands for no other one."""
    return {} if is_proxy(holder) else _dict_of(holder)


def _dict_of(holder: Any) -> Mapping[str, Any]:
    if issubclass(type(holder), _NO_HOLDERS):
        return {}
    try:
        found = object.__getattribute__(holder, "__dict__")
    except (AttributeError, TypeError):
        return {}
    if type(found) is not dict:
        return {}
    if _is_session_factory(type(holder)):
        # What it binds each session to.
        return {**found, "bind": found.get("kw", {}).get("bind")}
    return found


def _at(path: str) -> object:
    """Return the object that a path leads to from a module."""
    module_name, _, names = path.partition(":")
    name, *attributes = names.split(".")
    names_in_module = getattr(sys.modules.get(module_name), "__dict__", {})
    value = names_in_module.get(name.removesuffix("()"), ABSENT)
    if name.endswith("()"):
        value = _cached_value(value)
    for attribute in attributes:
        value = attributes_of(value).get(attribute, ABSENT)
    return value


def _find_session_factory(cls: type) -> bool:
    return not _SESSION_FACTORIES.isdisjoint(class_names(cls))


_is_session_factory: Callable[[type], bool] = functools.lru_cache(1024)(_find_session_factory)


def _cached_value(function: Any) -> object:
    """Return the one value that `functools.cache` keeps of a function without parameters."""
    if type(function) is not functools._lru_cache_wrapper or function.cache_info().currsize != 1:
        return ABSENT
    try:
        if inspect.signature(function).parameters:
            return ABSENT
    except (TypeError, ValueError):
        return ABSENT
    return function()


def _leads_to(
    path: Hashable, value: object, owner: object = None, *, is_late: bool = False
) -> bool:
    """Note what a path leads to; return whether it has never led to another object."""
    if path not in _led:
        _led[path] = reference_to(value)
        if owner is not None:
            # The address of an application that is gone may be given to another one.
            weakref.finalize(owner, _led.pop, path, None)
        # It may be put there for each request, which only the next one shows.
        return not (is_late or is_per_request(type(value)))
    reference = _led[path]
    if reference is None or reference() is not value:
        _led[path] = None
        return False
    return True
