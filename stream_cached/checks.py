"""Checks of what a user passes: each raises a `ConfigurationError` that says what to write."""

from __future__ import annotations

import datetime
import inspect
import math
import re
from collections.abc import Collection
from typing import Any, cast

from stream_cached.errors import ConfigurationError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


def require(condition: object, message: str) -> None:
    if not condition:
        raise ConfigurationError(message)


def require_bool(name: str, value: Any) -> bool:
    require(isinstance(value, bool), f"{name}={value!r}: pass True or False")
    return cast(bool, value)


def require_function(name: str, value: object) -> None:
    """Raise a `ConfigurationError` unless the value is a function that returns at once."""
    require(callable(value), f"{name}={value!r} can't be called: pass a function")
    call = inspect.getattr_static(type(value), "__call__", None)
    require(
        not inspect.iscoroutinefunction(value) and not inspect.iscoroutinefunction(call),
        f"{name}={value!r} is a coroutine function: pass one that returns at once",
    )


def is_items(value: Any) -> bool:
    """Whether the value is a collection, and no text, which would be a collection of letters."""
    return isinstance(value, Collection) and not isinstance(value, str | bytes)


def require_items(name: str, value: Any, example: object) -> list[Any]:
    """Return the items of a collection; a single item is refused."""
    shown = value if value and isinstance(value, type(example)) else example
    require(is_items(value), f"{name}={value!r}: pass a tuple, {name}=({shown!r},)")
    return list(value)


def require_names(name: str, value: Any) -> frozenset[str]:
    names = require_items(name, value, "name")
    require(
        all(isinstance(each, str) and each for each in names),
        f"{name}={names!r}: pass names of arguments",
    )
    return frozenset(names)


def require_seconds(name: str, value: Any) -> float:
    require(_is_above_0(value), f"{name}={value!r}: pass a number of seconds above 0")
    return float(value)


def require_seconds_or_0(name: str, value: Any) -> float:
    return 0.0 if is_0(value) else require_seconds(name, value)


def require_size(name: str, value: Any, *, least: int) -> int:
    """The value may also be a text with a unit of bytes."""
    try:
        size = parse_size(value) if isinstance(value, str) else value
    except ValueError as exc:
        raise ConfigurationError(f"{name}={value!r}: {exc}") from None
    require(
        isinstance(size, int) and not isinstance(size, bool) and size >= least,
        f"{name}={value!r}: pass a whole number, {least} or more",
    )
    return cast(int, size)


def require_ttl(value: Any) -> float | None:
    """Return seconds; the value may also be a timedelta, or a text such as `"10m"`."""
    require(not callable(value), "write @stream_cached(ttl=60), with parentheses")
    seconds = value
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        seconds = _parse_span(value)
    require(
        seconds is None or _is_above_0(seconds),
        f'ttl={value!r}: pass a number of seconds above 0, a timedelta, a text such as "10m", or '
        "None for entries that never expire",
    )
    return cast("float | None", seconds)


def _parse_span(text: str) -> float:
    """Return the seconds of a text such as `90s`, `10m` or `1h30m`; -1 if it is no such text."""
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip().lower())
    if match is None or not any(match.groups()):
        return -1.0
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def takes_response(function: Any) -> bool:
    """Whether a function for the ttl takes a response, as `lambda response: 60` does."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return False
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    name = getattr(function, "__name__", "")
    is_named = name == "<lambda>" or any("response" in each.name.lower() for each in parameters[:1])
    needed = [each for each in parameters if each.default is each.empty]
    return len(needed) == 1 and is_named


def parse_size(text: str) -> int:
    """Return a number of bytes (`1048576`, `64MiB`, `1GB`), or raise ValueError."""
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS or not int(match[1]):
        raise ValueError(f"{text!r} is no size in bytes: write 64MiB, for example")
    return int(match[1]) * _UNITS[match[2]]


def is_0(value: object) -> bool:
    """Whether a value is the number 0, and not False."""
    return type(value) in (int, float) and value == 0


def _is_above_0(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0
