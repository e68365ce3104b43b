"""Check the content of a record whose checksums are right.

A forged record can have right checksums. A head that passes these checks can't split a response
or break a protocol implementation, and its framing fields describe its body correctly.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import msgpack

T = TypeVar("T")

Headers = tuple[tuple[bytes, bytes], ...]

#: The largest head in bytes. A decoded head may take a hundred times its packed size in memory. A
#: head that we write reaches this size only with tens of thousands of segments.
MAX_HEAD = 1024 * 1024

#: The most digits of a length: Python parses long numbers slowly.
_MAX_DIGITS = 20

# RFC 9110, section 5.6.2.
_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# Responses that end with their head (RFC 9110, sections 15.3.5 and 15.4.5).
_BODYLESS = (204, 304)

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

# Some HTTP parsers end a header field or its value at these bytes.
_BREAKS = b"\0\n\v\f\r"

# The names in Vary are compared with the header names of requests, which are Latin-1.
_NAMES = re.compile(r"(?:[\t\x20-\x7e\x80-\xff]+\n)+")
_DIGESTS = re.compile(r"(?:[0-9a-f]{32}\n)*")

# The word becomes part of a quoted string in Cache-Status.
_WORD = re.compile(r"[a-z-]{1,64}")


# An ETag that the library has made.
_ETAG = re.compile(r'(?:W/)?"[0-9a-f]{32}"')


class UnsoundError(ValueError):
    """Bytes with our magic that we did not write like this: truncated, altered or forged."""


#: The exceptions that reading a malformed head can raise.
MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
    struct.error,
    msgpack.UnpackException,
)


def unpacked(head: bytes) -> Any:
    """Unpack a head, and allocate only in proportion to the bytes that were received."""
    if not 0 < len(head) <= MAX_HEAD:
        raise UnsoundError("wrong length of the head")
    try:
        # `unpackb` allocates as many items as an array declares, and arrays can be nested.
        # `skip` allocates nothing and raises if the declared items are missing.
        walker = msgpack.Unpacker(max_buffer_size=len(head))
        walker.feed(head)
        walker.skip()
        return msgpack.unpackb(head, use_list=False, unicode_errors="surrogatepass")
    except MALFORMED as exc:
        raise UnsoundError("malformed head") from exc


def typed(kind: type[T], value: object) -> T:
    """Return the value if its type is exactly `kind`."""
    if type(value) is not kind:
        raise UnsoundError(f"{type(value).__name__} where {kind.__name__} was expected")
    return value


def fields(head: object, count: int, optional: Collection[str] = ()) -> dict[str, Any]:
    mapping: dict[str, Any] = typed(dict, head)
    if len(mapping) - sum(name in mapping for name in optional) != count:
        raise UnsoundError("wrong number of fields")
    return mapping


def optional(**fields: object) -> dict[str, object]:
    """Return the fields that have a value. A record without them can be read by older versions."""
    return {name: value for name, value in fields.items() if value is not None}


def replaced(fields: Mapping[str, object]) -> tuple[str, ...] | None:
    """Return the names in the optional field `replaces`."""
    if "replaces" not in fields:
        return None
    names: tuple[str, ...] = typed(tuple, fields["replaces"])
    return vary_names(names) if names else names


def etag(fields: Mapping[str, object]) -> str | None:
    """Return the optional field `etag`."""
    if "etag" not in fields:
        return None
    tag = typed(str, fields["etag"])
    if _ETAG.fullmatch(tag) is None:
        raise UnsoundError("no ETag")
    return tag


def sizes(fields: Mapping[str, object], least: Sequence[int]) -> tuple[int, ...]:
    """Return the optional field `sizes`: of a header, and of so many values of `least` bytes."""
    if "sizes" not in fields:
        return ()
    found: tuple[int, ...] = typed(tuple, fields["sizes"])
    pairs = zip(found, (0, *least), strict=True)
    if any(typed(int, size) <= floor for size, floor in pairs):
        raise UnsoundError("wrong sizes")
    return found


def validator(fields: Mapping[str, object]) -> tuple[str, float] | None:
    """Return the optional field `validator`."""
    if "validator" not in fields:
        return None
    value, seconds = typed(tuple, fields["validator"])
    return printable(value), moment(seconds)


def took(fields: Mapping[str, object]) -> float | None:
    """Return the optional field `took`."""
    return moment(fields["took"]) if "took" in fields else None


def partition(lengths: object, total: int) -> tuple[int, ...]:
    """Return the lengths of the parts if their sum is `total`."""
    parts: tuple[int, ...] = typed(tuple, lengths)
    if parts and (set(map(type, parts)) != {int} or min(parts) < 0):
        raise UnsoundError("wrong lengths")
    if sum(parts) != total:
        raise UnsoundError("wrong lengths")
    return parts


def versions(value: object) -> dict[str, bytes]:
    mapping: dict[object, object] = typed(dict, value)
    return {typed(str, name): typed(bytes, version) for name, version in mapping.items()}


def header_fields(value: object, status: int, length: int | None) -> Headers:
    """Return valid header fields with stripped values; `length` is the body's, if known."""
    if not 200 <= status <= 599 or (length and status in _BODYLESS):
        raise UnsoundError("invalid status")
    lines: tuple[Any, ...] = typed(tuple, value)
    if not lines:
        return ()
    names, values = zip(*lines, strict=True)
    # `join` raises TypeError for a name or value that is not bytes.
    if b"" in names or b"".join(names).translate(None, _TOKEN):
        raise UnsoundError("invalid name of a header")
    joined = b"".join(values)
    if joined.translate(None, _BREAKS) != joined:
        raise UnsoundError("invalid value of a header")
    headers = tuple([(name, header.strip()) for name, header in lines])
    lowered = [name.lower() for name in names]
    if not _FRAMING.isdisjoint(lowered):
        pairs = zip(lowered, headers, strict=True)
        _check_framing([(name, field[1]) for name, field in pairs if name in _FRAMING], length)
    return headers


def _check_framing(headers: list[tuple[bytes, bytes]], length: int | None) -> None:
    """Check that the fields that define the end of the body agree (RFC 9112, section 6.3)."""
    if length is not None and headers == [(b"content-length", b"%d" % length)]:
        return
    lengths = [header for name, header in headers if name == b"content-length"]
    codings = [header.lower() for name, header in headers if name == b"transfer-encoding"]
    if codings and (lengths or codings != [b"chunked"]):
        raise UnsoundError("invalid transfer-encoding")
    for digits in lengths:
        if len(digits) > _MAX_DIGITS or not digits.isdigit():
            raise UnsoundError("invalid content-length")
    if len({*map(int, lengths), *(() if length is None or not lengths else (length,))}) > 1:
        raise UnsoundError("invalid content-length")


def moment(value: object) -> float:
    """Return a time in seconds since the epoch if it is finite and not negative."""
    seconds = typed(float, value)
    if not 0 <= seconds < math.inf:
        raise UnsoundError("invalid time")
    return seconds


def printable(value: object) -> str:
    text = typed(str, value)
    if not text.isprintable():
        raise UnsoundError("text with control characters")
    return text


def word(value: object) -> str:
    """Return the word if it may stand in the detail of Cache-Status."""
    text = typed(str, value)
    if not _WORD.fullmatch(text):
        raise UnsoundError("invalid word")
    return text


def vary_names(value: object) -> tuple[str, ...]:
    return _matching(_NAMES, value)


def name_sets(value: object) -> tuple[tuple[str, ...], ...]:
    sets: tuple[Any, ...] = typed(tuple, value)
    if not sets:
        raise UnsoundError("an index without names")
    return tuple([vary_names(names) if typed(tuple, names) else () for names in sets])


def digests(value: object) -> tuple[str, ...]:
    return _matching(_DIGESTS, value)


def _matching(pattern: re.Pattern[str], value: object) -> tuple[str, ...]:
    """Return the texts if each matches one line of the pattern."""
    texts: tuple[Any, ...] = typed(tuple, value)
    lines = "".join(chain.from_iterable((typed(str, text), "\n") for text in texts))
    if not pattern.fullmatch(lines) or lines.count("\n") != len(texts):
        raise UnsoundError("invalid names or digests")
    return texts
