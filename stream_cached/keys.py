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
import inspect
import ipaddress
import pathlib
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import msgpack

#: The longest key that memcached takes, in bytes.
MEMCACHED_LIMIT = 250

_HEAD_LENGTH = 72
_MAX_DEPTH = 64

#: Said of a value that is no cycle, perhaps, but might be.
TOO_DEEP = "nested too deeply"

_AWKWARD = re.compile(r"[^\x21-\x7e]")
_UNREADABLE = re.compile(r"[^A-Za-z0-9._/-]+")
_SHORTENED = re.compile(r".*#[0-9a-f]{32}")
_GENERATION = re.compile(r"[0-9a-f]{32}")
_INTERNAL = re.compile(
    r".*(?::revoked|:(?:version|lease):[0-9a-f]{32}|stream_cached:tag:[0-9a-f]{32}"
    r"|:v:[0-9a-f]{32}:[0-9a-f]{32}|:[0-9a-f]{32}:(?:\d+|progress|followed))",
    re.DOTALL,
)
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
    if cls in PLAIN:
        return value
    if depth > _MAX_DEPTH:
        raise NoCanonicalFormError(TOO_DEEP)
    return _former(cls)(value, depth + 1)


#: Returns the form of a value; gets the depth at which those in it are.
_Former = Callable[[Any, int], Any]


def _former_of(cls: type) -> _Former:
    for classes, form in _FORMS:
        if issubclass(cls, classes):
            return _of_content(cls, form) if issubclass(cls, _CONTENT) else form
    if dataclasses.is_dataclass(cls):
        return _dataclass
    if hasattr(cls, "__pydantic_fields__"):
        return _model
    if cls.__module__ in ("pydantic.networks", "pydantic_core._pydantic_core") and hasattr(
        cls, "unicode_string"
    ):
        return lambda value, _: ["url", class_name(value), str(value)]
    if cls.__module__ == "pydantic.types" and hasattr(cls, "get_secret_value"):
        return lambda value, deeper: [
            class_name(value),
            canonical(value.get_secret_value(), deeper),
        ]
    for base, content in _CONTENT_OF.items():
        if issubclass(cls, base):
            return _of_content(cls, _plain_as(base, content))
    return _formless


def _of_content(cls: type, form: _Former) -> _Former:
    """Refuse a value with a state of its own: its content is not all that there is."""
    if cls.__module__ in _STANDARD:
        return form
    slots = _slots(cls)

    def checked(value: Any, deeper: int) -> Any:
        if getattr(value, "__dict__", None) or any(hasattr(value, name) for name in slots):
            raise NoCanonicalFormError(class_name(value))
        return form(value, deeper)

    return checked


def _plain_as(base: type, content: Callable[[Any], object]) -> _Former:
    return lambda value, _: [base.__name__, class_name(value), content(value)]


def slot_names(classes: Iterable[type]) -> list[str]:
    """Return the names of what classes, apart from those that they inherit from, keep in slots."""
    slots = (vars(cls).get("__slots__", ()) for cls in classes)
    names = [name for each in slots for name in ([each] if isinstance(each, str) else each)]
    return [name for name in names if not name.startswith("__")]


def _slots(cls: type) -> list[str]:
    return slot_names(base for base in cls.__mro__ if base.__module__ not in _STANDARD)


def _state(value: object) -> dict[str, object]:
    """Return what an object consists of."""
    cls = type(value)
    state = {name: getattr(value, name) for name in _slots(cls) if hasattr(value, name)}
    for name, item in getattr(value, "__dict__", {}).items():
        # It follows from the rest, and is there only once somebody has asked for it.
        if not isinstance(inspect.getattr_static(cls, name, None), functools.cached_property):
            state[name] = item
    return state


def _formless(value: object, deeper: int) -> NoReturn:
    raise NoCanonicalFormError(class_name(value))


def _moment(value: datetime.datetime | datetime.time, deeper: int) -> list[Any]:
    # Two time zones may agree at one moment, and be called alike then.
    zone = str(getattr(value.tzinfo, "key", ""))
    cls = datetime.datetime if isinstance(value, datetime.datetime) else datetime.time
    return [class_name(value), cls.isoformat(value), value.tzname(), zone, value.fold]  # type: ignore[arg-type]


def _sequence(value: Iterable[object], deeper: int) -> list[Any]:
    return [class_name(value), [canonical(item, deeper) for item in value]]


def _ordered(value: dict[object, object], deeper: int) -> list[Any]:
    return [class_name(value), [canonical(pair, deeper) for pair in dict.items(value)]]


def _set(value: Iterable[object], deeper: int) -> list[Any]:
    return [class_name(value), sorted(_packed(canonical(item, deeper)) for item in value)]


def _dataclass(value: Any, deeper: int) -> list[Any]:
    # Also what was set on it later, which an endpoint sees as well; but nothing is asked of it: a
    # class of an ORM would load it.
    return ["dataclass", class_name(value), _pairs(_state(value), deeper)]


def _model(value: Any, deeper: int) -> list[Any]:
    # Which fields were set shows in what `exclude_unset` leaves out.
    parts = (
        _state(value),
        getattr(value, "__pydantic_extra__", None),
        getattr(value, "__pydantic_private__", None),
        getattr(value, "__pydantic_fields_set__", None),
    )
    return ["model", class_name(value), [canonical(part, deeper) for part in parts]]


#: What gives values of some types their form; the first that fits.
_FORMS: tuple[tuple[type | tuple[type, ...], _Former], ...] = (
    (enum.Enum, lambda v, deeper: ["enum", class_name(v), v.name, canonical(v.value, deeper)]),
    ((bytearray, memoryview), lambda v, _: ["bytearray", bytes(v)]),
    ((datetime.datetime, datetime.time), _moment),
    (datetime.date, lambda v, _: [class_name(v), datetime.date.isoformat(v)]),
    (datetime.timedelta, lambda v, _: [class_name(v), v.days, v.seconds, v.microseconds]),
    (uuid.UUID, lambda v, _: ["uuid", v.bytes]),
    (decimal.Decimal, lambda v, _: [class_name(v), decimal.Decimal.__repr__(v)]),
    (complex, lambda v, _: [class_name(v), complex.__repr__(v)]),
    (pathlib.PurePath, lambda v, _: [class_name(v), pathlib.PurePath.__str__(v)]),
    (_ADDRESSES, lambda v, _: [class_name(v), str(v)]),
    # A slice has its end where the last step leads to.
    (range, lambda v, _: ["range", repr(v[:])]),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
    (collections.OrderedDict, _ordered),
    (dict, lambda v, deeper: [class_name(v), _pairs(v, deeper)]),
)

#: Where classes come from whose slots are their content.
_STANDARD = frozenset(
    {
        "builtins",
        "collections",
        "datetime",
        "decimal",
        "enum",
        "ipaddress",
        "pathlib",
        "pathlib._local",
        "typing",
        "uuid",
    }
)

#: What values of subclasses of the plain types are, whatever else they say that they are.
_CONTENT_OF: Mapping[type, Callable[[Any], object]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: b"".join((value, b"")),
}

#: Types whose values are their content, unless a subclass adds to it.
_CONTENT = (
    *_ADDRESSES,
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

#: Types whose values are their own form: msgpack has them, and tells them apart.
PLAIN = frozenset({type(None), bool, int, float, str, bytes})


#: Returns what gives the instances of a class their form.
_former: Callable[[type], _Former] = functools.lru_cache(maxsize=1024)(_former_of)


def _pairs(value: dict[Any, object], depth: int) -> list[Any]:
    return sorted(
        (
            [_packed(canonical(name, depth)), _packed(canonical(item, depth))]
            for name, item in dict.items(value)
        ),
        key=lambda pair: pair[0],
    )


def class_name(value: object) -> str:
    """Return the qualified name of a value's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _packed(structure: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(structure)
    # Without those options it is quicker, and what it packs is the same.
    except (OverflowError, UnicodeEncodeError):
        packed = msgpack.packb(structure, default=_large, unicode_errors="surrogatepass")
    return packed


def _large(value: object) -> object:
    """Return what msgpack packs for an integer that it has no room for."""
    if isinstance(value, int):
        # In hexadecimal: Python refuses to write out many decimal digits.
        return msgpack.ExtType(0, hex(value).encode())
    raise TypeError(f"{class_name(value)} is no plain value")


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
    if b"%" in query or b"+" in query:
        pairs.sort(key=lambda pair: unquote_to_bytes(pair[0].replace(b"+", b" ")))
    else:
        pairs.sort(key=itemgetter(0))
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


@functools.lru_cache(maxsize=1024)
def readable(text: str) -> str:
    """Return the end of a name, in characters that any store takes."""
    return _UNREADABLE.sub("_", text)[-_HEAD_LENGTH:]


def segment_key(key: str, generation: bytes, index: int) -> str:
    """Return the chunk key of a segment: two runs never share one."""
    return f"{key}:{generation.hex()}:{index}"


def segment_group(key: str) -> str | None:
    """Return what the chunk keys of one run have in common, or None for any other key."""
    # It is asked at each access to the memory.
    group, _, index = key.rpartition(":")
    if not index.isdecimal():
        return None
    _, colon, generation = group.rpartition(":")
    return group if colon and _GENERATION.fullmatch(generation) else None


def is_segment_key(key: str) -> bool:
    """Whether it is the chunk key of a segment, in whatever namespace."""
    return segment_group(key) is not None


def variant_key(key: str, generation: bytes, variant: str) -> str:
    """Return the key of one variant, as selected by the index of `generation`."""
    return f"{key}:v:{generation.hex()}:{variant}"


def version_key(endpoint: str) -> str:
    """Return the key of an endpoint's version, which all of its entries depend on."""
    return f"{readable(endpoint)}:version:{digest(endpoint)}"


def tag_key(prefix: str, tag: str) -> str:
    """Return the key of a tag's version, which all that bears the tag depends on."""
    return f"{prefix}stream_cached:tag:{digest(tag)}"


def is_internal(key: str) -> bool:
    """Whether a key that somebody made could be one that another key needs."""
    return _INTERNAL.fullmatch(key) is not None


def lease_key(key: str, versions: Mapping[str, bytes], variant: tuple[Sequence[str], str]) -> str:
    """
    Return the key that says who runs an endpoint, for all processes.

    Args:
        key: The key of the resource.
        versions: Those that the run is made under: one that was invalidated holds up nobody.
        variant: The names of the headers that select the response, and the digest of their values.
    """
    return f"{key}:lease:{digest((sorted(versions.items()), variant))}"


def progress_key(key: str, generation: bytes) -> str:
    """Return the key that says what one run has come to."""
    return f"{key}:{generation.hex()}:progress"


def followed_key(key: str, generation: bytes) -> str:
    """Return the key that says that one run is read in other processes, too."""
    return f"{key}:{generation.hex()}:followed"


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
    return f"{readable(key)}#{digest(key)}"


def holds_address(key: str) -> bool:
    """Whether a key holds the address of an object, which the next process (or call) uses again."""
    return _ADDRESS.search(key) is not None
