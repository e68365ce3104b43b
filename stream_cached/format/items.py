"""Encode and decode the items of a generator, one by one.

An item is one msgpack value. What msgpack has no type for is an extension: a tuple, a date, a
number of more than 64 bits, an instance of one of the `ItemClasses`. The table of chunks in a
segment frames the items, because each item is one chunk.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from stream_cached.format.item_classes import ItemClasses, class_path
from stream_cached.format.validation import MALFORMED, UnsoundError, typed

#: The media type of a body that consists of items.
_MEDIA_TYPE = "application/vnd.stream-cached.items"

#: What stands for an item that can't be stored. No msgpack value begins with it.
NO_ITEM = b"\xc1"

#: How deep containers may be nested in an item.
_MAX_DEPTH = 64

#: Bytes up to which the lengths that an item declares are not checked first.
_SMALL = 1024

#: The types that msgpack has, too.
_PLAIN = frozenset({type(None), bool, float, str, bytes})

_LEAST, _MOST = -(2**63), 2**64 - 1

# The codes of the extensions.
_INT, _TUPLE, _BYTEARRAY, _MEMORYVIEW, _DATETIME, _DATE = 1, 2, 3, 4, 5, 6
_TIME, _TIMEDELTA, _DECIMAL, _UUID, _INSTANCE = 7, 8, 9, 10, 11


class UnstorableItemError(Exception):
    """An item can't be stored; the text names its type."""


def media_type(classes: ItemClasses) -> str:
    """Return the media type of the items of these classes, as they are now."""
    return f"{_MEDIA_TYPE}; schema={classes.schema}"


def is_of_items(media_type: str | None) -> bool:
    return media_type is not None and media_type.startswith(_MEDIA_TYPE)


# -- encode -------------------------------------------------------------------------------------


def encode_item(item: object, classes: ItemClasses) -> bytes:
    """Return an item as bytes; raise `UnstorableItemError` if it can't be made again of any."""
    try:
        return _packed(item if type(item) in _PLAIN else _tree(item, classes, _MAX_DEPTH))
    except UnstorableItemError as exc:
        inner = str(exc)
        outer = class_path(type(item))
        raise UnstorableItemError(
            outer if inner == outer else f"{outer}, which holds {inner}"
        ) from None
    # The item's class may raise anything, and a list may contain itself.
    except Exception as exc:
        raise UnstorableItemError(class_path(type(item))) from exc


def _packed(tree: object) -> bytes:
    packed: bytes = msgpack.packb(tree, unicode_errors="surrogatepass")
    return packed


def _tree(value: Any, classes: ItemClasses, depth: int) -> Any:
    """Return a value of what msgpack knows. A subclass is another type, and not its base."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if not depth:
        raise UnstorableItemError("containers that are nested too deep")
    if kind is list:
        return [_tree(each, classes, depth - 1) for each in value]
    if kind is dict:
        return {
            _tree(key, classes, depth - 1): _tree(each, classes, depth - 1)
            for key, each in value.items()
        }
    if kind is int and _LEAST <= value <= _MOST:
        return value
    if kind in _EXTENSIONS:
        code, taken = _EXTENSIONS[kind]
        return _extension(code, _tree(taken(value), classes, depth - 1))
    known = classes.of(kind)
    if known is None:
        raise UnstorableItemError(class_path(kind))
    fields = _tree(known.take(value), classes, depth - 1)
    return _extension(_INSTANCE, [known.name, fields])


def _extension(code: int, tree: object) -> Any:
    return msgpack.ExtType(code, _packed(tree))


def _of_int(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _of_datetime(value: datetime.datetime) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _of_zone(value.tzinfo)]


def _of_time(value: datetime.time) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _of_zone(value.tzinfo)]


def _of_zone(zone: datetime.tzinfo | None) -> list[Any] | None:
    if zone is None:
        return None
    if type(zone) is not datetime.timezone:
        raise UnstorableItemError(class_path(type(zone)))
    offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
    return [_of_timedelta(offset), *name]


def _of_timedelta(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


_EXTENSIONS: Mapping[type, tuple[int, Callable[[Any], Any]]] = {
    int: (_INT, _of_int),
    tuple: (_TUPLE, list),
    bytearray: (_BYTEARRAY, bytes),
    memoryview: (_MEMORYVIEW, bytes),
    datetime.datetime: (_DATETIME, _of_datetime),
    datetime.date: (_DATE, datetime.date.isoformat),
    datetime.time: (_TIME, _of_time),
    datetime.timedelta: (_TIMEDELTA, _of_timedelta),
    decimal.Decimal: (_DECIMAL, str),
    uuid.UUID: (_UUID, lambda value: value.bytes),
}


# -- decode -------------------------------------------------------------------------------------


def decode_item(data: bytes, classes: ItemClasses) -> Any:
    """Return a new object that equals the item; raise `UnsoundError` if these bytes are none."""
    try:
        return _unpacked(data, classes, _MAX_DEPTH)
    except UnsoundError:
        raise
    # A date, a number or a field can be malformed in more ways than a head.
    except (*MALFORMED, AttributeError, ArithmeticError) as exc:
        raise UnsoundError("a malformed item") from exc


def _unpacked(data: bytes, classes: ItemClasses, depth: int) -> Any:
    if not depth:
        raise UnsoundError("an item that is nested too deep")
    if len(data) > _SMALL:
        # See `validation.unpacked`: a small item can't declare much.
        walker = msgpack.Unpacker(max_buffer_size=len(data))
        walker.feed(data)
        walker.skip()

    def made(code: int, payload: bytes) -> Any:
        return _made(code, _unpacked(payload, classes, depth - 1), classes)

    return msgpack.unpackb(
        data, ext_hook=made, strict_map_key=False, unicode_errors="surrogatepass"
    )


def _made(code: int, tree: Any, classes: ItemClasses) -> Any:
    if code == _INSTANCE:
        name, fields = typed(list, tree)
        return classes.named(typed(str, name)).make(fields)
    maker = _MAKERS.get(code)
    if maker is None:
        raise UnsoundError("an unknown extension")
    return maker(tree)


def _date_and_time(tree: Any) -> datetime.datetime:
    text, fold, zone = typed(list, tree)
    return datetime.datetime.fromisoformat(text).replace(fold=fold, tzinfo=_zone(zone))


def _time(tree: Any) -> datetime.time:
    text, fold, zone = typed(list, tree)
    return datetime.time.fromisoformat(text).replace(fold=fold, tzinfo=_zone(zone))


def _zone(tree: Any) -> datetime.timezone | None:
    if tree is None:
        return None
    offset, *name = typed(list, tree)
    # Without a name, the one for UTC is that very object.
    return datetime.timezone(_timedelta(offset), *name)


def _timedelta(tree: Any) -> datetime.timedelta:
    return datetime.timedelta(*typed(list, tree))


_MAKERS: Mapping[int, Callable[[Any], Any]] = {
    _INT: lambda tree: int.from_bytes(typed(bytes, tree), "big", signed=True),
    _TUPLE: lambda tree: tuple(typed(list, tree)),
    _BYTEARRAY: lambda tree: bytearray(typed(bytes, tree)),
    _MEMORYVIEW: lambda tree: memoryview(typed(bytes, tree)),
    _DATETIME: _date_and_time,
    _DATE: datetime.date.fromisoformat,
    _TIME: _time,
    _TIMEDELTA: _timedelta,
    _DECIMAL: lambda tree: decimal.Decimal(typed(str, tree)),
    _UUID: lambda tree: uuid.UUID(bytes=typed(bytes, tree)),
}
