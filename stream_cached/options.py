"""The options of the decorator: each with its type, its default and its check, declared once."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from stream_cached.bodies.watched import WatchedBodies
from stream_cached.checks import require, require_bool, require_names, require_seconds_or_0
from stream_cached.compression import Compression, check_compress
from stream_cached.endpoint.infrastructure import NotInKey
from stream_cached.endpoint.tags import Tags, check_tags
from stream_cached.endpoint.validator import Validates
from stream_cached.entries.lifetimes import KEPT_FOR_VALIDATOR
from stream_cached.event_hook import EventHook
from stream_cached.http.freshness import Windows
from stream_cached.http.policy import DEFAULT_STATUSES
from stream_cached.limits import Limits, require_limits
from stream_cached.option_checks import (
    NOT_GIVEN,
    check_bodies,
    check_client_cache_control,
    check_complete_when,
    check_etag,
    check_heuristic,
    check_honor_request,
    check_key_args,
    check_key_context,
    check_methods,
    check_on_complete,
    check_on_event,
    check_query_ignore,
    check_refresh,
    check_resume,
    check_secret,
    check_statuses,
    check_targets,
    check_timeout,
    check_unguarded,
    check_validator,
    check_vary,
    one_of,
)
from stream_cached.request.context import KeyContext

#: The values of `authorized`: what happens to a request with Authorization.
Authorized = Literal["bypass", "vary", "keyed", "share"]

#: The values of `on_disconnect`: what happens to a run whose last reader leaves.
OnDisconnect = Literal["finish", "stop"]

#: The values of `values`: how what an endpoint returns is stored, if it is no response.
Values = Literal["response", "aiocache"]

#: The values of `query`: what of it is part of the key.
QueryKey = Literal["all", "declared"]

#: The values of `resume`: what may go on in the middle of a body.
Resume = bool | Literal["event-id"]

#: The values of `etag`: which ETag the library gives a response that has none.
ETag = Literal[True, False, "weak"]

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

#: The default of `key_args`.
NO_KEY_ARGS: KeyArgs = MappingProxyType({})


def _option(default: Any, check: Callable[[str, Any], Any], *, repr: bool = True) -> Any:
    """Return a field. Its check takes name and value, and returns the value in its final type."""
    return field(default_factory=lambda: default, metadata={"check": check}, repr=repr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the decorator was told. `stream_cached` documents the options."""

    vary: Vary = _option((), check_vary)
    methods: frozenset[str] = _option(("GET",), check_methods)
    statuses: frozenset[int] = _option(DEFAULT_STATUSES, check_statuses)
    limits: Limits = _option(Limits(), require_limits)
    on_disconnect: OnDisconnect = _option("finish", one_of(OnDisconnect, '"finish" or "stop"'))
    stale_while_revalidate: float = _option(0.0, require_seconds_or_0)
    stale_if_error: float = _option(0.0, require_seconds_or_0)
    complete_when: CompleteWhen | None = _option(None, check_complete_when)
    timeout: float | None = _option(NOT_GIVEN, check_timeout)
    secret: tuple[bytes, ...] | None = _option(None, check_secret, repr=False)
    replay: ReplayMode = _option("fast", one_of(ReplayMode, '"fast" or "exact"'))
    resume: Resume = _option(False, check_resume)
    values: Values = _option("response", one_of(Values, '"response" or "aiocache"'))
    authorized: Authorized = _option(
        "bypass", one_of(Authorized, f"one of {', '.join(map(repr, get_args(Authorized)))}")
    )
    key_host: bool = _option(True, require_bool)
    request_key: bool = _option(True, require_bool)
    key_args: KeyArgs = _option(NO_KEY_ARGS, check_key_args)
    key_ignore: frozenset[str] = _option((), require_names)
    query: QueryKey = _option("all", one_of(QueryKey, '"all" or "declared"'))
    query_ignore: tuple[str, ...] = _option((), check_query_ignore)
    key_context: KeyContext | None = _option(None, check_key_context)
    tags: Tags = _option((), check_tags)
    invalidate_by: frozenset[str] = _option((), require_names)
    refresh: Callable[[Any], bool] | None = _option(None, check_refresh)
    honor_request: bool | Callable[[Any], bool] = _option(False, check_honor_request)
    heuristic: float = _option(0.0, check_heuristic)
    targets: tuple[str, ...] = _option((), check_targets)
    client_cache_control: bytes | None = _option(None, check_client_cache_control)
    etag: ETag = _option(True, check_etag)
    validator: Validates | None = _option(None, check_validator)
    unguarded: frozenset[str] = _option((), check_unguarded)
    on_complete: Callable[[Any], object] | None = _option(None, check_on_complete)
    bodies: WatchedBodies | None = _option(None, check_bodies)
    compress: Compression | None = _option(None, check_compress)
    on_event: EventHook | None = _option(None, check_on_event)

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
    def windows(self) -> Windows:
        """For how long past its ttl an entry is served."""
        return Windows(self.stale_while_revalidate, self.stale_if_error, self.stale_if_error)

    @property
    def stale(self) -> float:
        """Seconds past its ttl for which an entry may be served."""
        return self.windows.longest

    @property
    def kept(self) -> float:
        """Seconds that an entry is kept past its ttl."""
        return max(self.stale, self.kept_for_validator)

    @property
    def kept_for_validator(self) -> float:
        return 0.0 if self.validator is None else KEPT_FOR_VALIDATOR

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
            "query": self.query != "all",
            "honor_request": self.honor_request is not False,
            "query_ignore": self.query_ignore,
            "unguarded": self.unguarded,
        }
        for name, is_given in given.items():
            require(
                not is_given,
                f"{name}= is about the request, which request_key=False leaves out of account: "
                "pass one of the two",
            )


@functools.lru_cache(maxsize=100)
def _pattern_of(names: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(fnmatch.translate, names))) if names else None


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
