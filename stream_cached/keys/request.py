"""The key of a call that a request caused. No two different calls share a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from urllib.parse import unquote_to_bytes

from stream_cached.keys.digest import digest
from stream_cached.keys.names import readable


def query_pairs(query: bytes) -> list[tuple[bytes, bytes | None]]:
    """
    Split a query string into raw pairs, sorted by name; the values of one name keep their order.

    Names are compared as they are after percent-decoding, so that a name written in two ways does
    not hide the order of its values.
    """
    pairs: list[tuple[bytes, bytes | None]] = []
    for part in query.split(b"&"):
        name, equals, value = part.partition(b"=")
        if part:
            pairs.append((name, value if equals else None))
    if b"%" in query or b"+" in query:
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
) -> str:
    """
    Build the key of a call that a request caused.

    Args:
        endpoint: Module and qualified name of the function.
        method: GET also for a HEAD request.
        scheme: As in the request's URL.
        host: The values of the Host header; none where the host is no part of the key.
        path: The raw path, the path, and the one that the application is mounted at.
        query: The raw query string.
        body: The digest of the request's body, where it is part of the key.
        arguments: What the endpoint was called with, in canonical form, by name.
        headers: The headers of `vary`, normalised, by name.
    """
    whole = digest(
        (
            endpoint,
            method,
            scheme,
            [value.lower() for value in host],
            path,
            query_pairs(query) if query else (),
            body,
            sorted(arguments.items()),
            sorted(headers.items()),
        )
    )
    # The path may hold the values of arguments.
    return f"{readable(endpoint)}:{whole}"
