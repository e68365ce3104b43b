"""The key of a call that was caused by a request. Two different calls never share a key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import itemgetter
from urllib.parse import unquote_plus, unquote_to_bytes

from stream_cached.keys.digest import digest
from stream_cached.keys.names import readable


def query_pairs(
    query: bytes, ignored: re.Pattern[str] | None = None
) -> list[tuple[bytes, bytes | None]]:
    """Split a query string into raw pairs, sorted by name; equal names keep their order."""
    pairs: list[tuple[bytes, bytes | None]] = []
    for part in query.split(b"&"):
        name, equals, value = part.partition(b"=")
        if part and not (ignored and ignored.fullmatch(_decoded(name))):
            pairs.append((name, value if equals else None))
    if b"%" in query or b"+" in query:
        # Two spellings of one name must sort together.
        pairs.sort(key=lambda pair: unquote_to_bytes(pair[0].replace(b"+", b" ")))
    else:
        pairs.sort(key=itemgetter(0))
    return pairs


def _decoded(name: bytes) -> str:
    return unquote_plus(name.decode("latin-1"))


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
) -> str:
    # `method` is GET for a HEAD request, too. `path` holds the raw path, the path and the mount
    # path. `host` is empty, and `body` (a digest) is None, if not part of the key. `arguments` and
    # `parameters`, those of the path, are in canonical form; `headers` are the normalised values of
    # `vary=`. `state` has the names in the state that are not the lifespan's. `ignored` matches the
    # names in the query that count as if they were not there.
    whole = digest(
        (
            endpoint,
            method,
            scheme,
            [value.lower() for value in host],
            path,
            parameters,
            state,
            query_pairs(query, ignored) if query else (),
            body,
            sorted(arguments.items()),
            sorted(headers.items()),
        )
    )
    # Only the endpoint's name is readable: the path may contain secret values.
    return f"{readable(endpoint)}:{whole}"
