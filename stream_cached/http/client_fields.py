"""What clients are sent of the fields that are for caches."""

from __future__ import annotations

from collections.abc import Sequence

from stream_cached.http.directives import directives_of
from stream_cached.http.headers import header_values, without
from stream_cached.http.targeted import without_targeted

Headers = Sequence[tuple[bytes, bytes]]

#: Fields that say the same in another way, or count with the time that the endpoint has given. A
#: client takes the time since Date for a part of the age (RFC 9111, section 4.2.3); without it, the
#: time counts from the receipt.
_OF_FRESHNESS = (b"age", b"cache-control", b"date", b"expires", b"pragma")


def for_client(
    headers: Headers, targets: Sequence[str], cache_control: bytes | None, *, is_stored: bool
) -> Headers:
    """
    Return the headers of an answer as its client is sent them.

    Args:
        headers: The headers of the answer.
        targets: The fields that are for this cache alone (RFC 9213).
        cache_control: What clients are told instead of what the endpoint says.
        is_stored: Whether the answer is stored, or comes from the store.
    """
    if targets:
        headers = without_targeted(headers, targets)
    if cache_control is None or not is_stored or header_values(headers, b"set-cookie"):
        return headers
    if directives_of(headers, b"cache-control").forbids("private", "no-store"):
        return headers
    return [*without(headers, _OF_FRESHNESS), (b"cache-control", cache_control)]
