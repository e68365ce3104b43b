"""The options of the decorator: each with its type, its default and its check, declared once."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal, get_args

from stream_cached.checks import (
    is_0,
    is_items,
    require,
    require_bool,
    require_function,
    require_items,
    require_names,
    require_seconds,
    require_seconds_or_0,
)
from stream_cached.endpoint.infrastructure import NotInKey
from stream_cached.endpoint.tags import Tags, check_tags
from stream_cached.http.policy import DEFAULT_STATUSES, NEVER_STORED
from stream_cached.limits import Limits, require_limits
from stream_cached.request.context import KeyContext
from stream_cached.request.guard import KINDS, READABLE, read_name

#: A header name (RFC 9110, section 5.6.2), but for the asterisk, which has a meaning in Vary.
_HEADER_NAME = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]+")

#: The values of `authorized`: what happens to a request with Authorization.
Authorized = Literal["bypass", "vary", "keyed", "share"]

#: The values of `on_disconnect`: what happens to a run whose last reader leaves.
OnDisconnect = Literal["finish", "stop"]

#: The values of `values`: how what an endpoint returns is stored, if it is no response.
Values = Literal["response", "aiocache"]

#: The values of `replay`: how a hit is sent.
ReplayMode = Literal["fast", "exact"]

#: Functions by the name of a header; None leaves the value as it is.
Vary = Mapping[str, Callable[[str], str] | None]

#: Functions by the name of an argument.
KeyArgs = Mapping[str, Callable[[Any], Any]]

#: Says whether a stream is complete, by its last items, or by the last bytes of its body.
CompleteWhen = Callable[[Any], bool]

#: Bytes of a secret that can't be guessed.
MIN_SECRET = 16


class _NotGiven(Enum):
    NOT_GIVEN = "not given"


#: The `timeout` that leaves the time-out to the cache.
NOT_GIVEN: Any = _NotGiven.NOT_GIVEN

#: The default of `key_args`.
NO_KEY_ARGS: KeyArgs = MappingProxyType({})

# -- the checks of single options -----------------------------------------------------------------


def _check_vary(name: str, vary: Any) -> Vary:
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


def _check_methods(name: str, methods: Any) -> frozenset[str]:
    require(
        is_items(methods) and methods and all(isinstance(each, str) for each in methods),
        f'methods={methods!r}: pass a tuple of names, ("GET", "POST")',
    )
    return frozenset(each.upper() for each in methods)


def _check_statuses(name: str, statuses: Any) -> frozenset[int]:
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


def _one_of(literal: Any, hint: str) -> Callable[[str, Any], Any]:
    """Return the check of an option that is a `Literal`."""

    def check(name: str, value: Any) -> Any:
        require(value in get_args(literal), f"{name}={value!r}: pass {hint}")
        return value

    return check


def _check_timeout(name: str, value: Any) -> Any:
    """Return seconds. As in aiocache, None and 0 set no bound."""
    if value is NOT_GIVEN or value is None or is_0(value):
        return value
    return require_seconds(name, value)


def _check_complete_when(name: str, value: Any) -> Any:
    if value is not None:
        require_function(name, value)
    return value


def _check_secret(name: str, secret: Any) -> tuple[bytes, ...] | None:
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


def _check_key_args(name: str, key_args: Any) -> KeyArgs:
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


def _check_query_ignore(name: str, names: Any) -> tuple[str, ...]:
    listed = require_items(name, names, "utm_*")
    require(
        all(isinstance(each, str) and each for each in listed),
        f'{name}={names!r}: pass names in the query, such as ("utm_*", "fbclid")',
    )
    return tuple(listed)


@functools.lru_cache(maxsize=100)
def _pattern_of(names: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(fnmatch.translate, names))) if names else None


def _check_key_context(name: str, listed: Any) -> tuple[Any, ...] | None:
    if listed is None:
        return None
    require(
        is_items(listed) and all(isinstance(each, ContextVar) or callable(each) for each in listed),
        f"key_context={listed!r}: pass a tuple of context variables, or of functions without "
        "arguments",
    )
    return tuple(listed)


def _check_refresh(name: str, function: Any) -> Any:
    if function is not None:
        require_function(name, function)
        require(_takes_one(function), f"{name}={function!r}: pass a function of the request")
    return function


def _check_unguarded(name: str, unguarded: Any) -> frozenset[str]:
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


# -- the options ----------------------------------------------------------------------------------


def _option(default: Any, check: Callable[[str, Any], Any], *, repr: bool = True) -> Any:
    """Return a field. Its check takes name and value, and returns the value in its final type."""
    return field(default_factory=lambda: default, metadata={"check": check}, repr=repr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the decorator was told. `stream_cached` documents the options."""

    vary: Vary = _option((), _check_vary)
    methods: frozenset[str] = _option(("GET",), _check_methods)
    statuses: frozenset[int] = _option(DEFAULT_STATUSES, _check_statuses)
    limits: Limits = _option(Limits(), require_limits)
    on_disconnect: OnDisconnect = _option("finish", _one_of(OnDisconnect, '"finish" or "stop"'))
    stale_while_revalidate: float = _option(0.0, require_seconds_or_0)
    stale_if_error: float = _option(0.0, require_seconds_or_0)
    complete_when: CompleteWhen | None = _option(None, _check_complete_when)
    timeout: float | None = _option(NOT_GIVEN, _check_timeout)
    secret: tuple[bytes, ...] | None = _option(None, _check_secret, repr=False)
    replay: ReplayMode = _option("fast", _one_of(ReplayMode, '"fast" or "exact"'))
    resume: bool = _option(False, require_bool)
    values: Values = _option("response", _one_of(Values, '"response" or "aiocache"'))
    authorized: Authorized = _option(
        "bypass", _one_of(Authorized, f"one of {', '.join(map(repr, get_args(Authorized)))}")
    )
    key_host: bool = _option(True, require_bool)
    request_key: bool = _option(True, require_bool)
    key_args: KeyArgs = _option(NO_KEY_ARGS, _check_key_args)
    key_ignore: frozenset[str] = _option((), require_names)
    query_ignore: tuple[str, ...] = _option((), _check_query_ignore)
    key_context: KeyContext | None = _option(None, _check_key_context)
    tags: Tags = _option((), check_tags)
    invalidate_by: frozenset[str] = _option((), require_names)
    refresh: Callable[[Any], bool] | None = _option(None, _check_refresh)
    unguarded: frozenset[str] = _option((), _check_unguarded)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = each.metadata["check"](each.name, getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        if not self.request_key:
            self._check_without_request()
        if self.authorized == "vary" and "authorization" not in map(str.lower, self.vary):
            object.__setattr__(self, "vary", {**self.vary, "Authorization": None})

    @classmethod
    def among(cls, values: Mapping[str, Any]) -> Options:
        """Return the options that stand among other values by name, such as `locals()`."""
        return cls(**{each.name: values[each.name] for each in fields(cls)})

    @property
    def exact(self) -> bool:
        """Whether a hit sends each chunk as the endpoint yielded it."""
        return self.replay == "exact"

    @property
    def ignored_query(self) -> re.Pattern[str] | None:
        """What matches the names of `query_ignore`; None if there are none."""
        return _pattern_of(self.query_ignore)

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return self.secret or ()

    @property
    def stale(self) -> float:
        """Seconds that an entry is kept past its ttl."""
        return max(self.stale_while_revalidate, self.stale_if_error)

    @property
    def effective_finish_timeout(self) -> float:
        """Seconds that a run without readers may go on; 0 where it stops at once."""
        return self.limits.finish_timeout if self.on_disconnect == "finish" else 0.0

    def finish_timeout_of(self, *, held: bool) -> float:
        """Return the same for a run; `held` if it needs something that ends with its request."""
        finish = self.effective_finish_timeout
        return min(finish, self.limits.held_finish_timeout) if held else finish

    @property
    def longest_run(self) -> float:
        """Seconds that a run may take, with and without readers."""
        return self.limits.max_duration + self.effective_finish_timeout

    def _check_without_request(self) -> None:
        given = {
            "vary": self.vary,
            "authorized": self.authorized != "bypass",
            "key_host": not self.key_host,
            "key_context": self.key_context is not None,
            "refresh": self.refresh is not None,
            "query_ignore": self.query_ignore,
            "unguarded": self.unguarded,
        }
        for name, is_given in given.items():
            require(
                not is_given,
                f"{name}= is about the request, which request_key=False leaves out of account: "
                "pass one of the two",
            )


def check_arguments(
    options: Options, parameters: Mapping[str, inspect.Parameter], name: str
) -> None:
    for parameter in parameters.values():
        require(
            parameter.default is not NotInKey,
            f"{name} has NotInKey as the default of {parameter.name}: declare "
            f"{parameter.name}: Annotated[..., NotInKey]",
        )
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    key_args, key_ignore = options.key_args.keys(), options.key_ignore
    for option, names in (("key_args", key_args), ("key_ignore", key_ignore)):
        unknown = sorted(names - parameters.keys())
        require(
            not unknown,
            f"{option}= names {', '.join(unknown)}, but {name} takes {', '.join(parameters)}",
        )
    both = sorted(key_args & key_ignore)
    require(not both, f"{', '.join(both)} stands in key_args= and in key_ignore=: pass one of them")
