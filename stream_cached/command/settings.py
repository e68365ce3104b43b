"""What doctor says of stores and options, as far as that is right for each application."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aiocache.base import SENTINEL

from stream_cached.backends.binding import Binding
from stream_cached.command.said import Said
from stream_cached.errors import ConfigurationError
from stream_cached.options import Options
from stream_cached.stores.clients import address_of
from stream_cached.stores.memory import MemoryCache

if TYPE_CHECKING:
    from stream_cached.decorated.base import Decorator

#: The variable by which servers are told how many workers to start.
WORKERS = "WEB_CONCURRENCY"


class Cache(Protocol):
    """The cache of a decorated function."""

    def binding(self) -> Binding: ...
    def ttl(self) -> float | None: ...
    @property
    def by_response(self) -> bool: ...


@dataclass(frozen=True)
class Store:
    """Where the entries of a function are."""

    address: str
    """Its URL, without credentials."""
    is_in_process: bool
    namespace: str
    bodies: str
    max_bytes: int | None
    max_body: int
    binding: Binding
    options: Options
    fallback: object


def store_of(hooks: Cache, decorator: Decorator) -> Store | None:
    """
    Return the store of a function; None if it is set up when the application starts.

    Raises:
        ConfigurationError: Its URL is not one of a store.
    """
    try:
        binding = hooks.binding()
    except ConfigurationError:
        if decorator.alias is None:
            raise
        return None
    # cashews has an error of its own for a cache that was not set up.
    except Exception:
        return None
    options = decorator.options
    cache = binding.cache
    is_memory = isinstance(cache, MemoryCache)
    address = "memory://" if is_memory else address_of(cache)[0]
    return Store(
        address=address,
        is_in_process=binding.breaker is None,
        namespace=str(cache.namespace or ""),
        bodies=options.bodies.name if options.bodies is not None else "",
        max_bytes=cache.memory.max_bytes if is_memory else None,
        max_body=options.limits.max_body,
        binding=binding,
        options=options,
        fallback=decorator.fallback,
    )


def ttl_of(hooks: Cache, decorator: Decorator, store: Store | None) -> str:
    """Return for how long entries are fresh."""
    if decorator.ttl_of is not None:
        return "what a function says of each response"
    if hooks.by_response:
        return "as each response says"
    if store is None and decorator.ttl is SENTINEL:
        return "as its cache says"
    ttl = hooks.ttl()
    return "for ever" if ttl is None else f"{ttl:g} s"


def workers() -> int:
    """Return how many workers the environment asks for; 1 if it does not say."""
    given = os.environ.get(WORKERS, "")
    return int(given) if given.isdecimal() and int(given) else 1


def settings_findings(stores: Iterable[Store], workers: int) -> Iterator[Said]:
    """Yield what is wrong with the settings."""
    stores = list(stores)
    if workers > 1 and any(store.is_in_process for store in stores):
        yield Said(
            "workers",
            f"{WORKERS}={workers}, and each worker has a memory:// of its own: a request hits only "
            "in the worker that has stored the response, and invalidate() reaches one worker",
            'pass the URL of a store that they share, as in StreamCache("redis://localhost/0") or '
            "STREAM_CACHED_URL",
        )


def settings_notes(stores: Iterable[Store]) -> Iterator[Said]:
    """Yield what may be meant so, with the other way."""
    stores = list(stores)
    bounded = {(s.max_bytes, s.max_body) for s in stores if s.max_bytes and not s.bodies}
    for max_bytes, max_body in sorted(bounded):
        if max_bytes is not None and max_body > max_bytes // 4:
            yield Said(
                "max-body",
                f"max_body= is {max_body:,} bytes, but memory of {max_bytes:,} bytes holds no body "
                f"of more than a quarter of that",
                "raise max_bytes= in the URL of the memory",
            )
    if any(store.fallback is False and not store.is_in_process for store in stores):
        yield Said(
            "fallback",
            "fallback=False: while the store is away, each request runs the endpoint",
            'leave it out, or pass fallback="memory://?max_bytes=64MiB"',
        )
