"""The checks of single options. Each takes name and value, and returns the value's final form."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import Enum
from typing import Any, cast, get_args

from stream_cached.bodies.urls import bodies_from_url
from stream_cached.bodies.watched import WatchedBodies
from stream_cached.checks import (
    is_0,
    is_items,
    require,
    require_function,
    require_items,
    require_names,
    require_seconds,
)
from stream_cached.event_hook import EventHook
from stream_cached.http.policy import NEVER_STORED
from stream_cached.request.guard import KINDS, READABLE, read_name

#: A header name (RFC 9110, section 5.6.2), but for the asterisk, which has a meaning in Vary.
_HEADER_NAME = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]+")


class _NotGiven(Enum):
    NOT_GIVEN = "not given"


#: The `timeout` that leaves the time-out to the cache.
NOT_GIVEN: Any = _NotGiven.NOT_GIVEN


def check_vary(name: str, vary: Any) -> Mapping[str, Callable[[str], str] | None]:
    for header in require_items(name, vary, "Accept"):
        require(
            isinstance(header, str) and _HEADER_NAME.fullmatch(header),
            f"vary={header!r} is no name of a header",
        )
    functions = dict(vary) if isinstance(vary, Mapping) else dict.fromkeys(vary)
    for header, function in functions.items():
        if function is not None:
            require_function(f"vary[{header!r}]", function)
    return functions


def check_bodies(name: str, bodies: Any) -> WatchedBodies | None:
    if bodies is None:
        return None
    store = bodies_from_url(bodies) if isinstance(bodies, str) else bodies
    methods = ("upload", "open", "delete", "listed", "ping", "close")
    require(
        isinstance(store, WatchedBodies) or all(callable(getattr(store, m, None)) for m in methods),
        f'{name}={bodies!r}: pass a URL, "file:///var/cache/app", or a store of bodies',
    )
    return WatchedBodies.of(store)


def check_resume(name: str, value: Any) -> Any:
    require(
        isinstance(value, bool) or value == "event-id",
        f'{name}={value!r}: pass True, False or "event-id"',
    )
    return value


def check_methods(name: str, methods: Any) -> frozenset[str]:
    require(
        is_items(methods) and methods and all(isinstance(each, str) for each in methods),
        f'methods={methods!r}: pass a tuple of names, ("GET", "POST")',
    )
    return frozenset(each.upper() for each in methods)


def check_statuses(name: str, statuses: Any) -> frozenset[int]:
    codes = require_items(name, statuses, 200)
    require(
        codes and all(isinstance(code, int) and 200 <= code <= 599 for code in codes),
        f"statuses={statuses!r}: pass final status codes, such as (200, 404)",
    )
    require(
        NEVER_STORED.isdisjoint(codes),
        "statuses= has 206 or 304, which are parts of another response and can't be stored",
    )
    return frozenset(codes)


def one_of(literal: Any, hint: str) -> Callable[[str, Any], Any]:
    """Return the check of an option that is a `Literal`."""

    def check(name: str, value: Any) -> Any:
        require(value in get_args(literal), f"{name}={value!r}: pass {hint}")
        return value

    return check


def check_timeout(name: str, value: Any) -> Any:
    """Return seconds. As in aiocache, None and 0 set no bound."""
    if value is NOT_GIVEN or value is None or is_0(value):
        return value
    return require_seconds(name, value)


def check_complete_when(name: str, value: Any) -> Any:
    if value is not None:
        require_function(name, value)
    return value


def check_on_complete(name: str, value: Any) -> Any:
    require(value is None or callable(value), f"{name}={value!r} can't be called: pass a function")
    return value


def check_on_event(name: str, value: Any) -> EventHook | None:
    if value is None or isinstance(value, EventHook):
        return value
    require(
        callable(value) and not inspect.iscoroutinefunction(value),
        f"{name}={value!r}: pass a function that is not async",
    )
    return EventHook(value)


def check_secret(name: str, secret: Any) -> tuple[bytes, ...] | None:
    """Return the secrets as bytes; no message shows one."""
    if secret is None:
        return None
    secrets = tuple(secret) if is_items(secret) else (secret,)
    require(
        secrets and all(isinstance(each, str | bytes) and each for each in secrets),
        "secret= has to be a str or bytes, or several of them, and none of them empty: pass 32 "
        "random bytes, the same to every process",
    )
    return tuple(each.encode() if isinstance(each, str) else each for each in secrets)


def check_key_args(name: str, key_args: Any) -> Mapping[str, Callable[[Any], Any]]:
    require(
        isinstance(key_args, Mapping),
        f'key_args={key_args!r}: pass functions by name, {{"user": lambda user: user.id}}',
    )
    for argument, function in key_args.items():
        require_function(f"key_args[{argument!r}]", function)
        require(
            _takes_one(function),
            f"key_args[{argument!r}]={function!r}: pass a function of one argument",
        )
    return dict(key_args)


def _takes_one(function: Callable[[Any], Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        pass  # A function in C may have no signature.
    return True


def check_query_ignore(name: str, names: Any) -> tuple[str, ...]:
    listed = require_items(name, names, "utm_*")
    require(
        all(isinstance(each, str) and each for each in listed),
        f'{name}={names!r}: pass names in the query, such as ("utm_*", "fbclid")',
    )
    return tuple(listed)


def check_key_context(name: str, listed: Any) -> tuple[Any, ...] | None:
    if listed is None:
        return None
    require(
        is_items(listed) and all(isinstance(each, ContextVar) or callable(each) for each in listed),
        f"key_context={listed!r}: pass a tuple of context variables, or of functions without "
        "arguments",
    )
    return tuple(listed)


def check_refresh(name: str, function: Any) -> Any:
    if function is not None:
        require_function(name, function)
        require(_takes_one(function), f"{name}={function!r}: pass a function of the request")
    return function


def check_honor_request(name: str, value: Any) -> Any:
    if not isinstance(value, bool):
        require(
            callable(value), f"{name}={value!r}: pass True, False, or a function of the request"
        )
        check_refresh(name, value)
    return value


def check_heuristic(name: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    require(
        is_number and 0 <= value <= 1,
        f"{name}={value!r}: pass the part of the time since Last-Modified for which a response is "
        "fresh, such as 0.1",
    )
    return float(value)


def check_targets(name: str, targets: Any) -> tuple[str, ...]:
    for header in require_items(name, targets, "App-Cache-Control"):
        require(
            isinstance(header, str) and _HEADER_NAME.fullmatch(header),
            f"{name}={header!r} is no name of a header",
        )
        require(
            header.lower() != "cache-control",
            f"{name}= has Cache-Control, which counts in any case: leave it out",
        )
    return tuple(targets)


def check_client_cache_control(name: str, value: Any) -> bytes | None:
    if value is None:
        return None
    require(
        isinstance(value, str) and re.fullmatch("[ -~]+", value),
        f'{name}={value!r}: pass the value of a header, such as "max-age=60"',
    )
    return cast(str, value).encode("ascii")


def check_etag(name: str, value: Any) -> Any:
    require(
        isinstance(value, bool) or value == "weak", f'{name}={value!r}: pass True, "weak" or False'
    )
    return value


def check_validator(name: str, value: Any) -> Any:
    if value is not None:
        require(
            callable(value),
            f"{name}={value!r}: pass an async function of the arguments that returns an ETag, a "
            "datetime or both",
        )
    return value


def check_unguarded(name: str, unguarded: Any) -> frozenset[str]:
    names = require_names(name, unguarded)
    for each in names:
        kind, dot, rest = each.partition(".")
        is_item = dot and (kind in KINDS or kind == "header")
        # An attribute is written "state.user", not "request.state.user".
        is_single = kind == "scope" or "." not in rest
        is_valid = is_single if is_item else _HEADER_NAME.fullmatch(each) and not dot
        require(
            is_valid and (rest if is_item else each not in KINDS[:2]),
            f"unguarded={each!r}: pass the name of a header, or one of {', '.join(READABLE)}, "
            '"state.NAME", "scope.NAME" or "request.NAME"',
        )
    return frozenset(map(read_name, names))
