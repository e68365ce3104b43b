"""What a request with preconditions, or for a range, is sent of a complete response (RFC 9110)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stream_cached.http.dates import date_of
from stream_cached.http.headers import header_values, list_members
from stream_cached.http.qvalues import accepts_coding, is_left_alone
from stream_cached.http.ranges import Part, Unsatisfiable, range_of

Headers = Sequence[tuple[bytes, bytes]]

#: Fields that may let a request be sent less than the whole body.
CONDITIONS = frozenset(
    {
        b"range",
        b"if-range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
    }
)

#: A member of a list of entity tags: what stands between two commas that are in no quotes. Nothing
#: is looked at twice, however long a line is.
_MEMBER = re.compile(rb'(?:[^",]|"[^"]*"?)+')

#: An entity tag (section 8.8.3). A tag without quotes is invalid, but is compared as it is.
_TAG = re.compile(rb'(?:[Ww]/)?"[^"]*"|[^ \t,"]+')

#: The fields of a 304 (section 15.4.5), with those of caches and of this request.
_OF_NOT_MODIFIED = frozenset(
    {
        b"age",
        b"cache-control",
        b"cache-status",
        b"content-location",
        b"date",
        b"etag",
        b"expires",
        b"set-cookie",
        b"vary",
    }
)


@dataclass(frozen=True, slots=True)
class NotModified:
    """304: the client has the response already."""


@dataclass(frozen=True, slots=True)
class Failed:
    """412: a precondition of the request does not hold."""


Answer = NotModified | Failed | Part | Unsatisfiable | None


def evaluate(
    method: str, request: Headers, status: int, response: Headers, length: int, stored_at: float
) -> Answer:
    """
    Return what a request is sent instead of the whole response; None for the whole response.

    Args:
        method: The method of the request.
        request: The headers of the request.
        status: The status of the complete response.
        response: Its headers, with the ETag that this request is sent.
        length: The bytes of its body.
        stored_at: When it was received.
    """
    # Preconditions are for responses that would be successful (section 13.2.1).
    if not 200 <= status < 300:
        return None
    if (answer := _precondition(method, request, response, stored_at)) is not None:
        return answer
    # A Range is for GET, and for the representation itself (section 14.2).
    lines = header_values(request, b"range")
    if method != "GET" or status != 200 or not lines or not _has_ranges(response):
        return None
    if header_values(request, b"if-range") and not _range_applies(request, response, stored_at):
        return None
    return range_of(lines, length)


def _has_ranges(response: Headers) -> bool:
    """Whether the endpoint does not say that there are no ranges of it (section 14.3)."""
    units = list_members(header_values(response, b"accept-ranges"))
    return not units or "bytes" in units


def _precondition(
    method: str, request: Headers, response: Headers, stored_at: float
) -> NotModified | Failed | None:
    """Evaluate the preconditions in their order (section 13.2.2)."""
    if matches := header_values(request, b"if-match"):
        if not _matches(matches, response, is_strong=True):
            return Failed()
    elif (since := date_of(request, b"if-unmodified-since", stored_at)) is not None:
        # What has no date of its own is not compared with one (section 13.1.4).
        modified = date_of(response, b"last-modified", stored_at)
        if modified is not None and modified > since:
            return Failed()
    if matches := header_values(request, b"if-none-match"):
        if not _matches(matches, response, is_strong=False):
            return None
        return NotModified() if method in ("GET", "HEAD") else Failed()
    if method not in ("GET", "HEAD"):
        return None
    since = date_of(request, b"if-modified-since", stored_at)
    if since is None:
        return None
    # Without Last-Modified, the time counts at which it was made (RFC 9111, section 4.3.2).
    modified = date_of(response, b"last-modified", stored_at)
    if modified is None:
        modified = date_of(response, b"date", stored_at)
    made = stored_at if modified is None else modified
    return NotModified() if made <= since else None


def _matches(lines: Sequence[bytes], response: Headers, *, is_strong: bool) -> bool:
    """Whether one of the tags is that of the response; `*` is that of any (section 13.1)."""
    if [line.strip(b" \t") for line in lines] == [b"*"]:
        return True
    own = header_values(response, b"etag")
    return len(own) == 1 and any(same_tag(tag, own[0], is_strong) for tag in _tags(lines))


def _tags(lines: Sequence[bytes]) -> list[bytes]:
    members = [member.strip(b" \t") for member in _MEMBER.findall(b",".join(lines))]
    return [member for member in members if _TAG.fullmatch(member)]


def same_tag(one: bytes, other: bytes, is_strong: bool) -> bool:
    """Compare two entity tags (section 8.8.3.2)."""
    one, other = one.strip(b" \t"), other.strip(b" \t")
    if is_strong:
        return one == other and one.startswith(b'"')
    return _opaque(one) == _opaque(other)


def _opaque(tag: bytes) -> bytes:
    return tag[2:] if tag[:2] in (b"W/", b"w/") else tag


def _range_applies(request: Headers, response: Headers, stored_at: float) -> bool:
    """
    Whether the part that the client has is one of this response (section 13.1.5).

    A compressing middleware may have changed the bytes of the response, but not its ETag.
    """
    if not _is_sent_as_it_is(request, response):
        return False
    (validator, *others) = header_values(request, b"if-range")
    if others:
        return False
    if b'"' in validator:
        tags = header_values(response, b"etag")
        return len(tags) == 1 and same_tag(validator, tags[0], is_strong=True)
    # A date is a strong validator only if it is that of a response made later (section 8.8.2.2).
    since = date_of(request, b"if-range", stored_at)
    modified = header_values(response, b"last-modified")
    date = date_of(response, b"date", stored_at)
    made = stored_at if date is None else date
    is_same = since is not None and modified == [validator.strip(b" \t")]
    return is_same and since is not None and made - since >= 1


def _is_sent_as_it_is(request: Headers, response: Headers) -> bool:
    codings = header_values(request, b"accept-encoding")
    return not accepts_coding(codings) or not may_be_compressed(response)


def may_be_compressed(response: Headers) -> bool:
    """Whether something on the way to the client may compress a response."""
    has_coding = bool(header_values(response, b"content-encoding"))
    return not has_coding and not any(map(is_left_alone, header_values(response, b"content-type")))


#: How fields begin that a front door keeps in what is stored, and does not send.
_KEPT_BY_DOORS = b"x-stream-cached-"


def not_modified(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the fields of a 304 (section 15.4.5)."""
    kept = _OF_NOT_MODIFIED
    if not header_values(headers, b"etag"):
        kept = kept | {b"last-modified"}
    return [
        (name, value)
        for name, value in headers
        if name.lower() in kept
        or name.lower().endswith(b"cache-control")
        or name.startswith(_KEPT_BY_DOORS)
    ]
