"""What the decorator was told, checked at the earliest moment: at decoration."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from aiocache.base import SENTINEL

from stream_cached.config import parse_size
from stream_cached.exceptions import ConfigurationError
from stream_cached.policy import NEVER_STORED
from stream_cached.recorder import VALUE_SIZE

#: A token of RFC 9110, section 5.6.2, but for the asterisk, which means something else in Vary.
_HEADER_NAME = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]+")

#: Bytes that a source may be ahead of its fastest reader.
MAX_AHEAD = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rules:
    """What the decorator was told."""

    vary: Mapping[str, Callable[[str], str] | None]
    methods: frozenset[str]
    statuses: frozenset[int]
    max_body: int
    max_duration: float
    max_pending: int
    max_ahead: int
    max_variants: int
    inline_max: int
    finish_timeout: float
    exact: bool


def make_rules(
    *,
    vary: Collection[str] | Mapping[str, Callable[[str], str] | None],
    methods: Collection[str],
    statuses: Collection[int],
    max_body: int | str,
    max_duration: float,
    max_pending: int | str,
    max_variants: int,
    inline_max: int | str,
    finish_timeout: float,
    replay: Literal["fast", "exact"],
) -> Rules:
    """
    Check what the decorator was told.

    Raises:
        ConfigurationError: Something in it can't work; the message says what to write.
    """
    require(replay in ("fast", "exact"), f'replay={replay!r}: pass "fast" or "exact"')
    return Rules(
        vary=_checked_vary(vary),
        methods=_checked_methods(methods),
        statuses=_checked_statuses(statuses),
        max_body=_size("max_body", max_body, least=1),
        max_duration=_seconds("max_duration", max_duration),
        max_pending=_size("max_pending", max_pending, least=VALUE_SIZE),
        max_ahead=MAX_AHEAD,
        max_variants=_size("max_variants", max_variants, least=1),
        inline_max=min(VALUE_SIZE, _size("inline_max", inline_max, least=0)),
        finish_timeout=_seconds("finish_timeout", finish_timeout),
        exact=replay == "exact",
    )


def require(condition: object, message: str) -> None:
    """Raise a `ConfigurationError` unless the condition holds."""
    if not condition:
        raise ConfigurationError(message)


def require_function(name: str, value: object) -> None:
    """Raise a `ConfigurationError` unless the value can be called, and returns at once."""
    require(callable(value), f"{name}={value!r} can't be called: pass a function")
    call = inspect.getattr_static(type(value), "__call__", None)
    require(
        not inspect.iscoroutinefunction(value) and not inspect.iscoroutinefunction(call),
        f"{name}={value!r} is a coroutine function: pass one that returns at once",
    )


def checked_ttl(ttl: Any) -> Any:
    """Return a ttl that is one: a number of seconds above 0, None, or aiocache's for none given."""
    if ttl is SENTINEL or ttl is None:
        return ttl
    if callable(ttl):
        raise ConfigurationError("write @stream_cached(ttl=60), with parentheses")
    valid = isinstance(ttl, int | float) and not isinstance(ttl, bool)
    require(
        valid and math.isfinite(ttl) and ttl > 0,
        f"ttl={ttl!r}: pass a number of seconds above 0, or None for entries that never expire",
    )
    return ttl


def _seconds(name: str, value: Any) -> float:
    valid = isinstance(value, int | float) and not isinstance(value, bool)
    require(
        valid and math.isfinite(value) and value > 0,
        f"{name}={value!r}: pass a number of seconds above 0",
    )
    return float(value)


def _size(name: str, value: Any, *, least: int) -> int:
    try:
        size = parse_size(value) if isinstance(value, str) else value
    except ValueError as exc:
        raise ConfigurationError(f"{name}={value!r}: {exc}") from None
    require(
        isinstance(size, int) and not isinstance(size, bool) and size >= least,
        f"{name}={value!r}: pass a whole number, {least} or more",
    )
    return cast(int, size)


def _checked_vary(vary: Any) -> dict[str, Callable[[str], str] | None]:
    require(not isinstance(vary, str), f"vary={vary!r}: pass a tuple of names, vary=({vary!r},)")
    named = dict(vary) if isinstance(vary, Mapping) else dict.fromkeys(vary)
    for name, normalise in named.items():
        require(
            isinstance(name, str) and _HEADER_NAME.fullmatch(name),
            f"vary={name!r} is no name of a header",
        )
        if normalise is not None:
            require_function(f"vary[{name!r}]", normalise)
    return named


def _checked_methods(methods: Any) -> frozenset[str]:
    require(not isinstance(methods, str), f'methods={methods!r}: pass a tuple, ("GET", "POST")')
    names = frozenset(methods)
    require(
        names and all(isinstance(name, str) for name in names),
        f'methods={methods!r}: pass names of methods, ("GET", "POST")',
    )
    return frozenset(name.upper() for name in names)


def _checked_statuses(statuses: Any) -> frozenset[int]:
    codes = frozenset(statuses)
    require(
        codes and all(isinstance(code, int) and 200 <= code <= 599 for code in codes),
        f"statuses={statuses!r}: pass final status codes, such as (200, 404)",
    )
    require(
        codes.isdisjoint(NEVER_STORED),
        "statuses= has 206 or 304, which are parts of another response and can't be stored",
    )
    return codes
