"""Keys of cashews that hold an object's address, which Python gives to another object later."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any

from cashews import default_formatter
from cashews.key import _ARGS, _KWARGS, _get_call_values
from cashews.key_context import get as key_context
from starlette.datastructures import UploadFile
from starlette.requests import HTTPConnection

from stream_cached.http.reasons import Finding, NotCached
from stream_cached.keys.digest import class_name
from stream_cached.keys.layout import fields_of
from stream_cached.keys.names import holds_address, shows_object

#: Types whose values have no address in their text, unless it was written there.
_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})

#: Why a value's text can't be part of a key.
_ADDRESS = "holds an address in memory, which another object is given later"
_HIDDEN = "hides what it holds"
_NOTHING = "says nothing of what the function may read of it"

#: What pydantic shows of a secret.
_MASK = "**********"

_DECORATOR = (
    "use @stream_cached.cashews.stream_cached(cache, ttl=...) without key=, which builds its key "
    "from the request, and sees what the function reads of it beside the key"
)


class KeyCheck:
    """Finds what can't be part of the keys that cashews makes for one function.

    `is_default` says that cashews has made the template from the function's parameters."""

    def __init__(self, function: Callable[..., Any], template: str, *, is_default: bool) -> None:
        self._function = function
        self._template = template
        self._is_default = is_default
        self._names_calls = _ARGS in template or _KWARGS in template

    def findings(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Finding]:
        """Return why the key of a call can't be used."""
        values = dict(kwargs)
        if args or self._names_calls:
            values = _get_call_values(self._function, tuple(args), values)
        context, is_stronger = key_context()
        if context:
            values["@"] = context
            values = {**values, **context} if is_stronger else {**context, **values}
        fields = _Fields()
        fields.vformat(self._template, (), values)
        return [self._finding(name, *found) for name, found in fields.unusable.items()]

    def _finding(self, name: str, value: object, why: str) -> Finding:
        shown = {_ARGS: "*args", _KWARGS: "**kwargs"}.get(name, name)
        subject = f"{shown} is of type {class_name(value)}, and its text in the key {why}"
        return Finding(NotCached.ARGUMENT, subject, self._fix(name, value))

    def _fix(self, name: str, value: object) -> str:
        if isinstance(value, HTTPConnection):
            example = f"{{{name}.url.path}}?{{{name}.url.query}}"
            return (
                f"pass key= with all that the answer depends on, such as {example}; or {_DECORATOR}"
            )
        if not self._is_default:
            return (
                f"write in key= an attribute that tells the answers apart, {{{name}.ATTRIBUTE}}, "
                f"instead of {{{name}}}; or leave it out, if the answer does not depend on it"
            )
        if name == "self":
            return (
                "use @noself(cache)(ttl=...), by `from cashews import noself`, if the answer does "
                "not depend on the instance; or pass key="
            )
        return f"pass key= with all that the answer depends on; or {_DECORATOR}"


class _Fields(Formatter):
    """Formats a template with cashews' own formatter, field by field."""

    def __init__(self) -> None:
        self.unusable: dict[str, tuple[object, str]] = {}
        self._name = ""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        self._name = field_name
        formatter: Any = default_formatter
        return formatter.get_field(field_name, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        text = default_formatter.format_field(value, format_spec)
        function, _ = default_formatter.parse_format_spec(format_spec)
        _, is_given_text = default_formatter._functions.get(function, (None, True))
        # A function such as `hash` hides an address in the text that it is given. One such as
        # `get` is given the value itself.
        why = _why_unusable(value) if is_given_text else _why_not_text(str(text))
        if why:
            self.unusable[self._name] = value, why
        return text


def _why_unusable(value: Any) -> str:
    """Return why the text that cashews makes of a value may be that of another one, too."""
    # The text of a container is that of its items, which cashews joins.
    if isinstance(value, dict):
        return next(filter(None, map(_why_unusable, (*value, *value.values()))), "")
    if isinstance(value, list | tuple | set):
        return next(filter(None, map(_why_unusable, value)), "")
    text = default_formatter.format_field(value, "")
    if type(value) in _PLAIN:
        return _why_not_text(text)
    if isinstance(value, HTTPConnection) and text == str(value):
        # A class of the application's own may show the path alone.
        return _NOTHING
    if isinstance(value, UploadFile) or _MASK in text:
        return _HIDDEN
    if _hides_fields(type(value)) and text == str(value):
        return _HIDDEN
    address = id(value)
    is_shown = holds_address(text) or str(address) in text or f"{address:x}" in text.lower()
    return _ADDRESS if is_shown else ""


def _find_hidden_fields(cls: type) -> bool:
    shown: Any = cls.__str__
    module = getattr(shown, "__module__", None) or ""
    if shown is not object.__str__ and not module.startswith("pydantic"):
        # It has a text of its own.
        return False
    return not all(fields_of(cls).values())


#: Whether the text of a dataclass, a model or a class of attrs leaves out fields.
_hides_fields: Callable[[type], bool] = functools.lru_cache(maxsize=1024)(_find_hidden_fields)


def _why_not_text(text: str) -> str:
    return _ADDRESS if shows_object(text) else ""
