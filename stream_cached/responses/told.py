"""What a user's code says of a response, and asks of it."""

from __future__ import annotations

import time
from typing import Any

from stream_cached.http.freshness import lifetime_of
from stream_cached.http.policy import why_not_shared
from stream_cached.http.reasons import NotCached

#: The attribute of a response that is kept out of the cache.
_KEPT_OUT = "_stream_cached_kept_out"


def bypass(response: Any) -> None:
    """
    Keep one response out of the cache. Nothing that its clients are told changes.

    Args:
        response: The response that the endpoint returns, or the `Response` that FastAPI gives it
            for headers.
    """
    setattr(response, _KEPT_OUT, True)


def is_kept_out(response: Any) -> bool:
    return getattr(response, _KEPT_OUT, False) is True


def freshness(response: Any, heuristic: float = 0.0) -> float:
    """
    Return the seconds for which a response is fresh by its own words (RFC 9111, section 4.2).

    For a ttl that is a function of the response: `ttl=lambda response: freshness(response) / 2`.

    Args:
        response: The response of an endpoint.
        heuristic: The part of the time since Last-Modified, such as 0.1, for which it is fresh if
            it does not say so itself.

    Returns:
        The seconds from now on; 0 if it is not fresh, or may not be stored.
    """
    headers = getattr(response, "raw_headers", ())
    status, now = getattr(response, "status_code", 200), time.time()
    if why_not_shared(headers, status=status) is not None:
        return 0.0
    found = lifetime_of(status, headers, asked_at=now, received=now, heuristic=heuristic)
    return 0.0 if isinstance(found, NotCached) else max(0.0, found.fresh_until - now)
