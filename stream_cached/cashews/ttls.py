"""The ttls of cashews: seconds, timedeltas, texts, functions."""

from __future__ import annotations

import inspect
from typing import Any

from cashews._typing import TTL
from cashews.ttl import ttl_to_seconds

from stream_cached.checks import require_ttl
from stream_cached.errors import ConfigurationError


def takes_result(ttl: Any) -> bool:
    """Whether a function for the ttl accepts `result=`."""
    parameters = inspect.signature(ttl).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    return "result" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def ttl_in_seconds(ttl: TTL) -> float | None:
    """Return a ttl of cashews in seconds; None for ever."""
    try:
        seconds = ttl_to_seconds(ttl)
    except ValueError as exc:
        raise ConfigurationError(
            f'ttl={ttl!r}: pass seconds, a timedelta, or a text such as "1h30m"'
        ) from exc
    return require_ttl(seconds)
