"""What a decorator refuses of its function when it is declared, and what it warns of."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from stream_cached.checks import require
from stream_cached.endpoint.function import Endpoint
from stream_cached.events import Reporter
from stream_cached.options import MIN_SECRET, Options, check_arguments
from stream_cached.request.guard import TRACES

if TYPE_CHECKING:
    from stream_cached.decorated.base import Decorator

#: The switches of a single call, as in aiocache's decorators.
SWITCHES = frozenset({"cache_read", "cache_write", "aiocache_wait_for_write"})


def check(endpoint: Endpoint, decorator: Decorator) -> None:
    """Raise `ConfigurationError` if a function does not go with its decorator."""
    taken = SWITCHES & endpoint.parameters
    require(
        not taken,
        f"{endpoint.name} has a parameter {', '.join(taken)}, which switches the cache of a "
        "single call: give it another name",
    )
    check_arguments(decorator.options, endpoint.declared.parameters, endpoint.name)
    require(
        decorator.options.resume != "event-id" or not _takes_event_id(endpoint, decorator),
        f"{endpoint.name} has Last-Event-ID in its key, which is answered without the endpoint "
        'where resume="event-id": leave the header out of vary= and of its parameters',
    )
    require(
        decorator.options.request_key
        or decorator.key
        or decorator.key_builder
        or not endpoint.declares_request,
        f"{endpoint.name} takes a request, of which nothing would be part of the key: leave "
        "request_key=False out",
    )


def _takes_event_id(endpoint: Endpoint, decorator: Decorator) -> bool:
    named = [*decorator.options.vary, *chain.from_iterable(endpoint.headers.values())]
    return "last-event-id" in map(str.lower, named)


def warn(options: Options, verbatim: frozenset[str], reporter: Reporter) -> None:
    """Warn of secrets that are short, and of headers in the key that are never the same."""
    if any(len(secret) < MIN_SECRET for secret in options.secrets):
        reporter.warn(
            f"secret= has one of fewer than {MIN_SECRET} bytes, which can be guessed: pass 32 "
            "random bytes"
        )
    for header in sorted(TRACES & {name.lower() for name in verbatim}):
        reporter.warn(
            f"{header} is another one for each request, and part of the key, so that there "
            "will be no hits: take its parameter out of the key by key_ignore= or NotInKey"
        )
