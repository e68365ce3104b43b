"""What the decorator was told, checked at the earliest moment: at decoration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from aiocache.base import SENTINEL

from stream_cached.checks import (
    is_0,
    require,
    require_bool,
    require_function,
    require_names,
    require_seconds,
    require_seconds_or_0,
    require_size,
)
from stream_cached.endpoint.infrastructure import NotInKey
from stream_cached.entries.recorder import VALUE_SIZE
from stream_cached.http.policy import NEVER_STORED
from stream_cached.request.guard import KINDS, READABLE, read_name

#: A token of RFC 9110, section 5.6.2, but for the asterisk, which means something else in Vary.
_HEADER_NAME = re.compile(r"[!#$%&'+.^_`|~0-9A-Za-z-]+")

#: What becomes of a request with Authorization.
Authorized = Literal["bypass", "vary", "keyed", "share"]

#: Variants of one resource: all of them stand in one record.
MAX_VARIANTS = 10_000

#: Bytes of a secret that nobody guesses.
MIN_SECRET = 16

#: What becomes of a run whose last reader leaves.
OnDisconnect = Literal["finish", "stop"]


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
    wait_timeout: float
    spool_max: int
    stale_while_revalidate: float
    stale_if_error: float
    timeout: float | None
    retry_interval: float
    secrets: tuple[bytes, ...]
    exact: bool
    resume: bool
    authorized: Authorized
    key_host: bool
    request_key: bool
    key_args: Mapping[str, Callable[[Any], Any]]
    key_ignore: frozenset[str]
    unguarded: frozenset[str]

    @property
    def stale(self) -> float:
        """Seconds that an entry is kept once its ttl is over."""
        return max(self.stale_while_revalidate, self.stale_if_error)


def make_rules(
    *,
    vary: Collection[str] | Mapping[str, Callable[[str], str] | None],
    methods: Collection[str],
    statuses: Collection[int],
    max_body: int | str,
    max_duration: float,
    max_pending: int | str,
    max_ahead: int | str,
    max_variants: int,
    inline_max: int | str,
    on_disconnect: OnDisconnect,
    finish_timeout: float,
    wait_timeout: float,
    spool_max: int | str,
    stale_while_revalidate: float,
    stale_if_error: float,
    timeout: float | None,
    retry_interval: float,
    secret: str | bytes | Collection[str | bytes] | None,
    replay: Literal["fast", "exact"],
    resume: bool,
    authorized: Authorized,
    key_host: bool,
    request_key: bool,
    key_args: Mapping[str, Callable[[Any], Any]],
    key_ignore: Collection[str],
    unguarded: Collection[str],
) -> Rules:
    """
    Check what the decorator was told.

    Raises:
        ConfigurationError: Something in it can't work; the message says what to write.
    """
    require(replay in ("fast", "exact"), f'replay={replay!r}: pass "fast" or "exact"')
    require_bool("resume", resume)
    ways = get_args(OnDisconnect)
    require(on_disconnect in ways, f'on_disconnect={on_disconnect!r}: pass "finish" or "stop"')
    seconds = require_seconds("finish_timeout", finish_timeout)
    named = _checked_vary(vary)
    _check_users(authorized, key_host, request_key)
    if not request_key:
        _check_without_request(bool(named), authorized, key_host, bool(unguarded))
    if authorized == "vary" and "authorization" not in map(str.lower, named):
        named["Authorization"] = None
    return Rules(
        vary=named,
        methods=_checked_methods(methods),
        statuses=_checked_statuses(statuses),
        max_body=require_size("max_body", max_body, least=1),
        max_duration=require_seconds("max_duration", max_duration),
        max_pending=require_size("max_pending", max_pending, least=VALUE_SIZE),
        max_ahead=require_size("max_ahead", max_ahead, least=1),
        max_variants=_checked_variants(max_variants),
        inline_max=min(VALUE_SIZE, require_size("inline_max", inline_max, least=0)),
        finish_timeout=seconds if on_disconnect == "finish" else 0.0,
        wait_timeout=require_seconds("wait_timeout", wait_timeout),
        spool_max=require_size("spool_max", spool_max, least=1),
        stale_while_revalidate=require_seconds_or_0(
            "stale_while_revalidate", stale_while_revalidate
        ),
        stale_if_error=require_seconds_or_0("stale_if_error", stale_if_error),
        timeout=_timeout(timeout),
        retry_interval=require_seconds("retry_interval", retry_interval),
        secrets=_checked_secrets(secret),
        exact=replay == "exact",
        resume=resume,
        authorized=authorized,
        key_host=key_host,
        request_key=request_key,
        key_args=_checked_key_args(key_args),
        key_ignore=require_names("key_ignore", key_ignore),
        unguarded=frozenset(map(read_name, _checked_reads(unguarded))),
    )


def _timeout(value: Any) -> Any:
    """Return a time-out that is one; as in aiocache, None and 0 are no bound."""
    if value is SENTINEL or value is None or is_0(value):
        return value
    return require_seconds("timeout", value)


def _checked_secrets(secret: Any) -> tuple[bytes, ...]:
    """Return the secrets as bytes; no message shows one."""
    if secret is None:
        return ()
    several = isinstance(secret, Collection) and not isinstance(secret, str | bytes)
    secrets = tuple(secret) if several else (secret,)
    require(
        secrets and all(isinstance(each, str | bytes) and each for each in secrets),
        "secret= has to be a str or bytes, or several of them, and none of them empty: pass 32 "
        "random bytes, the same to every process",
    )
    return tuple(each.encode() if isinstance(each, str) else each for each in secrets)


def _checked_variants(max_variants: Any) -> int:
    number = require_size("max_variants", max_variants, least=1)
    require(
        number <= MAX_VARIANTS,
        f"max_variants={number}: pass {MAX_VARIANTS:,} at the most, or a function in vary= that "
        "makes few values of many",
    )
    return number


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


def _check_users(authorized: object, key_host: object, request_key: object) -> None:
    choices = get_args(Authorized)
    require(
        authorized in choices,
        f"authorized={authorized!r}: pass one of {', '.join(map(repr, choices))}",
    )
    for name, value in (("key_host", key_host), ("request_key", request_key)):
        require_bool(name, value)


def _check_without_request(vary: bool, authorized: str, key_host: bool, unguarded: bool) -> None:
    given = {
        "vary": vary,
        "authorized": authorized != "bypass",
        "key_host": not key_host,
        "unguarded": unguarded,
    }
    for name, is_given in given.items():
        require(
            not is_given,
            f"{name}= is about the request, which request_key=False leaves out of account: pass "
            "one of the two",
        )


def _checked_key_args(key_args: Any) -> Mapping[str, Callable[[Any], Any]]:
    require(
        isinstance(key_args, Mapping),
        f'key_args={key_args!r}: pass functions by name, {{"user": lambda user: user.id}}',
    )
    for name, function in key_args.items():
        require_function(f"key_args[{name!r}]", function)
        require(
            _takes_one(function),
            f"key_args[{name!r}]={function!r}: pass a function of one argument",
        )
    return dict(key_args)


def _takes_one(function: Callable[[Any], Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        pass  # It does not say.
    return True


def _checked_reads(unguarded: Any) -> frozenset[str]:
    names = require_names("unguarded", unguarded)
    for name in names:
        kind, dot, rest = name.partition(".")
        is_item = dot and (kind in KINDS or kind == "header")
        # Not as it is written in code: request.state.user is "state.user".
        one = kind == "scope" or "." not in rest
        valid = one if is_item else _HEADER_NAME.fullmatch(name) and not dot
        require(
            valid and (rest if is_item else name not in KINDS[:2]),
            f"unguarded={name!r}: pass the name of a header, or one of {', '.join(READABLE)}, "
            '"state.NAME", "scope.NAME" or "request.NAME"',
        )
    return names


def check_arguments(rules: Rules, parameters: Mapping[str, inspect.Parameter], name: str) -> None:
    """
    See that the arguments that are named are those of the function.

    Raises:
        ConfigurationError: One is not.
    """
    for parameter in parameters.values():
        require(
            parameter.default is not NotInKey,
            f"{name} has NotInKey as the default of {parameter.name}: declare "
            f"{parameter.name}: Annotated[..., NotInKey]",
        )
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for setting, names in (("key_args", rules.key_args.keys()), ("key_ignore", rules.key_ignore)):
        unknown = sorted(names - parameters.keys())
        require(
            not unknown,
            f"{setting}= names {', '.join(unknown)}, but {name} takes {', '.join(parameters)}",
        )
    both = sorted(rules.key_args.keys() & rules.key_ignore)
    require(not both, f"{', '.join(both)} stands in key_args= and in key_ignore=: pass one of them")


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
