"""The applications that are alive in this process, and the functions that each of them reaches.

An application notes itself here when it is made: `Starlette.__new__` is set when the package is
imported. Those that were made before are looked for once.
"""

from __future__ import annotations

import gc
import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from starlette.applications import Starlette

from stream_cached.endpoint.function import name_of, place_of

_UNDECORATED = object()

_live: dict[int, weakref.ref[Any]] = {}


class _Changes:
    """How often an application has come or gone, and whether garbage was collected since."""

    count = 0
    collected = 0


def changes() -> int:
    return _Changes.count


def note(app: Any) -> None:
    """Note an application."""
    address = id(app)
    known = _live.get(address)
    if known is not None and known() is app:
        return

    def forget(reference: weakref.ref[Any]) -> None:
        _Changes.count += 1
        if _live.get(address) is reference:
            del _live[address]

    try:
        _live[address] = weakref.ref(app, forget)
    # Only an application of another framework.
    except TypeError:
        return
    _Changes.count += 1


def live_apps() -> list[Any]:
    apps = [reference() for reference in tuple(_live.values())]
    return [app for app in apps if app is not None]


def collect_dead() -> None:
    """Let applications go that nothing refers to: they are in cycles with their routers."""
    if _Changes.collected != _Changes.count:
        gc.collect()
        _Changes.collected = _Changes.count


def root_of(app: Any, router: object) -> Any:
    """Return the application that a request has come to first, by the router in its scope."""
    if router is None or getattr(app, "router", None) is router:
        return app
    return next((each for each in live_apps() if getattr(each, "router", None) is router), app)


def mounted(app: Any) -> dict[int, tuple[str, ...]]:
    """Return the path of mounts to each application within another one, by its address."""
    found: dict[int, tuple[str, ...]] = {}
    for path, part in _parts(app, [], {id(app)}):
        if isinstance(part, Starlette):
            found.setdefault(id(part), tuple(path))
    return found


def reaches(app: Any, name: str, place: str, namespace: object) -> bool:
    """Whether a route of an application has a function with this name, at this place."""
    return any(
        name_of(function) == name
        and place_of(function) == place
        and _namespace(function, namespace) == namespace
        for _, part in _parts(app, [], {id(app)})
        for function in _functions(part)
    )


def are_alike(app: Any, other: Any) -> bool:
    """Whether two applications have a route's function in common: one factory made both."""
    return not _identities(app).isdisjoint(_identities(other))


def _identities(app: Any) -> set[tuple[str, str]]:
    found = [each for _, part in _parts(app, [], {id(app)}) for each in _functions(part)]
    return {(name_of(each), place_of(each)) for each in found if not _is_frameworks(each)}


def _is_frameworks(value: Any) -> bool:
    return str(value.__module__).partition(".")[0] in ("fastapi", "starlette")


def _namespace(function: Any, default: object) -> object:
    """Return the namespace of a decorated function; an undecorated one has no entries."""
    cache = getattr(function, "cache", _UNDECORATED)
    if cache is None:
        # It is not known yet.
        return default
    return getattr(cache, "namespace", _UNDECORATED)


def _functions(part: Any) -> Iterator[Any]:
    if not inspect.isclass(part):
        found = [part] if callable(part) else []
    else:
        classes = [cls for cls in part.__mro__ if not _is_frameworks(cls)]
        found = [each for cls in classes for each in vars(cls).values() if inspect.isroutine(each)]
    # A method that is written in C, such as object.__init__, is no application's.
    yield from (each for each in found if getattr(each, "__module__", None))


def _parts(node: Any, path: list[str], seen: set[int]) -> Iterator[tuple[list[str], Any]]:
    """Yield the endpoints and the applications within an application or a router."""
    labels: Counter[str] = Counter()
    for route in tuple(getattr(node, "routes", None) or ()):
        endpoint = getattr(route, "endpoint", None)
        if endpoint is not None:
            yield path, endpoint
            continue
        label = str(getattr(route, "path", "") or getattr(route, "host", ""))
        labels[label] += 1
        # A mount, or a router that FastAPI includes without copying its routes.
        inner = getattr(route, "original_router", None) or _beneath(getattr(route, "app", None))
        if inner is None or id(inner) in seen:
            continue
        seen.add(id(inner))
        within = [*path, f"{label} {labels[label]}"]
        if isinstance(inner, Starlette):
            yield within, inner
        yield from _parts(inner, within, seen)


def _beneath(app: Any) -> Any:
    """Return what has the routes beneath the middleware of a mount."""
    for _ in range(20):
        if app is None or hasattr(app, "routes"):
            return app
        app = getattr(app, "app", None)
    return None


def _noting(cls: type[Starlette]) -> Callable[..., Any]:
    def new(made: type[Starlette], *args: Any, **kwargs: Any) -> Any:
        beneath = super(cls, made).__new__
        # `object.__new__` takes nothing of what `__init__` is given.
        app = beneath(made) if beneath is object.__new__ else beneath(made, *args, **kwargs)
        note(app)
        return app

    return new


Starlette.__new__ = _noting(Starlette)  # type: ignore[method-assign]
for _each in gc.get_objects():
    if issubclass(type(_each), Starlette):
        note(_each)
_each = None
