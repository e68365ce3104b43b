"""The key of a call that was caused by a request. Two different calls never share a key."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from urllib.parse import unquote_plus, unquote_to_bytes

from stream_cached.keys.digest import digest
from stream_cached.keys.names import readable


def query_pairs(
    query: bytes, ignored: re.Pattern[str] | None = None, declared: Collection[str] | None = None
) -> list[tuple[bytes, bytes | None]]:
    """
    Split a query string into raw pairs, sorted by name; equal names keep their order.

    Args:
        query: The query string.
        ignored: What matches the names that are left out.
        declared: All names that are taken; None for those of the query.
    """
    pairs: list[tuple[bytes, bytes | None]] = []
    for part in query.split(b"&"):
        name, equals, value = part.partition(b"=")
        if part and _counts(name, ignored, declared):
            pairs.append((name, value if equals else None))
    if b"%" in query or b"+" in query:
        # Two spellings of one name must sort together.
        pairs.sort(key=lambda pair: unquote_to_bytes(pair[0].replace(b"+", b" ")))
    else:
        pairs.sort(key=itemgetter(0))
    return pairs


def _counts(name: bytes, ignored: re.Pattern[str] | None, declared: Collection[str] | None) -> bool:
    if ignored is None and declared is None:
        return True
    # As the application is given it.
    decoded = unquote_plus(name.decode("latin-1"))
    is_ignored = ignored is not None and ignored.fullmatch(decoded)
    return not is_ignored and (declared is None or decoded in declared)


def request_key(
    endpoint: str,
    *,
    method: str,
    scheme: str,
    host: Sequence[bytes],
    path: Sequence[bytes | str],
    query: bytes,
    body: str | None,
    arguments: Mapping[str, object],
    headers: Mapping[bytes, object],
    parameters: Sequence[tuple[str, object]] = (),
    state: Sequence[str] = (),
    ignored: re.Pattern[str] | None = None,
    declared: Collection[str] | None = None,
) -> str:
    # `method` is GET for a HEAD request, too. `path` holds the raw path, the path and the mount
    # path. `host` is empty, and `body` (a digest) is None, if not part of the key. `arguments` and
    # `parameters`, those of the path, are in canonical form; `headers` are the normalised values of
    # `vary=`. `state` has the names in the state that are not the lifespan's. `ignored` matches the
    # names in the query that count as if they were not there; `declared` are those that count, if
    # not all do.
    whole = digest(
        (
            endpoint,
            method,
            scheme,
            [value.lower() for value in host],
            path,
            parameters,
            state,
            query_pairs(query, ignored, declared) if query else (),
            body,
            sorted(arguments.items()),
            sorted(headers.items()),
        )
    )
    # Only the endpoint's name is readable: the path may contain secret values.
    return f"{readable(endpoint)}:{whole}"
