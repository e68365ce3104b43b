"""Plain values in, keys out. No two different calls share a key.

Structures are encoded by msgpack, which delimits every value, and then digested: however a query
or a header is made up, it can't run into its neighbour. Values stand in keys only as digests;
they may be secrets.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import hashlib
import ipaddress
import pathlib
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import msgpack

#: The longest key that memcached takes, in bytes.
MEMCACHED_LIMIT = 250

_HEAD_LENGTH = 72
_MAX_DEPTH = 64
_AWKWARD = re.compile(r"[^\x21-\x7e]")
_UNREADABLE = re.compile(r"[^A-Za-z0-9._/-]+")
_SHORTENED = re.compile(r".*#[0-9a-f]{32}")
_SEGMENT_KEY = re.compile(r"(.*:[0-9a-f]{32}):\d+", re.DOTALL)
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_ADDRESSES = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)


class NoCanonicalFormError(TypeError):
    """A value that can't be put into a key, because nothing says when two of them are equal."""


def canonical(value: object, depth: int = 0) -> Any:
    """
    Return a structure of plain values, equal for equal values of one type and for no others.

    Numbers, strings, bytes, enums, dates, UUIDs, paths, IP addresses, lists, tuples, sets, dicts,
    dataclasses and pydantic models have one. The types count: `1`, `True`, `1.0` and `"1"` differ.

    Raises:
        NoCanonicalFormError: For anything else; `repr` with its address of an object is not one.
    """
    cls = type(value)
    if cls in _ATOMS or (cls is int and -_INT_BOUND <= value < _INT_BOUND):  # type: ignore[operator]
        # msgpack has types for these, and tells them apart.
        return value
    if depth > _MAX_DEPTH:
        raise NoCanonicalFormError("nested too deeply")
    deeper = depth + 1
    if isinstance(value, _CONTENT) and getattr(value, "__dict__", None):
        # A subclass with state of its own: its content is not all that there is.
        raise NoCanonicalFormError(_name(value))
    match value:
        case enum.Enum():
            return ["enum", _name(value), value.name, canonical(value.value, deeper)]
        case int() if cls is int:
            return ["int", _plain(value)]
        case bytearray() | memoryview():
            return ["bytearray", bytes(value)]
        case datetime.datetime() | datetime.time():
            # Two time zones may agree at one moment, and be called alike then.
            zone = str(getattr(value.tzinfo, "key", ""))
            return [_name(value), value.isoformat(), value.tzname(), zone, value.fold]
        case datetime.date():
            return [_name(value), value.isoformat()]
        case datetime.timedelta():
            return [_name(value), value.days, value.seconds, value.microseconds]
        case uuid.UUID():
            return ["uuid", value.bytes]
        case decimal.Decimal() | complex():
            return [_name(value), repr(value)]
        case pathlib.PurePath():
            return [_name(value), _plain(str(value))]
        case _ if isinstance(value, _ADDRESSES):
            return [_name(value), str(value)]
        case range():
            # A slice has its end where the last step leads to.
            return ["range", repr(value[:])]
        case list() | tuple():
            return [_name(value), [canonical(item, deeper) for item in value]]
        case set() | frozenset():
            return [_name(value), sorted(_packed(canonical(item, deeper)) for item in value)]
        case collections.OrderedDict():
            return [_name(value), [canonical(pair, deeper) for pair in value.items()]]
        case dict():
            return [_name(value), _pairs(value, deeper)]
    return _canonical_object(value, deeper)


def _canonical_object(value: object, depth: int) -> Any:
    cls = type(value)
    if dataclasses.is_dataclass(cls):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(cls)}
        # Also what was set on it later, which an endpoint sees as well.
        state = {**getattr(value, "__dict__", {}), **fields}
        return ["dataclass", _name(value), _pairs(state, depth)]
    if hasattr(cls, "__pydantic_fields__"):
        # Which fields were set shows in what `exclude_unset` leaves out.
        parts = (
            getattr(value, "__dict__", None),
            getattr(value, "__pydantic_extra__", None),
            getattr(value, "__pydantic_private__", None),
            getattr(value, "__pydantic_fields_set__", None),
        )
        return ["model", _name(value), [canonical(part, depth) for part in parts]]
    if cls.__module__ in ("pydantic.networks", "pydantic_core._pydantic_core") and hasattr(
        value, "unicode_string"
    ):
        return ["url", _name(value), _plain(str(value))]
    if hasattr(value, "get_secret_value") and cls.__module__ == "pydantic.types":
        return ["secret", _name(value), canonical(value.get_secret_value(), depth)]
    for base in (int, float, str, bytes):
        # A subclass of str or int with state of its own is an object like any other.
        if isinstance(value, base) and not getattr(value, "__dict__", None):
            return [base.__name__, _name(value), _plain(base(value))]  # type: ignore[arg-type]
    raise NoCanonicalFormError(_name(value))


#: Types whose values are their content, unless a subclass adds to it.
_CONTENT = (
    bytearray,
    complex,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    dict,
    frozenset,
    list,
    pathlib.PurePath,
    set,
    tuple,
    uuid.UUID,
)

#: Values that are their own form.
_ATOMS = frozenset({type(None), bool, float, str, bytes})

#: Integers below it are their own form, too.
_INT_BOUND = 2**63


def _plain(value: object) -> object:
    match value:
        case str() | float() | bytes():
            return value
        case int():
            # In hexadecimal: Python refuses to write out many decimal digits.
            return hex(value)
    raise NoCanonicalFormError(_name(value))


def _pairs(value: Mapping[Any, object], depth: int) -> list[Any]:
    return sorted(
        (
            [_packed(canonical(name, depth)), _packed(canonical(item, depth))]
            for name, item in value.items()
        ),
        key=lambda pair: pair[0],
    )


def _name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _packed(structure: object) -> bytes:
    packed: bytes = msgpack.packb(structure, unicode_errors="surrogatepass")
    return packed


def digest(structure: object) -> str:
    """Return 32 hexadecimal digits that stand for the structure."""
    return hashlib.blake2b(_packed(structure), digest_size=16).hexdigest()


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
    pairs.sort(key=lambda pair: unquote_to_bytes(pair[0].replace(b"+", b" ")))
    return pairs


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of a header, in the order in which they came."""
    return [value for key, value in headers if key.lower() == name]


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
    headers: Mapping[str, object],
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


@functools.lru_cache(maxsize=1024)
def readable(text: str) -> str:
    """Return the end of a name, in characters that any store takes."""
    return _UNREADABLE.sub("_", text)[-_HEAD_LENGTH:]


def segment_key(key: str, generation: bytes, index: int) -> str:
    """Return the chunk key of a segment: two runs never share one."""
    return f"{key}:{generation.hex()}:{index}"


def segment_group(key: str) -> str | None:
    """Return what the chunk keys of one run have in common, or None for any other key."""
    match = _SEGMENT_KEY.fullmatch(key)
    return match[1] if match else None


def variant_key(key: str, generation: bytes, variant: str) -> str:
    """Return the key of one variant, as selected by the index of `generation`."""
    return f"{key}:v:{generation.hex()}:{variant}"


def version_key(endpoint: str) -> str:
    """Return the key of an endpoint's version, which all of its entries depend on."""
    return f"{readable(endpoint)}:version:{digest(endpoint)}"


def revocation_key(key: str) -> str:
    """Return the key that holds when one resource was last invalidated by its key."""
    return f"{key}:revoked"


def for_memcached(key: str, overhead: int = 0) -> str:
    """
    Shorten a key that memcached would refuse: 250 bytes, printable ASCII and no spaces.

    One that looks as if it had been shortened is shortened, too: it could be another's.

    Args:
        key: The key.
        overhead: Bytes that the store puts before it (its namespace).
    """
    fits = 0 < len(key) + overhead <= MEMCACHED_LIMIT and not _AWKWARD.search(key)
    if fits and not _SHORTENED.fullmatch(key):
        return key
    return f"{readable(key)}#{digest(_plain(key))}"


def holds_address(key: str) -> bool:
    """Whether a key holds the address of an object, which the next process (or call) uses again."""
    return _ADDRESS.search(key) is not None
