"""What may stand in a record, whoever wrote it: the checks behind the checksums.

Anybody can compute a checksum. What passes here can be handed to a server as it is: it splits no
response, trips no protocol implementation, and says nothing about its body that is not so.
"""

from __future__ import annotations

import math
import re
import struct
from itertools import chain
from typing import Any, TypeVar

import msgpack

T = TypeVar("T")

Headers = tuple[tuple[bytes, bytes], ...]

#: Bytes of a head. Some values take up to a hundred times as much memory as bytes in msgpack, and
#: no response of this library's own comes near this: it would have ten thousands of segments.
MAX_HEAD = 1024 * 1024

#: Digits of a length: a longer number is none, and Python takes its time with it.
_MAX_DIGITS = 20

# RFC 9110, section 5.6.2.
_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# Responses that end with their head (RFC 9110, sections 15.3.5 and 15.4.5).
_BODYLESS = (204, 304)

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

# They end a header field, or its value, for some reader of HTTP.
_BREAKS = b"\0\n\v\f\r"

# What a Vary names is looked for among the headers of requests, which are Latin-1.
_NAMES = re.compile(r"(?:[\t\x20-\x7e\x80-\xff]+\n)+")
_DIGESTS = re.compile(r"(?:[0-9a-f]{32}\n)*")

# It goes into a quoted string of Cache-Status.
_WORD = re.compile(r"[a-z-]{1,64}")


class UnsoundError(ValueError):
    """Bytes with our magic that are not what we wrote: cut, altered, spliced or made up."""


#: What reading a malformed head can raise.
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
    """
    Unpack a head; what this allocates is in proportion to what was received.

    Raises:
        UnsoundError: It is no msgpack, or too long.
    """
    if not 0 < len(head) <= MAX_HEAD:
        raise UnsoundError("length of the head")
    try:
        # `unpackb` makes room for as many items as an array says that it has, and arrays can be
        # nested. Walking over them first makes none, and shows that they are there.
        walker = msgpack.Unpacker(max_buffer_size=len(head))
        walker.feed(head)
        walker.skip()
        return msgpack.unpackb(head, use_list=False, unicode_errors="surrogatepass")
    except MALFORMED as exc:
        raise UnsoundError("head") from exc


def typed(kind: type[T], value: object) -> T:
    """
    Return the value if it is of this type, and not of one derived from it.

    Raises:
        UnsoundError: It is of another one.
    """
    if type(value) is not kind:
        raise UnsoundError(f"{type(value).__name__} where {kind.__name__} was expected")
    return value


def fields(head: object, count: int) -> dict[str, Any]:
    """
    Return a head that is a mapping of as many fields; those that are read must be all there are.

    Raises:
        UnsoundError: It is something else.
    """
    mapping: dict[str, Any] = typed(dict, head)
    if len(mapping) != count:
        raise UnsoundError("number of fields")
    return mapping


def partition(lengths: object, total: int) -> tuple[int, ...]:
    """
    Return the lengths if they are of parts that make up the whole.

    Raises:
        UnsoundError: They are something else.
    """
    parts: tuple[int, ...] = typed(tuple, lengths)
    if parts and (set(map(type, parts)) != {int} or min(parts) < 0):
        raise UnsoundError("lengths")
    if sum(parts) != total:
        raise UnsoundError("lengths")
    return parts


def versions(value: object) -> dict[str, bytes]:
    """
    Return the versions that a record was made under.

    Raises:
        UnsoundError: They are something else.
    """
    mapping: dict[object, object] = typed(dict, value)
    return {typed(str, name): typed(bytes, version) for name, version in mapping.items()}


def header_fields(value: object, status: int, length: int | None) -> Headers:
    """
    Return the header fields of a response, without white space around their values.

    Args:
        value: What stands for them in a head.
        status: The status of the response.
        length: Bytes of its body, None where that is not complete.

    Raises:
        UnsoundError: There is one that a server refuses, that ends before its end, or that says
            something else about the body.
        TypeError: They are something else.
    """
    if not 200 <= status <= 599 or (length and status in _BODYLESS):
        raise UnsoundError("status")
    lines: tuple[Any, ...] = typed(tuple, value)
    if not lines:
        return ()
    names, values = zip(*lines, strict=True)
    # What is not bytes can't be joined.
    if b"" in names or b"".join(names).translate(None, _TOKEN):
        raise UnsoundError("name of a header")
    joined = b"".join(values)
    if joined.translate(None, _BREAKS) != joined:
        raise UnsoundError("value of a header")
    headers = tuple([(name, header.strip()) for name, header in lines])
    lowered = [name.lower() for name in names]
    if not _FRAMING.isdisjoint(lowered):
        pairs = zip(lowered, headers, strict=True)
        _check_framing([(name, field[1]) for name, field in pairs if name in _FRAMING], length)
    return headers


def _check_framing(headers: list[tuple[bytes, bytes]], length: int | None) -> None:
    """See that the fields that say where a body ends agree (RFC 9112, section 6.3)."""
    if length is not None and headers == [(b"content-length", b"%d" % length)]:
        return
    lengths = [header for name, header in headers if name == b"content-length"]
    codings = [header.lower() for name, header in headers if name == b"transfer-encoding"]
    if codings and (lengths or codings != [b"chunked"]):
        raise UnsoundError("transfer-encoding")
    for digits in lengths:
        if len(digits) > _MAX_DIGITS or not digits.isdigit():
            raise UnsoundError("content-length")
    if len({*map(int, lengths), *(() if length is None or not lengths else (length,))}) > 1:
        raise UnsoundError("content-length")


def moment(value: object) -> float:
    """
    Return seconds since the epoch.

    Raises:
        UnsoundError: It is something else.
    """
    seconds = typed(float, value)
    if not 0 <= seconds < math.inf:
        raise UnsoundError("a time that is none")
    return seconds


def printable(value: object) -> str:
    """
    Return a text without controls and lone surrogates.

    Raises:
        UnsoundError: It is something else.
    """
    text = typed(str, value)
    if not text.isprintable():
        raise UnsoundError("a text with controls")
    return text


def word(value: object) -> str:
    """
    Return a word that may stand in a header.

    Raises:
        UnsoundError: It is something else.
    """
    text = typed(str, value)
    if not _WORD.fullmatch(text):
        raise UnsoundError("word")
    return text


def vary_names(value: object) -> tuple[str, ...]:
    """
    Return the names of the headers that select a variant.

    Raises:
        UnsoundError: They are something else.
    """
    return _matching(_NAMES, value)


def digests(value: object) -> tuple[str, ...]:
    """
    Return the digests of variants.

    Raises:
        UnsoundError: They are something else.
    """
    return _matching(_DIGESTS, value)


def _matching(pattern: re.Pattern[str], value: object) -> tuple[str, ...]:
    """Return texts that each match one line of the pattern."""
    texts: tuple[Any, ...] = typed(tuple, value)
    lines = "".join(chain.from_iterable((typed(str, text), "\n") for text in texts))
    if not pattern.fullmatch(lines) or lines.count("\n") != len(texts):
        raise UnsoundError("texts")
    return texts
