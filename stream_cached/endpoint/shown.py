"""Whether the `repr` of a value, which aiocache's key has of each argument, shows all of it."""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections.abc import Callable, Iterable
from typing import Any

from stream_cached.keys.canonical import OF_PATHS, PLAIN, state_of
from stream_cached.keys.layout import fields_of, hides_content
from stream_cached.keys.made_classes import found_by_name, plain_attributes

#: Modules whose values show what they are.
_SHOWING = frozenset(
    {"builtins", "datetime", "decimal", "fractions", "ipaddress", *OF_PATHS, "uuid"}
)

#: The `repr` of a view of a memory has an address, and that of a class or a function nothing of
#: what was put there.
_HIDING = (memoryview, type, types.BuiltinFunctionType, types.FunctionType)

#: What a model keeps beside its fields: mostly nothing.
_BESIDE_FIELDS = frozenset({"__pydantic_extra__", "__pydantic_private__"})


class Shown:
    """Replaces an argument in the arguments for aiocache's key."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"<{self._text}>"


def is_exact(value: object) -> bool:
    """Whether all processes give it one `repr`, and give another one to any other value."""
    if type(value) in (list, tuple):
        return are_exact(value)  # type: ignore[arg-type]
    if type(value) is dict:
        return all(map(are_exact, value.items()))
    # The order of a set's items in its `repr` differs between processes.
    is_set = isinstance(value, set | frozenset)
    return isinstance(value, Shown) or (_is_plain(value) and not is_set)


def are_exact(values: Iterable[object]) -> bool:
    return all(map(is_exact, values))


def shows_all(value: object) -> bool:
    """Whether any other value has another `repr`."""
    cls = type(value)
    if cls in (list, tuple, set, frozenset):
        return all(map(shows_all, value))  # type: ignore[call-overload]
    if cls is dict:
        return all(map(shows_all, value.items()))  # type: ignore[attr-defined]
    if isinstance(value, enum.Enum):
        own = [name for name in value.__dict__ if name[:1] != "_"]
        return not own and _shows_fields(cls) and shows_all(value.value)
    if isinstance(value, tuple) and getattr(cls.__repr__, "__module__", "") == "collections":
        is_known = not getattr(value, "__dict__", None) and _shows_fields(cls)
        return is_known and all(map(shows_all, value))
    if (names := _fields_of(cls)) is not None:
        state = {n: v for n, v in state_of(value).items() if v or n not in _BESIDE_FIELDS}
        # A model that was given the default of a field is equal to one that was not.
        are_set = state.pop("__pydantic_fields_set__", names) == names
        is_known = are_set and state.keys() <= names and _shows_fields(cls)
        return is_known and all(map(shows_all, state.values()))
    return _is_plain(value)


def _is_plain(value: object) -> bool:
    return type(value).__module__ in _SHOWING and not isinstance(value, _HIDING)


def _find_fields(cls: type) -> frozenset[str] | None:
    """Return the names of the fields that a `repr` which others have written shows."""
    shown: Any = cls.__repr__
    if dataclasses.is_dataclass(cls):
        # What `dataclass` makes is compiled from a text.
        made = getattr(shown, "__wrapped__", shown)
        is_made = hasattr(made, "__code__") and made.__code__.co_filename == "<string>"
    else:
        is_made = hasattr(cls, "__pydantic_fields__") and shown.__module__ == "pydantic.main"
    fields = fields_of(cls) if is_made else {}
    return frozenset(fields) if fields and all(fields.values()) and not hides_content(cls) else None


_fields_of: Callable[[type], frozenset[str] | None] = functools.lru_cache(maxsize=1024)(
    _find_fields
)


def _shows_fields(cls: type) -> bool:
    """Whether there is nothing on a class that its instances do not show."""
    if issubclass(cls, enum.Enum):
        names: frozenset[str] = frozenset()
        is_usual = getattr(cls.__repr__, "__module__", "") == "enum"
    else:
        names, is_usual = _fields_of(cls) or frozenset(), True
    own = {name for name, _ in plain_attributes(cls, PLAIN)}
    return is_usual and own <= names and found_by_name(cls) is cls
