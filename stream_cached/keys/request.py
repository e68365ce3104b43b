"""The key of a call that was caused by a request. Two different calls never share a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from urllib.parse import unquote_to_bytes

from stream_cached.keys.digest import digest
from stream_cached.keys.names import readable


def query_pairs(query: bytes) -> list[tuple[bytes, bytes | None]]:
    """Split a query string into raw pairs, sorted by name; equal names keep their order."""
    pairs: list[tuple[bytes, bytes | None]] = []
    for part in query.split(b"&"):
        name, equals, value = part.partition(b"=")
        if part:
            pairs.append((name, value if equals else None))
    if b"%" in query or b"+" in query:
        # Two spellings of one name must sort together.
        pairs.sort(key=lambda pair: unquote_to_bytes(pair[0].replace(b"+", b" ")))
    else:
        pairs.sort(key=itemgetter(0))
    return pairs


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
) -> str:
    # `method` is GET for a HEAD request, too. `path` holds the raw path, the path and the mount
    # path. `host` is empty, and `body` (a digest) is None, if not part of the key. `arguments` and
    # `parameters`, those of the path, are in canonical form; `headers` are the normalised values of
    # `vary=`. `state` has the names in the state that are not the lifespan's.
    whole = digest(
        (
            endpoint,
            method,
            scheme,
            [value.lower() for value in host],
            path,
            parameters,
            state,
            query_pairs(query) if query else (),
            body,
            sorted(arguments.items()),
            sorted(headers.items()),
        )
    )
    # Only the endpoint's name is readable: the path may contain secret values.
    return f"{readable(endpoint)}:{whole}"
